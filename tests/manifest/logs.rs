//! What is kept of what an instance prints: said in a manifest, and changed while it prints.

use std::fs;

use orchestrator_proto::control::{Exit, LogQuery, LogStream};
use tests::logs::{bytes, detail, files, log_dir, query, read};
use tests::{Daemon, eventually};

use super::{apply, pid, run, sleeper};

/// One that prints numbers, from 0 on, until there is a file `stop`.
fn flood(daemon: &Daemon, keys: &str) -> String {
    let script = format!(
        "n=0; while [ ! -e {} ] && [ $n -lt 10000000 ]; do seq $n $((n+9999)); n=$((n+10000)); \
         done; echo the end",
        daemon.dir().join("stop").display()
    )
    .replace('$', "$$");
    format!("[instance.flood]\nprogram = \"/bin/sh\"\nargs = [\"-c\", '{script}']\n{keys}\n")
}

#[test]
fn rules_change_in_a_flood_without_a_restart_and_no_line_is_missing() {
    let daemon = Daemon::start();
    let all = "log-keep = 10000\n";
    apply(&daemon, &flood(&daemon, &format!("{all}log-max-size = \"64KiB\"")), &[]);
    let before = (pid(&daemon, "flood"), daemon.info("flood").starts);
    let dir = log_dir(&daemon, &daemon.info("flood").id.to_string());
    let changes = [
        (
            "log-compress = \"zstd\"",
            "+     log-compress = \"zstd\"\n-     log-max-size = \"64KiB\"\n",
        ),
        ("log-compress = \"zstd\"\nlog-max-size = \"64KiB\"", "+     log-max-size = \"64KiB\"\n"),
        (
            "log-max-age = \"1ms\"\nlog-max-size = \"1MiB\"",
            "-     log-max-size = \"64KiB\"\n+     log-max-size = \"1MiB\"\n\
             +     log-max-age = \"1ms\"\n-     log-compress = \"zstd\"\n",
        ),
        ("", "-     log-max-size = \"1MiB\"\n-     log-max-age = \"1ms\"\n"),
    ];
    for (keys, shown) in changes {
        let count = files(&dir).len();
        let said = apply(&daemon, &flood(&daemon, &format!("{all}{keys}")), &[]);
        let expected = format!(
            "~ instance flood\n{shown}0 added, 1 changed, 0 removed; 0 instances and 0 links as \
             wanted\n"
        );
        assert_eq!(said, expected);
        if keys.contains("ms") || keys.contains("64KiB") {
            eventually("there are more files", || (files(&dir).len() > count + 3).then_some(()));
        }
    }
    assert_eq!((pid(&daemon, "flood"), daemon.info("flood").starts), before);
    fs::write(daemon.dir().join("stop"), "").unwrap();
    assert_eq!(daemon.exited("flood"), Exit::Code(0), "{}", daemon.log());
    let last = || LogQuery { tail: Some(1), ..query("flood", false) };
    let items = eventually("its last line is in the log", || {
        let there = bytes(&read(&daemon, last()), LogStream::Stdout) == b"the end\n";
        there.then(|| read(&daemon, query("flood", false)))
    });
    let text = String::from_utf8(bytes(&items, LogStream::Stdout)).unwrap();
    let mut lines = text.lines().filter(|line| *line != "the end");
    assert!((0_u64..).zip(&mut lines).all(|(number, line)| line == number.to_string()));
    assert_eq!(bytes(&items, LogStream::Orchestrator), b"");
    // Fewer are kept at once, and what is kept now is all that is read.
    assert!(files(&dir).len() > 4);
    apply(&daemon, &flood(&daemon, "log-keep = 2\nstate = \"stopped\""), &[]);
    eventually("the oldest files are gone", || (files(&dir).len() == 2).then_some(()));
    let kept = bytes(&read(&daemon, query("flood", false)), LogStream::Stdout);
    assert!(kept.ends_with(b"the end\n") && text.as_bytes().ends_with(&kept));
}

#[test]
fn they_are_exported_shown_and_outlive_the_daemon() {
    let daemon = Daemon::start();
    daemon.add([
        "/bin/sleep",
        "--name",
        "a",
        "--log-max-size",
        "64MiB",
        "--log-max-age",
        "1d",
        "--log-keep",
        "10",
        "--log-compress",
        "zstd",
        "--log-when-full",
        "drop",
        "--",
        "1000",
    ]);
    let exported = daemon.ok(["export"]);
    let keys = "log-max-size = \"64MiB\"\nlog-max-age = \"1d\"\nlog-keep = 10\n\
                log-compress = \"zstd\"\nlog-when-full = \"drop\"\n";
    assert!(exported.contains(keys), "{exported}");
    assert_eq!(run(&daemon, "diff", &exported, &["--prune"]).code, Some(0));
    // A manifest that says nothing of it means the defaults, as of everything else.
    apply(&daemon, &sleeper("a", "log-keep = 3"), &[]);
    let log = detail(&daemon, "a").log;
    assert_eq!((log.keep, log.max_size, log.max_age.0), (Some(3), None, 0));
    let shown = daemon.ok(["runtime", "show", "a"]);
    assert!(shown.contains("3 kept, block when full"), "{shown}");
    daemon.replace_killed();
    assert_eq!(detail(&daemon, "a").log, log);
    let defaults = "[defaults]\nlog-keep = 3\n";
    let text = format!("{defaults}{}", sleeper("a", ""));
    assert_eq!(run(&daemon, "diff", &text, &[]).code, Some(0));
}

#[test]
fn what_can_not_be_is_refused_by_the_file_and_by_the_daemon() {
    let daemon = Daemon::start();
    let said = run(&daemon, "apply", &sleeper("a", "log-max-size = \"1KiB\"\nlog-keep = 0"), &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains(":4:1: log-max-size: 1KiB is not 64KiB to 64GiB"), "{said:?}");
    assert!(said.stderr.contains(":5:12: 0 is not 1 to 10000"), "{said:?}");
    let options = [("--log-max-size", "1KiB", "64KiB to 64GiB"), ("--log-keep", "0", "1 to 10000")];
    for (option, value, expected) in options {
        let said = daemon.cli(["runtime", "add", "/bin/true", option, value]);
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains(expected), "{said:?}");
    }
    let said = daemon.cli(["runtime", "add", "/bin/true", "--log-max-age", "400d"]);
    assert!(said.stderr.contains("log-max-age: 400d is more than a year"), "{said:?}");
}
