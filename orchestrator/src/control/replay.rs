//! Messages of a recording, fed into links in the place of those who sent them.
//!
//! They take the way of all messages: over the links of their senders, with the policies, counters,
//! histories and taps of these. Where a `block` link has no room, what is fed waits, and with it
//! what comes after it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use orchestrator_proto::control::{
    Fed, Item, LinkSpec, ReplayMessage, ReplayRoute, ReplaySource, ReplaySpec,
};
use orchestrator_proto::runtime::MAX_PAYLOAD;
use orchestrator_proto::{ErrorCode, LinkId, SchemaHash, TypeSchema, WireError};
use tokio::sync::Notify;

use super::outgoing::Items;
use super::upload::{Chunk, Chunks};
use super::{Daemon, client_gone};
use crate::route::{
    Aim, LinkTarget, OutputIndex, Source, SourceStats, TypeDecl, Upstream, Woken, parts_of_calls,
};
use crate::runtime::now_ns;

impl Daemon {
    pub(super) async fn link_replay(
        &self,
        spec: ReplaySpec,
        items: Items,
        mut chunks: Chunks,
    ) -> Result<(), WireError> {
        let mut outputs = self.outputs(&spec)?;
        let routes = outputs.iter().map(|output| output.route.clone()).collect();
        items.send(Item::Replaying(routes)).await?;
        let (mut fed, mut told) = (Fed::default(), 0);
        loop {
            let chunk = match chunks.next_now() {
                Some(chunk) => Some(chunk),
                None => {
                    // It is told of all that is done before anything is waited for.
                    if fed.feeds > told {
                        told = fed.feeds;
                        items.send(Item::Fed(fed)).await?;
                    }
                    tokio::select! {
                        chunk = chunks.next() => chunk,
                        () = self.ended() => None,
                    }
                }
            };
            match chunk {
                Some(Chunk::Feed(messages)) => feed(&mut outputs, messages, &mut fed).await?,
                Some(Chunk::FeedEnd) => break,
                Some(Chunk::Bytes(_) | Chunk::End { .. }) => {
                    return Err(invalid("chunks are for uploads, not for `link replay`"));
                }
                None if *self.ending.borrow() => return Ok(()),
                None => return Err(client_gone()),
            }
            fed.feeds += 1;
            // While many come at once, not of each.
            if fed.feeds - told >= ReplaySpec::WINDOW as u64 / 4 {
                told = fed.feeds;
                items.send(Item::Fed(fed)).await?;
            }
        }
        items.send(Item::Fed(fed)).await
    }

    /// One output for each source.
    fn outputs(&self, spec: &ReplaySpec) -> Result<Vec<Output>, WireError> {
        let ReplaySpec { sources, links, to } = spec;
        if sources.is_empty() || sources.len() > ReplaySpec::MAX_SOURCES {
            let most = ReplaySpec::MAX_SOURCES;
            return Err(invalid(format!("there are 1 to {most} senders and types in a replay")));
        }
        if links.len() > ReplaySpec::MAX_LINKS {
            return Err(invalid(format!("at most {} links are named", ReplaySpec::MAX_LINKS)));
        }
        let to = to.as_ref().map(|to| self.registry.find(to)).transpose()?;
        let mut aimed: Option<HashSet<LinkId>> = None;
        if !links.is_empty() {
            let mut all = HashSet::new();
            for link in links {
                all.extend(self.registry.parts_of(*link)?);
            }
            aimed = Some(all);
        }
        if let Some(to) = to {
            let target = LinkTarget::Instance(to.id);
            let of = |link: &Arc<crate::route::Link>| (link.to == target).then_some(link.id);
            let all: HashSet<_> = self.registry.router().links().iter().filter_map(of).collect();
            aimed = Some(match aimed {
                Some(named) => named.intersection(&all).copied().collect(),
                None => all,
            });
        }
        let aim = aimed.map_or(Aim::Own, Aim::Links);
        let mut outputs = Vec::with_capacity(sources.len());
        for source in sources {
            outputs.push(self.output(source, aim.clone())?);
        }
        if outputs.iter().all(|output| output.route.links == 0) {
            return Err(WireError::new(
                ErrorCode::InvalidArgument,
                "no link takes any of these messages; make one with `link add`, or name those that \
                 are to with `--link` or `--to`",
            ));
        }
        Ok(outputs)
    }

    fn output(&self, source: &ReplaySource, aim: Aim) -> Result<Output, WireError> {
        let name = &source.type_name;
        if name.is_empty() || name.len() > LinkSpec::MAX_TYPE_NAME {
            return Err(invalid(format!("a type name has 1 to {} bytes", LinkSpec::MAX_TYPE_NAME)));
        }
        let schema = source.schema.as_deref().map(|canonical| {
            let schema = TypeSchema::decode(canonical)
                .map_err(|error| invalid(format!("the schema of {name}: {error}")))?;
            Ok::<_, WireError>((SchemaHash::of(canonical), Arc::new(schema)))
        });
        let decl = Arc::new(TypeDecl::new(name.as_str().into(), schema.transpose()?));
        if parts_of_calls(&decl).is_some() {
            return Err(invalid(format!(
                "what was recorded of {name} are calls, which are not replayed: nobody would wait for \
                 the replies"
            )));
        }
        // One that was removed since can't be stood in for.
        let from = source.from.as_ref().and_then(|from| self.registry.find(from).ok());
        let told = Arc::<Told>::default();
        let upstream: Weak<dyn Upstream> = Arc::<Told>::downgrade(&told);
        let stats = Arc::<SourceStats>::default();
        let (source, output, links) = self.registry.router().open_feed(
            from.as_ref().map(|from| from.id),
            aim,
            &decl,
            upstream,
            stats.clone(),
        )?;
        let route = ReplayRoute {
            from: from.as_ref().map(|from| from.id),
            links: u32::try_from(links).unwrap_or(u32::MAX),
            is_connected: from.is_some_and(|from| from.info().connections > 0),
        };
        Ok(Output { source, output, told, stats, route, sent: 0 })
    }
}

fn invalid(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, message)
}

/// What stands in for one sender of one type.
struct Output {
    source: Arc<Source>,
    output: OutputIndex,
    told: Arc<Told>,
    stats: Arc<SourceStats>,
    route: ReplayRoute,
    /// Messages, in all.
    sent: u64,
}

/// What a `block` link says to who feeds it.
#[derive(Default)]
struct Told {
    moved: Notify,
    /// When to look whether it was held back for too long.
    look: Mutex<Option<Instant>>,
}

impl Upstream for Told {
    fn window_moved(&self, _channel: u16) {
        self.moved.notify_one();
    }

    fn held_back(&self, _channel: u16, until: Instant) {
        *self.look.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        self.moved.notify_one();
    }
}

impl Output {
    /// Waits until there is room for one more message.
    async fn has_room(&self) {
        while self.source.grant(0) <= self.sent {
            let look = *self.told.look.lock().unwrap_or_else(PoisonError::into_inner);
            match look {
                None => self.told.moved.notified().await,
                Some(until) => tokio::select! {
                    () = self.told.moved.notified() => {}
                    () = tokio::time::sleep_until(until.into()) => {
                        let next = self.source.look(0, Instant::now());
                        *self.told.look.lock().unwrap_or_else(PoisonError::into_inner) = next;
                    }
                },
            }
        }
    }
}

async fn feed(
    outputs: &mut [Output],
    messages: Vec<ReplayMessage>,
    fed: &mut Fed,
) -> Result<(), WireError> {
    let (mut woken, mut run) = (Woken::default(), Vec::with_capacity(1));
    for ReplayMessage { source, payload } in messages {
        let count = outputs.len();
        let output = usize::try_from(source).ok().and_then(|at| outputs.get_mut(at));
        let output = output
            .ok_or_else(|| invalid(format!("a message of source {source}; there are {count}")))?;
        if payload.len() > MAX_PAYLOAD {
            let length = payload.len();
            return Err(invalid(format!(
                "a message of {length} bytes; at most {MAX_PAYLOAD} are allowed"
            )));
        }
        if output.source.grant(0) <= output.sent {
            // What was fed before is to set off first.
            woken.kick();
            output.has_room().await;
        }
        let unrouted = || output.stats.unrouted.load(std::sync::atomic::Ordering::Relaxed);
        let before = unrouted();
        run.push(Bytes::from(payload));
        output.source.send_run(output.output, &mut run, now_ns(), &mut woken);
        fed.unrouted += unrouted() - before;
        fed.messages += 1;
        output.sent += 1;
    }
    woken.kick();
    Ok(())
}
