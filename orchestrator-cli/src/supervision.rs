//! How an instance is supervised, in words.

use orchestrator_proto::Millis;
use orchestrator_proto::control::{
    Check, Condition, OnFailure, Probe, Readiness, RestartPolicy, Supervision,
};

pub(crate) fn kind(rules: &Supervision) -> String {
    rules.kind.word().into()
}

pub(crate) fn run_timeout(rules: &Supervision) -> String {
    match rules.run_timeout {
        Millis::ZERO => String::new(),
        time => time.to_string(),
    }
}

pub(crate) fn restart(rules: &Supervision) -> String {
    let restart = &rules.restart;
    let when = match restart.policy {
        RestartPolicy::Never => return "never".into(),
        RestartPolicy::OnFailure => "on failure",
        RestartPolicy::Always => "always",
    };
    let burst = match restart.burst {
        0 => String::new(),
        burst => format!(", at most {burst} times within {}", restart.burst_within),
    };
    format!(
        "{when}, after {} times {} up to {}{burst}",
        restart.delay, restart.factor, restart.max_delay
    )
}

pub(crate) fn readiness(rules: &Supervision) -> String {
    let how = match &rules.readiness {
        Readiness::Running => return "as soon as it runs".into(),
        Readiness::Notify => "says so (sd_notify)".into(),
        Readiness::Runtime => "says so (runtime socket)".into(),
        Readiness::Probe(probe) => self::probe(probe),
    };
    match rules.start_timeout.0 {
        0 => how,
        _ => format!("{how}, within {}", rules.start_timeout),
    }
}

pub(crate) fn liveness(rules: &Supervision) -> String {
    let mut how = Vec::new();
    if let Some(probe) = &rules.liveness {
        how.push(format!("{}, {} failures", self::probe(probe), probe.failures));
    }
    if rules.watchdog.0 > 0 {
        how.push(format!("watchdog {}", rules.watchdog));
    }
    how.join("; ")
}

fn probe(probe: &Probe) -> String {
    let check = match &probe.check {
        Check::Exec(command) => format!("exec {}", command.join(" ")),
        Check::Http(url) => format!("http {url}"),
        Check::Tcp(address) => format!("tcp {address}"),
        Check::Output(pattern) => return format!("prints {pattern:?}"),
    };
    format!("{check} every {}, timeout {}", probe.interval, probe.timeout)
}

const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Ready => "ready",
        Condition::Completed => "completed",
    }
}

pub(crate) fn requires(rules: &Supervision) -> String {
    let all = rules.requires.iter().map(|it| {
        let effect = match it.on_failure {
            OnFailure::Stop => "stop",
            OnFailure::Restart => "restart",
            OnFailure::Ignore => "ignore",
        };
        format!("{} {} (else {effect})", it.instance, condition(it.condition))
    });
    all.collect::<Vec<_>>().join(", ")
}

pub(crate) fn after(rules: &Supervision) -> String {
    let all = rules.after.iter().map(|it| format!("{} {}", it.instance, condition(it.condition)));
    all.collect::<Vec<_>>().join(", ")
}

pub(crate) fn stop(rules: &Supervision) -> String {
    let stop = &rules.stop;
    let mut how = String::new();
    if !stop.command.is_empty() {
        how = format!("{}, ", stop.command.join(" "));
    }
    for step in &stop.steps {
        how.push_str(&format!("{} for {}, ", step.signal, step.wait));
    }
    how + "SIGKILL"
}
