//! The whole program against a daemon that says what each test wants.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod fake;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use fake::{Done, Fake, bare_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestrator_proto::control::{
    ClientBody, Counters, Desired, Execution, Item, Limits, LinkInfo, LinkState, LogLine, LogRules,
    LogStream, Observed, Policy, Priority, Program, Reply, Request, RuntimeDetail, RuntimeInfo,
    RuntimeVitals, ServerBody, Supervision, TapMessage, TargetInfo, Transport, Vitals, Way,
};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, Millis, OsBytes, WireError};

const ZERO: &str = "00000000-0000-0000-0000-000000000000";

fn id() -> InstanceId {
    ZERO.parse().unwrap()
}

fn not_found(what: &str) -> ServerBody {
    ServerBody::Error(WireError::new(ErrorCode::NotFound, format!("no instance {what}")))
}

fn info(observed: Observed) -> RuntimeInfo {
    RuntimeInfo {
        id: id(),
        name: Some("ping".into()),
        program: "/bin/ping".into(),
        desired: Desired::Running,
        observed,
        priority: Priority::Normal,
        privileged: false,
        starts: 1,
        connections: 0,
        status: "3 of 4 cameras".into(),
        schedule: None,
        replica: None,
    }
}

fn detail(observed: Observed) -> Reply {
    Reply::Runtime(Box::new(RuntimeDetail {
        info: info(observed),
        args: Vec::new(),
        env: Vec::new(),
        cwd: "/".into(),
        copied: false,
        supervision: Supervision::default(),
        added_ms: 0,
        outputs: Vec::new(),
        inputs: Vec::new(),
        sent: 0,
        unrouted: 0,
        protocol_errors: 0,
        log: LogRules::default(),
        log_bytes_lost: 0,
        log_blocked: None,
        log_dir: "/log".into(),
        links: Vec::new(),
        execution: Execution::default(),
        limits: Limits::default(),
        limits_unmet: Vec::new(),
        vitals: Vitals::default(),
        exits: Vec::new(),
        listen: Vec::new(),
        reported: 0,
    }))
}

fn log(stream: LogStream, text: &[u8], complete: bool) -> Item {
    let text = OsBytes(text.to_vec());
    Item::Log(LogLine { instance: id(), name: None, time_ns: 0, stream, complete, text })
}

fn message(number: u32) -> Item {
    Item::Message(TapMessage {
        time_ns: 0,
        from: None,
        from_name: Some("ping".into()),
        type_name: "Ping".into(),
        links: 1,
        size: 1,
        payload: Ok(format!("{{\"n\":{number}}}")),
    })
}

#[test]
fn version_is_one_exact_line() {
    let done = Fake::new(|_| {}).run(&["version"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "server version: 1.2.3\n"));
    assert_eq!(done.stderr, "");
}

#[test]
fn without_a_daemon_the_path_and_the_command_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = bare_command().env("XDG_RUNTIME_DIR", dir.path()).arg("status").output().unwrap();
    let done = Done::from(output);
    let path = dir.path().join("orchestrator.socket");
    assert_eq!(done.code, Some(4));
    assert!(done.stderr.contains(&format!("reached at {}", path.display())), "{done:?}");
    let command = format!("`orchestrator --socket {}`", path.display());
    assert!(done.stderr.contains(&command), "{done:?}");

    let output = bare_command().args(["--json", "--socket", "/nonexistent", "status"]).output();
    let done = Done::from(output.unwrap());
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(done.code, Some(4));
    assert_eq!(error["error"]["code"], "not-reachable");
    assert!(error["error"]["causes"][0].as_str().unwrap().contains("No such file"));
}

#[test]
fn a_refused_hello_counts_as_not_reachable() {
    let done = Fake::with_hello(Some("too many clients"), |_| {}).run(&["status"]);
    assert_eq!(done.code, Some(4));
    assert!(done.stderr.contains("too many clients"));
}

#[test]
fn wrong_command_lines_are_2() {
    for args in [
        &["runtime", "add", "x", "--env", "NAME"][..],
        &["runtime", "add", "x", "--stop-timeout", "soon"],
        &["runtime", "stop"],
        &["link", "add", "--type", "T", "--to", "udp:nowhere"],
        &["link", "add", "--type", "T", "--to", "a", "--transport", "tcp"],
        &["link", "set", "1", "--transport", ""],
        &["link", "set", "1", "--transport"],
        &["link", "remove", "one"],
        &["nonsense"],
    ] {
        let output = bare_command().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn several_are_all_tried_and_told_in_the_order_given() {
    let fake = Fake::new(|peer| {
        let mut all: Vec<_> = (0..4).map(|_| peer.request().unwrap()).collect();
        // The last is done first.
        all.reverse();
        for (frame, request) in all {
            let Request::RuntimeStop { instance } = request else { panic!() };
            match instance.0.as_str() {
                "none" => assert!(peer.say(frame, not_found("none"))),
                "stuck" => {
                    let error = WireError::new(ErrorCode::WrongState, "stuck");
                    assert!(peer.say(frame, ServerBody::Error(error)));
                }
                name => peer.reply(frame, Reply::Stopped { id: id(), changed: name == "running" }),
            }
        }
    });
    let done = fake.run(&["runtime", "stop", "running", "none", "stuck", "idle"]);
    assert_eq!(done.code, Some(3));
    let expected = format!("stopped instance {ZERO}\ninstance {ZERO} was not running\n");
    assert_eq!(done.stdout, expected);
    assert_eq!(done.stderr, "error: no instance none\nerror: stuck\n");
}

#[test]
fn add_sends_absolute_paths_and_any_bytes() {
    let (told, asked) = std::sync::mpsc::sync_channel(1);
    let fake = Fake::answering(move |request| {
        told.send(request).unwrap();
        ServerBody::Reply(Reply::Added { id: id(), warnings: vec!["it is not there yet".into()] })
    });
    let odd = OsString::from_vec(vec![b'a', 0xff]);
    let mut env = OsString::from("K=");
    env.push(&odd);
    let output = fake
        .command()
        .current_dir(fake.dir.path())
        .args(["runtime", "add", "sub/../", "--cwd", "./work", "--name", "n"])
        .args(["--stop-signal", "int", "--stop-timeout", "500ms", "--env"])
        .arg(env)
        .arg("--")
        .args([odd.clone(), "--flag".into()])
        .output()
        .unwrap();
    let dir = fake.dir.path().canonicalize().unwrap();
    let done = fake.done(output);
    assert_eq!(done.stdout, format!("added instance {ZERO}\n"));
    assert_eq!(done.stderr, "warning: it is not there yet\n");
    let Request::RuntimeAdd(spec) = asked.recv().unwrap() else { panic!() };
    let Program::Path(path) = spec.program else { panic!() };
    assert!(path.as_path().is_absolute());
    assert!(path.to_string().ends_with("sub/../"), "{path}");
    assert_eq!(spec.cwd.unwrap().as_path(), dir.join("work"));
    assert_eq!(spec.args, [odd.clone().into(), "--flag".into()]);
    assert_eq!(spec.env, [("K".into(), odd.into())]);
    let [step] = spec.supervision.stop.steps[..] else {
        panic!("one signal");
    };
    assert_eq!((step.signal.0, step.wait.0), (2, 500));
    assert_eq!(spec.name.as_deref(), Some("n"));
}

#[test]
fn a_command_of_the_search_path_gets_a_hint() {
    let fake =
        Fake::answering(|_| ServerBody::Reply(Reply::Added { id: id(), warnings: Vec::new() }));
    let bin = fake.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let tool = bin.join("some-tool");
    std::fs::write(&tool, "").unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = fake
        .command()
        .current_dir(fake.dir.path())
        .env("PATH", &bin)
        .args(["runtime", "add", "some-tool"])
        .output()
        .unwrap();
    let done = fake.done(output);
    assert_eq!(done.code, Some(0));
    let hint = format!("did you mean {}?", tool.display());
    assert!(done.stderr.contains(&hint), "{}", done.stderr);
}

#[test]
fn a_copy_is_uploaded() {
    let fake = Fake::new(|peer| {
        let (frame, request) = peer.request().unwrap();
        let Request::RuntimeAdd(spec) = request else { panic!() };
        let expected = Program::Upload { file_name: "program".into(), size: 600_000 };
        assert_eq!(spec.program, expected);
        let mut received = 0;
        while let ClientBody::Chunk(chunk) = peer.next().unwrap().body {
            received += chunk.len();
        }
        assert_eq!(received, 600_000);
        peer.reply(frame, Reply::Added { id: id(), warnings: Vec::new() });
    });
    let program = fake.dir.path().join("program");
    std::fs::write(&program, vec![7; 600_000]).unwrap();
    let done = fake.run(&["runtime", "add", program.to_str().unwrap(), "--copy"]);
    assert_eq!(done.stdout, format!("added instance {ZERO}\n"));
    assert_eq!(done.stderr, "");
}

#[test]
fn stdout_is_byte_for_byte_and_follows_what_runs() {
    let running = Observed::Ready { pid: 1, since_ms: 0 };
    let never = Observed::Stopped { last_exit: None, at_ms: None };
    for (observed, expected) in [(running, true), (never, false)] {
        let fake = Fake::new(move |peer| {
            let (frame, _) = peer.request().unwrap();
            peer.reply(frame, detail(observed));
            let (frame, request) = peer.request().unwrap();
            let Request::Logs(query) = request else { panic!() };
            assert_eq!(query.follow, expected);
            assert_eq!(query.stream, Some(LogStream::Stdout));
            let lines = [
                log(LogStream::Stdout, b"\xff\x00part", false),
                log(LogStream::Orchestrator, b"a gap", true),
                log(LogStream::Stdout, b" end", true),
                log(LogStream::Stdout, b"open", false),
            ];
            peer.items(frame, lines);
            peer.say(frame, ServerBody::End);
        });
        let output = fake.command().args(["runtime", "stdout", "ping"]).output().unwrap();
        assert_eq!(output.stdout, b"\xff\x00part end\nopen");
        let done = fake.done(output);
        assert_eq!(done.code, Some(0));
        assert_eq!(done.stderr, "warning: orchestrator: a gap\n");
    }
}

#[test]
fn logs_follow_as_a_flag_says_whatever_runs() {
    let fake = Fake::new(|peer| {
        // What is meant may be a set of replicas.
        let (frame, request) = peer.request().unwrap();
        assert!(matches!(request, Request::RuntimeShow { .. }), "{request:?}");
        peer.reply(frame, detail(Observed::Stopped { last_exit: None, at_ms: None }));
        let (frame, request) = peer.request().unwrap();
        let Request::Logs(query) = request else { panic!() };
        assert!(query.follow && query.stream.is_none() && query.tail == Some(2));
        peer.items(frame, [log(LogStream::Stderr, b"x", true)]);
        peer.say(frame, ServerBody::End);
    });
    let done = fake.run(&["runtime", "logs", "ping", "-f", "--tail", "2"]);
    assert_eq!(done.stdout, "x\n");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let fake = Fake::new(|peer| {
        let (frame, _) = peer.request().unwrap();
        while peer.say(frame, ServerBody::Item(message(1))) {}
    });
    let mut child = fake
        .command()
        .args(["link", "tap"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let done = fake.done(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn ctrl_c_is_130() {
    let fake = Fake::new(|peer| {
        let (frame, _) = peer.request().unwrap();
        peer.items(frame, [message(1)]);
        assert!(peer.request().is_none());
    });
    let mut child = fake.command().args(["link", "tap"]).stdout(Stdio::piped()).spawn().unwrap();
    // One item is there at once, although the stream goes on.
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let done = fake.done(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(130));
}

#[test]
fn a_tap_ends_after_its_count_and_prints_one_object_a_line() {
    let fake = Fake::new(|peer| {
        let (frame, _) = peer.request().unwrap();
        let missed = Item::Missed { count: 3, reason: "too slow".into() };
        peer.items(frame, [message(1), missed, message(2), message(3)]);
        assert!(peer.request().is_none());
    });
    let done = fake.run(&["link", "tap", "--count", "2", "--json"]);
    let lines: Vec<serde_json::Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(done.code, Some(0));
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["message"]["payload"]["n"], 1);
    assert_eq!(lines[1]["missed"]["count"], 3);
    assert_eq!(lines[2]["message"]["payload"]["n"], 2);
}

#[test]
fn a_failed_start_is_listed_with_its_reason() {
    let failed = Observed::Failed {
        reason: "No such file or directory (os error 2)".into(),
        exit: None,
        at_ms: 0,
    };
    let vitals = Vitals { restarts: 3, restarts_on_end: 2, ..Vitals::default() };
    let list = move |request| {
        let (info, vitals) = (info(failed.clone()), vitals.clone());
        ServerBody::Reply(match request {
            Request::ReplicaSets => Reply::ReplicaSets(Vec::new()),
            _ => Reply::Vitals(vec![RuntimeVitals { info, vitals }]),
        })
    };
    let done = Fake::answering(list.clone()).run(&["runtime", "list"]);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert!(lines[0].starts_with("ID   "), "{}", done.stdout);
    assert!(lines[1].starts_with(&format!("{ZERO}  ping  failed  -")), "{}", done.stdout);
    assert!(lines[1].contains("3 (2 on end)  -"), "{}", done.stdout);
    assert!(lines[1].ends_with("-     /bin/ping"), "{}", done.stdout);
    let reason = "ping has failed: No such file or directory (os error 2)";
    assert_eq!(lines[2..], ["", reason]);

    let done = Fake::answering(list).run(&["--json", "runtime", "list"]);
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(json["runtimes"][0]["name"], "ping");
    assert_eq!(json["runtimes"][0]["vitals"]["restarts_on_end"], 2);
}

#[test]
fn a_mismatched_link_is_listed_with_its_reason() {
    let error = WireError::new(ErrorCode::SchemaMismatch, "u8 is not u16");
    let link = LinkInfo { state: LinkState::Mismatched { error }, ..link(7) };
    let list = move |_| ServerBody::Reply(Reply::Links(vec![link.clone()]));
    let done = Fake::answering(list).run(&["link", "list", "--color", "always"]);
    assert!(done.stdout.contains("\u{1b}["), "colours were asked for");
    assert!(done.stdout.contains("link 7 is mismatched: u8 is not u16"));
}

#[test]
fn a_link_that_is_to_be_direct_and_is_not_is_listed_with_its_reason() {
    let why = Some("ping does\u{1b} not run".to_owned());
    let direct = |id| LinkInfo { transport: Transport::Direct, why: why.clone(), ..link(id) };
    let links = vec![
        direct(7),
        LinkInfo { why: None, ..direct(8) },
        LinkInfo { way: Way::Direct, why: None, ..direct(9) },
        // Nobody has asked for more.
        LinkInfo { transport: Transport::Auto, ..direct(10) },
    ];
    let list = move |_| ServerBody::Reply(Reply::Links(links.clone()));
    let done = Fake::answering(list.clone()).run(&["link", "list"]);
    let lines: Vec<_> = done.stdout.lines().collect();
    let column = |line: usize| lines[line].split_whitespace().nth(5).unwrap();
    assert_eq!([0, 1, 3, 4].map(column), ["TRANSPORT", "routed", "direct", "routed"]);
    assert_eq!(
        lines[5..8],
        [
            "",
            "link 7 is routed, not direct: ping does\\u{1b} not run",
            "link 8 is routed, not direct",
        ]
    );
    assert_eq!(lines.len(), 8, "{}", done.stdout);

    let done = Fake::answering(list).run(&["--json", "link", "list"]);
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let shown = |at: usize| ["transport", "way", "why"].map(|key| json["links"][at][key].clone());
    assert_eq!(shown(1), ["direct".into(), "routed".into(), serde_json::Value::Null]);
    assert_eq!(shown(3)[2], "ping does\u{1b} not run");
}

#[test]
fn counters_that_are_as_the_ends_say_are_marked() {
    let counters = |sent| Counters { sent, ..Counters::default() };
    let links = vec![
        LinkInfo { counters: counters(1200), ..link(7) },
        LinkInfo { counters: counters(1300), reported: 900, ..link(8) },
    ];
    let of = |links: Vec<LinkInfo>| {
        Fake::answering(move |_| ServerBody::Reply(Reply::Links(links.clone())))
    };
    let done = of(links.clone()).run(&["link", "list"]);
    let lines: Vec<_> = done.stdout.lines().collect();
    let sent = |line: usize| lines[line].split_whitespace().nth(7).unwrap();
    assert_eq!([0, 1, 2].map(sent), ["SENT", "1200", "1300*"]);
    assert_eq!(lines.len(), 5, "{}", done.stdout);
    assert!(lines[4].starts_with("* what went directly is counted as its two ends say"));
    let done = of(links[..1].to_vec()).run(&["link", "list"]);
    assert_eq!(done.stdout.lines().count(), 2, "{}", done.stdout);
    let done = of(links).run(&["--json", "link", "list"]);
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!([0, 1].map(|at| json["links"][at]["reported"].clone()), [0, 900]);
}

fn link(id: u64) -> LinkInfo {
    LinkInfo {
        id: LinkId(id),
        from: None,
        from_name: None,
        type_name: "Ping".into(),
        to: TargetInfo::Udp { address: "h:1".into() },
        policy: Policy::Latest,
        capacity: 1,
        state: LinkState::Open,
        counters: Counters::default(),
        part_of: None,
        block_timeout: Millis::ZERO,
        history: 0,
        transport: Transport::Auto,
        spin_us: 0,
        way: Way::Routed,
        why: None,
        calls: None,
        reported: 0,
    }
}

#[test]
fn restart_and_start_have_their_own_words() {
    for (verb, expected) in [("start", "started"), ("restart", "restarted")] {
        let fake = Fake::answering(|_| {
            ServerBody::Reply(Reply::Started {
                id: id(),
                pid: 1,
                changed: true,
                warnings: Vec::new(),
            })
        });
        let done = fake.run(&["runtime", verb, "ping"]);
        assert_eq!(done.stdout, format!("{expected} instance {ZERO}\n"));
    }
}

#[test]
fn completions_and_manual_need_no_daemon() {
    for args in [&["completions", "bash"][..], &["man"], &["--help"]] {
        let output = bare_command().args(args).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}");
    }
}
