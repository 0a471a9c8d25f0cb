//! What is allowed in how an instance is supervised.

use orchestrator_proto::control::{
    Check, Kind, Probe, Readiness, Restart, RestartPolicy, Stop, Supervision,
};
use orchestrator_proto::{Millis, WireError, timetable};

use super::add::invalid;
use super::shorten;

/// The longest of all times but the one to stop in: a year.
const MAX_TIME: Millis = Millis(365 * 86_400_000);
/// The most instances that one may need or wait for.
const MAX_DEPENDENCIES: usize = 256;
/// The longest text of a probe or a command, bytes.
const MAX_TEXT: usize = 64 << 10;

/// Whether all of it is allowed.
///
/// # Errors
///
/// The first thing that is not, in the words of the command line.
pub(super) fn check(rules: &Supervision) -> Result<(), WireError> {
    check_restart(&rules.restart)?;
    check_kind(rules)?;
    check_time("the start timeout", rules.start_timeout)?;
    check_time("the watchdog time", rules.watchdog)?;
    if let Readiness::Probe(probe) = &rules.readiness {
        check_probe("readiness", probe)?;
    }
    if let Some(probe) = &rules.liveness {
        check_probe("liveness", probe)?;
        if matches!(probe.check, Check::Output(_)) {
            return Err(invalid(
                "a line of output says that an instance is ready, not that it stays well; use \
                 another liveness check"
                    .to_owned(),
            ));
        }
    }
    if rules.requires.len() + rules.after.len() > MAX_DEPENDENCIES {
        return Err(invalid(format!(
            "an instance can need and wait for {MAX_DEPENDENCIES} others at most"
        )));
    }
    check_stop(&rules.stop)
}

fn check_kind(rules: &Supervision) -> Result<(), WireError> {
    check_time("the run timeout", rules.run_timeout)?;
    let what = match &rules.kind {
        Kind::Service if rules.run_timeout != Millis::ZERO => {
            let message = "a service runs for ever; a run timeout is for tasks and schedules";
            return Err(invalid(message.to_owned()));
        }
        Kind::Service => return Ok(()),
        Kind::Task => "a task runs to its end once",
        Kind::Schedule(schedule) => {
            let error = |error: timetable::NotTimetable| invalid(error.to_string());
            timetable::Timetable::parse(&schedule.expression).map_err(error)?;
            timetable::zone(schedule.time_zone.as_deref()).map_err(error)?;
            "a schedule runs to its end each time"
        }
    };
    if rules.restart.policy == RestartPolicy::Always {
        let message = format!("{what}; it can be restarted on-failure or never, not always");
        return Err(invalid(message));
    }
    Ok(())
}

fn check_restart(restart: &Restart) -> Result<(), WireError> {
    check_time("the restart delay", restart.delay)?;
    check_time("the longest restart delay", restart.max_delay)?;
    check_time("the time after which delays are reset", restart.reset_after)?;
    check_time("the time of the restart burst", restart.burst_within)?;
    if !(1..=100).contains(&restart.factor) {
        return Err(invalid(format!("the restart factor {} is not 1 to 100", restart.factor)));
    }
    if restart.jitter > 100 {
        return Err(invalid(format!("the restart jitter {} is not 0 to 100 %", restart.jitter)));
    }
    if restart.burst > Restart::MAX_BURST {
        let most = Restart::MAX_BURST;
        return Err(invalid(format!("the restart burst {} is not 0 to {most}", restart.burst)));
    }
    Ok(())
}

fn check_probe(what: &str, probe: &Probe) -> Result<(), WireError> {
    check_time(&format!("the {what} interval"), probe.interval)?;
    check_time(&format!("the {what} timeout"), probe.timeout)?;
    if probe.interval.0 < 10 || probe.timeout.0 < 1 {
        return Err(invalid(format!(
            "a {what} check has an interval of at least 10ms and a timeout of at least 1ms"
        )));
    }
    if probe.failures == 0 || probe.successes == 0 {
        return Err(invalid(format!("the thresholds of a {what} check are at least 1")));
    }
    match &probe.check {
        Check::Exec(command) => check_command(&format!("the {what} command"), command),
        Check::Http(text) | Check::Tcp(text) | Check::Output(text) if text.len() > MAX_TEXT => {
            Err(invalid(format!("the {what} check has more than {MAX_TEXT} bytes")))
        }
        check => crate::health::check(check)
            .map_err(|error| invalid(format!("the {what} check can't be made: {error}"))),
    }
}

fn check_command(what: &str, command: &[String]) -> Result<(), WireError> {
    let size: usize = command.iter().map(|word| word.len() + 1).sum();
    match command.first() {
        None => Err(invalid(format!("{what} is empty"))),
        Some(path) if !path.starts_with('/') => {
            Err(invalid(format!("the path in {what} is not absolute: {}", shorten(path))))
        }
        Some(_) if size > MAX_TEXT => {
            Err(invalid(format!("{what} has more than {MAX_TEXT} bytes")))
        }
        Some(_) if command.iter().any(|word| word.contains('\0')) => {
            Err(invalid(format!("{what} has a zero byte")))
        }
        Some(_) => Ok(()),
    }
}

fn check_stop(stop: &Stop) -> Result<(), WireError> {
    if !stop.command.is_empty() {
        check_command("the stop command", &stop.command)?;
    }
    if !(1..=Stop::MAX_STEPS).contains(&stop.steps.len()) {
        let most = Stop::MAX_STEPS;
        return Err(invalid(format!("a stop has 1 to {most} signals before SIGKILL")));
    }
    if let Some(step) = stop.steps.iter().find(|step| !(1..=64).contains(&step.signal.0)) {
        let number = step.signal.0;
        return Err(invalid(format!("{number} is not a signal; signals are 1 to 64")));
    }
    if stop.longest() > Stop::MAX_TIME {
        return Err(invalid("the stop timeout is more than a day".to_owned()));
    }
    Ok(())
}

pub(super) fn check_time(what: &str, time: Millis) -> Result<(), WireError> {
    if time > MAX_TIME {
        return Err(invalid(format!("{what} is more than a year: {time}")));
    }
    Ok(())
}
