//! A program that a client sends: streamed to a file, checked, and never half there; and the way of
//! whatever clients send along with a request.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orchestrator_proto::control::{
    MAX_CHUNK, Program, ReplayMessage, ReplaySpec, Request, RuntimeSpec,
};
use orchestrator_proto::{ErrorCode, InstanceId, WireError};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Daemon;

/// Chunks that may wait for the disk.
const MAX_WAITING: usize = 4;

/// Bytes of what is fed that may wait: 16 MiB, or one message that has more.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// A part of what a client sends along with a request.
pub(super) enum Chunk {
    /// Of an upload.
    Bytes(Vec<u8>),
    /// The end of an upload.
    End { sha256: [u8; 32] },
    /// Of a replay.
    Feed(Vec<ReplayMessage>),
    /// The end of a replay.
    FeedEnd,
}

impl Chunk {
    fn size(&self) -> u32 {
        let size = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Feed(messages) => messages.iter().map(|it| it.payload.len() + 64).sum(),
            Self::End { .. } | Self::FeedEnd => 0,
        };
        u32::try_from(size.min(MAX_WAITING_BYTES)).unwrap_or(u32::MAX)
    }
}

/// Where the connection puts what comes along.
#[derive(Clone)]
pub(super) struct ChunkSender {
    chunks: mpsc::Sender<(Chunk, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl ChunkSender {
    /// Waits until there is room, or the request is done.
    pub(super) async fn send(&self, chunk: Chunk) {
        let room = self.room.clone().acquire_many_owned(chunk.size());
        tokio::select! {
            // The semaphore is never closed.
            Ok(permit) = room => drop(self.chunks.send((chunk, permit)).await),
            () = self.chunks.closed() => {}
        }
    }
}

/// What belongs to a request; empty for most.
pub(super) struct Chunks(mpsc::Receiver<(Chunk, OwnedSemaphorePermit)>);

impl Chunks {
    /// The next part; none if the client is gone.
    pub(super) async fn next(&mut self) -> Option<Chunk> {
        self.0.recv().await.map(|(chunk, _)| chunk)
    }

    /// The next part, if it is there.
    pub(super) fn next_now(&mut self) -> Option<Chunk> {
        self.0.try_recv().ok().map(|(chunk, _)| chunk)
    }
}

/// The way of what comes along with a request from the connection, if the request takes any.
pub(super) fn channel(request: &Request) -> (Option<ChunkSender>, Chunks) {
    let waiting = match request {
        Request::RuntimeAdd(RuntimeSpec { program: Program::Upload { .. }, .. }) => MAX_WAITING,
        Request::LinkReplay(_) => ReplaySpec::WINDOW,
        _ => 0,
    };
    let (chunks, receiver) = mpsc::channel(waiting.max(1));
    let sender = || ChunkSender { chunks, room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)) };
    ((waiting > 0).then(sender), Chunks(receiver))
}

/// A file that arrived. Deleted again unless it is kept.
pub(super) struct Upload {
    dir: PathBuf,
    file: PathBuf,
    kept: bool,
}

impl Upload {
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// Receives the program of `spec` into a directory of its own, and gives `spec` an id, by
    /// which that directory is named.
    pub(super) async fn receive(
        daemon: &Daemon,
        spec: &mut RuntimeSpec,
        mut chunks: Chunks,
    ) -> Result<Self, WireError> {
        // Before anything is transferred in vain.
        daemon.registry.check(spec)?;
        let Program::Upload { file_name, size } = &spec.program else {
            return Err(WireError::new(ErrorCode::Internal, "this is no upload"));
        };
        let (size, max) = (*size, daemon.max_upload);
        if size > max {
            let message = format!("the program has {size} bytes; at most {max} are allowed");
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        let id = *spec.id.get_or_insert_with(InstanceId::generate);
        // Not by the id alone: two clients may send the same one, and only one gets it.
        let unique = format!("{id}-{}", InstanceId::generate().simple());
        let dir = daemon.registry.directories().programs.join(unique);
        let upload = Self { file: dir.join(file_name.as_path()), dir, kept: false };
        let (upload, file) = tokio::task::spawn_blocking(move || (upload.create(), upload))
            .await
            .map(|(file, upload)| (upload, file))
            .map_err(|panic| {
                WireError::new(ErrorCode::Internal, format!("the upload failed: {panic}"))
            })?;
        let mut file = file?;
        let (mut digest, mut received) = (Sha256::new(), 0_u64);
        let announced = loop {
            match chunks.next().await {
                None => return Err(super::client_gone()),
                Some(Chunk::Feed(_) | Chunk::FeedEnd) => {
                    let message = "messages are fed to `link replay`, not to an upload";
                    return Err(WireError::new(ErrorCode::InvalidArgument, message));
                }
                Some(Chunk::End { sha256 }) => break sha256,
                Some(Chunk::Bytes(bytes)) => {
                    received += bytes.len() as u64;
                    if bytes.len() > MAX_CHUNK {
                        let length = bytes.len();
                        let message =
                            format!("a chunk of {length} bytes; at most {MAX_CHUNK} are allowed");
                        return Err(WireError::new(ErrorCode::LimitReached, message));
                    }
                    if received > size {
                        let message = "the upload is longer than announced";
                        return Err(WireError::new(ErrorCode::ChecksumMismatch, message));
                    }
                    digest.update(&bytes);
                    // The disk may be slow or full; a worker of the message path must not wait.
                    let written = tokio::task::spawn_blocking(move || {
                        let result = file.write_all(&bytes);
                        (file, result)
                    });
                    let (back, result) = written.await.map_err(|error| failed(&upload, &error))?;
                    result.map_err(|error| failed(&upload, &error))?;
                    file = back;
                }
            }
        };
        if received != size || digest.finalize()[..] != announced {
            let message = format!(
                "the upload arrived with {received} of {size} bytes, or with another SHA-256 than \
                 announced; send it again"
            );
            return Err(WireError::new(ErrorCode::ChecksumMismatch, message));
        }
        let dir = upload.dir.clone();
        let done = tokio::task::spawn_blocking(move || {
            file.set_permissions(fs::Permissions::from_mode(0o500))?;
            file.sync_all()?;
            // The names that lead to it too, up to the state directory: it is to survive a power
            // cut, as the instance does.
            dir.ancestors().take(3).try_for_each(|dir| fs::File::open(dir)?.sync_all())
        });
        done.await
            .map_err(|error| failed(&upload, &error))?
            .map_err(|error| failed(&upload, &error))?;
        Ok(upload)
    }

    fn create(&self) -> Result<fs::File, WireError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .and_then(|()| {
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.file)
            })
            .map_err(|error| failed(self, &error))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let dir = std::mem::take(&mut self.dir);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&dir) {
                tracing::warn!(?dir, %error, "an unfinished upload could not be removed");
            }
        };
        // Dropped on a worker of the message path, mostly, which must not wait for a disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn failed(upload: &Upload, error: &(dyn std::error::Error + 'static)) -> WireError {
    let message = format!("the program could not be written to {:?}", upload.file);
    WireError::caused_by(ErrorCode::Io, message, error)
}
