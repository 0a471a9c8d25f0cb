//! When an instance runs, as options of `runtime add`.

use clap::{Args, ValueEnum};
use orchestrator_proto::Millis;
use orchestrator_proto::control::{Kind, Overlap, Schedule};
use orchestrator_proto::timetable::{Timetable, check_zone_name};

#[derive(Args, Debug)]
#[command(next_help_heading = "When it runs")]
pub(crate) struct KindArgs {
    /// What it is for: a service runs for ever, a task once to its end, a schedule again and again
    /// to its end. A service, without it and without --schedule. Example: --kind task
    #[arg(long, value_name = "KIND", requires_if("schedule", "schedule"))]
    kind: Option<Word>,

    /// When it runs: minute, hour, day of the month, month, day of the week, as in crontab(5); or
    /// @hourly, @daily, @weekly, @monthly, @yearly; or "every TIME".
    /// Example: --schedule "30 3 * * *", --schedule @daily, --schedule "every 10s"
    #[arg(long, value_name = "WHEN", value_parser = expression)]
    schedule: Option<String>,

    /// The time zone of --schedule; that of the machine without it. Example:
    /// --time-zone Europe/Berlin
    #[arg(long, value_name = "ZONE", value_parser = time_zone, requires = "schedule")]
    time_zone: Option<String>,

    /// What happens when it is time and the run before is not over: the new one is left out
    /// (skip), or waits (queue), or that one is stopped (replace). Example: --overlap queue
    #[arg(
        long,
        value_name = "skip|queue|replace",
        default_value_t,
        hide_default_value = true,
        requires = "schedule"
    )]
    overlap: Overlap,

    /// After runs were missed, because the daemon did not run or the machine was asleep, do one
    /// as soon as that is over. Example: --catch-up
    #[arg(long, requires = "schedule")]
    catch_up: bool,

    /// Each execution of a task or a schedule has failed, and is stopped, if it does not end
    /// within this time; 0 is without a limit. Example: --run-timeout 5m
    #[arg(long, value_name = "TIME", default_value = "0")]
    run_timeout: Millis,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Word {
    Service,
    Task,
    Schedule,
}

impl KindArgs {
    /// What it is for, and how long each execution of it may take.
    ///
    /// # Errors
    ///
    /// A sentence, if the kind is one that has no schedule.
    pub(crate) fn into_kind(self) -> Result<(Kind, Millis), String> {
        let kind = match (self.schedule, self.kind) {
            (Some(expression), None | Some(Word::Schedule)) => Kind::Schedule(Schedule {
                expression,
                time_zone: self.time_zone,
                overlap: self.overlap,
                catch_up: self.catch_up,
            }),
            (Some(_), Some(_)) => {
                return Err("what has a --schedule is of the --kind schedule".to_owned());
            }
            (None, Some(Word::Task)) => Kind::Task,
            (None, _) => Kind::Service,
        };
        Ok((kind, self.run_timeout))
    }
}

fn expression(text: &str) -> Result<String, String> {
    Timetable::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn time_zone(text: &str) -> Result<String, String> {
    check_zone_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}
