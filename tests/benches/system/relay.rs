//! The floor of everything that carries messages: a process that copies bytes from one socket
//! to others, with blocking calls and without looking at them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use crate::actor::{self, Actor};

/// What is read at once: as much as the receivers read, and no less than the daemon does.
const CHUNK: usize = 256 << 10;

/// A relay with a socket for the sender and one for each receiver.
pub(crate) struct Relay {
    /// Where the sender connects.
    pub(crate) near: PathBuf,
    /// Where the receivers connect, one each.
    pub(crate) far: Vec<PathBuf>,
    actor: Actor,
    _dir: TempDir,
}

impl Relay {
    /// Starts one.
    pub(crate) fn start(receivers: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("relay").tempdir().unwrap();
        let near = dir.path().join("near");
        let far: Vec<PathBuf> =
            (0..receivers).map(|n| dir.path().join(format!("far{n}"))).collect();
        let mut actor = Actor::start("relay", std::iter::once(&near).chain(&far));
        actor.wait_ready();
        Self { near, far, actor, _dir: dir }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.actor.pid()
    }
}

/// Accepts one connection on each socket, and relays: with one receiver both ways.
pub(crate) fn play(sockets: &[&str]) {
    let listeners: Vec<UnixListener> =
        sockets.iter().map(|path| UnixListener::bind(Path::new(path)).unwrap()).collect();
    actor::say_ready();
    let mut streams: Vec<UnixStream> =
        listeners.iter().map(|listener| listener.accept().unwrap().0).collect();
    let near = streams.remove(0);
    if let [far] = &streams[..] {
        let (from, to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        thread::spawn(move || copy(from, &mut [to]));
    }
    copy(near, &mut streams);
}

fn copy(mut from: UnixStream, to: &mut [UnixStream]) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        for stream in &mut *to {
            if stream.write_all(&chunk[..count]).is_err() {
                return;
            }
        }
    }
}
