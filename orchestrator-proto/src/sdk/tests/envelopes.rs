//! What is known of a message beside its content.

use std::time::{Instant, SystemTime};

use super::*;
use crate::runtime::Sender;

const OTHER: InstanceId = InstanceId::from_bytes([9; 16]);

fn sender(instance: InstanceId, epoch: u64) -> Sender {
    Sender { epoch, instance, anybody: false }
}

impl Peer {
    async fn turn_to(&mut self, channel: u16, sender: Option<Sender>, next: u64) {
        self.send(&Frame::From { channel, sender, next, kept: false }).await;
    }
}

type Brief = (u32, Option<InstanceId>, Option<u64>, Option<u64>);

async fn brief(input: &mut Input<Number>) -> Brief {
    let Envelope { message, sender, number, missed, .. } = input.recv_envelope().await.unwrap();
    (message.value, sender, number, missed)
}

#[tokio::test]
async fn an_envelope_tells_the_sender_and_what_was_missed() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut input = runtime.input::<Number>().unwrap();
        peer.message(0, 0).await;
        peer.turn_to(0, Some(sender(OTHER, 1)), 40).await;
        peer.message(0, 40).await;
        peer.message(0, 41).await;
        peer.send(&Frame::Skip { channel: 0, count: 7 }).await;
        peer.message(0, 49).await;
        peer.turn_to(0, Some(sender(INSTANCE, 2)), 3).await;
        peer.message(0, 3).await;
        peer.turn_to(0, Some(sender(OTHER, 1)), 60).await;
        peer.message(0, 60).await;
        peer.turn_to(0, None, 0).await;
        peer.message(0, 0).await;

        assert_eq!(brief(&mut input).await, (0, None, None, None));
        assert_eq!(brief(&mut input).await, (40, Some(OTHER), Some(40), None), "the first of all");
        assert_eq!(brief(&mut input).await, (41, Some(OTHER), Some(41), Some(0)));
        assert_eq!(brief(&mut input).await, (49, Some(OTHER), Some(49), Some(7)));
        assert_eq!(input.missed(), 7);
        assert_eq!(brief(&mut input).await, (3, Some(INSTANCE), Some(3), None));
        assert_eq!(input.recv().await, Ok(Number { value: 60 }));
        assert_eq!(input.missed(), 17, "counted without an envelope too");
        assert_eq!(brief(&mut input).await, (0, None, None, None));
    })
    .await;
}

#[tokio::test]
async fn what_a_message_missed_that_is_none_is_counted() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut input = runtime.input::<Number>().unwrap();
        peer.turn_to(0, Some(sender(OTHER, 1)), 0).await;
        peer.message(0, 0).await;
        peer.send(&Frame::Skip { channel: 0, count: 5 }).await;
        peer.send(&Frame::Message { channel: 0, payload: &[0xff; 9] }).await;
        peer.message(0, 7).await;
        assert_eq!(brief(&mut input).await.3, None);
        assert!(input.recv_envelope().await.is_err());
        assert_eq!(brief(&mut input).await, (7, Some(OTHER), Some(7), Some(0)));
        assert_eq!(input.missed(), 5);
    })
    .await;
}

#[tokio::test]
async fn an_arrival_is_stamped_when_it_is_read_and_not_when_it_is_received() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut first = runtime.input::<Number>().unwrap();
        let mut last = runtime.input::<Text>().unwrap();
        let (before, clock_before) = (Instant::now(), SystemTime::now());
        peer.message(0, 1).await;
        let text = postcard::to_stdvec("").unwrap();
        peer.send(&Frame::Message { channel: 1, payload: &text }).await;
        // Frames are handled in their order: when this has arrived, so has the other.
        last.recv().await.unwrap();
        let after = Instant::now();
        let envelope = first.try_recv_envelope().unwrap().unwrap();
        assert!(before <= envelope.arrived && envelope.arrived <= after);
        assert!(clock_before <= envelope.arrived_at && envelope.arrived_at <= SystemTime::now());
        assert_eq!(envelope.map(|number| number.value).message, 1);
        assert_eq!(first.try_recv_envelope(), Ok(None));
    })
    .await;
}
