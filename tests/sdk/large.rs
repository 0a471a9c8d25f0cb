//! Messages that are as large as they may be, byte payloads that are not copied, and payloads that
//! are not decoded.

use std::time::Duration;

use orchestrator_proto::Message;
use orchestrator_proto::control::Policy;
use orchestrator_proto::runtime::MAX_PAYLOAD;
use orchestrator_proto::sdk::{Blob, Schema, SendError};
use serde::{Deserialize, Serialize};
use tests::SOON;

use super::stage::{Stage, WAYS};

#[derive(Serialize, Deserialize, Schema, Message, Clone, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "picture")]
struct Picture {
    number: u32,
    pixels: Blob,
    is_last: bool,
}

fn picture(number: u32, size: usize) -> Picture {
    Picture { number, pixels: Blob::from(vec![number as u8; size]), is_last: false }
}

/// What of a payload is not `pixels`.
const AROUND: usize = 1 + 4 + 1;

#[test]
fn the_largest_messages_pass_by_every_way() {
    let largest = MAX_PAYLOAD - AROUND;
    for way in WAYS {
        for policy in [Policy::Block, Policy::DropOldest] {
            let mut stage = Stage::<Picture>::new(way, (policy, 4), 4);
            let too_large = picture(0, largest + 1);
            let sent = stage.within(stage.output.send(&too_large));
            assert!(matches!(sent, Err(SendError::TooLong)), "{sent:?}");
            drop(too_large);
            for (number, size) in (0..).zip([1, largest, 70_000, largest]) {
                let sent = picture(number, size);
                let Stage { peers, input, output, .. } = &mut stage;
                // At once, since no socket holds so much.
                let passing = async { tokio::join!(output.send(&sent), input.recv()) };
                let soon = async { tokio::time::timeout(SOON, passing).await };
                let (taken, got) = peers.block_on(soon).expect("a message passes");
                taken.unwrap();
                assert!(got.unwrap() == sent, "{size} bytes {policy:?} {way:?}");
            }
            assert_eq!(stage.daemon.settled(stage.link, 4).dropped, 0);
        }
    }
}

#[test]
fn a_byte_payload_shares_the_memory_that_it_was_read_into() {
    for way in WAYS {
        let mut stage = Stage::<Picture>::new(way, (Policy::Block, 4), 4);
        for number in 0..20 {
            let sent = picture(number, 300_000);
            stage.send(std::slice::from_ref(&sent));
            let Stage { peers, input, .. } = &mut stage;
            let soon = async { tokio::time::timeout(SOON, input.recv_raw()).await };
            let raw = peers.block_on(soon).expect("a message comes").message;
            assert_eq!(raw.payload(), &postcard::to_stdvec(&sent).unwrap());
            let got = raw.decode().unwrap();
            assert_eq!(got, sent);
            let whole = raw.payload().as_ptr_range();
            assert!(whole.contains(&got.pixels.as_ptr()), "it was copied");
            // It stays when the rest is gone.
            let pixels = got.pixels;
            drop(raw);
            assert!(pixels.iter().all(|byte| *byte == number as u8));
        }
    }
}

#[test]
fn what_is_not_decoded_is_acknowledged_all_the_same() {
    let mut stage = Stage::<Picture>::new(WAYS[0], (Policy::Block, 2), 1);
    for number in 0..50 {
        stage.send(&[picture(number, 10)]);
        let Stage { peers, input, .. } = &mut stage;
        let soon = async { tokio::time::timeout(SOON, input.recv_raw()).await };
        let envelope = peers.block_on(soon).expect("a message comes");
        assert_eq!(envelope.number, Some(number.into()));
        assert_eq!(envelope.message.form(), 0);
        assert!(envelope.arrived.elapsed() < SOON + Duration::from_secs(60));
    }
    assert!(stage.input.try_recv_raw().is_none());
}
