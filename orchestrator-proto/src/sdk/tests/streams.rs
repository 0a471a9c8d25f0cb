//! Inputs as streams, outputs as sinks.

use futures_util::{FutureExt, SinkExt, StreamExt, stream};

use super::*;

fn number(value: u32) -> Number {
    Number { value }
}

#[tokio::test]
async fn an_input_is_a_stream() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut input = runtime.input::<Number>().unwrap();
        assert!(input.next().now_or_never().is_none());
        peer.expect_declare(0, Number::NAME, 1024).await;
        peer.message(0, 1).await;
        peer.send(&Frame::Message { channel: 0, payload: &[0xff; 9] }).await;
        peer.message(0, 2).await;
        assert_eq!(input.next().await, Some(Ok(number(1))));
        assert!(matches!(input.next().await, Some(Err(RecvError::BadPayload { .. }))));
        assert_eq!(input.next().await, Some(Ok(number(2))), "one error is not the end");

        // A `next()` that is dropped while it waits has taken nothing, and nobody waits in vain after
        // it.
        for value in 3..50 {
            {
                let mut next = pin!(input.next());
                assert!(!done_now(next.as_mut()).await);
            }
            peer.message(0, value).await;
            assert_eq!(input.next().await, Some(Ok(number(value))));
        }
        for value in 0..900 {
            peer.message(0, value).await;
        }
        let received = input.by_ref().take(900).map(|next| next.unwrap().value);
        assert_eq!(received.collect::<Vec<_>>().await, (0..900).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn an_output_is_a_sink_that_sends_when_it_is_flushed() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut output = runtime.output::<Number>().unwrap();
        peer.expect_declare(0, Number::NAME, 0).await;
        peer.grant(0, UNLIMITED).await;
        output.feed(number(2)).await.unwrap();
        output.feed(number(3)).await.unwrap();
        output.send(&number(1)).await.unwrap();
        output.flush().await.unwrap();
        SinkExt::send(&mut output, number(4)).await.unwrap();
        for value in 1..5 {
            assert_eq!(peer.expect_number(0).await, value);
        }

        // More than one batch goes without a flush, and with its end.
        let count = 20_000;
        let forwarding = stream::iter(0..count).map(|value| Ok(number(value))).forward(output);
        let reading = async {
            for value in 0..count {
                assert_eq!(peer.expect_number(0).await, value);
            }
        };
        let (forwarded, ()) = tokio::join!(forwarding, reading);
        forwarded.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_sink_waits_for_grants_and_sends_nothing_twice_whoever_gives_up() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut output = runtime.output::<Number>().unwrap();
        let mut input = runtime.input::<Number>().unwrap();
        peer.expect_declare(0, Number::NAME, 0).await;
        peer.expect_declare(1, Number::NAME, 1024).await;
        for granted in 0..20 {
            peer.grant(0, u64::from(granted)).await;
            // Frames are handled in their order: when this has arrived, so has the grant.
            peer.message(1, 0).await;
            input.recv().await.unwrap();
            let mut sending = pin!(SinkExt::send(&mut output, number(granted)));
            // Dropped while it waits for more; what it fed stays, and goes with the next.
            assert!(!done_now(sending.as_mut()).await);
        }
        let mut flushing = pin!(output.flush());
        assert!(!done_now(flushing.as_mut()).await);
        peer.grant(0, 20).await;
        flushing.await.unwrap();
        for value in 0..20 {
            assert_eq!(peer.expect_number(0).await, value);
        }
    })
    .await;
}

#[tokio::test]
async fn a_sink_without_a_connection_fails_and_can_be_used_again() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut output = runtime.output::<Number>().unwrap();
        peer.expect_declare(0, Number::NAME, 0).await;
        peer.grant(0, UNLIMITED).await;
        drop(peer);
        until_disconnected(&runtime).await;
        output.feed(number(1)).await.unwrap();
        assert!(matches!(output.flush().await, Err(SendError::Disconnected)));
        output.flush().await.unwrap();

        let mut peer = daemon.welcome().await;
        peer.expect_declare(0, Number::NAME, 0).await;
        runtime.connected().await;
        SinkExt::send(&mut output, number(2)).await.unwrap();
        assert_eq!(peer.expect_number(0).await, 2, "what failed is not sent later");
    })
    .await;
}

#[tokio::test]
async fn what_a_block_link_takes_waits_in_a_sink_for_the_next_connection() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut output = runtime.output::<Number>().unwrap();
        let mut input = runtime.input::<Number>().unwrap();
        peer.expect_declare(0, Number::NAME, 0).await;
        peer.grant(0, 1).await;
        peer.message(1, 0).await;
        input.recv().await.unwrap();
        output.feed(number(1)).await.unwrap();
        output.feed(number(2)).await.unwrap();
        {
            let mut flushing = pin!(output.flush());
            assert!(!done_now(flushing.as_mut()).await);
            drop(peer);
            let mut peer = daemon.welcome().await;
            assert!(!done_now(flushing.as_mut()).await);
            let keep = peer.body().await.unwrap();
            let Frame::Keep { next: 0, again: 1, .. } = postcard::from_bytes(&keep).unwrap() else {
                panic!("{keep:?}");
            };
            peer.grant(0, 100).await;
            flushing.await.unwrap();
        }
        runtime.connected().await;
    })
    .await;
}

#[test]
fn handles_can_be_shared_and_sent() {
    fn shared<T: Send + Sync + Unpin>() {}
    shared::<Output<Number>>();
    shared::<Input<Number>>();
    shared::<Runtime>();
}
