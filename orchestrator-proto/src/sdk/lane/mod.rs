//! Lanes: messages of one link that go from process to process, without passing the daemon. See
//! [`crate::runtime`].
//!
//! An output has an [`Outgoing`] for each of its lanes, which holds the link's queue; an input an
//! [`Incoming`]. Each has a task that waits for what the other end says. A lane goes on while the
//! daemon is away.

mod claim;
mod conduit;
mod incoming;
mod outgoing;
mod waiting;

use std::io;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::link::Shared;
use crate::LinkId;
use crate::frame::{self, MAX_RUNTIME, PREFIX};
use crate::ring::Told;
use crate::runtime::{Frame, Medium};
use claim::Claimed;
pub(super) use conduit::Inlet;
use conduit::{Obstacle, Outlet};

pub(super) use incoming::Incoming;
pub(super) use outgoing::{Outgoing, Terms};

/// How late the daemon may be told of what has passed.
const TELLING: Duration = Duration::from_millis(100);

/// Fetches a sender's end, and uses it from then on. If that fails the daemon is told that the lane
/// was left.
pub(super) async fn take_out(shared: Weak<Shared>, channel: u16, terms: Terms) {
    let Some(claimed) = fetch(&shared, terms.lane).await else { return };
    let Some(strong) = shared.upgrade() else { return };
    let Ok((outlet, told)) = claimed.and_then(Outlet::open) else {
        return strong.lane_failed(channel, terms.lane);
    };
    drop(strong);
    let kick = Arc::new(Notify::new());
    let feeder =
        Feeder { channel, lane: terms.lane, stream: outlet.stream.clone(), kick: kick.clone() };
    let task = tokio::spawn(feed(shared.clone(), feeder, told)).abort_handle();
    let mut outlet = Some(outlet);
    while let Some(shared) = shared.upgrade() {
        let mut progress = pin!(shared.progress.notified());
        progress.as_mut().enable();
        let new = |first| {
            let outlet = outlet.take()?;
            Some(Outgoing::new(terms, outlet, first, kick.clone(), task.clone()))
        };
        if shared.lane_begins(channel, terms.lane, new) {
            break;
        }
        // The daemon gets again what it has not acknowledged before anything goes elsewhere.
        let _ = tokio::time::timeout(TELLING, progress).await;
    }
    if outlet.is_some() {
        task.abort();
    }
}

/// An end of a lane; none if this program has no use for it any more.
async fn fetch(shared: &Weak<Shared>, lane: u64) -> Option<io::Result<Claimed>> {
    let (path, claims) = {
        let shared = shared.upgrade()?;
        (shared.path.clone(), shared.claims.clone())
    };
    let _turn = claims.acquire().await.ok()?;
    Some(claim::claim(&path, lane).await)
}

/// Fetches a receiver's end, and reads it from then on.
pub(super) async fn take_in(
    shared: Weak<Shared>,
    channel: u16,
    (lane, link): (u64, LinkId),
    medium: Medium,
) {
    let Some(claimed) = fetch(&shared, lane).await else { return };
    let Some(strong) = shared.upgrade() else { return };
    match claimed.and_then(|claimed| Inlet::open(claimed, medium)) {
        Ok(opened) => strong.lane_opens(channel, (lane, link), opened),
        Err(_) => strong.lane_failed(channel, lane),
    }
}

/// What serves a sender's end.
struct Feeder {
    channel: u16,
    lane: u64,
    stream: Arc<UnixStream>,
    kick: Arc<Notify>,
}

/// Waits until a ring has room; without one, for ever.
async fn room(told: &mut Option<Told>) -> bool {
    match told {
        Some(told) => told.hear().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Serves a sender's end: what the receiver says, and what could not be written at once.
async fn feed(shared: Weak<Shared>, feeder: Feeder, mut told: Option<Told>) {
    let Feeder { channel, lane, stream, kick } = feeder;
    let mut read = BytesMut::new();
    let mut telling = pin!(tokio::time::sleep(TELLING));
    let mut runs = false;
    loop {
        let (obstacle, is_telling) = {
            let Some(shared) = shared.upgrade() else { return };
            let state = shared.with_outgoing(channel, lane, |outgoing, kept| {
                let obstacle = outgoing.obstacle(kept);
                (!outgoing.is_broken()).then(|| (obstacle, outgoing.is_telling()))
            });
            match state.flatten() {
                Some(state) => state,
                // Not used yet, or broken.
                None if shared.is_lane_broken(channel, lane) => {
                    return shared.lane_broke(channel, lane);
                }
                None => (None, false),
            }
        };
        if is_telling && !runs {
            runs = true;
            telling.as_mut().reset(tokio::time::Instant::now() + TELLING);
        }
        tokio::select! {
            ready = stream.readable() => {
                let Some(shared) = shared.upgrade() else { return };
                if ready.is_err() || !hear(&shared, channel, lane, &stream, &mut read) {
                    return shared.lane_broke(channel, lane);
                }
            }
            ready = stream.writable(), if obstacle == Some(Obstacle::Kernel) => {
                let Some(shared) = shared.upgrade() else { return };
                if ready.is_err() {
                    return shared.lane_broke(channel, lane);
                }
                shared.with_outgoing(channel, lane, |outgoing, kept| outgoing.flush(kept));
                shared.progress.notify_waiters();
            }
            heard = room(&mut told), if obstacle == Some(Obstacle::Ring) => {
                let Some(shared) = shared.upgrade() else { return };
                if !heard {
                    return shared.lane_broke(channel, lane);
                }
                shared.with_outgoing(channel, lane, |outgoing, kept| outgoing.flush(kept));
                shared.progress.notify_waiters();
            }
            () = kick.notified() => {}
            () = &mut telling, if runs => {
                runs = false;
                let Some(shared) = shared.upgrade() else { return };
                shared.tell_passed(channel, lane, false);
            }
        }
    }
}

/// What the receiver says. False if the lane is over.
fn hear(
    shared: &Shared,
    channel: u16,
    lane: u64,
    stream: &UnixStream,
    read: &mut BytesMut,
) -> bool {
    loop {
        read.reserve(1 << 10);
        match stream.try_read_buf(read) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
        while let Ok(Some(body)) = frame::first_body(read, MAX_RUNTIME) {
            let length = PREFIX + body.len();
            let heard = match postcard::from_bytes(body) {
                Ok(Frame::Grant { total, .. }) => shared
                    .with_outgoing(channel, lane, |outgoing, kept| {
                        outgoing.granted(total);
                        outgoing.flush(kept);
                    })
                    .is_some(),
                Ok(Frame::Acknowledge { total, .. }) => {
                    shared.lane_acknowledged(channel, lane, total)
                }
                _ => false,
            };
            if !heard {
                return false;
            }
            read.advance(length);
        }
        if read.len() > MAX_RUNTIME {
            return false;
        }
    }
    shared.progress.notify_waiters();
    true
}
