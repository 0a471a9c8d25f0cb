//! What the holder has open for the daemon, and what it has not.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::fs::{MemfdFlags, fstat, memfd_create};

use super::*;
use crate::holder::frame::{PROTOCOL, WITH_FETCHING};

/// An instance's id, a program of it that runs, and the file that it prints into.
struct Running {
    instance: InstanceId,
    spawned: Spawned,
    inode: u64,
}

/// Runs a program, and has its output kept by whoever is to.
async fn run(linux: &Linux, script: &str) -> Running {
    let launch = sh(script);
    let instance = launch.instance;
    let mut spawned = within(linux.spawn(launch)).await.unwrap();
    let (stdout, stderr) = spawned.output.take().unwrap();
    linux.keep_output((instance, spawned.run), (&stdout, &stderr)).unwrap();
    let inode = inode(&stdout);
    Running { instance, spawned, inode }
}

fn inode(file: impl AsFd) -> u64 {
    fstat(file).unwrap().st_ino
}

/// Whether this process has a pipe or a memfd of this inode open.
fn is_open_here(inode: u64) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let inode_of = |path: PathBuf| {
        std::fs::metadata(path).ok().map(|it| {
            use std::os::unix::fs::MetadataExt;
            it.ino()
        })
    };
    open.filter_map(|entry| inode_of(entry.path())).any(|it| it == inode)
}

/// By a holder that speaks this.
fn held_by(protocol: i32) -> Linux {
    let linux = linux();
    linux.link().table().holder_protocol = Some(protocol);
    linux
}

#[tokio::test]
async fn the_pipes_of_a_program_are_with_the_holder_until_it_has_ended() {
    for protocol in [PROTOCOL, WITH_FETCHING - 1] {
        let gives = protocol >= WITH_FETCHING;
        let linux = held_by(protocol);
        let Running { instance, mut spawned, inode: pipe } = run(&linux, "sleep 1000").await;
        let run = spawned.run;
        assert_eq!(is_open_here(pipe), !gives);
        let (stdout, _) = within(linux.output(instance, run)).await.unwrap().unwrap();
        assert_eq!(inode(&stdout), pipe);
        drop(stdout);
        assert!(within(linux.output(instance, run + 1)).await.unwrap().is_none());

        within(spawned.process.signal_tree(KILL)).await.unwrap();
        let ended = within(&mut spawned.exited).await.unwrap();
        assert_eq!(ended.exit, signal(KILL));
        // The holder may be told to forget it.
        assert!(is_open_here(pipe));
        let (stdout, _) = within(linux.output(instance, run)).await.unwrap().unwrap();
        assert_eq!(inode(&stdout), pipe);
        drop(stdout);
        linux.release_output(instance, run);
        assert!(!is_open_here(pipe));
        assert!(within(linux.output(instance, run)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn the_pipes_of_a_program_that_ended_before_they_were_kept_are_here() {
    let linux = linux();
    let mut spawned = within(linux.spawn(sh("exit 0"))).await.unwrap();
    let instance = InstanceId::generate();
    within(&mut spawned.exited).await.unwrap();
    let (stdout, stderr) = spawned.output.take().unwrap();
    linux.keep_output((instance, spawned.run), (&stdout, &stderr)).unwrap();
    let pipe = inode(&stdout);
    drop((stdout, stderr));
    assert!(is_open_here(pipe));
    linux.release_output(instance, spawned.run);
    assert!(!is_open_here(pipe));
}

#[tokio::test]
async fn what_a_program_has_left_is_signalled_when_it_has_been_collected() {
    for linux in kernels() {
        let Running { mut spawned, .. } = run(&linux, "sleep 1000 & exit 4").await;
        let ended = within(&mut spawned.exited).await.unwrap();
        assert_eq!(ended.exit, Exit::Code(4));
        assert!(!within(spawned.process.tree_empty()).await.unwrap());
        assert!(within(spawned.process.signal_tree(KILL)).await.unwrap());
        within(spawned.process.tree_gone()).await;
        assert!(!within(spawned.process.signal_tree(KILL)).await.unwrap());
    }
}

async fn gone_from_here(file: u64) {
    let deadline = Instant::now() + DEADLINE;
    while is_open_here(file) {
        assert!(Instant::now() < deadline, "it is still open");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_deposit_is_here_until_the_holder_has_said_that_it_is_there() {
    let name = |tag| Name { key: [7; 16], tag };
    let file = || memfd_create(c"deposit", MemfdFlags::CLOEXEC).unwrap();
    let linux = held_by(PROTOCOL);
    let (first, second) = (file(), file());
    let inodes = [inode(&first), inode(&second)];
    // One after the other in the same place: the answer for the first says nothing of the second.
    linux.deposit(name(1), first);
    linux.forget(name(1));
    linux.deposit(name(1), second);
    assert!(is_open_here(inodes[1]));
    for inode in inodes {
        gone_from_here(inode).await;
    }
    let again = within(linux.fetch(name(1))).await.unwrap().unwrap();
    assert_eq!(inode(&again), inodes[1]);
    drop(again);
    linux.forget(name(1));
    assert!(within(linux.fetch(name(1))).await.unwrap().is_none());

    // An old holder says nothing.
    let linux = held_by(WITH_FETCHING - 1);
    let [kept, left] = [file(), file()];
    let inodes = [inode(&kept), inode(&left)];
    linux.deposit(name(1), kept);
    linux.is_deposited(name(2), left);
    // It answers this after what it was told before.
    within(linux.spawn(sh("exit 0"))).await.unwrap();
    for (inode, tag) in inodes.into_iter().zip(1..) {
        assert!(is_open_here(inode));
        let again = within(linux.fetch(name(tag))).await.unwrap().unwrap();
        assert_eq!(self::inode(&again), inode);
        drop(again);
        linux.forget(name(tag));
        assert!(!is_open_here(inode));
    }
}
