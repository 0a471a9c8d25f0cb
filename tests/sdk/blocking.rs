//! Programs without tokio: plain threads that wait, also for a daemon that dies and comes back.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use orchestrator_proto::control::{Exit, Policy, Transport};
use orchestrator_proto::runtime::CallFailure;
use orchestrator_proto::sdk::blocking::{Client, Error, Input, Output, Runtime, Service};
use orchestrator_proto::sdk::{CallError, SendError};
use tests::{Daemon, SOON, binary, eventually};

use super::stage::{Number, WAYS, goes};

/// A moment that is over soon.
const MOMENT: Duration = Duration::from_millis(20);

/// Two programs without tokio in the test's own process, and a link from `a` to `b`.
struct Plain {
    daemon: Daemon,
    sender: Runtime,
    output: Output<Number>,
    receiver: Runtime,
    input: Input<Number>,
}

impl Plain {
    fn new(transport: Transport, policy: Policy, capacity: u32, window: u32) -> Self {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(transport, "a", "n", "b", (policy, capacity));
        let sender = Runtime::connect_to(daemon.native_socket(&a)).unwrap();
        let receiver = Runtime::connect_to(daemon.native_socket(&b)).unwrap();
        let output = sender.output().unwrap();
        let input = receiver.input_with_window(NonZeroU32::new(window).unwrap()).unwrap();
        daemon.declared("a", "n");
        daemon.declared("b", "n");
        goes(&daemon, link, transport);
        Self { daemon, sender, output, receiver, input }
    }
}

fn next(input: &mut Input<Number>) -> u32 {
    input.recv_timeout(SOON).expect("a message comes").0
}

#[test]
fn threads_send_and_receive() {
    const EACH: u32 = 10_000;
    const THREADS: u32 = 4;
    for way in WAYS {
        let Plain { output, mut input, receiver, daemon: _daemon, .. } =
            Plain::new(way, Policy::Block, 64, 50);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let output = output.clone();
                scope.spawn(move || {
                    for number in 0..EACH / 2 {
                        output.send(&Number(thread * EACH + number)).unwrap();
                    }
                    let rest = (EACH / 2..EACH).map(|number| Number(thread * EACH + number));
                    let rest: Vec<_> = rest.collect();
                    assert_eq!(output.send_many(&rest).unwrap(), rest.len() as u64);
                });
            }
            let mut expected = [0; THREADS as usize];
            for _ in 0..THREADS * EACH {
                let number = next(&mut input);
                let next = &mut expected[(number / EACH) as usize];
                assert_eq!(number % EACH, *next, "{way:?}");
                *next += 1;
            }
        });
        assert_eq!((input.missed(), input.try_recv()), (0, Ok(None)));
        assert!(receiver.is_connected());
    }
}

#[test]
fn a_wait_with_a_timeout_ends_in_time_and_costs_nothing() {
    let mut plain = Plain::new(Transport::Routed, Policy::Block, 1, 1);
    let began = Instant::now();
    assert_eq!(plain.input.recv_timeout(MOMENT), Err(Error::TimedOut));
    assert!(plain.input.recv_envelope_timeout(MOMENT).is_err_and(|it| it == Error::TimedOut));
    assert!(began.elapsed() >= 2 * MOMENT);
    // Until there is no room.
    let mut sent = 0;
    let full = loop {
        match plain.output.send_timeout(&Number(sent), MOMENT) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 5000, "no bound");
    };
    assert!(matches!(full, Error::TimedOut), "{full}");
    assert!(matches!(plain.output.try_send(&Number(sent)), Err(SendError::Full)));
    // What was not sent does not come, and what is sent then does.
    std::thread::scope(|scope| {
        scope.spawn(|| plain.output.send(&Number(sent)).unwrap());
        for number in 0..=sent {
            assert_eq!(next(&mut plain.input), number);
        }
    });
    assert_eq!(plain.input.recv_timeout(MOMENT), Err(Error::TimedOut));
    let envelope = {
        plain.output.send(&Number(7)).unwrap();
        plain.input.recv_raw_timeout(SOON).unwrap()
    };
    assert_eq!((envelope.message.decode(), envelope.missed), (Ok(Number(7)), Some(0)));
    plain.sender.flush_timeout(SOON).unwrap();
}

#[test]
fn nothing_is_lost_or_doubled_when_the_daemon_is_killed() {
    const COUNT: u32 = 3000;
    let Plain { daemon, output, mut input, receiver, sender } =
        Plain::new(Transport::Routed, Policy::Block, 16, 16);
    let half = Arc::new(Barrier::new(2));
    let reached = Arc::clone(&half);
    let sending = std::thread::spawn(move || {
        for number in 0..COUNT {
            if number == COUNT / 2 {
                reached.wait();
            }
            output.send(&Number(number)).unwrap();
        }
        output
    });
    let receiving = std::thread::spawn(move || {
        let got: Vec<_> = (0..COUNT).map(|_| next(&mut input)).collect();
        (got, input)
    });
    half.wait();
    daemon.replace_killed();
    let (got, mut input) = receiving.join().unwrap();
    assert_eq!(got, Vec::from_iter(0..COUNT));
    let output = sending.join().unwrap();
    assert!(sender.connected_timeout(SOON) && receiver.connected_timeout(SOON));
    assert!(sender.last_error().is_some(), "it was away");
    output.send(&Number(1)).unwrap();
    assert_eq!(next(&mut input), 1);
}

#[test]
fn without_a_daemon_nothing_hangs() {
    let Plain { mut daemon, output, mut input, sender, .. } =
        Plain::new(Transport::Routed, Policy::DropOldest, 16, 16);
    output.send(&Number(1)).unwrap();
    assert_eq!(next(&mut input), 1);
    daemon.kill();
    eventually("the sender knows", || (!sender.is_connected()).then_some(()));
    let sent = output.send(&Number(2));
    assert!(matches!(sent, Err(Error::Failed(SendError::Disconnected))), "{sent:?}");
    assert_eq!(input.recv_timeout(MOMENT), Err(Error::TimedOut));
    assert!(!sender.connected_timeout(MOMENT));
    assert!(matches!(sender.flush_timeout(SOON), Err(Error::Failed(SendError::Disconnected))));
    let missing = Runtime::connect_to(daemon.dir().join("nobody")).unwrap_err();
    assert!(missing.to_string().contains("nobody"), "{missing}");
    // One that is begun waits for the next daemon, and one that is dropped meanwhile ends.
    drop((output, input, sender));
}

#[test]
fn handles_outlive_their_runtime_and_each_other() {
    let Plain { daemon: _daemon, sender, output, receiver, mut input } =
        Plain::new(Transport::Routed, Policy::Block, 16, 16);
    let waiting = std::thread::spawn(move || (next(&mut input), next(&mut input), input));
    drop(receiver);
    drop(sender);
    let other = output.clone();
    other.send(&Number(1)).unwrap();
    drop(other);
    output.send(&Number(2)).unwrap();
    drop(output);
    let (first, second, _input) = waiting.join().unwrap();
    assert_eq!((first, second), (1, 2));
}

#[test]
fn closing_ends_all_waits_of_a_runtime_and_of_no_other() {
    let Plain { daemon: _daemon, sender, output, receiver, input } =
        Plain::new(Transport::Routed, Policy::Block, 1, 1);
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            // The receiver does not read: until it has to wait.
            let mut sent = 0;
            loop {
                match output.send(&Number(sent)) {
                    Ok(()) => sent += 1,
                    Err(error) => break (sent, error),
                }
            }
        });
        eventually("the sender waits", || {
            matches!(output.try_send(&Number(99)), Err(SendError::Full)).then_some(())
        });
        sender.close();
        let (_, error) = blocked.join().unwrap();
        assert!(matches!(error, Error::Closed), "{error}");
    });
    assert!(sender.is_closed() && !receiver.is_closed());

    // What has arrived can still be had, but nobody waits for more.
    let mut input = input;
    let received = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| {
            for number in &mut input {
                number.unwrap();
                received.fetch_add(1, Ordering::SeqCst);
            }
        });
        eventually("it receives", || (received.load(Ordering::SeqCst) > 0).then_some(()));
        assert!(!looping.is_finished(), "it does not end by itself");
        receiver.close();
        looping.join().unwrap();
    });
    assert_eq!(input.recv(), Err(Error::Closed));
    assert!(input.next().is_none() && input.try_recv().is_ok());
    assert!(matches!(receiver.list(), Err(Error::Closed | Error::Failed(_))));
}

/// `a` calls `b`.
fn call_stage() -> (Daemon, Runtime, Client<Number, String>, Runtime, Service<Number, String>) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let caller = Runtime::connect_to(daemon.native_socket(&a)).unwrap();
    let answerer = Runtime::connect_to(daemon.native_socket(&b)).unwrap();
    let (client, service) = (caller.client().unwrap(), answerer.service().unwrap());
    daemon.declared("a", "n");
    daemon.declared("b", "n");
    (daemon, caller, client, answerer, service)
}

#[test]
fn threads_call_and_answer() {
    let (daemon, caller, client, answerer, service) = call_stage();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            service.serve(|Number(number)| match number {
                13 => Err("unlucky"),
                14 => panic!("as it happens"),
                number => Ok(format!("<{number}>")),
            });
        });
        std::thread::scope(|callers| {
            for thread in 1..5 {
                let client = &client;
                callers.spawn(move || {
                    for number in 100 * thread..100 * thread + 50 {
                        assert_eq!(client.call(&Number(number)), Ok(format!("<{number}>")));
                    }
                });
            }
        });
        let why = |number| match client.call(&Number(number)) {
            Err(Error::Failed(CallError::Failed(CallFailure::Failed(why)))) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(13), "unlucky");
        assert!(!why(14).is_empty(), "a panic is a failure");
        assert_eq!(client.call(&Number(15)), Ok("<15>".to_owned()), "and nothing else");
        daemon.replace_killed();
        assert!(caller.connected_timeout(SOON) && answerer.connected_timeout(SOON));
        eventually("calls are answered again", || client.call(&Number(1)).ok());
        // The service ends, and with it the thread that serves.
        answerer.close();
    });
    let late = client.with_deadline(MOMENT).call(&Number(2));
    assert!(matches!(late, Err(Error::Failed(_))), "{late:?}");
}

#[test]
fn calls_are_answered_in_other_threads_and_have_an_end() {
    let (_daemon, caller, client, answerer, mut service) = call_stage();
    assert!(matches!(service.next_timeout(MOMENT), Err(Error::TimedOut)));
    std::thread::scope(|scope| {
        let (one, other) = (client.clone(), client.clone());
        let first = scope.spawn(move || one.call(&Number(1)));
        let call = service.next_timeout(SOON).unwrap();
        let second = scope.spawn(move || other.call(&Number(2)));
        let later = service.next_timeout(SOON).unwrap();
        assert_eq!((call.request().0, later.request().0), (1, 2));
        assert!(call.deadline() > Instant::now() && !call.is_cancelled());
        // In another order, from another thread.
        scope.spawn(move || later.reply(&"two".to_owned()).unwrap());
        assert_eq!(second.join().unwrap(), Ok("two".to_owned()));
        call.fail("not today");
        assert!(first.join().unwrap().is_err());

        // A caller that is closed cancels what it waits for.
        let asking = scope.spawn(|| client.call(&Number(3)));
        let call = service.next_timeout(SOON).unwrap();
        caller.close();
        assert_eq!(asking.join().unwrap(), Err(Error::Closed));
        eventually("the service is told", || call.is_cancelled().then_some(()));
        answerer.close();
        assert!(service.next().is_none());
    });
}

#[test]
fn a_program_without_tokio_runs_is_told_and_ends() {
    let daemon = Daemon::start();
    let program = binary("thermometer");
    daemon.add([program.to_str().unwrap(), "--name", "t", "--ready-runtime"]);
    daemon.ok(["runtime", "start", "t"]);
    daemon.ok(["runtime", "wait", "t", "--for", "ready"]);
    daemon.ok(["link", "tap", "--count", "3", "--type", "examples.reading.v1"]);
    let printed = |what: &str| {
        eventually(what, || {
            let printed = daemon.ok(["runtime", "stdout", "t", "--no-follow"]);
            printed.contains(what).then_some(())
        });
    };
    let every = |ms: u32| {
        let interval = format!(r#"{{"ms": {ms}}}"#);
        daemon.ok(["link", "send", "t", "--type", "examples.interval.v1", &interval]);
        printed(&format!("every {:?}", Duration::from_millis(ms.into())));
    };
    every(1);
    daemon.replace_killed();
    // It connects again by itself, and is told in the midst of a long wait.
    daemon.ok(["link", "tap", "--count", "3", "--type", "examples.reading.v1"]);
    every(3_600_000);
    every(3_500_000);
    daemon.ok(["runtime", "stop", "t"]);
    assert_eq!(daemon.exited("t"), Exit::Code(0));
    printed(" readings");
}
