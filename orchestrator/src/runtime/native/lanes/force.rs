//! Who has to leave a lane, and does not, is shut out: the daemon ends the lane.
//!
//! What was written into it before is read. What waits with the sender waits until the sender comes
//! back, which it does as from any other lane that broke.

use orchestrator_proto::control::Way;

use super::table::{Lane, Stage};
use super::{LEAVING, Lanes};
use crate::route::Cut;

impl Lanes {
    /// Ends those of these lanes that are not left in time, or whose peers have not come by then.
    pub(super) fn cut_later(&self, lanes: Vec<u64>) {
        // Without a runtime the daemon is about to end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if lanes.is_empty() {
            return;
        }
        let this = self.this.clone();
        runtime.spawn(async move {
            tokio::time::sleep(LEAVING).await;
            if let Some(this) = this.upgrade() {
                this.cut(&lanes);
            }
        });
    }

    /// Ends those of these lanes that are to be left, and are not, and those whose peers have not
    /// come.
    pub(super) fn cut(&self, lanes: &[u64]) {
        let mut table = self.table();
        let mut told = Vec::new();
        let mut is_news = false;
        for id in lanes {
            if table.unclaimed.remove(id).is_some() {
                is_news = true;
                continue;
            }
            let Some(lane) = table.lanes.get_mut(id) else { continue };
            if lane.stage != Stage::Leaving || lane.is_cut {
                continue;
            }
            is_news = true;
            lane.is_asked = false;
            let Some(sender) = lane.sender else {
                lane.give_up(*id);
                continue;
            };
            lane.is_cut = true;
            lane.shut();
            let link = lane.link.clone();
            link.lanes.cut(*id);
            if let Some(connection) = table.connection(sender.connection) {
                let queued = link.lanes.known(*id).queued();
                let cut = Cut { link: link.id, from: connection.source.instance, queued };
                told.push((connection.endpoint.router.clone(), cut));
            }
        }
        drop(table);
        if is_news {
            self.changes.send_replace(());
        }
        told.into_iter().for_each(|(router, cut)| router.cut(cut));
    }
}

impl Lane {
    /// Whether its sender may have written into it what nobody reads: into memory, in the moment in
    /// which the receiver ends.
    pub(super) fn may_lose(&self) -> bool {
        self.is_cut && self.way == Way::Shm
    }
}
