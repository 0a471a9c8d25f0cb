//! What is refused, and with which sentence; and what help says.

use orchestrator_proto::ErrorCode;
use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{
    Condition, OnFailure, Program, Replicas, Request, Requirement, RuntimeSpec,
};
use tests::{Daemon, Said, binary};

use super::{SLEEP, add, names, refused};

#[test]
fn names_that_collide_are_refused() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "1", SLEEP, &[]);
    daemon.add_script("single", SLEEP);
    daemon.add_script("other.7", SLEEP);
    let before = names(&daemon);
    let cases = [
        (&["--name", "worker"][..], "the name \"worker\" is taken by a set of replicas"),
        (&["--name", "worker.1"], "the name \"worker.1\" is kept for a replica of worker"),
        (
            &["--name", "worker.99"],
            "choose another one, or use `runtime scale` to give worker more",
        ),
        (&["--name", "worker", "--replicas", "2"], "is taken by a set of replicas"),
        (&["--name", "single", "--replicas", "2"], "taken by an instance; remove that, or choose"),
        (&["--name", "other", "--replicas", "2"], "the name \"other.7\" of one of its replicas is"),
        (&["--name", "worker.3", "--replicas", "2"], "is kept for a replica of worker"),
    ];
    for (flags, expected) in cases {
        let args = [&["runtime", "add", "/bin/true"], flags].concat();
        let error = refused(&daemon, &args);
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
    assert_eq!(names(&daemon), before);
    // No replica can have such a name.
    daemon.add_script("worker.0", SLEEP);
    daemon.add_script("worker.257", SLEEP);
    daemon.add_script("worker.x", SLEEP);
}

#[test]
fn what_is_no_set_can_not_be_scaled() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "1", SLEEP, &[]);
    daemon.add_script("single", SLEEP);
    let cases = [
        (&["single", "2"], 1, "is no set of replicas; remove it, and add it with --replicas"),
        (&["worker.1", "2"], 1, "worker.1 is one replica of worker; scale worker"),
        (&["nobody", "2"], 3, "there is no instance \"nobody\""),
        (&["worker", "257"], 2, "a set can have 256 replicas at most, not 257"),
        (&["worker", "some"], 2, "\"some\" is not a number from 0 to 256"),
    ];
    for (args, code, expected) in cases {
        let said = daemon.cli([&["runtime", "scale"], &args[..]].concat());
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.stderr.contains(expected), "{said:?}");
    }
}

#[test]
fn specs_that_can_not_be_are_refused_by_the_daemon_too() {
    let daemon = Daemon::start();
    let good = || RuntimeSpec {
        name: Some("w".into()),
        replicas: Some(Replicas(2)),
        ..RuntimeSpec::new("/bin/true")
    };
    let id = "0195fc7b-33e6-70e3-bee1-ac515185fac7".parse().unwrap();
    let upload = Program::Upload { file_name: "a".into(), size: 1 };
    let bad = [
        (RuntimeSpec { name: None, ..good() }, "has a name"),
        (RuntimeSpec { name: Some("x".repeat(61)), ..good() }, "at most 60 characters"),
        (RuntimeSpec { name: Some("a b".into()), ..good() }, "characters other than"),
        (RuntimeSpec { replicas: Some(Replicas(257)), ..good() }, "256 replicas at most"),
        (RuntimeSpec { id: Some(id), ..good() }, "an id of its own"),
        (RuntimeSpec { program: upload, ..good() }, "where it is; leave --copy out"),
        (
            RuntimeSpec { listen: vec!["tcp:127.0.0.1:1".parse().unwrap()], ..good() },
            "leave --listen out",
        ),
        (
            RuntimeSpec { env: vec![("ORCHESTRATOR_REPLICA".into(), "7".into())], ..good() },
            "set by the daemon itself",
        ),
    ];
    let failed = |request: Request| match daemon.request(request) {
        Err(ClientError::Failed(error)) => error,
        other => panic!("{other:?}"),
    };
    for (spec, expected) in bad {
        let error = failed(Request::RuntimeAdd(spec));
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
    let mut itself = good();
    itself.supervision.requires = vec![Requirement {
        instance: "w".into(),
        condition: Condition::Ready,
        on_failure: OnFailure::Stop,
    }];
    let error = failed(Request::RuntimeAdd(itself));
    assert!(error.message.contains("it would have to wait for itself"), "{error}");
    daemon.request(Request::RuntimeAdd(good())).unwrap();
    let scale = Request::RuntimeScale { set: "w".into(), replicas: Replicas(u32::MAX) };
    assert_eq!(failed(scale).code, ErrorCode::InvalidArgument);
    assert_eq!(names(&daemon), ["w.1", "w.2"]);
}

#[test]
fn there_is_a_bound_on_links_between_sets() {
    let daemon = Daemon::start();
    for set in ["a", "b"] {
        add(&daemon, set, "0", SLEEP, &[]);
    }
    daemon.ok(["link", "add", "--from", "a", "--type", "T", "--to", "b"]);
    daemon.ok(["runtime", "scale", "a", "2"]);
    assert_eq!(daemon.links().len(), 1);
    daemon.ok(["runtime", "scale", "b", "3"]);
    assert_eq!(daemon.links().len(), 7);
    let error = refused(&daemon, &["link", "add", "--from", "a", "--type", "", "--to", "b"]);
    assert!(error.contains("1 to 255 bytes"), "{error}");
}

#[test]
fn help_says_how_with_an_example() {
    let help = |args: &[&str]| {
        let mut command = std::process::Command::new(binary("orchestrator-cli"));
        command.args(args);
        Said::of(command).stdout
    };
    let scale = help(&["runtime", "scale", "--help"]);
    assert!(scale.contains("orchestrator-cli runtime scale worker 5"), "{scale}");
    assert!(scale.contains("--wait") && scale.contains("--timeout"), "{scale}");
    let add = help(&["runtime", "add", "--help"]);
    assert!(add.contains("--name worker --replicas 3"), "{add}");
    assert!(add.contains("ORCHESTRATOR_REPLICA"), "{add}");
    let schema = help(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let instance = &schema["properties"]["instance"]["additionalProperties"]["properties"];
    assert_eq!(instance["replicas"]["maximum"], 256);
    assert_eq!(instance["replicas"]["minimum"], 0);
}
