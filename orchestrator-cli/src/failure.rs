//! Failures as this program reports them: a sentence, the causes, what to do, an exit code.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use orchestrator_proto::client::ClientError;
use orchestrator_proto::{ErrorCode, WireError};

use crate::format;

/// How this program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    /// As clap ends with a wrong command line.
    Usage = 2,
    NotFound = 3,
    NotReachable = 4,
    Differs = 5,
    TimedOut = 6,
    ServiceFailed = 7,
    /// Ended by SIGHUP: 128 and the signal's number, as shells say it.
    HungUp = 129,
    /// The same by Ctrl-C.
    Interrupted = 130,
    /// The same by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever reads our output has enough of it. Not an error: see `| head`.
    OutputClosed,
    /// Something to tell.
    Report(Box<Report>),
}

/// What is told about a failure.
#[derive(Debug)]
pub(crate) struct Report {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// For programs: the name of an [`ErrorCode`], or one of this program's own.
    pub(crate) code: &'static str,
    /// What failed, for people.
    pub(crate) message: String,
    /// Why, the nearest cause first.
    pub(crate) causes: Vec<String>,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// Options that do not go together, where that depends on their values.
    pub(crate) fn usage(message: String) -> Self {
        Report::new(Exit::Usage, ErrorCode::InvalidArgument.name(), message, None).into()
    }

    /// A file or a system call failed.
    pub(crate) fn io(message: impl Into<String>, error: &io::Error) -> Self {
        Report::new(Exit::Failed, ErrorCode::Io.name(), message, Some(error)).into()
    }

    /// What was asked for can't be.
    pub(crate) fn invalid(message: String) -> Self {
        let code = ErrorCode::InvalidArgument.name();
        Report::new(Exit::Failed, code, message, None).into()
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::io("can't write to standard output", error),
        }
    }

    /// No connection could be had.
    pub(crate) fn connect(path: &Path, error: ClientError) -> Self {
        let hint = match &error {
            ClientError::NotReachable { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run this as the user that runs the orchestrator, or as root".into())
            }
            ClientError::NotReachable { .. } => Some(format!(
                "start it with `orchestrator --socket {}`, or say where it listens with --socket \
                 or ORCHESTRATOR_SOCKET",
                format::shell_word(path.as_os_str())
            )),
            _ => None,
        };
        let report = Report { exit: Exit::NotReachable, hint, ..Report::from(error) };
        report.into()
    }

    /// The directory of the default socket belongs to somebody else, who may well have put a
    /// socket of their own there.
    pub(crate) fn foreign_directory(directory: &Path) -> Self {
        let message = format!(
            "{} is not a directory of this user, so the socket in it is not used",
            format::line(&directory.to_string_lossy())
        );
        let hint = "say where the orchestrator listens with --socket or ORCHESTRATOR_SOCKET";
        let report = Report {
            hint: Some(hint.into()),
            ..Report::new(Exit::NotReachable, ErrorCode::NotPermitted.name(), message, None)
        };
        report.into()
    }

    /// The daemon let go, and none answers.
    pub(crate) fn no_successor(waited: std::time::Duration) -> Self {
        let message =
            format!("the daemon has let go, and no other answers after {} s", waited.as_secs());
        let hint = "see the daemon's log; instances go on, and the holder goes on to start a \
                    daemon";
        let report = Report {
            hint: Some(hint.into()),
            ..Report::new(Exit::NotReachable, "not-reachable", message, None)
        };
        report.into()
    }

    /// The daemon answered with something that is no answer to the request.
    pub(crate) fn unexpected_reply() -> Self {
        let message = "the daemon's reply does not belong to the request";
        Report::new(Exit::Failed, "protocol", message, None).into()
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::Report(Box::new(report))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Report::from(error).into()
    }
}

impl Report {
    pub(crate) fn new(
        exit: Exit,
        code: &'static str,
        message: impl Into<String>,
        cause: Option<&(dyn Error + 'static)>,
    ) -> Self {
        Self {
            exit,
            code,
            message: message.into(),
            causes: std::iter::successors(cause, |&error| error.source())
                .map(ToString::to_string)
                .collect(),
            hint: None,
        }
    }
}

impl From<ClientError> for Report {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::Failed(error) => return error.into(),
            ClientError::NotReachable { .. } => "not-reachable",
            ClientError::Refused(_) => "refused",
            ClientError::VersionMismatch { .. } => ErrorCode::VersionMismatch.name(),
            ClientError::Lost(_) => "connection-lost",
            ClientError::Replaced => ErrorCode::Replaced.name(),
            ClientError::Upload(_) => ErrorCode::Io.name(),
            ClientError::TooLong(_) => ErrorCode::LimitReached.name(),
            _ => "protocol",
        };
        Self::new(Exit::Failed, code, error.to_string(), error.source())
    }
}

impl From<WireError> for Report {
    fn from(error: WireError) -> Self {
        Self {
            exit: match error.code {
                ErrorCode::NotFound => Exit::NotFound,
                ErrorCode::TimedOut => Exit::TimedOut,
                ErrorCode::CallFailed => Exit::ServiceFailed,
                _ => Exit::Failed,
            },
            code: error.code.name(),
            message: error.message,
            causes: error.causes,
            hint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let exit = |code| Report::from(WireError::new(code, "x")).exit;
        assert_eq!(exit(ErrorCode::NotFound), Exit::NotFound);
        assert_eq!(exit(ErrorCode::TimedOut), Exit::TimedOut);
        assert_eq!(exit(ErrorCode::CallFailed), Exit::ServiceFailed);
        assert_eq!(exit(ErrorCode::WrongState), Exit::Failed);
        let refused = ClientError::Refused("full".into());
        let Failure::Report(report) = Failure::connect(Path::new("/s"), refused) else { panic!() };
        assert_eq!((report.exit, report.hint), (Exit::NotReachable, None));
    }

    #[test]
    fn an_unreachable_daemon_is_reported_with_the_command_that_starts_it() {
        let error = ClientError::NotReachable {
            path: "/a b/s".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let Failure::Report(report) = Failure::connect(Path::new("/a b/s"), error) else {
            panic!()
        };
        assert!(report.message.contains("/a b/s"));
        assert!(report.hint.is_some_and(|hint| hint.contains("`orchestrator --socket '/a b/s'`")));
    }
}
