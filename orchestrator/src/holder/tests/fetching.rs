//! What a holder has open, and gives to a daemon that has not.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, fstat, memfd_create};

use super::renewal::{Peer, files, line, name, pipe, status, this_program};
use super::*;

fn inode(file: impl AsFd) -> (u64, u64) {
    let stat = fstat(file).unwrap();
    (stat.st_dev, stat.st_ino)
}

/// Waits until so many files are open: what the holder has sent, it closes right after that.
#[track_caller]
fn has(count: impl Fn() -> usize, expected: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while count() != expected {
        assert!(Instant::now() < deadline, "{} files, not {expected}", count());
        std::thread::yield_now();
    }
}

fn output(peer: &Peer, tag: u64) -> Option<[OwnedFd; 2]> {
    peer.order(Order::Output { child: name(tag) }, &[], &[]);
    match peer.news() {
        (News::Output { child, is_there: true }, [Some(stdout), Some(stderr), None]) => {
            assert_eq!(child, name(tag));
            Some([stdout, stderr])
        }
        (News::Output { child, is_there: false }, [None, None, None]) => {
            assert_eq!(child, name(tag));
            None
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_costs_two_files_and_what_it_prints_can_be_had_again() {
    let peer = Peer::at_work();
    let (stdin, mut input) = pipe();
    let (pid, stdout) = peer.shell(name(1), "while read l; do echo $l; done", &stdin);
    let holder = status(pid, "PPid").parse().unwrap();
    // The answer to an order comes after all that it was about.
    assert!(output(&peer, 7).is_none());
    let before = files(holder);
    let (other_stdin, _other_input) = pipe();
    let (other, _) = peer.shell(name(2), "read x", &other_stdin);
    has(|| files(holder), before + 2);
    assert_eq!(status(other, "PPid"), holder.to_string());

    let inodes = inode(&stdout);
    drop(stdout);
    input.write_all(b"nobody reads\n").unwrap();
    let [again, _] = output(&peer, 1).unwrap();
    assert_eq!(inode(&again), inodes);
    assert_eq!(line(&mut File::from(again)), "nobody reads\n");
    assert!(output(&peer, 7).is_none());

    // What is the next holder's is no more.
    assert_eq!(peer.renew(&[], &this_program()), News::Renewed { version: Version::OWN });
    let [again, _] = output(&peer, 1).unwrap();
    assert_eq!(inode(&again), inodes);
    let children_have = || {
        let pipes = std::fs::read_dir(format!("/proc/{holder}/fd")).unwrap();
        let links = pipes.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let is_pidfd = |link: &std::path::PathBuf| link.to_string_lossy().contains("pidfd");
        links.filter(is_pidfd).count()
    };
    has(children_have, 0);
}

#[test]
fn the_end_of_a_child_comes_with_its_files() {
    let peer = Peer::at_work();
    let (stdin, input) = pipe();
    let (pid, stdout) = peer.shell(name(1), "sleep 1000 & echo $!; read x", &stdin);
    let left: i32 = line(&mut stdout.try_clone().unwrap()).trim().parse().unwrap();
    drop(input);
    let (News::Exited { child, .. }, [Some(pidfd), Some(out), Some(_)]) = peer.news() else {
        panic!("its end, with three files")
    };
    assert_eq!((child, inode(&out)), (name(1), inode(&stdout)));
    // It was opened before the process was collected, and so reaches what is left of its group.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", {
        use std::os::fd::AsRawFd;
        pidfd.as_raw_fd()
    }));
    assert!(info.unwrap().contains("Pid:\t-1"), "a pidfd of one that was collected");
    assert_eq!(status(left, "NSpgid"), pid.to_string());
    assert!(output(&peer, 1).is_some());
    peer.order(Order::Release { child: name(1) }, &[], &[]);
    assert!(output(&peer, 1).is_none());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), Signal::SIGKILL).unwrap();
}

#[test]
fn what_is_kept_is_said_to_be_and_can_be_had_again() {
    let peer = Peer::at_work();
    let kept = memfd_create(c"kept", MemfdFlags::CLOEXEC).unwrap();
    let (file, other) = (name(9), name(8));
    peer.order(Order::Keep { file: other, confirm: false }, &[], &[&kept]);
    peer.order(Order::Keep { file, confirm: true }, &[], &[&kept]);
    let (news, [None, None, None]) = peer.news() else { panic!("no files") };
    assert_eq!(news, News::Kept { file });
    // Without the file there is nothing to keep.
    peer.order(Order::Keep { file: name(7), confirm: true }, &[], &[]);
    assert_eq!(peer.news().0, News::NotKept { file: name(7) });

    let fetch = |file| {
        peer.order(Order::Fetch { file }, &[], &[]);
        peer.news()
    };
    let (news, [Some(again), None, None]) = fetch(file) else { panic!("a file") };
    assert_eq!(news, News::Fetched { file, is_there: true });
    assert_eq!(inode(again), inode(&kept));
    peer.order(Order::Forget { file }, &[], &[]);
    let (news, [None, None, None]) = fetch(file) else { panic!("no file") };
    assert_eq!(news, News::Fetched { file, is_there: false });
}
