//! The thread that captures.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use orchestrator_proto::InstanceId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};

use super::file::{Disk, Kernel};
use super::instance::{InstanceLog, Shared};
use super::pump::{self, Buffers};
use super::writer::Writer;
use super::{CaptureConfig, LogError};

/// The least `max_file_bytes`, so that a file has room for some of the longest records.
const MIN_FILE_BYTES: u64 = 64 << 10;

/// Captures the output of all instances, in a thread of its own.
///
/// Dropping it is like [`shutdown`](Self::shutdown) without waiting.
#[derive(Debug)]
pub struct Capture {
    config: CaptureConfig,
    /// Not bounded by number, but by what is sent: one small message for each log.
    commands: mpsc::UnboundedSender<Command>,
    logs: Registry,
    thread: JoinHandle<()>,
}

/// The logs that are open.
type Registry = Arc<Mutex<HashMap<InstanceId, Arc<Shared>>>>;

enum Command {
    Open(Arc<Shared>, Box<Writer>),
    Shutdown(oneshot::Sender<()>),
}

impl Capture {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has no thread or no epoll instance left.
    pub fn start(config: CaptureConfig) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, received) = mpsc::unbounded_channel();
        let logs = Registry::default();
        let registry = logs.clone();
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, run(received, registry)))?;
        Ok(Self {
            config: CaptureConfig {
                max_file_bytes: config.max_file_bytes.max(MIN_FILE_BYTES),
                max_files: config.max_files.max(1),
            },
            commands,
            logs,
            thread,
        })
    }

    /// Opens an instance's log in a directory of its own, which is created (mode 0700) if
    /// necessary; goes on after what is there. Blocks while it lists the directory.
    ///
    /// # Errors
    ///
    /// [`LogError::Open`]; [`LogError::AlreadyOpen`] until the instance's earlier log is
    /// closed; [`LogError::Stopped`].
    pub fn open(&self, instance: InstanceId, dir: PathBuf) -> Result<InstanceLog, LogError> {
        self.open_on(instance, dir, Box::new(Kernel))
    }

    pub(super) fn open_on(
        &self,
        instance: InstanceId,
        dir: PathBuf,
        disk: Box<dyn Disk>,
    ) -> Result<InstanceLog, LogError> {
        let mut logs = lock(&self.logs);
        if logs.contains_key(&instance) {
            return Err(LogError::AlreadyOpen(instance));
        }
        let writer = Writer::open(dir.clone(), self.config, disk).map_err(|source| {
            let dir = dir.clone();
            LogError::Open { dir, source }
        })?;
        let shared = Arc::new(Shared::new(instance, dir, writer.end()));
        self.commands
            .send(Command::Open(shared.clone(), Box::new(writer)))
            .map_err(|_| LogError::Stopped)?;
        logs.insert(instance, shared.clone());
        Ok(InstanceLog { shared })
    }

    /// Closes all logs: reads what is in the pipes without waiting for more, writes it, and
    /// ends the thread. What instances print after that stays in the pipes.
    ///
    /// # Errors
    ///
    /// [`LogError::Deadline`] when the disk does not answer; the thread is left behind then.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), LogError> {
        let (done, wait) = oneshot::channel();
        // If the thread is gone, all logs are closed already.
        if self.commands.send(Command::Shutdown(done)).is_ok() {
            // A sender that was dropped means the same as an answer: the thread ends.
            let _ = tokio::time::timeout(deadline, wait)
                .await
                .map_err(|_| LogError::Deadline(deadline))?;
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread that captured output has panicked");
        }
        Ok(())
    }
}

fn lock(logs: &Registry) -> MutexGuard<'_, HashMap<InstanceId, Arc<Shared>>> {
    logs.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(mut commands: mpsc::UnboundedReceiver<Command>, logs: Registry) {
    // However this ends, nobody must wait for a log that nobody writes.
    let _closing = CloseAll(&logs);
    let buffers = Buffers::new();
    let mut pumps = JoinSet::new();
    let done = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Open(shared, writer)) => {
                    let guard = CloseOne { shared: shared.clone(), logs: logs.clone() };
                    let pump = pump::run(shared, *writer, buffers.clone());
                    pumps.spawn_local(async move {
                        let _guard = guard;
                        pump.await;
                    });
                }
                Some(Command::Shutdown(done)) => break Some(done),
                None => break None,
            },
            Some(_) = pumps.join_next() => {}
        }
    };
    for shared in lock(&logs).values() {
        shared.request_close();
    }
    while pumps.join_next().await.is_some() {}
    drop(done);
}

/// Closes one log when its task ends, even by a panic.
struct CloseOne {
    shared: Arc<Shared>,
    logs: Registry,
}

impl Drop for CloseOne {
    fn drop(&mut self) {
        // First out of the registry: whoever saw it closed may open it again.
        lock(&self.logs).remove(&self.shared.instance);
        self.shared.set_closed();
    }
}

struct CloseAll<'a>(&'a Registry);

impl Drop for CloseAll<'_> {
    fn drop(&mut self) {
        let logs = std::mem::take(&mut *lock(self.0));
        for shared in logs.values() {
            shared.set_closed();
        }
    }
}
