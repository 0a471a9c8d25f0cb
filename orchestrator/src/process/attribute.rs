//! What could not be given to a program, in words that say what to do.

use std::io;

use nix::errno::Errno;
use orchestrator_proto::control::{Capability, Stdin};

use super::Launch;
use crate::holder::frame::Stage;

/// What was to be done at this stage, after `can't`; none if it is about something else.
pub(super) fn of(stage: Stage, launch: &Launch) -> Option<String> {
    let execution = &*launch.execution;
    let user = || execution.user.clone().unwrap_or_default();
    let caps = |caps: &[Capability]| words(caps);
    Some(match stage {
        Stage::Limits => format!("set its limits to {}", words(&execution.rlimit)),
        Stage::Nice => format!("set its nice value to {}", execution.nice_at(launch.priority)),
        Stage::Cpus => {
            format!("have it run on the processors {}", words(execution.cpus.as_slice()))
        }
        Stage::IoClass => format!("set its I/O class to {}", words(execution.io_class.as_slice())),
        Stage::Realtime => {
            format!("set its real-time policy to {}", words(execution.realtime.as_slice()))
        }
        Stage::Streams => "give its output to its user and its group".to_owned(),
        Stage::Groups => match &execution.groups {
            Some(groups) => format!("set its supplementary groups to {}", groups.join(", ")),
            None => format!("set its supplementary groups to those of the user {}", user()),
        },
        Stage::Group => match &execution.group {
            Some(group) => format!("set the group to {group}"),
            None => format!("set the group to that of the user {}", user()),
        },
        Stage::User => format!("set the user to {}", user()),
        Stage::Bounding => match &execution.keep_caps {
            Some(keep) if keep.is_empty() => "drop all capabilities".to_owned(),
            Some(keep) => format!("drop all capabilities but {}", caps(keep)),
            None => format!("drop the capabilities {}", caps(&execution.drop_caps)),
        },
        Stage::Capabilities => "set its capabilities".to_owned(),
        Stage::Ambient => {
            format!("give it the ambient capabilities {}", caps(&execution.ambient_caps))
        }
        Stage::NoNewPrivs => "have it get no new privileges".to_owned(),
        Stage::Stdin => match &execution.stdin {
            Stdin::File(path) => format!("open its standard input {path:?}{}", as_user(launch)),
            Stdin::Null => "open its standard input".to_owned(),
        },
        _ => return None,
    })
}

/// As whom, beginning with ` as `, or nothing.
pub(super) fn as_user(launch: &Launch) -> String {
    let user = launch.execution.user.as_ref();
    user.map_or_else(String::new, |user| format!(" as user {user}"))
}

/// What to do, if that can be said.
pub(super) fn hint(stage: Stage, error: &io::Error) -> Option<&'static str> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    Some(match (stage, errno) {
        (Stage::Limits, Errno::EPERM) => {
            "the daemon may not have more itself, or would need CAP_SYS_RESOURCE, see getrlimit(2)"
        }
        (Stage::Nice, Errno::EACCES | Errno::EPERM) => {
            "the daemon would need CAP_SYS_NICE or a higher RLIMIT_NICE"
        }
        (Stage::Cpus, Errno::EINVAL) => "none of them is there, or the daemon may use none of them",
        (Stage::IoClass, Errno::EPERM) => "the daemon would need CAP_SYS_NICE, see ioprio_set(2)",
        (Stage::Realtime, Errno::EPERM) => {
            "the daemon would need CAP_SYS_NICE or a higher RLIMIT_RTPRIO, and a control group \
             that allows it, see sched(7)"
        }
        (Stage::Streams | Stage::Groups | Stage::Group | Stage::User, Errno::EPERM) => {
            "the daemon would have to run as root"
        }
        (Stage::Streams | Stage::Groups | Stage::Group | Stage::User, Errno::EINVAL) => {
            "the daemon's user namespace does not have that number, see user_namespaces(7)"
        }
        (Stage::User, Errno::EAGAIN) => {
            "that user has too many processes, see RLIMIT_NPROC in getrlimit(2)"
        }
        (Stage::Bounding, Errno::EPERM) => "the daemon would need CAP_SETPCAP",
        (Stage::Capabilities | Stage::Ambient, Errno::EPERM) => {
            "the daemon does not have all of them itself, see CapPrm and CapBnd in its \
             /proc/PID/status"
        }
        (Stage::Stdin, Errno::EMFILE) => "the limit nofile is too low for that",
        _ => return None,
    })
}

fn words(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
