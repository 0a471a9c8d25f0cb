//! What an init does for the orchestrator: starts it, again when it was killed, and collects
//! orphans. All that is below this test is what the test has started, so nobody else is ever
//! looked at or signalled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::Request;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tests::{binary, block_on, processes};

use crate::account::{Worker, started};

/// How long anything that should happen soon may take on a busy machine.
pub(crate) const SOON: Duration = tests::SOON;

/// The machine that the orchestrator runs on, for as long as one round.
pub(crate) struct Host {
    /// Everything of this round.
    pub(crate) dir: PathBuf,
    holder: Mutex<Child>,
    /// The holder's number, or 0 while there is none: for the one who collects.
    current: AtomicU32,
    ended: AtomicBool,
    /// When holders were killed, and when the next one was at work, milliseconds since 1970.
    pub(crate) gaps: Mutex<Vec<(u64, u64)>>,
}

/// Which of the orchestrator's own processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Daemon,
    Capture,
}

impl Host {
    /// Begins with a first holder. From now on orphans below this process come to it.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        for name in ["accounts", "locks", "orders", "received", "violations"] {
            fs::create_dir(dir.join(name))?;
        }
        let child = command(dir)?.spawn()?;
        let current = AtomicU32::new(child.id());
        let host = Self {
            dir: dir.to_owned(),
            holder: Mutex::new(child),
            current,
            ended: AtomicBool::new(false),
            gaps: Mutex::default(),
        };
        Ok(host)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("o.sock")
    }

    /// The holder that is there now, if any.
    pub(crate) fn holder(&self) -> Option<u32> {
        Some(self.current.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// One of its processes, if it is there.
    pub(crate) fn find(&self, part: Part) -> Option<u32> {
        let name = match part {
            Part::Daemon => "orchestrator",
            Part::Capture => "orch-capture",
        };
        let holder = self.holder();
        everything().into_iter().find(|pid| {
            Some(*pid) != holder
                && processes::is_alive(*pid)
                && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim() == name)
        })
    }

    /// Kills the holder, and starts another one, as systemd would after `pause`: again if
    /// it says that its place is taken, for its predecessor's daemon may be about to end.
    pub(crate) fn replace_holder(&self, pause: Duration) -> Result<(), String> {
        let mut child = self.holder.lock().unwrap();
        let began = now_ms();
        self.current.store(0, Ordering::Release);
        child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
        std::thread::park_timeout(pause);
        let deadline = Instant::now() + SOON;
        let mut attempts = 0;
        loop {
            attempts += 1;
            // Known from the beginning: whatever comes of it, it is the one that is to be ended.
            *child = command(&self.dir)
                .and_then(|mut command| command.spawn())
                .map_err(|error| error.to_string())?;
            let up = loop {
                // Connections are taken before the daemon is at work, and a holder whose first one
                // is killed before that ends with it.
                if block_on(answers(&self.socket())) {
                    break true;
                }
                if let Ok(Some(_)) = child.try_wait() {
                    break false;
                }
                if Instant::now() > deadline {
                    return Err(format!(
                        "no daemon is at work {SOON:?} after its holder was killed"
                    ));
                }
                std::thread::park_timeout(Duration::from_millis(2));
            };
            if up {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{attempts} holders ended at once after one was killed"));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.current.store(child.id(), Ordering::Release);
        self.gaps.lock().unwrap().push((began, now_ms()));
        Ok(())
    }

    /// Tells the holder to start its daemon now, if it waits to do so. If there is one after all,
    /// that is one more that dies.
    pub(crate) fn hurry(&self) {
        if let Some(pid) = self.holder() {
            processes::signal(pid, nix::sys::signal::Signal::SIGUSR1);
        }
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(&self) -> Result<(), String> {
        let mut child = self.holder.lock().unwrap();
        processes::signal(child.id(), nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if Instant::now() > deadline {
                // Who follows its events waits for its end.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("it has not ended {SOON:?} after SIGTERM"));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        };
        if status.success() { Ok(()) } else { Err(format!("after SIGTERM it ended with {status}")) }
    }

    /// Collects orphans until the round has ended.
    pub(crate) fn collect(&self) {
        while !self.ended.load(Ordering::Acquire) {
            self.collect_once();
            std::thread::park_timeout(Duration::from_millis(3));
        }
    }

    /// Collects those that came from holders that were killed.
    pub(crate) fn collect_once(&self) {
        for pid in processes::zombies(std::process::id()) {
            // A holder is for who waits for it, and so is one that is just being started.
            if !fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "orchestrator")
                || !self.is_holder(pid)
            {
                let pid = Pid::from_raw(pid.cast_signed());
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
        }
    }

    /// Whether a zombie was started by us and not by a holder. While one is being replaced, all
    /// that bear the name are left alone.
    fn is_holder(&self, pid: u32) -> bool {
        self.holder().is_none_or(|holder| holder == pid)
    }

    /// No orphan is collected any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
        // Nothing outlives a test that failed.
        for _ in 0..1000 {
            let all = everything();
            if all.iter().all(|pid| !processes::is_alive(*pid)) {
                break;
            }
            for pid in all {
                processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
            self.collect_once();
            let _ = self.holder.get_mut().unwrap().try_wait();
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Whether a daemon is at work.
async fn answers(socket: &Path) -> bool {
    let asked = async { Client::connect(socket).await.ok()?.request(Request::Status).await.ok() };
    tokio::time::timeout(Duration::from_millis(500), asked).await.is_ok_and(|it| it.is_some())
}

fn command(dir: &Path) -> io::Result<Command> {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("daemon.log"))?;
    let mut command = Command::new(binary("orchestrator"));
    command
        .arg("--socket")
        .arg(dir.join("o.sock"))
        .arg("--state-dir")
        .arg(dir.join("state"))
        // Nothing that is to be checked is deleted.
        .args(["--instance-log-files", "1000"])
        .env_remove("ORCHESTRATOR_SOCKET")
        .env("ORCHESTRATOR_LOG", "debug")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Ok(command)
}

/// All processes that this test has started, and those that they have.
pub(crate) fn everything() -> Vec<u32> {
    processes::descendants(std::process::id())
}

/// The workers that are alive and have an account.
pub(crate) fn workers(dir: &Path) -> Vec<Worker> {
    everything()
        .into_iter()
        .filter(|pid| processes::is_alive(*pid))
        .filter_map(|pid| Worker::of(dir, pid))
        .collect()
}

/// Sends a signal to exactly this process: not to another one that has its number now.
pub(crate) fn signal_exactly(pid: u32, ticks: u64, signal: i32) -> bool {
    let Some(signal) = Signal::from_named_raw(signal) else { return false };
    let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) else { return false };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let raw = pid.as_raw_nonzero().get().cast_unsigned();
    started(raw) == Some(ticks)
        && processes::is_alive(raw)
        && pidfd_send_signal(&pidfd, signal).is_ok()
}

/// Milliseconds since 1970 (UTC).
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
