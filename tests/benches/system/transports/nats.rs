//! A NATS server, and its text protocol over TCP on the loopback interface: see
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tests::eventually;

use super::stream::bursts;
use crate::actor::Actor;
use crate::pipe::Pipe;

const PROGRAM: &str = "nats-server";
/// From here on a message is not copied to be written with what is around it.
const LONG: usize = 16 << 10;

pub(crate) fn is_installed() -> bool {
    program().is_some()
}

/// Debian has it where not everybody's PATH leads.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(PROGRAM)).find(|program| program.exists())
}

/// A server of this benchmark's own. Dropping it ends it.
pub(super) struct Server {
    actor: Actor,
    /// Where it listens on 127.0.0.1.
    pub(super) port: u16,
    _dir: TempDir,
}

impl Server {
    pub(super) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("nats").tempdir().unwrap();
        let conf = dir.path().join("conf");
        let (ports, log) = (dir.path().display(), dir.path().join("log"));
        // It gives a receiver up that is slower than its sender when so much waits: here that is
        // to be more than what is sent at once. Its limit of a message's length is 1 MiB by default.
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: \"{ports}\"\nlog_file: \"{}\"\n\
             max_payload: 8MB\nmax_pending: 2GB\nwrite_deadline: \"60s\"\n",
            log.display(),
        );
        std::fs::write(&conf, text).unwrap();
        let actor = Actor::start("transports", ["server", conf.to_str().unwrap()]);
        let written = dir.path().join(format!("{PROGRAM}_{}.ports", actor.pid()));
        let port = eventually("the NATS server says where it listens", || {
            let ports = std::fs::read_to_string(&written).ok()?;
            let (_, after) = ports.split_once("nats://127.0.0.1:")?;
            after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        Self { actor, port, _dir: dir }
    }

    pub(super) fn pid(&self) -> u32 {
        self.actor.pid()
    }
}

/// The part of the process that becomes the server: so it ends with the benchmark.
pub(super) fn serve(conf: &Path) {
    let program = program().expect("it was there");
    let why = Command::new(program).arg("-c").arg(conf).stdout(Stdio::null()).exec();
    panic!("the NATS server can't be executed: {why}");
}

/// A client.
pub(super) struct Nats {
    stream: BufReader<TcpStream>,
    /// Where it publishes.
    subject: &'static str,
    line: Vec<u8>,
}

impl Nats {
    /// Publishes to the one subject and subscribes to the other.
    pub(super) fn connect(port: u16, [subject, from]: [&'static str; 2]) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = BufReader::with_capacity(64 << 10, stream);
        let mut nats = Self { stream, subject, line: Vec::new() };
        let connect = r#"CONNECT {"verbose":false,"pedantic":false}"#;
        let hello = format!("{connect}\r\nSUB {from} 1\r\nPING\r\n");
        nats.stream.get_mut().write_all(hello.as_bytes()).unwrap();
        // So it knows of the subscription too.
        while nats.read_line() != "PONG" {}
        nats
    }

    fn read_line(&mut self) -> &str {
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line).unwrap();
        let line = std::str::from_utf8(&self.line).unwrap();
        assert!(!line.is_empty() && !line.starts_with("-ERR"), "the NATS server says {line:?}");
        line.trim_end()
    }

    fn head(&self, bytes: &[u8]) -> String {
        format!("PUB {} {}\r\n", self.subject, bytes.len())
    }
}

impl Pipe for Nats {
    fn send(&mut self, bytes: &[u8]) {
        let head = self.head(bytes);
        let parts = [head.as_bytes(), bytes, b"\r\n"];
        let stream = self.stream.get_mut();
        if bytes.len() < LONG {
            return stream.write_all(&parts.concat()).unwrap();
        }
        let mut slices = parts.map(IoSlice::new);
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = stream.write_vectored(left).unwrap();
            IoSlice::advance_slices(&mut left, written);
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        loop {
            let line = self.read_line();
            if line == "PING" {
                self.stream.get_mut().write_all(b"PONG\r\n").unwrap();
                continue;
            }
            let length = line.strip_prefix("MSG ").and_then(|rest| rest.rsplit_once(' '));
            let length: usize = length.expect("a message").1.parse().unwrap();
            assert_eq!(length, into.len());
            self.stream.read_exact(into).unwrap();
            let mut end = [0; 2];
            return self.stream.read_exact(&mut end).unwrap();
        }
    }

    fn send_many(&mut self, bytes: &[u8], count: usize) {
        if bytes.len() >= LONG {
            return (0..count).for_each(|_| self.send(bytes));
        }
        let message = [self.head(bytes).as_bytes(), bytes, b"\r\n"].concat();
        for burst in bursts(message.len(), count) {
            self.stream.get_mut().write_all(&message.repeat(burst)).unwrap();
        }
    }
}
