//! How connections end, and what comes after.

use super::*;

#[tokio::test]
async fn after_a_loss_everything_is_declared_again() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Number>().unwrap();
        let mut input = runtime.input::<Number>().unwrap();
        drop(runtime.input::<Text>().unwrap());
        peer.grant(0, UNLIMITED).await;
        peer.message(1, 1).await;
        assert_eq!(input.recv().await, Ok(Number { value: 1 }));
        peer.message(1, 2).await;
        peer.expect_declare(0, Number::NAME, 0).await;

        // A sender that waits for the kernel and a request under way learn of the loss.
        let message = Number { value: 7 };
        while output.try_send(&message).is_ok() {}
        let mut sending = pin!(output.send(&message));
        assert!(!done_now(sending.as_mut()).await);
        let mut listing = pin!(runtime.list());
        assert!(!done_now(listing.as_mut()).await);
        drop(peer);
        assert!(matches!(sending.await, Err(SendError::Disconnected)));
        assert!(matches!(listing.await, Err(RequestError::Disconnected)));
        assert!(matches!(output.try_send(&message), Err(SendError::Disconnected)));
        assert!(matches!(runtime.stop("x").await, Err(RequestError::Disconnected)));
        // What had arrived is still there.
        assert_eq!(input.recv().await, Ok(Number { value: 2 }));

        let receiving = async {
            assert_eq!(input.recv().await, Ok(Number { value: 3 }));
        };
        let serving = async {
            let mut peer = daemon.welcome().await;
            peer.expect_declare(0, Number::NAME, 0).await;
            peer.expect_stamps(1).await;
            let recognise = peer.body().await.unwrap();
            assert_eq!(postcard::from_bytes(&recognise), Ok(Frame::Recognise { channel: 1 }));
            // One message was not yet reported as consumed when this was written, or it was.
            let body = peer.body().await.unwrap();
            let Frame::Declare(declare) = postcard::from_bytes(&body).unwrap() else {
                panic!("no declaration");
            };
            assert_eq!((declare.channel, declare.direction), (1, Direction::Input));
            assert!((1022..=1024).contains(&declare.window), "{declare:?}");
            peer.message(1, 3).await;
            peer
        };
        let ((), mut peer) = tokio::join!(receiving, serving);
        runtime.connected().await;
        // The limit of the last connection is gone.
        output.send(&message).await.unwrap();
        assert_eq!(peer.expect_number(0).await, 7);
    })
    .await;
}

#[tokio::test]
async fn garbage_breaks_one_connection_and_nothing_else() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Number>().unwrap();
        let (unknown, wrong_way): (&[u8], &[u8]) = (&[3, 0, 0, 0, 0xff, 1, 2], &[0; 8]);
        for garbage in [unknown, wrong_way, &[0xff; 4]] {
            peer.stream.write_all(garbage).await.unwrap();
            while peer.body().await.is_some() {}

            peer = daemon.welcome().await;
            runtime.connected().await;

            let error = runtime.last_error().unwrap();
            assert!(error.contains("broke the protocol"), "{error}");
        }
        peer.expect_declare(0, Number::NAME, 0).await;
        output.send(&Number { value: 1 }).await.unwrap();
        assert_eq!(peer.expect_number(0).await, 1);

        let error = WireError::new(ErrorCode::SchemaMismatch, "they differ");
        peer.send(&Frame::Refused(error)).await;
        drop(peer);
        until_disconnected(&runtime).await;
        assert_eq!(runtime.last_error().as_deref(), Some("the daemon refused: they differ"));
    })
    .await;
}

#[tokio::test]
async fn more_than_granted_breaks_the_connection() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let _input = runtime.input_with_window::<Number>(NonZeroU32::MIN).unwrap();
        peer.message(0, 1).await;
        peer.message(0, 2).await;
        until_disconnected(&runtime).await;
        let error = runtime.last_error().unwrap();
        assert!(error.contains("more messages on 0 than granted"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn dropping_all_handles_closes_the_connection() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Number>().unwrap();
        drop(runtime);
        output.send(&Number { value: 1 }).await.unwrap();
        peer.expect_declare(0, Number::NAME, 0).await;
        assert_eq!(peer.expect_number(0).await, 1);
        drop(output);
        assert!(peer.body().await.is_none());
    })
    .await;
}
