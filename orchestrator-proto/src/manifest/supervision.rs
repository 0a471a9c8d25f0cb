//! The keys that say how an instance is supervised.

use super::keys::{AFTER, LIVENESS, READINESS, REQUIREMENT, RESTART};
use super::read::{Table, Value};
use crate::Millis;
use crate::control::{
    After, Check, Condition, OnFailure, Probe, Readiness, Requirement, Restart, RestartPolicy,
    Signal, Stop, StopStep,
};

/// The longest of all times but the one to stop in: a year.
const MAX_TIME: Millis = Millis(365 * 86_400_000);

const POLICIES: [(&str, RestartPolicy); 3] = [
    ("never", RestartPolicy::Never),
    ("on-failure", RestartPolicy::OnFailure),
    ("always", RestartPolicy::Always),
];
const CONDITIONS: [(&str, Condition); 3] = [
    ("started", Condition::Started),
    ("ready", Condition::Ready),
    ("completed", Condition::Completed),
];
const EFFECTS: [(&str, OnFailure); 3] =
    [("stop", OnFailure::Stop), ("restart", OnFailure::Restart), ("ignore", OnFailure::Ignore)];

/// A time that is not longer than a year.
pub(super) fn time(value: Value<'_>) -> Option<Millis> {
    match value.time()? {
        time if time > MAX_TIME => value.wrong(format!("{time} is more than a year")),
        time => Some(time),
    }
}

/// What is said of `restart` and `success-exit-codes`.
#[derive(Clone, Debug, Default)]
pub(super) struct RestartLayer {
    policy: Option<RestartPolicy>,
    delay: Option<Millis>,
    factor: Option<u32>,
    max_delay: Option<Millis>,
    jitter: Option<u32>,
    reset_after: Option<Millis>,
    burst: Option<u32>,
    burst_within: Option<Millis>,
    success_exit_codes: Option<Vec<u8>>,
}

impl RestartLayer {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let codes = |value: Value<'_>| value.list("exit codes", |code| code.number(0, u8::MAX));
        let success_exit_codes = table.read("success-exit-codes", codes);
        let restart = table.read("restart", |value| {
            if value.is_text() {
                let policy = value.choice(&POLICIES)?;
                return Some(Self { policy: Some(policy), ..Self::default() });
            }
            let table = value.table(RESTART)?;
            Some(Self {
                policy: table.read("policy", |value| value.choice(&POLICIES)),
                delay: table.read("delay", time),
                factor: table.read("factor", |value| value.number(1, 100)),
                max_delay: table.read("max-delay", time),
                jitter: table.read("jitter", |value| value.number(0, 100)),
                reset_after: table.read("reset-after", time),
                burst: table.read("burst", |value| value.number(0, Restart::MAX_BURST)),
                burst_within: table.read("burst-within", time),
                success_exit_codes: None,
            })
        });
        Self { success_exit_codes, ..restart.unwrap_or_default() }
    }

    pub(super) fn over(self, below: &Self) -> Self {
        Self {
            policy: self.policy.or(below.policy),
            delay: self.delay.or(below.delay),
            factor: self.factor.or(below.factor),
            max_delay: self.max_delay.or(below.max_delay),
            jitter: self.jitter.or(below.jitter),
            reset_after: self.reset_after.or(below.reset_after),
            burst: self.burst.or(below.burst),
            burst_within: self.burst_within.or(below.burst_within),
            success_exit_codes: self
                .success_exit_codes
                .or_else(|| below.success_exit_codes.clone()),
        }
    }

    pub(super) fn finish(self) -> Restart {
        let default = Restart::default();
        Restart {
            policy: self.policy.unwrap_or(default.policy),
            delay: self.delay.unwrap_or(default.delay),
            factor: self.factor.unwrap_or(default.factor),
            max_delay: self.max_delay.unwrap_or(default.max_delay),
            jitter: self.jitter.unwrap_or(default.jitter),
            reset_after: self.reset_after.unwrap_or(default.reset_after),
            burst: self.burst.unwrap_or(default.burst),
            burst_within: self.burst_within.unwrap_or(default.burst_within),
            success_exit_codes: self.success_exit_codes.unwrap_or(default.success_exit_codes),
        }
    }
}

/// What is said of `stop` and its like. The nearer of a whole sequence and of its first step wins.
#[derive(Clone, Debug, Default)]
pub(super) struct StopLayer {
    command: Option<Vec<String>>,
    steps: Steps,
}

#[derive(Clone, Debug)]
enum Steps {
    All(Vec<StopStep>),
    First { signal: Option<Signal>, wait: Option<Millis> },
}

impl Default for Steps {
    fn default() -> Self {
        Self::First { signal: None, wait: None }
    }
}

impl StopLayer {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let command = table.read("stop-command", |value| value.command());
        let signal = table.read("stop-signal", |value| value.signal());
        let wait = table.read("stop-timeout", |value| value.time());
        let all = table.read("stop", steps);
        if table.get("stop").is_some() {
            for other in ["stop-signal", "stop-timeout"] {
                if table.get(other).is_some() {
                    let message = format!("{other} is part of stop; write one or the other");
                    table.wrong(table.at(other), message);
                }
            }
        }
        let longest = match (&all, wait) {
            (Some(steps), _) => Some((steps.as_slice().iter().map(|it| it.wait.0), "stop"))
                .map(|(waits, key)| (waits.fold(0, u64::saturating_add), key)),
            (None, Some(wait)) => Some((wait.0, "stop-timeout")),
            (None, None) => None,
        };
        if let Some((longest, key)) = longest
            && Millis(longest) > Stop::MAX_TIME
        {
            table.wrong(table.at(key), "it may take a day at most to stop");
        }
        Self { command, steps: all.map_or(Steps::First { signal, wait }, Steps::All) }
    }

    pub(super) fn over(self, below: &Self) -> Self {
        let steps = match (self.steps, &below.steps) {
            (Steps::First { signal: None, wait: None }, below) => below.clone(),
            (Steps::First { signal, wait }, Steps::First { signal: other, wait: time }) => {
                Steps::First { signal: signal.or(*other), wait: wait.or(*time) }
            }
            (steps, _) => steps,
        };
        Self { command: self.command.or_else(|| below.command.clone()), steps }
    }

    pub(super) fn finish(self) -> Stop {
        let mut stop = Stop { command: self.command.unwrap_or_default(), ..Stop::default() };
        match self.steps {
            Steps::All(steps) => stop.steps = steps,
            Steps::First { signal, wait } => {
                if let Some(first) = stop.steps.first_mut() {
                    first.signal = signal.unwrap_or(first.signal);
                    first.wait = wait.unwrap_or(first.wait);
                }
            }
        }
        stop
    }
}

fn steps(value: Value<'_>) -> Option<Vec<StopStep>> {
    let steps = value.list("signals such as \"SIGINT 1s\"", |step| step.parsed::<StopStep>())?;
    if (1..=Stop::MAX_STEPS).contains(&steps.len()) {
        Some(steps)
    } else {
        let most = Stop::MAX_STEPS;
        value.wrong(format!("a stop has 1 to {most} signals before SIGKILL"))
    }
}

pub(super) fn readiness(value: Value<'_>) -> Option<Readiness> {
    if value.is_text() {
        let text = value.text()?;
        return Some(
            match value.choose(&text, &[("running", 0), ("notify", 1), ("runtime", 2)])? {
                0 => Readiness::Running,
                1 => Readiness::Notify,
                _ => Readiness::Runtime,
            },
        );
    }
    let table = value.table(READINESS)?;
    let output = table.read("output", |value| value.text().map(Check::Output));
    probe(&table, ["exec", "http", "tcp", "output"].as_slice(), output).map(Readiness::Probe)
}

pub(super) fn liveness(value: Value<'_>) -> Option<Probe> {
    let table = value.table(LIVENESS)?;
    probe(&table, ["exec", "http", "tcp"].as_slice(), None)
}

fn probe(table: &Table<'_>, checks: &[&str], output: Option<Check>) -> Option<Probe> {
    let exec = table.read("exec", |value| value.command().map(Check::Exec));
    let http = table.read("http", |value| value.text().map(Check::Http));
    let tcp = table.read("tcp", |value| value.text().map(Check::Tcp));
    let (interval, timeout) = (table.read("interval", time), table.read("timeout", time));
    let failures = table.read("failures", |value| value.number(1, u32::MAX));
    let successes = table.read("successes", |value| value.number(1, u32::MAX));
    for (key, time, least) in [("interval", interval, 10), ("timeout", timeout, 1)] {
        if time.is_some_and(|time| time.0 < least) {
            table.wrong(table.at(key), format!("{key} is at least {least}ms"));
        }
    }
    let mut written: Vec<_> = checks.iter().filter(|key| table.get(key).is_some()).collect();
    written.sort_by_key(|key| table.at(key));
    let all = checks.join(", ");
    match written.as_slice() {
        [_] => {}
        [] => table.wrong(table.at, format!("a check has one of {all}")),
        [_, second, ..] => {
            table.wrong(table.at(second), format!("a check has only one of {all}"));
        }
    }
    let probe = Probe::new(exec.or(http).or(tcp).or(output)?);
    Some(Probe {
        interval: interval.unwrap_or(probe.interval),
        timeout: timeout.unwrap_or(probe.timeout),
        failures: failures.unwrap_or(probe.failures),
        successes: successes.unwrap_or(probe.successes),
        ..probe
    })
}

pub(super) fn requires(value: Value<'_>) -> Option<Vec<Requirement>> {
    value.list("instances", |value| {
        if value.is_text() {
            let text = value.text()?;
            let mut parts = text.splitn(3, ':');
            let instance = parts.next().unwrap_or_default().to_owned();
            let condition = condition(value, parts.next())?;
            let on_failure = match parts.next() {
                None => OnFailure::default(),
                Some(effect) => value.choose(effect, &EFFECTS)?,
            };
            return named(value, instance).map(|instance| Requirement {
                instance,
                condition,
                on_failure,
            });
        }
        let table = value.table(REQUIREMENT)?;
        let condition = table.read("condition", |value| value.choice(&CONDITIONS));
        let on_failure = table.read("on-failure", |value| value.choice(&EFFECTS));
        let instance = instance(&table)?;
        let (condition, on_failure) =
            (condition.unwrap_or_default(), on_failure.unwrap_or_default());
        Some(Requirement { instance, condition, on_failure })
    })
}

pub(super) fn after(value: Value<'_>) -> Option<Vec<After>> {
    value.list("instances", |value| {
        if value.is_text() {
            let text = value.text()?;
            let mut parts = text.splitn(2, ':');
            let instance = parts.next().unwrap_or_default().to_owned();
            let condition = condition(value, parts.next())?;
            return named(value, instance).map(|instance| After { instance, condition });
        }
        let table = value.table(AFTER)?;
        let condition = table.read("condition", |value| value.choice(&CONDITIONS));
        Some(After { instance: instance(&table)?, condition: condition.unwrap_or_default() })
    })
}

fn instance(table: &Table<'_>) -> Option<String> {
    if table.get("instance").is_none() {
        table.wrong(table.at, "`instance` is missing: the one that is needed");
    }
    table.read("instance", |value| named(value, value.text()?))
}

fn named(value: Value<'_>, name: String) -> Option<String> {
    if name.is_empty() { value.wrong("the name of an instance is missing") } else { Some(name) }
}

fn condition(value: Value<'_>, text: Option<&str>) -> Option<Condition> {
    match text {
        None => Some(Condition::default()),
        Some(text) => value.choose(text, &CONDITIONS),
    }
}
