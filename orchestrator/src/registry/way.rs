//! Which way the messages of a link go, and why they don't go from instance to instance: what is known of
//! its ends here comes before what their libraries can do.

use std::sync::atomic::Ordering;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Transport, Way};

use super::Registry;
use crate::route::{Link, LinkTarget};

/// Calls meet at the daemon, which knows who has room for them.
const CALLS: &str = "calls go through the daemon";

impl Registry {
    /// Which way a link's messages go now; and why they don't go directly, a sentence, unless they
    /// are not to.
    pub(super) fn way(&self, link: &Link, carries_calls: bool) -> (Way, Option<String>) {
        let (way, why) = link.way();
        if way != Way::Routed || link.rules().transport == Transport::Routed {
            return (way, why);
        }
        let LinkTarget::Instance(to) = link.to else { return (way, why) };
        let obstacle = || self.lanes.obstacle(link, self.router.taps());
        let whoever = carries_calls.then_some(CALLS).or_else(obstacle).map(str::to_owned);
        let of_its_ends = || self.lanes.lacks(link).map(str::to_owned);
        let why = whoever.or_else(|| self.absent(link.from, to)).or_else(of_its_ends).or(why);
        (way, why)
    }

    /// Which ends of a link are not there, as in `the sender is not running`.
    fn absent(&self, from: Option<InstanceId>, to: InstanceId) -> Option<String> {
        let ends = [("sender", from), ("receiver", Some(to))];
        let absent = ends.into_iter().filter_map(|(end, id)| {
            let instance = self.read().by_id.get(&id?)?.clone();
            if instance.endpoint.connections.load(Ordering::Acquire) > 0 {
                return None;
            }
            Some(match instance.keeper.view().observed.pid() {
                Some(_) => format!("the {end} has not connected"),
                None => format!("the {end} is not running"),
            })
        });
        let absent: Vec<_> = absent.collect();
        (!absent.is_empty()).then(|| absent.join(", and "))
    }
}
