//! A daemon that says what a test wants, and the command line that talks to it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use orchestrator_proto::control::{
    ClientBody, ClientFrame, Item, MAGIC, PROTOCOL, Reply, Request, ServerBody, ServerFrame,
    ServerHello, decode_client_frame,
};
use orchestrator_proto::frame;
use tempfile::TempDir;

/// No test waits longer than this for its other side.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Fake {
    pub dir: TempDir,
    pub socket: PathBuf,
    server: JoinHandle<()>,
}

pub struct Peer(UnixStream);

impl Fake {
    /// Serves one connection.
    pub fn new(serve: impl FnOnce(&mut Peer) + Send + 'static) -> Self {
        Self::with_hello(None, serve)
    }

    pub fn with_hello(
        refused: Option<&str>,
        serve: impl FnOnce(&mut Peer) + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let hello = ServerHello {
            magic: MAGIC,
            protocol: PROTOCOL,
            server: "1.2.3".into(),
            refused: refused.map(Into::into),
        };
        let server = std::thread::spawn(move || {
            let mut peer = Peer(listener.accept().unwrap().0);
            peer.0.set_read_timeout(Some(DEADLINE)).unwrap();
            peer.0.set_write_timeout(Some(DEADLINE)).unwrap();
            peer.body().unwrap();
            let bytes = frame::encode(&hello, frame::MAX_CONTROL).unwrap();
            peer.0.write_all(&bytes).unwrap();
            serve(&mut peer);
        });
        Self { dir, socket, server }
    }

    /// Answers requests one after the other as long as there are any.
    pub fn answering(mut answer: impl FnMut(Request) -> ServerBody + Send + 'static) -> Self {
        Self::new(move |peer| {
            while let Some((id, request)) = peer.request() {
                peer.say(id, answer(request));
            }
        })
    }

    pub fn command(&self) -> Command {
        let mut command = bare_command();
        command.env("ORCHESTRATOR_SOCKET", &self.socket);
        command
    }

    /// Runs the command line to its end, and the server too.
    pub fn run(self, args: &[&str]) -> Done {
        let output = self.command().args(args).output().unwrap();
        self.done(output)
    }

    pub fn done(self, output: Output) -> Done {
        self.server.join().unwrap();
        Done::from(output)
    }
}

/// The command line in an environment of its own.
pub fn bare_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator-cli"));
    command.env_remove("ORCHESTRATOR_SOCKET").env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
    command
}

#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Peer {
    fn body(&mut self) -> Option<Vec<u8>> {
        let mut prefix = [0; frame::PREFIX];
        self.0.read_exact(&mut prefix).ok()?;
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        self.0.read_exact(&mut body).ok()?;
        Some(body)
    }

    pub fn next(&mut self) -> Option<ClientFrame> {
        Some(decode_client_frame(&self.body()?).unwrap())
    }

    /// The next request; none at the end of the connection. Cancels are passed over.
    pub fn request(&mut self) -> Option<(u64, Request)> {
        loop {
            let frame = self.next()?;
            match frame.body {
                ClientBody::Request(request) => return Some((frame.id, request)),
                ClientBody::Cancel => {}
                other => panic!("{other:?} is no request"),
            }
        }
    }

    /// False when the other side has closed.
    pub fn say(&mut self, id: u64, body: ServerBody) -> bool {
        let bytes = frame::encode(&ServerFrame { id, body }, frame::MAX_CONTROL).unwrap();
        self.0.write_all(&bytes).is_ok()
    }

    pub fn reply(&mut self, id: u64, reply: Reply) {
        assert!(self.say(id, ServerBody::Reply(reply)));
    }

    pub fn items(&mut self, id: u64, items: impl IntoIterator<Item = Item>) {
        for item in items {
            assert!(self.say(id, ServerBody::Item(item)));
        }
    }
}
