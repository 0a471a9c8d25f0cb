//! Instances that a test plays itself, and the links between them.

use std::path::PathBuf;

use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{
    Counters, LinkInfo, LinkSpec, Policy, Reply, Request, RuntimeDetail, RuntimeSpec, TargetSpec,
    Transport,
};
use orchestrator_proto::runtime::{Direction, Frame};
use orchestrator_proto::{LinkId, TypeSchema, WireError};

use crate::native::Native;
use crate::veecle::Veecle;
use crate::{Daemon, eventually};

impl Daemon {
    /// Adds an instance whose program nobody starts: the test plays it. The answer is its id.
    #[track_caller]
    pub fn put(&self, name: &str) -> String {
        self.put_with(name, |_| {})
    }

    /// The same with changes to its specification.
    #[track_caller]
    pub fn put_with(&self, name: &str, change: impl FnOnce(&mut RuntimeSpec)) -> String {
        let mut spec = RuntimeSpec::new("/bin/true");
        spec.name = Some(name.to_owned());
        change(&mut spec);
        match self.request(Request::RuntimeAdd(spec)) {
            Ok(Reply::Added { id, .. }) => id.to_string(),
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    fn instance_socket(&self, id: &str, dialect: &str) -> PathBuf {
        let mut path = self.socket().as_os_str().to_owned();
        path.push(".d/");
        path.push(id.replace('-', ""));
        path.push(".");
        path.push(dialect);
        path.into()
    }

    /// The native socket of the instance with this id.
    pub fn native_socket(&self, id: &str) -> PathBuf {
        self.instance_socket(id, "native")
    }

    /// The Veecle socket of the instance with this id.
    pub fn veecle_socket(&self, id: &str) -> PathBuf {
        self.instance_socket(id, "veecle")
    }

    /// Connects to the native socket of the instance with this id.
    #[track_caller]
    pub fn native(&self, id: &str) -> Native {
        Native::connect(&self.native_socket(id))
    }

    /// Connects to the Veecle socket of the instance with this id.
    #[track_caller]
    pub fn veecle(&self, id: &str) -> Veecle {
        Veecle::connect(&self.veecle_socket(id))
    }

    /// A connection with one output of numbers, on channel 0.
    #[track_caller]
    pub fn sender(&self, id: &str, type_name: &str) -> Native {
        let mut native = self.native(id);
        native.declare(0, Direction::Output, type_name, &TypeSchema::U32, 0);
        native
    }

    /// A connection with one input of numbers, on channel 0, known to the daemon.
    #[track_caller]
    pub fn receiver(&self, id: &str, type_name: &str) -> Native {
        self.receiver_with_window(id, type_name, 0)
    }

    /// The same with a window.
    #[track_caller]
    pub fn receiver_with_window(&self, id: &str, type_name: &str, window: u32) -> Native {
        let mut native = self.native(id);
        native.declare(0, Direction::Input, type_name, &TypeSchema::U32, window);
        native
    }

    /// Makes a link with the default policy and capacity.
    #[track_caller]
    pub fn link(&self, from: &str, type_name: &str, to: &str) -> LinkId {
        self.link_with(from, type_name, to, Policy::default(), 1024)
    }

    /// Makes a link; `from` is `any` for anybody's messages.
    #[track_caller]
    pub fn link_with(
        &self,
        from: &str,
        type_name: &str,
        to: &str,
        policy: Policy,
        capacity: u32,
    ) -> LinkId {
        match self.try_link(from, type_name, to, policy, capacity) {
            Ok((id, _)) => id,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    /// Makes a link whose messages go this way.
    #[track_caller]
    pub fn link_by(
        &self,
        transport: Transport,
        from: &str,
        type_name: &str,
        to: &str,
        rules: (Policy, u32),
    ) -> LinkId {
        match self.try_link_by(Some(transport), from, type_name, to, rules) {
            Ok((id, _)) => id,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    /// Makes a link, if the daemon agrees; the answer says whether it is new.
    #[track_caller]
    pub fn try_link(
        &self,
        from: &str,
        type_name: &str,
        to: &str,
        policy: Policy,
        capacity: u32,
    ) -> Result<(LinkId, bool), WireError> {
        self.try_link_by(None, from, type_name, to, (policy, capacity))
    }

    #[track_caller]
    fn try_link_by(
        &self,
        transport: Option<Transport>,
        from: &str,
        type_name: &str,
        to: &str,
        (policy, capacity): (Policy, u32),
    ) -> Result<(LinkId, bool), WireError> {
        let spec = LinkSpec {
            from: (from != "any").then(|| from.into()),
            type_name: type_name.to_owned(),
            to: to.parse::<TargetSpec>().unwrap(),
            policy: Some(policy),
            capacity: Some(capacity),
            block_timeout: None,
            history: None,
            transport,
            spin_us: None,
        };
        match self.request(Request::LinkAdd(spec)) {
            Ok(Reply::LinkAdded { id, created }) => Ok((id, created)),
            Err(ClientError::Failed(error)) => Err(error),
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// All links.
    pub fn links(&self) -> Vec<LinkInfo> {
        match self.request(Request::LinkList) {
            Ok(Reply::Links(links)) => links,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// One link.
    #[track_caller]
    pub fn link_info(&self, link: LinkId) -> LinkInfo {
        let links = self.links();
        let found = links.into_iter().find(|info| info.id == link);
        found.expect("the link is there")
    }

    /// What passed over a link. Whatever it is, it adds up.
    #[track_caller]
    pub fn counters(&self, link: LinkId) -> Counters {
        let counters = self.link_info(link).counters;
        assert_adds_up(&counters);
        counters
    }

    /// Waits until so many messages were given to the link and none waits any more, then says
    /// what became of them.
    #[track_caller]
    pub fn settled(&self, link: LinkId, sent: u64) -> Counters {
        let what = format!("link {link} has settled {sent} messages");
        eventually(&what, || {
            let counters = self.counters(link);
            (counters.sent == sent && counters.queued == 0).then_some(counters)
        })
    }

    /// Waits until so many messages were given to the link.
    #[track_caller]
    pub fn given(&self, link: LinkId, sent: u64) -> Counters {
        eventually(&format!("link {link} was given {sent} messages"), || {
            let counters = self.counters(link);
            (counters.sent == sent).then_some(counters)
        })
    }

    /// One instance in full, by name or id.
    #[track_caller]
    pub fn detail(&self, instance: &str) -> RuntimeDetail {
        let show = Request::RuntimeShow { instance: instance.into() };
        match self.request(show) {
            Ok(Reply::Runtime(detail)) => *detail,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// Waits until the instance has declared this output or input.
    #[track_caller]
    pub fn declared(&self, instance: &str, type_name: &str) {
        eventually(&format!("{instance} has declared {type_name}"), || {
            let detail = self.detail(instance);
            let mut names = detail.outputs.iter().chain(&detail.inputs);
            names.any(|name| name == type_name).then_some(())
        });
    }

    /// Waits until the instance has so many open connections.
    #[track_caller]
    pub fn connections(&self, instance: &str, count: u32) {
        eventually(&format!("{instance} has {count} connections"), || {
            (self.info(instance).connections == count).then_some(())
        });
    }

    /// What an instance printed to its standard output so far.
    #[track_caller]
    pub fn printed(&self, instance: &str) -> String {
        self.ok(["runtime", "stdout", instance, "--no-follow"])
    }

    /// Waits until an instance has printed this line.
    #[track_caller]
    pub fn prints(&self, instance: &str, line: &str) {
        eventually(&format!("{instance} prints {line:?}"), || {
            let printed = self.printed(instance);
            printed.lines().any(|other| other == line).then_some(())
        });
    }
}

/// `sent = delivered + dropped + queued`, and the reasons for drops add up too.
#[track_caller]
pub fn assert_adds_up(counters: &Counters) {
    let Counters { sent, delivered, dropped, queued, ref drops, .. } = *counters;
    assert_eq!(sent, delivered + dropped + queued, "{counters:?}");
    assert_eq!(dropped, drops.total(), "{counters:?}");
}

impl Native {
    /// Sends a number on channel 0.
    pub fn number(&mut self, number: u32) {
        self.message(0, &postcard::to_stdvec(&number).unwrap());
    }

    /// Sends numbers on channel 0, many per system call.
    pub fn numbers(&mut self, numbers: impl IntoIterator<Item = u32>) {
        use std::io::Write;
        let mut bytes = Vec::new();
        for number in numbers {
            let payload = postcard::to_stdvec(&number).unwrap();
            let frame = Frame::Message { channel: 0, payload: &payload };
            orchestrator_proto::frame::append(&mut bytes, &frame, 1024).unwrap();
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// Sends numbers from 0 on until `enough` is true, never more than it was granted, and
    /// [`u32::MAX`] after them. The answer is how many numbers came before that.
    pub fn numbers_until(&mut self, mut enough: impl FnMut() -> bool) -> u32 {
        let (mut next, mut granted) = (0, 0);
        while !enough() {
            granted = self.granted_by_now(granted);
            if granted <= u64::from(next) {
                let (_, total) = self.next_grant().expect("the daemon grants");
                granted = total;
                continue;
            }
            let most = u32::try_from(granted - u64::from(next)).unwrap_or(u32::MAX);
            let end = next + most.min(50);
            self.numbers(next..end);
            next = end;
        }
        self.number(u32::MAX);
        next
    }

    /// The next number; none at the end of the stream. Passes over other frames.
    pub fn next_number(&mut self) -> Option<u32> {
        let (_, payload) = self.next_message()?;
        Some(postcard::from_bytes(&payload).expect("a number"))
    }

    /// The next so many numbers.
    #[track_caller]
    pub fn take_numbers(&mut self, count: usize) -> Vec<u32> {
        let numbers = std::iter::from_fn(|| self.next_number()).take(count);
        let numbers: Vec<u32> = numbers.collect();
        assert_eq!(numbers.len(), count, "the stream ended early");
        numbers
    }

    /// The next grant: its channel and total. Passes over other frames.
    pub fn next_grant(&mut self) -> Option<(u16, u64)> {
        loop {
            let grant = self.next(|frame| match frame {
                Frame::Grant { channel, total } => Some((channel, total)),
                _ => None,
            })?;
            if grant.is_some() {
                return grant;
            }
        }
    }

    /// Reads on until the daemon refuses the connection and closes it.
    #[track_caller]
    pub fn refusal(&mut self) -> WireError {
        loop {
            let refused = self
                .next(|frame| match frame {
                    Frame::Refused(error) => Some(error),
                    _ => None,
                })
                .expect("the daemon says why before it closes");
            if let Some(error) = refused {
                assert_eq!(self.next(|_| ()), None, "the connection is closed");
                return error;
            }
        }
    }
}

/// Random numbers that are the same on each run (xorshift64).
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
