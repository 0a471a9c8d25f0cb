//! Instances and links as the text of a manifest.

use std::fmt::Write as _;

use super::expand::escape;
use super::{execution, log};
use crate::control::{
    Check, Condition, Desired, Kind, Limits, LinkSpec, OnFailure, Overlap, Policy, Probe, Program,
    Readiness, Restart, RestartPolicy, Schedule, Stop, Supervision, TargetSpec, Transport, Wanted,
    WantedSet,
};
use crate::{Millis, OsBytes};

/// Something that a manifest can't say: it is not UTF-8.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} of instance {instance} is not UTF-8, and a manifest is text")]
pub struct NotText {
    /// Whose.
    pub instance: String,
    /// What, as in `an argument`.
    pub what: &'static str,
}

/// The text of a manifest that means these.
///
/// # Errors
///
/// When something of them can't be written as text.
pub fn write(set: &WantedSet) -> Result<String, NotText> {
    let mut out = format!("version = {}\n", super::VERSION);
    for wanted in &set.instances {
        check(wanted)?;
        let _ = writeln!(out, "\n[instance.{}]", key(&wanted.label()));
        let entries = entries(wanted);
        let restarts = entries.iter().filter(|(key, _)| key.starts_with("restart.")).count();
        for (key, value) in &entries {
            let key = if restarts == 1 && key == "restart.policy" { "restart" } else { key };
            let _ = writeln!(out, "{key} = {value}");
        }
    }
    for link in &set.links {
        out.push_str("\n[[link]]\n");
        for (key, value) in link_ends(link).into_iter().chain(link_entries(link)) {
            let _ = writeln!(out, "{key} = {value}");
        }
    }
    Ok(out)
}

fn check(wanted: &Wanted) -> Result<(), NotText> {
    let spec = &wanted.spec;
    let is_text = |bytes: &OsBytes| std::str::from_utf8(&bytes.0).is_ok();
    let what = if matches!(&spec.program, Program::Path(path) if !is_text(path)) {
        "the path of the program"
    } else if !spec.args.iter().all(is_text) {
        "an argument"
    } else if !spec.env.iter().all(|(key, value)| is_text(key) && is_text(value)) {
        "a variable"
    } else if !spec.cwd.iter().all(is_text) {
        "the working directory"
    } else {
        return Ok(());
    };
    Err(NotText { instance: wanted.label(), what })
}

/// What a manifest says of an instance, key by key; what is as it is by default is left out. What
/// is not UTF-8 is shown as U+FFFD.
#[must_use]
pub fn entries(wanted: &Wanted) -> Vec<(String, String)> {
    let spec = &wanted.spec;
    let mut all = Entries(Vec::new());
    if let Program::Path(path) = &spec.program {
        all.add("program", text(&path.to_string()));
    }
    if let Some(replicas) = spec.replicas {
        all.add("replicas", replicas.to_string());
    }
    if !spec.args.is_empty() {
        all.add("args", list(spec.args.iter().map(|arg| text(&arg.to_string()))));
    }
    for (name, value) in &spec.env {
        let name = format!("env.{}", key(&name.to_string()));
        // The last one counts, as in a shell.
        all.0.retain(|(known, _)| *known != name);
        all.add(&name, text(&value.to_string()));
    }
    if let Some(cwd) = spec.cwd.as_ref().filter(|cwd| cwd.0 != b"/") {
        all.add("cwd", text(&cwd.to_string()));
    }
    all.add_if(spec.privileged, "privileged", "true".to_owned());
    if let Some(priority) = wanted.priority {
        all.add("priority", text(&priority.to_string()));
    }
    all.add_if(wanted.desired == Desired::Stopped, "state", text("stopped"));
    supervision(&mut all, &spec.supervision);
    execution::entries(&mut all, &spec.execution);
    limits(&mut all, &spec.limits);
    log::entries(&mut all, &spec.log);
    let listen = spec.listen.iter().map(|it| text(&it.to_string()));
    all.add_if(!spec.listen.is_empty(), "listen", list(listen));
    all.0
}

/// What a manifest says of a link besides its ends and its type, likewise.
#[must_use]
pub fn link_entries(link: &LinkSpec) -> Vec<(String, String)> {
    let mut all = Entries(Vec::new());
    let policy = link.policy.unwrap_or_default();
    all.add_if(policy != Policy::default(), "policy", text(&policy.to_string()));
    let capacity = link.capacity.unwrap_or(LinkSpec::DEFAULT_CAPACITY);
    // The newest is one.
    let counts = policy != Policy::Latest && capacity != LinkSpec::DEFAULT_CAPACITY;
    all.add_if(counts, "capacity", capacity.to_string());
    let block_timeout = link.block_timeout.unwrap_or_default();
    let holds = policy == Policy::Block && block_timeout > Millis::ZERO;
    all.add_if(holds, "block-timeout", text(&block_timeout.to_string()));
    let history = link.history.unwrap_or_default();
    all.add_if(history > 0, "history", history.to_string());
    let transport = link.transport.unwrap_or_default();
    all.add_if(transport != Transport::default(), "transport", text(&transport.to_string()));
    let spin_us = link.spin_us.unwrap_or_default();
    all.add_if(transport == Transport::Shm && spin_us > 0, "spin-us", spin_us.to_string());
    all.0
}

fn link_ends(link: &LinkSpec) -> Vec<(String, String)> {
    let mut all = Entries(Vec::new());
    if let Some(from) = &link.from {
        all.add("from", text(&from.0));
    }
    all.add("type", text(&link.type_name));
    all.add(
        "to",
        match &link.to {
            TargetSpec::Instance(to) => text(&to.0),
            TargetSpec::Udp(address) => text(&format!("udp:{address}")),
        },
    );
    all.0
}

pub(super) struct Entries(Vec<(String, String)>);

impl Entries {
    pub(super) fn add(&mut self, key: &str, value: String) {
        self.0.push((key.to_owned(), value));
    }

    pub(super) fn add_if(&mut self, differs: bool, key: &str, value: String) {
        if differs {
            self.add(key, value);
        }
    }

    pub(super) fn time(&mut self, key: &str, value: Millis, default: Millis) {
        self.add_if(value != default, key, time(value));
    }

    fn number(&mut self, key: &str, value: u32, default: u32) {
        self.add_if(value != default, key, value.to_string());
    }
}

fn supervision(all: &mut Entries, rules: &Supervision) {
    match &rules.kind {
        Kind::Service => {}
        Kind::Task => all.add("kind", text("task")),
        Kind::Schedule(schedule) => self::schedule(all, schedule),
    }
    all.time("run-timeout", rules.run_timeout, Millis::ZERO);
    restart(all, &rules.restart);
    match &rules.readiness {
        Readiness::Running => {}
        Readiness::Notify => all.add("readiness", text("notify")),
        Readiness::Runtime => all.add("readiness", text("runtime")),
        Readiness::Probe(probe) => all.add("readiness", self::probe(probe)),
    }
    all.time("start-timeout", rules.start_timeout, Millis::ZERO);
    if let Some(probe) = &rules.liveness {
        all.add("liveness", self::probe(probe));
    }
    all.time("watchdog", rules.watchdog, Millis::ZERO);
    if !rules.requires.is_empty() {
        let requires = rules.requires.iter().map(|it| {
            let effect = match it.on_failure {
                OnFailure::Stop => Some("stop"),
                OnFailure::Restart => None,
                OnFailure::Ignore => Some("ignore"),
            };
            need(&it.instance, it.condition, effect)
        });
        all.add("requires", list(requires));
    }
    if !rules.after.is_empty() {
        let after = rules.after.iter().map(|it| need(&it.instance, it.condition, None));
        all.add("after", list(after));
    }
    let default = Stop::default();
    if rules.stop.steps != default.steps {
        all.add("stop", list(rules.stop.steps.iter().map(|step| text(&step.to_string()))));
    }
    if !rules.stop.command.is_empty() {
        all.add("stop-command", texts(&rules.stop.command));
    }
}

fn schedule(all: &mut Entries, schedule: &Schedule) {
    all.add("kind", text("schedule"));
    all.add("schedule", text(&schedule.expression));
    if let Some(zone) = &schedule.time_zone {
        all.add("time-zone", text(zone));
    }
    all.add_if(
        schedule.overlap != Overlap::default(),
        "overlap",
        text(&schedule.overlap.to_string()),
    );
    all.add_if(schedule.catch_up, "catch-up", "true".to_owned());
}

fn limits(all: &mut Entries, limits: &Limits) {
    let sizes = [
        ("memory-max", limits.memory_max),
        ("memory-high", limits.memory_high),
        ("swap-max", limits.swap_max),
    ];
    for (key, size) in sizes {
        if let Some(size) = size {
            all.add(key, text(&size.to_string()));
        }
    }
    if let Some(cpu) = limits.cpu {
        all.add("cpu", text(&cpu.to_string()));
    }
    let counts = [
        ("cpu-weight", limits.cpu_weight),
        ("pids-max", limits.pids_max),
        ("io-weight", limits.io_weight),
    ];
    for (key, count) in counts {
        if let Some(count) = count {
            all.add(key, count.to_string());
        }
    }
    all.add_if(limits.limits_required, "limits-required", "true".to_owned());
}

fn restart(all: &mut Entries, restart: &Restart) {
    let default = Restart::default();
    match restart.policy {
        RestartPolicy::Never => {}
        RestartPolicy::OnFailure => all.add("restart.policy", text("on-failure")),
        RestartPolicy::Always => all.add("restart.policy", text("always")),
    }
    all.time("restart.delay", restart.delay, default.delay);
    all.number("restart.factor", restart.factor, default.factor);
    all.time("restart.max-delay", restart.max_delay, default.max_delay);
    all.number("restart.jitter", restart.jitter, default.jitter);
    all.time("restart.reset-after", restart.reset_after, default.reset_after);
    all.number("restart.burst", restart.burst, default.burst);
    all.time("restart.burst-within", restart.burst_within, default.burst_within);
    let codes = &restart.success_exit_codes;
    if *codes != default.success_exit_codes {
        all.add("success-exit-codes", list(codes.iter().map(ToString::to_string)));
    }
}

fn probe(probe: &Probe) -> String {
    let mut all = Entries(Vec::new());
    match &probe.check {
        Check::Exec(command) => all.add("exec", texts(command)),
        Check::Http(url) => all.add("http", text(url)),
        Check::Tcp(address) => all.add("tcp", text(address)),
        Check::Output(pattern) => all.add("output", text(pattern)),
    }
    let default = Probe::new(Check::Tcp(String::new()));
    all.time("interval", probe.interval, default.interval);
    all.time("timeout", probe.timeout, default.timeout);
    all.number("failures", probe.failures, default.failures);
    all.number("successes", probe.successes, default.successes);
    inline(&all)
}

fn need(instance: &str, condition: Condition, effect: Option<&str>) -> String {
    let word = match condition {
        Condition::Started => "started",
        Condition::Ready => "ready",
        Condition::Completed => "completed",
    };
    if instance.contains(':') {
        let mut all = Entries(vec![("instance".to_owned(), text(instance))]);
        all.add_if(condition != Condition::default(), "condition", text(word));
        if let Some(effect) = effect {
            all.add("on-failure", text(effect));
        }
        return inline(&all);
    }
    text(&match (condition, effect) {
        (Condition::Ready, None) => instance.to_owned(),
        (_, None) => format!("{instance}:{word}"),
        (_, Some(effect)) => format!("{instance}:{word}:{effect}"),
    })
}

fn inline(all: &Entries) -> String {
    let all: Vec<_> = all.0.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", all.join(", "))
}

pub(super) fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

pub(super) fn texts(values: &[String]) -> String {
    list(values.iter().map(|value| text(value)))
}

fn time(time: Millis) -> String {
    format!("\"{time}\"")
}

/// A basic string, see <https://toml.io/en/v1.0.0#string>; dollars so that no variable is meant.
pub(super) fn text(text: &str) -> String {
    quoted(&escape(text))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A key: bare if it can be.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { quoted(name) }
}
