//! Two processes: the files are passed from one to the other, which is killed at any moment.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::kernel::soon;
use super::model::payload;
use crate::ring::{Consumer, Files, Producer, RingError, Side};

/// Where the child gets the files; set for children only.
const SOCKET: &str = "RING_TEST_SOCKET";

fn send(socket: &UnixStream, files: &Files) {
    let fds = files.as_fds();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(beside.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[IoSlice::new(b"r")], &mut beside, SendFlags::NOSIGNAL).unwrap();
}

fn receive(socket: &UnixStream) -> Files {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(socket.as_fd(), parts, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds: Vec<OwnedFd> = beside
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Files::from_fds(fds.try_into().unwrap())
}

/// No test of itself: what the other process does.
#[test]
fn child() {
    let Ok(path) = std::env::var(SOCKET) else { return };
    let files = receive(&UnixStream::connect(path).unwrap());
    let mut producer = Producer::open(files).unwrap();
    for number in 0.. {
        if !producer.push(number, &payload(number, len(number)), soon()).unwrap() {
            return;
        }
    }
}

/// Most are short; some are longer than the ring.
fn len(number: u64) -> usize {
    match number % 16 {
        0 => 40_000,
        5 => 3000,
        n => n as usize * 9,
    }
}

fn start_child(files: &Files, dir: &std::path::Path) -> Child {
    let path = dir.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ring::tests::processes::child"])
        .env(SOCKET, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    send(&listener.accept().unwrap().0, files);
    child
}

/// Whenever it is killed, all that it published comes, and nothing else; and another program can
/// take its place.
#[test]
fn a_producer_that_is_killed_leaves_whole_messages() {
    for round in 0..12_u64 {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::ring(16 << 10).unwrap();
        let mut consumer = Consumer::open(files.try_clone().unwrap()).unwrap();
        let mut child = start_child(&files, dir.path());
        let mut bytes = Vec::new();
        let mut expected = 0;
        let mut check = |number, bytes: &[u8]| {
            assert_eq!(number, expected);
            assert_eq!(bytes, payload(number, len(number)));
            expected += 1;
        };
        // A long message or short ones are under way then.
        for _ in 0..round * 5 + 1 {
            let number = consumer.pop(&mut bytes, soon()).unwrap().unwrap();
            check(number, &bytes);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(number) = consumer.try_pop(&mut bytes).unwrap() {
            check(number, &bytes);
        }
        files.vacate(Side::Producer).unwrap();
        let mut producer = Producer::open(files).unwrap();
        assert!(producer.try_push(u64::MAX, b"successor").unwrap());
        while consumer.pop(&mut bytes, soon()).unwrap() != Some(u64::MAX) {}
        assert_eq!(bytes, b"successor");
        assert!(consumer.cut_short() <= 1);
        drop(producer);
        assert!(matches!(consumer.pop(&mut bytes, soon()), Err(RingError::Closed)));
    }
}
