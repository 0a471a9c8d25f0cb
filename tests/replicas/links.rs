//! Links from and to a set are links of each replica, and follow it.

use std::sync::atomic::{AtomicBool, Ordering};

use orchestrator_proto::LinkId;
use orchestrator_proto::control::{LinkInfo, Policy, TargetInfo, Transport, Way};
use tests::Daemon;

use super::{SLEEP, add, refused, seen};

const TYPE: &str = "acme.work.v1";

/// The links as `FROM>TO`, those of sets as a whole with a star.
fn routes(daemon: &Daemon) -> Vec<String> {
    let route = |link: &LinkInfo| {
        let from = link.from_name.clone().unwrap_or_else(|| "any".to_owned());
        match &link.to {
            TargetInfo::Instance { name, .. } => format!("{from}>{}", name.clone().unwrap()),
            TargetInfo::Udp { address } => format!("{from}>udp:{address}"),
            TargetInfo::Set { name } => format!("{from}>{name}*"),
        }
    };
    let mut routes: Vec<_> = daemon.links().iter().map(route).collect();
    routes.sort();
    routes
}

#[test]
fn they_are_made_and_removed_as_one_and_follow_scaling() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "2", SLEEP, &[]);
    daemon.put("sink");
    let whole = daemon.link_with("worker", TYPE, "sink", Policy::Block, 32);
    let each = daemon.link("any", TYPE, "worker");
    let (again, is_new) = daemon.try_link("worker", TYPE, "sink", Policy::Block, 32).unwrap();
    assert_eq!((again, is_new), (whole, false));
    let other = daemon.try_link("worker", TYPE, "sink", Policy::Latest, 1).unwrap_err();
    assert!(other.message.contains("joins the same ends already"), "{other}");
    let two = [
        "any>worker*",
        "any>worker.1",
        "any>worker.2",
        "worker.1>sink",
        "worker.2>sink",
        "worker>sink",
    ];
    assert_eq!(routes(&daemon), two);
    let parts = |of: LinkId| daemon.links().into_iter().filter(move |it| it.part_of == Some(of));
    assert!(parts(whole).all(|it| (it.policy, it.capacity) == (Policy::Block, 32)));
    assert_eq!((parts(whole).count(), parts(each).count()), (2, 2));
    let part = parts(whole).next().unwrap().id;
    let set = ["link", "set", &part.to_string(), "--policy", "latest"];
    let error = refused(&daemon, &set);
    assert!(error.contains(&format!("`link set {whole}` changes all of it")), "{error}");
    daemon.ok(["link", "set", &whole.to_string(), "--capacity", "7"]);
    let rules = || daemon.links().into_iter().map(|it| (it.part_of.unwrap_or(it.id), it.capacity));
    assert!(rules().filter(|it| it.0 == whole).all(|it| it.1 == 7), "{:?}", daemon.links());
    daemon.ok(["link", "set", &whole.to_string(), "--capacity", "32", "--policy", "drop-newest"]);
    assert_eq!(rules().filter(|it| *it == (whole, 32)).count(), 3);
    assert_eq!(rules().filter(|it| *it == (each, 1024)).count(), 3);
    // All of it is to go the same way, and is shown as one.
    daemon.ok(["link", "set", &whole.to_string(), "--transport", "routed"]);
    let ways = |of: LinkId| {
        let all = daemon.links().into_iter().filter(move |it| it.part_of.unwrap_or(it.id) == of);
        all.map(|it| (it.transport, it.way, it.why)).collect::<Vec<_>>()
    };
    assert_eq!(ways(whole), vec![(Transport::Routed, Way::Routed, None); 3]);
    assert!(ways(each).iter().all(|it| it.0 == Transport::Auto));
    let error = refused(&daemon, &["link", "remove", &part.to_string()]);
    assert!(error.contains(&format!("`link remove {whole}` removes all of it")), "{error}");

    daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
    assert_eq!((routes(&daemon).len(), parts(whole).count()), (8, 3));
    assert!(parts(whole).all(|it| it.transport == Transport::Routed));
    daemon.ok(["runtime", "scale", "worker", "0", "--wait"]);
    assert_eq!(routes(&daemon), ["any>worker*", "worker>sink"]);
    daemon.ok(["runtime", "scale", "worker", "2", "--wait"]);
    assert_eq!(routes(&daemon), two);
    let said = daemon.ok(["link", "remove", &each.to_string()]);
    assert_eq!(said, format!("removed link {each}\n"));
    assert_eq!(routes(&daemon), ["worker.1>sink", "worker.2>sink", "worker>sink"]);
    // They go with the other end.
    daemon.ok(["runtime", "remove", "sink"]);
    assert_eq!(routes(&daemon), [""; 0]);
    daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
    assert_eq!(routes(&daemon), [""; 0]);
}

#[test]
fn a_link_of_one_replica_becomes_a_part_and_parts_of_two_stay() {
    let daemon = Daemon::start();
    add(&daemon, "a", "2", SLEEP, &[]);
    add(&daemon, "b", "2", SLEEP, &[]);
    let single = daemon.link("a.1", TYPE, "b.1");
    let all = daemon.link("a", TYPE, "b");
    assert_eq!(daemon.link_info(single).part_of, Some(all));
    assert_eq!(routes(&daemon), ["a.1>b.1", "a.1>b.2", "a.2>b.1", "a.2>b.2", "a>b*"]);
    let some = daemon.link("a.1", TYPE, "b");
    daemon.ok(["link", "remove", &all.to_string()]);
    assert_eq!(routes(&daemon), ["a.1>b*", "a.1>b.1", "a.1>b.2"]);
    daemon.ok(["link", "remove", &some.to_string()]);
    assert_eq!(routes(&daemon), [""; 0]);
}

#[test]
fn each_replica_gets_each_message_while_the_set_is_scaled() {
    let daemon = Daemon::start();
    let source = daemon.put("source");
    add(&daemon, "worker", "2", SLEEP, &[]);
    daemon.ok(["runtime", "start", "worker"]);
    let link = daemon.link_with("source", TYPE, "worker", Policy::Block, 64);
    let receiver = |place: usize| {
        let (_, id, _) = seen(&daemon, "worker")[place].clone();
        let receiver = daemon.receiver(&id.to_string(), TYPE);
        daemon.declared(&id.to_string(), TYPE);
        receiver
    };
    let stays = receiver(0);
    let goes = receiver(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = |mut it: tests::native::Native| {
            scope.spawn(move || {
                let mut all = Vec::new();
                while let Some(number) = it.next_number().filter(|number| *number != u32::MAX) {
                    all.push(number);
                }
                all
            })
        };
        let (stays, goes) = (reading(stays), reading(goes));
        let sending = scope.spawn(|| {
            let mut sender = daemon.sender(&source, TYPE);
            sender.numbers_until(|| stop.load(Ordering::Acquire))
        });
        let given = || daemon.counters(link).sent;
        let flows = |more: u64| {
            let before = given();
            tests::eventually("messages flow", || (given() > before + more).then_some(()));
        };
        flows(1000);
        daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
        let comes = reading(receiver(2));
        flows(1000);
        daemon.ok(["runtime", "scale", "worker", "1", "--wait"]);
        flows(1000);
        stop.store(true, Ordering::Release);
        let count = sending.join().unwrap();
        // Who stays has all of them; who went or came has all of its time, in order.
        assert_eq!(stays.join().unwrap(), (0..count).collect::<Vec<_>>());
        for (part, first) in [(goes.join().unwrap(), Some(0)), (comes.join().unwrap(), None)] {
            let first = first.unwrap_or(part[0]);
            let expected: Vec<_> = (first..).take(part.len()).collect();
            assert!(part == expected && part.len() > 100, "{} from {first}", part.len());
        }
    });
}
