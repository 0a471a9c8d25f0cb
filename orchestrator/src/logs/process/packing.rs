//! Compressing files that are complete, on a thread of its own that gives way to all others.
//!
//! It makes a file beside the original and does nothing else: that is put in its place by the
//! thread that writes the logs, which alone knows whether it is still wanted.

use std::cell::OnceCell;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use tokio::sync::oneshot;

use crate::logs::names::{part_path, path_of};
use crate::logs::packed::pack;

/// How favourably the thread is scheduled: as little as possible.
const NICE: i32 = 19;

/// Files that may wait for it: one of each instance that a daemon can have.
const MAX_WAITING: usize = 4096;

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const CANCELLED: u8 = 2;

/// A file that is being compressed.
pub(super) struct Job(Arc<AtomicU8>);

impl Job {
    /// Whether there is an end of it to be waited for; it comes within one frame then.
    pub(super) fn cancel(&self) -> bool {
        self.0.swap(CANCELLED, Ordering::AcqRel) == RUNNING
    }
}

struct Order {
    dir: PathBuf,
    number: u64,
    state: Arc<AtomicU8>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The thread, once there was something to be done. It has one file of each log at a time.
#[derive(Default)]
pub(super) struct Packer(OnceCell<SyncSender<Order>>);

impl Packer {
    /// Has a file of a log compressed. The answer comes when that is done.
    ///
    /// # Errors
    ///
    /// When there can't be another thread.
    pub(super) fn pack(
        &self,
        dir: PathBuf,
        number: u64,
    ) -> io::Result<(Job, oneshot::Receiver<io::Result<()>>)> {
        let orders = match self.0.get() {
            Some(orders) => orders,
            None => {
                let (sender, orders) = mpsc::sync_channel(MAX_WAITING);
                let thread = std::thread::Builder::new().name("orch-compress".into());
                thread.spawn(move || work(&orders))?;
                self.0.get_or_init(|| sender)
            }
        };
        let state = Arc::new(AtomicU8::new(QUEUED));
        let (done, answer) = oneshot::channel();
        let order = Order { dir, number, state: state.clone(), done };
        orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => io::Error::other("too many files are to be compressed"),
            TrySendError::Disconnected(_) => {
                io::Error::other("the thread that compresses has ended")
            }
        })?;
        Ok((Job(state), answer))
    }
}

fn work(orders: &Receiver<Order>) {
    // Without it, it is as important as others.
    let _ = rustix::process::setpriority_process(None, NICE);
    while let Ok(order) = orders.recv() {
        let Order { dir, number, state, done } = order;
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        if state.compare_exchange(QUEUED, RUNNING, success, failure).is_ok() {
            // Who asked may have gone.
            let _ = done.send(compress(&dir, number, &state));
        }
    }
}

fn compress(dir: &Path, number: u64, state: &AtomicU8) -> io::Result<()> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let source = OpenOptions::new().read(true).custom_flags(flags).open(path_of(dir, number))?;
    let part = part_path(dir, number);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let target = options.custom_flags(nix::libc::O_NOFOLLOW).open(&part)?;
    let packed = pack(&source, &target, || state.load(Ordering::Acquire) == CANCELLED);
    packed.inspect_err(|_| {
        // What stays is deleted when the log is opened again.
        let _ = fs::remove_file(&part);
    })
}
