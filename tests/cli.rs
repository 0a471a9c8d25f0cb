//! The command line against a real daemon: what scripts and people rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{Daemon, Said, binary, eventually, processes, skipped};

fn cli(args: &[&str]) -> Said {
    let mut command = Command::new(binary("orchestrator-cli"));
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("ORCHESTRATOR_SOCKET")
        .env_remove("XDG_RUNTIME_DIR");
    Said::of(command)
}

/// The names of the commands below this one, as its help shows them.
fn commands(path: &[&str]) -> Vec<String> {
    let said = cli(&[path, &["--help"]].concat());
    let list = said.stdout.split("\nCommands:\n").nth(1).unwrap_or("");
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn the_version_is_the_servers_and_exactly_as_documented() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ok(["version"]), "server version: 0.1.0\n");
    assert_eq!(daemon.json(["version"])["version"]["server"], "0.1.0");
    assert_eq!(cli(&["--version"]).stdout, "orchestrator-cli 0.1.0\n");
}

#[test]
fn exit_codes_tell_what_kind_of_failure_it_was() {
    let daemon = Daemon::start();
    daemon.add(["/nonexistent/x", "--name", "broken"]);
    for (args, code) in [
        (&["version"][..], 0),
        (&["runtime", "list"], 0),
        (&["runtime", "start", "broken"], 1),
        (&["runtime", "add", "relative-to-here", "--name", "broken"], 1),
        (&["runtime", "--help"], 0),
        (&[], 2),
        (&["runtime"], 2),
        (&["nonsense"], 2),
        (&["runtime", "start"], 2),
        (&["runtime", "list", "--nonsense"], 2),
        (&["runtime", "start", "broken", "--priority", "highest"], 2),
        (&["runtime", "start", "nobody"], 3),
        (&["runtime", "stop", "nobody"], 3),
        (&["runtime", "restart", "nobody"], 3),
        (&["runtime", "remove", "nobody"], 3),
        (&["runtime", "show", "nobody"], 3),
        (&["runtime", "logs", "nobody"], 3),
        (&["runtime", "stdout", "nobody"], 3),
        (&["events", "--instance", "nobody"], 3),
        (&["link", "tap", "--from", "nobody"], 3),
        (&["link", "remove", "99"], 3),
        (&["--socket", "/nonexistent/socket", "version"], 4),
        (&["--socket", "/etc/passwd", "version"], 4),
    ] {
        let said = daemon.cli(args);
        assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
        match code {
            0 => assert_eq!(said.stderr, "", "{args:?}"),
            2 => assert!(said.stdout.is_empty() && !said.stderr.is_empty(), "{said:?}"),
            _ => assert!(
                said.stdout.is_empty() && said.stderr.starts_with("error: "),
                "{args:?}: {said:?}"
            ),
        }
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named_with_the_command_that_starts_it() {
    let daemon = Daemon::prepare(&[]);
    let said = daemon.cli(["runtime", "list"]);
    assert_eq!(said.code, Some(4));
    let socket = daemon.socket().to_str().unwrap();
    assert!(said.stderr.contains(socket), "{said:?}");
    let start = format!("`orchestrator --socket {socket}`");
    assert!(said.stderr.contains(&start), "{said:?}");
    // The command that it names does start one.
    let said = daemon.cli(["--json", "runtime", "list"]);
    let error: Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "not-reachable");
}

#[test]
fn the_flag_goes_before_the_variable() {
    let daemon = Daemon::start();
    let mut command = daemon.cli_command(["version", "--socket"]);
    command.arg(daemon.socket()).env("ORCHESTRATOR_SOCKET", "/nonexistent/socket");
    assert_eq!(Said::of(command).code, Some(0));
}

#[test]
fn json_of_every_command_can_be_parsed() {
    let daemon = Daemon::start();
    let json = |args: &[&str]| daemon.json(args);
    let id = &json(&["runtime", "add", "/bin/sleep", "--name", "nap", "--", "1000"])["added"]["id"];
    assert_eq!(id.as_str().unwrap().len(), 36);
    json(&["runtime", "add", "/nonexistent/x", "--name", "broken"]);
    json(&["runtime", "add", "/bin/true", "--name", "copy", "--copy"]);
    let started = json(&["runtime", "start", "nap"]);
    assert_eq!(started["started"]["changed"], true);
    assert_eq!(json(&["runtime", "start", "nap"])["started"]["changed"], false);
    let pid = started["started"]["pid"].as_u64().unwrap();
    let shown = json(&["runtime", "show", "nap"]);
    assert_eq!(shown["runtime"]["info"]["observed"]["ready"]["pid"], pid);
    assert_eq!(shown["runtime"]["info"]["id"], *id);
    assert_eq!(shown["runtime"]["args"][0], "1000");
    let listed = json(&["runtime", "list"]);
    assert_eq!(listed["runtimes"].as_array().unwrap().len(), 3);
    let link = json(&["link", "add", "--from", "nap", "--type", "T", "--to", "copy"]);
    assert_eq!(link["link-added"]["created"], true);
    let links = json(&["link", "list"]);
    assert_eq!(links["links"][0]["type_name"], "T");
    assert_eq!(links["links"][0]["counters"]["sent"], 0);
    assert_eq!(json(&["status"])["status"]["running"], 1);
    json(&["version"]);
    json(&["runtime", "restart", "nap"]);
    assert_eq!(json(&["runtime", "stop", "nap"])["stopped"]["changed"], true);
    json(&["link", "remove", "1"]);
    json(&["runtime", "remove", "copy"]);
    let events = daemon.ok(["--json", "events"]);
    assert!(events.lines().count() > 5);
    for line in events.lines() {
        let item: Value = serde_json::from_str(line).unwrap();
        assert!(item["event"]["seq"].is_u64(), "{line}");
    }
    assert_eq!(json(&["clear"])["cleared"]["runtimes"], 2);

    // Failures too, on standard error and alone there.
    for args in [
        &["runtime", "start", "nobody"][..],
        &["runtime", "logs", "nobody"],
        &["link", "remove", "9"],
        &["events", "--instance", "nobody"],
    ] {
        let said = daemon.cli(["--json"].iter().chain(args));
        assert_eq!((said.code, said.stdout.as_str()), (Some(3), ""), "{said:?}");
        let error: Value = serde_json::from_str(&said.stderr).unwrap();
        assert_eq!(error["error"]["code"], "not-found");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
    daemon.add(["/nonexistent/x", "--name", "broken"]);
    let said = daemon.cli(["--json", "runtime", "start", "broken"]);
    let error: Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "spawn-failed");
    let causes = error["error"]["causes"].to_string();
    assert!(causes.contains("ENOENT"), "{causes}");
}

#[test]
fn every_command_has_help_with_an_example() {
    let mut seen = 0;
    let mut todo: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        for flag in ["-h", "--help"] {
            let said = cli(&[&words[..], &[flag]].concat());
            assert_eq!(said.code, Some(0), "{path:?}");
            assert!(said.stdout.contains("Example"), "{path:?}: {}", said.stdout);
            assert!(said.stdout.contains("Usage:"), "{path:?}: {}", said.stdout);
        }
        for name in commands(&words) {
            todo.push([&path[..], &[name]].concat());
        }
        seen += 1;
    }
    // All of them, not only the first page.
    assert!(seen >= 22, "{seen} commands");
}

#[test]
fn completions_and_manual_pages_are_printed_without_a_daemon() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = cli(&["completions", shell]);
        assert_eq!(said.code, Some(0));
        assert!(said.stdout.contains("orchestrator-cli"), "{shell}");
        // It asks this program, see seeing/complete.rs.
        assert!(said.stdout.contains("_ORCHESTRATOR_CLI_COMPLETE"), "{shell}");
    }
    let mut bash = Command::new("bash");
    bash.args(["-n", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
    if let Ok(mut child) = bash.spawn() {
        let script = cli(&["completions", "bash"]).stdout;
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    } else {
        skipped("bash is not there, so its script was not checked");
    }
    let man = cli(&["man"]);
    assert_eq!(man.code, Some(0));
    assert!(man.stdout.contains(".TH orchestrator-cli 1"), "{}", man.stdout);
    let dir = tempfile::tempdir().unwrap();
    let said = cli(&["man", dir.path().to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(fs::read_dir(dir.path()).unwrap().count() >= 22);
}

#[test]
fn pipes_get_no_escape_codes_unless_they_are_asked_for() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.add(["/nonexistent/x", "--name", "broken"]);
    daemon.ok(["runtime", "start", "nap"]);
    let commands: [&[&str]; 7] = [
        &["runtime", "list"],
        &["runtime", "show", "nap"],
        &["status"],
        &["link", "list"],
        &["events"],
        &["runtime", "start", "broken"],
        &["runtime", "--help"],
    ];
    for args in commands {
        let said = daemon.cli(args);
        assert!(!said.stdout.contains('\u{1b}') && !said.stderr.contains('\u{1b}'), "{said:?}");
    }
    let said = daemon.cli(["--color", "always", "runtime", "list"]);
    assert!(said.stdout.contains('\u{1b}'), "{said:?}");
}

#[test]
fn other_peoples_text_can_not_steer_a_terminal() {
    let daemon = Daemon::start();
    let dir = daemon.dir().join("\u{1b}[31m");
    fs::create_dir(&dir).unwrap();
    let program = dir.join("x");
    let mut command = daemon.cli_command(["runtime", "add", "--name", "odd"]);
    command.arg(&program).args(["--", "\u{1b}]0;title\u{7}", "two\nlines"]);
    let said = Said::of(command);
    assert!(!said.stderr.contains('\u{1b}'), "{said:?}");
    for args in [
        &["runtime", "list"][..],
        &["runtime", "show", "odd"],
        &["runtime", "start", "odd"],
        &["runtime", "show", "\u{1b}[31m"],
        &["events"],
    ] {
        let said = daemon.cli(args);
        let text = said.stdout + &said.stderr;
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{args:?}: {text:?}");
    }
}

#[test]
fn several_ids_at_once_are_each_told_of_and_one_that_fails_stops_no_other() {
    let daemon = Daemon::start();
    let ids: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| daemon.add(["/bin/sleep", "--name", name, "--", "1000"]))
        .collect();
    let said = daemon.ok(["runtime", "start", "c", "a", "b"]);
    let wanted = format!(
        "started instance {}\nstarted instance {}\nstarted instance {}\n",
        ids[2], ids[0], ids[1]
    );
    assert_eq!(said, wanted);
    let said = daemon.cli(["runtime", "stop", "a", "nobody", "b"]);
    assert_eq!(said.code, Some(3));
    let wanted = format!("stopped instance {}\nstopped instance {}\n", ids[0], ids[1]);
    assert_eq!(said.stdout, wanted);
    assert!(said.stderr.contains("nobody"), "{said:?}");
    // The same one twice is one start.
    let said = daemon.ok(["runtime", "start", "a", "a", &ids[0]]);
    assert_eq!(said.lines().count(), 3);
    assert_eq!(daemon.info("a").starts, 2);
    daemon.ok(["runtime", "restart", "a", "c"]);
    let said = daemon.cli(["runtime", "remove", "a", "b", "c"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.stdout, format!("removed instance {}\n", ids[1]));
    daemon.ok(["runtime", "remove", "--force", "a", "c"]);
    assert_eq!(daemon.status().runtimes, 0);
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let daemon = Daemon::start();
    daemon.add(["/usr/bin/yes", "--name", "yes"]);
    daemon.ok(["runtime", "start", "yes"]);
    let mut command = daemon.cli_command(["runtime", "stdout", "yes"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    drop(lines);
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty());
}

#[test]
fn who_follows_events_is_told_everything_up_to_the_end() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.ok(["runtime", "start", "nap"]);
    let mut command = daemon.cli_command(["events", "--follow"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("accepts requests"), "{line}");
    daemon.terminate();
    let status = eventually("it ends", || child.try_wait().unwrap());
    let stderr = child.wait_with_output().unwrap().stderr;
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    let text: String = lines.lines().map_while(Result::ok).collect();
    assert!(text.contains("is shutting down") && text.contains("nap stopped"), "{text}");
}

#[test]
fn who_follows_a_daemon_that_is_killed_is_told_that_it_is_gone() {
    let daemon = Daemon::start();
    let mut command = daemon.cli_command(["events", "--follow"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    processes::signal(daemon.pid(), nix::sys::signal::Signal::SIGKILL);
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let stderr = child.wait_with_output().unwrap().stderr;
    assert!(!stderr.is_empty());
}

#[test]
fn tables_have_a_head_and_a_line_for_each() {
    let daemon = Daemon::start();
    assert_eq!(daemon.ok(["runtime", "list"]).lines().count(), 1);
    assert_eq!(daemon.ok(["link", "list"]).lines().count(), 1);
    let id = daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.ok(["runtime", "start", "nap"]);
    let list = daemon.ok(["runtime", "list"]);
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert!(lines[0].starts_with("ID "), "{list}");
    // The id is whole in a pipe, so that scripts can use it.
    let words: Vec<_> = lines[1].split_whitespace().collect();
    let pid = daemon.info("nap").observed.pid().unwrap();
    assert_eq!(words[..4], [id.as_str(), "nap", "ready", &pid.to_string()]);
    assert!(processes::is_alive(pid));
    let status = daemon.ok(["status"]);
    assert!(status.contains("1 instance, 1 running"), "{status}");
}
