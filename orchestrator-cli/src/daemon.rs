//! `daemon status`, `daemon restart`, `daemon upgrade`

use std::path::Path;
use std::time::Duration;

use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::control::{
    DaemonStatus, ProcessStatus, Reply, Request, Status, SuccessorSpec,
};
use serde::Serialize;

use crate::cli::{DaemonCommand, Patience};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::{format, table};

/// How long the old daemon may take to let go, and the new one to begin: far more than both have
/// to.
const HANDOVER: Duration = Duration::from_secs(60);

/// `daemon …`
pub(crate) async fn run(
    client: &Client,
    out: &mut Output,
    command: DaemonCommand,
) -> Result<Exit, Failure> {
    match command {
        DaemonCommand::Status => status(client, out).await,
        DaemonCommand::Restart { all, patience } => {
            replace(client, out, ("restarted", SuccessorSpec::Same), all, patience).await
        }
        DaemonCommand::Upgrade { binary, keep_holder, patience } => {
            let successor = match binary {
                None => SuccessorSpec::Installed,
                Some(path) => SuccessorSpec::Binary(absolute(&path)?.as_os_str().into()),
            };
            replace(client, out, ("upgraded", successor), !keep_holder, patience).await
        }
    }
}

/// As the daemon, which is somewhere else, needs it.
fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    let failed = |error| Failure::io(format!("can't make {path:?} absolute"), &error);
    std::path::absolute(path).map_err(failed)
}

async fn status(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let Reply::Daemon(status) = client.request(Request::DaemonStatus).await? else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&status)?;
    } else {
        out.line(&table::facts(&facts(&status, format::now_ms())))?;
    }
    Ok(Exit::Ok)
}

fn facts(status: &DaemonStatus, now_ms: u64) -> Vec<(&'static str, String)> {
    let process = |it: &ProcessStatus| {
        format!(
            "process {}, version {}, since {}, {:.1} MB, {}",
            it.pid,
            version(it.version.as_deref()),
            format::time_and_ago(it.started_ms, now_ms),
            it.resident_bytes as f64 / 1e6,
            format::count(it.open_files, "file")
        )
    };
    let queues = &status.queues;
    let capture = status.capture.as_ref().map_or_else(|| "being started".to_owned(), process);
    vec![
        ("holder", process(&status.holder)),
        ("daemon", process(&status.daemon)),
        ("capture", capture),
        (
            "clients",
            format!("{}, {} under way", queues.clients, format::count(queues.requests, "request")),
        ),
        ("connections", format!("{} of instances", queues.connections)),
        ("links", format!("{} waiting", format::count(queues.link_messages, "message"))),
        (
            "store",
            format!(
                "{} and {} waiting",
                format::count(queues.store_changes, "change"),
                format::count(queues.store_events, "event")
            ),
        ),
        ("logs", format!("{} waiting for capture", format::count(queues.logs_waiting, "log"))),
    ]
}

/// What is printed as JSON of a daemon that was replaced.
#[derive(Serialize)]
struct Replaced {
    replaced: Change,
}

#[derive(Serialize)]
struct Change {
    from: Process,
    to: Process,
    /// Those that run.
    instances: u64,
    /// None if its program is the one that it was.
    holder: Option<Holder>,
    /// None if it is the process that it was.
    capture: Option<Capture>,
}

#[derive(Serialize)]
struct Holder {
    pid: u32,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Serialize)]
struct Capture {
    from: MaybeProcess,
    to: MaybeProcess,
}

#[derive(Serialize)]
struct MaybeProcess {
    pid: Option<u32>,
    version: Option<String>,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    version: String,
}

async fn replace(
    client: &Client,
    out: &mut Output,
    (what, successor): (&str, SuccessorSpec),
    others_too: bool,
    Patience { timeout }: Patience,
) -> Result<Exit, Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    let before = client.server_version();
    let request = Request::DaemonReplace { successor, timeout_ms };
    let Reply::Replacing { pid, .. } = client.request(request).await? else {
        return Err(Failure::unexpected_reply());
    };
    let waited = tokio::time::timeout(HANDOVER, other_than(client, pid)).await;
    let after = match waited {
        Ok(status) => status?,
        Err(_) => return Err(Failure::no_successor(HANDOVER)),
    };
    let (mut holder, mut capture) = (None, None);
    let mut failure = None;
    if others_too
        && let Err(why) = renew_others(client, timeout_ms, &mut holder, &mut capture).await
    {
        failure = Some(why);
    }
    let change = Change {
        from: Process { pid, version: before },
        to: Process { pid: after.pid, version: after.version },
        instances: after.running,
        holder,
        capture,
    };
    if out.is_json() {
        out.json(&Replaced { replaced: change })?;
    } else {
        let Change { from, to, instances, holder, capture } = change;
        out.line(&format!(
            "daemon {what}: process {} -> {}, version {} -> {}, instances kept: {instances}",
            from.pid,
            to.pid,
            format::line(&from.version),
            format::line(&to.version),
        ))?;
        if let Some(Holder { pid, from, to }) = holder {
            let (from, to) = (version(from.as_deref()), version(to.as_deref()));
            out.line(&format!("holder {what}: still process {pid}, version {from} -> {to}"))?;
        }
        if let Some(Capture { from, to }) = capture {
            out.line(&format!(
                "capture {what}: process {} -> {}, version {} -> {}",
                number(from.pid),
                number(to.pid),
                version(from.version.as_deref()),
                version(to.version.as_deref())
            ))?;
        }
        for warning in &after.warnings {
            out.warning(warning);
        }
    }
    failure.map_or(Ok(Exit::Ok), Err)
}

fn version(version: Option<&str>) -> String {
    version.map_or_else(|| "unknown".to_owned(), |version| format::line(version).into_owned())
}

fn number(pid: Option<u32>) -> String {
    pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string())
}

/// Replaces what the daemon's replacement leaves as it is, and says what was.
async fn renew_others(
    client: &Client,
    timeout_ms: u64,
    holder: &mut Option<Holder>,
    capture: &mut Option<Capture>,
) -> Result<(), Failure> {
    match client.request(Request::HolderRenew { timeout_ms }).await? {
        Reply::HolderRenewed { pid, from, to } => *holder = Some(Holder { pid, from, to }),
        _ => return Err(Failure::unexpected_reply()),
    }
    match client.request(Request::CaptureRenew { timeout_ms }).await? {
        Reply::CaptureRenewed { before, pid, from, to } => {
            let from = MaybeProcess { pid: before, version: from };
            *capture = Some(Capture { from, to: MaybeProcess { pid, version: to } });
            Ok(())
        }
        _ => Err(Failure::unexpected_reply()),
    }
}

/// The status of the first daemon that is another process.
async fn other_than(client: &Client, pid: u32) -> Result<Status, Failure> {
    loop {
        match client.request(Request::Status).await {
            Ok(Reply::Status(status)) if status.pid != pid => return Ok(*status),
            // It has not let go yet.
            Ok(Reply::Status(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(_) => return Err(Failure::unexpected_reply()),
            // It has ended in another way than it meant to; the next one will come.
            Err(ClientError::Lost(_) | ClientError::NotReachable { .. }) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_its_line() {
        let process = |pid, version: Option<&str>| ProcessStatus {
            pid,
            version: version.map(Into::into),
            started_ms: 0,
            resident_bytes: 5_800_000,
            open_files: 1,
        };
        let status = DaemonStatus {
            holder: process(1, Some("0.1.0")),
            daemon: process(2, Some("0.2.0")),
            capture: None,
            queues: orchestrator_proto::control::Queues { clients: 3, ..Default::default() },
        };
        let facts = facts(&status, 60_000);
        let of = |name| &facts.iter().find(|fact| fact.0 == name).unwrap().1;
        assert!(of("holder").starts_with("process 1, version 0.1.0, since 1970-01-01T00:00:00"));
        assert!(of("daemon").ends_with("5.8 MB, 1 file"));
        assert_eq!(of("capture"), "being started");
        assert_eq!(of("clients"), "3, 0 requests under way");
    }
}
