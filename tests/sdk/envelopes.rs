//! What `orchestrator-proto/LINKS.md` says of what a receiver is told (L38).

use orchestrator_proto::control::{Policy, Transport};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::sdk::{Envelope, Runtime};
use orchestrator_proto::{InstanceId, TypeSchema};
use tests::{SOON, eventually};

use super::stage::{Number, Stage, WAYS};

/// The next message, in its envelope.
#[track_caller]
fn next(stage: &mut Stage<Number>) -> Envelope<Number> {
    let Stage { peers, input, .. } = stage;
    let soon = async { tokio::time::timeout(SOON, input.recv_envelope()).await };
    peers.block_on(soon).expect("a message comes").unwrap()
}

fn numbers(numbers: std::ops::Range<u32>) -> Vec<Number> {
    numbers.map(Number).collect()
}

/// L38: what a policy drops is missed by the message after it, and by no other.
#[test]
fn what_a_policy_drops_is_counted_at_the_message_after_it() {
    for policy in [Policy::DropOldest, Policy::DropNewest, Policy::Latest] {
        for way in WAYS {
            let mut stage = Stage::new(way, (policy, 10), 4);
            let sender: InstanceId = stage.a.parse().unwrap();
            stage.send(&numbers(0..1));
            let first = next(&mut stage);
            assert_eq!((first.message, first.sender), (Number(0), Some(sender)));
            assert_eq!((first.number, first.missed), (Some(0), None), "it is the first");

            stage.send(&numbers(1..200));
            let counters = eventually("all are sent", || {
                let counters = stage.daemon.counters(stage.link);
                (counters.sent == 200).then_some(counters)
            });
            assert!(counters.dropped > 0, "{counters:?}");
            let survive = 200 - counters.dropped - 1;
            let mut last = first;
            for left in (0..=survive).rev() {
                if left == 0 {
                    // What was dropped behind the last one is known when another one comes.
                    stage.send(&numbers(200..201));
                }
                let envelope = next(&mut stage);
                let missed = envelope.missed.expect("it is not the first");
                let number = last.number.unwrap() + missed + 1;
                assert_eq!(envelope.number, Some(number), "{policy:?} {way:?}");
                assert_eq!(envelope.message, Number(number as u32));
                assert_eq!(envelope.sender, Some(sender));
                assert!(envelope.arrived >= last.arrived);
                last = envelope;
            }
            assert_eq!(last.message, Number(200));
            assert_eq!(stage.input.missed(), counters.dropped, "{policy:?} {way:?}");
        }
    }
}

/// L38: what is lost with a daemon is missed as well, and under `block` nothing is.
#[test]
fn what_is_lost_with_a_daemon_is_counted() {
    for (policy, lost) in [(Policy::DropOldest, 96), (Policy::Block, 0)] {
        let mut stage = Stage::new(Transport::Routed, (policy, 1000), 4);
        stage.send(&numbers(0..100));
        eventually("the daemon has them", || {
            (stage.daemon.counters(stage.link).sent == 100).then_some(())
        });
        stage.daemon.replace_killed();
        stage.daemon.declared("a", "n");
        stage.daemon.declared("b", "n");
        eventually("the sender is back", || {
            let Stage { peers, output, .. } = &stage;
            peers.block_on(output.send(&Number(100))).ok()
        });
        let (mut missed, mut received) = (0, 0);
        loop {
            let envelope = next(&mut stage);
            received += 1;
            missed += envelope.missed.unwrap_or_default();
            if envelope.message == Number(100) {
                break;
            }
        }
        assert_eq!((missed, received), (lost, 101 - lost), "{policy:?}");
        assert_eq!(stage.input.missed(), lost);
    }
}

/// L38: another process of the sender begins anew, and who numbers nothing is nobody.
#[test]
fn what_can_not_be_known_is_not_made_up() {
    let mut stage = Stage::new(Transport::Routed, (Policy::DropOldest, 1000), 100);
    stage.send(&numbers(0..10));
    for number in 0..10 {
        assert_eq!(next(&mut stage).number, Some(number));
    }
    let socket = stage.daemon.native_socket(&stage.a);
    let again = stage.peers.block_on(Runtime::connect_to(socket)).unwrap();
    let output = again.output::<Number>().unwrap();
    stage.within(output.send(&Number(77))).unwrap();
    let envelope = next(&mut stage);
    assert_eq!((envelope.message, envelope.number), (Number(77), Some(0)));
    assert_eq!(envelope.missed, None, "another process");

    stage.daemon.ok(["link", "send", "b", "--type", "n", "5"]);
    let envelope = next(&mut stage);
    assert_eq!(envelope.message, Number(5));
    assert_eq!((envelope.sender, envelope.number, envelope.missed), (None, None, None));

    let other = stage.daemon.put("other");
    stage.daemon.link("other", "n", "b");
    let mut plain = stage.daemon.native(&other);
    plain.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
    plain.message(0, &[6]);
    let envelope = next(&mut stage);
    assert_eq!(envelope.message, Number(6));
    assert_eq!((envelope.sender, envelope.missed), (None, None), "it does not number its messages");
    assert_eq!(stage.input.missed(), 0);
}
