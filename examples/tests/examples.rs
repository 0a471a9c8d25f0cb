//! The examples against a daemon that the test plays itself.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first thing that is not as it says")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use examples::{Ping, Pong};
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::{
    Direction, ENV_INSTANCE, ENV_SOCKET, Frame, PROTOCOL, RuntimeRequest,
};
use orchestrator_proto::{ErrorCode, InstanceId, Message, SchemaHash, TypeSchema, WireError};

/// A program under test and the daemon's side of its connection.
struct Instance {
    child: Child,
    output: BufReader<ChildStdout>,
    stream: UnixStream,
    id: InstanceId,
    _dir: tempfile::TempDir,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Instance {
    /// None if there is no such program.
    fn start(command: &mut Command) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let id = InstanceId::generate();
        command.env(ENV_SOCKET, &path).env(ENV_INSTANCE, id.to_string());
        let mut child = match command.stdout(Stdio::piped()).spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            child => child.unwrap(),
        };
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut instance = Self {
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            stream,
            id,
            _dir: dir,
        };
        let hello = instance.body();
        assert!(matches!(
            postcard::from_bytes(&hello).unwrap(),
            Frame::Hello { protocol: PROTOCOL, .. }
        ));
        instance.send(&Frame::Welcome { protocol: PROTOCOL, server: "test", instance: id });
        Some(instance)
    }

    /// The next frame. That an output wants to be told of drops, that lanes can be had, and that an input
    /// takes stamped messages, is passed over.
    fn body(&mut self) -> Vec<u8> {
        loop {
            let mut prefix = [0; 4];
            self.stream.read_exact(&mut prefix).unwrap();
            let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
            self.stream.read_exact(&mut body).unwrap();
            let frame = postcard::from_bytes(&body);
            if !matches!(
                frame,
                Ok(Frame::Report { .. } | Frame::Lanes { .. } | Frame::Stamps { .. })
            ) {
                return body;
            }
        }
    }

    fn send(&mut self, frame: &Frame<'_>) {
        let bytes = frame::encode(frame, MAX_RUNTIME).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn send_message<T: Message>(&mut self, channel: u16, message: &T) {
        let payload = postcard::to_extend(message, Vec::new()).unwrap();
        let payload = &payload[..];
        self.send(&Frame::Message { channel, payload });
    }

    fn expect_message<T: Message>(&mut self, expected: u16) -> T {
        let body = self.body();
        match postcard::from_bytes(&body).unwrap() {
            Frame::Message { channel, payload } if channel == expected => {
                postcard::from_bytes(payload).unwrap()
            }
            other => panic!("no message on {expected}: {other:?}"),
        }
    }

    /// The channel of the type. What may stand before its declaration is passed over.
    fn expect_declare<T: Message>(&mut self, direction: Direction) -> u16 {
        let mut body = self.body();
        if let Ok(Frame::Keep { .. } | Frame::Recognise { .. }) = postcard::from_bytes(&body) {
            body = self.body();
        }
        let Frame::Declare(declare) = postcard::from_bytes(&body).unwrap() else {
            panic!("no declaration: {body:?}");
        };
        assert_eq!((declare.name, declare.direction), (T::NAME, direction));
        assert_eq!(TypeSchema::decode(declare.schema), Ok(T::schema()));
        if let Some(hash) = declare.hash {
            assert_eq!(SchemaHash(hash), T::schema().hash());
        }
        declare.channel
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// To the real standard error: what a test that passes says by `eprintln!` is shown to nobody.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn answers_pings(command: &mut Command) {
    let Some(mut pong) = Instance::start(command) else {
        return skipped(&format!("{command:?} is not there"));
    };
    let pings = pong.expect_declare::<Ping>(Direction::Input);
    let pongs = pong.expect_declare::<Pong>(Direction::Output);
    for value in [0, 1, 127, 128, u32::MAX] {
        pong.send_message(pings, &Ping { value });
        assert_eq!(pong.line(), format!("received ping {value}"));
        assert_eq!(pong.line(), format!("sent pong {value}"));
        assert_eq!(pong.expect_message::<Pong>(pongs), Pong { value });
    }
}

#[test]
fn pong_answers() {
    answers_pings(&mut Command::new(env!("CARGO_BIN_EXE_pong")));
}

#[test]
fn pong_in_python_answers() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/pong.py");
    answers_pings(Command::new("python3").arg("-B").arg(script));
}

#[test]
fn pong_that_writes_the_protocol_itself_answers() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/wire_pong.py");
    answers_pings(Command::new("python3").arg(script));
}

#[test]
fn pong_that_writes_the_protocol_itself_keeps_to_its_limit_and_grants_what_it_took() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/wire_pong.py");
    let Some(mut pong) = Instance::start(Command::new("python3").arg(script)) else {
        return skipped("python3 is not there");
    };
    let pings = pong.expect_declare::<Ping>(Direction::Input);
    let pongs = pong.expect_declare::<Pong>(Direction::Output);
    let grant = |total| Frame::Grant { channel: pongs, total };
    pong.send(&grant(1));
    pong.send_message(pings, &Ping { value: 0 });
    pong.send_message(pings, &Ping { value: 1 });
    let lines = [pong.line(), pong.line(), pong.line()];
    assert_eq!(lines, ["received ping 0", "sent pong 0", "received ping 1"]);
    pong.send(&grant(1000));
    assert_eq!(pong.line(), "sent pong 1");
    for value in 2..32 {
        pong.send_message(pings, &Ping { value });
    }
    for value in 0..32 {
        assert_eq!(pong.expect_message::<Pong>(pongs), Pong { value });
    }
    let body = pong.body();
    let granted = Frame::Grant { channel: pings, total: 96 };
    assert_eq!(postcard::from_bytes::<Frame<'_>>(&body).unwrap(), granted);
}

#[test]
fn ping_sends_and_prints() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ping"));
    let mut ping = Instance::start(command.args(["--interval-ms", "1"])).unwrap();
    let pings = ping.expect_declare::<Ping>(Direction::Output);
    let pongs = ping.expect_declare::<Pong>(Direction::Input);
    for value in 0..3 {
        assert_eq!(ping.expect_message::<Ping>(pings), Ping { value });
        assert_eq!(ping.line(), format!("sent ping {value}"));
    }
    ping.send_message(pongs, &Pong { value: 0 });
    while ping.line() != "received pong 0" {}
}

#[test]
fn ping_ends_after_so_many() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ping"));
    let mut ping = Instance::start(command.args(["--interval-ms", "1", "--count", "3"])).unwrap();
    let pings = ping.expect_declare::<Ping>(Direction::Output);
    ping.expect_declare::<Pong>(Direction::Input);
    for value in 0..3 {
        assert_eq!(ping.expect_message::<Ping>(pings), Ping { value });
    }
    assert!(ping.child.wait().unwrap().success());
}

#[test]
fn trace_prints_both() {
    let mut trace = Instance::start(&mut Command::new(env!("CARGO_BIN_EXE_trace"))).unwrap();
    let pings = trace.expect_declare::<Ping>(Direction::Input);
    let pongs = trace.expect_declare::<Pong>(Direction::Input);
    trace.send_message(pings, &Ping { value: 1 });
    assert_eq!(trace.line(), "ping 1");
    trace.send_message(pongs, &Pong { value: 2 });
    assert_eq!(trace.line(), "pong 2");
}

#[test]
fn the_useless_machine_asks_for_its_own_end() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_useless-machine"));
    let mut machine = Instance::start(&mut command).unwrap();
    assert_eq!(machine.line(), "switched on");
    let body = machine.body();
    let Frame::Request { id, request } = postcard::from_bytes(&body).unwrap() else {
        panic!("no request: {body:?}");
    };
    let instance = machine.id.to_string();
    assert_eq!(request, RuntimeRequest::Stop { instance });
    let result = Err(WireError::new(ErrorCode::NotPermitted, "it is not privileged"));
    machine.send(&Frame::Reply { id, result });
    assert_eq!(machine.line(), "turning myself off");
    assert_eq!(machine.line(), "refused: it is not privileged");
    assert_eq!(machine.child.wait().unwrap().code(), Some(3));
}
