//! What every end-to-end test needs: a daemon of its own, the real command line, and ways to
//! wait for what happens.
//!
//! Each [`Daemon`] has its own socket and directories below a temporary directory, so all
//! tests can run at once. Nothing here sleeps for a fixed time: it waits for a condition, with
//! a deadline after which the test fails and shows the daemon's log.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

pub mod control;
pub mod disk;
pub mod lane;
pub mod load;
pub mod logs;
pub mod native;
pub mod processes;
pub mod python;
pub mod routing;
pub mod veecle;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Event, EventKind, Item, Reply, Request, RuntimeInfo, Status};
use tempfile::TempDir;

/// How long anything that should happen soon may take on a busy machine. It is there to end a test
/// that waits in vain, and costs time only then; no test takes it for a measure of speed. What is
/// durable waits for a disk, and one that others are writing gigabytes to can take half a minute.
pub const SOON: Duration = Duration::from_secs(180);

/// The path of one of the workspace's programs, built first if necessary.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        // target/PROFILE/deps/TEST -> target/PROFILE
        let test = std::env::current_exe().unwrap();
        let dir = test.ancestors().nth(2).unwrap().to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--workspace", "--bins", "--manifest-path"]);
        build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
        build.arg("--target-dir").arg(dir.parent().unwrap());
        if dir.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be run").success(), "the programs are built");
        dir
    });
    let path = dir.join(name);
    assert!(path.exists(), "{path:?} was built");
    path
}

/// Says that this test, or a part of it, is not done here, and why. To the real standard error:
/// what a test that passes says by `eprintln!` is shown to nobody.
pub fn skipped(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
}

/// Waits until `check` gives something.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A daemon of this test's own. Dropping it kills it, which leaves no process behind.
pub struct Daemon {
    dir: TempDir,
    socket: PathBuf,
    state: PathBuf,
    /// The holder; none once it was waited for.
    child: Option<Child>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The working directory; none is that of the test.
    working_directory: Option<PathBuf>,
    /// The soft bound on its open files; none is that of the test.
    open_files: Option<u32>,
    /// Whether some peer of this test says what is not true of what passed.
    has_liars: bool,
}

impl Daemon {
    /// Starts a daemon and waits until it accepts clients.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments.
    pub fn start_with(args: &[&str]) -> Self {
        let mut daemon = Self::prepare(args);
        daemon.launch();
        daemon
    }

    /// The same, not launched yet.
    pub fn prepare(args: &[&str]) -> Self {
        // Short, because the paths of Unix sockets must be.
        let dir = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
        let (socket, state) = (dir.path().join("o.sock"), dir.path().join("state"));
        let args = args.iter().map(ToString::to_string).collect();
        Self {
            dir,
            socket,
            state,
            child: None,
            args,
            env: Vec::new(),
            working_directory: None,
            open_files: None,
            has_liars: false,
        }
    }

    /// Sets a variable for the daemon, before it is launched.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has it work in its own directory, before it is launched.
    #[must_use]
    pub fn in_its_directory(mut self) -> Self {
        self.working_directory = Some(self.dir.path().to_owned());
        self
    }

    /// Bounds its open files, softly, before it is launched.
    #[must_use]
    pub fn open_files(mut self, soft: u32) -> Self {
        self.open_files = Some(soft);
        self
    }

    /// Some peer of this test will say what is not true of what passed over its lanes. Of all others
    /// the daemon must never find that.
    #[must_use]
    pub fn with_liars(mut self) -> Self {
        self.has_liars = true;
        self
    }

    /// Starts it (again) on the same socket and directories.
    pub fn launch(&mut self) {
        self.launch_with(self.command());
    }

    /// The same as another user, who has its directory.
    pub fn launch_as(&mut self, user: u32) {
        let mut command = self.command();
        // Without a group of root's either.
        std::os::unix::process::CommandExt::uid(&mut command, user);
        std::os::unix::process::CommandExt::gid(&mut command, user);
        self.launch_with(command);
    }

    fn launch_with(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        self.child = Some(child);
        eventually("the daemon accepts clients", || {
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "the daemon ended: {}", self.log());
            std::os::unix::net::UnixStream::connect(&self.socket).ok()
        });
    }

    /// The command that starts this daemon.
    pub fn command(&self) -> Command {
        let mut command = match self.open_files {
            None => Command::new(binary("orchestrator")),
            Some(soft) => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(format!("ulimit -Sn {soft} && exec \"$0\" \"$@\""));
                command.arg(binary("orchestrator"));
                command
            }
        };
        command
            .arg("--socket")
            .arg(&self.socket)
            .arg("--state-dir")
            .arg(&self.state)
            .args(&self.args)
            .env_remove("ORCHESTRATOR_SOCKET")
            .env("ORCHESTRATOR_LOG", "debug")
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(directory) = &self.working_directory {
            command.current_dir(directory);
        }
        command
    }

    /// The directory that everything of this daemon is below. Tests may put files there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    /// What the daemon wrote to its standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The process that was started: the holder.
    pub fn holder_pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon was started").id()
    }

    /// The daemon proper.
    pub fn pid(&self) -> u32 {
        self.status().pid
    }

    /// The processes of its instances.
    pub fn processes(&self) -> Vec<u32> {
        processes::of_instances(self.holder_pid(), self.pid())
    }

    /// The command line, ready for further changes.
    pub fn cli_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary("orchestrator-cli"));
        command.env("ORCHESTRATOR_SOCKET", &self.socket).args(args).stdin(Stdio::null());
        command
    }

    /// Runs the command line to its end.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        Said::of(self.cli_command(args))
    }

    /// Runs the command line, which must succeed; the answer is its standard output.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let said = self.cli(args);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.log());
        said.stdout
    }

    /// Runs the command line with `--json`, which must succeed.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> serde_json::Value {
        let mut command = self.cli_command(["--json"]);
        command.args(args);
        let said = Said::of(command);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.log());
        serde_json::from_str(&said.stdout).expect("it prints JSON")
    }

    /// Adds a program with the command line; the answer is its id.
    #[track_caller]
    pub fn add<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let mut command = self.cli_command(["runtime", "add"]);
        command.args(args);
        let said = Said::of(command);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.log());
        said.stdout.trim().strip_prefix("added instance ").expect("it prints the id").to_owned()
    }

    /// Adds `sh -c SCRIPT` under this name.
    #[track_caller]
    pub fn add_script(&self, name: &str, script: &str) -> String {
        self.add(["/bin/sh", "--name", name, "--", "-c", script])
    }

    /// A client of its own, for requests that the command line does not make.
    pub async fn client(&self) -> Client {
        Client::connect(&self.socket).await.expect("the daemon is there")
    }

    /// One request on a connection of its own, which is answered soon.
    #[track_caller]
    pub fn request(
        &self,
        request: Request,
    ) -> Result<Reply, orchestrator_proto::client::ClientError> {
        let shown = format!("{request:?}");
        let answer = block_on(async {
            let asked = async { self.client().await.request(request).await };
            tokio::time::timeout(SOON, asked).await
        });
        answer.unwrap_or_else(|_| panic!("no answer within {SOON:?}: {shown}\n{}", self.log()))
    }

    /// The daemon about itself.
    pub fn status(&self) -> Status {
        match self.request(Request::Status).expect("status works") {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// One instance, by name or id.
    #[track_caller]
    pub fn info(&self, instance: &str) -> RuntimeInfo {
        let show = Request::RuntimeShow { instance: instance.into() };
        match self.request(show).expect("the instance is there") {
            Reply::Runtime(detail) => detail.info,
            other => panic!("{other:?}"),
        }
    }

    /// Follows events from the first one until `wanted` gives something.
    #[track_caller]
    pub fn event<T>(&self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let found = block_on(async {
            let client = self.client().await;
            let request =
                Request::Events { follow: true, after: Some(0), since_ms: None, instance: None };
            let mut events = client.stream(request).await.unwrap();
            tokio::time::timeout(SOON, async {
                while let Some(item) = events.next().await {
                    if let Item::Event(event) = item.unwrap()
                        && let Some(found) = wanted(&event)
                    {
                        return Some(found);
                    }
                }
                None
            })
            .await
        });
        match found {
            Ok(Some(found)) => found,
            _ => panic!("waited {SOON:?} in vain for the event: {what}\n{}", self.log()),
        }
    }

    /// Waits until the instance of this name has exited, and says how.
    #[track_caller]
    pub fn exited(&self, name: &str) -> orchestrator_proto::control::Exit {
        self.event("exited", |event| match event.kind {
            EventKind::Exited { exit, .. } if event.name.as_deref() == Some(name) => Some(exit),
            _ => None,
        })
    }

    /// Sends a signal to the holder.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        processes::signal(self.holder_pid(), signal);
    }

    /// Waits until the holder has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon was started");
        eventually("the daemon ended", || child.try_wait().unwrap())
    }

    /// SIGKILL for the holder, with which the daemon dies, and waits for the end. What they had
    /// started goes on.
    pub fn kill(&mut self) {
        let pid = self.pid();
        self.signal(nix::sys::signal::Signal::SIGKILL);
        self.wait();
        processes::gone(pid);
    }

    /// SIGKILL for the daemon, and waits until the next one is at work; the answer is its number.
    pub fn replace_killed(&self) -> u32 {
        let pid = self.pid();
        processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
        eventually("there is another daemon", || {
            // One that is about to die may still have accepted the connection.
            match self.request(Request::Status) {
                Ok(Reply::Status(status)) if status.pid != pid => Some(status.pid),
                _ => None,
            }
        })
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait()
    }
}

/// Writes a file that can be executed. Another process writes it: what this one has open for
/// writing is open in every child, too, that another test is about to execute, and until then the
/// kernel refuses to execute the file (ETXTBSY).
pub fn executable(path: &Path, content: &[u8]) {
    use std::io::Write;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"cat > "$0" && chmod 755 "$0""#]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    assert!(child.wait().unwrap().success(), "{path:?} is written");
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                eprintln!("--- log of the daemon\n{}", self.log());
            }
            // A test that failed may have left one standing still, which would never end.
            for pid in processes::descendants(child.id()) {
                processes::signal(pid, nix::sys::signal::Signal::SIGCONT);
            }
            // The second signal kills the instances at once. Two that are sent without a pause
            // may arrive as one, so it is repeated.
            while matches!(child.try_wait(), Ok(None)) {
                processes::signal(child.id(), nix::sys::signal::Signal::SIGTERM);
                std::thread::park_timeout(Duration::from_millis(10));
            }
            if !self.has_liars && !std::thread::panicking() {
                let log = self.log();
                let found = log.lines().find(|line| line.contains("disagree on what passed"));
                assert_eq!(found, None, "nobody here counts wrongly");
            }
        }
    }
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
}

impl Said {
    /// Runs a command to its end, which comes soon.
    #[track_caller]
    pub fn of(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::when_ended(command.spawn().expect("the command can be run"))
    }

    /// What a command has said when it has ended, which is soon. Its output is piped.
    #[track_caller]
    pub fn when_ended(child: Child) -> Self {
        let pid = child.id();
        let (told, ended) = std::sync::mpsc::sync_channel(1);
        // It is read while it runs: a pipe has little room.
        let reading = std::thread::spawn(move || {
            let output = child.wait_with_output();
            let _ = told.send(());
            output
        });
        let in_time = ended.recv_timeout(SOON).is_ok();
        if !in_time {
            processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let output = reading.join().unwrap().expect("the command can be waited for");
        assert!(in_time, "a command did not end within {SOON:?}: {output:?}");
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }
}

/// Runs a future to its end.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
