//! What is wrong changes nothing, and is said where it is.

use std::fs;

use tests::{Daemon, Said};

use super::{apply, names, pid, run, sleeper, write};

#[test]
fn an_error_in_one_place_changes_nothing() {
    let daemon = Daemon::start();
    apply(&daemon, &sleeper("a", ""), &[]);
    let (a, events) = (pid(&daemon, "a"), daemon.ok(["events"]));
    let changed = sleeper("a", "env = { A = \"1\" }") + &sleeper("b", "");
    let bad = [
        // Found by the command line.
        sleeper("c", "restrat = \"always\""),
        // Found by the daemon.
        sleeper("c", "env = { VEECLE_IPC_SOCKET = \"x\" }"),
        "[[link]]\ntype = \"T\"\nto = \"nobody\"\n".to_owned(),
        format!("[instance.c]\nprogram = \"/bin/sleep\"\nargs = [\"{}\"]\n", "x".repeat(1 << 20)),
    ];
    for bad in bad {
        let said = run(&daemon, "apply", &format!("{changed}{bad}"), &["--prune"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("error: "), "{said:?}");
        assert_eq!((names(&daemon), pid(&daemon, "a")), (vec!["a".to_owned()], a), "{said:?}");
        assert_eq!(daemon.ok(["events"]), events);
    }
    let circle = sleeper("b", "requires = [\"a\"]") + &sleeper("a", "after = [\"b\"]");
    let said = run(&daemon, "apply", &circle, &[]);
    assert!(said.stderr.contains("it would have to wait for itself: b → a → b"), "{said:?}");
    // Part of the circle is there already, and not in the manifest.
    apply(&daemon, &(sleeper("a", "") + &sleeper("b", "requires = [\"a\"]")), &[]);
    let said = run(&daemon, "apply", &sleeper("a", "requires = [\"b\"]"), &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("it would have to wait for itself: a → b → a"), "{said:?}");
}

#[test]
fn all_errors_are_told_with_their_places() {
    let daemon = Daemon::start();
    let text = "[instance.a]\nprogram = \"/bin/a\"\nrestrat = \"always\"\nargs = \"x\"\n\
                [[link]]\ntype = \"T\"\n";
    let path = write(&daemon, text);
    let shown = path.to_str().unwrap();
    for args in [vec!["validate", shown], vec!["apply", shown]] {
        let said = daemon.cli(args);
        let expected = format!(
            "error: {shown}:3:1: there is no key \"restrat\" here\nhint: did you mean `restart`?\n\
             error: {shown}:4:8: a list of texts in brackets is expected here, not a text\n\
             error: {shown}:5:1: a link has no `to`: who gets its messages\n\
             error: {shown} has 3 errors\n"
        );
        assert_eq!((said.code, said.stderr), (Some(1), expected));
    }
    let said = daemon.cli(["--json", "validate", shown]);
    let error: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "invalid-manifest");
    assert_eq!(error["error"]["causes"].as_array().unwrap().len(), 3);
}

#[test]
fn validate_and_schema_need_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchestrator.toml");
    let cli = |args: &[&str]| {
        let mut command = std::process::Command::new(tests::binary("orchestrator-cli"));
        command.current_dir(dir.path()).env("ORCHESTRATOR_SOCKET", "/nonexistent").args(args);
        Said::of(command)
    };
    fs::write(&path, sleeper("a", "requires = [\"b\"]")).unwrap();
    let said = cli(&["validate"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.stdout, "orchestrator.toml is good: 1 instance, 0 links\n");
    assert!(said.stderr.starts_with("warning: orchestrator.toml:1:11: a needs or waits for \"b\""));
    let said = cli(&["validate", "orchestrator.toml", "none.toml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("none.toml: it can't be read: No such file"), "{said:?}");
    let said = cli(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(schema["properties"]["instance"].is_object());
    // Only what needs a daemon says that there is none.
    assert_eq!(cli(&["apply"]).code, Some(4));
}
