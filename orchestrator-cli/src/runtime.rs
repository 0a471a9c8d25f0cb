//! `runtime …`

use orchestrator_proto::OsBytes;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    Compression, ListenInfo, LogRules, LogStream, Observed, Reply, Request, RuntimeDetail,
    RuntimeInfo, Selector,
};

use crate::cli::RuntimeCommand;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Output;
use crate::table::{self, Field, Ids, Tone};
use crate::{action, add, logs, status, supervision, wait};

/// `runtime …`
pub(crate) async fn run(
    client: Client,
    out: &mut Output,
    command: RuntimeCommand,
) -> Result<Exit, Failure> {
    let requests = match command {
        RuntimeCommand::Add(args) => return add::add(&client, out, args).await,
        RuntimeCommand::List => return list(&client, out).await,
        RuntimeCommand::Show { instance } => return show(&client, out, instance).await,
        RuntimeCommand::Stdout(args) => {
            return logs::one_stream(&client, out, args, LogStream::Stdout).await;
        }
        RuntimeCommand::Stderr(args) => {
            return logs::one_stream(&client, out, args, LogStream::Stderr).await;
        }
        RuntimeCommand::Logs(args) => return logs::logs(&client, out, args).await,
        RuntimeCommand::Wait { instances, state, timeout } => {
            return wait::wait(&client, out, instances, state, timeout).await;
        }
        RuntimeCommand::Start { instances, priority } => {
            each(instances, |instance| Request::RuntimeStart { instance, priority })
        }
        RuntimeCommand::Stop { instances } => {
            each(instances, |instance| Request::RuntimeStop { instance })
        }
        RuntimeCommand::Restart { instances } => {
            each(instances, |instance| Request::RuntimeRestart { instance })
        }
        RuntimeCommand::Remove { instances, force } => {
            each(instances, |instance| Request::RuntimeRemove { instance, force })
        }
    };
    action::all(client, out, requests).await
}

fn each(instances: Vec<String>, request: impl Fn(Selector) -> Request) -> Vec<Request> {
    instances.into_iter().map(|name| request(name.into())).collect()
}

async fn list(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let reply = client.request(Request::RuntimeList).await?;
    let Reply::Runtimes(runtimes) = &reply else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&reply)?;
        return Ok(Exit::Ok);
    }
    if runtimes.is_empty() {
        // Perhaps there were some.
        status::warn(client, out).await?;
    }
    if runtimes.is_empty() && out.is_terminal() {
        out.line("no instances; add one with `orchestrator-cli runtime add PATH`")?;
        return Ok(Exit::Ok);
    }
    let ids: Vec<_> = runtimes.iter().map(|info| info.id).collect();
    let head = ["ID", "NAME", "STATE", "PID", "SINCE", "EXIT", "PROGRAM"];
    let now = format::now_ms();
    let text = table::render(out, &head, &ids, runtimes, |info, ids| row(info, ids, now));
    out.line(&text)?;
    let both = runtimes.iter().flat_map(|info| [reason(info), says(info)]);
    let mut reasons = both.flatten().peekable();
    if reasons.peek().is_some() {
        out.line("")?;
    }
    for reason in reasons {
        out.line(&reason)?;
    }
    Ok(Exit::Ok)
}

fn row(info: &RuntimeInfo, ids: Ids, now_ms: u64) -> Vec<Field> {
    let (since_ms, exit) = match &info.observed {
        Observed::Stopped { last_exit, at_ms } => (*at_ms, *last_exit),
        Observed::Waiting { since_ms, .. }
        | Observed::Starting { since_ms, .. }
        | Observed::Ready { since_ms, .. }
        | Observed::Unhealthy { since_ms, .. }
        | Observed::Stopping { since_ms, .. } => (Some(*since_ms), None),
        Observed::BackOff { last_exit, .. } => (None, *last_exit),
        Observed::Completed { exit, at_ms } => (Some(*at_ms), Some(*exit)),
        Observed::Failed { exit, at_ms, .. } => (Some(*at_ms), *exit),
    };
    vec![
        ids.show(info.id).into(),
        info.name.as_deref().unwrap_or_default().into(),
        Field::toned(info.observed.word(), tone(&info.observed)),
        table::number(info.observed.pid()),
        since_ms.map_or_else(String::new, |at| format::ago(at, now_ms)).into(),
        exit.map_or_else(String::new, format::exit_word).into(),
        info.program.to_string().into(),
    ]
}

const fn tone(observed: &Observed) -> Tone {
    match observed {
        Observed::Ready { .. } => Tone::Good,
        Observed::Waiting { .. } | Observed::Starting { .. } | Observed::Stopping { .. } => {
            Tone::Busy
        }
        Observed::Unhealthy { .. } | Observed::BackOff { .. } | Observed::Failed { .. } => {
            Tone::Bad
        }
        Observed::Completed { .. } | Observed::Stopped { .. } => Tone::Faint,
    }
}

/// Why it is in a state that is worth a sentence.
fn reason(info: &RuntimeInfo) -> Option<String> {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    let why = match &info.observed {
        Observed::Waiting { on, .. } => format!("waits for {}", format::lines(on)),
        Observed::Unhealthy { reason, .. } => format!("is unhealthy: {}", format::lines(reason)),
        Observed::BackOff { reason, attempt, .. } => {
            format!("will be started again, attempt {attempt}: {}", format::lines(reason))
        }
        Observed::Failed { reason, .. } => format!("has failed: {}", format::lines(reason)),
        _ => return None,
    };
    Some(format!("{name} {why}"))
}

/// How it is in its own words, as long as that can be so.
fn says(info: &RuntimeInfo) -> Option<String> {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    let is_said = info.observed.is_active() && !info.status.is_empty();
    is_said.then(|| format!("{name} says: {}", format::lines(&info.status)))
}

async fn show(client: &Client, out: &mut Output, instance: String) -> Result<Exit, Failure> {
    let instance = instance.into();
    let reply = client.request(Request::RuntimeShow { instance }).await?;
    let Reply::Runtime(detail) = &reply else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&reply)?;
    } else {
        out.line(&table::facts(&facts(detail, format::now_ms())))?;
    }
    Ok(Exit::Ok)
}

fn facts(detail: &RuntimeDetail, now_ms: u64) -> Vec<(&'static str, String)> {
    let info = &detail.info;
    let rules = &detail.supervision;
    let yes = |is: bool| if is { "yes".into() } else { String::new() };
    // A count is worth a line when it is not 0.
    let some = |count: u64| match count {
        0 => String::new(),
        count => count.to_string(),
    };
    let words = |words: &[OsBytes]| {
        let words: Vec<_> = words.iter().map(|word| format::shell_word(word.as_os_str())).collect();
        words.join(" ")
    };
    let env: Vec<_> = detail
        .env
        .iter()
        .map(|(name, value)| format!("{name}={}", format::shell_word(value.as_os_str())))
        .collect();
    let links: Vec<_> = detail.links.iter().map(ToString::to_string).collect();
    vec![
        ("id", info.id.to_string()),
        ("name", info.name.clone().unwrap_or_default()),
        ("state", state(&info.observed, now_ms)),
        ("status", info.status.clone()),
        (
            "wanted",
            if info.desired == orchestrator_proto::control::Desired::Running {
                "running".into()
            } else {
                "stopped".into()
            },
        ),
        ("program", info.program.to_string()),
        ("copied", yes(detail.copied)),
        ("arguments", words(&detail.args)),
        ("environment", env.join(" ")),
        ("directory", detail.cwd.to_string()),
        ("priority", info.priority.to_string()),
        ("privileged", yes(info.privileged)),
        ("listens", listens(&detail.listen)),
        ("kind", supervision::kind(rules)),
        ("restart", supervision::restart(rules)),
        ("readiness", supervision::readiness(rules)),
        ("liveness", supervision::liveness(rules)),
        ("requires", supervision::requires(rules)),
        ("after", supervision::after(rules)),
        ("stop", supervision::stop(rules)),
        ("added", format::time_and_ago(detail.added_ms, now_ms)),
        ("starts", info.starts.to_string()),
        ("connections", info.connections.to_string()),
        ("outputs", detail.outputs.join(", ")),
        ("inputs", detail.inputs.join(", ")),
        ("links", links.join(", ")),
        ("sent", format::count(detail.sent, "message")),
        ("unrouted", some(detail.unrouted)),
        ("protocol errors", some(detail.protocol_errors)),
        ("log rules", log_rules(&detail.log)),
        ("log blocked", detail.log_blocked.as_deref().map(log_blocked).unwrap_or_default()),
        ("log bytes lost", some(detail.log_bytes_lost)),
        ("log", detail.log_dir.to_string()),
    ]
}

/// Sockets that listen for it, and what is wrong with them.
fn listens(all: &[ListenInfo]) -> String {
    let one = |it: &ListenInfo| match &it.problem {
        None => it.listen.to_string(),
        Some(problem) => format!("{} (not open: {problem})", it.listen),
    };
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Those that are not as by default.
fn log_rules(rules: &LogRules) -> String {
    let mut words = Vec::new();
    words.extend(rules.max_size.map(|size| format!("files of {size}")));
    if rules.max_age.0 > 0 {
        words.push(format!("files of {}", rules.max_age));
    }
    words.extend(rules.keep.map(|keep| format!("{keep} kept")));
    if rules.compress != Compression::None {
        words.push(format!("{} compressed", rules.compress));
    }
    words.push(format!("{} when full", rules.when_full));
    words.join(", ")
}

fn log_blocked(why: &str) -> String {
    format!("what it prints can't be written, so it waits when its pipes are full: {why}")
}

pub(crate) fn state(observed: &Observed, now_ms: u64) -> String {
    let at = |ms| format::time_and_ago(ms, now_ms);
    match observed {
        Observed::Stopped { last_exit: Some(exit), at_ms: Some(ms) } => {
            format!("stopped with {exit}, {}", at(*ms))
        }
        Observed::Stopped { .. } => "stopped, never started".into(),
        Observed::Waiting { on, since_ms } => format!("waits for {on} since {}", at(*since_ms)),
        Observed::Starting { pid: None, .. } => "starting".into(),
        Observed::Starting { pid: Some(pid), since_ms } => {
            format!("starting as process {pid} since {}", at(*since_ms))
        }
        Observed::Ready { pid, since_ms } => {
            format!("ready, runs as process {pid} since {}", at(*since_ms))
        }
        Observed::Unhealthy { pid, since_ms, reason } => {
            format!("unhealthy, runs as process {pid} since {}: {reason}", at(*since_ms))
        }
        Observed::Stopping { since_ms, .. } => format!("stopping since {}", at(*since_ms)),
        Observed::BackOff { reason, until_ms, attempt, .. } => {
            let left = format::span_ms(until_ms.saturating_sub(now_ms));
            format!("{reason}; will be started again in {left}, attempt {attempt}")
        }
        Observed::Completed { exit, at_ms } => format!("completed with {exit}, {}", at(*at_ms)),
        Observed::Failed { reason, at_ms, .. } => format!("failed: {reason}, {}", at(*at_ms)),
    }
}
