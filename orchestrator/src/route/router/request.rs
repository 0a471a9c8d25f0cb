//! What is asked of the router, what it asks of the rest of the daemon, and why it refuses.

use std::sync::Arc;

use orchestrator_proto::control::LinkRules;
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};
use thiserror::Error;

use crate::route::beside::{Cut, Divergence};
use crate::route::link::{Link, LinkTarget};
use crate::route::mailbox::Mailbox;

/// Links of one daemon: a list of them fits a frame.
pub const MAX_LINKS: usize = 16_384;

/// Outputs of one source. For senders that don't declare their types beforehand, this bounds
/// how many names they can make the daemon remember.
pub const MAX_OUTPUTS: usize = 1024;

/// A link to be made, with its ends resolved.
#[derive(Clone, Debug)]
pub struct LinkRequest {
    /// Whose messages; none means anybody's.
    pub from: Option<InstanceId>,
    /// Messages of this type.
    pub type_name: Arc<str>,
    /// Who gets them.
    pub to: LinkTarget,
    /// Its rules.
    pub rules: LinkRules,
}

/// Why the table did not change.
#[derive(Debug, Error)]
pub enum RouteError {
    /// No such instance (any more).
    #[error("there is no instance {0}")]
    NoInstance(InstanceId),
    /// No such link.
    #[error("there is no link {0}")]
    NoLink(LinkId),
    /// The same ends and type, but other rules.
    #[error(
        "link {id} joins the same ends already, with other rules: {rules}; to change these: \
         link set {id}"
    )]
    Differs {
        /// The link that is there.
        id: LinkId,
        /// Its rules.
        rules: LinkRules,
    },
    /// The two ends declare different schemas.
    #[error("{0}")]
    Mismatch(WireError),
    /// [`MAX_LINKS`].
    #[error("there are {MAX_LINKS} links already")]
    TooManyLinks,
    /// Twice the same type from one connection.
    #[error("the output {0} is declared twice")]
    DeclaredTwice(Arc<str>),
    /// [`MAX_OUTPUTS`].
    #[error("more than {MAX_OUTPUTS} message types from one connection")]
    TooManyOutputs,
}

impl From<RouteError> for WireError {
    fn from(error: RouteError) -> Self {
        let code = match &error {
            RouteError::NoInstance(_) | RouteError::NoLink(_) => ErrorCode::NotFound,
            RouteError::Differs { .. } => ErrorCode::AlreadyExists,
            RouteError::Mismatch(error) => return error.clone(),
            RouteError::TooManyLinks | RouteError::TooManyOutputs => ErrorCode::LimitReached,
            RouteError::DeclaredTwice(_) => ErrorCode::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

/// What the router tells and needs from the rest of the daemon.
pub trait Surroundings: Send + Sync {
    /// The two ends of a link turned out not to agree.
    fn link_mismatched(&self, link: LinkId, from: Option<InstanceId>, error: &WireError);
    /// So many messages of this sender were lost on the link, because the daemon before this one
    /// ended.
    fn messages_lost(&self, link: LinkId, from: InstanceId, count: u64);
    /// What the two ends of a lane say of it can't both be true; the receiver's word counts.
    fn link_diverged(&self, _divergence: Divergence) {}
    /// A lane was ended that its sender did not leave.
    fn lane_cut(&self, _cut: Cut) {}
    /// A first link to this datagram address was made: attach a sink to its mailbox. Called
    /// with the table locked: must not call back.
    fn open_peer(&self, address: &str, mailbox: &Arc<Mailbox>);
    /// The last link to this datagram address is gone. Called with the table locked likewise.
    fn close_peer(&self, address: &str);
    /// A link is new or has other rules.
    fn link_changed(&self, _link: &Arc<Link>) {}
    /// A link is gone. Called with the table locked likewise.
    fn link_removed(&self, _link: LinkId) {}
}
