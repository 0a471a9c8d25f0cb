//! A program is given the sockets that listen for it.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use orchestrator_proto::control::Exit;

use super::*;
use crate::process::{MAX_LISTENERS, listener};

/// So many sockets, kept by the holder.
fn keep(linux: &Linux, launch: &mut Launch, count: usize) -> Vec<TcpListener> {
    let mut all = Vec::new();
    for place in 0..count {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        // As a program before may have left it.
        socket.set_nonblocking(true).unwrap();
        let name = listener(launch.instance, place as u64);
        linux.keep(name, socket.as_fd().try_clone_to_owned().unwrap());
        all.push(socket);
    }
    launch.listeners = Ok((0..count).map(|place| format!("n{place}")).collect());
    all
}

#[tokio::test]
async fn a_program_is_given_its_sockets_in_order_and_its_own_number() {
    for count in [1, 2, MAX_LISTENERS] {
        let linux = linux();
        let script = "echo $LISTEN_FDS $LISTEN_FDNAMES; echo $LISTEN_PID; echo $$; \
                      for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd); done; echo end; \
                      exec sleep 1000";
        let mut launch = sh(script);
        launch.env = vec![("LISTEN_FDS".into(), "77".into())];
        let sockets = keep(&linux, &mut launch, count);
        let mut kept = Kept::new(linux, launch, SHORT);
        let pid = kept.start().await;
        let names: Vec<_> = (0..count).map(|place| format!("n{place}")).collect();
        assert_eq!(kept.line().await, format!("{count} {}", names.join(":")));
        assert_eq!((kept.number().await, kept.number().await), (pid, pid));
        let mut files = Vec::new();
        loop {
            match kept.line().await {
                line if line == "end" => break,
                line => files.push(line),
            }
        }
        files.sort_by_key(|line| line.split(' ').next().unwrap().parse::<u32>().unwrap());
        let inode = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
        let listed = |line: &str, number: usize| line.starts_with(&format!("{number} "));
        for (place, socket) in sockets.iter().enumerate() {
            let expected = format!("{} socket:[{}]", 3 + place, inode(socket));
            assert_eq!(files[3 + place], expected, "{files:?}");
            // It waits, whatever the program before did.
            let flags = rustix::fs::fcntl_getfl(socket).unwrap();
            assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
        }
        assert!((0..3).all(|number| listed(&files[number], number)), "{files:?}");
        // The shell itself reads from a pipe what readlink(1) prints.
        let more = files.iter().skip(3 + count).filter(|line| !line.contains(" pipe:"));
        assert_eq!(more.count(), 0, "{files:?}");
        drop(TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap());
        kept.stop().await;
    }
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_a_reason_not_to_execute() {
    let linux = linux();
    let mut launch = sh("exit 0");
    let _sockets = keep(&linux, &mut launch, 2);
    linux.forget(listener(launch.instance, 1));
    let kept = Kept::new(linux.clone(), launch.clone(), LONG);
    let error = within(kept.keeper.start(None)).await.unwrap_err();
    let text = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
    assert!(text.contains("the sockets that listen for it"), "{text}");
    launch.listeners = Err("the port is taken".into());
    let kept = Kept::new(linux, launch, LONG);
    let error = within(kept.keeper.start(None)).await.unwrap_err();
    let text = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
    assert!(text.contains("the port is taken"), "{text}");
}

#[tokio::test]
async fn many_are_executed_at_once_and_each_has_its_own() {
    let linux = linux();
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut launch = sh("test \"$LISTEN_PID\" = $$ && readlink /proc/$$/fd/3 /proc/$$/fd/4");
        let sockets = keep(&linux, &mut launch, 2);
        all.push((Kept::new(linux.clone(), launch, LONG), sockets));
    }
    let starting = all.iter().map(|(kept, _)| kept.keeper.start(None));
    for starting in starting.collect::<Vec<_>>() {
        within(starting).await.unwrap();
    }
    for (mut kept, sockets) in all {
        for socket in &sockets {
            let inode = rustix::fs::fstat(socket).unwrap().st_ino;
            assert_eq!(kept.line().await, format!("socket:[{inode}]"));
        }
        assert_eq!(kept.exited().await, Exit::Code(0));
    }
}

#[tokio::test]
async fn a_holder_that_knows_nothing_of_sockets_is_not_asked() {
    let linux = linux();
    let mut launch = sh("exit 0");
    let _sockets = keep(&linux, &mut launch, 1);
    linux.link().table().holder_protocol = Some(1);
    let error = within(linux.spawn(launch)).await.unwrap_err().to_string();
    assert!(error.contains("daemon upgrade"), "{error}");
    within(linux.spawn(sh("exit 0"))).await.unwrap();
}
