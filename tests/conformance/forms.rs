//! Receivers that take several forms of a type.

use orchestrator_proto::TypeSchema;
use orchestrator_proto::control::{LinkState, Policy, Transport};
use orchestrator_proto::runtime::{Direction, Frame};
use orchestrator_proto::schema::Field;
use serde_json::json;
use tests::native::Native;
use tests::{Daemon, eventually};

use super::case::{Case, Dialect, In, Out, played};

fn number() -> TypeSchema {
    TypeSchema::Struct(vec![Field { name: "value".to_owned(), schema: TypeSchema::U32 }])
}

/// The next number, and the form that it is in.
fn next(receiver: &mut Native, form: &mut u8) -> (u32, u8) {
    loop {
        let payload = receiver
            .next(|frame| match frame {
                Frame::Form { form: told, .. } => {
                    *form = told;
                    None
                }
                Frame::Message { payload, .. } => Some(payload.to_vec()),
                _ => None,
            })
            .expect("the daemon goes on");
        if let Some(payload) = payload {
            // Both forms have the same bytes.
            return (postcard::from_bytes(&payload).unwrap(), *form);
        }
    }
}

/// F1, F2, F3.
pub(crate) fn each_message_arrives_in_its_form(case: Case) {
    let daemon = Daemon::start();
    let [a, other, wrong, b] = ["a", "other", "wrong", "b"].map(|name| daemon.put(name));
    let link = daemon.link_with("any", "n", "b", Policy::DropNewest, 1000);
    let mut receiver = match case.to {
        Dialect::Veecle => case.receiver(&daemon, &b),
        Dialect::Native => {
            let (mut native, form) = (daemon.native(&b), number().encode());
            native.send(&Frame::Takes { channel: 0, schema: &form, hash: None });
            native.declare(0, Direction::Input, "n", &TypeSchema::U32, 0);
            daemon.declared("b", "n");
            In::Native(native)
        }
        Dialect::Python => {
            let peer = played(&daemon, &b, &["receive-forms"]);
            daemon.declared("b", "n");
            In::Python(peer)
        }
    };
    let mut first = case.sender(&daemon, &a);
    let mut second = daemon.native(&other);
    second.declare(0, Direction::Output, "n", &number(), 0);
    daemon.declared("other", "n");
    let (mut form, mut sent) = (0, 0);
    for round in 0..20 {
        first.send(3 * round..3 * round + 2);
        sent += 2;
        daemon.settled(link, sent);
        second.number(3 * round + 2);
        sent += 1;
        daemon.settled(link, sent);
        match &mut receiver {
            In::Veecle(veecle) => {
                for number in [json!(3 * round), json!(3 * round + 1)] {
                    assert_eq!(veecle.next_storable().unwrap().1, number, "{case:?}");
                }
                let number = json!({"value": 3 * round + 2});
                assert_eq!(veecle.next_storable().unwrap().1, number, "{case:?}");
            }
            In::Native(native) => {
                for (number, of) in [(0, 0), (1, 0), (2, 1)] {
                    let arrived = next(native, &mut form);
                    assert_eq!(arrived, (3 * round + number, of), "{case:?}");
                }
            }
            In::Python(_) => {
                // A number in the other form counts a million more.
                let expected = [3 * round, 3 * round + 1, 1_000_000 + 3 * round + 2];
                assert_eq!(receiver.take(3), expected, "{case:?}");
            }
        }
    }
    if case.to == Dialect::Veecle {
        return;
    }
    assert_eq!(daemon.link_info(link).state, LinkState::Open, "{case:?}");
    // A third form is none that it takes, and harms the others in nothing.
    let mut third = daemon.native(&wrong);
    third.declare(0, Direction::Output, "n", &TypeSchema::U64, 0);
    eventually("the link is mismatched", || {
        (daemon.link_info(link).state != LinkState::Open).then_some(())
    });
    third.number(1);
    first.send(500..501);
    if let Out::Veecle(veecle) = &mut first {
        veecle.storable("n", &json!("no number"));
    }
    let untranslatable = if case.from == Dialect::Veecle { 2 } else { 1 };
    let counters = daemon.settled(link, sent + 1 + untranslatable);
    assert_eq!(counters.drops.untranslatable, untranslatable, "{case:?}");
    match &mut receiver {
        In::Native(native) => assert_eq!(next(native, &mut form), (500, 0), "{case:?}"),
        other => assert_eq!(other.next(), Some(500), "{case:?}"),
    }
}

/// The payload in both forms, which have the same bytes.
fn in_both(number: u8) -> Vec<u8> {
    vec![1, number, 1, number]
}

/// F4, F5.
pub(crate) fn each_receiver_gets_the_best_form_of_several(case: Case) {
    if case.from == Dialect::Veecle || case.transport != Transport::Routed {
        return;
    }
    let daemon = Daemon::start();
    let [a, b, other] = ["a", "b", "other"].map(|name| daemon.put(name));
    // One that knows the form that the sender has as well, and nothing else.
    let mut old = daemon.native(&other);
    old.declare(0, Direction::Input, "n", &number(), 0);
    let mut receiver = case.receiver(&daemon, &b);
    if case.to.is_native() {
        daemon.declared("b", "n");
    }
    daemon.declared("other", "n");
    let links = ["b", "other"].map(|to| daemon.link_with("a", "n", to, Policy::Block, 100));
    let mut sender = match case.from {
        Dialect::Python => Out::Python { peer: played(&daemon, &a, &["send-forms"]), unheard: 0 },
        _ => {
            let (mut native, form) = (daemon.native(&a), number().encode());
            native.send(&Frame::Takes { channel: 0, schema: &form, hash: None });
            native.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
            Out::Native { native, granted: 0, sent: 0 }
        }
    };
    daemon.declared("a", "n");
    for sent in 0..20 {
        match &mut sender {
            Out::Native { native, .. } => native.message(0, &in_both(sent)),
            other => other.send(u32::from(sent)..u32::from(sent) + 1),
        }
        assert_eq!(receiver.take(1), [u32::from(sent)], "{case:?}");
        assert_eq!(old.next_message().expect("it comes").1, [sent], "{case:?}");
    }
    for link in links {
        assert_eq!(daemon.link_info(link).state, LinkState::Open, "{case:?}");
        assert_eq!(daemon.settled(link, 20).dropped, 0, "{case:?}");
    }
    // Of those that a receiver has several of as well, its own comes first.
    let (mut both, form) = (daemon.native(&other), TypeSchema::U32.encode());
    both.send(&Frame::Takes { channel: 0, schema: &form, hash: None });
    both.declare(0, Direction::Input, "n", &number(), 0);
    eventually("messages go to it", || (daemon.info("other").connections == 2).then_some(()));
    match &mut sender {
        Out::Native { native, .. } => {
            native.message(0, &in_both(100));
            assert_eq!(next(&mut both, &mut 0), (100, 0), "{case:?}");
            // What has not one part for each form ends the connection.
            native.message(0, &[1, 7]);
            let refused = native.refusal();
            assert!(refused.message.contains("one part"), "{refused}");
        }
        other => {
            other.send(100..101);
            assert_eq!(next(&mut both, &mut 0), (100, 0), "{case:?}");
        }
    }
}
