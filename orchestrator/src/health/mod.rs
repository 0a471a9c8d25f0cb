//! Asking an instance how it is, hearing what it says of itself, and carrying out the commands
//! that belong to it.
//!
//! Called by `registry/`, which has one [`Health`] for each instance, and one [`Notify`] for each
//! that speaks the protocol of sd_notify(3). What comes of it goes to the instance's keeper, which
//! alone decides what follows.
//!
//! It promises that
//!
//! - a question ends within its time, whatever is asked: a name server that is silent, a peer that
//!   never answers, a program that hangs. Only [`Check::Output`] waits for as long as it takes;
//! - of the commands of an instance (a probe, the command that asks it to stop) one of each kind
//!   runs at a time. One that nobody waits for any more is killed with its whole process group,
//!   also when that was a daemon before this one;
//! - what is read of an answer is bounded: a status line and headers, the last line of an output,
//!   one line of a log;
//! - only what the instance's own processes say on `NOTIFY_SOCKET` counts, and nothing of it is
//!   lost while one daemon takes the place of another.

mod command;
mod http;
mod notify;
mod output;
mod subject;
mod tcp;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use orchestrator_proto::control::{Check, Execution, Stdin};
use orchestrator_proto::{InstanceId, Millis};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::http::Url;
use self::output::Output;
use self::subject::Subject;
use self::tcp::Address;
use crate::logs::InstanceLog;
use crate::process::{ENV_RUN, FIRST_COMMAND, Kernel, Launch, Part, Pending, View};

pub use command::end;
pub use notify::{ENV_NOTIFY, ENV_WATCHDOG, Notify, NotifyError, NotifySocket};

/// The main process, for commands that want to signal it, as systemd.exec(5) has it.
const ENV_MAIN_PID: &str = "MAINPID";

/// Whether this can be asked at all.
///
/// # Errors
///
/// Why not, as the end of a sentence.
pub fn check(check: &Check) -> Result<(), String> {
    match check {
        Check::Exec(_) => Ok(()),
        Check::Http(url) => Url::parse(url).map(drop),
        Check::Tcp(address) => Address::parse(address).map(drop),
        Check::Output(pattern) => output::pattern(pattern).map(drop),
    }
}

/// How an instance's program is executed.
pub type Launching = Arc<dyn Fn() -> Launch + Send + Sync>;

/// Asks one instance.
pub struct Health {
    subject: Arc<Subject>,
    kernel: Arc<dyn Kernel>,
    instance: InstanceId,
    launching: Launching,
    output: Output,
    /// One probe at a time.
    probe: Arc<Semaphore>,
    /// One stop command at a time. It does not wait for a probe that can't be killed.
    stop: Arc<Semaphore>,
}

impl Health {
    /// For the instance that is executed like this, and prints to this log.
    #[must_use]
    pub fn new(
        instance: InstanceId,
        launching: Launching,
        log: InstanceLog,
        kernel: Arc<dyn Kernel>,
    ) -> Self {
        Self {
            subject: Arc::new(Subject::new(instance)),
            kernel,
            instance,
            launching,
            output: Output::new(log),
            probe: Arc::new(Semaphore::new(1)),
            stop: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whose.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Its program is about to be executed.
    pub fn launching(&self) {
        self.output.launching();
    }

    /// It is like this from now on. To be called with what an earlier daemon has left, too, before
    /// anything is asked.
    pub fn changed(&self, view: &View) {
        self.subject.changed(view);
    }

    /// What the socket for what it says needs to know of it.
    pub(crate) fn subject(&self) -> Arc<Subject> {
        self.subject.clone()
    }

    /// See [`Hooks::ask`](crate::process::Hooks::ask).
    pub fn ask(&self, check: &Check, limit: Duration, run: u64) -> Pending<Result<(), String>> {
        match check {
            Check::Exec(command) => {
                let launch = self.command(command, run);
                let executed = command::execute(self.kernel.clone(), launch, self.probe.clone());
                within(limit, executed)
            }
            Check::Http(url) => match Url::parse(url) {
                Ok(url) => within(limit, http::get(url, self.probe.clone())),
                Err(error) => Box::pin(async { Err(error) }),
            },
            Check::Tcp(address) => match Address::parse(address) {
                Ok(address) => within(limit, tcp::probe(address, self.probe.clone())),
                Err(error) => Box::pin(async { Err(error) }),
            },
            Check::Output(pattern) => self.output.find(pattern, self.subject.pid()),
        }
    }

    /// See [`Hooks::stop_command`](crate::process::Hooks::stop_command).
    pub fn run(&self, command: &[String], run: u64) -> Pending<Result<(), String>> {
        let launch = self.command(command, run);
        Box::pin(command::execute(self.kernel.clone(), launch, self.stop.clone()))
    }

    /// A command with the surroundings of the instance, but for what only its program may use.
    fn command(&self, command: &[String], run: u64) -> Launch {
        let (program, args) = match command {
            [program, args @ ..] => (program.as_str(), args),
            [] => ("", &[][..]),
        };
        let launch = (self.launching)();
        let mut env = launch.env;
        let not_passed = [ENV_NOTIFY, ENV_WATCHDOG, ENV_RUN];
        env.retain(|(name, _)| !not_passed.iter().any(|not| OsStr::new(not) == name));
        env.push((ENV_RUN.into(), (FIRST_COMMAND | run).to_string().into()));
        if let Some(pid) = self.subject.pid() {
            env.push((ENV_MAIN_PID.into(), pid.to_string().into()));
        }
        Launch {
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            env,
            priority: self.subject.priority(),
            part: Part::Command,
            // Its files are its program's to read.
            execution: Arc::new(Execution {
                stdin: Stdin::Null,
                ..Execution::clone(&launch.execution)
            }),
            sockets: Vec::new(),
            ..launch
        }
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// An answer, or none within that time.
fn within(
    limit: Duration,
    answer: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Pending<Result<(), String>> {
    Box::pin(async move {
        let no_answer = |_| Err(format!("no answer within {}", Millis::from(limit)));
        timeout(limit, answer).await.unwrap_or_else(no_answer)
    })
}

/// An error in words, with the errno's name: `connection refused (ECONNREFUSED)`.
fn in_words(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return error.to_string();
    };
    let text = errno.desc();
    // Not `RFS specific error`.
    let lower = text.chars().nth(1).is_some_and(|second| !second.is_uppercase());
    match text.chars().next() {
        Some(first) if lower => {
            let rest = text.get(first.len_utf8()..).unwrap_or_default();
            format!("{}{rest} ({errno:?})", first.to_lowercase())
        }
        _ => format!("{text} ({errno:?})"),
    }
}
