//! What the kernel can do for the daemon.

use std::io;

use orchestrator_proto::control::Finding;

use crate::process::abilities;

/// Whether a process group can be signalled through a pidfd.
pub(super) fn process_groups() -> Finding {
    judge(
        "process-groups",
        abilities::signals_groups(),
        "the kernel signals process groups by pidfd",
        "the kernel can't signal process groups by pidfd (Linux 6.9 and later can), so what a main \
         process leaves behind is searched for in /proc",
    )
}

/// Whether the end of a process that is nobody's child here can be learned.
pub(super) fn exits() -> Finding {
    judge(
        "exits",
        abilities::tells_of_exits(),
        "the kernel tells of the end of any process by pidfd",
        "the kernel does not tell by pidfd how a process ended (Linux 6.15 and later do), so how \
         an instance ended is not known if the holder was killed before",
    )
}

fn judge(check: &str, able: io::Result<bool>, yes: &str, no: &str) -> Finding {
    const ADVICE: &str = "nothing has to be done; a newer kernel does it better";
    match able {
        Ok(true) => Finding::ok(check, yes),
        Ok(false) => Finding::warning(check, no, ADVICE),
        Err(error) => Finding::warning(
            check,
            format!("it can't be found out what the kernel can: {error}"),
            "see whether a seccomp filter forbids pidfd_open(2) and pidfd_send_signal(2)",
        ),
    }
}

/// Whether times in logs and events can be compared with those of other machines.
pub(super) fn clock() -> Finding {
    clock_of(abilities::clock_is_synchronised())
}

fn clock_of(synchronised: io::Result<bool>) -> Finding {
    match synchronised {
        Ok(true) => Finding::ok("clock", "the clock is synchronised"),
        Ok(false) => Finding::warning(
            "clock",
            "the clock is not synchronised, so times in logs and events may be wrong",
            "run a time service, such as systemd-timesyncd or chrony",
        ),
        Err(error) => {
            let message = format!("whether the clock is synchronised is not known: {error}");
            Finding::ok("clock", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn an_older_kernel_is_no_problem() {
        for (able, level) in [
            (Ok(true), Level::Ok),
            (Ok(false), Level::Warning),
            (Err(io::Error::other("no")), Level::Warning),
        ] {
            assert_eq!(judge("x", able, "yes", "no").level, level);
        }
        assert_eq!(clock_of(Err(io::Error::other("no"))).level, Level::Ok);
        assert_eq!(clock_of(Ok(false)).level, Level::Warning);
    }

    #[test]
    fn this_kernel_can_be_asked() {
        for finding in [process_groups(), exits(), clock()] {
            assert_ne!(finding.level, Level::Problem, "{finding:?}");
        }
    }
}
