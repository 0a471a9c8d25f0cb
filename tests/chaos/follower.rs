//! A client that follows all events, and connects again after the last one that it saw whenever
//! the daemon goes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Event, Item, Request};

/// What it saw.
#[derive(Default)]
pub(crate) struct Followed {
    pub(crate) events: Vec<Event>,
    pub(crate) violations: Vec<String>,
    pub(crate) connections: u32,
}

/// Follows until told to stop and the daemon has gone.
pub(crate) async fn follow(socket: &Path, stop: &AtomicBool) -> Followed {
    let mut followed = Followed::default();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        read(socket, true, &mut followed).await;
        if stopping {
            return followed;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All events that are kept, from the first on.
pub(crate) async fn all(socket: &Path) -> Followed {
    let mut followed = Followed::default();
    read(socket, false, &mut followed).await;
    followed
}

/// Reads what comes after what was read before, until the stream ends.
async fn read(socket: &Path, follow: bool, followed: &mut Followed) {
    let Ok(client) = Client::connect(socket).await else {
        return;
    };
    let last = followed.events.last().map_or(0, |event| event.seq);
    let request = Request::Events { follow, after: Some(last), since_ms: None, instance: None };
    let Ok(mut stream) = client.stream(request).await else {
        return;
    };
    followed.connections += 1;
    while let Some(Ok(item)) = stream.next().await {
        match item {
            Item::Event(event) => {
                let last = followed.events.last().map_or(0, |event| event.seq);
                if event.seq != last + 1 {
                    let text = format!("event {} came after event {last}: {event:?}", event.seq);
                    followed.violations.push(text);
                }
                followed.events.push(event);
            }
            other => followed.violations.push(format!("a follower of events was told {other:?}")),
        }
    }
}
