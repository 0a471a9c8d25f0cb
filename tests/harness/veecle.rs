//! An existing Veecle OS runtime as it appears on the wire, over plain blocking calls.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::SOON;

/// A connection to an instance's Veecle socket.
pub struct Veecle {
    /// The socket.
    pub stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Veecle {
    /// Connects; there is no hello.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the instance's socket is there");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    /// Sends a line as it is.
    pub fn line(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Sends a storable.
    pub fn storable(&mut self, type_name: &str, value: &Value) {
        let storable = json!({"Storable": {"type_name": type_name, "value": value.to_string()}});
        self.line(&storable.to_string());
    }

    /// The next line; none at the end of the stream.
    #[allow(
        clippy::should_implement_trait,
        reason = "it panics after the deadline, as no iterator should"
    )]
    pub fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("the daemon sends JSON lines")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line within {SOON:?}: {error}"),
        }
    }

    /// The next storable: its type and the JSON in its value.
    pub fn next_storable(&mut self) -> Option<(String, Value)> {
        loop {
            let line = self.next()?;
            if let Some(storable) = line.get("Storable") {
                let value = storable["value"].as_str().expect("the value is a string");
                let name = storable["type_name"].as_str().expect("the type is a string");
                return Some((name.to_owned(), serde_json::from_str(value).unwrap()));
            }
        }
    }
}
