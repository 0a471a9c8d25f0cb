//! `runtime list`

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    Observed, ReplicaSetInfo, Reply, Request, RuntimeInfo, RuntimeVitals, Vitals,
};
use serde::Serialize;

use crate::cli::ListArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::table::{self, Column, Field, Ids, Tone};
use crate::{format, glob, replicas, schedule, status, watch};

/// The columns, and in which order they are left out where there is no room for all.
const COLUMNS: [Column; 11] = [
    Column::id("ID"),
    Column::kept("NAME"),
    Column::kept("STATE"),
    Column::dropped("PID", 5),
    Column::kept("UPTIME"),
    Column::dropped("RESTARTS", 6),
    Column::kept("CPU%"),
    Column::kept("MEMORY"),
    Column::dropped("HEALTH", 4),
    Column::dropped("EXIT", 2),
    Column::dropped("PROGRAM", 1),
];

/// `runtime list`
pub(crate) async fn list(
    client: &Client,
    out: &mut Output,
    args: ListArgs,
) -> Result<Exit, Failure> {
    match args.watch {
        None => {
            let all = wanted(client, &args).await?;
            print(client, out, &args, &all).await?;
        }
        Some(interval) => return watch::watch(client, out, &args, interval).await,
    }
    Ok(Exit::Ok)
}

/// Those that are asked for.
pub(crate) async fn wanted(
    client: &Client,
    args: &ListArgs,
) -> Result<Vec<RuntimeVitals>, Failure> {
    let request = Request::RuntimeVitals { instances: Vec::new() };
    let Reply::Vitals(mut all) = client.request(request).await? else {
        return Err(Failure::unexpected_reply());
    };
    all.retain(|it| is_wanted(&it.info, args));
    Ok(all)
}

fn is_wanted(info: &RuntimeInfo, args: &ListArgs) -> bool {
    let is_named = |pattern: &String| {
        info.name.as_deref().is_some_and(|name| glob::matches(pattern, name))
            || glob::matches(pattern, &info.id.to_string())
            || info.replica.as_ref().is_some_and(|it| glob::matches(pattern, &it.set))
    };
    let in_state = args.states.iter().any(|state| state.word() == info.observed.word());
    (args.patterns.is_empty() || args.patterns.iter().any(is_named))
        && (args.states.is_empty() || in_state)
}

/// As a set has no state, none is asked for in one.
fn is_set_wanted(set: &ReplicaSetInfo, args: &ListArgs) -> bool {
    args.states.is_empty()
        && (args.patterns.is_empty()
            || args.patterns.iter().any(|pattern| glob::matches(pattern, &set.name)))
}

/// An instance as JSON: the fields of [`RuntimeInfo`], and `vitals`.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    info: &'a RuntimeInfo,
    vitals: &'a Vitals,
}

#[derive(Serialize)]
struct Rows<'a> {
    runtimes: Vec<Row<'a>>,
}

/// All of them as one line of JSON, or easy to read on a terminal.
pub(crate) fn json(out: &mut Output, all: &[RuntimeVitals], line: bool) -> Result<(), Failure> {
    let runtimes = all.iter().map(|it| Row { info: &it.info, vitals: &it.vitals });
    let rows = Rows { runtimes: runtimes.collect() };
    if line { out.json_line(&rows) } else { out.json(&rows) }
}

async fn print(
    client: &Client,
    out: &mut Output,
    args: &ListArgs,
    all: &[RuntimeVitals],
) -> Result<(), Failure> {
    if out.is_json() {
        return json(out, all, false);
    }
    let mut sets = replicas::sets(client).await?;
    sets.retain(|set| is_set_wanted(set, args));
    let empty = replicas::empty(&sets);
    let is_filtered = !(args.patterns.is_empty() && args.states.is_empty());
    if all.is_empty() && !is_filtered {
        // Perhaps there were some.
        status::warn(client, out).await?;
    }
    if all.is_empty() && out.is_terminal() && empty.is_empty() {
        out.line(match is_filtered {
            true => "no instance is like that; `runtime list` shows all",
            false => "no instances; add one with `orchestrator-cli runtime add PATH`",
        })?;
        return Ok(());
    }
    let text = text(out, all, args.wide);
    out.line(&text)?;
    if !empty.is_empty() {
        out.line("")?;
    }
    empty.iter().try_for_each(|sentence| out.line(sentence))
}

/// The table, and a sentence for each that is worth one.
pub(crate) fn text(out: &Output, all: &[RuntimeVitals], wide: bool) -> String {
    let ids: Vec<_> = all.iter().map(|it| it.info.id).collect();
    let now = format::now_ms();
    let mut text = table::fitted(out, &COLUMNS, &ids, all, wide, |it, ids| row(it, ids, now));
    let sentences = all.iter().map(|it| &it.info);
    let sentences = sentences
        .flat_map(|info| [reason(info), says(info), schedule::sentence(info, now)])
        .flatten();
    for (number, sentence) in sentences.enumerate() {
        text.push_str(if number == 0 { "\n\n" } else { "\n" });
        text.push_str(&sentence);
    }
    text
}

fn row(it: &RuntimeVitals, ids: Ids, now_ms: u64) -> Vec<Field> {
    let RuntimeVitals { info, vitals } = it;
    let (since_ms, exit) = match &info.observed {
        Observed::Stopped { last_exit, at_ms } => (*at_ms, *last_exit),
        Observed::Waiting { since_ms, .. }
        | Observed::Starting { since_ms, .. }
        | Observed::Ready { since_ms, .. }
        | Observed::Unhealthy { since_ms, .. }
        | Observed::Stopping { since_ms, .. } => (Some(*since_ms), None),
        Observed::BackOff { last_exit, .. } => (None, *last_exit),
        Observed::Scheduled { .. } => schedule::ended(info),
        Observed::Completed { exit, at_ms } => (Some(*at_ms), Some(*exit)),
        Observed::Failed { exit, at_ms, .. } => (Some(*at_ms), *exit),
    };
    // Only what runs is up; of the others it is said how long ago that was.
    let uptime = since_ms.map_or_else(String::new, |at| match info.observed.pid() {
        Some(_) => format::ago(at, now_ms),
        None => format!("{} ago", format::ago(at, now_ms)),
    });
    let usage = vitals.usage;
    vec![
        ids.show(info.id).into(),
        info.name.as_deref().unwrap_or_default().into(),
        Field::toned(info.observed.word(), tone(&info.observed)),
        table::number(info.observed.pid()),
        uptime.into(),
        restarts(vitals),
        usage.map_or_else(String::new, |it| format::percent(it.cpu_percent_100)).into(),
        usage.map_or_else(String::new, |it| format::bytes(it.memory_bytes)).into(),
        health(vitals),
        exit.map_or_else(String::new, format::exit_word).into(),
        info.program.to_string().into(),
    ]
}

fn restarts(vitals: &Vitals) -> Field {
    let text = match vitals.restarts_on_end {
        0 => vitals.restarts.to_string(),
        on_end => format!("{} ({on_end} on end)", vitals.restarts),
    };
    Field::toned(text, if vitals.restarts_on_end > 0 { Tone::Busy } else { Tone::Plain })
}

fn health(vitals: &Vitals) -> Field {
    match &vitals.health {
        None => "".into(),
        Some(health) if health.problem.is_none() => Field::toned("well", Tone::Good),
        Some(_) => Field::toned("not well", Tone::Bad),
    }
}

/// How a state is coloured.
pub(crate) const fn tone(observed: &Observed) -> Tone {
    match observed {
        Observed::Ready { .. } => Tone::Good,
        Observed::Waiting { .. } | Observed::Starting { .. } | Observed::Stopping { .. } => {
            Tone::Busy
        }
        Observed::Scheduled { .. } => Tone::Plain,
        Observed::Unhealthy { .. } | Observed::BackOff { .. } | Observed::Failed { .. } => {
            Tone::Bad
        }
        Observed::Completed { .. } | Observed::Stopped { .. } => Tone::Faint,
    }
}

/// Why it is in a state that is worth a sentence.
fn reason(info: &RuntimeInfo) -> Option<String> {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    let why = why(&info.observed)?;
    Some(format!("{name} {why}"))
}

/// Why it is in its state, if that is worth a sentence, to stand behind its name.
pub(crate) fn why(observed: &Observed) -> Option<String> {
    Some(match observed {
        Observed::Waiting { on, .. } => format!("waits for {}", format::lines(on)),
        Observed::Unhealthy { reason, .. } => format!("is unhealthy: {}", format::lines(reason)),
        Observed::BackOff { reason, attempt, .. } => {
            format!("will be started again, attempt {attempt}: {}", format::lines(reason))
        }
        Observed::Failed { reason, .. } => format!("has failed: {}", format::lines(reason)),
        _ => return None,
    })
}

/// How it is in its own words, as long as that can be so.
fn says(info: &RuntimeInfo) -> Option<String> {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    let is_said = info.observed.is_active() && !info.status.is_empty();
    is_said.then(|| format!("{name} says: {}", format::lines(&info.status)))
}
