//! Where the reading ends of pipes are kept while they are read by another process.

use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_proto::InstanceId;

/// The reading ends of what one run of an instance prints.
#[derive(Debug)]
pub struct Pipes {
    /// Of its standard output.
    pub stdout: OwnedFd,
    /// Of its standard error.
    pub stderr: OwnedFd,
}

/// What the pipes of a run are waited for with. It does not borrow.
pub type PendingPipes = Pin<Box<dyn Future<Output = io::Result<Option<Arc<Pipes>>>> + Send>>;

/// Keeps copies of the reading ends of all pipes. As long as there is a copy, no byte in a pipe
/// is lost and no program that prints gets SIGPIPE, whatever becomes of who reads.
pub trait PipeSource: Send + Sync + 'static {
    /// The pipes of a new run, to be kept until they are [released](Self::release). Must not
    /// block; whoever has copies of its own already has nothing to do.
    fn keep(&self, instance: InstanceId, run: u64, pipes: &Arc<Pipes>);

    /// Copies of the pipes of a run, to be read on; none if they are not kept (any more).
    ///
    /// # Errors
    ///
    /// When it may go well another time; it is asked again after two seconds.
    fn pipes(&self, instance: InstanceId, run: u64) -> PendingPipes;

    /// Both pipes of a run have ended or will not be read any more. Must not block.
    fn release(&self, instance: InstanceId, run: u64);
}

/// The pipes, in this process. They end with it.
#[derive(Debug, Default)]
pub struct Kept(Mutex<HashMap<(InstanceId, u64), Arc<Pipes>>>);

impl Kept {
    fn pipes(&self) -> MutexGuard<'_, HashMap<(InstanceId, u64), Arc<Pipes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PipeSource for Kept {
    fn keep(&self, instance: InstanceId, run: u64, pipes: &Arc<Pipes>) {
        self.pipes().insert((instance, run), pipes.clone());
    }

    fn pipes(&self, instance: InstanceId, run: u64) -> PendingPipes {
        let pipes = self.pipes().get(&(instance, run)).cloned();
        Box::pin(ready(Ok(pipes)))
    }

    fn release(&self, instance: InstanceId, run: u64) {
        let released = self.pipes().remove(&(instance, run));
        // Closed while nobody waits for the lock.
        drop(released);
    }
}
