//! `link …`

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    CallCounters, Counters, LinkInfo, LinkSpec, LinkState, Reply, Request, RulesSpec, TargetInfo,
    Transport, Way,
};
use orchestrator_proto::{InstanceId, Millis};

use crate::cli::{LinkCommand, LinkSet};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::table::{self, Field, Ids, Tone};
use crate::{action, format, record, replay, send, tap};

/// `link …`
pub(crate) async fn run(
    client: Client,
    out: &mut Output,
    command: LinkCommand,
) -> Result<Exit, Failure> {
    let requests = match command {
        LinkCommand::List => return list(&client, out).await,
        LinkCommand::Tap(args) => return tap::tap(&client, out, args).await,
        LinkCommand::Replay(args) => return replay::replay(&client, out, args).await,
        LinkCommand::Record(args) => return record::record(&client, out, args).await,
        LinkCommand::Send(args) => return send::send(&client, out, args).await,
        LinkCommand::Call(args) => return send::call(&client, out, args).await,
        LinkCommand::Add(args) => vec![Request::LinkAdd(LinkSpec {
            from: args.from.map(Into::into),
            type_name: args.type_name,
            to: args.to,
            policy: args.policy,
            capacity: args.capacity,
            block_timeout: args.block_timeout,
            history: args.history,
            transport: args.transport,
            spin_us: args.spin_us,
        })],
        LinkCommand::Set(LinkSet {
            links,
            policy,
            capacity,
            block_timeout,
            history,
            transport,
            spin_us,
        }) => {
            let rules = RulesSpec { policy, capacity, block_timeout, history, transport, spin_us };
            let request = |link| Request::LinkSet { link, rules };
            links.into_iter().map(request).collect()
        }
        LinkCommand::Remove { links } => {
            let request = |link| Request::LinkRemove { link };
            links.into_iter().map(request).collect()
        }
    };
    action::all(client, out, requests).await
}

async fn list(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let reply = client.request(Request::LinkList).await?;
    let Reply::Links(links) = &reply else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&reply)?;
        return Ok(Exit::Ok);
    }
    if links.is_empty() && out.is_terminal() {
        out.line("no links; add one with `orchestrator-cli link add`")?;
        return Ok(Exit::Ok);
    }
    let head = [
        "ID",
        "FROM",
        "TYPE",
        "TO",
        "POLICY",
        "TRANSPORT",
        "STATE",
        "SENT",
        "DELIVERED",
        "DROPPED",
        "QUEUED",
        "LAST",
    ];
    let ids: Vec<_> = links.iter().flat_map(ends).collect();
    let now = format::now_ms();
    let text = table::render(out, &head, &ids, links, |link, ids| row(link, ids, now));
    out.line(&text)?;
    let reasons = links.iter().flat_map(|link| mismatch(link).into_iter().chain(detour(link)));
    let reports = links.iter().any(|link| link.reported > 0).then(|| REPORTS.to_owned());
    let mut reasons = reasons.chain(reports).peekable();
    if reasons.peek().is_some() {
        out.line("")?;
    }
    for reason in reasons {
        out.line(&reason)?;
    }
    Ok(Exit::Ok)
}

/// Marks counters that are, as a whole or in part, what the ends of a link say.
const REPORTED: &str = "*";

/// What that mark means.
const REPORTS: &str =
    "* what went directly is counted as its two ends say; how much that is, says --json (reported)";

/// The instances of a link.
fn ends(link: &LinkInfo) -> impl Iterator<Item = InstanceId> + use<> {
    let to = match link.to {
        TargetInfo::Instance { id, .. } => Some(id),
        TargetInfo::Udp { .. } | TargetInfo::Set { .. } => None,
    };
    link.from.into_iter().chain(to)
}

fn row(link: &LinkInfo, ids: Ids, now_ms: u64) -> Vec<Field> {
    let from = match (&link.from_name, link.from) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => ids.show(id),
        (None, None) => "any".into(),
    };
    let to = match &link.to {
        TargetInfo::Instance { name: Some(name), .. } => name.clone(),
        TargetInfo::Instance { id, name: None } => ids.show(*id),
        TargetInfo::Udp { address } => format!("udp:{address}"),
        TargetInfo::Set { name } => name.clone(),
    };
    let state = match link.state {
        LinkState::Open => Field::toned("open", Tone::Good),
        LinkState::Mismatched { .. } => Field::toned("mismatched", Tone::Bad),
    };
    let way = if is_detour(link) { Tone::Busy } else { Tone::Plain };
    let way = Field::toned(link.way.to_string(), way);
    let counters = &link.counters;
    let [sent, delivered, dropped, queued] = passed(link);
    let tone = if dropped > 0 { Tone::Busy } else { Tone::Plain };
    let last = counters.last_ms.map_or_else(String::new, |at| format::ago(at, now_ms));
    vec![
        link.id.to_string().into(),
        from.into(),
        link.type_name.as_str().into(),
        to.into(),
        policy(link).into(),
        way,
        state,
        format!("{sent}{}", if link.reported > 0 { REPORTED } else { "" }).into(),
        delivered.to_string().into(),
        Field::toned(dropped.to_string(), tone),
        queued.to_string().into(),
        last.into(),
    ]
}

/// What was sent, delivered, dropped, and waits; of calls those that were made, with a reply, without
/// one, and in flight.
pub(crate) fn passed(link: &LinkInfo) -> [u64; 4] {
    match link.calls {
        Some(CallCounters { calls, replies, failed, in_flight }) => {
            [calls, replies, failed, in_flight]
        }
        None => {
            let Counters { sent, delivered, dropped, queued, .. } = link.counters;
            [sent, delivered, dropped, queued]
        }
    }
}

/// As in `block 500ms, history 10`. Calls have none of that.
fn policy(link: &LinkInfo) -> String {
    if link.calls.is_some() {
        return "calls".to_owned();
    }
    let mut text = link.policy.to_string();
    if link.block_timeout > Millis::ZERO {
        text += &format!(" {}", link.block_timeout);
    }
    if link.history > 0 {
        text += &format!(", history {}", link.history);
    }
    text
}

fn mismatch(link: &LinkInfo) -> Option<String> {
    match &link.state {
        LinkState::Open => None,
        LinkState::Mismatched { error } => {
            let error = error.to_string();
            Some(format!("link {} is mismatched: {}", link.id, format::lines(&error)))
        }
    }
}

/// Whether its messages are to go another way than they go.
fn is_detour(link: &LinkInfo) -> bool {
    match link.transport {
        Transport::Auto | Transport::Routed => false,
        Transport::Direct => link.way != Way::Direct,
        Transport::Shm => link.way != Way::Shm,
    }
}

/// Why messages do not go the way that they are to go.
fn detour(link: &LinkInfo) -> Option<String> {
    is_detour(link).then(|| {
        let why = link.why.as_deref().map(|why| format!(": {}", format::lines(why)));
        let (id, way, wanted) = (link.id, link.way, link.transport);
        format!("link {id} is {way}, not {wanted}{}", why.unwrap_or_default())
    })
}
