//! Links that are changed while messages wait in them and pass over them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use orchestrator_proto::control::{
    Counters, EventKind, LinkInfo, Policy, Reply, Request, RulesSpec, Transport, Way,
};
use orchestrator_proto::{ErrorCode, LinkId};
use tests::{Daemon, binary, eventually};

fn set(daemon: &Daemon, link: LinkId, policy: Option<Policy>, capacity: Option<u32>) -> u64 {
    let rules = RulesSpec { policy, capacity, ..RulesSpec::default() };
    match daemon.request(Request::LinkSet { link, rules }).unwrap() {
        Reply::LinkSet { id, dropped, .. } if id == link => dropped,
        other => panic!("{other:?}"),
    }
}

fn rules(daemon: &Daemon) -> Vec<(Policy, u32)> {
    daemon.links().iter().map(|LinkInfo { policy, capacity, .. }| (*policy, *capacity)).collect()
}

#[test]
fn another_capacity_under_traffic_loses_doubles_and_reorders_nothing_under_block() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 64);
    let mut receiver = daemon.receiver(&b, "n");
    let mut sender = daemon.sender(&a, "n");
    let stop = AtomicBool::new(false);
    let total = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.numbers_until(|| stop.load(Ordering::Relaxed)));
        let reading = scope.spawn(|| {
            for expected in 0.. {
                match receiver.next_number().unwrap() {
                    u32::MAX => return expected,
                    number => assert_eq!(number, expected),
                }
            }
            unreachable!()
        });
        for capacity in [1, 1000, 7, 64, 2, 300].into_iter().cycle().take(24) {
            let before = daemon.counters(link).delivered;
            assert_eq!(set(&daemon, link, None, Some(capacity)), 0);
            assert_eq!(rules(&daemon), [(Policy::Block, capacity)]);
            eventually("messages pass", || {
                (daemon.counters(link).delivered > before).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        let total = sending.join().unwrap();
        assert_eq!(reading.join().unwrap(), total);
        total
    });
    let Counters { dropped, delivered, .. } = daemon.settled(link, u64::from(total) + 1);
    assert_eq!((dropped, delivered), (0, u64::from(total) + 1));
}

#[test]
fn another_policy_under_traffic_keeps_the_order_and_counts_every_drop() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 16);
    let mut receiver = daemon.receiver(&b, "n");
    let mut sender = daemon.sender(&a, "n");
    let stop = AtomicBool::new(false);
    let policies = [Policy::DropOldest, Policy::Block, Policy::Latest, Policy::DropNewest];
    let (total, seen) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.numbers_until(|| stop.load(Ordering::Relaxed)));
        let reading = scope.spawn(|| {
            let numbers = std::iter::from_fn(|| receiver.next_number());
            Vec::from_iter(numbers.take_while(|number| *number != u32::MAX))
        });
        for policy in policies.into_iter().cycle().take(16) {
            let before = daemon.counters(link).delivered;
            set(&daemon, link, Some(policy), Some(16));
            eventually("messages pass", || {
                (daemon.counters(link).delivered > before).then_some(())
            });
        }
        // The last one must not be given up.
        set(&daemon, link, Some(Policy::Block), None);
        stop.store(true, Ordering::Relaxed);
        (sending.join().unwrap(), reading.join().unwrap())
    });
    assert!(seen.is_sorted_by(|a, b| a < b), "in order and none twice");
    let Counters { sent, delivered, dropped, .. } = daemon.settled(link, u64::from(total) + 1);
    assert_eq!(sent, delivered + dropped);
    assert_eq!(delivered, seen.len() as u64 + 1);
}

#[test]
fn what_waits_stays_unless_there_is_no_room_for_it() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::DropNewest, 100);
    let mut sender = daemon.sender(&a, "n");
    sender.numbers(0..10);
    assert_eq!(daemon.given(link, 10).queued, 10);

    assert_eq!(daemon.ok(["link", "set", "1", "--policy", "block"]), "changed link 1\n");
    assert_eq!(daemon.ok(["link", "set", "1", "--capacity", "4"]), "changed link 1\n");
    assert_eq!(daemon.given(link, 10).queued, 10);
    assert_eq!(
        daemon.ok(["link", "set", "1", "--policy", "block", "--capacity", "4"]),
        "link 1 was like that already\n"
    );
    assert_eq!(
        daemon.ok(["link", "set", "1", "--policy", "drop-oldest"]),
        "changed link 1 and dropped 6 waiting messages, for which there is no room now\n"
    );
    let Counters { queued, dropped, .. } = daemon.given(link, 10);
    assert_eq!((queued, dropped), (4, 6));
    assert_eq!(daemon.receiver(&b, "n").take_numbers(4), [6, 7, 8, 9]);

    // The newest is one; whoever wants more again gets as many as without a wish.
    daemon.ok(["link", "set", "1", "--policy", "latest", "--capacity", "50"]);
    assert_eq!(rules(&daemon), [(Policy::Latest, 1)]);
    daemon.ok(["link", "set", "1", "--policy", "drop-newest"]);
    assert_eq!(rules(&daemon), [(Policy::DropNewest, 1024)]);

    let mut changes = Vec::new();
    daemon.event("the last change", |event| match event.kind {
        EventKind::LinkChanged { policy, capacity, .. } => {
            changes.push((policy, capacity));
            (policy == Policy::DropNewest).then_some(())
        }
        _ => None,
    });
    let expected = [
        (Policy::Block, 100),
        (Policy::Block, 4),
        (Policy::DropOldest, 4),
        (Policy::Latest, 1),
        (Policy::DropNewest, 1024),
    ];
    assert_eq!(changes, expected);
    // It is on the disk when it is answered.
    daemon.replace_killed();
    assert_eq!(rules(&daemon), [(Policy::DropNewest, 1024)]);
}

#[test]
fn what_can_not_be_set_is_refused() {
    let daemon = Daemon::start();
    daemon.put("a");
    let link = daemon.link_with("a", "n", "a", Policy::Block, 16);
    let refused = |link, policy, capacity| {
        let rules = RulesSpec { policy, capacity, ..RulesSpec::default() };
        let request = Request::LinkSet { link, rules };
        match daemon.request(request) {
            Err(orchestrator_proto::client::ClientError::Failed(error)) => error.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(LinkId(7), Some(Policy::Block), None), ErrorCode::NotFound);
    assert_eq!(refused(link, None, None), ErrorCode::InvalidArgument);
    assert_eq!(refused(link, None, Some(0)), ErrorCode::InvalidArgument);
    assert_eq!(refused(link, None, Some(u32::MAX)), ErrorCode::InvalidArgument);
    assert_eq!(rules(&daemon), [(Policy::Block, 16)]);
    for args in [
        &["link", "set", "1"][..],
        &["link", "set", "--policy", "block"],
        &["link", "set", "1", "--capacity", "0"],
        &["link", "set", "1", "--policy", "lossless"],
        &["link", "set", "1", "--block-timeout", "soon"],
        &["link", "add", "--type", "n", "--to", "a", "--block-timeout", "-1s"],
        &["link", "set", "1", "--history", "65537"],
        &["link", "add", "--type", "n", "--to", "a", "--history", "all"],
        &["link", "set", "1", "--transport", "memory"],
        &["link", "add", "--type", "n", "--to", "a", "--transport", "Direct"],
    ] {
        let said = daemon.cli(args);
        assert_eq!(said.code, Some(2), "{said:?}");
    }
    for args in [
        &["link", "set", "1", "--policy", "latest", "--block-timeout", "1s"][..],
        &["link", "set", "1", "--block-timeout", "2d"],
        &["link", "add", "--type", "n", "--to", "a", "--block-timeout", "1s"],
    ] {
        let said = daemon.cli(args);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("block-timeout"), "{said:?}");
    }
    let udp = daemon.link_with("a", "n", "udp:127.0.0.1:9", Policy::DropOldest, 4).to_string();
    for args in [
        &["link", "set", &udp, "--history", "3"][..],
        &["link", "add", "--type", "m", "--to", "udp:127.0.0.1:9", "--history", "3"],
    ] {
        let said = daemon.cli(args);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("datagram"), "{said:?}");
    }
    let history = RulesSpec { history: Some(u32::MAX), ..RulesSpec::default() };
    assert!(daemon.request(Request::LinkSet { link, rules: history }).is_err());
    // It says how to change the one that is there.
    let error = daemon.try_link("a", "n", "a", Policy::Block, 17).unwrap_err();
    assert!(error.to_string().contains("link set 1"), "{error}");
}

/// C14.
#[test]
fn calls_have_no_rules_that_could_be_set() {
    let daemon = Daemon::start();
    let example = |name: &str, more: &[&str]| {
        let path = binary(name);
        daemon.ok([&["runtime", "add", path.to_str().unwrap(), "--name", name], more].concat());
    };
    example("divides", &[]);
    example("divider", &["--replicas", "2"]);
    let add = ["link", "add", "--from", "divides", "--type", "examples.divide.v1", "--to"];
    daemon.ok([&add[..], &["divider"]].concat());
    // As long as nobody has declared what it is, it may be messages.
    daemon.ok(["link", "set", "1", "--capacity", "7"]);
    daemon.ok(["runtime", "start", "divider", "divides"]);
    daemon.declared("divides", "examples.divide.v1");
    for [rule, value] in [
        ["--policy", "latest"],
        ["--capacity", "8"],
        ["--block-timeout", "1s"],
        ["--history", "3"],
        ["--transport", "direct"],
        ["--spin-us", "5"],
    ] {
        let said = daemon.cli(["link", "set", "1", rule, value]);
        assert_eq!(said.code, Some(1), "{said:?}");
        for part in ["link 1 carries calls", "deadline"] {
            assert!(said.stderr.contains(part), "{said:?}");
        }
    }
    assert_eq!(rules(&daemon)[0], (Policy::DropOldest, 7));
}

#[test]
fn a_timeout_is_shown_stored_exported_and_applied() {
    let daemon = Daemon::start();
    let manifest = daemon.dir().join("orchestrator.toml");
    let apply = |rules: &str| {
        let text = format!(
            "[instance.a]\nprogram = \"/bin/true\"\nstate = \"stopped\"\n\
             [[link]]\nfrom = \"a\"\ntype = \"n\"\nto = \"a\"\n{rules}\n"
        );
        fs::write(&manifest, text).unwrap();
        daemon.ok(["apply", manifest.to_str().unwrap()])
    };
    let shown = || daemon.links().remove(0).block_timeout.to_string();
    apply("policy = \"block\"\nblock-timeout = \"500ms\"");
    assert_eq!(shown(), "500ms");
    assert!(daemon.ok(["link", "list"]).contains("block 500ms"));
    assert_eq!(daemon.json(["link", "list"])["links"][0]["block_timeout"], "500ms");
    assert!(daemon.ok(["export"]).contains("block-timeout = \"500ms\""));
    let said = apply("policy = \"block\"\nblock-timeout = \"1s\"");
    assert!(said.contains("block-timeout"), "{said}");
    daemon.replace_killed();
    assert_eq!(shown(), "1s");
    assert!(daemon.ok(["events"]).contains("block-timeout 1s"));
    apply("policy = \"latest\"");
    assert_eq!(shown(), "0s");
    fs::write(&manifest, "[[link]]\ntype = \"n\"\nto = \"a\"\nblock-timeout = \"1s\"\n").unwrap();
    let said = daemon.cli(["validate", manifest.to_str().unwrap()]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("is for the policy block"), "{said:?}");
}

#[test]
fn a_history_is_shown_stored_exported_and_applied() {
    let daemon = Daemon::start();
    let manifest = daemon.dir().join("orchestrator.toml");
    let write = |to: &str, rules: &str| {
        let text = format!(
            "[instance.a]\nprogram = \"/bin/true\"\nstate = \"stopped\"\n\
             [[link]]\nfrom = \"a\"\ntype = \"n\"\nto = \"{to}\"\n{rules}\n"
        );
        fs::write(&manifest, text).unwrap();
    };
    let apply = |rules: &str| {
        write("a", rules);
        daemon.ok(["apply", manifest.to_str().unwrap()])
    };
    let shown = || daemon.links().remove(0).history;
    apply("policy = \"latest\"\nhistory = 1");
    assert_eq!(shown(), 1);
    assert!(daemon.ok(["link", "list"]).contains("latest, history 1"));
    assert_eq!(daemon.json(["link", "list"])["links"][0]["history"], 1);
    assert_eq!(daemon.json(["link", "list"])["links"][0]["counters"]["replayed"], 0);
    assert!(daemon.ok(["export"]).contains("history = 1"));
    assert!(apply("policy = \"latest\"\nhistory = 9").contains("history"));
    daemon.replace_killed();
    assert_eq!(shown(), 9);
    assert!(daemon.ok(["events"]).contains("history 9"));
    apply("policy = \"latest\"");
    assert_eq!(shown(), 0);
    for (to, rules, why) in
        [("a", "history = 65537", "65536"), ("udp:h:9", "history = 1", "datagram socket")]
    {
        write(to, rules);
        let said = daemon.cli(["validate", manifest.to_str().unwrap()]);
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains(why), "{said:?}");
    }
}

#[test]
fn what_waits_in_a_link_that_a_manifest_changes_stays() {
    let daemon = Daemon::start();
    let manifest = daemon.dir().join("orchestrator.toml");
    let write = |rules: &str| {
        let text = format!(
            "[instance.a]\nprogram = \"/bin/true\"\nstate = \"stopped\"\n\
             [instance.b]\nprogram = \"/bin/true\"\nstate = \"stopped\"\n\
             [[link]]\nfrom = \"a\"\ntype = \"n\"\nto = \"b\"\n{rules}\n"
        );
        fs::write(&manifest, text).unwrap();
    };
    write("policy = \"drop-newest\"\ncapacity = 20");
    daemon.ok(["apply", manifest.to_str().unwrap()]);
    let id = |name| daemon.detail(name).info.id.to_string();
    let mut sender = daemon.sender(&id("a"), "n");
    sender.numbers(0..10);
    let before = daemon.links().remove(0).id;
    assert_eq!(daemon.given(before, 10).queued, 10);
    write("policy = \"block\"\ncapacity = 5");
    daemon.ok(["apply", manifest.to_str().unwrap()]);
    assert_eq!(rules(&daemon), [(Policy::Block, 5)]);
    assert_eq!(daemon.links().remove(0).id, before, "it is the same link");
    let mut receiver = daemon.receiver(&id("b"), "n");
    assert_eq!(receiver.take_numbers(10), Vec::from_iter(0..10));
    sender.numbers(10..12);
    assert_eq!(receiver.take_numbers(2), [10, 11]);
    assert_eq!(daemon.settled(before, 12).dropped, 0);
}

#[test]
fn a_transport_is_shown_stored_exported_and_applied() {
    let daemon = Daemon::start();
    let manifest = daemon.dir().join("orchestrator.toml");
    let write = |rules: &str| {
        let text = format!(
            "[instance.a]\nprogram = \"/bin/true\"\nstate = \"stopped\"\n\
             [[link]]\nfrom = \"a\"\ntype = \"n\"\nto = \"a\"\n{rules}\n"
        );
        fs::write(&manifest, text).unwrap();
    };
    let apply = |rules: &str| {
        write(rules);
        daemon.ok(["apply", manifest.to_str().unwrap()])
    };
    let shown = || daemon.links().remove(0).transport;
    apply("transport = \"routed\"");
    let link = daemon.links().remove(0);
    assert_eq!((link.transport, link.way, link.why), (Transport::Routed, Way::Routed, None));
    let json = daemon.json(["link", "list"])["links"][0].clone();
    assert_eq!((&json["transport"], &json["way"]), (&"routed".into(), &"routed".into()));
    assert!(json["why"].is_null(), "{json}");
    assert!(daemon.ok(["export"]).contains("transport = \"routed\""));
    assert!(apply("transport = \"direct\"").contains("transport"));
    daemon.replace_killed();
    assert_eq!(shown(), Transport::Direct);
    assert!(daemon.ok(["events"]).contains("transport direct"));
    for (to, said) in [
        ("auto", "changed link 1\n"),
        ("auto", "link 1 was like that already\n"),
        ("routed", "changed link 1\n"),
        ("direct", "changed link 1\n"),
    ] {
        assert_eq!(daemon.ok(["link", "set", "1", "--transport", to]), said);
        assert_eq!(shown().to_string(), to);
    }
    // Another rule leaves it as it is.
    daemon.ok(["link", "set", "1", "--capacity", "7"]);
    assert_eq!(shown(), Transport::Direct);
    apply("");
    assert_eq!(shown(), Transport::Auto);
    assert!(!daemon.ok(["export"]).contains("transport"));
    write("transport = \"rooted\"");
    let said = daemon.cli(["validate", manifest.to_str().unwrap()]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("did you mean `routed`?"), "{said:?}");
}

#[test]
fn why_a_link_is_not_direct_that_is_to_be_is_listed() {
    let daemon = Daemon::start();
    daemon.put("a");
    let add = ["link", "add", "--from", "a", "--type", "n", "--to", "udp:127.0.0.1:9"];
    let said = daemon.ok([&add[..], &["--transport", "direct"]].concat());
    assert!(said.starts_with("added link 1"), "{said}");
    let link = daemon.links().remove(0);
    assert_eq!((link.transport, link.way), (Transport::Direct, Way::Routed));
    let why = link.why.unwrap();
    assert!(why.contains("datagram socket"), "{why}");
    let listed = || daemon.ok(["link", "list"]);
    assert!(listed().contains(&format!("\nlink 1 is routed, not direct: {why}\n")), "{}", listed());
    // Nobody asks for it any more.
    daemon.ok(["link", "set", "1", "--transport", "auto"]);
    assert!(!listed().contains("not direct"), "{}", listed());
}

#[test]
fn an_end_that_is_not_there_is_why_a_link_is_routed() {
    const PING: &str = "examples.ping.v1";
    let daemon = Daemon::start();
    for name in ["ping", "pong"] {
        daemon.add([binary(name).to_str().unwrap(), "--name", name]);
    }
    daemon.add_script("mute", "sleep 1000");
    let link = daemon.link_by(Transport::Direct, "ping", PING, "pong", (Policy::DropOldest, 8));
    let other = daemon.link("mute", PING, "pong");
    let why = |link, said: &str| {
        eventually("it says why", || {
            let info = daemon.link_info(link);
            (info.why.as_deref() == Some(said) && info.way == Way::Routed).then_some(())
        });
    };
    why(link, "the sender is not running, and the receiver is not running");
    daemon.ok(["runtime", "start", "pong", "mute"]);
    why(link, "the sender is not running");
    why(other, "the sender has not connected");
    let list = daemon.ok(["link", "list"]);
    assert!(list.contains("link 1 is routed, not direct: the sender is not running\n"), "{list}");
    for (ended, said) in
        [("ping", "the sender is not running"), ("pong", "the receiver is not running")]
    {
        daemon.ok(["runtime", "start", "ping", "pong"]);
        eventually("it goes directly", || {
            let info = daemon.link_info(link);
            (info.way == Way::Direct && info.why.is_none()).then_some(())
        });
        daemon.ok(["runtime", "stop", ended]);
        why(link, said);
    }
    // What holds whoever the ends are is told first.
    daemon.ok(["link", "set", "1", "--history", "3"]);
    why(link, "it has a history, which is kept by the daemon");
    let any = daemon.link("any", PING, "mute");
    why(any, "the receiver has not connected");
    daemon.ok(["link", "set", "1", "--transport", "routed"]);
    assert_eq!(daemon.link_info(link).why, None);
}

#[test]
fn an_end_that_has_not_declared_the_type_is_why_a_link_is_routed() {
    let daemon = Daemon::start();
    for name in ["ping", "pong"] {
        daemon.add([binary(name).to_str().unwrap(), "--name", name]);
    }
    let [sent, taken] =
        [("pong", "ping"), ("ping", "pong")].map(|(from, to)| daemon.link(from, "typo", to));
    daemon.ok(["runtime", "start", "ping", "pong"]);
    daemon.declared("pong", "examples.ping.v1");
    for link in [sent, taken] {
        eventually("it says why", || {
            let why = daemon.link_info(link).why?;
            (why == "the receiver has declared no input of this type").then_some(())
        });
    }
    // A receiver that takes it.
    let any = daemon.link("ping", "examples.pong.v1", "ping");
    eventually("it says why", || {
        let why = daemon.link_info(any).why?;
        (why == "the sender has declared no output of this type").then_some(())
    });
}

/// C14.
#[test]
fn calls_go_through_the_daemon_and_the_list_says_so() {
    let daemon = Daemon::start();
    for name in ["divides", "divider"] {
        daemon.add([binary(name).to_str().unwrap(), "--name", name]);
    }
    let link = daemon.link_by(
        Transport::Direct,
        "divides",
        "examples.divide.v1",
        "divider",
        (Policy::DropOldest, 8),
    );
    daemon.ok(["runtime", "start", "divider", "divides"]);
    eventually("calls pass", || daemon.link_info(link).calls.filter(|calls| calls.replies > 0));
    let why = "calls go through the daemon";
    assert_eq!(daemon.link_info(link).why.as_deref(), Some(why));
    let list = daemon.ok(["link", "list"]);
    assert!(list.contains(&format!("link 1 is routed, not direct: {why}\n")), "{list}");
    // Also of ends that are known from before.
    daemon.ok(["runtime", "stop", "divider", "divides"]);
    assert_eq!(daemon.link_info(link).why.as_deref(), Some(why));
}
