//! The SDK against a daemon that the test plays itself.

mod envelopes;
mod forms;
mod losses;
mod resending;
mod streams;

use std::future::Future;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::control::Priority;
use crate::frame::{self, MAX_RUNTIME, PREFIX};
use crate::runtime::{
    Declare, Direction, Frame, MAGIC, PROTOCOL, RuntimeReply, RuntimeRequest, UNLIMITED,
};
use crate::{ErrorCode, TypeSchema, WireError};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug, Clone)]
#[message(name = "test.number.v1")]
struct Number {
    value: u32,
}

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[message(name = "test.text.v1")]
struct Text(String);

const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);

/// The daemon's side of one connection.
struct Peer {
    stream: UnixStream,
    read: BytesMut,
}

impl Peer {
    async fn body(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(body) = frame::first_body(&self.read, MAX_RUNTIME).unwrap() {
                let length = body.len();
                return Some(self.read.split_to(PREFIX + length).split_off(PREFIX));
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn send(&mut self, frame: &Frame<'_>) {
        let bytes = frame::encode(frame, MAX_RUNTIME).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn message(&mut self, channel: u16, value: u32) {
        let payload = postcard::to_stdvec(&Number { value }).unwrap();
        let payload = &payload[..];
        self.send(&Frame::Message { channel, payload }).await;
    }

    async fn grant(&mut self, channel: u16, total: u64) {
        self.send(&Frame::Grant { channel, total }).await;
    }

    async fn expect_hello(&mut self) {
        let body = self.body().await.unwrap();
        assert!(matches!(
            postcard::from_bytes(&body).unwrap(),
            Frame::Hello { magic: MAGIC, protocol: PROTOCOL, .. }
        ));
    }

    /// It can take lanes.
    async fn expect_lanes(&mut self) {
        let body = self.body().await.unwrap();
        assert_eq!(postcard::from_bytes(&body), Ok(Frame::Lanes { memory: true }));
    }

    /// The input that follows wants to know when messages were sent.
    async fn expect_stamps(&mut self, channel: u16) {
        let body = self.body().await.unwrap();
        assert_eq!(postcard::from_bytes(&body), Ok(Frame::Stamps { channel, stamped: true }));
    }

    /// An output that keeps what it sends and wants to be told of drops, or an input that recognises
    /// duplicates.
    async fn expect_declare(&mut self, channel: u16, name: &str, window: u32) {
        if window > 0 {
            self.expect_stamps(channel).await;
        }
        let before = self.body().await.unwrap();
        match postcard::from_bytes(&before).unwrap() {
            Frame::Keep { channel: c, .. } if window == 0 => assert_eq!(c, channel),
            Frame::Recognise { channel: c } if window > 0 => assert_eq!(c, channel),
            other => panic!("not before a declaration: {other:?}"),
        }
        let body = self.body().await.unwrap();
        let Frame::Declare(declare) = postcard::from_bytes(&body).unwrap() else {
            panic!("no declaration: {body:?}");
        };
        let schema = TypeSchema::decode(declare.schema).unwrap();
        let direction = match window {
            0 => Direction::Output,
            _ => Direction::Input,
        };
        let expected = Declare {
            channel,
            direction,
            name,
            schema: &schema.encode(),
            hash: Some(schema.hash().0),
            window,
        };
        assert_eq!(declare, expected);
        if window == 0 {
            let report = self.body().await.unwrap();
            assert_eq!(postcard::from_bytes(&report), Ok(Frame::Report { channel }));
        }
    }

    async fn expect_number(&mut self, channel: u16) -> u32 {
        let body = self.body().await.unwrap();
        match postcard::from_bytes(&body).unwrap() {
            Frame::Message { channel: c, payload } if c == channel => {
                postcard::from_bytes::<Number>(payload).unwrap().value
            }
            other => panic!("no message on {channel}: {other:?}"),
        }
    }

    async fn expect_grant(&mut self) -> u64 {
        let body = self.body().await.unwrap();
        match postcard::from_bytes(&body).unwrap() {
            Frame::Grant { total, .. } => total,
            other => panic!("no grant: {other:?}"),
        }
    }

    async fn expect_request(&mut self) -> (u32, RuntimeRequest) {
        let body = self.body().await.unwrap();
        match postcard::from_bytes(&body).unwrap() {
            Frame::Request { id, request } => (id, request),
            other => panic!("no request: {other:?}"),
        }
    }
}

struct Daemon {
    listener: UnixListener,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime.sock");
        Self { listener: UnixListener::bind(&path).unwrap(), path, _dir: dir }
    }

    /// A connection after its hello.
    async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer = Peer { stream, read: BytesMut::new() };
        peer.expect_hello().await;
        peer
    }

    async fn welcome(&self) -> Peer {
        let mut peer = self.accept().await;
        let welcome = Frame::Welcome { protocol: PROTOCOL, server: "test", instance: INSTANCE };
        peer.send(&welcome).await;
        peer.expect_lanes().await;
        peer
    }

    async fn connect(&self) -> (Runtime, Peer) {
        let (runtime, peer) = tokio::join!(Runtime::connect_to(&self.path), self.welcome());
        (runtime.unwrap(), peer)
    }
}

/// No test waits for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it takes too long")
}

/// Polls once; true if it is done.
async fn done_now(future: std::pin::Pin<&mut impl Future>) -> bool {
    tokio::select! {
        biased;
        _ = future => true,
        () = std::future::ready(()) => false,
    }
}

fn full(result: Result<(), SendError>) -> bool {
    matches!(result, Err(SendError::Full))
}

async fn until_disconnected(runtime: &Runtime) {
    let mut connected = runtime.handle.shared.connected.subscribe();
    connected.wait_for(|connected| !connected).await.unwrap();
}

#[tokio::test]
async fn messages_go_both_ways() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        assert_eq!(runtime.instance_id(), INSTANCE);
        assert!(runtime.is_connected());
        let output = runtime.output::<Number>().unwrap();
        let mut input = runtime.input::<Number>().unwrap();
        let mut texts = runtime.input_with_window::<Text>(NonZeroU32::MIN).unwrap();
        peer.expect_declare(0, Number::NAME, 0).await;
        peer.expect_declare(1, Number::NAME, 1024).await;
        peer.expect_declare(2, Text::NAME, 1).await;

        output.send(&Number { value: 1 }).await.unwrap();
        output.try_send(&Number { value: 2 }).unwrap();
        let many = (3..1000).map(|value| Number { value }).collect::<Vec<_>>();
        assert_eq!(output.send_many(&many).await.unwrap(), 997);
        runtime.flush().await.unwrap();
        for value in 1..1000 {
            assert_eq!(peer.expect_number(0).await, value);
        }

        assert_eq!(input.try_recv(), Ok(None));
        peer.message(1, 5).await;
        peer.message(1, 6).await;
        let text = postcard::to_stdvec(&"seven").unwrap();
        let payload = &text[..];
        peer.send(&Frame::Message { channel: 2, payload }).await;
        assert_eq!(texts.recv().await, Ok(Text("seven".into())));
        assert_eq!(input.recv().await, Ok(Number { value: 5 }));
        assert_eq!(input.try_recv(), Ok(Some(Number { value: 6 })));
        assert_eq!(input.try_recv(), Ok(None));
    })
    .await;
}

#[tokio::test]
async fn a_name_is_declared_once_in_each_direction() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, _peer) = daemon.connect().await;
        let _output = runtime.output::<Number>().unwrap();
        let _input = runtime.input::<Number>().unwrap();
        let again = DeclareError::Duplicate(Number::NAME.into());
        assert_eq!(runtime.output::<Number>().unwrap_err(), again);
        assert_eq!(runtime.input::<Number>().unwrap_err(), again);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_an_error_with_the_daemons_sentence() {
    soon(async {
        let daemon = Daemon::new();
        let refuse = async {
            let mut peer = daemon.accept().await;
            let error = WireError::new(ErrorCode::LimitReached, "there are enough connections");
            peer.send(&Frame::Refused(error)).await;
        };
        let (runtime, ()) = tokio::join!(Runtime::connect_to(&daemon.path), refuse);
        let error = runtime.unwrap_err().to_string();
        assert_eq!(error, "the daemon refused: there are enough connections");

        let stranger = async {
            let mut peer = daemon.accept().await;
            peer.stream.write_all(b"HTTP/1.1 400").await.unwrap();
        };
        let (runtime, ()) = tokio::join!(Runtime::connect_to(&daemon.path), stranger);
        assert!(matches!(runtime, Err(ConnectError::Protocol(_))));
    })
    .await;
}

#[tokio::test]
async fn grants_limit_an_output() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Number>().unwrap();
        let mut input = runtime.input::<Number>().unwrap();
        peer.grant(0, 3).await;
        // Frames are handled in their order: when this has arrived, so has the grant.
        peer.message(1, 0).await;
        input.recv().await.unwrap();

        let many = (0..10).map(|value| Number { value }).collect::<Vec<_>>();
        let mut sending = pin!(output.send_many(&many));
        assert!(!done_now(sending.as_mut()).await);
        assert!(full(output.try_send(&Number { value: 99 })));
        peer.expect_declare(0, Number::NAME, 0).await;
        peer.expect_declare(1, Number::NAME, 1024).await;
        for value in 0..3 {
            assert_eq!(peer.expect_number(0).await, value);
        }
        peer.grant(0, 9).await;
        peer.message(1, 0).await;
        input.recv().await.unwrap();
        assert!(!done_now(sending.as_mut()).await);
        peer.grant(0, 10).await;
        assert_eq!(sending.await.unwrap(), 10);

        let last = Number { value: 10 };
        let mut sending = pin!(output.send(&last));
        assert!(!done_now(sending.as_mut()).await);
        peer.grant(0, UNLIMITED).await;
        sending.await.unwrap();
        output.try_send(&last).unwrap();
        for value in (3..11).chain([10]) {
            assert_eq!(peer.expect_number(0).await, value);
        }
    })
    .await;
}

#[tokio::test]
async fn an_input_grants_what_it_has_consumed() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let window = NonZeroU32::new(4).unwrap();
        let mut input = runtime.input_with_window::<Number>(window).unwrap();
        peer.expect_declare(0, Number::NAME, 4).await;
        let (mut granted, mut sent) = (4, 0);
        for round in 1..20 {
            while sent < granted {
                peer.message(0, sent as u32).await;
                sent += 1;
            }
            // Half of the window and the look for the next one.
            for _ in 0..2 {
                input.recv().await.unwrap();
            }
            let _ = input.try_recv().unwrap();
            let total = peer.expect_grant().await;
            assert!(total >= granted + 2, "round {round}");
            granted = total;
        }
    })
    .await;
}

#[tokio::test]
async fn a_bad_payload_is_lost_alone() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut input = runtime.input::<Number>().unwrap();
        for payload in [&[][..], &[1, 1], &[0xff; 5]] {
            peer.send(&Frame::Message { channel: 0, payload }).await;
        }
        peer.message(0, 4).await;
        for _ in 0..3 {
            assert!(matches!(
                input.recv().await,
                Err(RecvError::BadPayload { name: Number::NAME, .. })
            ));
        }
        assert_eq!(input.recv().await, Ok(Number { value: 4 }));
    })
    .await;
}

#[tokio::test]
async fn requests_are_answered_whatever_their_order() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let serving = async {
            let (first, request) = peer.expect_request().await;
            let instance = "worker".to_owned();
            let priority = Some(Priority::Low);
            assert_eq!(request, RuntimeRequest::Start { instance, priority });
            let (second, _) = peer.expect_request().await;
            let (third, request) = peer.expect_request().await;
            assert_eq!(request, RuntimeRequest::List);
            for (id, result) in [
                (third, Ok(RuntimeReply::List(Vec::new()))),
                (second, Err(WireError::new(ErrorCode::NotPermitted, "no"))),
                (999, Ok(RuntimeReply::List(Vec::new()))),
                (first, Ok(RuntimeReply::Started { id: INSTANCE })),
            ] {
                peer.send(&Frame::Reply { id, result }).await;
            }
        };
        let (started, stopped, listed, ()) = tokio::join!(
            runtime.start("worker", Some(Priority::Low)),
            runtime.stop("other"),
            runtime.list(),
            serving,
        );
        assert_eq!(started.unwrap(), INSTANCE);
        assert_eq!(stopped.unwrap_err().to_string(), "no");
        assert!(listed.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_the_kernel_does_not_take_waits_up_to_a_bound() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Text>().unwrap();
        let text = Text("x".repeat(10_000));
        let mut sent = 0;
        while output.try_send(&text).is_ok() {
            sent += 1;
            assert!(sent < 1000, "no bound");
        }
        assert!(sent > 100);
        let mut sending = pin!(output.send(&text));
        assert!(!done_now(sending.as_mut()).await);
        peer.expect_declare(0, Text::NAME, 0).await;
        peer.grant(0, UNLIMITED).await;
        let reading = async {
            for _ in 0..=sent {
                let body = peer.body().await.unwrap();
                let frame = postcard::from_bytes::<Frame<'_>>(&body).unwrap();
                assert!(matches!(frame, Frame::Message { channel: 0, payload } if payload.len() == 10_002));
            }
        };
        let (sent, ()) = tokio::join!(sending, reading);
        sent.unwrap();
        runtime.flush().await.unwrap();
        let huge = Text("x".repeat(crate::runtime::MAX_PAYLOAD));
        assert!(matches!(output.send(&huge).await, Err(SendError::TooLong)));
    })
    .await;
}

#[tokio::test]
async fn the_largest_message_passes() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let output = runtime.output::<Text>().unwrap();
        let mut input = runtime.input::<Text>().unwrap();
        peer.expect_declare(0, Text::NAME, 0).await;
        peer.expect_declare(1, Text::NAME, 1024).await;
        let text = Text("y".repeat(crate::runtime::MAX_PAYLOAD - 4));
        let sending = async {
            output.send(&text).await.unwrap();
            assert_eq!(input.recv().await.as_ref(), Ok(&text));
        };
        let echoing = async {
            let body = peer.body().await.unwrap();
            let Frame::Message { payload, .. } = postcard::from_bytes(&body).unwrap() else {
                panic!("no message");
            };
            peer.send(&Frame::Message { channel: 1, payload }).await;
        };
        tokio::join!(sending, echoing);
    })
    .await;
}
