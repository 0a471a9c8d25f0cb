//! Requests that do something: sent all at once, told in the order in which they were given.

use std::sync::Arc;

use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::control::{Outcome, Reply, Request};
use tokio::sync::Semaphore;

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::{format, replicas};

/// Requests under way at once. A daemon has a bound on them for each connection.
const AT_ONCE: usize = 16;

/// Sends all of these and tells how each went. One that fails does not keep others from being
/// tried; the exit code is that of the first that failed.
pub(crate) async fn all(
    client: Client,
    out: &mut Output,
    requests: Vec<Request>,
) -> Result<Exit, Failure> {
    let client = Arc::new(client);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let restart = matches!(request, Request::RuntimeRestart { .. });
            let (client, permits) = (Arc::clone(&client), Arc::clone(&permits));
            let task = tokio::spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                client.request(request).await
            });
            (task, restart)
        })
        .collect();
    let mut exit = Exit::Ok;
    for (task, restart) in tasks {
        let result = match task.await {
            Ok(result) => result,
            Err(error) => Err(ClientError::Protocol(error.to_string())),
        };
        match result.map_err(Failure::from).and_then(|reply| tell(out, &reply, restart)) {
            Ok(end) if exit == Exit::Ok => exit = end,
            Ok(_) => {}
            Err(Failure::Report(report)) => {
                out.report(&report);
                if exit == Exit::Ok {
                    exit = report.exit;
                }
            }
            // The others are done all the same.
            Err(Failure::OutputClosed) => {}
        }
        // Each result is seen when it is there, even when a later one takes long.
        if let Err(failure @ Failure::Report(_)) = out.flush() {
            return Err(failure);
        }
    }
    Ok(exit)
}

/// `clear`
pub(crate) async fn clear(client: Client, out: &mut Output, force: bool) -> Result<Exit, Failure> {
    all(client, out, vec![Request::Clear { force }]).await
}

/// Prints the reply to a request that did something. The answer is how the program ends: what
/// failed for one replica of a set is told here.
pub(crate) fn tell(out: &mut Output, reply: &Reply, restart: bool) -> Result<Exit, Failure> {
    match reply {
        Reply::Each { outcomes, .. } if out.is_json() => {
            out.json(reply)?;
            let failed = outcomes.iter().any(|it| matches!(it.outcome, Outcome::Failed(_)));
            return Ok(if failed { Exit::Failed } else { Exit::Ok });
        }
        Reply::Each { set, outcomes } => return replicas::each(out, set, outcomes, restart),
        Reply::Scaled(scaled) if !out.is_json() => {
            for line in replicas::scaled(scaled) {
                out.line(&line)?;
            }
            for warning in &scaled.warnings {
                out.warning(warning);
            }
            return Ok(Exit::Ok);
        }
        _ => {}
    }
    let Some((sentence, warnings)) = describe(reply, restart) else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(reply)?;
        return Ok(Exit::Ok);
    }
    out.line(&sentence)?;
    for warning in warnings {
        out.warning(warning);
    }
    Ok(Exit::Ok)
}

/// A program was started.
pub(crate) fn started(who: &str, changed: bool, restart: bool) -> String {
    match (changed, restart) {
        (_, true) => format!("restarted instance {who}"),
        (true, false) => format!("started instance {who}"),
        (false, false) => format!("instance {who} was already running"),
    }
}

/// A schedule was started.
pub(crate) fn scheduled(who: &str, changed: bool) -> String {
    match changed {
        true => format!("started the schedule of instance {who}"),
        false => format!("the schedule of instance {who} was already started"),
    }
}

/// A run of a schedule comes after the one that is under way.
pub(crate) fn queued(who: &str) -> String {
    format!("instance {who} is run when the run before it is over")
}

/// A program was stopped.
pub(crate) fn stopped(who: &str, changed: bool) -> String {
    match changed {
        true => format!("stopped instance {who}"),
        false => format!("instance {who} was not running"),
    }
}

/// The reply as a sentence, and its warnings. None for a reply that only reports.
fn describe(reply: &Reply, restart: bool) -> Option<(String, &[String])> {
    let sentence = match reply {
        Reply::Added { id, warnings } => return Some((format!("added instance {id}"), warnings)),
        Reply::Started { id, changed, warnings, .. } => {
            return Some((started(&id.to_string(), *changed, restart), warnings));
        }
        Reply::Scheduled { id, changed, .. } => scheduled(&id.to_string(), *changed),
        Reply::Queued { id } => queued(&id.to_string()),
        Reply::Stopped { id, changed } => stopped(&id.to_string(), *changed),
        Reply::SetRemoved { set, instances, links } => {
            let replicas = format::count(instances.len() as u64, "replica");
            let links = match links.len() {
                0 => String::new(),
                count => format!(" and {}", format::count(count as u64, "link")),
            };
            format!("removed set {set} with {replicas}{links}")
        }
        Reply::Scaled(scaled) => return Some((scaled.set.clone(), &scaled.warnings)),
        Reply::Removed { id, links } if links.is_empty() => format!("removed instance {id}"),
        Reply::Removed { id, links } => {
            let s = if links.len() == 1 { "" } else { "s" };
            let links: Vec<_> = links.iter().map(ToString::to_string).collect();
            format!("removed instance {id} with link{s} {}", links.join(", "))
        }
        Reply::LinkAdded { id, created: true } => format!("added link {id}"),
        Reply::LinkAdded { id, created: false } => format!("link {id} was there already"),
        Reply::LinkSet { id, changed: false, .. } => format!("link {id} was like that already"),
        Reply::LinkSet { id, changed: true, dropped: 0 } => format!("changed link {id}"),
        Reply::LinkSet { id, changed: true, dropped } => {
            let dropped = format::count(*dropped, "waiting message");
            format!("changed link {id} and dropped {dropped}, for which there is no room now")
        }
        Reply::LinkSent(sent) => {
            let size = format::count(sent.size, "byte");
            format!("sent {} ({size}) to instance {}", format::line(&sent.type_name), sent.id)
        }
        Reply::LinkRemoved { id, discarded: 0 } => format!("removed link {id}"),
        Reply::LinkRemoved { id, discarded } => {
            let dropped = format::count(*discarded, "waiting message");
            format!("removed link {id} and dropped {dropped}")
        }
        Reply::Cleared { runtimes, links } => {
            let runtimes = format::count(*runtimes, "instance");
            format!("removed {runtimes} and {}", format::count(*links, "link"))
        }
        Reply::Status(_)
        | Reply::Runtimes(_)
        | Reply::Runtime(_)
        | Reply::Links(_)
        | Reply::Daemon(_)
        | Reply::Replacing { .. }
        | Reply::HolderRenewed { .. }
        | Reply::CaptureRenewed { .. }
        | Reply::Plan(_)
        | Reply::Exported(_)
        | Reply::Vitals(_)
        | Reply::Findings(_)
        | Reply::ReplicaSets(_)
        | Reply::ReplicaSet(_)
        | Reply::LinkCalled(_)
        | Reply::Types(_)
        | Reply::Type(_)
        | Reply::Each { .. } => return None,
    };
    Some((sentence, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::{InstanceId, LinkId};

    #[test]
    fn sentences() {
        let id = InstanceId::from_bytes([0; 16]);
        let zero = "00000000-0000-0000-0000-000000000000";
        let started = |changed| Reply::Started { id, pid: 1, changed, warnings: Vec::new() };
        let removed = |links: &[u64]| Reply::Removed {
            id,
            links: links.iter().map(|link| LinkId(*link)).collect(),
        };
        let link = |discarded| Reply::LinkRemoved { id: LinkId(3), discarded };
        let set = |changed, dropped| Reply::LinkSet { id: LinkId(3), changed, dropped };
        let cases = [
            (set(false, 0), "link 3 was like that already".into()),
            (set(true, 0), "changed link 3".into()),
            (
                set(true, 2),
                "changed link 3 and dropped 2 waiting messages, for which there is no room now"
                    .into(),
            ),
            (started(true), format!("started instance {zero}")),
            (started(false), format!("instance {zero} was already running")),
            (Reply::Stopped { id, changed: true }, format!("stopped instance {zero}")),
            (Reply::Stopped { id, changed: false }, format!("instance {zero} was not running")),
            (removed(&[]), format!("removed instance {zero}")),
            (removed(&[3]), format!("removed instance {zero} with link 3")),
            (removed(&[3, 4]), format!("removed instance {zero} with links 3, 4")),
            (link(0), "removed link 3".into()),
            (link(1), "removed link 3 and dropped 1 waiting message".into()),
            (Reply::Cleared { runtimes: 2, links: 1 }, "removed 2 instances and 1 link".into()),
        ];
        for (reply, sentence) in cases {
            assert_eq!(describe(&reply, false).unwrap().0, sentence);
        }
        let restarted = started(true);
        let sentence = describe(&restarted, true).unwrap().0;
        assert_eq!(sentence, format!("restarted instance {zero}"));
    }
}
