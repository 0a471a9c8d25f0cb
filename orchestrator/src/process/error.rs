//! Why a program could not be executed, in words that say what to do.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use thiserror::Error;

use super::Launch;
use super::attribute::{self, as_user};
use super::prepare::PrepareError;
use crate::holder::frame::Stage;

/// Why a program could not be executed.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// It is about the program.
    #[error("cannot execute {program:?}: {}{hint}", in_words(.source))]
    Program {
        /// Which.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What to do, beginning with `; `, or nothing.
        hint: String,
    },
    /// It is about the working directory.
    #[error("cannot execute {program:?} in working directory {cwd:?}{user}: {}", in_words(.source))]
    Cwd {
        /// The program.
        program: PathBuf,
        /// The directory.
        cwd: PathBuf,
        /// As whom, beginning with ` as `, or nothing.
        user: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program's path is relative: to what, nobody could tell.
    #[error("cannot execute {program:?}: the path is not absolute")]
    NotAbsolute {
        /// The program.
        program: PathBuf,
    },
    /// It can't be executed as is wanted.
    #[error("cannot execute {program:?}: {source}")]
    NotPrepared {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: PrepareError,
    },
    /// Something that it was to have it can't have.
    #[error("cannot execute {program:?}: can't {what}: {}{hint}", in_words(.source))]
    Attribute {
        /// The program.
        program: PathBuf,
        /// What was to be done, as in `set the user to www`.
        what: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do, beginning with `; `, or nothing.
        hint: String,
    },
    /// It is not to be executed without its limits.
    #[error(
        "cannot execute {program:?}: not all of its limits can be in force, and they are required \
         (limits-required): {}", unmet.join("; ")
    )]
    Limits {
        /// The program.
        program: PathBuf,
        /// What can't be in force and why, a sentence each.
        unmet: Vec<String>,
    },
    /// It could not enter its cgroup.
    #[error("cannot execute {program:?} in a cgroup of its own: {}", in_words(.source))]
    Cgroup {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is about a socket that listens for it.
    #[error("cannot execute {program:?} with the sockets that listen for it: {reason}")]
    Listen {
        /// The program.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// What starts programs is gone. The daemon is about to end.
    #[error("cannot execute {program:?}: the daemon is ending")]
    Ending {
        /// The program.
        program: PathBuf,
    },
}

impl SpawnError {
    /// The errno, if the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Program { source, .. }
            | Self::Cwd { source, .. }
            | Self::Attribute { source, .. }
            | Self::Cgroup { source, .. } => source.raw_os_error(),
            Self::NotAbsolute { .. }
            | Self::NotPrepared { .. }
            | Self::Limits { .. }
            | Self::Listen { .. }
            | Self::Ending { .. } => None,
        }
    }

    /// Puts in words what the holder could not do, and finds out what to do about it. Reads
    /// files, so it may block.
    pub(super) fn diagnose(launch: &Launch, stage: Stage, source: io::Error) -> Self {
        let program = launch.program.clone();
        if let (Stage::Cwd, Some(cwd)) = (stage, &launch.cwd) {
            return Self::Cwd { program, cwd: cwd.clone(), user: as_user(launch), source };
        }
        if stage == Stage::Listen {
            return Self::Listen { program, reason: in_words(&source) };
        }
        if stage == Stage::Cgroup {
            return Self::Cgroup { program, source };
        }
        let sentence = |hint: String| format!("; {hint}");
        if let Some(what) = attribute::of(stage, launch) {
            let hint = attribute::hint(stage, &source).map(Into::into);
            let hint = hint.map_or_else(String::new, sentence);
            return Self::Attribute { program, what, source, hint };
        }
        let hint = hint(launch, stage, &source).map_or_else(String::new, sentence);
        Self::Program { program, source, hint }
    }
}

/// An error of the kernel as `No such file or directory (ENOENT)`.
fn in_words(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) if errno != Errno::UnknownErrno => format!("{} ({errno:?})", errno.desc()),
        _ => error.to_string(),
    }
}

fn hint(launch: &Launch, stage: Stage, error: &io::Error) -> Option<String> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    let program = &launch.program;
    if (stage, errno) == (Stage::Image, Errno::EINVAL) {
        return Some(
            "perhaps the daemon's holder is older than the daemon and can't give it what it is to \
             have; renew it with orchestrator-cli daemon upgrade"
                .to_owned(),
        );
    }
    let hint = match errno {
        Errno::ENOENT => return interpreter_hint(program),
        Errno::EACCES => return access_hint(launch),
        Errno::ENOEXEC => {
            "it is neither a program for this machine's architecture nor a script that begins \
             with #!"
        }
        Errno::ETXTBSY => "somebody is still writing to it",
        Errno::E2BIG => "its arguments and environment are too long, see execve(2)",
        Errno::EAGAIN => "too many processes, see RLIMIT_NPROC in getrlimit(2) and pids.max",
        Errno::EMFILE => {
            "the orchestrator has too many open files, see RLIMIT_NOFILE in getrlimit(2)"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn access_hint(launch: &Launch) -> Option<String> {
    let program = &launch.program;
    let metadata = fs::metadata(program).ok()?;
    if metadata.is_dir() {
        Some("it is a directory".to_owned())
    } else if !metadata.is_file() {
        Some("it is not a regular file".to_owned())
    } else if metadata.permissions().mode() & 0o111 == 0 {
        Some(format!("it is not executable, try chmod +x {program:?}"))
    } else if let Some(user) = &launch.execution.user {
        Some(format!("perhaps the user {user} may not get at it, see namei -l {program:?}"))
    } else if let Some(interpreter) = interpreter(program) {
        Some(format!("perhaps because of its interpreter {interpreter:?}"))
    } else {
        Some("perhaps it is on a file system mounted with noexec".to_owned())
    }
}

/// `ENOENT` for a file that is there is about the program that it needs.
fn interpreter_hint(program: &Path) -> Option<String> {
    if !fs::metadata(program).ok()?.is_file() {
        return None;
    }
    match interpreter(program) {
        Some(path) if path.as_os_str().as_bytes().ends_with(b"\r") => Some(format!(
            "it is there, but its first line ends as on Windows, so that its interpreter is \
             {path:?}"
        )),
        Some(path) => Some(format!("it is there, but its interpreter {path:?} is not")),
        None => Some(
            "it is there, but the dynamic loader it was built for is not; see readelf -l".into(),
        ),
    }
}

/// What a script's first line names.
fn interpreter(program: &Path) -> Option<PathBuf> {
    // As much as the kernel looks at, see execve(2).
    let mut start = Vec::new();
    let file = File::open(program).ok()?;
    file.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(word)))
}
