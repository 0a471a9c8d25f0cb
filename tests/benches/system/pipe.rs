//! What the ring is compared with: a ring that checks nothing, and a socket pair; and how two
//! processes come to the same files.
#![allow(unsafe_code, reason = "the floor is what shared memory is without any checks")]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

/// One end of something that carries messages of one size both ways.
pub(crate) trait Pipe {
    fn send(&mut self, bytes: &[u8]);
    fn receive(&mut self, into: &mut Vec<u8>);

    fn echo(&mut self, bytes: &mut Vec<u8>) {
        self.receive(bytes);
        self.send(bytes);
    }

    fn send_many(&mut self, bytes: &[u8], count: usize) {
        (0..count).for_each(|_| self.send(bytes));
    }

    fn receive_many(&mut self, into: &mut Vec<u8>, count: usize) {
        (0..count).for_each(|_| self.receive(into));
    }

    /// Messages and their answers, one after the other; `after` is called after each.
    fn roundtrips(&mut self, bytes: &mut Vec<u8>, count: usize, after: &mut dyn FnMut()) {
        for _ in 0..count {
            self.send(bytes);
            self.receive(bytes);
            after();
        }
    }

    fn echoes(&mut self, bytes: &mut Vec<u8>, count: usize) {
        (0..count).for_each(|_| self.echo(bytes));
    }

    /// Waits, and lets go on meanwhile what has to.
    fn settle(&mut self, wait: Box<dyn FnOnce() + Send + '_>) {
        wait();
    }

    /// Waits for what is to be done next; none if that was all.
    fn order(&mut self, orders: &mut UnboundedReceiver<String>) -> Option<String> {
        orders.blocking_recv()
    }
}

/// Where the other process gets its files.
pub(crate) struct Near {
    listener: UnixListener,
    path: PathBuf,
    _dir: TempDir,
}

impl Near {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ring").tempdir().unwrap();
        let path = dir.path().join("files");
        Self { listener: UnixListener::bind(&path).unwrap(), path, _dir: dir }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn accept(&self) -> Far {
        Far(self.listener.accept().unwrap().0)
    }
}

/// The connection between both processes.
pub(crate) struct Far(pub(crate) UnixStream);

impl Far {
    pub(crate) fn connect(path: &str) -> Self {
        Self(UnixStream::connect(path).unwrap())
    }

    pub(crate) fn give(&self, fds: &[BorrowedFd<'_>; 3]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&self.0, &[IoSlice::new(b"f")], &mut beside, SendFlags::empty()).unwrap();
    }

    pub(crate) fn files(&self) -> [OwnedFd; 3] {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let parts = &mut [IoSliceMut::new(&mut byte)];
        recvmsg(self.0.as_fd(), parts, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap();
        let rights = beside.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        rights.flatten().collect::<Vec<_>>().try_into().unwrap()
    }
}

/// Blocking reads and writes.
pub(crate) struct Sockets(pub(crate) UnixStream);

impl Pipe for Sockets {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        self.0.read_exact(into).unwrap();
    }
}

/// Slots of one size, two indices, and whoever waits spins.
pub(crate) struct Bare {
    out: Half,
    back: Half,
}

struct Half {
    base: *mut u8,
    size: usize,
    slots: u64,
    at: u64,
}

/// Where the indices and the slots are.
const HEAD: usize = 0;
const TAIL: usize = 128;
const SLOTS: usize = 4096;

fn slots(size: usize) -> usize {
    ((1 << 20) / size).clamp(2, 4096)
}

impl Bare {
    pub(crate) fn file(size: usize) -> OwnedFd {
        let file = rustix::fs::memfd_create("bare", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, (SLOTS + slots(size) * size) as u64).unwrap();
        file
    }

    pub(crate) fn new(out: &OwnedFd, back: &OwnedFd, size: usize) -> Self {
        let half = |file: &OwnedFd| {
            let len = SLOTS + slots(size) * size;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping; it stays until the process ends.
            let base = unsafe {
                rustix::mm::mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file, 0).unwrap()
            };
            Half { base: base.cast(), size, slots: slots(size) as u64, at: 0 }
        };
        Self { out: half(out), back: half(back) }
    }
}

impl Half {
    fn index(&self, at: usize) -> &AtomicU64 {
        // SAFETY: it is inside the mapping and aligned.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }

    fn slot(&self) -> *mut u8 {
        // SAFETY: it is inside the mapping.
        unsafe { self.base.add(SLOTS + (self.at % self.slots) as usize * self.size) }
    }
}

impl Pipe for Bare {
    fn send(&mut self, bytes: &[u8]) {
        let half = &mut self.out;
        while half.at - half.index(TAIL).load(Ordering::Acquire) == half.slots {
            std::hint::spin_loop();
        }
        assert_eq!(bytes.len(), half.size);
        // SAFETY: the slot is as long, and nobody reads it now.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), half.slot(), half.size) };
        half.at += 1;
        half.index(HEAD).store(half.at, Ordering::Release);
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        let half = &mut self.back;
        while half.index(HEAD).load(Ordering::Acquire) == half.at {
            std::hint::spin_loop();
        }
        assert_eq!(into.len(), half.size);
        // SAFETY: the slot is as long, and nobody writes it now.
        unsafe { ptr::copy_nonoverlapping(half.slot(), into.as_mut_ptr(), half.size) };
        half.at += 1;
        half.index(TAIL).store(half.at, Ordering::Release);
    }
}
