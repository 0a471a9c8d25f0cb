//! What is asked of an instance.

use super::*;

#[test]
fn it_is_ready_when_somebody_listens() {
    let daemon = Daemon::start();
    let address = address();
    let options = ["--ready-tcp", &address.to_string(), "--ready-interval", "20ms"];
    add(&daemon, Path::new("/bin/sleep"), "late", &options, &["1000"]);
    let starting = start(&daemon, "late");
    becomes(&daemon, "late", "starting");
    let _listener = TcpListener::bind(address).unwrap();
    done(starting);
    assert_eq!(daemon.info("late").observed.word(), "ready");
    assert_eq!(count(&daemon, "late", |kind| *kind == EventKind::Ready), 1);
}

#[test]
fn it_fails_when_it_is_not_ready_in_time_and_the_last_answer_says_why() {
    let daemon = Daemon::start();
    let address = address().to_string();
    let options = ["--ready-tcp", &address, "--ready-interval", "20ms", "--start-timeout", "300ms"];
    add(&daemon, Path::new("/bin/sleep"), "never", &options, &["1000"]);
    let error = start_fails(&daemon, "never");
    let reason = "it was not ready within 300ms: connection refused (ECONNREFUSED)";
    assert!(error.contains(reason), "{error}");
    let observed = becomes(&daemon, "never", "failed");
    assert!(matches!(observed, Observed::Failed { reason: told, .. } if told == reason));
    only(&daemon, &[]);
}

#[test]
fn what_is_not_well_is_started_again_or_only_shown() {
    let daemon = Daemon::start();
    let address = address();
    let status = Arc::new(AtomicU16::new(204));
    serve(address, status.clone());
    let url = format!("http://{address}/health?deep=1");
    let live = ["--ready-http", &url, "--live-http", &url, "--live-interval", "20ms"];
    add(&daemon, Path::new("/bin/sleep"), "left", &live, &["1000"]);
    let again = [&live[..], &["--restart", "on-failure"]].concat();
    add(&daemon, Path::new("/bin/sleep"), "again", &again, &["1000"]);
    daemon.ok(["runtime", "start", "left", "again"]);
    let before = [pid(&daemon, "left"), pid(&daemon, "again")];
    status.store(503, Ordering::Release);
    let observed = becomes(&daemon, "left", "unhealthy");
    assert!(matches!(observed, Observed::Unhealthy { reason, .. } if reason == "status 503"));
    let restarted = |kind: &EventKind| match kind {
        EventKind::BackOff { reason, .. } => reason == "it was not healthy: status 503",
        _ => false,
    };
    eventually("it is started again", || (count(&daemon, "again", restarted) > 0).then_some(()));
    status.store(302, Ordering::Release);
    becomes(&daemon, "left", "ready");
    becomes(&daemon, "again", "ready");
    assert_eq!(pid(&daemon, "left"), before[0]);
    assert_ne!(pid(&daemon, "again"), before[1]);
}

#[test]
fn a_command_says_whether_it_is_ready_and_well() {
    let daemon = Daemon::start();
    let [ready, ill, seen] = ["ready", "ill", "seen"].map(|name| daemon.dir().join(name));
    let probe = script(
        &daemon,
        "probe",
        &format!(
            "env > {seen}.new && pwd >> {seen}.new && mv {seen}.new {seen}\n\
             if [ -e {ill} ]; then echo all; echo 'the queue is stuck' >&2; exit 3; fi\n\
             test -e {ready}",
            seen = seen.display(),
            ill = ill.display(),
            ready = ready.display(),
        ),
    );
    let probe = probe.to_str().unwrap();
    let options = [
        "--ready-exec",
        probe,
        "--ready-interval",
        "20ms",
        "--ready-timeout",
        "1h",
        "--live-exec",
        probe,
        "--live-interval",
        "20ms",
        "--live-timeout",
        "1h",
        "--watchdog",
        "1h",
        "--env",
        "COLOUR=blue",
        "--cwd",
        "/usr",
    ];
    add(&daemon, Path::new("/bin/sleep"), "asked", &options, &["1000"]);
    let starting = start(&daemon, "asked");
    becomes(&daemon, "asked", "starting");
    let text = eventually("it is asked", || fs::read_to_string(&seen).ok());
    let id = daemon.info("asked").id;
    let main = pid(&daemon, "asked");
    for line in [
        "COLOUR=blue".to_owned(),
        "/usr".to_owned(),
        format!("ORCHESTRATOR_INSTANCE_ID={id}"),
        format!("ORCHESTRATOR_RUN={}", (1_u64 << 63) | 1),
        format!("MAINPID={main}"),
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert!(!text.contains("NOTIFY_SOCKET") && !text.contains("WATCHDOG_USEC"), "{text}");
    fs::write(&ready, "").unwrap();
    done(starting);
    fs::write(&ill, "").unwrap();
    let observed = becomes(&daemon, "asked", "unhealthy");
    let expected = "exit code 3: the queue is stuck";
    let Observed::Unhealthy { reason, .. } = observed else { panic!("{observed:?}") };
    assert_eq!(reason, expected);
    assert!(daemon.ok(["runtime", "list"]).contains(expected));
    fs::remove_file(&ill).unwrap();
    becomes(&daemon, "asked", "ready");
    // What it is asked by is no run of it, and prints nothing to its log.
    assert_eq!((daemon.info("asked").starts, pid(&daemon, "asked")), (1, main));
    assert_eq!(daemon.ok(["runtime", "logs", "--no-follow", "asked"]), "");
    daemon.ok(["runtime", "stop", "asked"]);
    only(&daemon, &[]);
}

#[test]
fn a_line_says_that_it_is_ready_on_either_stream_in_this_run() {
    let daemon = Daemon::start();
    for (name, stream) in [("out", 1), ("err", 2)] {
        let go = daemon.dir().join(format!("go-{name}"));
        let program = script(
            &daemon,
            name,
            &format!(
                "echo begun; while ! [ -e {go} ]; do sleep 0.01; done; rm {go}\n\
                 printf 'listening on ' >&{stream}; sleep 0.2; echo 'port 80' >&{stream}\n\
                 exec sleep 1000",
                go = go.display(),
            ),
        );
        add(&daemon, &program, name, &["--ready-output", "^listening on port [0-9]+$"], &[]);
        // The second run isn't ready by the first one's line.
        for _ in 0..2 {
            let starting = start(&daemon, name);
            becomes(&daemon, name, "starting");
            eventually("it prints", || {
                daemon
                    .ok(["runtime", "logs", "--no-follow", name])
                    .ends_with("begun\n")
                    .then_some(())
            });
            assert_eq!(daemon.info(name).observed.word(), "starting");
            fs::write(&go, "").unwrap();
            done(starting);
            assert_eq!(daemon.info(name).observed.word(), "ready");
            daemon.ok(["runtime", "stop", name]);
        }
    }
}

#[test]
fn what_was_printed_while_there_was_no_daemon_counts() {
    let daemon = Daemon::start();
    let go = daemon.dir().join("go");
    let program = script(
        &daemon,
        "late",
        &format!(
            "while ! [ -e {go} ]; do sleep 0.01; done; echo ready; echo told > {go}\n\
             exec sleep 1000",
            go = go.display(),
        ),
    );
    add(&daemon, &program, "late", &["--ready-output", "^ready$"], &[]);
    let starting = start(&daemon, "late");
    eventually("it is started", || daemon.info("late").observed.pid());
    stored(&daemon);
    let main = pid(&daemon, "late");
    let before = daemon.pid();
    processes::suspend(before);
    fs::write(&go, "").unwrap();
    eventually("it has printed", || (fs::read_to_string(&go).ok()? == "told\n").then_some(()));
    processes::signal(before, nix::sys::signal::Signal::SIGKILL);
    over(starting);
    processes::gone(before);
    becomes(&daemon, "late", "ready");
    assert_eq!(pid(&daemon, "late"), main);
}

#[test]
fn what_can_not_be_asked_is_refused_when_it_is_added() {
    let daemon = Daemon::start();
    for (options, reason) in [
        (["--ready-tcp", "localhost"], "has no port; write HOST:PORT"),
        (["--ready-tcp", "localhost:0"], "has no port from 1 to 65535"),
        (["--ready-tcp", "::1:80"], "IPv6 address without brackets"),
        (["--ready-http", "https://localhost/"], "TLS, which probes don't speak"),
        (["--ready-http", "localhost/health"], "write http://HOST:PORT/PATH"),
        (["--live-http", "ftp://localhost/"], "has the scheme ftp"),
        (["--ready-output", "("], "is no regular expression"),
        (["--ready-output", r"(\w{500}){500}"], "would take more than"),
        (["--ready-exec", "test -e /x"], "is not absolute"),
    ] {
        let error = refused(&daemon, &options);
        assert!(error.contains(reason), "{options:?}: {error}");
    }
}

#[test]
fn a_probe_that_hangs_leaves_nothing_behind() {
    let daemon = Daemon::start();
    let asked = daemon.dir().join("asked");
    let probe = script(
        &daemon,
        "probe",
        &format!(
            "trap '' TERM HUP INT; echo $$ >> {asked}; sleep 1000 & sleep 1000",
            asked = asked.display()
        ),
    );
    let options = [
        "--ready-exec",
        probe.to_str().unwrap(),
        "--ready-interval",
        "10ms",
        "--ready-timeout",
        "100ms",
        "--start-timeout",
        "1h",
    ];
    add(&daemon, Path::new("/bin/sleep"), "hangs", &options, &["1000"]);
    let asked_times = || fs::read_to_string(&asked).unwrap_or_default().lines().count();
    let starting = start(&daemon, "hangs");
    eventually("it is asked", || (asked_times() > 2).then_some(()));
    let files = |pid| processes::open_files(pid);
    let before = (files(daemon.holder_pid()), files(daemon.pid()));
    let main = pid(&daemon, "hangs");
    // Which leads its group: a shell that has forked looks the same until it executes something.
    let is_probe = |pid: &u32| {
        let own = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::unistd::getpgid(Some(own)) == Ok(own)
            && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.ends_with(b"/probe\0"))
    };
    let mut most = 0;
    eventually("it is asked again and again", || {
        let probes = daemon.processes().iter().filter(|pid| is_probe(pid)).count();
        most = most.max(probes);
        (asked_times() > 12).then_some(())
    });
    assert!(most <= 1, "{most} at once");
    daemon.ok(["runtime", "stop", "hangs"]);
    over(starting);
    only(&daemon, &[]);
    assert!(!processes::is_alive(main));
    eventually("no file is left open", || {
        let now = (files(daemon.holder_pid()), files(daemon.pid()));
        (now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
}

#[test]
fn probing_goes_on_when_the_daemon_is_killed() {
    let daemon = Daemon::start();
    let (asked, ready) = (daemon.dir().join("asked"), daemon.dir().join("ready"));
    let probe = script(
        &daemon,
        "probe",
        &format!(
            "echo $$ >> {asked}; [ -e {ready} ] && exit 0; sleep 1000 & wait",
            asked = asked.display(),
            ready = ready.display(),
        ),
    );
    let options = [
        "--ready-exec",
        probe.to_str().unwrap(),
        "--ready-interval",
        "10ms",
        "--ready-timeout",
        "1h",
    ];
    add(&daemon, Path::new("/bin/sleep"), "asked", &options, &["1000"]);
    let probes = || -> Vec<u32> {
        let text = fs::read_to_string(&asked).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let starting = start(&daemon, "asked");
    let main = eventually("it runs", || daemon.info("asked").observed.pid());
    stored(&daemon);
    for times in 1..4 {
        eventually("it is asked", || (probes().len() == times).then_some(()));
        daemon.replace_killed();
        // The one of before is killed, with what it had started.
        probes().iter().take(times).for_each(|pid| processes::gone(*pid));
    }
    over(starting);
    assert_eq!(daemon.info("asked").observed.word(), "starting");
    eventually("one is asked at a time", || {
        let [.., last] = probes()[..] else { return None };
        // The probe and its sleep.
        (probes().len() == 4 && processes::descendants(last).len() == 1).then_some(())
    });
    fs::write(&ready, "").unwrap();
    daemon.replace_killed();
    becomes(&daemon, "asked", "ready");
    assert_eq!((pid(&daemon, "asked"), daemon.info("asked").starts), (main, 1));
    only(&daemon, &[main]);
    assert_eq!(count(&daemon, "asked", |it| matches!(it, EventKind::Started { .. })), 1);
}

#[test]
fn probes_of_another_daemon_are_left_alone() {
    let daemon = Daemon::start();
    let asked = daemon.dir().join("asked");
    let probe =
        script(&daemon, "probe", &format!("echo $$ >> {}; exec sleep 1000", asked.display()));
    let options = ["--live-exec", probe.to_str().unwrap(), "--live-timeout", "1h"];
    add(&daemon, Path::new("/bin/sleep"), "asked", &options, &["1000"]);
    daemon.ok(["runtime", "start", "asked"]);
    let first = processes::pid_in(&asked);
    // Both look for what was left without a holder.
    let other = Daemon::start();
    other.replace_killed();
    assert!(processes::is_alive(first));
    assert_eq!(processes::pid_in(&asked), first);
}

#[test]
fn a_probe_whose_holder_was_killed_is_ended_by_the_next_daemon_and_nothing_else() {
    for way in [&[][..], &["--cgroup", "none"]] {
        let mut daemon = Daemon::start_with(way);
        let asked = daemon.dir().join("asked");
        let probe =
            script(&daemon, "probe", &format!("echo $$ >> {}; exec sleep 1000", asked.display()));
        let options = ["--live-exec", probe.to_str().unwrap(), "--live-timeout", "1h"];
        add(&daemon, Path::new("/bin/sleep"), "asked", &options, &["1000"]);
        daemon.ok(["runtime", "start", "asked"]);
        let first = processes::pid_in(&asked);
        let main = pid(&daemon, "asked");
        daemon.kill();
        assert!(processes::is_alive(first) && processes::is_alive(main));
        daemon.launch();
        processes::gone(first);
        becomes(&daemon, "asked", "ready");
        assert_eq!(pid(&daemon, "asked"), main);
        // Whatever it took to end the probe has been done by the time of the next one.
        let again = || {
            let pids = std::fs::read_to_string(&asked).ok()?;
            pids.lines().any(|it| it != first.to_string()).then_some(())
        };
        eventually("it is asked again", again);
        assert!(processes::is_alive(main), "{way:?}");
    }
}
