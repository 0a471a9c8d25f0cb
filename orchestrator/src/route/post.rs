//! One message for an instance that comes over no link: a client's own.
//!
//! It rides on a queue of its own, for this one message, which nobody else feeds and no list of
//! links shows. The mailbox of the receiver serves that like a link, in turn with the others. Whoever
//! posts the message is told what has become of it, and may take it back as long as nobody has begun
//! to write it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use orchestrator_proto::control::{Counters, LinkRules, Policy, SendSpec};
use orchestrator_proto::{InstanceId, LinkId};
use tokio::sync::Notify;

use super::decl::{Encoding, TypeDecl};
use super::link::{Link, LinkTarget};
use super::mailbox::Mailbox;
use super::message::{Credit, Origin};
use super::queue::DropReason;
use super::router::{LinkRequest, Router};
use super::source::Upstream;

/// Where messages for an instance can be posted. It has one of the places for messages that are on their
/// way to that instance; see [`SendSpec::MAX_UNDER_WAY`].
pub struct Postbox {
    instance: InstanceId,
    mailbox: Arc<Mailbox>,
}

/// What has become of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its receiver has not got it as yet.
    Waits,
    /// The kernel took all of it for the receiver.
    Delivered,
    /// It was given up.
    Dropped(DropReason),
}

/// A message on its way. When this is dropped the message is taken back, if it still waits.
pub struct Post {
    link: Arc<Link>,
    told: Arc<Told>,
}

/// Who is told that something became of a message.
#[derive(Default)]
struct Told(Notify);

impl Upstream for Told {
    fn window_moved(&self, _channel: u16) {
        self.0.notify_one();
    }
}

impl Router {
    /// Where messages for this instance can be posted. None if there is no such instance; an error
    /// if as many as may are on their way to it.
    pub fn postbox(&self, instance: InstanceId) -> Option<Result<Postbox, TooMany>> {
        let postbox = Postbox { instance, mailbox: self.mailbox(instance)? };
        // Counted even if there is no place, and given back by the drop.
        let before = postbox.count().fetch_add(1, Ordering::AcqRel);
        Some(if before < SendSpec::MAX_UNDER_WAY { Ok(postbox) } else { Err(TooMany) })
    }

    /// Posts a message in the encoding of `decl`. Taps see it as one that nobody here has sent.
    pub fn post(&self, postbox: &Postbox, decl: Arc<TypeDecl>, body: Bytes, now_ns: u64) -> Post {
        if self.taps().any() {
            self.taps().offer(None, &decl, 1, std::slice::from_ref(&body), now_ns);
        }
        let request = LinkRequest {
            from: None,
            type_name: decl.name.clone(),
            to: LinkTarget::Instance(postbox.instance),
            rules: LinkRules { policy: Policy::Block, capacity: 1, ..LinkRules::default() },
        };
        // No link has this number: theirs begin with 1.
        let link = Arc::new(Link::new(LinkId(0), &request, postbox.mailbox.clone()));
        let told = Arc::<Told>::default();
        let upstream: Weak<dyn Upstream> = Arc::<Told>::downgrade(&told);
        let credit = Some(Credit::new(0, 1, None, upstream, 0, false));
        let origin = Arc::new(Origin { decl, sender: None, first: 0, credit, is_replay: false });
        let _ = link.push_run(std::iter::once(body), 0, &origin, now_ns / 1_000_000);
        postbox.mailbox.kick();
        Post { link, told }
    }
}

/// So many messages of clients are on their way to an instance already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

impl Postbox {
    /// How payloads are written for the receiver that is connected now; none if none is.
    #[must_use]
    pub fn encoding(&self) -> Option<Encoding> {
        self.mailbox.encoding()
    }

    /// Resolves when another receiver is connected, or has declared an input: to who listens by then.
    pub fn changes(&self) -> tokio::sync::futures::Notified<'_> {
        self.mailbox.changes()
    }

    fn count(&self) -> &AtomicU32 {
        &self.mailbox.posts
    }
}

impl Drop for Postbox {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::AcqRel);
    }
}

impl Post {
    /// What has become of it.
    #[must_use]
    pub fn fate(&self) -> Fate {
        let Counters { delivered, drops, .. } = self.link.counters();
        let reasons = [
            (drops.full, DropReason::Full),
            (drops.too_long, DropReason::TooLong),
            (drops.untranslatable, DropReason::Untranslatable),
            (drops.failed, DropReason::Failed),
        ];
        match reasons.into_iter().find(|(count, _)| *count > 0) {
            _ if delivered > 0 => Fate::Delivered,
            Some((_, reason)) => Fate::Dropped(reason),
            None => Fate::Waits,
        }
    }

    /// Waits until its fate is known.
    pub async fn settled(&self) -> Fate {
        loop {
            // A permit is kept for who has not begun to listen as yet.
            match self.fate() {
                Fate::Waits => self.told.0.notified().await,
                fate => return fate,
            }
        }
    }

    /// Takes it back. False if somebody has begun to write it: then it may still arrive.
    #[must_use]
    pub fn take_back(&self) -> bool {
        self.link.remove() > 0
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.link.remove();
    }
}
