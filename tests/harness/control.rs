//! A client that speaks the control protocol by hand, and not always well, over plain blocking
//! calls.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use orchestrator_proto::control::{
    ClientBody, ClientFrame, ClientHello, MAGIC, PROTOCOL, Reply, Request, ServerBody, ServerFrame,
    ServerHello,
};
use orchestrator_proto::frame::{self, MAX_CONTROL, PREFIX};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::SOON;

/// A connection to a control socket.
pub struct Control {
    /// The socket.
    pub stream: UnixStream,
    buffer: Vec<u8>,
}

impl Control {
    /// Connects and says nothing.
    pub fn silent(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the control socket is there");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Connects and is welcome.
    #[track_caller]
    pub fn connect(path: &Path) -> Self {
        let mut control = Self::silent(path);
        let hello = control.hello(MAGIC, PROTOCOL).expect("it is answered");
        assert_eq!(hello.refused, None);
        control
    }

    /// Says hello; the answer is what the daemon says.
    pub fn hello(&mut self, magic: [u8; 4], protocol: u32) -> Option<ServerHello> {
        let client = "test".to_owned();
        self.send(&ClientHello { magic, protocol, client });
        self.server_hello()
    }

    /// The daemon's hello; none at the end of the stream.
    pub fn server_hello(&mut self) -> Option<ServerHello> {
        self.receive()
    }

    /// Sends bytes as they are. Whether the daemon took them does not matter.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a frame with this body.
    pub fn body(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        self.bytes(&[&length.to_le_bytes(), body].concat());
    }

    fn send<T: Serialize>(&mut self, value: &T) {
        self.bytes(&frame::encode(value, MAX_CONTROL).unwrap());
    }

    /// Sends a part of a request.
    pub fn say(&mut self, id: u64, body: ClientBody) {
        self.send(&ClientFrame { id, body });
    }

    /// Sends a request.
    pub fn request(&mut self, id: u64, request: Request) {
        self.say(id, ClientBody::Request(request));
    }

    /// The next frame; none at the end of the stream.
    pub fn frame(&mut self) -> Option<ServerFrame> {
        self.receive()
    }

    /// Sends a request, and waits for what ends it. Passes over frames of other requests.
    #[track_caller]
    pub fn ask(&mut self, id: u64, request: Request) -> ServerBody {
        self.request(id, request);
        self.answer(id)
    }

    /// Waits for the next frame of a request. Passes over frames of other requests.
    #[track_caller]
    pub fn answer(&mut self, id: u64) -> ServerBody {
        loop {
            let frame = self.frame().expect("the daemon answers");
            if frame.id == id {
                return frame.body;
            }
        }
    }

    /// Whether the connection is good: a request is answered.
    pub fn is_usable(&mut self) -> bool {
        self.request(u64::MAX, Request::Status);
        while let Some(frame) = self.frame() {
            if frame.id == u64::MAX {
                return matches!(frame.body, ServerBody::Reply(Reply::Status(_)));
            }
        }
        false
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let body = frame::first_body(&self.buffer, MAX_CONTROL).expect("good frames");
            if let Some(body) = body {
                let length = PREFIX + body.len();
                let value = postcard::from_bytes(body).expect("the daemon sends good frames");
                self.buffer.drain(..length);
                return Some(value);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                // A read with a timeout isn't restarted when the machine was suspended.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no frame within {SOON:?}: {error}"),
            }
        }
    }
}
