//! Messages that a client sends to an instance itself.

use nix::sys::signal::Signal;
use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{Counters, Policy, Reply, Request, SendSpec};
use orchestrator_proto::{ErrorCode, Millis, WireError};
use tests::{Daemon, SOON, eventually, processes};

use super::case::Case;

const LONG: Millis = Millis(60_000);
const SHORT: Millis = Millis(100);

fn spec(payload: &str, timeout: Millis) -> SendSpec {
    SendSpec { to: "b".into(), type_name: "n".into(), payload: payload.into(), timeout }
}

fn send(daemon: &Daemon, payload: &str, timeout: Millis) -> Result<(), WireError> {
    match daemon.request(Request::LinkSend(spec(payload, timeout))) {
        Ok(Reply::LinkSent(_)) => Ok(()),
        Err(ClientError::Failed(error)) => Err(error),
        other => panic!("{other:?}\n{}", daemon.log()),
    }
}

/// S1, S2: in the midst of a link's messages, each of both in its own order and once. S6: the link
/// counts its own.
pub(crate) fn messages_of_a_client_come_beside_those_of_links(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::DropNewest, 10_000);
    let mut sender = case.sender(&daemon, &a);
    let mut receiver = case.receiver(&daemon, &b);
    daemon_knows(&daemon, case);
    let mut got = Vec::new();
    for round in 0..20 {
        sender.send(round * 10..round * 10 + 10);
        send(&daemon, &(1_000_000 + round).to_string(), LONG).unwrap();
        got.extend(receiver.take(11));
    }
    let of_link: Vec<_> = got.iter().copied().filter(|number| *number < 1_000_000).collect();
    let of_client: Vec<_> = got.iter().copied().filter(|number| *number >= 1_000_000).collect();
    assert_eq!(of_link, Vec::from_iter(0..200), "{case:?}");
    assert_eq!(of_client, Vec::from_iter(1_000_000..1_000_020), "{case:?}");
    assert_eq!(daemon.settled(link, 200).delivered, 200, "{case:?}");
}

/// A native receiver has declared its input.
fn daemon_knows(daemon: &Daemon, case: Case) {
    if case.to.is_native() {
        daemon.declared("b", "n");
    }
}

/// S3, S7: what waits for a receiver that does not read is bounded, is taken back when its time is
/// over, and holds nobody else back.
pub(crate) fn messages_of_a_client_are_taken_back(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.put("c");
    let mut receiver = case.receiver(&daemon, &b);
    daemon_knows(&daemon, case);
    // It does not read: what its socket holds is full at some time.
    let full = daemon.link_with("a", "n", "b", Policy::DropNewest, 1000);
    let mut sender = case.sender(&daemon, &a);
    let (mut last, mut rounds) = (0, 0);
    eventually("its socket is full", || {
        sender.send(0..500);
        let Counters { delivered, queued, .. } = daemon.counters(full);
        rounds = if delivered == last && queued >= 1000 { rounds + 1 } else { 0 };
        last = delivered;
        (rounds == 10).then_some(())
    });
    let error = send(&daemon, "1000000", SHORT).unwrap_err();
    assert_eq!(error.code, ErrorCode::TimedOut, "{case:?}: {error}");
    assert!(error.message.contains("does not arrive"), "{case:?}: {error}");
    let answers = std::thread::scope(|scope| {
        let send = || daemon.request(Request::LinkSend(spec("1000001", Millis(2000))));
        let sending: Vec<_> = (0..100).map(|_| scope.spawn(send)).collect();
        Vec::from_iter(sending.into_iter().map(|thread| thread.join().unwrap()))
    });
    let limits = answers.iter().filter(|answer| is(answer, ErrorCode::LimitReached)).count();
    let late = answers.iter().filter(|answer| is(answer, ErrorCode::TimedOut)).count();
    assert_eq!((limits, late), (36, 64), "{case:?}: {answers:?}");
    // Another instance gets the sender's messages meanwhile.
    let other = daemon.link_with("a", "n", "c", Policy::DropOldest, 10);
    sender.send(0..10);
    daemon.given(other, 10);
    // When it reads, none of those comes, and the next one does.
    let done = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&daemon, "2000000", LONG));
        while let Some(number) = receiver.next() {
            assert!(!(1_000_000..2_000_000).contains(&number), "{case:?}: {number}");
            if number == 2_000_000 {
                break;
            }
        }
        sending.join().unwrap()
    });
    assert_eq!(done, Ok(()), "{case:?}");
}

fn is(answer: &Result<Reply, ClientError>, code: ErrorCode) -> bool {
    matches!(answer, Err(ClientError::Failed(error)) if error.code == code)
}

/// S4: nobody is waited for who is not to come.
pub(crate) fn messages_of_a_client_to_nobody(case: Case) {
    let daemon = Daemon::start();
    let b = daemon.put("b");
    let began = std::time::Instant::now();
    let error = send(&daemon, "1", SendSpec::MAX_TIMEOUT).unwrap_err();
    assert_eq!(error.code, ErrorCode::WrongState, "{case:?}: {error}");
    let receiver = case.receiver(&daemon, &b);
    daemon_knows(&daemon, case);
    send(&daemon, "1", LONG).unwrap();
    drop(receiver);
    daemon.connections("b", 0);
    let error = send(&daemon, "1", SendSpec::MAX_TIMEOUT).unwrap_err();
    assert_eq!(error.code, ErrorCode::WrongState, "{case:?}: {error}");
    assert!(began.elapsed() < SOON);
}

/// S5: what is no value of the type does not arrive at a native receiver; a Veecle one declares none.
pub(crate) fn messages_of_a_client_are_values_of_the_type(case: Case) {
    let daemon = Daemon::start();
    let b = daemon.put("b");
    let mut receiver = case.receiver(&daemon, &b);
    daemon_knows(&daemon, case);
    if case.to.is_native() {
        for wrong in ["-1", "\"1\"", "4294967296", "[1]", "null"] {
            let error = send(&daemon, wrong, LONG).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{case:?}: {error}");
            assert_eq!(error.causes, ["it takes u32"], "{case:?}");
        }
        let other = SendSpec { type_name: "m".into(), ..spec("1", LONG) };
        let error = match daemon.request(Request::LinkSend(other)) {
            Err(ClientError::Failed(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(error.causes, ["it takes n"], "{case:?}");
    }
    send(&daemon, " 7\n", LONG).unwrap();
    assert_eq!(receiver.next(), Some(7), "{case:?}");
}

/// S6: what was delivered to a process that died is lost with it; no link and no history has it.
pub(crate) fn messages_of_a_client_are_not_kept(case: Case) {
    let daemon = Daemon::start();
    let b = daemon.put("b");
    let link = daemon.link_with("any", "n", "b", Policy::Block, 10);
    daemon.ok(["link", "set", &link.to_string(), "--history", "10"]);
    let mut receiver = case.receiver(&daemon, &b);
    daemon_knows(&daemon, case);
    send(&daemon, "1", LONG).unwrap();
    assert_eq!(receiver.next(), Some(1), "{case:?}");
    drop(receiver);
    daemon.connections("b", 0);
    let mut receiver = case.receiver(&daemon, &b);
    daemon_knows(&daemon, case);
    send(&daemon, "2", LONG).unwrap();
    assert_eq!(receiver.next(), Some(2), "{case:?}");
    let Counters { sent, replayed, .. } = daemon.counters(link);
    assert_eq!((sent, replayed), (0, 0), "{case:?}");
    // A daemon that stands still and goes on delivers what it was asked for once.
    let pid = daemon.pid();
    processes::suspend(pid);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&daemon, "3", LONG));
        processes::signal(pid, Signal::SIGCONT);
        assert_eq!(sending.join().unwrap(), Ok(()), "{case:?}");
    });
    assert_eq!(receiver.next(), Some(3), "{case:?}");
}
