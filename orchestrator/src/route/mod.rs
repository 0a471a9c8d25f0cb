//! Links: who gets whose messages, and what happens when there is no room.
//!
//! A *source* (a connection of an instance, or the datagram socket) gives messages to its
//! *outputs*. Each output knows its *routes*, the links that take its messages. A *link* is a
//! bounded queue with a policy and counters. A *mailbox* collects the links of one target and
//! is emptied by whatever *sink* the target has at the moment: a connection, a datagram
//! socket, or nothing at all.
//!
//! The message path takes short locks that belong to one source (its routes, for reading), one
//! link (its queue) or one target (its list of links that have something, and its sink), never
//! to all. The [`Router`] changes those under its own lock and is never on the
//! path. Nothing here waits: a full queue is answered by the policy, and a sender that must
//! wait under `block` is told so by grants. Who is held back for longer than a link's timeout is
//! let go when `runtime/` [looks](Source::look). A link with a history remembers what it has handed
//! out, and a sink that is attached gets the last of that again.
//!
//! Called by `runtime/` (messages) and `control/` (links). Knows no socket and no process.

mod beside;
mod calls;
mod decl;
mod feed;
mod history;
mod interruption;
mod link;
mod mailbox;
mod message;
mod patience;
mod post;
mod queue;
mod router;
mod source;
mod tap;
#[cfg(test)]
mod tests;
mod types;

pub use beside::{Beside, Cut, Divergence};
pub use calls::{CallPeer, ClientEnd, Duplicate, NotItsCall, Roused, ServiceEnd, parts_of_calls};
pub use decl::{Encoding, Form, TypeDecl};
pub use feed::Aim;
pub use link::{Link, LinkTarget};
pub use mailbox::{Mailbox, Sink};
pub use message::{Entry, Numbering, Origin};
pub use post::{Fate, Post, Postbox, TooMany};
pub use queue::DropReason;
pub use router::{LinkRequest, MAX_LINKS, MAX_OUTPUTS, RouteError, Router, Surroundings};
pub use source::{OutputIndex, Source, SourceStats, Upstream, Woken};
pub use tap::{MAX_TAPS, Tap, TapItem, Taps, Watched};
pub use types::TellType;
