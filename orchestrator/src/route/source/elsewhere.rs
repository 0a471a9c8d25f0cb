//! What a sender sends elsewhere: messages of its outputs that go over lanes, and come back here when
//! those are over.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::{OutputIndex, Source, Woken};
use crate::route::link::Link;

impl Source {
    /// So many messages of this output went elsewhere. False if there were more than `most` then.
    #[must_use]
    pub fn skip(&self, output: OutputIndex, count: u64, most: u64) -> bool {
        let channel = {
            let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
            let Some(output) = outputs.get(output.0) else { return true };
            let total = output.received.load(Ordering::Acquire).saturating_add(count);
            if total > most {
                return false;
            }
            output.received.store(total, Ordering::Release);
            self.count(output, total);
            output.credits().for_each(|credit| credit.passed_by(count));
            output.channel
        };
        self.window_moved(channel);
        true
    }

    /// Whether messages of this output are needed here: for a link, for a tap, or to count that
    /// nobody takes them.
    #[must_use]
    pub fn is_wanted(&self, channel: u16) -> bool {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        let output = outputs.iter().find(|output| output.channel == channel);
        output.is_none_or(|output| {
            output.routes.is_empty()
                || output.routed().next().is_some()
                || self.taps.watches(&output.decl.name)
        })
    }

    /// From now on what comes on this channel is not for that link. The answer is whether it was.
    pub fn divert(&self, channel: u16, link: &Arc<Link>) -> bool {
        let mut outputs = self.outputs.write().unwrap_or_else(PoisonError::into_inner);
        let Some(output) = outputs.iter_mut().find(|output| output.channel == channel) else {
            return false;
        };
        let before = output.grant();
        let route = output.routes.iter_mut().find(|route| Arc::ptr_eq(&route.link, link));
        let Some(route) = route else { return false };
        route.is_diverted = true;
        let after = output.grant();
        drop(outputs);
        if before != after {
            self.window_moved(channel);
        }
        true
    }

    /// From now on what comes on this channel is for that link again. Before that come, by
    /// [`again`](Self::again), so many messages that went elsewhere and have to go over it.
    pub fn resume(&self, channel: u16, link: &Arc<Link>, returned: u64) {
        let mut outputs = self.outputs.write().unwrap_or_else(PoisonError::into_inner);
        let Some(output) = outputs.iter_mut().find(|output| output.channel == channel) else {
            return;
        };
        let already = output.received.load(Ordering::Acquire).saturating_sub(returned);
        let origin = self.origin(output, link, already);
        let route = output.routes.iter_mut().find(|route| Arc::ptr_eq(&route.link, link));
        if let Some(route) = route {
            route.is_diverted = false;
            route.origin = origin;
        }
    }

    /// A message of this channel that went elsewhere, for just this link. False if none with this
    /// number was sent.
    #[must_use]
    pub fn again(
        &self,
        channel: u16,
        link: &Arc<Link>,
        number: u64,
        body: Bytes,
        now_ns: u64,
    ) -> bool {
        let mut woken = Woken::default();
        {
            let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
            let Some(output) = outputs.iter().find(|output| output.channel == channel) else {
                return false;
            };
            let first = output.numbering.map_or(0, |numbering| numbering.first);
            let received = output.received.load(Ordering::Acquire);
            if number.checked_sub(first).is_none_or(|index| index >= received) {
                return false;
            }
            let route = output.routed().find(|route| Arc::ptr_eq(&route.link, link));
            // With a link that was removed meanwhile goes what was on its way over it.
            let Some(route) = route else { return true };
            let bodies = std::iter::once(body);
            let unsettled = link.push_run(bodies, number, &route.origin, now_ns / 1_000_000);
            woken.add(route, unsettled);
        }
        woken.kick();
        true
    }
}
