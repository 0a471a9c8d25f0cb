//! What is sent again, recognised and acknowledged.

use super::*;
use crate::runtime::Sender;

impl Peer {
    /// The next frame, which must be of an expected kind.
    async fn expect<T>(&mut self, with: impl FnOnce(Frame<'_>) -> Option<T>) -> T {
        let body = self.body().await.unwrap();
        with(postcard::from_bytes(&body).unwrap()).unwrap_or_else(|| panic!("{body:?}"))
    }

    /// The beginning of an output: its epoch, the first number, how many come again.
    async fn expect_keep(&mut self) -> (u64, u64, u64) {
        let keep = self
            .expect(|frame| match frame {
                Frame::Keep { epoch, next, again, .. } => Some((epoch, next, again)),
                _ => None,
            })
            .await;
        self.expect(|frame| matches!(frame, Frame::Declare(_)).then_some(())).await;
        self.expect(|frame| matches!(frame, Frame::Report { .. }).then_some(())).await;
        keep
    }

    async fn from(&mut self, sender: Sender, next: u64) {
        self.send(&Frame::From { channel: 0, sender: Some(sender), next, kept: true }).await;
    }

    async fn expect_acknowledge(&mut self) -> u64 {
        self.expect(|frame| match frame {
            Frame::Acknowledge { channel: 0, total } => Some(total),
            _ => None,
        })
        .await
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_before_anything_new() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Number>().unwrap();
        let mut input = runtime.input::<Number>().unwrap();
        let (epoch, next, again) = peer.expect_keep().await;
        assert_eq!((next, again), (0, 0));
        peer.expect_declare(1, Number::NAME, 1024).await;
        peer.grant(0, 10).await;
        let mut heard = async |peer: &mut Peer| {
            // Frames are handled in their order: when this has arrived, so has all before it.
            peer.message(1, 0).await;
            input.recv().await.unwrap();
        };
        heard(&mut peer).await;
        let many = (0..10).map(|value| Number { value }).collect::<Vec<_>>();
        assert_eq!(output.send_many(&many).await.unwrap(), 10);
        for value in 0..10 {
            assert_eq!(peer.expect_number(0).await, value);
        }
        // The daemon dies while a sender waits for room, and that is all the sender notices.
        peer.send(&Frame::Acknowledge { channel: 0, total: 4 }).await;
        heard(&mut peer).await;
        let last = Number { value: 10 };
        let mut sending = pin!(output.send(&last));
        assert!(!done_now(sending.as_mut()).await);
        drop(peer);
        let serving = async {
            let mut peer = daemon.welcome().await;
            assert_eq!(peer.expect_keep().await, (epoch, 4, 6));
            peer.expect_declare(1, Number::NAME, 1023).await;
            peer.grant(0, 2).await;
            assert_eq!(peer.expect_number(0).await, 4);
            assert_eq!(peer.expect_number(0).await, 5);
            peer.grant(0, 7).await;
            for value in 6..=10 {
                assert_eq!(peer.expect_number(0).await, value);
            }
            peer
        };
        let (sent, mut peer) = tokio::join!(sending, serving);
        sent.unwrap();
        assert!(full(output.try_send(&last)));
        // No limit: nobody acknowledges, nothing is kept.
        peer.grant(0, UNLIMITED).await;
        heard(&mut peer).await;
        output.send(&Number { value: 11 }).await.unwrap();
        assert_eq!(peer.expect_number(0).await, 11);
        drop(peer);
        until_disconnected(&runtime).await;
        let sent = output.send(&last).await;
        assert!(matches!(sent, Err(SendError::Disconnected)));
        let mut peer = daemon.welcome().await;
        assert_eq!(peer.expect_keep().await, (epoch, 12, 0));
    })
    .await;
}

#[tokio::test]
async fn an_input_passes_over_what_it_has_had_and_acknowledges_what_is_done() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut input = runtime.input::<Number>().unwrap();
        peer.expect_declare(0, Number::NAME, 1024).await;
        let sender = Sender { instance: INSTANCE, epoch: 5, anybody: false };
        peer.from(sender, 100).await;
        for value in 0..3 {
            peer.message(0, value).await;
        }
        peer.send(&Frame::Skip { channel: 0, count: 2 }).await;
        peer.message(0, 5).await;
        for value in [0, 1, 2, 5] {
            assert_eq!(input.recv().await, Ok(Number { value }));
        }
        assert_eq!(input.try_recv(), Ok(None));
        assert_eq!(peer.expect_acknowledge().await, 4);
        // One more, in its memory only when the daemon dies.
        peer.message(0, 6).await;
        drop(peer);
        until_disconnected(&runtime).await;

        let mut peer = daemon.welcome().await;
        peer.expect_declare(0, Number::NAME, 1023).await;
        let place = peer
            .expect(|frame| match frame {
                Frame::From { channel: 0, sender: Some(sender), next, .. } => Some((sender, next)),
                _ => None,
            })
            .await;
        assert_eq!(place, (sender, 107));
        // It comes again, and more behind it; another sender and one without numbers between.
        peer.from(sender, 105).await;
        for value in [5, 6, 7] {
            peer.message(0, value).await;
        }
        peer.from(Sender { epoch: 6, ..sender }, 105).await;
        peer.message(0, 8).await;
        peer.send(&Frame::From { channel: 0, sender: None, next: 0, kept: false }).await;
        peer.message(0, 9).await;
        for value in [6, 7, 8, 9] {
            assert_eq!(input.recv().await, Ok(Number { value }));
        }
        assert_eq!(input.try_recv(), Ok(None));
        let mut total = 0;
        while total < 5 {
            total = peer.expect_acknowledge().await;
        }
        assert_eq!(total, 5, "also those that it had before");
        // Nothing but duplicates.
        peer.from(sender, 105).await;
        peer.message(0, 5).await;
        assert_eq!(peer.expect_acknowledge().await, 6);
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_breaks_the_rules_is_left() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let _input = runtime.input::<Number>().unwrap();
        let _output = runtime.output::<Number>().unwrap();
        let wrong = [
            Frame::Acknowledge { channel: 1, total: 1 },
            Frame::Acknowledge { channel: 0, total: 0 },
            Frame::From { channel: 1, sender: None, next: 0, kept: false },
            Frame::Skip { channel: 0, count: 1 },
        ];
        for frame in wrong {
            peer.send(&frame).await;
            while peer.body().await.is_some() {}
            peer = daemon.welcome().await;
            runtime.connected().await;
            let error = runtime.last_error().unwrap();
            assert!(error.contains("broke the protocol"), "{error}");
        }
    })
    .await;
}
