//! What clients send that they should not, on the control socket: it harms them and nobody
//! else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use orchestrator_proto::Millis;
use orchestrator_proto::control::{
    ClientBody, ClientFrame, EventKind, Exit, LinkSpec, LogQuery, MAGIC, MAX_CHUNK, PROTOCOL,
    Program, Reply, Request, RuntimeSpec, ServerBody, Signal as StopSignal, StopStep, TapFilter,
    TargetSpec,
};
use orchestrator_proto::frame::{self, MAX_CONTROL};
use orchestrator_proto::{ErrorCode, InstanceId, OsBytes, WireError};
use sha2::{Digest, Sha256};
use tests::control::Control;
use tests::{Daemon, Said, eventually, processes, skipped};

/// xorshift64*: the same bytes for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let count = 1 + self.next() % most;
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

#[track_caller]
fn error(body: ServerBody) -> WireError {
    match body {
        ServerBody::Error(error) => error,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[track_caller]
fn code(body: ServerBody) -> ErrorCode {
    error(body).code
}

fn events(follow: bool) -> Request {
    Request::Events { follow, after: Some(0), since_ms: None, instance: None }
}

fn show(instance: &str) -> Request {
    Request::RuntimeShow { instance: instance.into() }
}

#[test]
fn what_is_no_frame_ends_one_connection_with_the_reason() {
    let daemon = Daemon::start();
    let mut other = Control::connect(daemon.socket());
    for length in [0, MAX_CONTROL + 1, u32::MAX as usize] {
        let prefix = u32::try_from(length).unwrap();
        let reason = match length {
            0 => "a frame of length 0".to_owned(),
            _ => format!("a frame of {length} bytes; at most {MAX_CONTROL} are allowed"),
        };
        let mut client = Control::connect(daemon.socket());
        client.bytes(&prefix.to_le_bytes());
        let frame = client.frame().expect("it says why");
        assert_eq!(frame.id, 0);
        let error = error(frame.body);
        assert_eq!(error.code, ErrorCode::Malformed);
        assert!(error.message.contains(&reason), "{error:?}");
        assert!(client.frame().is_none());
        assert!(other.is_usable());
        // The same instead of a hello.
        let mut client = Control::silent(daemon.socket());
        client.bytes(&prefix.to_le_bytes());
        let _ = client.hello(MAGIC, PROTOCOL);
    }
}

#[test]
fn the_end_of_a_stream_in_the_middle_of_a_frame_is_an_end() {
    let daemon = Daemon::start();
    let whole = frame::encode(
        &ClientFrame { id: 1, body: ClientBody::Request(show("nobody")) },
        MAX_CONTROL,
    )
    .unwrap();
    for cut in 1..whole.len() {
        let mut client = Control::connect(daemon.socket());
        client.bytes(&whole[..cut]);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert!(client.frame().is_none());
    }
    // Before the hello.
    let mut client = Control::silent(daemon.socket());
    client.bytes(&[9, 0]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.frame().is_none());
    assert!(Control::connect(daemon.socket()).is_usable());
}

#[test]
fn random_bytes_harm_nobody() {
    let daemon = Daemon::start();
    let pid = daemon.pid();
    let mut other = Control::connect(daemon.socket());
    for seed in 1..=300_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // Instead of a hello, after it, and in frames whose length is right.
        let mut client = Control::silent(daemon.socket());
        client.bytes(&random.bytes(500));
        drop(client);
        let mut client = Control::connect(daemon.socket());
        client.bytes(&random.bytes(500));
        drop(client);
        let mut client = Control::connect(daemon.socket());
        for _ in 0..20 {
            let mut body = vec![(1 + random.next() % 100) as u8, (random.next() % 5) as u8];
            body.extend(random.bytes(60));
            client.body(&body);
        }
        assert!(client.is_usable(), "seed {seed}");
    }
    assert!(other.is_usable());
    assert_eq!(daemon.pid(), pid);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn an_unknown_request_is_answered_under_its_id_and_the_connection_goes_on() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    // Id, kind of frame, number of the request.
    for body in [&[7, 0, 99][..], &[7, 0, 0x80, 0x80, 0x04, 1, 2, 3], &[7, 50]] {
        client.body(body);
        let error = error(client.answer(7));
        assert_eq!(error.code, ErrorCode::UnknownRequest);
        assert!(error.message.contains("upgrade"), "{error:?}");
        assert!(client.is_usable());
    }
}

#[test]
fn a_request_that_is_cut_or_too_long_is_malformed_and_the_connection_goes_on() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    let request = ClientFrame { id: 7, body: ClientBody::Request(show("nobody")) };
    let good = postcard::to_stdvec(&request).unwrap();
    for cut in 2..good.len() {
        client.body(&good[..cut]);
        assert_eq!(code(client.answer(7)), ErrorCode::Malformed, "{cut}");
    }
    client.body(&[&good[..], &[0]].concat());
    let error = error(client.answer(7));
    assert_eq!(error.code, ErrorCode::Malformed);
    assert!(error.message.contains("1 bytes too many"), "{error:?}");
    // The id itself is cut: it is about the connection.
    client.body(&[0x80]);
    assert_eq!(code(client.answer(0)), ErrorCode::Malformed);
    // The largest frame there is.
    client.body(&vec![9; MAX_CONTROL]);
    assert_eq!(code(client.answer(9)), ErrorCode::UnknownRequest);
    assert!(client.is_usable());
}

#[test]
fn a_hello_of_another_version_is_told_which_side_to_upgrade() {
    let daemon = Daemon::start();
    for (protocol, side) in [
        (PROTOCOL - 1, "upgrade the client"),
        (PROTOCOL + 1, "upgrade the daemon"),
        (u32::MAX, "upgrade the daemon"),
    ] {
        let mut client = Control::silent(daemon.socket());
        let hello = client.hello(MAGIC, protocol).unwrap();
        assert_eq!((hello.magic, hello.protocol), (MAGIC, PROTOCOL));
        let refused = hello.refused.unwrap();
        assert!(refused.contains(side), "{refused}");
        assert!(client.frame().is_none());
    }
}

#[test]
fn a_hello_of_somebody_else_is_refused() {
    let daemon = Daemon::start();
    let mut client = Control::silent(daemon.socket());
    let refused = client.hello(*b"ORCR", PROTOCOL).unwrap().refused.unwrap();
    assert!(refused.contains("control socket"), "{refused}");
    assert!(client.frame().is_none());
    // A browser: its first four bytes are a length that is too long.
    let mut client = Control::silent(daemon.socket());
    client.bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(Control::connect(daemon.socket()).is_usable());
    // A hello that is too long is no reason to fill the log.
    let mut client = Control::silent(daemon.socket());
    let hello = orchestrator_proto::control::ClientHello {
        magic: MAGIC,
        protocol: PROTOCOL,
        client: "x".repeat(1 << 20),
    };
    client.bytes(&frame::encode(&hello, MAX_CONTROL).unwrap());
    assert_eq!(client.server_hello().unwrap().refused, None);
    assert!(client.is_usable());
    assert!(daemon.log().len() < 1 << 18);
}

fn allow_many_files() -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    soft >= 4096 || setrlimit(Resource::RLIMIT_NOFILE, 4096.min(hard), hard).is_ok() && hard >= 4096
}

/// Waits until the daemon has no more files open than before.
#[track_caller]
fn files_are_back_at(pid: u32, before: usize) {
    eventually("the daemon has closed what it opened", || {
        (processes::open_files(pid) <= before).then_some(())
    });
}

#[test]
fn a_thousand_connections_that_say_nothing_keep_nobody_from_being_served() {
    if !allow_many_files() {
        skipped("this user may not open 4096 files, see ulimit -n");
        return;
    }
    let daemon = Daemon::start();
    let pid = daemon.pid();
    let mut client = Control::connect(daemon.socket());
    assert!(client.is_usable());
    let before = processes::open_files(pid);
    let silent: Vec<_> = (0..1000).map(|_| Control::silent(daemon.socket())).collect();
    assert!(client.is_usable());
    assert_eq!(daemon.ok(["version"]), "server version: 0.1.0\n");
    daemon.add_script("brief", "exit 0");
    daemon.ok(["runtime", "start", "brief"]);
    assert_eq!(daemon.exited("brief"), Exit::Code(0));
    daemon.ok(["runtime", "remove", "brief"]);
    drop(silent);
    files_are_back_at(pid, before);
    assert!(client.is_usable());
}

#[test]
fn more_connections_than_there_is_room_for_are_refused_until_there_is_room() {
    if !allow_many_files() {
        skipped("this user may not open 4096 files, see ulimit -n");
        return;
    }
    let daemon = Daemon::start();
    let mut first = Control::connect(daemon.socket());
    let silent: Vec<_> = (0..2048).map(|_| Control::silent(daemon.socket())).collect();
    let mut late = Control::silent(daemon.socket());
    let refused = late.hello(MAGIC, PROTOCOL).unwrap().refused.unwrap();
    assert!(refused.contains("too many clients"), "{refused}");
    let said = daemon.cli(["version"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(first.is_usable());
    drop(silent);
    eventually("there is room again", || (daemon.cli(["version"]).code == Some(0)).then_some(()));
}

#[test]
fn a_daemon_that_may_open_no_more_files_serves_again_when_it_may() {
    let daemon = Daemon::start();
    let pid = daemon.pid();
    let mut client = Control::connect(daemon.socket());
    let before = processes::open_files(pid);
    let mut limit = Command::new("prlimit");
    limit.args(["--pid", &pid.to_string(), "--nofile=100:100"]);
    if !limit.status().is_ok_and(|status| status.success()) {
        skipped("prlimit(1) is not there");
        return;
    }
    let silent: Vec<_> = (0..150).map(|_| Control::silent(daemon.socket())).collect();
    // Those that are connected are served; a start says why it can't be.
    assert!(client.is_usable());
    eventually("it has run out of files", || daemon.log().contains("accept failed").then_some(()));
    let spec = RuntimeSpec::new("/bin/true");
    assert!(matches!(
        client.ask(1, Request::RuntimeAdd(spec)),
        ServerBody::Error(WireError { code: ErrorCode::Io, .. }) | ServerBody::Reply(_)
    ));
    drop(silent);
    files_are_back_at(pid, before + 4);
    assert!(Control::connect(daemon.socket()).is_usable());
}

#[test]
fn a_client_that_never_reads_is_dropped_and_costs_no_memory() {
    let daemon = Daemon::start_with(&["--client-timeout", "1"]);
    for number in 0..20 {
        let name = format!("i{number}");
        daemon.add(["/bin/true", "--name", &name]);
    }
    let pid = daemon.pid();
    let mut other = Control::connect(daemon.socket());
    let before = processes::resident_kib(pid);
    let files = processes::open_files(pid);
    let mut client = Control::connect(daemon.socket());
    // Many in one write, so that the daemon is the slower one.
    let mut id = 0;
    let mut sent = 0_u64;
    loop {
        let mut batch = Vec::new();
        for _ in 0..1000 {
            id += 1;
            let body = ClientBody::Request(Request::RuntimeList);
            frame::append(&mut batch, &ClientFrame { id, body }, MAX_CONTROL).unwrap();
        }
        if client.stream.write_all(&batch).is_err() {
            break;
        }
        sent += batch.len() as u64;
        assert!(sent < 1 << 30, "a gibibyte was taken from a client that does not read");
    }
    eventually("the daemon said why", || {
        daemon.log().contains("dropped: it did not read for 1s").then_some(())
    });
    assert!(other.is_usable());
    files_are_back_at(pid, files);
    let grown = processes::peak_kib(pid).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more after {id} requests");
}

#[test]
fn a_client_that_does_not_read_its_stream_harms_itself_only() {
    let daemon = Daemon::start_with(&["--client-timeout", "1"]);
    daemon.add(["/usr/bin/yes", "--name", "yes"]);
    daemon.ok(["runtime", "start", "yes"]);
    let pid = daemon.pid();
    let mut client = Control::connect(daemon.socket());
    for id in 1..=20 {
        client.request(id, logs("yes", true));
    }
    let before = processes::resident_kib(pid);
    eventually("the daemon drops it", || {
        daemon.log().contains("dropped: it did not read for 1s").then_some(())
    });
    assert_eq!(daemon.info("yes").observed.word(), "ready");
    let grown = processes::peak_kib(pid).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
}

#[test]
fn many_requests_at_once_are_answered_each_under_its_id() {
    let daemon = Daemon::start();
    for number in 0..20 {
        let name = format!("i{number}");
        daemon.add(["/bin/true", "--name", &name]);
    }
    let mut client = Control::connect(daemon.socket());
    for round in 0..5 {
        let ids = (round * 200 + 1)..=(round * 200 + 200);
        for id in ids.clone() {
            client.request(id, show(&format!("i{}", id % 25)));
        }
        let mut open: Vec<u64> = ids.collect();
        while !open.is_empty() {
            let frame = client.frame().unwrap();
            let at = open.iter().position(|id| *id == frame.id);
            open.swap_remove(at.expect("once, and asked for"));
            match frame.body {
                ServerBody::Reply(Reply::Runtime(detail)) => {
                    let name = format!("i{}", frame.id % 25);
                    assert_eq!(detail.info.name, Some(name));
                }
                other => {
                    assert!(frame.id % 25 >= 20);
                    assert_eq!(code(other), ErrorCode::NotFound);
                }
            }
        }
    }
}

#[test]
fn requests_under_way_are_bounded_and_the_bound_is_told() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    let tap = || Request::LinkTap(TapFilter::default());
    for id in 1..=256 {
        client.request(id, tap());
    }
    assert_eq!(code(client.ask(257, tap())), ErrorCode::LimitReached);
    client.say(1, ClientBody::Cancel);
    assert_eq!(client.answer(1), ServerBody::End);
    assert!(client.is_usable());
}

#[test]
fn an_id_that_is_under_way_and_the_id_0_are_refused() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    client.request(5, Request::LinkTap(TapFilter::default()));
    let error = error(client.ask(5, Request::Status));
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("5 is under way"), "{error:?}");
    assert_eq!(code(client.ask(0, Request::Status)), ErrorCode::InvalidArgument);
    // The stream was not touched by that.
    client.say(5, ClientBody::Cancel);
    assert_eq!(client.answer(5), ServerBody::End);
    assert!(matches!(client.ask(5, Request::Status), ServerBody::Reply(_)));
}

fn logs(instance: &str, follow: bool) -> Request {
    Request::Logs(LogQuery { follow, ..LogQuery::of(instance) })
}

#[test]
fn a_stream_that_is_cancelled_ends_well() {
    let daemon = Daemon::start();
    daemon.add_script("chatty", "echo one; exec sleep 1000");
    daemon.ok(["runtime", "start", "chatty"]);
    let mut client = Control::connect(daemon.socket());
    let streams = [events(true), logs("chatty", true), Request::LinkTap(TapFilter::default())];
    for (stream, id) in streams.into_iter().zip(1..) {
        let has_items = !matches!(stream, Request::LinkTap(_));
        client.request(id, stream);
        if has_items {
            assert!(matches!(client.answer(id), ServerBody::Item(_)));
        }
        client.say(id, ClientBody::Cancel);
        let last = loop {
            match client.answer(id) {
                ServerBody::Item(_) => {}
                last => break last,
            }
        };
        assert_eq!(last, ServerBody::End);
        // Nothing comes after that, and its id is free.
        assert!(matches!(client.ask(id, Request::Status), ServerBody::Reply(_)));
    }
    // What is not under way can't be cancelled, and nobody minds.
    client.say(77, ClientBody::Cancel);
    assert!(client.is_usable());
}

#[test]
fn a_request_that_is_cancelled_says_so_and_what_it_began_goes_on() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = format!("trap '' TERM; echo $$ > {}; exec sleep 1000", file.display());
    daemon.add(["/bin/sh", "--name", "slow", "--stop-timeout", "1h", "--", "-c", &script]);
    daemon.ok(["runtime", "start", "slow"]);
    let pid = processes::pid_in(&file);
    let mut client = Control::connect(daemon.socket());
    let instance = "slow".into();
    client.request(1, Request::RuntimeStop { instance });
    daemon
        .event("it stops", |event| matches!(event.kind, EventKind::Stopping { .. }).then_some(()));
    client.say(1, ClientBody::Cancel);
    assert_eq!(code(client.answer(1)), ErrorCode::Cancelled);
    assert_eq!(daemon.info("slow").observed.word(), "stopping");
    processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
    eventually("it has stopped", || {
        (daemon.info("slow").observed.word() == "stopped").then_some(())
    });
}

#[test]
fn clients_that_go_away_take_their_streams_with_them() {
    let daemon = Daemon::start();
    daemon.add_script("chatty", "echo one; exec sleep 1000");
    daemon.ok(["runtime", "start", "chatty"]);
    // The log's file is opened with the first line.
    eventually("the line is in the log", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "chatty"]) == "one\n").then_some(())
    });
    let pid = daemon.pid();
    let mut other = Control::connect(daemon.socket());
    assert!(other.is_usable());
    let before = processes::open_files(pid);
    for _ in 0..5 {
        let clients: Vec<_> = (0..20)
            .map(|_| {
                let mut client = Control::connect(daemon.socket());
                client.request(1, events(true));
                client.request(2, logs("chatty", true));
                client.request(3, Request::LinkTap(TapFilter::default()));
                assert!(matches!(client.answer(2), ServerBody::Item(_)));
                client
            })
            .collect();
        assert!(processes::open_files(pid) > before);
        drop(clients);
        files_are_back_at(pid, before);
    }
    assert!(other.is_usable());
}

#[test]
fn names_that_can_not_be_are_refused_in_a_short_sentence() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    let mut id = 0;
    let long = "x".repeat(10_000);
    let bad =
        ["", &long, "a b", "a/b", "ü", "a\n", "\u{1b}[31m", "0195fc7b-33e6-70e3-bee1-ac515185fac7"];
    for name in bad {
        id += 1;
        let spec = RuntimeSpec { name: Some(name.to_owned()), ..RuntimeSpec::new("/bin/true") };
        let error = error(client.ask(id, Request::RuntimeAdd(spec)));
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{name}");
        assert!(error.message.len() < 200, "{error:?}");
        id += 1;
        let error = self::error(client.ask(id, show(name)));
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.message.len() < 200, "{error:?}");
    }
    let good = "A.b_c-9".repeat(9);
    assert_eq!(good.len(), 63);
    daemon.add(["/bin/true", "--name", &good]);
    let said = daemon.cli(["runtime", "add", "/bin/true", "--name", &good]);
    assert_eq!(said.code, Some(1));
    assert_eq!(daemon.cli(["runtime", "add", "/bin/true", "--name", ""]).code, Some(1));
    assert_eq!(daemon.cli(["runtime", "show", &long]).code, Some(3));
    assert_eq!(daemon.cli(["runtime", "add", "/bin/true", "--id", "x"]).code, Some(2));
    assert_eq!(daemon.status().runtimes, 1);
}

#[test]
fn what_a_program_can_not_be_given_is_refused() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    let plain = || RuntimeSpec::new("/bin/true");
    let bytes = |bytes: &[u8]| OsBytes(bytes.to_vec());
    let env =
        |key: &[u8], value: &[u8]| RuntimeSpec { env: vec![(bytes(key), bytes(value))], ..plain() };
    let stopped_by = |signal, wait| {
        let mut spec = plain();
        spec.supervision.stop.steps =
            vec![StopStep { signal: StopSignal(signal), wait: Millis(wait) }];
        spec
    };
    let listens = |texts: &[&str]| {
        let listen = texts.iter().map(|text| text.parse().unwrap()).collect();
        RuntimeSpec { listen, ..plain() }
    };
    let specs = [
        RuntimeSpec::new("relative/path"),
        RuntimeSpec::new(""),
        RuntimeSpec::new(OsString::from_vec(b"/bin/\0true".to_vec())),
        RuntimeSpec::new(format!("/{}", "x".repeat(5000))),
        RuntimeSpec { args: vec![bytes(b"a\0b")], ..plain() },
        RuntimeSpec { args: vec![bytes(&vec![b'x'; 1 << 20])], ..plain() },
        RuntimeSpec { cwd: Some("relative".into()), ..plain() },
        env(b"", b"x"),
        env(b"A=B", b"x"),
        env(b"A", b"x\0"),
        env(b"ORCHESTRATOR_IPC_SOCKET", b"/tmp/x"),
        env(b"VEECLE_IPC_SOCKET", b"/tmp/x"),
        listens(&["unix:relative"]),
        listens(&["unix:/a/"]),
        listens(&["tcp:127.0.0.1:1", "n=tcp:127.0.0.1:1"]),
        listens(&["tcp:127.0.0.1:1"; 17]),
        listens(&[&format!("unix:/{}", "x".repeat(107))]),
        RuntimeSpec { env: vec![("LISTEN_PID".into(), "1".into())], ..listens(&["unix:/a"]) },
        stopped_by(0, 1),
        stopped_by(65, 1),
        stopped_by(i32::MIN, 1),
        stopped_by(15, u64::MAX),
    ];
    for (spec, id) in specs.into_iter().zip(1..) {
        let shown = format!("{spec:?}").chars().take(300).collect::<String>();
        let answer = client.ask(id, Request::RuntimeAdd(spec));
        assert_eq!(code(answer), ErrorCode::InvalidArgument, "{shown}");
    }
    assert_eq!(daemon.status().runtimes, 0);
    for args in [
        &["--env", "NOVALUE"][..],
        &["--env", "=x"],
        &["--stop-signal", "NOPE"],
        &["--stop-timeout", "25h"],
        &["--stop-timeout", "-1s"],
        &["--priority", "low"],
    ] {
        let all = ["runtime", "add", "/bin/true"].iter().chain(args);
        let said = daemon.cli(all);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.stderr.contains("--help"), "{said:?}");
    }
}

#[test]
fn links_that_can_not_be_are_refused() {
    let daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "a"]);
    for (args, code) in [
        (&["--type", "T", "--to", "nobody"][..], 3),
        (&["--from", "nobody", "--type", "T", "--to", "a"], 3),
        (&["--type", "T", "--to", "a", "--policy", "fastest"], 2),
        (&["--type", "T", "--to", "a", "--capacity", "0"], 2),
        (&["--type", "T", "--to", "a", "--capacity", "1048577"], 2),
        (&["--type", "T", "--to", "udp:nowhere"], 2),
        (&["--type", "", "--to", "a"], 1),
        (&["--to", "a"], 2),
    ] {
        let said = daemon.cli(["link", "add"].iter().chain(args));
        assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
    }
    let mut client = Control::connect(daemon.socket());
    let link = |type_name: &str, capacity| LinkSpec {
        from: None,
        type_name: type_name.to_owned(),
        to: TargetSpec::Instance("a".into()),
        policy: None,
        capacity,
        block_timeout: None,
        history: None,
        transport: None,
        spin_us: None,
    };
    let long = "x".repeat(256);
    let cases = [link("T", Some(0)), link("T", Some(u32::MAX)), link("", None), link(&long, None)];
    for (spec, id) in cases.into_iter().zip(1..) {
        let answer = client.ask(id, Request::LinkAdd(spec));
        assert_eq!(code(answer), ErrorCode::InvalidArgument);
    }
    assert_eq!(daemon.cli(["link", "remove", "7"]).code, Some(3));
    assert_eq!(daemon.cli(["link", "remove", "seven"]).code, Some(2));
    assert_eq!(daemon.status().links, 0);
}

/// A program that tells `MARK` to a file.
fn program(dir: &Path, size: usize) -> Vec<u8> {
    let mut text = format!("#!/bin/sh\necho MARK > {}/mark\nexit 0\n", dir.display()).into_bytes();
    if text.len() < size {
        text.push(b'#');
        text.resize(size, b'x');
    }
    text
}

fn upload(name: &str, file_name: &str, size: u64) -> Request {
    Request::RuntimeAdd(RuntimeSpec {
        name: Some(name.to_owned()),
        program: Program::Upload { file_name: file_name.into(), size },
        ..RuntimeSpec::new("/unused")
    })
}

fn end(bytes: &[u8]) -> ClientBody {
    ClientBody::ChunksEnd { sha256: Sha256::digest(bytes).into() }
}

/// Directories of programs that were sent.
fn programs(daemon: &Daemon) -> Vec<OsString> {
    fs::read_dir(daemon.state_dir().join("programs"))
        .map(|dir| dir.map(|entry| entry.unwrap().file_name()).collect())
        .unwrap_or_default()
}

#[track_caller]
fn no_program_is_left(daemon: &Daemon) {
    eventually("no file of an upload is left", || programs(daemon).is_empty().then_some(()));
}

#[test]
fn a_program_that_was_sent_runs_from_the_daemons_own_copy() {
    let daemon = Daemon::start();
    let path = daemon.dir().join("original");
    // More than one chunk.
    fs::write(&path, program(daemon.dir(), 3 * MAX_CHUNK + 17)).unwrap();
    let add = [OsStr::new("--copy"), OsStr::new("--name"), OsStr::new("copy"), path.as_os_str()];
    daemon.add(add);
    fs::remove_file(&path).unwrap();
    daemon.ok(["runtime", "start", "copy"]);
    assert_eq!(daemon.exited("copy"), Exit::Code(0));
    assert_eq!(fs::read_to_string(daemon.dir().join("mark")).unwrap(), "MARK\n");
    let info = daemon.info("copy");
    let copy = info.program.as_path().to_owned();
    assert!(copy.starts_with(daemon.state_dir()) && copy.ends_with("original"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&copy), mode(copy.parent().unwrap())), (0o500, 0o700));
    daemon.ok(["runtime", "remove", "copy"]);
    assert!(programs(&daemon).is_empty());
}

#[test]
fn a_real_executable_can_be_sent() {
    let daemon = Daemon::start();
    daemon.add(["--copy", "--name", "echo", "/bin/echo", "--", "hello"]);
    daemon.ok(["runtime", "start", "echo"]);
    assert_eq!(daemon.exited("echo"), Exit::Code(0));
    eventually("its line is there", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "echo"]) == "hello\n").then_some(())
    });
}

#[test]
fn an_upload_that_is_not_as_announced_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    let bytes = program(daemon.dir(), 1000);
    let chunk = || ClientBody::Chunk(bytes.clone());
    let mut client = Control::connect(daemon.socket());
    let cases = [
        ("another sum", 1000, vec![chunk(), end(b"something else")], ErrorCode::ChecksumMismatch),
        ("shorter", 1001, vec![chunk(), end(&bytes)], ErrorCode::ChecksumMismatch),
        ("nothing", 1000, vec![end(b"")], ErrorCode::ChecksumMismatch),
        ("longer", 999, vec![chunk(), end(&bytes)], ErrorCode::ChecksumMismatch),
        (
            "much longer",
            10,
            vec![chunk(), chunk(), chunk(), end(&bytes)],
            ErrorCode::ChecksumMismatch,
        ),
        (
            "a chunk that is too long",
            1 << 20,
            vec![ClientBody::Chunk(vec![0; MAX_CHUNK + 1])],
            ErrorCode::LimitReached,
        ),
    ];
    for ((what, size, parts, expected), id) in cases.into_iter().zip(1..) {
        client.request(id, upload("copy", "copy", size));
        for part in parts {
            client.say(id, part);
        }
        assert_eq!(code(client.answer(id)), expected, "{what}");
        no_program_is_left(&daemon);
        assert!(client.is_usable());
    }
    assert_eq!(daemon.status().runtimes, 0);
    // As it should be, on the same connection.
    client.request(100, upload("copy", "copy", 1000));
    client.say(100, ClientBody::Chunk(bytes[..1].to_vec()));
    client.say(100, ClientBody::Chunk(bytes[1..].to_vec()));
    client.say(100, end(&bytes));
    assert!(matches!(client.answer(100), ServerBody::Reply(Reply::Added { .. })));
}

#[test]
fn an_upload_above_the_bound_is_refused_before_it_is_sent() {
    let daemon = Daemon::start_with(&["--max-upload-mib", "1"]);
    let path = daemon.dir().join("large");
    fs::write(&path, program(daemon.dir(), (1 << 20) + 1)).unwrap();
    let said = daemon.cli(["runtime", "add", "--copy", path.to_str().unwrap()]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("1048577") && said.stderr.contains("1048576"), "{said:?}");
    let mut client = Control::connect(daemon.socket());
    let answer = client.ask(1, upload("x", "x", u64::MAX));
    assert_eq!(code(answer), ErrorCode::LimitReached);
    no_program_is_left(&daemon);
    fs::write(&path, program(daemon.dir(), 1 << 20)).unwrap();
    daemon.add(["--copy", path.to_str().unwrap()]);
}

#[test]
fn an_upload_whose_client_disappears_or_cancels_leaves_nothing() {
    let daemon = Daemon::start();
    let files = {
        let _client = Control::connect(daemon.socket());
        processes::open_files(daemon.pid())
    };
    for cancels in [false, true] {
        let mut client = Control::connect(daemon.socket());
        client.request(1, upload("copy", "copy", 1 << 20));
        client.say(1, ClientBody::Chunk(vec![b'x'; MAX_CHUNK]));
        eventually("the upload has begun", || (!programs(&daemon).is_empty()).then_some(()));
        if cancels {
            client.say(1, ClientBody::Cancel);
            assert_eq!(code(client.answer(1)), ErrorCode::Cancelled);
            no_program_is_left(&daemon);
            // A chunk that was on its way is nobody's.
            client.say(1, ClientBody::Chunk(vec![b'x'; 10]));
            assert!(client.is_usable());
        }
        drop(client);
        no_program_is_left(&daemon);
    }
    files_are_back_at(daemon.pid(), files);
    assert_eq!(daemon.status().runtimes, 0);
}

#[test]
fn the_file_name_of_an_upload_is_one_component() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    let long = "x".repeat(256);
    for (name, id) in ["a/b", "../x", "/etc/x", "..", ".", "", "a\0b", &long].into_iter().zip(1..) {
        let answer = client.ask(id, upload("x", name, 1));
        assert_eq!(code(answer), ErrorCode::InvalidArgument, "{name}");
    }
    no_program_is_left(&daemon);
    let bytes = program(daemon.dir(), 0);
    client.request(100, upload("x", "- odd \u{fffd}\n", bytes.len() as u64));
    client.say(100, ClientBody::Chunk(bytes.clone()));
    client.say(100, end(&bytes));
    assert!(matches!(client.answer(100), ServerBody::Reply(_)));
    daemon.ok(["runtime", "start", "x"]);
    assert_eq!(daemon.exited("x"), Exit::Code(0));
}

#[test]
fn two_uploads_at_once_on_one_connection_do_not_mix() {
    let daemon = Daemon::start();
    let mut client = Control::connect(daemon.socket());
    let sent: Vec<Vec<u8>> =
        (0..2_u8).map(|which| (0..3 * MAX_CHUNK).map(|at| (at as u8) ^ which).collect()).collect();
    for (id, bytes) in (1..).zip(&sent) {
        client.request(id, upload(&format!("u{id}"), "p", bytes.len() as u64));
    }
    for part in 0..3 {
        for (id, bytes) in (1..).zip(&sent) {
            let part = &bytes[part * MAX_CHUNK..][..MAX_CHUNK];
            client.say(id, ClientBody::Chunk(part.to_vec()));
        }
    }
    for (id, bytes) in (1..).zip(&sent) {
        client.say(id, end(bytes));
    }
    for _ in 0..2 {
        let frame = client.frame().unwrap();
        assert!(matches!(frame.body, ServerBody::Reply(Reply::Added { .. })), "{frame:?}");
    }
    for (id, bytes) in (1..).zip(&sent) {
        let program = daemon.info(&format!("u{id}")).program;
        assert!(fs::read(program.as_path()).unwrap() == *bytes);
    }
}

#[test]
fn of_two_uploads_with_one_name_or_id_the_later_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    let bytes = program(daemon.dir(), 100);
    let same = InstanceId::generate();
    let requests: [(u64, Option<InstanceId>, &str); 4] =
        [(1, None, "n"), (2, None, "n"), (3, Some(same), "a"), (4, Some(same), "b")];
    let mut client = Control::connect(daemon.socket());
    for (number, id, name) in requests {
        let Request::RuntimeAdd(spec) = upload(name, "p", 100) else { unreachable!() };
        client.request(number, Request::RuntimeAdd(RuntimeSpec { id, ..spec }));
        client.say(number, ClientBody::Chunk(bytes.clone()));
    }
    // All have begun.
    eventually("four uploads are under way", || (programs(&daemon).len() == 4).then_some(()));
    for (number, ..) in requests {
        client.say(number, end(&bytes));
        let answer = client.answer(number);
        if number % 2 == 1 {
            assert!(matches!(answer, ServerBody::Reply(Reply::Added { .. })), "{answer:?}");
        } else {
            assert_eq!(code(answer), ErrorCode::AlreadyExists);
        }
    }
    eventually("two are left", || (programs(&daemon).len() == 2).then_some(()));
    for name in ["n", "a"] {
        assert_eq!(fs::read(daemon.info(name).program.as_path()).unwrap(), bytes);
    }
}

#[test]
fn an_upload_of_what_is_no_file_fails_before_anything_is_sent() {
    let daemon = Daemon::start();
    for path in ["/nonexistent/x", "/tmp", "/dev/null"] {
        let said: Said = daemon.cli(["runtime", "add", "--copy", path]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(path), "{said:?}");
    }
    assert_eq!(daemon.status().runtimes, 0);
}
