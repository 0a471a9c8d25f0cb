//! The number of a process is given to another one after its end. Whatever is done to an instance
//! whose process has ended, no signal reaches the stranger that has its number now.
//!
//! Numbers are made to come round in a pid namespace of this test's own, in which it says which
//! number is the next.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use orchestrator_proto::control::{EventKind, Exit};
use tests::{Daemon, binary, eventually, processes, skipped};

/// Set in the namespace.
const INSIDE: &str = "PID_REUSE_INSIDE";

/// Which number was given last in this pid namespace; see proc(5).
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// Runs the test of this name in a pid namespace of its own, in which this process is the init.
/// True if this is the namespace, and it is to be run.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // Not in there: it would be done for each test.
    binary("orchestrator");
    let user = ["--user", "--map-root-user"];
    let made = [&user[..], &[]].into_iter().find_map(|user| {
        let mut command = Command::new("unshare");
        command.args(user).args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        let mut probe = Command::new("unshare");
        probe.args(command.get_args()).args(["sh", "-c"]).arg(format!("echo 1000 > {LAST}"));
        probe.output().is_ok_and(|output| output.status.success()).then_some(command)
    });
    let Some(mut command) = made else {
        skipped("this user can't make a pid namespace and choose numbers in it");
        return false;
    };
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, "1").stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// A process that nobody but this test has started. Any signal that a stop may send ends it.
struct Stranger(Child);

impl Stranger {
    /// One with this number, which is free. It leads a process group, so that it is reached by
    /// signals to its group as well.
    #[track_caller]
    fn with(pid: u32) -> Self {
        eventually(&format!("a stranger has the number {pid}"), || {
            fs::write(LAST, (pid - 1).to_string()).unwrap();
            let mut command = Command::new("/bin/sleep");
            command.arg("1000").process_group(0).stdin(Stdio::null());
            let stranger = Self(command.spawn().unwrap());
            // Others begin too, each thread of the daemon among them.
            (stranger.0.id() == pid).then_some(stranger)
        })
    }

    #[track_caller]
    fn lives(&mut self, after: &str) {
        let ended = self.0.try_wait().unwrap();
        assert!(ended.is_none(), "after {after} the stranger ended: {ended:?}");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon with one instance, "victim", that runs; the answer is its process too.
fn victim() -> (Daemon, u32) {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "victim", "--stop-timeout", "200ms", "--", "1000"]);
    daemon.ok(["runtime", "start", "victim"]);
    let pid = daemon.info("victim").observed.pid().unwrap();
    // Where nothing but its start tells a process from the next one of its number, that has to be in
    // another tick of the clock.
    let started = processes::started(pid);
    eventually("the clock has gone on", || {
        let mut other = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let is_later = processes::started(other.id()) > started;
        other.kill().unwrap();
        other.wait().unwrap();
        is_later.then_some(())
    });
    (daemon, pid)
}

/// Everything that sends signals, in the end to all that there is.
fn do_everything(mut daemon: Daemon, stranger: &mut Stranger) {
    daemon.ok(["runtime", "stop", "victim"]);
    stranger.lives("a stop");
    daemon.ok(["runtime", "restart", "victim"]);
    stranger.lives("a restart");
    let pid = daemon.info("victim").observed.pid().unwrap();
    assert_ne!(pid, stranger.0.id());
    daemon.ok(["runtime", "stop", "victim"]);
    stranger.lives("a stop of what was started after it");
    daemon.ok(["runtime", "start", "victim"]);
    daemon.ok(["runtime", "remove", "--force", "victim"]);
    stranger.lives("a removal");
    assert!(daemon.terminate().success());
    stranger.lives("the end of the daemon");
}

/// Ends a process that is a child of nobody who lives, and collects it: then its number is free.
fn end_orphan(pid: u32) {
    eventually("it is ours", || processes::children(1).contains(&pid).then_some(()));
    processes::signal(pid, Signal::SIGKILL);
    waitpid(Pid::from_raw(pid.cast_signed()), None).unwrap();
}

/// Waits until the holder has collected a process.
fn collected(pid: u32) {
    eventually("it is collected", || processes::state(pid).is_none().then_some(()));
}

#[test]
fn after_an_end_that_is_known() {
    if !is_inside("after_an_end_that_is_known") {
        return;
    }
    let (daemon, pid) = victim();
    processes::signal(pid, Signal::SIGKILL);
    eventually("its end is known", || daemon.info("victim").observed.ended().map(drop));
    // It must not take the number itself, for a thread of its own.
    let own = daemon.pid();
    processes::suspend(own);
    let mut stranger = Stranger::with(pid);
    processes::signal(own, Signal::SIGCONT);
    do_everything(daemon, &mut stranger);
}

#[test]
fn a_stop_while_the_end_is_not_known_yet() {
    if !is_inside("a_stop_while_the_end_is_not_known_yet") {
        return;
    }
    for verb in ["stop", "restart"] {
        let (daemon, pid) = victim();
        let own = daemon.pid();
        processes::suspend(own);
        processes::signal(pid, Signal::SIGKILL);
        collected(pid);
        let mut stranger = Stranger::with(pid);
        // It waits in the socket, and is read together with the news of the end.
        let mut asking = daemon.cli_command(["runtime", verb, "victim"]).spawn().unwrap();
        eventually("it has asked", || match processes::state(asking.id()) {
            Some('S') => Some(()),
            _ => None,
        });
        processes::signal(own, Signal::SIGCONT);
        assert!(asking.wait().unwrap().success());
        stranger.lives(verb);
        do_everything(daemon, &mut stranger);
    }
}

#[test]
fn a_daemon_that_comes_after_one_that_did_not_know() {
    if !is_inside("a_daemon_that_comes_after_one_that_did_not_know") {
        return;
    }
    let (daemon, pid) = victim();
    let own = daemon.pid();
    processes::suspend(own);
    processes::signal(pid, Signal::SIGKILL);
    collected(pid);
    let mut stranger = Stranger::with(pid);
    processes::signal(own, Signal::SIGKILL);
    let exit = daemon.event("its end", |event| match event.kind {
        EventKind::Exited { exit, .. } => Some(exit),
        _ => None,
    });
    assert_eq!(exit, Exit::Signal { signal: 9, core_dumped: false });
    stranger.lives("the death of the daemon");
    do_everything(daemon, &mut stranger);
}

#[test]
fn a_holder_that_comes_after_one_that_was_killed() {
    if !is_inside("a_holder_that_comes_after_one_that_was_killed") {
        return;
    }
    let (mut daemon, pid) = victim();
    let own = daemon.pid();
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    processes::gone(own);
    end_orphan(pid);
    let mut stranger = Stranger::with(pid);
    daemon.launch();
    // It should run, so there is another one.
    eventually("it runs again", || {
        let now = daemon.info("victim").observed.pid()?;
        assert_ne!(now, pid);
        Some(())
    });
    stranger.lives("the next holder began");
    do_everything(daemon, &mut stranger);
}

#[test]
fn an_orphan_that_was_adopted_and_has_ended() {
    if !is_inside("an_orphan_that_was_adopted_and_has_ended") {
        return;
    }
    let (mut daemon, pid) = victim();
    let own = daemon.pid();
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    processes::gone(own);
    daemon.launch();
    eventually("it is adopted", || {
        (daemon.info("victim").observed.pid() == Some(pid)).then_some(())
    });
    let own = daemon.pid();
    processes::suspend(own);
    end_orphan(pid);
    let mut stranger = Stranger::with(pid);
    let mut asking = daemon.cli_command(["runtime", "stop", "victim"]).spawn().unwrap();
    processes::signal(own, Signal::SIGCONT);
    assert!(asking.wait().unwrap().success());
    stranger.lives("a stop of what was adopted");
    do_everything(daemon, &mut stranger);
}
