//! What an instance says of itself.

use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;

use super::*;

fn is_unhealthy(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Unhealthy { .. })
}

#[test]
fn it_is_ready_when_it_says_so_and_its_status_is_shown() {
    let daemon = Daemon::start();
    let go = daemon.dir().join("go").display().to_string();
    let args = [
        "say:STATUS=Loading 40 maps",
        &format!("file:{go}"),
        "say:READY=1\\nSTATUS=Serving 3 clients",
        "barrier",
    ];
    add_speaker(&daemon, "maps", &["--ready-notify"], &args);
    let starting = start(&daemon, "maps");
    says(&daemon, "maps", "Loading 40 maps");
    assert_eq!(daemon.info("maps").observed.word(), "starting");
    fs::write(&go, "").unwrap();
    done(starting);
    says(&daemon, "maps", "Serving 3 clients");
    assert_eq!(daemon.info("maps").observed.word(), "ready");
    assert!(daemon.ok(["runtime", "list"]).contains("maps says: Serving 3 clients"));
    let shown = daemon.ok(["runtime", "show", "maps"]);
    assert!(shown.lines().any(|line| line.starts_with("status:") && line.ends_with("3 clients")));
    // A new process has said nothing yet.
    fs::remove_file(&go).unwrap();
    let restarting =
        daemon.cli_command(["runtime", "restart", "maps"]).stdout(Stdio::null()).spawn().unwrap();
    says(&daemon, "maps", "Loading 40 maps");
    fs::write(&go, "").unwrap();
    done(restarting);
}

#[test]
fn one_that_does_not_say_so_in_time_has_failed() {
    let daemon = Daemon::start();
    let options = ["--ready-notify", "--start-timeout", "300ms"];
    add_speaker(&daemon, "mute", &options, &["say:STATUS=thinking", "say:READY=0"]);
    let error = start_fails(&daemon, "mute");
    assert!(error.contains("it was not ready within 300ms"), "{error}");
    // More time than that, if it asks for it.
    let go = daemon.dir().join("go").display().to_string();
    let args =
        ["say:EXTEND_TIMEOUT_USEC=60000000", "barrier", &format!("file:{go}"), "say:READY=1"];
    add_speaker(&daemon, "slow", &options, &args);
    let starting = start(&daemon, "slow");
    becomes(&daemon, "slow", "starting");
    let began = std::time::Instant::now();
    eventually("its first time is over", || (began.elapsed().as_millis() > 600).then_some(()));
    assert_eq!(daemon.info("slow").observed.word(), "starting");
    fs::write(&go, "").unwrap();
    done(starting);
}

#[test]
fn strangers_are_not_heard_and_children_are() {
    let daemon = Daemon::start();
    let (env, go) = (daemon.dir().join("env"), daemon.dir().join("go"));
    let args = [
        format!("env:{}", env.display()),
        format!("file:{}", go.display()),
        "child:READY=1\\nSTATUS=by a child".to_owned(),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let options = ["--ready-notify", "--watchdog", "1h"];
    add_speaker(&daemon, "parent", &options, &args);
    let starting = start(&daemon, "parent");
    let text = eventually("it runs", || fs::read_to_string(&env).ok());
    let path = text.lines().find_map(|line| line.strip_prefix("NOTIFY_SOCKET=")).unwrap();
    assert!(text.contains("WATCHDOG_USEC=3600000000\n") && !text.contains("WATCHDOG_PID="));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.send_to(b"READY=1\nSTATUS=by a stranger", path).unwrap();
    stranger.send_to(&[b'x'; 10_000], path).unwrap();
    let told = eventually("it is told of", || {
        let log = daemon.ok(["runtime", "logs", "--no-follow", "parent"]);
        log.contains("none of this instance's").then_some(log)
    });
    assert!(told.contains(&format!("a message of process {}", std::process::id())), "{told}");
    let info = daemon.info("parent");
    assert_eq!((info.observed.word(), info.status.as_str()), ("starting", ""));
    fs::write(go, "").unwrap();
    done(starting);
    says(&daemon, "parent", "by a child");
    // Without a need for it there is no socket.
    let env = daemon.dir().join("other");
    add_speaker(&daemon, "plain", &[], &[&format!("env:{}", env.display())]);
    daemon.ok(["runtime", "start", "plain"]);
    let text = eventually("it runs", || fs::read_to_string(&env).ok());
    assert!(!text.contains("NOTIFY_SOCKET") && !text.contains("WATCHDOG_USEC"), "{text}");
    // And it ends with the instance.
    daemon.ok(["runtime", "remove", "--force", "parent"]);
    assert!(!fs::exists(path).unwrap());
}

#[test]
fn one_that_does_not_say_that_it_is_alive_is_started_again() {
    let daemon = Daemon::start();
    let options = ["--watchdog", "400ms", "--restart", "on-failure"];
    add_speaker(&daemon, "steady", &options, &["every:50:WATCHDOG=1"]);
    add_speaker(&daemon, "stuck", &options, &["say:WATCHDOG=1"]);
    daemon.ok(["runtime", "start", "steady", "stuck"]);
    let main = pid(&daemon, "steady");
    eventually("it was started again twice", || (daemon.info("stuck").starts > 2).then_some(()));
    let told = kinds(&daemon, "stuck").into_iter().find(is_unhealthy).unwrap();
    let reason = "it did not say within 400ms that it is alive".to_owned();
    assert_eq!(told, EventKind::Unhealthy { reason });
    assert_eq!((daemon.info("steady").starts, pid(&daemon, "steady")), (1, main));
}

#[test]
fn one_that_says_that_it_is_not_well_is_stopped_at_once() {
    let daemon = Daemon::start();
    let options = ["--watchdog", "1h", "--restart", "on-failure"];
    add_speaker(&daemon, "ill", &options, &["say:WATCHDOG=trigger"]);
    daemon.ok(["runtime", "start", "ill"]);
    eventually("it was started again", || (daemon.info("ill").starts > 1).then_some(()));
    let told = kinds(&daemon, "ill").into_iter().find(is_unhealthy).unwrap();
    let reason = "it said that it is not well".to_owned();
    assert_eq!(told, EventKind::Unhealthy { reason });
}

#[test]
fn a_reload_is_shown_and_so_is_an_error() {
    let daemon = Daemon::start();
    let [again, error] = ["again", "error"].map(|name| daemon.dir().join(name));
    let args = [
        "say:READY=1".to_owned(),
        "say:RELOADING=1\\nMONOTONIC_USEC=12345".to_owned(),
        format!("file:{}", again.display()),
        "say:READY=1".to_owned(),
        format!("file:{}", error.display()),
        "say:STATUS=no place for maps\\nERRNO=28\\nMAINPID=1\\nFDSTORE=1".to_owned(),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    add_speaker(&daemon, "maps", &["--ready-notify"], &args);
    daemon.ok(["runtime", "start", "maps"]);
    says(&daemon, "maps", "reloading");
    assert_eq!(daemon.info("maps").observed.word(), "ready");
    fs::write(again, "").unwrap();
    says(&daemon, "maps", "");
    fs::write(error, "").unwrap();
    says(&daemon, "maps", "no place for maps: No space left on device (ENOSPC)");
    let log = daemon.ok(["runtime", "logs", "--no-follow", "maps"]);
    assert!(log.contains("MAINPID, FDSTORE in its messages has no effect"), "{log}");
}

#[test]
fn what_is_said_while_there_is_no_daemon_is_heard() {
    let daemon = Daemon::start();
    let [go, said] = ["go", "said"].map(|name| daemon.dir().join(name));
    let args = [
        format!("file:{}", go.display()),
        "say:STATUS=one".to_owned(),
        "say:READY=1".to_owned(),
        "say:STATUS=two".to_owned(),
        format!("write:{}", said.display()),
        "barrier".to_owned(),
        "say:STATUS=three".to_owned(),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    add_speaker(&daemon, "speaks", &["--ready-notify"], &args);
    let starting = start(&daemon, "speaks");
    eventually("it is started", || daemon.info("speaks").observed.pid());
    stored(&daemon);
    let (main, before) = (pid(&daemon, "speaks"), daemon.pid());
    processes::suspend(before);
    fs::write(&go, "").unwrap();
    eventually("it has spoken", || fs::exists(&said).unwrap().then_some(()));
    processes::signal(before, Signal::SIGKILL);
    over(starting);
    processes::gone(before);
    becomes(&daemon, "speaks", "ready");
    says(&daemon, "speaks", "three");
    assert_eq!((pid(&daemon, "speaks"), daemon.info("speaks").starts), (main, 1));
}

#[test]
fn the_watchdog_goes_on_when_the_daemon_is_killed() {
    let daemon = Daemon::start();
    let options = ["--ready-notify", "--watchdog", "2s", "--restart", "on-failure"];
    let args = ["say:READY=1", "every:50:WATCHDOG=1"];
    add_speaker(&daemon, "steady", &options, &args);
    daemon.ok(["runtime", "start", "steady"]);
    let main = pid(&daemon, "steady");
    for _ in 0..3 {
        daemon.replace_killed();
        assert_eq!(pid(&daemon, "steady"), main);
    }
    // It stops saying so.
    processes::signal(main, Signal::SIGSTOP);
    eventually("it is started again", || (daemon.info("steady").starts > 1).then_some(()));
    assert_eq!(count(&daemon, "steady", is_unhealthy), 1);
}

#[test]
fn a_runtime_says_through_its_socket_that_it_is_ready() {
    let daemon = Daemon::start();
    let go = daemon.dir().join("go").display().to_string();
    let args = [&format!("file:{go}"), "ready"];
    add_speaker(&daemon, "runtime", &["--ready-runtime"], &args);
    // To others it makes no difference.
    let options = ["--ready-notify", "--start-timeout", "1s"];
    add_speaker(&daemon, "other", &options, &["ready"]);
    let error = start_fails(&daemon, "other");
    assert!(error.contains("it was not ready within 1s"), "{error}");
    let starting = start(&daemon, "runtime");
    // Its program is executed, not about to be.
    eventually("it is started", || daemon.info("runtime").observed.pid());
    stored(&daemon);
    daemon.replace_killed();
    over(starting);
    assert_eq!(daemon.info("runtime").observed.word(), "starting");
    fs::write(go, "").unwrap();
    becomes(&daemon, "runtime", "ready");
    // That is kept.
    daemon.replace_killed();
    becomes(&daemon, "runtime", "ready");
}
