//! A daemon with instances that are added and never started: actors connect in their place.

use std::path::PathBuf;

use orchestrator_proto::control::{
    Counters, LinkSpec, Policy, Reply, Request, RuntimeSpec, TargetSpec,
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

    pub(crate) fn link(
        &self,
        from: InstanceId,
        type_name: &str,
        to: InstanceId,
        policy: Option<Policy>,
        capacity: Option<u32>,
    ) -> LinkId {
        let link = LinkSpec {
            from: Some(from.to_string().into()),
            type_name: type_name.to_owned(),
            to: TargetSpec::Instance(to.to_string().into()),
            policy,
            capacity,
            block_timeout: None,
            history: None,
            transport: None,
        };
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

    fn counters(&self, link: LinkId) -> Counters {
        let links = match self.daemon.request(Request::LinkList) {
            Ok(Reply::Links(links)) => links,
            other => panic!("{other:?}"),
        };
        let mut links = links.into_iter();
        let found = links.find(|info| info.id == link);
        found.expect("the link is there").counters
    }
}
