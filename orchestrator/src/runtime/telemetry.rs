//! Telemetry of existing Veecle OS runtimes: forwarded as JSON lines, and shown in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use orchestrator_proto::control::TelemetryStatus;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Lines that may wait for the server.
const MAX_LINES: usize = 16_384;
/// Bytes that may wait for the server: 4 MiB.
const MAX_BYTES: usize = 4 << 20;
/// Lines in one write at most.
const BATCH: usize = 256;
/// The pause before the second try to connect, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Forwards telemetry to a server. Never waits for it: what finds no place is dropped and
/// counted.
pub struct Telemetry {
    address: String,
    lines: mpsc::Sender<Bytes>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    connected: AtomicBool,
    sent: AtomicU64,
    dropped: AtomicU64,
    waiting_bytes: AtomicUsize,
}

impl Telemetry {
    /// Begins to connect to `address`, `HOST:PORT`.
    #[must_use]
    pub fn start(address: String) -> Self {
        let (sender, lines) = mpsc::channel(MAX_LINES);
        let counts = Arc::new(Counts::default());
        let forwarder = Forwarder { address: address.clone(), lines, counts: counts.clone() };
        Self { address, lines: sender, counts, task: tokio::spawn(forwarder.run()) }
    }

    /// Queues one object, without a newline.
    pub fn push(&self, object: &[u8]) {
        let size = object.len() + 1;
        let waiting = self.counts.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let mut line = Vec::with_capacity(size);
        line.extend_from_slice(object);
        line.push(b'\n');
        if waiting + size > MAX_BYTES || self.lines.try_send(line.into()).is_err() {
            self.counts.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What went out so far.
    #[must_use]
    pub fn status(&self) -> TelemetryStatus {
        TelemetryStatus {
            address: self.address.clone(),
            connected: self.counts.connected.load(Ordering::Relaxed),
            sent: self.counts.sent.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Forwarder {
    address: String,
    lines: mpsc::Receiver<Bytes>,
    counts: Arc<Counts>,
}

impl Forwarder {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match TcpStream::connect(&self.address).await {
                Ok(stream) => {
                    tracing::info!(address = self.address, "telemetry server connected");
                    pause = FIRST_PAUSE;
                    self.counts.connected.store(true, Ordering::Relaxed);
                    let error = self.forward(stream).await;
                    self.counts.connected.store(false, Ordering::Relaxed);
                    tracing::warn!(address = self.address, error, "telemetry server lost");
                }
                Err(error) => {
                    tracing::debug!(address = self.address, %error, "no telemetry server");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Writes until the connection breaks; the answer says how.
    async fn forward(&mut self, stream: TcpStream) -> String {
        let (mut reader, mut writer) = stream.into_split();
        let (mut batch, mut bytes, mut scrap) = (Vec::with_capacity(BATCH), Vec::new(), [0; 256]);
        loop {
            tokio::select! {
                count = self.lines.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return "the daemon ends".to_owned();
                    }
                    bytes.clear();
                    for line in batch.drain(..) {
                        bytes.extend_from_slice(&line);
                    }
                    self.counts.waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                    let written = writer.write_all(&bytes).await;
                    let counter = match &written {
                        Ok(()) => &self.counts.sent,
                        Err(_) => &self.counts.dropped,
                    };
                    counter.fetch_add(count as u64, Ordering::Relaxed);
                    if let Err(error) = written {
                        return error.to_string();
                    }
                }
                // The server has nothing to say; its end is what is waited for.
                read = reader.read(&mut scrap) => match read {
                    Ok(0) => return "closed by the server".to_owned(),
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                },
            }
        }
    }
}

#[derive(Deserialize)]
struct Object {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Log")]
    log: Option<Log>,
}

#[derive(Deserialize)]
struct Log {
    severity: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    key: String,
    value: Value,
}

/// The line that a telemetry object shows in the instance's log, if it is a log message.
#[must_use]
pub fn log_line(object: &[u8]) -> Option<String> {
    // Most of it is tracing: not worth parsing for this.
    memchr::memmem::find(object, br#""Log""#)?;
    let log = serde_json::from_slice::<Object>(object).ok()?.message.log?;
    let mut line = format!("{:5} {}", log.severity.to_uppercase(), log.body);
    for Attribute { key, value } in &log.attributes {
        // Values come tagged with their type: {"I64":0}.
        let value = match value.as_object().and_then(|object| object.values().next()) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => value.to_string(),
        };
        line.push_str(&format!(" {key}={value}"));
    }
    Some(line.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_message_becomes_a_line_and_nothing_else_does() {
        let log = br#"{"thread_id":"a:1","message":{"Log":{"time_unix_nano":1,"severity":"Info",
            "body":"[PING TASK] Sending","attributes":[{"key":"ping","value":{"I64":7}}]}}}"#;
        assert_eq!(log_line(log).as_deref(), Some("INFO  [PING TASK] Sending ping=7"));
        for other in [
            &br#"{"thread_id":"a","message":{"TimeSync":{"local_timestamp":0,"since_epoch":0}}}"#[..],
            br#"{"message":{"Tracing":{"EnterSpan":{"span_id":"\"Log\""}}}}"#,
            b"\"Log\"",
        ] {
            assert_eq!(log_line(other), None);
        }
    }
}
