//! `runtime …`

use orchestrator_proto::OsBytes;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    Compression, Health, ListenInfo, LogRules, LogStream, Observed, PastExit, Replica, Reply,
    Request, RuntimeDetail, Selector, Usage,
};

use crate::cli::RuntimeCommand;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Output;
use crate::replicas::{self, Shown};
use crate::{action, add, execution, list, logs, schedule, supervision, table, wait};

/// `runtime …`
pub(crate) async fn run(
    client: Client,
    out: &mut Output,
    command: RuntimeCommand,
) -> Result<Exit, Failure> {
    let requests = match command {
        RuntimeCommand::Add(args) => return add::add(&client, out, args).await,
        RuntimeCommand::Scale(args) => return replicas::scale(&client, out, args).await,
        RuntimeCommand::List(args) => return list::list(&client, out, args).await,
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
        RuntimeCommand::Run { instances } => {
            each(instances, |instance| Request::RuntimeRun { instance })
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

async fn show(client: &Client, out: &mut Output, instance: String) -> Result<Exit, Failure> {
    let mut detail = match replicas::show(client, instance.into()).await? {
        Shown::Instance(detail) => detail,
        Shown::Set(detail) => return replicas::print(out, detail),
    };
    // By its id: its name may be another's by now.
    let instances = vec![Selector(detail.info.id.to_string())];
    let Reply::Vitals(vitals) = client.request(Request::RuntimeVitals { instances }).await? else {
        return Err(Failure::unexpected_reply());
    };
    detail.vitals.usage = vitals.first().and_then(|it| it.vitals.usage);
    if out.is_json() {
        out.json(&Reply::Runtime(detail))?;
    } else {
        out.line(&table::facts(&facts(&detail, format::now_ms())))?;
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
    let mut all = vec![
        ("id", info.id.to_string()),
        ("name", info.name.clone().unwrap_or_default()),
        ("replica", info.replica.as_ref().map(replica).unwrap_or_default()),
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
        ("schedule", schedule::when(rules)),
        ("next run", schedule::next(info, now_ms)),
        ("last run", schedule::last(info, now_ms)),
        ("runs left out", info.schedule.as_ref().map_or_else(String::new, |it| some(it.skipped))),
        ("run timeout", supervision::run_timeout(rules)),
        ("restart", supervision::restart(rules)),
        ("readiness", supervision::readiness(rules)),
        ("liveness", supervision::liveness(rules)),
        ("requires", supervision::requires(rules)),
        ("after", supervision::after(rules)),
        ("stop", supervision::stop(rules)),
        ("added", format::time_and_ago(detail.added_ms, now_ms)),
        ("starts", info.starts.to_string()),
        ("restarts", restarts(detail)),
        ("health", detail.vitals.health.as_ref().map(|it| health(it, now_ms)).unwrap_or_default()),
        ("uses", detail.vitals.usage.map(uses).unwrap_or_default()),
        ("last exits", exits(&detail.exits, now_ms)),
        ("connections", info.connections.to_string()),
        ("outputs", detail.outputs.join(", ")),
        ("inputs", detail.inputs.join(", ")),
        ("links", links.join(", ")),
        ("sent", sent(detail)),
        ("unrouted", some(detail.unrouted)),
        ("protocol errors", some(detail.protocol_errors)),
        ("limits", detail.limits.to_string()),
        ("limits not in force", limits_unmet(detail)),
        ("log rules", log_rules(&detail.log)),
        ("log blocked", detail.log_blocked.as_deref().map(log_blocked).unwrap_or_default()),
        ("log bytes lost", some(detail.log_bytes_lost)),
        ("log", detail.log_dir.to_string()),
    ];
    // Beside what else is said of how it is executed.
    let at = all.iter().position(|(name, _)| *name == "privileged").unwrap_or(all.len());
    all.splice(at..at, execution::facts(&detail.execution));
    all
}

/// What went directly nobody but the instance has counted.
fn sent(detail: &RuntimeDetail) -> String {
    let sent = format::count(detail.sent, "message");
    match detail.reported {
        0 => sent,
        reported => format!("{sent}, {reported} of them directly, as it says"),
    }
}

fn replica(replica: &Replica) -> String {
    format!("{} of set {}", replica.index, replica.set)
}

fn limits_unmet(detail: &RuntimeDetail) -> String {
    let unmet = detail.limits_unmet.iter().map(|why| format::lines(why).to_string());
    unmet.collect::<Vec<_>>().join("; ")
}

/// How often it was started again by itself.
fn restarts(detail: &RuntimeDetail) -> String {
    match (detail.vitals.restarts, detail.vitals.restarts_on_end) {
        (0, _) => String::new(),
        (restarts, 0) => restarts.to_string(),
        (restarts, on_end) => format!("{restarts}, {on_end} of them on end"),
    }
}

fn health(health: &Health, now_ms: u64) -> String {
    let ago = format::ago(health.at_ms, now_ms);
    match &health.problem {
        None => format!("well, {ago} ago"),
        Some(problem) => format!("not well, {ago} ago: {problem}"),
    }
}

fn uses(usage: Usage) -> String {
    format!(
        "{} % of one CPU over {}, {} CPU time, {} of memory, {} process{}",
        format::percent(usage.cpu_percent_100),
        format::span_ms(usage.cpu_over_ms),
        format::span_ms(usage.cpu_ms),
        format::bytes(usage.memory_bytes),
        usage.processes,
        if usage.processes == 1 { "" } else { "es" }
    )
}

/// The newest first.
fn exits(exits: &[PastExit], now_ms: u64) -> String {
    let exit = |it: &PastExit| {
        let ran = it.ran_ms.map(|ms| format!(" after {}", format::run_ms(ms))).unwrap_or_default();
        let requested = if it.requested { ", as requested" } else { "" };
        format!("{}{ran}, {} ago{requested}", it.exit, format::ago(it.at_ms, now_ms))
    };
    let exits: Vec<_> = exits.iter().map(exit).collect();
    exits.join("; ")
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
        Observed::Scheduled { .. } => "scheduled".into(),
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
