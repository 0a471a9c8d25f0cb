//! Who carries messages from one process to another.

use orchestrator_proto::control::Transport;

use crate::machine::Regime;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carrier {
    /// The two ends of a socket pair, which block.
    Sockets,
    /// A process between two sockets that copies bytes.
    Relay,
    /// A ring in shared memory that checks nothing and spins.
    BareRing,
    /// The ring of orchestrator-proto by itself: no policy, no counters, no daemon.
    Ring,
    /// Two instances with the SDK, and a link of this transport.
    Link(Transport),
    Iceoryx,
    Zenoh,
    Nats,
}

/// How our links carry messages: what is measured of the orchestrator itself.
pub(super) const TRANSPORTS: [Transport; 2] = [Transport::Routed, Transport::Direct];
pub(super) const LINKS: [Carrier; TRANSPORTS.len()] =
    [Carrier::Link(TRANSPORTS[0]), Carrier::Link(TRANSPORTS[1])];

impl Carrier {
    /// All, in the order in which they are shown: floors first, rivals last.
    pub(crate) fn all() -> Vec<Self> {
        let bare = [Self::Sockets, Self::Relay, Self::BareRing, Self::Ring];
        let rivals = [Self::Iceoryx, Self::Zenoh, Self::Nats];
        bare.into_iter().chain(LINKS).chain(rivals).collect()
    }

    /// As it is shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sockets => "bare socket pair",
            Self::Relay => "bare relay",
            Self::BareRing => "bare ring",
            Self::Ring => "ring by itself",
            Self::Link(transport) => link_name(transport),
            Self::Iceoryx => "iceoryx2",
            Self::Zenoh => "zenoh",
            Self::Nats => "NATS",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|carrier| carrier.name() == name)
    }

    /// Who spins has no part where its ends share a core, and who never does none where both spin.
    pub(crate) fn takes_part(self, regime: Regime) -> bool {
        match self {
            Self::BareRing | Self::Iceoryx => regime == Regime::Spinning,
            Self::Ring => true,
            Self::Sockets | Self::Relay | Self::Link(_) | Self::Zenoh | Self::Nats => {
                regime != Regime::Spinning
            }
        }
    }

    /// The least that has to be done to carry messages in this way: what this is compared with.
    pub(crate) fn floor(self, regime: Regime) -> Option<Self> {
        match self {
            Self::Sockets | Self::Relay | Self::BareRing => None,
            Self::Link(Transport::Routed) | Self::Nats => Some(Self::Relay),
            _ if regime == Regime::Spinning => Some(Self::BareRing),
            _ => Some(Self::Sockets),
        }
    }

    /// Why it can't be measured; nothing if it can.
    pub(crate) fn absent(self) -> Option<&'static str> {
        match self {
            Self::Iceoryx | Self::Zenoh if !cfg!(feature = "rivals") => {
                Some("not compiled: `--features rivals`")
            }
            Self::Nats if !super::nats::is_installed() => {
                Some("not installed: `tests/benches/rivals.sh`")
            }
            _ => None,
        }
    }

    /// Whether it is the orchestrator's.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Link(_))
    }
}

const fn link_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Auto => "orchestrator",
        Transport::Routed => "orchestrator, routed",
        Transport::Direct => "orchestrator, direct",
    }
}
