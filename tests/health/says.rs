//! What the instances of the health tests are: a program that carries out its arguments one after
//! the other, then stays.
//!
//! | argument | what |
//! | --- | --- |
//! | `say:TEXT` | sends that on `NOTIFY_SOCKET`; `\n` in it is a newline |
//! | `barrier` | sends `BARRIER=1`, and waits until it is answered |
//! | `child:TEXT` | a child in a session of its own says that, waits for the barrier, and ends |
//! | `every:MS:TEXT` | says that again and again, for ever |
//! | `ready` | says through the runtime socket that it is ready |
//! | `write:PATH` | writes a file there that holds a newline |
//! | `file:PATH` | waits until there is that file |
//! | `env:PATH` | writes its environment there |
//! | `exit:CODE` | ends |
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::env;
use std::fs::{self, File};
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, exit};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use orchestrator_proto::sdk::Runtime;
use tests::{block_on, eventually};

fn say(text: &str, files: &[RawFd]) {
    let socket = UnixDatagram::unbound().unwrap();
    let path = env::var("NOTIFY_SOCKET").expect("there is a socket");
    let address = UnixAddr::new(path.as_str()).unwrap();
    let text = text.replace("\\n", "\n");
    let parts = [IoSlice::new(text.as_bytes())];
    let rights = [ControlMessage::ScmRights(files)];
    let beside = if files.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::empty();
    sendmsg(socket.as_raw_fd(), &parts, beside, flags, Some(&address)).expect("it is taken");
}

fn barrier() {
    let (ours, its): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
    say("BARRIER=1", &[its.as_fd().as_raw_fd()]);
    drop(its);
    assert_eq!(File::from(ours).read(&mut [0]).unwrap(), 0);
}

fn main() {
    let mut kept = None;
    for word in env::args().skip(1) {
        let (what, value) = word.split_once(':').unwrap_or((&word, ""));
        match what {
            "say" => say(value, &[]),
            "barrier" => barrier(),
            "child" => {
                let own = env::current_exe().unwrap();
                let mut child = Command::new("/usr/bin/setsid");
                child.arg(own).arg(format!("say:{value}")).args(["barrier", "exit:0"]);
                assert!(child.status().unwrap().success());
            }
            "every" => {
                let (ms, text) = value.split_once(':').unwrap();
                let pause = Duration::from_millis(ms.parse().unwrap());
                loop {
                    say(text, &[]);
                    std::thread::park_timeout(pause);
                }
            }
            "ready" => {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let connected = runtime.block_on(Runtime::connect()).unwrap();
                connected.ready();
                kept = Some((connected, runtime));
            }
            "write" => fs::write(value, "\n").unwrap(),
            "file" => eventually(value, || fs::exists(value).unwrap().then_some(())),
            "env" => {
                let all: Vec<_> =
                    env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
                fs::write(format!("{value}.new"), all.concat()).unwrap();
                fs::rename(format!("{value}.new"), value).unwrap();
            }
            "exit" => exit(value.parse().unwrap()),
            other => panic!("{other}?"),
        }
    }
    block_on(std::future::pending::<()>());
    drop(kept);
}
