//! Programs in Python, with the package of `examples/python`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use orchestrator_proto::runtime::ENV_SOCKET;

use crate::{SOON, skipped};

/// The directory with the package.
pub fn package() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python").into()
}

/// Python with the package; none, and it is said, if there is no Python that is new enough.
pub fn python() -> Option<Command> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut check = Command::new("python3");
        check.args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]);
        match check.stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("there is no python3 of version 3.9 or later: {other:?}")),
        }
    });
    if let Err(why) = found {
        skipped(why);
        return None;
    }
    let mut python = Command::new("python3");
    // Without files of compiled code beside the sources, and without what is installed: nothing but the
    // standard library is needed.
    python.args(["-B", "-S"]).env("PYTHONPATH", package());
    Some(python)
}

/// A program in Python that a test talks to, line by line. It is an instance of nobody: the socket
/// that it connects to is that of an instance which does not run.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Peer {
    /// Starts a program with these arguments, for this socket.
    ///
    /// # Panics
    ///
    /// Without Python, which is to be looked for with [`python`] before.
    pub fn start(socket: &Path, script: &Path, args: &[&str]) -> Self {
        let mut command = python().expect("there is Python");
        command.arg(script).args(args).env(ENV_SOCKET, socket);
        command.env_remove("ORCHESTRATOR_INSTANCE_ID");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python can be run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (said, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, stdin, lines }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it was not ended");
        writeln!(stdin, "{line}").expect("it reads");
    }

    /// What it says next; none when it has ended.
    #[track_caller]
    pub fn hear(&mut self) -> Option<String> {
        match self.lines.recv_timeout(SOON) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it said nothing within {SOON:?}"),
        }
    }

    /// Waits until it says this next.
    #[track_caller]
    pub fn hears(&mut self, line: &str) {
        assert_eq!(self.hear().as_deref(), Some(line));
    }

    /// Tells it something, and hears the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear().unwrap_or_else(|| panic!("it has ended instead of answering {line:?}"))
    }
}

impl Drop for Peer {
    /// It ends when there is nothing more to be told, and closes its connection properly.
    fn drop(&mut self) {
        drop(self.stdin.take());
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        // Until it has closed its output: it has ended, or is about to.
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => drop(self.child.kill()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let _ = self.child.wait();
    }
}
