//! An instance that speaks the native dialect by hand, over plain blocking calls.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use orchestrator_proto::TypeSchema;
use orchestrator_proto::frame::{self, MAX_RUNTIME, PREFIX};
use orchestrator_proto::runtime::{Declare, Direction, Frame, MAGIC, PROTOCOL};

use crate::SOON;

/// A connection to an instance's native socket.
pub struct Native {
    /// The socket.
    pub stream: UnixStream,
    buffer: Vec<u8>,
}

impl Native {
    /// Connects and says hello; does not wait for the answer. A connection that is refused may be
    /// closed before that.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the instance's socket is there");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        let mut native = Self { stream, buffer: Vec::new() };
        let hello = Frame::Hello { magic: MAGIC, protocol: PROTOCOL, sdk: "test" };
        let _ = native.stream.write_all(&frame::encode(&hello, MAX_RUNTIME).unwrap());
        native
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame<'_>) {
        let bytes = frame::encode(frame, MAX_RUNTIME).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Declares an output or, with a window, an input.
    pub fn declare(
        &mut self,
        channel: u16,
        direction: Direction,
        name: &str,
        schema: &TypeSchema,
        window: u32,
    ) {
        let schema = schema.encode();
        let declare = Declare { channel, direction, name, schema: &schema, hash: None, window };
        self.send(&Frame::Declare(declare));
    }

    /// Sends a message.
    pub fn message(&mut self, channel: u16, payload: &[u8]) {
        self.send(&Frame::Message { channel, payload });
    }

    /// The next frame; none at the end of the stream.
    pub fn next<T>(&mut self, with: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        loop {
            if let Some(body) = frame::first_body(&self.buffer, MAX_RUNTIME).unwrap() {
                let length = PREFIX + body.len();
                let value = with(postcard::from_bytes(body).expect("the daemon sends good frames"));
                self.buffer.drain(..length);
                return Some(value);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                // A signal, such as the end of a child of this test.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no frame within {SOON:?}: {error}"),
            }
        }
    }

    /// The next message: its channel and payload. Passes over other frames.
    pub fn next_message(&mut self) -> Option<(u16, Vec<u8>)> {
        loop {
            let message = self.next(|frame| match frame {
                Frame::Message { channel, payload } => Some((channel, payload.to_vec())),
                _ => None,
            })?;
            if message.is_some() {
                return message;
            }
        }
    }

    /// What channel 0 was granted last, as far as it has come by now; `before` is what it was
    /// granted until now. Passes over other frames.
    pub fn granted_by_now(&mut self, before: u64) -> u64 {
        self.stream.set_nonblocking(true).unwrap();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = self.stream.read(&mut chunk) {
            self.buffer.extend_from_slice(&chunk[..count]);
        }
        self.stream.set_nonblocking(false).unwrap();
        let mut granted = before;
        while let Some(body) = frame::first_body(&self.buffer, MAX_RUNTIME).unwrap() {
            if let Ok(Frame::Grant { channel: 0, total }) = postcard::from_bytes(body) {
                granted = total;
            }
            let length = PREFIX + body.len();
            self.buffer.drain(..length);
        }
        granted
    }

    /// Whether nothing comes for this long.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let result = self.stream.read(&mut [0]);
        self.stream.set_read_timeout(Some(SOON)).unwrap();
        result.is_err()
    }
}
