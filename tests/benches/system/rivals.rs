//! Others who keep programs running: s6, runit and supervisord, as Debian packages them, each with
//! a log of its own for every service.
//!
//! Each works in a directory of its own, apart from all that the system runs, and is ended with
//! all that it has started. What it runs and how much of a log it keeps is what the orchestrator
//! runs and keeps by default: files of 8 MiB, four of them, each line with its time, where it can
//! do that.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::processes;

/// How large a file of a log may be.
const LOG_BYTES: usize = 8 << 20;
/// Files that are kept, the one that is written included.
const LOG_FILES: usize = 4;
/// The most services of one runsvdir, as it was compiled.
const MOST_OF_RUNSVDIR: usize = 1000;
/// How long one may take to end all that it runs.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rival {
    S6,
    Runit,
    Supervisord,
}

/// What the reader of a table has to know.
pub(crate) const NOTE: &str = "\
Rivals: s6-svscan with an s6-supervise and an s6-log for each service and an s6-supervise for each
of these; runsvdir with a runsv and an svlogd for each service, one runsvdir for each thousand;
supervisord, which reads what its programs print itself and writes no times. Each keeps the same
program, and four log files of 8 MiB of each; stderr is captured by the orchestrator and by
supervisord, with the others it is theirs.";

impl Rival {
    const ALL: [Self; 3] = [Self::S6, Self::Runit, Self::Supervisord];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::S6 => "s6",
            Self::Runit => "runit",
            Self::Supervisord => "supervisord",
        }
    }

    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::S6 => &["s6-svscan", "s6-supervise", "s6-log"],
            Self::Runit => &["runsvdir", "runsv", "svlogd"],
            Self::Supervisord => &["supervisord", "supervisorctl"],
        }
    }

    /// Those that are installed. Says once which are not.
    pub(crate) fn installed() -> Vec<Self> {
        static SAID: Once = Once::new();
        let is_there = |program: &&str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| dir.join(program).exists())
        };
        let (there, missing): (Vec<_>, Vec<_>) =
            Self::ALL.into_iter().partition(|rival| rival.programs().iter().all(is_there));
        SAID.call_once(|| {
            for rival in missing {
                eprintln!(
                    "MISSING RIVAL: {} is not installed, its rows are left out; \
                     tests/benches/rivals.sh installs it",
                    rival.name()
                );
            }
        });
        there
    }

    /// Keeps a service of each of these commands. They are started, but maybe not yet.
    pub(crate) fn keep(self, commands: &[Vec<OsString>]) -> Kept {
        let dir = tempfile::Builder::new().prefix("riv").tempdir().unwrap();
        let logs: Vec<_> =
            (0..commands.len()).map(|at| dir.path().join(format!("l{at}"))).collect();
        logs.iter().for_each(|log| fs::create_dir(log).unwrap());
        let began = Instant::now();
        let roots = match self {
            Self::S6 => s6(dir.path(), commands, &logs),
            Self::Runit => runit(dir.path(), commands, &logs),
            Self::Supervisord => supervisord(dir.path(), commands, &logs),
        };
        // Whoever is left when a root has ended comes to us, and can be waited for.
        prctl::set_child_subreaper(true).unwrap();
        let began = roots.began.max(began);
        Kept { rival: self, roots: roots.children, began, logs, dir }
    }
}

/// What was started, and when: what has to be written before is not the rival's.
struct Roots {
    children: Vec<Child>,
    began: Instant,
}

impl Roots {
    fn start(commands: &mut [Command]) -> Self {
        let began = Instant::now();
        let start = |command: &mut Command| {
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        Self { children: commands.iter_mut().map(start).collect(), began }
    }
}

/// A rival with its services. Dropping it ends them.
pub(crate) struct Kept {
    rival: Rival,
    roots: Vec<Child>,
    /// When it was started.
    pub(crate) began: Instant,
    /// Where the log of each service is written.
    pub(crate) logs: Vec<PathBuf>,
    dir: TempDir,
}

impl Kept {
    /// All that supervises: everything but `services`.
    pub(crate) fn supervisors(&self, services: &[u32]) -> Vec<u32> {
        let roots = self.roots.iter().map(Child::id);
        let below = self.roots.iter().flat_map(|root| processes::descendants(root.id()));
        let services: std::collections::HashSet<_> = services.iter().collect();
        roots.chain(below).filter(|pid| !services.contains(pid)).collect()
    }

    /// The command that says how all services are; none if there is none.
    pub(crate) fn list(&self) -> Option<Command> {
        let dir = self.dir.path();
        match self.rival {
            // One for each service.
            Rival::S6 => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", r#"for dir in "$0"/*; do s6-svstat "$dir"; done"#]);
                command.arg(dir.join("scan"));
                Some(command)
            }
            Rival::Runit => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", r#"exec sv status "$0"/*/*"#]).arg(dir.join("scan"));
                Some(command)
            }
            Rival::Supervisord => Some(self.supervisorctl("status")),
        }
    }

    /// Changes one variable of the service of this number; the answer is the command that brings it
    /// about among all, if there is one.
    pub(crate) fn change(&self, number: usize, value: u64) -> Option<Command> {
        let path = self.dir.path().join("supervisord.conf");
        if self.rival != Rival::Supervisord {
            return None;
        }
        let text = fs::read_to_string(&path).unwrap();
        let head = format!("[program:s{number}]\n");
        let (before, rest) = text.split_once(&head).unwrap();
        let rest =
            rest.strip_prefix("environment=").map_or(rest, |old| old.split_once('\n').unwrap().1);
        fs::write(&path, format!("{before}{head}environment=VALUE=\"{value}\"\n{rest}")).unwrap();
        Some(self.supervisorctl("update"))
    }

    fn supervisorctl(&self, what: &str) -> Command {
        let mut command = Command::new("supervisorctl");
        command.arg("-c").arg(self.dir.path().join("supervisord.conf")).arg(what);
        command
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let below: Vec<u32> =
            self.roots.iter().flat_map(|root| processes::descendants(root.id())).collect();
        let signal = match self.rival {
            Rival::S6 | Rival::Supervisord => Signal::SIGTERM,
            // So that it ends its runsvs too, see runsvdir(8).
            Rival::Runit => Signal::SIGHUP,
        };
        for root in &self.roots {
            processes::signal(root.id(), signal);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut left = below;
        loop {
            let roots_left = self.roots.iter_mut().any(|root| matches!(root.try_wait(), Ok(None)));
            left.retain(|pid| !collected(*pid) && processes::is_alive(*pid));
            if left.is_empty() && !roots_left {
                return;
            }
            if Instant::now() > deadline {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        eprintln!("{} did not end all that it had started; that is killed", self.rival.name());
        for root in &mut self.roots {
            let _ = root.kill();
            let _ = root.wait();
        }
        // What is still there has come to us by now: nobody else can have its number.
        for pid in processes::descendants(std::process::id()) {
            if left.contains(&pid) {
                processes::signal(pid, Signal::SIGKILL);
            }
        }
    }
}

/// Whether it was our child and has ended; then nobody else waits for it.
fn collected(pid: u32) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(status) if status.pid().is_some())
}

/// Writes what is executed for a service: the program itself, or a script that becomes it.
fn run(path: &Path, command: &[OsString]) {
    if let [program] = command {
        return symlink(program, path).unwrap();
    }
    script(path, command);
}

fn script(path: &Path, command: &[OsString]) {
    let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
    fs::write(path, [b"#!/bin/sh\nexec ", &words.join(&b' ')[..], b"\n"].concat()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A word that is one word to sh(1), where nobody has put a quote into it.
fn quoted(word: &OsStr) -> Vec<u8> {
    assert!(!word.as_bytes().contains(&b'\''), "{word:?} has a quote");
    [b"'", word.as_bytes(), b"'"].concat()
}

fn s6(dir: &Path, commands: &[Vec<OsString>], logs: &[PathBuf]) -> Roots {
    let scan = dir.join("scan");
    fs::create_dir(&scan).unwrap();
    for (at, (command, log)) in commands.iter().zip(logs).enumerate() {
        let service = scan.join(format!("s{at}"));
        fs::create_dir_all(service.join("log")).unwrap();
        run(&service.join("run"), command);
        let logger = ["s6-log", "t", &format!("n{}", LOG_FILES - 1), &format!("s{LOG_BYTES}")];
        let logger = logger.iter().map(OsString::from).chain([log.as_os_str().to_owned()]);
        script(&service.join("log/run"), &logger.collect::<Vec<_>>());
    }
    let mut root = Command::new("s6-svscan");
    // A service with a log is two.
    root.arg("-c").arg((2 * commands.len() + 10).to_string()).arg(&scan);
    Roots::start(&mut [root])
}

fn runit(dir: &Path, commands: &[Vec<OsString>], logs: &[PathBuf]) -> Roots {
    let mut roots = Vec::new();
    let mut services = commands.iter().zip(logs).enumerate();
    loop {
        let scan = dir.join("scan").join(format!("d{}", roots.len()));
        fs::create_dir_all(&scan).unwrap();
        for (at, (command, log)) in services.by_ref().take(MOST_OF_RUNSVDIR) {
            let service = scan.join(format!("s{at}"));
            fs::create_dir_all(service.join("log")).unwrap();
            run(&service.join("run"), command);
            fs::write(log.join("config"), format!("s{LOG_BYTES}\nn{LOG_FILES}\n")).unwrap();
            let logger = ["svlogd", "-t"].into_iter().map(OsString::from);
            let logger = logger.chain([log.as_os_str().to_owned()]);
            script(&service.join("log/run"), &logger.collect::<Vec<_>>());
        }
        let mut root = Command::new("runsvdir");
        root.arg(&scan);
        roots.push(root);
        if services.len() == 0 {
            return Roots::start(&mut roots);
        }
    }
}

fn supervisord(dir: &Path, commands: &[Vec<OsString>], logs: &[PathBuf]) -> Roots {
    let socket = dir.join("s.sock");
    // Each program has a pipe in, a pipe out and a log.
    let files = 4 * commands.len() + 200;
    let mut text = format!(
        "[supervisord]\nnodaemon=true\nsilent=true\nlogfile={dir}/supervisord.log\n\
         pidfile={dir}/supervisord.pid\nchildlogdir={dir}\nminfds={files}\nuser={uid}\n\
         [unix_http_server]\nfile={socket}\n[supervisorctl]\nserverurl=unix://{socket}\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = \
         supervisor.rpcinterface:make_main_rpcinterface\n",
        dir = dir.display(),
        socket = socket.display(),
        uid = nix::unistd::getuid(),
    );
    for (at, (command, log)) in commands.iter().zip(logs).enumerate() {
        let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
        let command = String::from_utf8(words.join(&b' ')).unwrap();
        text.push_str(&format!(
            "[program:s{at}]\ncommand={command}\nautorestart=true\nredirect_stderr=true\n\
             stdout_logfile={log}/current\nstdout_logfile_maxbytes={LOG_BYTES}\n\
             stdout_logfile_backups={backups}\n",
            log = log.display(),
            backups = LOG_FILES - 1,
        ));
    }
    let path = dir.join("supervisord.conf");
    fs::write(&path, text).unwrap();
    let mut root = Command::new("supervisord");
    root.arg("-n").arg("-c").arg(&path);
    Roots::start(&mut [root])
}
