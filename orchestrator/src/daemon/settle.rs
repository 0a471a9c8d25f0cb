//! Giving back memory when much has happened, and nothing more does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How long nothing has happened then.
const QUIET: Duration = Duration::from_secs(1);

/// Events after which it is worth it: those of about a hundred instances that were added and
/// started. What is used to read, compare and store the definitions of many is as much as they need
/// for good, and the allocator would keep it for the next time.
const MANY: u64 = 256;

/// Gives back what the beginning has used, and whatever has used much since, whenever there was no
/// new event for a second. `events` is the number of the newest one. Takes no time while there is
/// none; ends with them.
pub(super) async fn settle(mut events: watch::Receiver<u64>) {
    loop {
        while let Ok(more) = timeout(QUIET, events.changed()).await {
            if more.is_err() {
                return;
            }
        }
        crate::holder::give_back();
        let enough = events.borrow_and_update().saturating_add(MANY);
        if events.wait_for(|newest| *newest >= enough).await.is_err() {
            return;
        }
    }
}
