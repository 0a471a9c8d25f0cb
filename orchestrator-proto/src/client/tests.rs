//! Against a daemon that says what each test wants.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::control::{
    ClientFrame, ClientHello, Event, EventKind, LogQuery, MAGIC, PROTOCOL, Selector, ServerFrame,
    ServerHello, TapFilter, decode_client_frame,
};
use crate::error::{ErrorCode, WireError};
use crate::frame::{self, MAX_CONTROL};
use crate::id::{InstanceId, LinkId};

const DEADLINE: Duration = Duration::from_secs(60);

struct Place {
    _dir: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    Place { _dir: dir, path, listener }
}

struct Peer(UnixStream);

impl Peer {
    async fn body(&mut self) -> Option<Vec<u8>> {
        let length = self.0.read_u32_le().await.ok()?;
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).await.ok()?;
        Some(body)
    }

    async fn next(&mut self) -> Option<ClientFrame> {
        Some(decode_client_frame(&self.body().await?).unwrap())
    }

    async fn request(&mut self) -> (u64, Request) {
        let frame = self.next().await.unwrap();
        match frame.body {
            ClientBody::Request(request) => (frame.id, request),
            other => panic!("{other:?} is no request"),
        }
    }

    async fn raw(&mut self, body: &impl serde::Serialize) {
        let bytes = frame::encode(body, MAX_CONTROL).unwrap();
        self.0.write_all(&bytes).await.unwrap();
    }

    async fn say(&mut self, id: u64, body: ServerBody) {
        self.raw(&ServerFrame { id, body }).await;
    }
}

fn server_hello() -> ServerHello {
    ServerHello { magic: MAGIC, protocol: PROTOCOL, server: "1.2.3".into(), refused: None }
}

/// The result of connecting to a server that answers with this hello.
async fn connect_to(hello: ServerHello) -> Result<Client, ClientError> {
    let place = place();
    let server = async {
        let mut peer = Peer(place.listener.accept().await.unwrap().0);
        let ours: ClientHello = postcard::from_bytes(&peer.body().await.unwrap()).unwrap();
        assert_eq!((ours.magic, ours.protocol), (MAGIC, PROTOCOL));
        peer.raw(&hello).await;
        peer
    };
    tokio::join!(Client::connect(&place.path), server).0
}

/// Runs both sides to their end.
async fn talk<C, S, T>(client: impl FnOnce(Client) -> C, server: impl FnOnce(Peer) -> S) -> T
where
    C: Future<Output = T>,
    S: Future<Output = ()>,
{
    let place = place();
    let client = async { client(Client::connect(&place.path).await.unwrap()).await };
    let server = async {
        let mut peer = Peer(place.listener.accept().await.unwrap().0);
        peer.body().await.unwrap();
        peer.raw(&server_hello()).await;
        server(peer).await;
    };
    let both = async { tokio::join!(client, server).0 };
    timeout(DEADLINE, both).await.unwrap()
}

fn remove(link: u64) -> Request {
    Request::LinkRemove { link: LinkId(link) }
}

fn removed(link: u64) -> Reply {
    Reply::LinkRemoved { id: LinkId(link), discarded: 0 }
}

fn event(seq: u64) -> Item {
    Item::Event(Event { seq, time_ms: 0, instance: None, name: None, kind: EventKind::Stopped })
}

fn tap() -> Request {
    Request::LinkTap(TapFilter::default())
}

fn upload_spec(size: u64) -> RuntimeSpec {
    RuntimeSpec {
        program: Program::Upload { file_name: "p".into(), size },
        ..RuntimeSpec::new("/p")
    }
}

#[tokio::test]
async fn replies_in_another_order_find_their_requests() {
    let ask = |client: Client| async move {
        assert_eq!(client.server_version(), "1.2.3");
        let (a, b, c) = tokio::join!(
            client.request(remove(1)),
            client.request(remove(2)),
            client.request(remove(3)),
        );
        [a.unwrap(), b.unwrap(), c.unwrap()]
    };
    let answer = |mut peer: Peer| async move {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(peer.request().await);
        }
        for (id, request) in all.into_iter().rev() {
            let Request::LinkRemove { link } = request else { panic!() };
            peer.say(id, ServerBody::Reply(removed(link.0))).await;
        }
    };
    assert_eq!(talk(ask, answer).await, [removed(1), removed(2), removed(3)]);
}

#[tokio::test]
async fn each_reason_not_to_connect_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Client::connect(&dir.path().join("none")).await;
    assert!(matches!(nowhere, Err(ClientError::NotReachable { .. })));

    let refused = connect_to(ServerHello { refused: Some("full".into()), ..server_hello() });
    assert!(matches!(refused.await, Err(ClientError::Refused(why)) if why == "full"));

    for (protocol, upgrade) in [(PROTOCOL + 1, "this client"), (0, "the orchestrator")] {
        let other = connect_to(ServerHello {
            protocol,
            refused: Some("another version".into()),
            ..server_hello()
        });
        let Err(ClientError::VersionMismatch { sentence }) = other.await else { panic!() };
        assert!(sentence.ends_with(&format!("upgrade {upgrade}")), "{sentence}");
    }

    let stranger = connect_to(ServerHello { magic: *b"HTTP", ..server_hello() });
    assert!(matches!(stranger.await, Err(ClientError::Protocol(_))));
}

#[tokio::test]
async fn a_failed_request_carries_the_daemons_error() {
    let error = WireError::new(ErrorCode::NotFound, "no such link");
    let told = error.clone();
    let result = talk(
        |client| async move { client.request(remove(1)).await },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            peer.say(id, ServerBody::Error(told)).await;
        },
    )
    .await;
    assert_eq!(result.as_ref().unwrap_err().code(), Some(ErrorCode::NotFound));
    assert!(matches!(result, Err(ClientError::Failed(e)) if e == error));
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_and_a_finished_one_is_not() {
    talk(
        |client| async move {
            let mut dropped = client.stream(tap()).await.unwrap();
            assert_eq!(dropped.next().await.unwrap().unwrap(), event(1));
            drop(dropped);
            let mut finished = client.stream(tap()).await.unwrap();
            assert!(finished.next().await.is_none());
            assert!(finished.next().await.is_none());
            drop(finished);
            assert_eq!(client.request(remove(1)).await.unwrap(), removed(1));
        },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            peer.say(id, ServerBody::Item(event(1))).await;
            let cancel = ClientBody::Cancel;
            // The second stream may be asked for before the cancel is written.
            let mut frames = [peer.next().await.unwrap(), peer.next().await.unwrap()];
            frames.sort_by_key(|frame| frame.id);
            let [first, second] = frames;
            assert_eq!(first, ClientFrame { id, body: cancel });
            peer.say(second.id, ServerBody::End).await;
            let (id, _) = peer.request().await;
            peer.say(id, ServerBody::Reply(removed(1))).await;
            assert!(peer.next().await.is_none());
        },
    )
    .await;
}

#[tokio::test]
async fn a_dropped_request_is_cancelled_after_it_was_sent() {
    talk(
        |client| async move {
            tokio::select! {
                biased;
                _ = client.request(remove(1)) => panic!("nobody answered"),
                () = tokio::task::yield_now() => {}
            }
            let _ = client.request(remove(2)).await;
        },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            let mut rest = [peer.next().await.unwrap(), peer.next().await.unwrap()];
            rest.sort_by_key(|frame| frame.id);
            assert_eq!((rest[0].id, &rest[0].body), (id, &ClientBody::Cancel));
        },
    )
    .await;
}

#[tokio::test]
async fn an_upload_arrives_in_chunks_with_its_check_sum() {
    let program: Vec<u8> = (0..MAX_CHUNK * 2 + 5).map(|i| (i % 251) as u8).collect();
    let size = program.len() as u64;
    let expected = program.clone();
    let mut told = Vec::new();
    let reply = talk(
        |client| {
            let told = &mut told;
            async move {
                let spec = upload_spec(size);
                let longer = [program.as_slice(), b"grown meanwhile"].concat();
                client.upload(spec, &longer[..], |sent| told.push(sent)).await
            }
        },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            let mut received = Vec::new();
            let sum = loop {
                let frame = peer.next().await.unwrap();
                assert_eq!(frame.id, id);
                match frame.body {
                    ClientBody::Chunk(chunk) => {
                        assert!(chunk.len() <= MAX_CHUNK);
                        received.extend(chunk);
                    }
                    ClientBody::ChunksEnd { sha256 } => break sha256,
                    other => panic!("{other:?}"),
                }
            };
            assert!(received == expected);
            assert_eq!(sum[..], Sha256::digest(&expected)[..]);
            let id_of_instance = InstanceId::from_bytes([7; 16]);
            let added = Reply::Added { id: id_of_instance, warnings: Vec::new() };
            peer.say(id, ServerBody::Reply(added)).await;
        },
    )
    .await;
    assert!(matches!(reply, Ok(Reply::Added { .. })));
    let chunk = MAX_CHUNK as u64;
    assert_eq!(told, [chunk, 2 * chunk, size]);
}

#[tokio::test]
async fn an_upload_ends_with_an_early_error() {
    let result = talk(
        |client| async move {
            let endless = tokio::io::repeat(0);
            client.upload(upload_spec(1 << 40), endless, |_| {}).await
        },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            let error = WireError::new(ErrorCode::LimitReached, "too large");
            peer.say(id, ServerBody::Error(error)).await;
            // Reads no more: the answer must be heard although the socket is full.
            std::mem::forget(peer);
        },
    )
    .await;
    assert_eq!(result.unwrap_err().code(), Some(ErrorCode::LimitReached));
}

#[tokio::test]
async fn a_program_shorter_than_announced_cancels_the_upload() {
    let result = talk(
        |client| async move { client.upload(upload_spec(10), &b"short"[..], |_| {}).await },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            let body = ClientBody::Chunk(b"short".to_vec());
            assert_eq!(peer.next().await, Some(ClientFrame { id, body }));
            let body = ClientBody::Cancel;
            assert_eq!(peer.next().await, Some(ClientFrame { id, body }));
        },
    )
    .await;
    assert!(matches!(result, Err(ClientError::Upload(_))));
}

#[tokio::test]
async fn a_lost_connection_ends_everything() {
    talk(
        |client| async move {
            let mut stream = client.stream(tap()).await.unwrap();
            let (request, item) = tokio::join!(client.request(remove(1)), stream.next());
            assert!(matches!(request, Err(ClientError::Lost(_))));
            assert!(matches!(item, Some(Err(ClientError::Lost(_)))));
            assert!(stream.next().await.is_none());
            let later = client.request(remove(1)).await;
            assert!(matches!(later, Err(ClientError::Lost(_))));
        },
        |mut peer| async move {
            peer.request().await;
            peer.request().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection_with_a_reason() {
    let result = talk(
        |client| async move { client.request(remove(1)).await },
        |mut peer| async move {
            peer.request().await;
            peer.0.write_all(&[0xff; 8]).await.unwrap();
        },
    )
    .await;
    assert!(matches!(result, Err(ClientError::Protocol(why)) if why.contains("4294967295")));
}

#[tokio::test]
async fn an_answer_that_is_not_understood_fails_one_request_only() {
    talk(
        |client| async move {
            let (strange, good) =
                tokio::join!(client.request(remove(1)), client.request(remove(2)));
            assert!(matches!(strange, Err(ClientError::Protocol(_))));
            assert_eq!(good.unwrap(), removed(2));
        },
        |mut peer| async move {
            let (first, _) = peer.request().await;
            let (second, _) = peer.request().await;
            // A kind of answer that this version does not know.
            peer.raw(&(first, 99_u32)).await;
            peer.say(second, ServerBody::Reply(removed(2))).await;
        },
    )
    .await;
}

#[tokio::test]
async fn an_error_of_the_connection_is_told_to_all() {
    let result = talk(
        |client| async move { client.request(remove(1)).await },
        |mut peer| async move {
            peer.request().await;
            let error = WireError::new(ErrorCode::TooSlow, "you did not read");
            peer.say(0, ServerBody::Error(error)).await;
        },
    )
    .await;
    assert!(matches!(result, Err(ClientError::Lost(why)) if why == "you did not read"));
}

#[tokio::test]
async fn a_slow_consumer_loses_nothing_and_holds_its_connection_back() {
    const ITEMS: u64 = 4 * STREAM_QUEUE as u64;
    talk(
        |client| async move {
            let mut read = client.stream(tap()).await.unwrap();
            let mut dropped = client.stream(tap()).await.unwrap();
            for seq in 0..ITEMS {
                assert_eq!(read.next().await.unwrap().unwrap(), event(seq));
            }
            // The other stream's queue is full now, and the reply is behind its items.
            let reply = client.request(remove(1));
            let mut reply = std::pin::pin!(reply);
            assert_eq!(dropped.next().await.unwrap().unwrap(), event(0));
            tokio::select! {
                biased;
                _ = &mut reply => panic!("the reader did not wait"),
                () = tokio::task::yield_now() => {}
            }
            drop(dropped);
            assert_eq!(reply.await.unwrap(), removed(1));
        },
        |mut peer| async move {
            let (first, _) = peer.request().await;
            let (second, _) = peer.request().await;
            for seq in 0..ITEMS {
                peer.say(first, ServerBody::Item(event(seq))).await;
            }
            for seq in 0..ITEMS {
                peer.say(second, ServerBody::Item(event(seq))).await;
            }
            let (third, _) = peer.request().await;
            peer.say(third, ServerBody::Reply(removed(1))).await;
            // The client's cancel, and then its end.
            while peer.next().await.is_some() {}
        },
    )
    .await;
}

#[tokio::test]
async fn a_stream_outlives_its_client() {
    talk(
        |client| async move {
            let query = LogQuery {
                instance: Selector("a".into()),
                stream: None,
                tail: None,
                since_ns: None,
                follow: true,
            };
            let mut stream = client.stream(Request::Logs(query)).await.unwrap();
            drop(client);
            assert_eq!(stream.next().await.unwrap().unwrap(), event(1));
        },
        |mut peer| async move {
            let (id, _) = peer.request().await;
            peer.say(id, ServerBody::Item(event(1))).await;
            assert_eq!(peer.next().await.unwrap().body, ClientBody::Cancel);
        },
    )
    .await;
}
