//! `events`

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Event, EventKind, Item, LinkRules, Request};
use orchestrator_proto::signal;

use crate::cli::EventsArgs;
use crate::cli::value::Begin;
use crate::failure::{Exit, Failure};
use crate::logs::Next;
use crate::output::Output;
use crate::{format, logs};

/// `events`
pub(crate) async fn events(
    client: &Client,
    out: &mut Output,
    args: EventsArgs,
) -> Result<Exit, Failure> {
    let (after, since_ms) = match args.since {
        None => (args.after, None),
        Some(Begin::Number(number)) => (Some(number.saturating_sub(1)), None),
        Some(Begin::Time(since)) => (None, Some(since.ns(format::now_ns()).div_ceil(1_000_000))),
    };
    let (mut after, mut since_ms) = (after, since_ms);
    let instance = args.instance.map(orchestrator_proto::control::Selector::from);
    'daemons: loop {
        let (follow, instance) = (args.follow, instance.clone());
        let request = Request::Events { follow, after, since_ms, instance };
        let mut items = client.stream(request).await?;
        loop {
            let item = match logs::next(&mut items, out).await? {
                Next::Item(item) => item,
                Next::End => break 'daemons,
                Next::Replaced => break,
            };
            if let Item::Event(event) = &item {
                // All that come later have higher numbers.
                (after, since_ms) = (Some(event.seq), None);
            }
            match item {
                item if out.is_json() => out.json_line(&item)?,
                Item::Event(event) => out.line(&sentence(&event))?,
                Item::Missed { count, reason } => logs::missed(out, count, &reason),
                Item::Log(_)
                | Item::Message(_)
                | Item::Source(_)
                | Item::Recorded(_)
                | Item::Replaying(_)
                | Item::Fed(_) => {
                    return Err(Failure::unexpected_reply());
                }
            }
        }
    }
    Ok(Exit::Ok)
}

/// `TIME NUMBER WHO WHAT`
fn sentence(event: &Event) -> String {
    let who = match (&event.name, event.instance) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "orchestrator".into(),
    };
    let text =
        format!("{} {} {who} {}", format::time_ms(event.time_ms), event.seq, what(&event.kind));
    format::line(&text).into_owned()
}

fn what(kind: &EventKind) -> String {
    match kind {
        EventKind::DaemonStarted => "accepts requests".into(),
        EventKind::DaemonStopping => "is shutting down".into(),
        EventKind::Added => "added".into(),
        EventKind::Removed { links: 0 } => "removed".into(),
        EventKind::Removed { links } => format!("removed with {}", format::count(*links, "link")),
        EventKind::Started { pid } => format!("started as process {pid}"),
        EventKind::Adopted { pid } => format!("goes on as process {pid}"),
        EventKind::StartFailed { error } => format!("could not be started: {error}"),
        EventKind::Stopping { signal } => {
            let name = signal::name(*signal).map_or_else(|| signal.to_string(), Into::into);
            format!("asked to stop with {name}")
        }
        EventKind::Killed => "did not stop in time and was killed".into(),
        EventKind::Exited { exit, requested } => {
            let requested = if *requested { ", as requested" } else { "" };
            format!("exited with {exit}{requested}")
        }
        EventKind::Stopped => "stopped".into(),
        EventKind::Waiting { on } => format!("waits for {on}"),
        EventKind::Ready => "ready".into(),
        EventKind::Unhealthy { reason } => format!("unhealthy: {reason}"),
        EventKind::BackOff { reason, delay_ms, attempt } => {
            let delay = format::span_ms(*delay_ms);
            format!("will be started again in {delay}, attempt {attempt}: {reason}")
        }
        EventKind::RunSkipped { due_ms, reason } => {
            format!("left out the run of {}: {reason}", format::time_ms(*due_ms))
        }
        EventKind::Failed { reason } => format!("failed: {reason}"),
        EventKind::Changed { keys } => format!("definition changed: {keys}"),
        EventKind::Scaled { from, to } => format!("scaled from {from} to {to}"),
        EventKind::SetRemoved => "removed with all replicas".into(),
        EventKind::SchemasForgotten { count } => {
            let schemas = format::count(*count, "schema");
            format!("forgot {schemas} that no instance declares, to have room for others")
        }
        EventKind::LinkAdded { link, description } => format!("link {link} added: {description}"),
        EventKind::LinkChanged {
            link,
            policy,
            capacity,
            block_timeout,
            history,
            transport,
            spin_us,
        } => {
            let (policy, capacity) = (*policy, *capacity);
            let (block_timeout, history) = (*block_timeout, *history);
            let (transport, spin_us) = (*transport, *spin_us);
            let rules = LinkRules { policy, capacity, block_timeout, history, transport, spin_us };
            format!("link {link} changed: {rules}")
        }
        EventKind::LinkRemoved { link } => format!("link {link} removed"),
        EventKind::LinkMismatched { link, error } => format!("link {link} mismatched: {error}"),
        EventKind::MessagesLost { link, count } => {
            let messages = format::count(*count, "message");
            format!("lost {messages} on link {link} when the daemon before this one ended")
        }
        EventKind::LinkDiverged { link, delivered, read } => {
            let delivered = format::count(*delivered, "message");
            format!(
                "says that it delivered {delivered} on link {link}, whose receiver says that it \
                 read {read}; one of them counts wrongly"
            )
        }
        EventKind::LaneCut { link, queued } => {
            let waiting = format::count(*queued, "message");
            format!(
                "did not leave its lane on link {link} within a second of being told to, and is \
                 cut off; {waiting} waited with it, as it said last"
            )
        }
        EventKind::Connected { dialect } => format!("connected ({dialect})"),
        EventKind::Disconnected { dialect, error: None } => format!("disconnected ({dialect})"),
        EventKind::Disconnected { dialect, error: Some(error) } => {
            format!("was disconnected ({dialect}): {error}")
        }
        EventKind::ConnectionKept { dialect } => format!(
            "goes on over its connection ({dialect}); what the daemon before had read and not \
             passed on is lost"
        ),
        EventKind::MessageCut { dialect } => format!(
            "lost a message ({dialect}): the daemon before ended when it had read the first part \
             of it"
        ),
        EventKind::StateSetAside { path, reason } => {
            format!("found a corrupt database ({reason}), moved it to {path} and began anew")
        }
        EventKind::DaemonReplaced { successor } => {
            format!("lets go; process {successor} takes over")
        }
        EventKind::EventsLost { count } => {
            let events = format::count(*count, "event");
            format!("could not store {events}, which came before this")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Exit as ProgramExit;

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            seq: 7,
            time_ms: 0,
            instance: None,
            name: Some("ping".into()),
            kind: EventKind::Exited { exit: ProgramExit::Code(3), requested: false },
        };
        let expected = "1970-01-01T00:00:00.000Z 7 ping exited with exit code 3";
        assert_eq!(sentence(&event), expected);
    }
}
