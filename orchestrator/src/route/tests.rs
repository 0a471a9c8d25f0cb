//! The whole room against a model: random sequences of links, sends, receivers that come and
//! go. Each link must carry exactly the messages that were sent while it existed, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use orchestrator_proto::control::{LinkRules, Policy, Transport, Way};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{InstanceId, LinkId, TypeSchema, WireError};
use proptest::prelude::*;

use super::*;

const INSTANCES: usize = 3;
const TYPES: usize = 2;

struct Quiet;

impl Surroundings for Quiet {
    fn link_mismatched(&self, _: LinkId, _: Option<InstanceId>, _: &WireError) {}
    fn messages_lost(&self, _: LinkId, _: InstanceId, _: u64) {}
    fn open_peer(&self, _: &str, _: &Arc<Mailbox>) {}
    fn close_peer(&self, _: &str) {}
}

/// A receiver that takes what it can get while it is awake.
struct Receiver {
    mailbox: Arc<Mailbox>,
    got: Mutex<Vec<(LinkId, u32)>>,
}

impl Sink for Receiver {
    fn kick(&self) {
        let mut taken = Vec::new();
        while let Some(link) = self.mailbox.next_link() {
            link.take(3, usize::MAX, &mut taken);
            for entry in taken.drain(..) {
                let number = u32::from_le_bytes(entry.body[..4].try_into().unwrap());
                self.got.lock().unwrap().push((link.id, number));
                link.delivered(&entry, 1);
            }
            self.mailbox.give_back(link);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Link {
        from: Option<usize>,
        kind: usize,
        to: usize,
    },
    Unlink(usize),
    Send {
        from: usize,
        kind: usize,
        count: usize,
    },
    Attach(usize),
    Detach(usize),
    /// A receiver takes messages and breaks before it wrote them.
    Break(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (prop::option::of(0..INSTANCES), 0..TYPES, 0..INSTANCES)
            .prop_map(|(from, kind, to)| Step::Link { from, kind, to }),
        1 => (0..8_usize).prop_map(Step::Unlink),
        6 => (0..INSTANCES, 0..TYPES, 1..6_usize)
            .prop_map(|(from, kind, count)| Step::Send { from, kind, count }),
        2 => (0..INSTANCES).prop_map(Step::Attach),
        1 => (0..INSTANCES).prop_map(Step::Detach),
        1 => (0..INSTANCES).prop_map(Step::Break),
    ];
    prop::collection::vec(step, 0..120)
}

fn type_name(kind: usize) -> Arc<str> {
    format!("type.{kind}").into()
}

fn decl(kind: usize, schema: TypeSchema) -> Arc<TypeDecl> {
    Arc::new(TypeDecl::new(type_name(kind), Some((schema.hash(), Arc::new(schema)))))
}

fn block(capacity: u32) -> LinkRules {
    LinkRules { policy: Policy::Block, capacity, ..LinkRules::default() }
}

fn request(from: Option<InstanceId>, kind: usize, to: InstanceId) -> LinkRequest {
    LinkRequest {
        from,
        type_name: type_name(kind),
        to: LinkTarget::Instance(to),
        rules: LinkRules { policy: Policy::DropOldest, capacity: 1000, ..LinkRules::default() },
    }
}

proptest! {
    #[test]
    fn each_link_carries_exactly_what_was_sent_while_it_existed(steps in steps()) {
        let router = Router::new(Box::new(Quiet));
        let ids: Vec<_> = (0..INSTANCES).map(|_| InstanceId::generate()).collect();
        let mailboxes: Vec<_> = ids.iter().map(|id| router.add_instance(*id)).collect();
        let sources: Vec<_> = ids
            .iter()
            .map(|id| router.open_source(Some(*id), None, Arc::default()))
            .collect();
        let outputs: Vec<Vec<_>> = sources
            .iter()
            .map(|source| {
                (0..TYPES)
                    .map(|kind| {
                        let decl = decl(kind, TypeSchema::U32);
                        router.declare_output(source, decl, kind as u16, None).unwrap()
                    })
                    .collect()
            })
            .collect();
        let receivers: Vec<_> = mailboxes
            .iter()
            .map(|mailbox| {
                Arc::new(Receiver { mailbox: mailbox.clone(), got: Mutex::default() })
            })
            .collect();
        // The model: what each living link should have carried, per link.
        let mut expected: BTreeMap<LinkId, (Option<usize>, usize, usize, VecDeque<u32>)> =
            BTreeMap::new();
        let mut next = 0_u32;
        for step in steps {
            match step {
                Step::Link { from, kind, to } => {
                    let request = request(from.map(|from| ids[from]), kind, ids[to]);
                    let (id, created) = router.add_link(&request).unwrap();
                    prop_assert_eq!(created, !expected.contains_key(&id));
                    expected.entry(id).or_insert((from, kind, to, VecDeque::new()));
                }
                Step::Unlink(at) => {
                    if let Some(id) = expected.keys().nth(at).copied() {
                        router.remove_link(id).unwrap();
                        expected.remove(&id);
                    }
                }
                Step::Send { from, kind, count } => {
                    let numbers: Vec<u32> = (next..).take(count).collect();
                    next += count as u32;
                    let mut bodies: Vec<_> = numbers
                        .iter()
                        .map(|number| Bytes::copy_from_slice(&number.to_le_bytes()))
                        .collect();
                    let mut woken = Woken::default();
                    sources[from].send_run(outputs[from][kind], &mut bodies, 1, &mut woken);
                    woken.kick();
                    for (link_from, link_kind, _, carried) in expected.values_mut() {
                        if link_from.is_none_or(|link_from| link_from == from) && *link_kind == kind {
                            carried.extend(&numbers);
                        }
                    }
                }
                Step::Attach(at) => mailboxes[at].attach(receivers[at].clone()),
                Step::Detach(at) => {
                    let sink: Arc<dyn Sink> = receivers[at].clone();
                    mailboxes[at].detach(&sink);
                }
                Step::Break(at) => {
                    if let Some(link) = mailboxes[at].next_link() {
                        let mut taken = Vec::new();
                        link.take(4, usize::MAX, &mut taken);
                        mailboxes[at].give_back(link.clone());
                        link.put_back(taken.into_iter());
                    }
                }
            }
        }
        for (at, mailbox) in mailboxes.iter().enumerate() {
            mailbox.attach(receivers[at].clone());
        }
        for link in router.links() {
            let counters = link.counters();
            prop_assert_eq!(counters.queued, 0, "{:?}", counters);
            prop_assert_eq!(counters.sent, counters.delivered);
        }
        for (id, (_, _, to, carried)) in &expected {
            let got = receivers[*to].got.lock().unwrap();
            let got: Vec<u32> =
                got.iter().filter(|(link, _)| link == id).map(|(_, number)| *number).collect();
            prop_assert_eq!(&got, &Vec::from(carried.clone()));
        }
    }
}

#[test]
fn different_schemas_are_refused_when_both_are_known() {
    let router = Router::new(Box::new(Quiet));
    let (from, to) = (InstanceId::generate(), InstanceId::generate());
    let _mailboxes = [from, to].map(|id| router.add_instance(id));
    let source = router.open_source(Some(from), None, Arc::default());
    router.declare_output(&source, decl(0, TypeSchema::U32), 0, None).unwrap();
    router.declare_input(to, decl(0, TypeSchema::U64));
    let error = router.add_link(&request(Some(from), 0, to)).unwrap_err();
    assert!(matches!(error, RouteError::Mismatch(_)), "{error}");
    assert!(router.links().is_empty());

    // Declared anew, the two agree.
    router.declare_input(to, decl(0, TypeSchema::U32));
    assert!(router.add_link(&request(Some(from), 0, to)).is_ok());
}

#[test]
fn a_difference_that_is_discovered_later_marks_the_link() {
    let router = Router::new(Box::new(Quiet));
    let (from, to) = (InstanceId::generate(), InstanceId::generate());
    let _mailboxes = [from, to].map(|id| router.add_instance(id));
    router.add_link(&request(None, 0, to)).unwrap();
    let source = router.open_source(Some(from), None, Arc::default());
    router.declare_output(&source, decl(0, TypeSchema::U32), 0, None).unwrap();
    assert!(router.links()[0].mismatch().is_none());
    router.declare_input(to, decl(0, TypeSchema::U64));
    assert!(router.links()[0].mismatch().is_some());
    router.declare_input(to, decl(0, TypeSchema::U32));
    assert!(router.links()[0].mismatch().is_none());
}

#[test]
fn what_was_declared_to_an_earlier_daemon_counts_and_news_are_told_as_such() {
    let router = Router::new(Box::new(Quiet));
    let (from, to) = (InstanceId::generate(), InstanceId::generate());
    let _mailboxes = [from, to].map(|id| router.add_instance(id));
    let told = Arc::new(Mutex::new(Vec::new()));
    let keep = |id, direction, schema| {
        let told = told.clone();
        let tell: TellType = Arc::new(move |direction, decl, is_news| {
            let hash = decl.schema.as_ref().map(|(hash, _)| *hash);
            told.lock().unwrap().push((id, direction, hash, is_news));
        });
        router.keep_types(id, [(direction, (*decl(0, schema)).clone())], tell);
    };
    keep(from, Direction::Output, TypeSchema::U32);
    keep(to, Direction::Input, TypeSchema::U64);
    assert_eq!(router.declared(from), (vec!["type.0".to_owned()], vec![]));

    // Neither of them is connected.
    let wanted = request(Some(from), 0, to);
    let error = router.add_link(&wanted).unwrap_err();
    let RouteError::Mismatch(error) = error else { panic!("{error}") };
    // One that was made before is there, with the same mark.
    router.restore_link(&wanted).unwrap();
    assert_eq!(router.links()[0].mismatch(), Some(error));

    // The same again is no news; another schema is, and so is none.
    let declare = |schema: Option<TypeSchema>| {
        let source = router.open_source(Some(from), None, Arc::default());
        let schema = schema.map(|schema| (schema.hash(), Arc::new(schema)));
        let decl = Arc::new(TypeDecl::new(type_name(0), schema));
        router.declare_output(&source, decl, 0, None).unwrap();
        std::mem::take(&mut *told.lock().unwrap())
    };
    let (u32, u64) = (TypeSchema::U32.hash(), TypeSchema::U64.hash());
    let output = Direction::Output;
    assert_eq!(declare(Some(TypeSchema::U32)), [(from, output, Some(u32), false)]);
    assert_eq!(declare(Some(TypeSchema::U64)), [(from, output, Some(u64), true)]);
    assert_eq!(router.links()[0].mismatch(), None);
    assert_eq!(declare(Some(TypeSchema::U64)), [(from, output, Some(u64), false)]);
    assert_eq!(declare(None), [(from, output, None, true)]);
    assert_eq!(declare(None), [(from, output, None, false)]);
    router.declare_input(to, decl(0, TypeSchema::U64));
    router.declare_input(to, decl(1, TypeSchema::U64));
    let input = |is_news| (to, Direction::Input, Some(u64), is_news);
    assert_eq!(*told.lock().unwrap(), [input(false), input(true)]);
}

struct Told(Mutex<Vec<u16>>);

impl Upstream for Told {
    fn window_moved(&self, channel: u16) {
        self.0.lock().unwrap().push(channel);
    }
}

#[test]
fn a_block_link_grants_its_capacity_beyond_what_was_consumed() {
    let router = Router::new(Box::new(Quiet));
    let (from, to) = (InstanceId::generate(), InstanceId::generate());
    let mailboxes = [from, to].map(|id| router.add_instance(id));
    let told = Arc::new(Told(Mutex::default()));
    let concrete = Arc::downgrade(&told);
    let upstream: std::sync::Weak<dyn Upstream> = concrete;
    let source = router.open_source(Some(from), Some(upstream), Arc::default());
    let output = router.declare_output(&source, decl(0, TypeSchema::U32), 7, None).unwrap();
    assert_eq!(source.grant(7), u64::MAX);

    let block = LinkRequest { rules: block(10), ..request(None, 0, to) };
    router.add_link(&block).unwrap();
    assert_eq!((source.grant(7), told.0.lock().unwrap().len()), (10, 1));

    let mut bodies = vec![Bytes::from_static(b"\0\0\0\0"); 10];
    let mut woken = Woken::default();
    source.send_run(output, &mut bodies, 1, &mut woken);
    woken.kick();
    assert_eq!(source.grant(7), 10, "nobody has taken anything");

    let receiver = Receiver { mailbox: mailboxes[1].clone(), got: Mutex::default() };
    mailboxes[1].attach(Arc::new(receiver));
    assert_eq!(source.grant(7), 20);
    assert_eq!(told.0.lock().unwrap().len(), 3, "told for each half of the window, not more");
}

/// As a connection does: it asks for the new grant at once.
struct Asking(std::sync::OnceLock<std::sync::Weak<Source>>);

impl Upstream for Asking {
    fn window_moved(&self, channel: u16) {
        if let Some(source) = self.0.get().and_then(std::sync::Weak::upgrade) {
            let _ = source.grant(channel);
        }
    }
}

#[test]
fn a_sender_beyond_its_grant_does_not_lock_up_the_table() {
    let (done, finished) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let router = Router::new(Box::new(Quiet));
        let (from, to) = (InstanceId::generate(), InstanceId::generate());
        let _mailboxes = [from, to].map(|id| router.add_instance(id));
        let asking = Arc::new(Asking(std::sync::OnceLock::new()));
        let concrete = Arc::downgrade(&asking);
        let source = router.open_source(Some(from), Some(concrete), Arc::default());
        asking.0.set(Arc::downgrade(&source)).unwrap();
        let output = router.declare_output(&source, decl(0, TypeSchema::U32), 7, None).unwrap();
        let block = LinkRequest { rules: block(1), ..request(None, 0, to) };
        router.add_link(&block).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Far beyond what finds a place: the rest is refused, which moves the window.
                for _ in 0..3000 {
                    let mut bodies = vec![Bytes::from_static(b"\0\0\0\0"); 100];
                    let mut woken = Woken::default();
                    source.send_run(output, &mut bodies, 1, &mut woken);
                    woken.kick();
                }
                over.store(true, std::sync::atomic::Ordering::Release);
            });
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Acquire) {
                    let (id, _) = router.add_link(&request(Some(from), 0, from)).unwrap();
                    router.remove_link(id).unwrap();
                }
            });
        });
        let counters = router.links()[0].counters();
        assert_eq!(counters.sent, 300_000);
        assert!(counters.drops.full > 0, "{counters:?}");
        let _ = done.send(());
    });
    finished.recv_timeout(std::time::Duration::from_secs(60)).expect("nobody waits for ever");
}

#[test]
fn large_messages_narrow_the_window() {
    let router = Router::new(Box::new(Quiet));
    let (from, to) = (InstanceId::generate(), InstanceId::generate());
    let _mailboxes = [from, to].map(|id| router.add_instance(id));
    let told = Arc::new(Told(Mutex::default()));
    let concrete = Arc::downgrade(&told);
    let source = router.open_source(Some(from), Some(concrete), Arc::default());
    let output = router.declare_output(&source, decl(0, TypeSchema::Bytes), 7, None).unwrap();
    let block = LinkRequest { rules: block(1000), ..request(None, 0, to) };
    router.add_link(&block).unwrap();
    assert_eq!(source.grant(7), 1000);
    let mut woken = Woken::default();
    source.send_run(output, &mut vec![vec![0; 16 << 20].into()], 1, &mut woken);
    woken.kick();
    assert_eq!(source.grant(7), 4, "64 MiB under way, not 16 GiB");
    assert_eq!(told.0.lock().unwrap().len(), 2, "and the sender is told");
}

#[test]
fn why_messages_go_through_the_daemon_is_said_unless_they_are_to() {
    let router = Router::new(Box::new(Quiet));
    let to = LinkTarget::Udp("h:1".into());
    let request = LinkRequest { to, ..request(None, 0, InstanceId::generate()) };
    let (id, _) = router.add_link(&request).unwrap();
    let way = |transport| {
        router.change_link(id, LinkRules { transport, ..request.rules }).unwrap();
        router.links()[0].way()
    };
    assert_eq!(way(Transport::Routed), (Way::Routed, None));
    for transport in [Transport::Auto, Transport::Direct] {
        let (way, why) = way(transport);
        assert!(way == Way::Routed && why.unwrap().contains("datagram socket"));
    }
}
