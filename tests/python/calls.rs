//! Calls from, to and between programs in Python; the other ends are Rust's, and people's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::sys::signal::Signal;
use orchestrator_proto::control::{CallCounters, Exit};
use orchestrator_proto::runtime::CallFailure;
use orchestrator_proto::sdk::{CallError, Client, Runtime, Schema, Service};
use orchestrator_proto::{LinkId, Message};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tests::python::{Peer, package, python};
use tests::{Daemon, SOON, binary, eventually, processes};

use super::{said, script};

#[derive(Serialize, Deserialize, Schema, Message, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "double")]
struct Double {
    value: u32,
}

/// Two ends and the link between them.
struct Stage {
    daemon: Daemon,
    link: LinkId,
    ids: [String; 2],
}

impl Stage {
    fn new() -> Self {
        let daemon = Daemon::start();
        let ids = [daemon.put("a"), daemon.put("b")];
        let link = daemon.link("a", "double", "b");
        Self { daemon, link, ids }
    }

    /// An end in Python that the daemon knows.
    fn python(&self, mode: &str) -> Peer {
        let at = usize::from(!mode.ends_with("client"));
        let socket = self.daemon.native_socket(&self.ids[at]);
        let mut peer = Peer::start(&socket, Path::new(&script("calls.py")), &[mode]);
        peer.hears("ready");
        self.daemon.declared(["a", "b"][at], "double");
        peer
    }

    fn rust(&self, at: usize) -> (tokio::runtime::Runtime, Runtime) {
        let mut peers = tokio::runtime::Builder::new_multi_thread();
        let peers = peers.worker_threads(1).enable_all().build().unwrap();
        let socket = self.daemon.native_socket(&self.ids[at]);
        let runtime = peers.block_on(Runtime::connect_to(socket)).unwrap();
        (peers, runtime)
    }

    fn counters(&self) -> CallCounters {
        let counters = self.daemon.link_info(self.link).calls.unwrap();
        let CallCounters { calls, replies, failed, in_flight } = counters;
        assert_eq!(calls, replies + failed + in_flight, "{counters:?}");
        counters
    }
}

/// Both flavours of a mode.
fn flavours(mode: &str) -> [String; 2] {
    [mode.to_owned(), format!("aio-{mode}")]
}

/// C2, C3, C12.
#[test]
fn python_calls_python() {
    let Some(_) = python() else { return };
    for (client, service) in flavours("client").iter().zip(flavours("service").iter().rev()) {
        let stage = Stage::new();
        let (mut client, mut service) = (stage.python(client), stage.python(service));
        for value in 1..=5 {
            client.say(&format!("CALL {value} 30"));
            service.hears(&format!("has {value}"));
        }
        assert_eq!(stage.counters().in_flight, 5);
        for value in [4, 1, 5] {
            assert_eq!(service.ask(&format!("REPLY {value}")), format!("answered {value}"));
            client.hears(&format!("{value} is {}", value * 2));
        }
        assert_eq!(service.ask("FAIL 2"), "answered 2");
        client.hears("2 ServiceFailed True the service failed: 2 is too much");
        assert_eq!(service.ask("DROP 3"), "answered 3");
        client.hears("3 ServiceFailed True the service failed: it gave no answer");
        let expected = CallCounters { calls: 5, replies: 3, failed: 2, in_flight: 0 };
        assert_eq!(stage.counters(), expected);
    }
}

/// C1, C2: from Rust, many at once.
#[test]
fn rust_calls_python() {
    const COUNT: u32 = 300;
    let Some(_) = python() else { return };
    for mode in flavours("serve") {
        let stage = Stage::new();
        let _service = stage.python(&mode);
        let (peers, runtime) = stage.rust(0);
        let client: Client<Double, u32> = runtime.client().unwrap();
        peers.block_on(async {
            let calls = (0..COUNT).map(|value| {
                let client = client.clone();
                tokio::spawn(async move { client.call(&Double { value }).await })
            });
            for (value, call) in (0..COUNT).zip(calls.collect::<Vec<_>>()) {
                let expected = match value {
                    13 => Err(CallError::Failed(CallFailure::Failed("unlucky".into()))),
                    _ => Ok(value * 2),
                };
                assert_eq!(call.await.unwrap(), expected, "{mode}");
            }
        });
        let replies = u64::from(COUNT) - 1;
        let expected = CallCounters { calls: COUNT.into(), replies, failed: 1, in_flight: 0 };
        assert_eq!(stage.counters(), expected, "{mode}");
    }
}

/// C4, C5, C8, C9.
#[test]
fn python_is_told_why_there_is_no_reply() {
    let Some(_) = python() else { return };
    for mode in flavours("client") {
        let stage = Stage::new();
        let mut client = stage.python(&mode);
        let late = "1 CallTimedOut False no service was there in time";
        assert_eq!(client.ask("CALL 1 0.1"), late, "{mode}");
        let (peers, runtime) = stage.rust(1);
        let mut service: Service<Double, u32> = runtime.service().unwrap();
        client.say("CALL 2 0.2");
        let call = peers.block_on(service.next());
        client.hears("2 CallTimedOut True the service took too long");
        peers.block_on(call.cancelled());
        drop(call);
        client.say("CALL 3 30");
        let call = peers.block_on(service.next());
        stage.daemon.ok(["link", "remove", &stage.link.to_string()]);
        peers.block_on(call.cancelled());
        let removed = "3 LinkRemoved True the link was removed; whether the service did anything is \
                       unknown";
        client.hears(removed);
        let none = "4 NoLink False no link leads to a service; make one with `link add`";
        assert_eq!(client.ask("CALL 4 30"), none, "{mode}");
        drop((call, service, runtime));
        stage.daemon.connections("b", 0);
        stage.daemon.link("a", "double", "b");
        let (_peers, runtime) = stage.rust(1);
        let _other: Service<Double, u64> = runtime.service().unwrap();
        let answer = client.ask("CALL 5 30");
        assert_eq!(answer, "5 Mismatched False the service declares other schemas:", "{mode}");
    }
}

/// C5.
#[test]
fn a_task_that_is_cancelled_cancels_its_call() {
    let Some(_) = python() else { return };
    let stage = Stage::new();
    let (mut client, mut service) = (stage.python("aio-client"), stage.python("service"));
    client.say("CALL 1 30");
    service.hears("has 1");
    assert_eq!(client.ask("CANCEL 1"), "1 was cancelled");
    service.hears("nobody waits for 1");
    assert_eq!(service.ask("REPLY 1"), "answered 1");
    let expected = CallCounters { calls: 1, replies: 0, failed: 1, in_flight: 0 };
    assert_eq!(stage.counters(), expected);
}

/// C6: what it had ends at once; what waits is given to its next process.
#[test]
fn a_service_in_python_that_is_killed_ends_what_it_had_and_nothing_else() {
    let Some(_) = python() else { return };
    for mode in flavours("serve") {
        let stage = Stage::new();
        let service = stage.python(&mode);
        processes::suspend(service.pid());
        let (peers, runtime) = stage.rust(0);
        let client: Client<Double, u32> = runtime.client().unwrap();
        let client = client.with_deadline(SOON);
        // It takes 64 at once; the others wait.
        let calls: Vec<_> = (100..170)
            .map(|value| {
                let client = client.clone();
                peers.spawn(async move { client.call(&Double { value }).await })
            })
            .collect();
        eventually("it has as many as it takes", || {
            (stage.counters().in_flight == 64).then_some(())
        });
        processes::signal(service.pid(), Signal::SIGKILL);
        stage.daemon.connections("b", 0);
        drop(service);
        let _next = stage.python(&mode);
        let (mut gone, mut done) = (0, 0);
        for call in calls {
            match peers.block_on(call).unwrap() {
                Ok(_) => done += 1,
                Err(CallError::Failed(CallFailure::ServiceGone)) => gone += 1,
                other => panic!("{mode}: {other:?}"),
            }
        }
        assert_eq!((gone, done), (64, 6), "{mode}");
    }
}

/// C7.
#[test]
fn a_client_in_python_that_is_killed_takes_its_calls_along() {
    let Some(_) = python() else { return };
    for mode in flavours("client") {
        let stage = Stage::new();
        let mut client = stage.python(&mode);
        let (peers, runtime) = stage.rust(1);
        let mut service: Service<Double, u32> = runtime.service().unwrap();
        client.say("CALL 1 30");
        let call = peers.block_on(service.next());
        processes::signal(client.pid(), Signal::SIGKILL);
        peers.block_on(call.cancelled());
        eventually("it has failed", || {
            let counters = stage.counters();
            (counters.failed == 1 && counters.in_flight == 0).then_some(())
        });
        drop(call);
        let mut next = stage.python(&mode);
        next.say("CALL 2 30");
        let call = peers.block_on(service.next());
        peers.block_on(call.reply(&4)).unwrap();
        next.hears("2 is 4");
    }
}

/// C10.
#[test]
fn a_daemon_that_dies_ends_calls_and_nobody_sends_them_again() {
    let Some(_) = python() else { return };
    for (client, service) in flavours("client").iter().zip(flavours("service")) {
        let stage = Stage::new();
        let (mut client, mut service) = (stage.python(client), stage.python(&service));
        client.say("CALL 1 30");
        service.hears("has 1");
        processes::signal(stage.daemon.pid(), Signal::SIGKILL);
        let broke = "1 CallInterrupted True the connection to the daemon broke; whether the service \
                     did anything is unknown";
        client.hears(broke);
        service.hears("nobody waits for 1");
        let answer = service.ask("REPLY 1");
        assert!(answer.starts_with("1 ReplyNotSent"), "{answer}");
        // A call that is made meanwhile waits for the next daemon, and for both ends.
        client.say("CALL 2 30");
        service.hears("has 2");
        assert_eq!(service.ask("REPLY 2"), "answered 2");
        client.hears("2 is 4");
        let expected = CallCounters { calls: 1, replies: 1, failed: 0, in_flight: 0 };
        assert_eq!(stage.counters(), expected);
    }
}

/// C1, C2, C10: whatever becomes of daemons, each call ends once, and is given at most once.
#[test]
fn what_is_said_of_each_call_is_true_whenever_the_daemon_dies() {
    const CALLS: u32 = 60;
    const ROUNDS: u32 = 4;
    let Some(_) = python() else { return };
    for mode in flavours("client") {
        let stage = Stage::new();
        let mut client = stage.python(&mode);
        let (peers, runtime) = stage.rust(1);
        let mut service: Service<Double, u32> = runtime.service().unwrap();
        let (given, all_given) = std::sync::mpsc::sync_channel((CALLS * ROUNDS) as usize);
        peers.spawn(async move {
            loop {
                let call = service.next().await;
                let value = call.request().value;
                given.send(value).unwrap();
                // If the connection is gone, so is the caller.
                let _ = call.reply(&(value * 2)).await;
            }
        });
        let mut outcomes = BTreeMap::new();
        let mut hear = |client: &mut Peer, count: u32| {
            for _ in 0..count {
                let line = client.hear().expect("it goes on");
                let (value, outcome) = line.split_once(' ').unwrap();
                let value: u32 = value.parse().unwrap();
                let before = outcomes.insert(value, outcome.to_owned());
                assert_eq!(before, None, "{mode}: {value} ends once");
            }
        };
        for round in 0..ROUNDS {
            let calls = round * CALLS..(round + 1) * CALLS;
            for value in calls.clone() {
                client.say(&format!("CALL {value} 30"));
                if value == calls.start + CALLS / 2 {
                    // Some have ended, some are under way, and some are yet to be made.
                    hear(&mut client, CALLS / 10);
                    processes::signal(stage.daemon.pid(), Signal::SIGKILL);
                }
            }
            hear(&mut client, CALLS - CALLS / 10);
        }
        // Nothing is given once all calls have ended.
        drop(runtime);
        drop(peers);
        let mut seen = BTreeSet::new();
        for value in all_given {
            assert!(seen.insert(value), "{mode}: {value} is given once");
        }
        assert_eq!(outcomes.len(), (CALLS * ROUNDS) as usize);
        let mut replied = 0;
        for (value, outcome) in &outcomes {
            if *outcome == format!("is {}", value * 2) {
                assert!(seen.contains(value), "{mode}: {value}");
                replied += 1;
            } else {
                assert!(outcome.starts_with("CallInterrupted True"), "{mode}: {value} {outcome}");
            }
        }
        // Those before the death, and at least those that were made after it.
        assert!(replied >= CALLS * ROUNDS / 10, "{mode}: {replied}");
    }
}

/// C10.
#[test]
fn a_daemon_that_stands_still_does_not_hold_python_for_ever() {
    let Some(_) = python() else { return };
    for mode in flavours("client") {
        let stage = Stage::new();
        let (mut client, _service) = (stage.python(&mode), stage.python("serve"));
        assert_eq!(client.ask("CALL 1 30"), "1 is 2");
        let pid = stage.daemon.pid();
        processes::suspend(pid);
        let answer = client.ask("CALL 2 0.2");
        processes::signal(pid, Signal::SIGCONT);
        let none = "2 NoAnswer True no answer in time; whether the service did anything is unknown";
        assert_eq!(answer, none, "{mode}");
        assert_eq!(client.ask("CALL 3 30"), "3 is 6");
    }
}

/// C10.
#[test]
fn a_call_that_could_not_be_sent_had_no_effect() {
    let Some(_) = python() else { return };
    let stage = Stage::new();
    let mut client = stage.python("client");
    let Stage { daemon, .. } = stage;
    // With its holder, so that none comes after it.
    drop(daemon);
    // The first one may be on its way when the connection breaks.
    let told = eventually("it knows", || {
        let answer = client.ask("CALL 1 0.2");
        (!answer.contains("CallInterrupted")).then_some(answer)
    });
    let none =
        "1 NotConnected False there was no connection to the daemon in time; nothing was sent";
    assert_eq!(told, none);
}

/// C13.
#[test]
fn a_person_can_call_a_service_in_python() {
    let Some(_) = python() else { return };
    let stage = Stage::new();
    for mode in flavours("serve") {
        let service = stage.python(&mode);
        let call = |args: &[&str]| {
            let said = ["link", "call", "b", "--type", "double"];
            stage.daemon.cli(said.into_iter().chain(args.iter().copied()))
        };
        let said = call(&[r#"{"value": 21}"#]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(0), "42\n"), "{said:?}");
        let said = call(&[r#"{"value": 13}"#]);
        assert_eq!(said.code, Some(7), "{said:?}");
        assert!(said.stderr.contains("failed: unlucky"), "{said:?}");
        let said = call(&[r#"{"value": -1}"#]);
        assert_eq!(said.code, Some(1), "{said:?}");
        // Its reply does not fit.
        let said = call(&[r#"{"value": 4294967295}"#]);
        assert_eq!(said.code, Some(7), "{said:?}");
        assert!(said.stderr.contains("its reply can't be encoded"), "{said:?}");
        processes::suspend(service.pid());
        let said = call(&["--timeout", "300ms", r#"{"value": 1}"#]);
        assert_eq!(said.code, Some(6), "{said:?}");
        processes::signal(service.pid(), Signal::SIGCONT);
        let said = call(&[r#"{"value": 4}"#]);
        assert_eq!(said.stdout, "8\n", "{said:?}");
        drop(service);
        stage.daemon.connections("b", 0);
    }
    assert_eq!(stage.counters(), CallCounters::default(), "no link counts them");
}

#[test]
fn the_examples_in_python_and_in_rust_call_each_other() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    let example = |name: &str| package().join(name).to_str().unwrap().to_owned();
    let rust = |name: &str| binary(name).to_str().unwrap().to_owned();
    daemon.add([&example("divider.py"), "--name", "py-service", "--ready-runtime"]);
    daemon.add([&rust("divider"), "--name", "rs-service"]);
    daemon.add([&example("divides.py"), "--name", "py-client"]);
    daemon.add([&rust("divides"), "--name", "rs-client"]);
    daemon.link("py-client", "examples.divide.v1", "rs-service");
    daemon.link("rs-client", "examples.divide.v1", "py-service");
    daemon.ok(["runtime", "start", "py-service", "rs-service", "py-client", "rs-client"]);
    for name in ["py-client", "rs-client"] {
        daemon.prints(name, "1000: the service failed: 1000 can't be divided by 0");
        daemon.prints(name, "1009: 112, 1 is left");
    }
    // They agree on what is left of negative numbers, and on what is too large.
    let request =
        |dividend: i64, divisor: i64| json!({"dividend": dividend, "divisor": divisor}).to_string();
    for (dividend, divisor) in [(-7, 2), (7, -2), (-7, -2), (i64::MIN, 1), (i64::MIN, -1), (1, 0)] {
        let answers = ["py-service", "rs-service"].map(|name| {
            let request = request(dividend, divisor);
            let call = ["link", "call", name, "--type", "examples.divide.v1", &request];
            let said = daemon.cli(call);
            let failed = said.stderr.split_once(" failed: ").map(|(_, why)| why.to_owned());
            (said.code, said.stdout, failed)
        });
        assert_eq!(answers[0], answers[1], "{dividend} / {divisor}");
    }
    daemon.ok(["runtime", "stop", "py-service", "py-client"]);
    for name in ["py-service", "py-client"] {
        assert_eq!(daemon.exited(name), Exit::Code(0), "{}", said(&daemon, name));
    }
}
