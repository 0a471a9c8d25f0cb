//! A holder executes another program in its place, or can't.

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

use super::super::frame::MAX_DATAGRAM;
use super::super::handover::FORM;
use super::super::image::{Program, own_environment};
use super::*;

/// The next holder waits until somebody writes to this pipe.
const ENV_WAIT: &str = "ORCHESTRATOR_TEST_WAIT";

/// The next holder can't read what is handed over.
const ENV_UNABLE: &str = "ORCHESTRATOR_TEST_UNABLE";

const SOON: Duration = Duration::from_secs(20);

/// What the next holder is to do first.
pub(super) fn before_it_goes_on() {
    if let Some(path) = env::var_os(ENV_WAIT) {
        fs::read(path).unwrap();
    }
    if env::var_os(ENV_UNABLE).is_some() {
        let (_, before) = handover::head(&read_all(io::stdin()).unwrap()).unwrap();
        panic!("{}", go_back(before));
    }
}

/// A daemon's end of the connection to a holder.
pub(super) struct Peer(OwnedFd);

impl Peer {
    /// Is at work.
    pub(super) fn at_work() -> Self {
        let peer = Self(start_holder());
        peer.hello();
        peer.order(Order::Ready, &[], &[]);
        peer
    }

    pub(super) fn order(&self, order: Order, image: &[u8], files: &[&dyn AsFd]) {
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let frame = order.encode();
        socket::send(&self.0, &[IoSlice::new(&frame), IoSlice::new(image)], &files).unwrap();
    }

    #[track_caller]
    pub(super) fn news(&self) -> (News, socket::Files) {
        let deadline = Instant::now() + SOON;
        let mut bytes = [0; SIZE];
        loop {
            match socket::receive(&self.0, &mut bytes) {
                Ok((SIZE, files)) => return (News::decode(&bytes).unwrap(), files),
                Ok((len, _)) => panic!("{len} bytes"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            let left = deadline.checked_duration_since(Instant::now()).expect("news in time");
            let left = Timespec::try_from(left).unwrap();
            poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)).unwrap();
        }
    }

    /// All that it is told when it asks.
    #[track_caller]
    pub(super) fn hello(&self) -> Vec<(News, socket::Files)> {
        self.order(Order::Hello { protocol: frame::PROTOCOL }, &[], &[]);
        let (welcome, _) = self.news();
        let expected =
            News::Welcome { protocol: frame::PROTOCOL, successor: false, version: Version::OWN };
        assert_eq!(welcome, expected);
        let mut all = Vec::new();
        loop {
            match self.news() {
                (News::Complete, _) => return all,
                news => all.push(news),
            }
        }
    }

    /// A shell that reads from this pipe; its number, what it prints.
    #[track_caller]
    pub(super) fn shell(&self, child: Name, script: &str, stdin: &OwnedFd) -> (i32, File) {
        let args = ["sh", "-c", script].map(OsStr::new);
        let program = Program {
            path: OsStr::new("/bin/sh"),
            cwd: OsStr::new("/"),
            args: &args,
            env: &[],
            attributes: None,
        };
        let order = spawn(child);
        self.order(order, &program.image().unwrap(), &[stdin]);
        let (News::Spawned { child: born, pid, .. }, [_, Some(stdout), _]) = self.news() else {
            panic!("it runs")
        };
        assert_eq!(born, child);
        (pid, File::from(stdout))
    }

    #[track_caller]
    pub(super) fn signal(&self, child: Name, signal: i32) {
        self.order(Order::Signal { child, signal }, &[], &[]);
        assert_eq!(self.news().0, News::Signalled { child, errno: 0 });
    }

    /// Has it execute this program, and hears what comes of it.
    #[track_caller]
    pub(super) fn renew(&self, env: &[(&str, &str)], program: &File) -> News {
        self.order_renewal(env, program);
        self.news().0
    }

    fn order_renewal(&self, env: &[(&str, &str)], program: &File) {
        let image = image(env);
        if SIZE + image.len() > MAX_DATAGRAM {
            let mut file = File::from(memfd_create(c"image", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(&image).unwrap();
            self.order(Order::Renew { image: true, reads: FORM }, &[], &[&file, program]);
        } else {
            self.order(Order::Renew { image: false, reads: FORM }, &image, &[program]);
        }
    }
}

/// A program with a file to read from.
fn spawn(child: Name) -> Order {
    Order::Spawn { child, nice: 0, image: false, stdin: true, cgroup: false, listeners: 0 }
}

fn image(env: &[(&str, &str)]) -> Vec<u8> {
    let args = [&["holder"][..], &ARGS].concat();
    let args: Vec<_> = args.iter().map(OsStr::new).collect();
    let env = own_environment(&[&[(ENV_ROLE, HOLDER), (ENV_TEST, "1")], env].concat());
    let program = Program {
        path: OsStr::new("/x"),
        cwd: OsStr::new("/"),
        args: &args,
        env: &env,
        attributes: None,
    };
    program.image().unwrap()
}

pub(super) fn this_program() -> File {
    File::open("/proc/self/exe").unwrap()
}

pub(super) fn name(tag: u64) -> Name {
    Name { key: [3; 16], tag }
}

fn exited(child: Name, pid: i32, how: How) -> impl Fn(News) {
    move |news| {
        let News::Exited { child: ended, pid: number, how: by, time_ns } = news else {
            panic!("{news:?}")
        };
        assert_eq!((ended, number, by), (child, pid, how));
        assert!(time_ns > 0);
    }
}

#[track_caller]
pub(super) fn line(from: &mut File) -> String {
    let mut line = Vec::new();
    let deadline = Instant::now() + SOON;
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        match from.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            Ok(_) => panic!("it has ended: {line:?}"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                let left = deadline.checked_duration_since(Instant::now()).expect("a line");
                let left = Timespec::try_from(left).unwrap();
                poll(&mut [PollFd::new(&*from, PollFlags::IN)], Some(&left)).unwrap();
            }
        }
    }
    String::from_utf8(line).unwrap()
}

pub(super) fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

pub(super) fn pipe() -> (OwnedFd, File) {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reading, File::from(writing))
}

pub(super) fn files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

const ECHO: &str = "while read line; do echo $line $PPID; done; exit 7";

#[test]
fn children_and_files_survive() {
    let peer = Peer::at_work();
    let kept = memfd_create(c"kept", MemfdFlags::CLOEXEC).unwrap();
    File::from(kept.try_clone().unwrap()).write_all(b"what was kept").unwrap();
    peer.order(Order::Keep { file: name(9), confirm: false }, &[], &[&kept]);
    let (stdin, mut input) = pipe();
    let (pid, mut output) = peer.shell(name(1), ECHO, &stdin);
    let (other_stdin, other_input) = pipe();
    let (ended, _) = peer.shell(name(2), "read x; exit 5", &other_stdin);
    drop((other_input, stdin, other_stdin));
    exited(name(2), ended, How::Code(5))(peer.news().0);
    let holder = status(pid, "PPid").parse().unwrap();
    let expected = |word: &str| format!("{word} {holder}\n");
    input.write_all(b"before\n").unwrap();
    assert_eq!(line(&mut output), expected("before"));
    let long = "x".repeat(2 * MAX_DATAGRAM);
    // Without what was open when the first holder was started, by whoever runs this test.
    assert_eq!(peer.renew(&[], &this_program()), News::Renewed { version: Version::OWN });
    let before = files(holder);
    let limit = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();

    for round in 0..6 {
        let extra = if round % 2 == 0 { "" } else { &long };
        let renewed = peer.renew(&[("EXTRA", extra)], &this_program());
        assert_eq!(renewed, News::Renewed { version: Version::OWN });
        assert_eq!(files(holder), before, "round {round}");
        input.write_all(b"after\n").unwrap();
        assert_eq!(line(&mut output), expected("after"));
        peer.signal(name(1), 0);
        // Programs are executed as before.
        let (stdin, _) = pipe();
        let (next, _) = peer.shell(name(10 + round), "kill -STOP $$", &stdin);
        assert_eq!(status(next, "PPid"), holder.to_string());
        assert_eq!(fs::read_to_string(format!("/proc/{next}/limits")).unwrap(), limit);
        peer.signal(name(10 + round), libc::SIGKILL);
        exited(name(10 + round), next, How::Signal(libc::SIGKILL))(peer.news().0);
        peer.order(Order::Release { child: name(10 + round) }, &[], &[]);
    }

    let all = peer.hello();
    let [(first, _), (second, _), (third, _), (file, [Some(again), ..])] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(*first, News::Spawned { child: name(1), pid, warning: 0 });
    assert_eq!(*second, News::Spawned { child: name(2), pid: ended, warning: 0 });
    exited(name(2), ended, How::Code(5))(*third);
    assert_eq!(*file, News::Kept { file: name(9) });
    let mut text = [0; 32];
    let len = rustix::io::pread(again, &mut text, 0).unwrap();
    assert_eq!(&text[..len], b"what was kept");
    drop(input);
    exited(name(1), pid, How::Code(7))(peer.news().0);
}

#[test]
fn what_happens_meanwhile_is_told_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for unable in [false, true] {
        let peer = Peer::at_work();
        let (stdin, input) = pipe();
        let (pid, _) = peer.shell(name(1), "read x; exit 3", &stdin);
        let path = fifo.to_str().unwrap();
        let env = [(ENV_WAIT, path), (ENV_UNABLE, "1")];
        peer.order_renewal(&env[..if unable { 2 } else { 1 }], &this_program());
        // It is there now, and waits.
        let go = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        drop(input);
        let deadline = Instant::now() + SOON;
        while status(pid, "State") != "Z (zombie)" {
            assert!(Instant::now() < deadline, "it ends");
            std::thread::yield_now();
        }
        // What is said meanwhile is heard later too.
        peer.order(Order::Signal { child: name(1), signal: 0 }, &[], &[]);
        drop(go);
        let expected = if unable {
            News::NotRenewed { errno: Errno::EPROTO as i32 }
        } else {
            News::Renewed { version: Version::OWN }
        };
        assert_eq!(peer.news().0, expected);
        exited(name(1), pid, How::Code(3))(peer.news().0);
        let errno = Errno::ECHILD as i32;
        assert_eq!(peer.news().0, News::Signalled { child: name(1), errno });
        // Whoever it is now can be replaced.
        let renewed = peer.renew(&[], &this_program());
        assert_eq!(renewed, News::Renewed { version: Version::OWN });
        assert_eq!(peer.hello().len(), 2);
    }
}

#[test]
fn one_that_can_not_read_what_is_handed_over_gives_way_to_the_one_before() {
    let peer = Peer::at_work();
    let (stdin, mut input) = pipe();
    let (pid, mut output) = peer.shell(name(1), ECHO, &stdin);
    let holder: i32 = status(pid, "PPid").parse().unwrap();
    assert_eq!(peer.renew(&[], &this_program()), News::Renewed { version: Version::OWN });
    let before = files(holder);
    for _ in 0..3 {
        let refused = peer.renew(&[(ENV_UNABLE, "1")], &this_program());
        assert_eq!(refused, News::NotRenewed { errno: Errno::EPROTO as i32 });
        assert_eq!(files(holder), before);
        input.write_all(b"on\n").unwrap();
        assert_eq!(line(&mut output), format!("on {holder}\n"));
    }
    drop(input);
    exited(name(1), pid, How::Code(7))(peer.news().0);
}

fn file(path: &Path, content: &[u8]) -> File {
    fs::write(path, content).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, executable).unwrap();
    File::open(path).unwrap()
}

#[test]
fn what_can_not_be_executed_is_refused_and_everything_goes_on() {
    let peer = Peer(start_holder());
    peer.hello();
    let (stdin, mut input) = pipe();
    let (pid, mut output) = peer.shell(name(1), ECHO, &stdin);
    let holder: i32 = status(pid, "PPid").parse().unwrap();
    let refused = |errno: Errno| News::NotRenewed { errno: errno as i32 };
    // It is not at work.
    assert_eq!(peer.renew(&[], &this_program()), refused(Errno::EBUSY));
    peer.order(Order::Ready, &[], &[]);
    let before = files(holder);

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut foreign = fs::read("/proc/self/exe").unwrap();
    // The machine, in the header of an ELF file: none that there is.
    foreign[18..20].copy_from_slice(&[0xff, 0x7f]);
    let mut no_loader = fs::read("/bin/sh").unwrap();
    let loader = no_loader.windows(8).position(|bytes| bytes == b"/ld-linu").unwrap();
    no_loader[loader + 1] = b'X';
    let plain = path("plain");
    fs::copy("/bin/sh", &plain).unwrap();
    fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let cases = [
        (file(&path("empty"), b""), Errno::ENOEXEC),
        (file(&path("text"), b"nothing\n"), Errno::ENOEXEC),
        (file(&path("script"), b"#!/bin/sh\nsleep 1000\n"), Errno::ENOEXEC),
        (file(&path("foreign"), &foreign), Errno::ENOEXEC),
        (file(&path("loader"), &no_loader), Errno::ENOENT),
        (File::open(&plain).unwrap(), Errno::EACCES),
        (File::open(dir.path()).unwrap(), Errno::EISDIR),
    ];
    for (program, errno) in cases {
        assert_eq!(peer.renew(&[], &program), refused(errno));
        input.write_all(b"on\n").unwrap();
        assert_eq!(line(&mut output), format!("on {holder}\n"));
        assert_eq!(files(holder), before);
    }
    let frame = Order::Renew { image: false, reads: FORM };
    peer.order(Order::Renew { image: false, reads: FORM - 1 }, &image(&[]), &[&this_program()]);
    assert_eq!(peer.news().0, refused(Errno::EPROTO));
    peer.order(frame, &image(&[]), &[]);
    assert_eq!(peer.news().0, refused(Errno::EBADF));
    peer.order(frame, b"no image", &[&this_program()]);
    assert_eq!(peer.news().0, refused(Errno::EINVAL));
    peer.order(frame, &[], &[&this_program()]);
    assert_eq!(peer.news().0, refused(Errno::EINVAL));
    assert_eq!(files(holder), before);
    // What is not handed over is still closed on exec.
    let (stdin, _) = pipe();
    let (_, mut listed) = peer.shell(name(2), "ls /proc/self/fd; exec sleep 1000", &stdin);
    for number in 0..=3 {
        assert_eq!(line(&mut listed), format!("{number}\n"));
    }
    let renewed = peer.renew(&[], &this_program());
    assert_eq!(renewed, News::Renewed { version: Version::OWN });
    drop(input);
    exited(name(1), pid, How::Code(7))(peer.news().0);
}

#[test]
fn nothing_is_executed_while_something_is_under_way() {
    let peer = Peer::at_work();
    let (stdin, _) = pipe();
    let args = [OsStr::new("true")];
    let env = [];
    // Sent at once, so that the first is under way when the second comes.
    let program = Program {
        path: OsStr::new("/bin/true"),
        cwd: OsStr::new("/"),
        args: &args,
        env: &env,
        attributes: None,
    };
    let order = spawn(name(1));
    peer.order(order, &program.image().unwrap(), &[&stdin]);
    peer.order_renewal(&[], &this_program());
    let (mut started, mut ended, mut answered) = (false, false, false);
    while !(started && ended && answered) {
        match peer.news().0 {
            News::Spawned { .. } => started = true,
            News::Exited { .. } => ended = true,
            News::NotRenewed { errno } => {
                assert_eq!(errno, Errno::EBUSY as i32);
                answered = true;
            }
            // It had arrived already.
            News::Renewed { .. } => answered = true,
            other => panic!("{other:?}"),
        }
    }
}
