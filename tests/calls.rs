//! Calls: a request to one service, and one reply.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orchestrator_proto::control::{CallCounters, LinkState, Policy};
use orchestrator_proto::runtime::{
    Answer, CallEnd, CallFailure, CallFrame, DeclareCalls, Direction, Frame, MAX_CALL,
    MAX_CALL_TIMEOUT_MS, MAX_CALLS, MAX_FAILURE,
};
use orchestrator_proto::sdk::{Call, CallError, Client, Runtime, Schema, Service};
use orchestrator_proto::{ErrorCode, LinkId, Message, TypeSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tests::native::Native;
use tests::{Daemon, SOON, binary, eventually, processes};

#[derive(Serialize, Deserialize, Schema, Message, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "double")]
struct Double {
    value: u32,
    /// What it is padded with.
    ballast: Vec<u8>,
}

#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
struct Doubled {
    value: u32,
    by: String,
}

fn double(value: u32) -> Double {
    Double { value, ballast: Vec::new() }
}

/// Runs peers of the test beside its blocking calls.
fn peers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

type Doubles = Client<Double, Doubled>;
type Doubler = Service<Double, Doubled>;

/// A daemon, a client `a`, and services `b`, `c` … that it may call.
struct Stage {
    daemon: Daemon,
    peers: tokio::runtime::Runtime,
    ids: BTreeMap<&'static str, String>,
    links: BTreeMap<&'static str, LinkId>,
}

impl Stage {
    fn new(services: &[&'static str]) -> Self {
        let daemon = Daemon::start();
        let mut ids = BTreeMap::from([("a", daemon.put("a"))]);
        let mut links = BTreeMap::new();
        for name in services {
            ids.insert(*name, daemon.put(name));
            links.insert(*name, daemon.link("a", "double", name));
        }
        Self { daemon, peers: peers(), ids, links }
    }

    fn runtime(&self, name: &str) -> Runtime {
        let socket = self.daemon.native_socket(&self.ids[name]);
        self.peers.block_on(Runtime::connect_to(socket)).unwrap()
    }

    /// Known to the daemon when this returns.
    fn client(&self, name: &str) -> Doubles {
        let client = self.runtime(name).client().unwrap();
        self.daemon.declared(name, "double");
        client
    }

    fn service(&self, name: &str, at_once: u32) -> Doubler {
        let service = self.runtime(name).service_at_once(at_once.try_into().unwrap()).unwrap();
        self.daemon.declared(name, "double");
        service
    }

    /// Answers calls, with its name.
    fn serve(&self, name: &'static str) -> tokio::task::JoinHandle<()> {
        let mut service = self.service(name, 8);
        self.peers.spawn(async move {
            loop {
                let call = service.next().await;
                let value = call.request().value * 2;
                call.reply(&Doubled { value, by: name.into() }).await.unwrap();
            }
        })
    }

    fn call(&self, client: &Doubles, value: u32) -> Result<Doubled, CallError> {
        self.within(client.call(&double(value)))
    }

    #[track_caller]
    fn within<T>(&self, future: impl Future<Output = T>) -> T {
        let soon = async { tokio::time::timeout(SOON, future).await };
        self.peers.block_on(soon).expect("it is done soon")
    }

    /// Calls and does not wait.
    fn begin(
        &self,
        client: &Doubles,
        value: u32,
    ) -> tokio::task::JoinHandle<Result<Doubled, CallError>> {
        let client = client.clone();
        self.peers.spawn(async move { client.call(&double(value)).await })
    }

    fn counters(&self, link: &str) -> CallCounters {
        let info = self.daemon.link_info(self.links[link]);
        let counters = info.calls.expect("it carries calls");
        let CallCounters { calls, replies, failed, in_flight } = counters;
        assert_eq!(calls, replies + failed + in_flight, "{counters:?}");
        assert_eq!(info.counters.sent, 0, "calls are no messages");
        counters
    }
}

fn failure(result: Result<Doubled, CallError>) -> CallFailure {
    match result {
        Err(CallError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

/// C2, C12.
#[test]
fn a_call_is_answered_and_counted() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let _serving = stage.serve("b");
    for value in 0..100 {
        let reply = stage.call(&client, value).unwrap();
        assert_eq!(reply, Doubled { value: value * 2, by: "b".into() });
    }
    let counters = stage.counters("b");
    assert_eq!(counters, CallCounters { calls: 100, replies: 100, failed: 0, in_flight: 0 });
    let list = stage.daemon.ok(["link", "list"]);
    assert!(list.contains(" calls "), "{list}");
    let list = stage.daemon.json(["link", "list"]);
    let expected = json!({"calls": 100, "replies": 100, "failed": 0, "in_flight": 0});
    assert_eq!(list["links"][0]["calls"], expected);
}

/// C3.
#[test]
fn many_are_in_flight_and_answered_in_any_order() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 300);
    let calls: Vec<_> = (0..300).map(|value| stage.begin(&client, value)).collect();
    let mut held: Vec<Call<Double, Doubled>> = Vec::new();
    stage.within(async {
        while held.len() < 300 {
            held.push(service.next().await);
        }
    });
    assert_eq!(stage.counters("b").in_flight, 300);
    stage.within(async {
        while let Some(call) = held.pop() {
            let value = call.request().value * 2;
            call.reply(&Doubled { value, by: "b".into() }).await.unwrap();
        }
        for (value, call) in (0..300).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap().value, value * 2);
        }
    });
    assert_eq!(stage.counters("b").replies, 300);
}

/// C15.
#[test]
fn large_requests_and_replies_pass() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 4);
    stage.within(async {
        let ballast = vec![7; 3 << 20];
        let calls = (0..8).map(|value| {
            let (client, ballast) = (client.clone(), ballast.clone());
            tokio::spawn(async move { client.call(&Double { value, ballast }).await })
        });
        let calls: Vec<_> = calls.collect();
        for _ in 0..8 {
            let call = service.next().await;
            assert_eq!(call.request().ballast, ballast);
            let by = "x".repeat(3 << 20);
            call.reply(&Doubled { value: 1, by }).await.unwrap();
        }
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().by.len(), 3 << 20);
        }
        // As long as they may be, and so is the reply.
        let around = 1 + 4;
        let longest = vec![7; MAX_CALL - around];
        let call = tokio::spawn({
            let (client, ballast) = (client.clone(), longest.clone());
            async move { client.call(&Double { value: 1, ballast }).await }
        });
        let given = service.next().await;
        assert!(given.request().ballast == longest);
        given.reply(&Doubled { value: 1, by: "x".repeat(MAX_CALL - around) }).await.unwrap();
        assert_eq!(call.await.unwrap().unwrap().by.len(), MAX_CALL - around);
        let ballast = vec![7; MAX_CALL - around + 1];
        let error = client.call(&Double { value: 1, ballast }).await.unwrap_err();
        assert_eq!(error, CallError::TooLong);
    });
}

/// C1, C3.
#[test]
fn services_share_the_calls() {
    let stage = Stage::new(&["b", "c", "d"]);
    let client = stage.client("a");
    let _serving = ["b", "c", "d"].map(|name| stage.serve(name));
    let mut by: BTreeMap<String, u32> = BTreeMap::new();
    for value in 0..60 {
        *by.entry(stage.call(&client, value).unwrap().by).or_default() += 1;
    }
    assert_eq!(by.into_values().collect::<Vec<_>>(), [20, 20, 20]);
    // One that is busy gets less.
    let mut slow = stage.service("b", 2);
    let calls: Vec<_> = (0..40).map(|value| stage.begin(&client, value)).collect();
    let (held, replies) = stage.within(async {
        let held = [slow.next().await, slow.next().await];
        let mut replies = Vec::new();
        for call in calls {
            if let Ok(done) = tokio::time::timeout(Duration::from_millis(500), call).await {
                replies.push(done.unwrap().unwrap());
            }
        }
        (held, replies)
    });
    assert_eq!(replies.len(), 38);
    assert!(replies.iter().all(|reply| reply.by != "b"));
    drop(held);
}

/// C3.
#[test]
fn replicas_of_a_set_share_the_calls() {
    let daemon = Daemon::start();
    let divider = binary("divider");
    let divider = divider.to_str().unwrap();
    daemon.ok(["runtime", "add", divider, "--name", "divider", "--replicas", "3"]);
    let divides = binary("divides");
    daemon.add([divides.to_str().unwrap(), "--name", "divides"]);
    let link = daemon.link("divides", "examples.divide.v1", "divider");
    daemon.ok(["runtime", "start", "divider", "divides"]);
    eventually("each replica has answered", || {
        let names = ["divider.1", "divider.2", "divider.3"];
        let done = names.iter().all(|name| !daemon.printed(name).is_empty());
        done.then_some(())
    });
    daemon.prints("divides", "1009: 112, 1 is left");
    let failed = "1000: the service failed: 1000 can't be divided by 0";
    assert!(daemon.printed("divides").lines().any(|line| line == failed));
    // What the link of the set shows is the sum of its parts.
    eventually("the sum is right", || {
        let links = daemon.links();
        let calls = |info: &orchestrator_proto::control::LinkInfo| info.calls.unwrap().calls;
        let parts: u64 = links.iter().filter(|it| it.part_of == Some(link)).map(calls).sum();
        let whole = links.iter().find(|it| it.id == link).map(calls).unwrap();
        (whole == parts && whole > 9).then_some(())
    });
}

/// C4.
#[test]
fn without_a_link_a_call_fails_at_once() {
    let stage = Stage::new(&[]);
    let client = stage.client("a");
    let began = Instant::now();
    let failure = failure(stage.call(&client, 1));
    assert_eq!(failure, CallFailure::NoLink);
    assert!(!failure.may_have_had_effect());
    assert!(began.elapsed() < Doubles::DEADLINE);
}

/// C4, C12.
#[test]
fn a_call_waits_for_a_service_until_its_deadline() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let short = client.with_deadline(Duration::from_millis(100));
    let late = failure(stage.call(&short, 1));
    assert_eq!(late, CallFailure::TimedOut { given: false });
    assert!(!late.may_have_had_effect());
    assert_eq!(stage.counters("b"), CallCounters { calls: 1, failed: 1, ..Default::default() });
    let waiting = stage.begin(&client, 21);
    let _serving = stage.serve("b");
    let reply = stage.within(waiting).unwrap().unwrap();
    assert_eq!(reply.value, 42);
}

/// C5.
#[test]
fn the_deadline_ends_a_call_that_a_service_has() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a").with_deadline(Duration::from_millis(200));
    let mut service = stage.service("b", 1);
    let calling = stage.begin(&client, 1);
    stage.within(async {
        let call = service.next().await;
        let left = call.deadline().saturating_duration_since(Instant::now());
        assert!(left <= Duration::from_millis(200), "{left:?}");
        call.cancelled().await;
        let late = failure(calling.await.unwrap());
        assert_eq!(late, CallFailure::TimedOut { given: true });
        // Nobody hears of it, and its place is free again.
        call.reply(&Doubled { value: 9, by: "b".into() }).await.unwrap();
    });
    let next = stage.begin(&client.with_deadline(SOON), 2);
    stage.within(async {
        let call = service.next().await;
        assert_eq!(call.request().value, 2);
        call.reply(&Doubled { value: 4, by: "b".into() }).await.unwrap();
        assert_eq!(next.await.unwrap().unwrap().value, 4);
    });
}

/// C5.
#[test]
fn a_future_that_is_dropped_cancels_its_call() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 1);
    stage.within(async {
        let request = double(1);
        let mut calling = Box::pin(client.call(&request));
        let call = tokio::select! {
            _ = &mut calling => panic!("nobody has answered"),
            call = service.next() => call,
        };
        assert!(!call.is_cancelled());
        drop(calling);
        call.cancelled().await;
    });
    eventually("it has failed", || (stage.counters("b").failed == 1).then_some(()));
    // One that waits is cancelled too: the service never sees it.
    let first = stage.begin(&client, 1);
    let held = stage.within(service.next());
    let second = stage.begin(&client, 2);
    second.abort();
    let third = stage.begin(&client, 3);
    eventually("one of them is cancelled", || (stage.counters("b").failed >= 1).then_some(()));
    stage.within(async {
        held.fail("enough");
        let call = service.next().await;
        assert!([2, 3].contains(&call.request().value));
        let call = if call.request().value == 2 {
            assert!(
                call.is_cancelled() || {
                    call.cancelled().await;
                    true
                }
            );
            drop(call);
            service.next().await
        } else {
            call
        };
        assert_eq!(call.request().value, 3);
        call.reply(&Doubled { value: 6, by: "b".into() }).await.unwrap();
        assert_eq!(third.await.unwrap().unwrap().value, 6);
        assert_eq!(failure(first.await.unwrap()), CallFailure::Failed("enough".into()));
    });
}

#[test]
fn what_a_service_says_of_its_failure_is_told() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let runtime = stage.runtime("b");
    let mut service: Doubler = runtime.service().unwrap();
    let calls: Vec<_> = (0..3).map(|value| stage.begin(&client, value)).collect();
    let failures = stage.within(async {
        // They were made at the same time, so they come in any order.
        for _ in 0..3 {
            let call = service.next().await;
            match call.request().value {
                0 => call.fail("I don't double 0"),
                1 => call.fail("ä".repeat(MAX_FAILURE)),
                _ => drop(call),
            }
        }
        let mut failures = Vec::new();
        for call in calls {
            failures.push(failure(call.await.unwrap()));
        }
        failures
    });
    assert_eq!(failures[0], CallFailure::Failed("I don't double 0".into()));
    assert_eq!(failures[1], CallFailure::Failed("ä".repeat(MAX_FAILURE / 2)));
    assert_eq!(failures[2], CallFailure::Failed("it gave no answer".into()));
    // A service that is dropped while its runtime goes on says so too.
    drop(service);
    let told = failure(stage.call(&client, 1)).to_string();
    assert!(told.contains("answers no more calls"), "{told}");
}

#[test]
fn a_handler_that_panics_costs_its_call_and_nothing_else() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let service = stage.service("b", 8);
    let running = Arc::new(AtomicU32::new(0));
    let most = Arc::new(AtomicU32::new(0));
    let (now, max) = (running.clone(), most.clone());
    stage.peers.spawn(service.serve(2.try_into().unwrap(), move |request| {
        let (running, most) = (now.clone(), max.clone());
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            assert!(request.value != 13, "unlucky");
            match request.value.checked_mul(2) {
                Some(value) => Ok(Doubled { value, by: "b".into() }),
                None => Err("too large"),
            }
        }
    }));
    let calls: Vec<_> = (10..20).map(|value| stage.begin(&client, value)).collect();
    stage.within(async {
        for (value, call) in (10..).zip(calls) {
            let result = call.await.unwrap();
            match value {
                13 => assert_eq!(failure(result), CallFailure::Failed("it gave no answer".into())),
                _ => assert_eq!(result.unwrap().value, value * 2),
            }
        }
    });
    let failed = CallFailure::Failed("too large".into());
    assert_eq!(failure(stage.call(&client, u32::MAX)), failed);
    assert!(most.load(Ordering::SeqCst) <= 2);
}

/// C6.
#[test]
fn a_service_that_is_killed_ends_what_it_had_and_nothing_else() {
    let stage = Stage::new(&[]);
    let daemon = &stage.daemon;
    let divider = binary("divider");
    daemon.add([divider.to_str().unwrap(), "--name", "divider"]);
    let link = daemon.link("a", "examples.divide.v1", "divider");
    daemon.ok(["runtime", "start", "divider"]);
    daemon.declared("divider", "examples.divide.v1");
    let client: Client<examples::Divide, examples::Quotient> = stage.runtime("a").client().unwrap();
    let request = examples::Divide { dividend: 7, divisor: 2 };
    let quotient = stage.within(client.call(&request)).unwrap();
    assert_eq!(quotient, examples::Quotient { value: 3, rest: 1 });
    let pid = daemon.info("divider").observed.pid().unwrap();
    processes::suspend(pid);
    // It takes 64 at once; the others wait.
    let client = client.with_deadline(SOON);
    let calls: Vec<_> = (0..70)
        .map(|_| {
            let client = client.clone();
            stage.peers.spawn(async move { client.call(&request).await })
        })
        .collect();
    let in_flight = |count: u64| {
        eventually(&format!("{count} are in flight"), || {
            let counters = daemon.link_info(link).calls.unwrap();
            (counters.in_flight == count).then_some(())
        });
    };
    in_flight(64);
    processes::signal(pid, Signal::SIGKILL);
    // Those that it had end at once; those that waited are answered by its next process.
    daemon.connections("divider", 0);
    in_flight(0);
    daemon.ok(["runtime", "start", "divider"]);
    let (mut gone, mut done) = (0, 0);
    for call in calls {
        match stage.within(call).unwrap() {
            Ok(_) => done += 1,
            Err(CallError::Failed(CallFailure::ServiceGone)) => gone += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((gone, done), (64, 6));
}

/// C7.
#[test]
fn a_client_that_is_killed_takes_its_calls_along() {
    let stage = Stage::new(&[]);
    let daemon = &stage.daemon;
    let divides = binary("divides");
    daemon.add([divides.to_str().unwrap(), "--name", "divides"]);
    let b = daemon.put("b");
    let link = daemon.link("divides", "examples.divide.v1", "b");
    let runtime = stage.peers.block_on(Runtime::connect_to(daemon.native_socket(&b))).unwrap();
    let mut service: Service<examples::Divide, examples::Quotient> = runtime.service().unwrap();
    daemon.ok(["runtime", "start", "divides"]);
    let call = stage.within(service.next());
    let pid = daemon.info("divides").observed.pid().unwrap();
    processes::signal(pid, Signal::SIGKILL);
    stage.within(call.cancelled());
    eventually("it has failed", || {
        let counters = daemon.link_info(link).calls.unwrap();
        (counters.failed == 1 && counters.in_flight == 0).then_some(())
    });
    drop(call);
    // The next process of the client is served.
    daemon.ok(["runtime", "start", "divides"]);
    stage.within(async {
        let call = service.next().await;
        assert_eq!(call.request().dividend, 1000);
    });
}

/// C10.
#[test]
fn a_daemon_that_dies_ends_calls_and_nobody_sends_them_again() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 4);
    let calling = stage.begin(&client, 1);
    let call = stage.within(service.next());
    processes::signal(stage.daemon.pid(), Signal::SIGKILL);
    let error = stage.within(calling).unwrap().unwrap_err();
    assert_eq!(error, CallError::Disconnected);
    assert!(error.may_have_had_effect());
    stage.within(async {
        call.cancelled().await;
        // The one who would have had it is gone.
        let reply = call.reply(&Doubled { value: 2, by: "b".into() }).await;
        assert!(reply.is_err());
    });
    // A call that is made meanwhile waits for the next daemon, and for both ends.
    let calling = stage.begin(&client, 3);
    stage.within(async {
        let call = service.next().await;
        assert_eq!(call.request().value, 3, "the first one does not come again");
        call.reply(&Doubled { value: 6, by: "b".into() }).await.unwrap();
        assert_eq!(calling.await.unwrap().unwrap().value, 6);
    });
    let counters = stage.counters("b");
    assert_eq!(counters, CallCounters { calls: 1, replies: 1, failed: 0, in_flight: 0 });
}

/// C10.
#[test]
fn a_daemon_that_stands_still_does_not_hold_a_client_for_ever() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a").with_deadline(Duration::from_millis(300));
    let _serving = stage.serve("b");
    stage.call(&client, 1).unwrap();
    let pid = stage.daemon.pid();
    processes::suspend(pid);
    let error = stage.call(&client, 2).unwrap_err();
    processes::signal(pid, Signal::SIGCONT);
    assert_eq!(error, CallError::NoAnswer);
    assert_eq!(stage.call(&client, 3).unwrap().value, 6);
}

/// C8.
#[test]
fn a_link_that_is_removed_ends_its_calls() {
    let stage = Stage::new(&["b", "c"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 1);
    let given = stage.begin(&client, 1);
    let call = stage.within(service.next());
    let waits = stage.begin(&client, 2);
    let remove = |name: &str| {
        stage.daemon.ok(["link", "remove", &stage.links[name].to_string()]);
    };
    remove("b");
    assert_eq!(failure(stage.within(given).unwrap()), CallFailure::LinkRemoved);
    stage.within(call.cancelled());
    // The other one may still be served over the other link, until that is gone too.
    drop(call);
    assert!(!waits.is_finished());
    remove("c");
    assert_eq!(failure(stage.within(waits).unwrap()), CallFailure::NoLink);
}

/// C8.
#[test]
fn an_instance_that_is_removed_ends_its_calls() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 1);
    let given = stage.begin(&client, 1);
    let _call = stage.within(service.next());
    stage.daemon.ok(["runtime", "remove", "b"]);
    let failure = failure(stage.within(given).unwrap());
    let either = [CallFailure::LinkRemoved, CallFailure::ServiceGone];
    assert!(either.contains(&failure), "{failure:?}");
}

/// C11.
#[test]
fn too_many_calls_are_refused() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a").with_deadline(SOON);
    let calls: Vec<_> = (0..MAX_CALLS + 50).map(|value| stage.begin(&client, value)).collect();
    eventually("what is too much is refused", || {
        (calls.iter().filter(|call| call.is_finished()).count() == 50).then_some(())
    });
    // A library that does not count is refused by the daemon.
    let (b, c) = (stage.daemon.put("x"), stage.daemon.put("y"));
    stage.daemon.link("x", "double", "y");
    let mut native = stage.daemon.native(&b);
    declare(&mut native, 0, CallEnd::Client, 0);
    for id in 0..u64::from(MAX_CALLS) + 2 {
        call(&mut native, id, b"");
    }
    for id in 0..2 {
        let refused = (u64::from(MAX_CALLS) + id, Err(CallFailure::TooMany));
        assert_eq!(answer(&mut native), refused);
    }
    drop((native, c));
    let _serving = stage.serve("b");
    let mut done = 0;
    for (value, call) in (0..).zip(calls) {
        match stage.within(call).unwrap() {
            Ok(reply) => {
                assert_eq!(reply.value, value * 2);
                done += 1;
            }
            Err(error) => assert_eq!(error, CallError::TooMany),
        }
    }
    assert_eq!(done, MAX_CALLS);
}

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "double")]
struct Other {
    text: String,
}

/// C9.
#[test]
fn ends_that_disagree_are_told_with_both_schemas() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let waiting = stage.begin(&client, 1);
    let other: Service<Other, Doubled> = stage.runtime("b").service().unwrap();
    let CallFailure::Mismatched(schemas) = failure(stage.within(waiting).unwrap()) else {
        panic!("it is mismatched")
    };
    for part in ["value: u32", "text: String", "call(", "reply("] {
        assert!(schemas.contains(part), "{part:?} in {schemas}");
    }
    let failure = failure(stage.call(&client, 1));
    assert!(matches!(failure, CallFailure::Mismatched(_)), "{failure:?}");
    let info = stage.daemon.link_info(stage.links["b"]);
    assert!(matches!(info.state, LinkState::Mismatched { .. }), "{info:?}");
    drop(other);
    // A link between them is refused, as is one to somebody who takes messages of that name.
    stage.daemon.ok(["link", "remove", &stage.links["b"].to_string()]);
    let again = stage.daemon.try_link("a", "double", "b", Policy::Latest, 1).unwrap_err();
    assert_eq!(again.code, ErrorCode::SchemaMismatch);
    let d = stage.daemon.put("d");
    let _takes = stage.daemon.receiver(&d, "double");
    stage.daemon.declared("d", "double");
    let messages = stage.daemon.try_link("a", "double", "d", Policy::Latest, 1).unwrap_err();
    assert_eq!(messages.code, ErrorCode::SchemaMismatch);
}

#[test]
fn a_payload_that_is_no_request_costs_that_call() {
    let stage = Stage::new(&["b"]);
    let _serving = stage.serve("b");
    let mut client = stage.daemon.native(&stage.ids["a"]);
    declare(&mut client, 0, CallEnd::Client, 0);
    call(&mut client, 1, &[0xff]);
    let (id, result) = answer(&mut client);
    assert_eq!(id, 1);
    assert!(matches!(result, Err(CallFailure::BadRequest(_))), "{result:?}");
    call(&mut client, 2, &[3, 0]);
    assert_eq!(answer(&mut client), (2, Ok(vec![6, 1, b'b'])));
}

/// C12.
#[test]
fn taps_see_calls_and_what_became_of_them() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.service("b", 1);
    let mut tap = stage.daemon.cli_command(["--json", "link", "tap", "--count", "4"]);
    let tap = tap.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let enough = eventually_tapped(&stage, &client, &mut service, tap);
    let payloads: Vec<Value> = enough
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].clone())
        .map(|message| json!([message["from_name"], message["payload"]]))
        .collect();
    let call = |value: u32| json!(["a", {"call": {"value": value, "ballast": []}}]);
    let reply = json!(["b", {"reply": {"value": 8, "by": "b"}}]);
    let failed = json!(["b", {"failed": "the service failed: no"}]);
    assert!(payloads.contains(&call(4)), "{payloads:?}");
    assert!(payloads.contains(&reply), "{payloads:?}");
    assert!(payloads.contains(&failed), "{payloads:?}");
}

/// Calls until the tap has seen enough.
fn eventually_tapped(
    stage: &Stage,
    client: &Doubles,
    service: &mut Doubler,
    mut tap: std::process::Child,
) -> String {
    eventually("the tap has seen enough", || {
        for is_reply in [true, false] {
            let calling = stage.begin(client, 4);
            stage.within(async {
                let call = service.next().await;
                match is_reply {
                    true => call.reply(&Doubled { value: 8, by: "b".into() }).await.unwrap(),
                    false => call.fail("no"),
                }
                let _ = calling.await.unwrap();
            });
        }
        tap.try_wait().unwrap()
    });
    let output = tap.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// C10.
#[test]
fn a_call_that_could_not_be_sent_had_no_effect() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a").with_deadline(Duration::from_millis(300));
    let Stage { daemon, peers, .. } = stage;
    // With its holder, so that none comes after it.
    drop(daemon);
    let error = peers.block_on(async {
        loop {
            // The first one may be on its way when the connection breaks.
            match client.call(&double(1)).await.unwrap_err() {
                CallError::Disconnected => {}
                error => break error,
            }
        }
    });
    assert_eq!(error, CallError::NotConnected);
    assert!(!error.may_have_had_effect());
}

#[test]
fn each_name_is_declared_once_in_each_direction() {
    let stage = Stage::new(&[]);
    let runtime = stage.runtime("a");
    let client = runtime.client::<Double, Doubled>();
    assert!(client.is_ok());
    assert!(runtime.client::<Double, u32>().is_err());
    assert!(runtime.output::<Double>().is_err());
    assert!(runtime.service::<Double, Doubled>().is_ok());
    assert!(runtime.input::<Double>().is_err());
    stage.daemon.declared("a", "double");
}

// By hand.

fn request_schema() -> Vec<u8> {
    Double::schema().encode()
}

fn reply_schema() -> Vec<u8> {
    TypeSchema::from(<Doubled as Schema>::SCHEMA).encode()
}

fn declare(native: &mut Native, channel: u16, end: CallEnd, at_once: u32) {
    let (request, reply) = (request_schema(), reply_schema());
    let (request, reply) = (&request[..], &reply[..]);
    let declare = DeclareCalls { channel, end, name: "double", request, reply, at_once };
    native.send(&Frame::Calls(CallFrame::Declare(declare)));
}

fn call(native: &mut Native, id: u64, payload: &[u8]) {
    let frame = CallFrame::Call { channel: 0, id, timeout_ms: 60_000, payload };
    native.send(&Frame::Calls(frame));
}

/// The next answer: of which call, and the reply or the failure. Passes over other frames.
fn answer(native: &mut Native) -> (u64, Result<Vec<u8>, CallFailure>) {
    loop {
        let found = native.next(|frame| match frame {
            Frame::Calls(CallFrame::Answer { id, answer, .. }) => Some(match answer {
                Answer::Reply(reply) => (id, Ok(reply.to_vec())),
                Answer::Failure(failure) => (id, Err(failure)),
            }),
            _ => None,
        });
        if let Some(found) = found.expect("an answer comes") {
            return found;
        }
    }
}

/// The next call for a service: its id.
fn given(native: &mut Native) -> u64 {
    loop {
        let found = native.next(|frame| match frame {
            Frame::Calls(CallFrame::Call { id, .. }) => Some(id),
            _ => None,
        });
        if let Some(id) = found.expect("a call comes") {
            return id;
        }
    }
}

/// What a peer can do wrong, and what it is told.
type Wrong = (&'static str, fn(&mut Native));

/// The number of `Frame::Calls` on the wire.
const CALLS: u8 = 16;

const WRONG: &[Wrong] = &[
    ("channel 1024", |n| declare(n, 1024, CallEnd::Client, 0)),
    ("declared twice", |n| {
        declare(n, 0, CallEnd::Client, 0);
        declare(n, 0, CallEnd::Service, 1);
    }),
    ("the output double is declared twice", |n| {
        declare(n, 0, CallEnd::Client, 0);
        declare(n, 1, CallEnd::Client, 0);
    }),
    ("the output double is declared twice", |n| {
        declare(n, 0, CallEnd::Client, 0);
        n.declare(1, Direction::Output, "double", &TypeSchema::U8, 0);
    }),
    ("declared twice", |n| {
        declare(n, 0, CallEnd::Client, 0);
        n.declare(0, Direction::Output, "other", &TypeSchema::U8, 0);
    }),
    ("is given no calls", |n| declare(n, 0, CallEnd::Client, 1)),
    ("1 to 1024 calls", |n| declare(n, 0, CallEnd::Service, 0)),
    ("1 to 1024 calls", |n| declare(n, 0, CallEnd::Service, MAX_CALLS + 1)),
    ("the schema of double", |n| {
        let declare = DeclareCalls {
            channel: 0,
            end: CallEnd::Client,
            name: "double",
            request: &[99],
            reply: &[1],
            at_once: 0,
        };
        n.send(&Frame::Calls(CallFrame::Declare(declare)));
    }),
    ("a call on channel 0", |n| call(n, 1, b"")),
    ("a call on channel 0", |n| {
        declare(n, 0, CallEnd::Service, 1);
        call(n, 1, b"");
    }),
    ("is under way already", |n| {
        declare(n, 0, CallEnd::Client, 0);
        call(n, 1, b"");
        call(n, 1, b"");
    }),
    ("0 ms of time", |n| {
        declare(n, 0, CallEnd::Client, 0);
        let call = CallFrame::Call { channel: 0, id: 1, timeout_ms: 0, payload: b"" };
        n.send(&Frame::Calls(call));
    }),
    ("ms of time", |n| {
        declare(n, 0, CallEnd::Client, 0);
        let timeout_ms = MAX_CALL_TIMEOUT_MS + 1;
        n.send(&Frame::Calls(CallFrame::Call { channel: 0, id: 1, timeout_ms, payload: b"" }));
    }),
    ("a cancel on channel 3", |n| n.send(&Frame::Calls(CallFrame::Cancel { channel: 3, id: 1 }))),
    ("an answer on channel 0", |n| {
        declare(n, 0, CallEnd::Client, 0);
        reply(n, 1, Answer::Reply(b""));
    }),
    ("it was not given", |n| {
        declare(n, 0, CallEnd::Service, 1);
        reply(n, 1, Answer::Reply(b""));
    }),
    ("only the daemon tells", |n| {
        declare(n, 0, CallEnd::Service, 1);
        reply(n, 1, Answer::Failure(CallFailure::NoLink));
    }),
    ("a failure in more than", |n| {
        declare(n, 0, CallEnd::Service, 1);
        let why = "x".repeat(MAX_FAILURE + 1);
        reply(n, 1, Answer::Failure(CallFailure::Failed(why)));
    }),
    ("cut or wrong", |n| {
        use std::io::Write;
        n.stream.write_all(&[2, 0, 0, 0, CALLS, 9]).unwrap();
    }),
];

fn reply(native: &mut Native, id: u64, answer: Answer<'_>) {
    native.send(&Frame::Calls(CallFrame::Answer { channel: 0, id, answer }));
}

#[test]
fn malformed_frames_cost_their_connection_and_nothing_else() {
    let stage = Stage::new(&["b", "c"]);
    // What it calls waits for a service.
    stage.daemon.put("d");
    stage.daemon.link("c", "double", "d");
    let client = stage.client("a");
    let _serving = stage.serve("b");
    for (told, wrong) in WRONG {
        let mut native = stage.daemon.native(&stage.ids["c"]);
        wrong(&mut native);
        let error = native.refusal();
        assert_eq!(error.code, ErrorCode::Malformed, "{told}: {error}");
        assert!(error.message.contains(told), "{told:?} in {error}");
        assert_eq!(stage.call(&client, 4).unwrap().value, 8);
    }
}

/// C2.
#[test]
fn an_answer_is_taken_once() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.daemon.native(&stage.ids["b"]);
    declare(&mut service, 0, CallEnd::Service, 8);
    stage.daemon.declared("b", "double");
    let calling = stage.begin(&client, 1);
    let id = given(&mut service);
    reply(&mut service, id, Answer::Reply(&[2, 0]));
    assert_eq!(stage.within(calling).unwrap().unwrap(), Doubled { value: 2, by: String::new() });
    reply(&mut service, id, Answer::Reply(&[2, 0]));
    assert!(service.refusal().message.contains("was not given"));
}

#[test]
fn a_reply_that_is_no_value_of_its_type_is_the_callers_to_see() {
    let stage = Stage::new(&["b"]);
    let client = stage.client("a");
    let mut service = stage.daemon.native(&stage.ids["b"]);
    declare(&mut service, 0, CallEnd::Service, 8);
    stage.daemon.declared("b", "double");
    let calling = stage.begin(&client, 1);
    let id = given(&mut service);
    reply(&mut service, id, Answer::Reply(&[0xff]));
    let error = stage.within(calling).unwrap().unwrap_err();
    assert!(matches!(error, CallError::BadReply(_)), "{error:?}");
}

/// C11.
#[test]
fn a_service_that_does_not_read_holds_only_its_own_calls() {
    let stage = Stage::new(&["b", "c"]);
    let client = stage.client("a");
    // It takes calls and never reads them.
    let mut stuck = stage.daemon.native(&stage.ids["b"]);
    declare(&mut stuck, 0, CallEnd::Service, 4);
    stage.daemon.declared("b", "double");
    let _serving = stage.serve("c");
    let ballast = vec![7; 1 << 20];
    let mut done = 0;
    for value in 0..20 {
        let (client, ballast) = (client.with_deadline(Duration::from_secs(2)), ballast.clone());
        let calling = async { client.call(&Double { value, ballast }).await };
        match stage.within(calling) {
            Ok(_) => done += 1,
            Err(CallError::Failed(CallFailure::TimedOut { given: true })) => {}
            other => panic!("{other:?}"),
        }
    }
    // It has one, which it does not answer: from then on the other one has fewer.
    assert_eq!(done, 19);
}

// From the command line.

/// C13.
#[test]
fn a_person_can_call() {
    let stage = Stage::new(&[]);
    let daemon = &stage.daemon;
    let divider = binary("divider");
    daemon.add([divider.to_str().unwrap(), "--name", "divider"]);
    daemon.ok(["runtime", "start", "divider"]);
    let call = |args: &[&str]| {
        let said = ["link", "call", "divider", "--type", "examples.divide.v1"];
        daemon.cli(said.into_iter().chain(args.iter().copied()))
    };
    // It may have to connect and to declare first.
    let said = call(&[r#"{"dividend": 7, "divisor": 2}"#]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "{\"value\":3,\"rest\":1}\n"));
    let reply = daemon.json([
        "link",
        "call",
        "divider",
        "--type",
        "examples.divide.v1",
        r#"{"dividend": 9223372036854775807, "divisor": 1}"#,
    ]);
    assert_eq!(reply["link-called"]["reply"], json!({"value": i64::MAX, "rest": 0}));
    // Each kind of failure has its exit code.
    let said = call(&[r#"{"dividend": 7, "divisor": 0}"#]);
    assert_eq!(said.code, Some(7), "{said:?}");
    assert!(said.stderr.contains("failed: 7 can't be divided by 0"), "{said:?}");
    let said = call(&[r#"{"dividend": 7}"#]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in ["divisor", "it takes struct {", "dividend: i64"] {
        assert!(said.stderr.contains(part), "{said:?}");
    }
    processes::signal(daemon.info("divider").observed.pid().unwrap(), Signal::SIGSTOP);
    let said = call(&["--timeout", "300ms", r#"{"dividend": 7, "divisor": 2}"#]);
    assert_eq!(said.code, Some(6), "{said:?}");
    assert!(said.stderr.contains("did not reply within 300ms"), "{said:?}");
    processes::signal(daemon.info("divider").observed.pid().unwrap(), Signal::SIGCONT);
    daemon.ok(["runtime", "stop", "divider"]);
    let said = call(&["null"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("does not run"), "{said:?}");
    let said = daemon.cli(["link", "call", "nobody", "--type", "x", "1"]);
    assert_eq!(said.code, Some(3), "{said:?}");
}

/// C13.
#[test]
fn messages_and_calls_are_not_mixed_up() {
    let stage = Stage::new(&["b"]);
    let _serving = stage.serve("b");
    let _takes = stage.daemon.receiver(&stage.ids["a"], "n");
    stage.daemon.declared("a", "n");
    let said = stage.daemon.cli(["link", "send", "b", "--type", "double", "{}"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("see `link call`"), "{said:?}");
    let said = stage.daemon.cli(["link", "call", "a", "--type", "n", "1"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("see `link send`"), "{said:?}");
    let request = r#"{"value": 4, "ballast": []}"#;
    let said = stage.daemon.cli(["link", "call", "b", "--type", "double", request]);
    assert_eq!(said.stdout, "{\"value\":8,\"by\":\"b\"}\n", "{said:?}");
    // No link counts it.
    assert_eq!(stage.counters("b"), CallCounters::default());
}

#[test]
fn a_service_that_goes_away_is_told_to_a_person() {
    let stage = Stage::new(&["b"]);
    let mut service = stage.daemon.native(&stage.ids["b"]);
    declare(&mut service, 0, CallEnd::Service, 8);
    stage.daemon.declared("b", "double");
    let daemon = &stage.daemon;
    let said = std::thread::scope(|scope| {
        let args = ["link", "call", "b", "--type", "double", r#"{"value": 1, "ballast": []}"#];
        let calling = scope.spawn(move || daemon.cli(args));
        given(&mut service);
        drop(service);
        calling.join().unwrap()
    });
    assert_eq!(said.code, Some(7), "{said:?}");
    assert!(said.stderr.contains("went away with the call"), "{said:?}");
}

/// C7, C13.
#[test]
fn a_person_who_goes_away_cancels_the_call() {
    let stage = Stage::new(&["b"]);
    let mut service = stage.service("b", 1);
    let args = ["link", "call", "b", "--type", "double", r#"{"value": 1, "ballast": []}"#];
    let mut calling = stage.daemon.cli_command(args).spawn().unwrap();
    let call = stage.within(service.next());
    calling.kill().unwrap();
    calling.wait().unwrap();
    stage.within(call.cancelled());
}
