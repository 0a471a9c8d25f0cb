//! A daemon with instances that are added and never started: actors connect in their place.

use std::path::PathBuf;

use orchestrator_proto::control::{
    Counters, LinkInfo, LinkSpec, Policy, Reply, Request, RuntimeSpec, TargetSpec, Transport, Way,
};
use orchestrator_proto::{InstanceId, LinkId};
use tests::{Daemon, eventually};

use crate::wire::Dialect;

pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
}

impl Stage {
    /// A daemon as it is by default, on the cores of this thread.
    pub(crate) fn start() -> Self {
        Self { daemon: Daemon::start_with(&["--log", "info"]) }
    }

    /// Adds an instance of this program.
    pub(crate) fn add(&self, spec: RuntimeSpec) -> InstanceId {
        match self.daemon.request(Request::RuntimeAdd(spec)) {
            Ok(Reply::Added { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Adds an instance that an actor stands in for.
    pub(crate) fn seat(&self) -> InstanceId {
        self.add(RuntimeSpec::new("/bin/true"))
    }

    /// Where that actor connects.
    pub(crate) fn socket(&self, instance: InstanceId, dialect: Dialect) -> PathBuf {
        let mut dir = self.daemon.socket().as_os_str().to_owned();
        dir.push(".d");
        let suffix = match dialect {
            Dialect::Native => "native",
            Dialect::Veecle => "veecle",
        };
        PathBuf::from(dir).join(format!("{}.{suffix}", instance.simple()))
    }

    /// A link through the daemon.
    pub(crate) fn link(
        &self,
        from: InstanceId,
        type_name: &str,
        to: InstanceId,
        policy: Option<Policy>,
        capacity: Option<u32>,
    ) -> LinkId {
        self.link_by(Transport::Routed, (from, type_name, to), policy, capacity)
    }

    /// A link whose messages go this way.
    pub(crate) fn link_by(
        &self,
        transport: Transport,
        ends: (InstanceId, &str, InstanceId),
        policy: Option<Policy>,
        capacity: Option<u32>,
    ) -> LinkId {
        let link = link_spec(transport, ends, policy, capacity);
        match self.daemon.request(Request::LinkAdd(link)) {
            Ok(Reply::LinkAdded { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Checks that the links delivered all that was sent, which must be `messages` on each.
    pub(crate) fn check_nothing_lost(&self, links: &[LinkId], messages: u64) {
        for link in links {
            eventually("every message is counted as delivered", || {
                let counters = self.counters(*link);
                assert_eq!(counters.dropped, 0, "{counters:?}");
                (counters.sent == messages && counters.delivered == messages).then_some(())
            });
        }
    }

    /// Waits until this link has had no room for a message.
    pub(crate) fn wait_dropped(&self, link: LinkId) {
        eventually("a message is dropped", || (self.counters(link).dropped > 0).then_some(()));
    }

    /// Waits until these go directly.
    pub(crate) fn wait_direct(&self, links: &[LinkId]) {
        self.wait_way(Transport::Direct, links);
    }

    /// Waits until these go as this transport says.
    pub(crate) fn wait_way(&self, transport: Transport, links: &[LinkId]) {
        let wanted = match transport {
            Transport::Auto | Transport::Direct => Way::Direct,
            Transport::Routed => Way::Routed,
        };
        let mut left = links.to_vec();
        eventually("messages go as they are to", || {
            let infos = self.infos();
            left.retain(|link| !infos.iter().any(|info| info.id == *link && info.way == wanted));
            left.is_empty().then_some(())
        });
    }

    fn counters(&self, link: LinkId) -> Counters {
        self.info(link).counters
    }

    fn info(&self, link: LinkId) -> LinkInfo {
        let mut links = self.infos().into_iter();
        links.find(|info| info.id == link).expect("the link is there")
    }

    fn infos(&self) -> Vec<LinkInfo> {
        match self.daemon.request(Request::LinkList) {
            Ok(Reply::Links(links)) => links,
            other => panic!("{other:?}"),
        }
    }
}

/// What a link whose messages go this way is added by.
pub(crate) fn link_spec(
    transport: Transport,
    (from, type_name, to): (InstanceId, &str, InstanceId),
    policy: Option<Policy>,
    capacity: Option<u32>,
) -> LinkSpec {
    LinkSpec {
        from: Some(from.to_string().into()),
        type_name: type_name.to_owned(),
        to: TargetSpec::Instance(to.to_string().into()),
        policy,
        capacity,
        block_timeout: None,
        history: None,
        transport: Some(transport),
        spin_us: None,
    }
}
