//! The store on a real file system.

mod durable;
mod events;
mod faults;
mod model;
mod schemas;
mod sets;
mod together;
mod types;

use std::path::Path;
use std::sync::Arc;

use orchestrator_proto::control::{EventKind, LinkRules, Policy, RuntimeSpec, Transport};
use orchestrator_proto::{InstanceId, LinkId, Millis};

use super::*;

fn instance(order: u64) -> InstanceRecord {
    InstanceRecord {
        order,
        id: InstanceId::from_bytes(u128::from(order).to_be_bytes()),
        spec: RuntimeSpec { name: Some(format!("n{order}")), ..RuntimeSpec::new("/bin/true") },
        copy: (order % 2 == 1).then(|| format!("dir-{order}/program").into()),
        added_ms: 1000 + order,
        from_start: 1,
    }
}

fn link(id: u64, from: Option<u64>, to: u64) -> LinkRecord {
    LinkRecord {
        id: LinkId(id),
        from: from.map(|from| instance(from).id),
        type_name: Arc::from("a.b.v1"),
        to: match to {
            0 => LinkEnd::Udp("127.0.0.1:9".into()),
            to => LinkEnd::Instance(instance(to).id),
        },
        rules: LinkRules {
            policy: Policy::Block,
            capacity: 7,
            block_timeout: Millis(id * 100),
            history: 3,
            transport: Transport::Routed,
            spin_us: 0,
        },
    }
}

fn event(number: u32) -> NewEvent {
    let time_ms = u64::from(number);
    let kind = EventKind::Started { pid: number };
    NewEvent { time_ms, instance: None, name: None, kind }
}

fn open(dir: &Path) -> (Store, Snapshot) {
    Store::open(dir).unwrap()
}

fn add(order: u64) -> Change {
    Change::AddInstance(Box::new(instance(order)))
}

/// All events with higher numbers, as `(number, pid)`.
async fn pids(store: &Store, after: u64) -> Vec<(u64, u32)> {
    let (mut seen, mut all) = (after, Vec::new());
    loop {
        let query = EventQuery { after: seen, ..EventQuery::default() };
        let batch = store.read_events(query, 100).await.unwrap();
        assert_eq!((batch.missed, batch.unreadable), (0, 0));
        if batch.seen == seen {
            return all;
        }
        seen = batch.seen;
        all.extend(batch.events.into_iter().filter_map(|event| match event.kind {
            EventKind::Started { pid } => Some((event.seq, pid)),
            _ => None,
        }));
    }
}
