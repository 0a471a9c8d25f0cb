//! What instances print: every byte of it, for whoever reads or follows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::Read;
use std::process::Stdio;

use orchestrator_proto::control::{Exit, LogQuery, LogStream};
use tests::logs::{Follower, Gate, bytes, detail, lines, query, read, run};
use tests::{Daemon, eventually, processes};

#[test]
fn each_stream_has_its_own_lines_and_logs_has_them_all() {
    let daemon = Daemon::start();
    daemon.add_script("two", "echo out; echo err >&2; echo out2; echo the end");
    run(&daemon, "two");
    let cat = |verb| daemon.ok(["runtime", verb, "--no-follow", "--timestamps", "two"]);
    let plain = |verb| daemon.ok(["runtime", verb, "--no-follow", "two"]);
    assert_eq!(plain("stdout"), "out\nout2\nthe end\n");
    eventually("the other stream is there too", || (plain("stderr") == "err\n").then_some(()));
    let all = cat("logs");
    assert_eq!(all.lines().count(), 4);
    for line in all.lines() {
        let mut words = line.splitn(3, ' ');
        let time = words.next().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
        let (stream, text) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(stream, if text == "err" { "stderr" } else { "stdout" });
    }
    // An instance that does not run is not followed.
    assert_eq!(daemon.ok(["runtime", "stdout", "two"]), "out\nout2\nthe end\n");
    assert_eq!(daemon.cli(["runtime", "stdout", "nobody"]).code, Some(3));
}

#[test]
fn bytes_arrive_exactly_as_they_were_printed() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("bytes");
    // Every byte, empty lines, carriage returns, zeros, and long lines.
    let mut wanted: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    wanted.extend(b"\n\n\r\n\0\0\n\xff\xfe\n\x1b[31mred\n");
    wanted.extend(vec![b'x'; 100_000]);
    wanted.extend(b"\nthe end\n");
    fs::write(&file, &wanted).unwrap();
    daemon.add(["/bin/cat", "--name", "cat", "--", file.to_str().unwrap()]);
    run(&daemon, "cat");
    let items = read(&daemon, query("cat", false));
    assert!(bytes(&items, LogStream::Stdout) == wanted);
    let output = daemon.cli_command(["runtime", "stdout", "--no-follow", "cat"]).output().unwrap();
    assert!(output.stdout == wanted);
    assert_eq!(detail(&daemon, "cat").log_bytes_lost, 0);
}

#[test]
fn output_without_a_newline_at_the_end_is_not_lost() {
    let daemon = Daemon::start();
    daemon.add_script("prompt", "printf 'name? '; exec sleep 1000");
    daemon.ok(["runtime", "start", "prompt"]);
    // While it runs, and without a newline that would end the line.
    eventually("the prompt is there", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "prompt"]) == "name? ").then_some(())
    });
    daemon.add_script("last", "printf 'a\\nb'");
    daemon.ok(["runtime", "start", "last"]);
    eventually("the last line is there", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "last"]) == "a\nb").then_some(())
    });
}

#[test]
fn what_was_printed_before_a_stop_is_there_when_the_stop_is_done() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = format!(
        "trap 'seq 1 20000; echo bye; exit 0' TERM; echo $$ > {}; sleep 1000 & wait",
        file.display()
    );
    daemon.add_script("wordy", &script);
    for round in 1..=3 {
        daemon.ok(["runtime", "start", "wordy"]);
        processes::pid_in(&file);
        fs::remove_file(&file).unwrap();
        daemon.ok(["runtime", "stop", "wordy"]);
        let text = daemon.ok(["runtime", "stdout", "--no-follow", "wordy"]);
        assert_eq!(text.lines().count(), 20_001 * round);
        assert!(text.ends_with("20000\nbye\n"));
    }
}

#[test]
fn tail_and_since_choose_lines() {
    let daemon = Daemon::start();
    daemon.add_script("count", "seq 1 100; echo err >&2; echo the end");
    run(&daemon, "count");
    let tail = |count| {
        let args = ["runtime", "stdout", "--no-follow", "--tail", count, "count"];
        daemon.ok(args)
    };
    assert_eq!(tail("3"), "99\n100\nthe end\n");
    assert_eq!(tail("0"), "");
    assert_eq!(tail("1000").lines().count(), 101);
    let since = |time: &str| {
        let args = ["runtime", "stdout", "--no-follow", "--since", time, "count"];
        daemon.ok(args)
    };
    assert_eq!(since("1h").lines().count(), 101);
    assert_eq!(since("2099-01-01T00:00:00Z"), "");
    // From a line on, to the nanosecond.
    let items = read(&daemon, query("count", false));
    let lines = lines(&items);
    let from = lines[60].time_ns;
    let query = LogQuery { since_ns: Some(from), ..query("count", false) };
    let wanted = lines.iter().filter(|line| line.time_ns >= from).count();
    assert_eq!(read(&daemon, query).len(), wanted);
    for (flag, value) in [("--tail", "1000001"), ("--tail", "-1"), ("--since", "yesterday")] {
        let said = daemon.cli(["runtime", "stdout", "count", flag, value]);
        assert_eq!(said.code, Some(2), "{said:?}");
    }
}

#[test]
fn a_follower_sees_new_lines_at_once_and_over_restarts_until_the_removal() {
    let daemon = Daemon::start();
    let pipe = Gate::new(&daemon);
    let script = format!("echo begin; exec cat {pipe}");
    daemon.add_script("cat", &script);
    let mut early = Follower::new(&daemon, &["runtime", "stdout", "--follow", "cat"]);
    daemon.ok(["runtime", "start", "cat"]);
    assert_eq!(early.line(), "begin\n");
    // One line at a time: each is seen before the next is printed.
    let say = |text: &str| pipe.say(text);
    say("one\n");
    assert_eq!(early.line(), "one\n");
    assert_eq!(daemon.exited("cat"), Exit::Code(0));
    daemon.ok(["runtime", "start", "cat"]);
    assert_eq!(early.line(), "begin\n");
    let mut late = Follower::new(&daemon, &["runtime", "stdout", "--tail", "2", "-f", "cat"]);
    assert_eq!([late.line(), late.line()], ["one\n", "begin\n"]);
    say("two\n");
    assert_eq!([early.line(), late.line()], ["two\n", "two\n"]);
    daemon.ok(["runtime", "remove", "--force", "cat"]);
    for mut follower in [early, late] {
        assert_eq!(follower.line(), "");
        let status = eventually("the follower ends", || follower.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_running_instance_is_followed_unless_told_otherwise() {
    let daemon = Daemon::start();
    daemon.add_script("chatty", "echo one; exec sleep 1000");
    daemon.ok(["runtime", "start", "chatty"]);
    let mut follower = Follower::new(&daemon, &["runtime", "stdout", "chatty"]);
    assert_eq!(follower.line(), "one\n");
    assert!(follower.child.try_wait().unwrap().is_none());
    assert_eq!(daemon.ok(["runtime", "stdout", "--no-follow", "chatty"]), "one\n");
    // Ctrl-C ends it as a shell expects.
    processes::signal(follower.child.id(), nix::sys::signal::Signal::SIGINT);
    let status = eventually("it ends", || follower.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}

#[test]
fn json_has_one_item_on_each_line() {
    let daemon = Daemon::start();
    daemon.add_script("two", "printf 'a\\377\\n'; echo the end");
    run(&daemon, "two");
    let text = daemon.ok(["--json", "runtime", "logs", "--no-follow", "two"]);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["log"]["text"], "a\u{fffd}");
    assert_eq!(lines[1]["log"]["stream"], "stdout");
    let mut plain = Vec::new();
    let mut command = daemon.cli_command(["runtime", "stdout", "two"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_to_end(&mut plain).unwrap();
    child.wait().unwrap();
    assert_eq!(plain, b"a\xff\nthe end\n");
}
