//! One who sends and those who receive, connected by a carrier.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use orchestrator_proto::control::{Policy, Transport};
use orchestrator_proto::ring::Files;
use orchestrator_proto::sdk::Message;
use orchestrator_proto::{InstanceId, LinkId};
use tempfile::TempDir;

use super::blob::{Back, Instance, Out};
use super::carrier::Carrier;
use super::nats::{Nats, Server};
use super::stream::Streams;
use crate::Regime;
use crate::actor::{self, Actor};
use crate::machine::{End, Machine};
use crate::pipe::{Bare, Far, Near, Pipe};
use crate::relay::Relay;
use crate::ring::{CAPACITY, Ring, SPIN};
use crate::series::Times;
use crate::stage::Stage;
use crate::wire::Dialect;

/// What is to be carried.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) regime: Regime,
    /// Bytes of a message.
    pub(super) size: usize,
    pub(super) receivers: usize,
}

/// Our end, and the processes at the other one.
pub(super) struct Line<'s> {
    pub(super) near: Box<dyn Pipe>,
    far: Vec<Actor>,
    /// Neither end, but at work between them.
    between: Vec<u32>,
    load: Load,
    links: Option<Links<'s>>,
    _keep: Keep,
}

/// How messages go to each receiver and back from it, and how many of them have gone.
struct Links<'s> {
    stage: &'s Stage,
    sender: InstanceId,
    out: Vec<LinkId>,
    back: Vec<LinkId>,
    sent: u64,
    answered: u64,
}

/// What ends with a line.
#[derive(Default)]
struct Keep {
    _dir: Option<TempDir>,
    _relay: Option<Relay>,
    _server: Option<Server>,
}

impl<'s> Line<'s> {
    /// The links are on this stage.
    pub(super) fn open(carrier: Carrier, load: Load, stage: &'s Stage) -> Self {
        match carrier {
            Carrier::Sockets | Carrier::BareRing | Carrier::Ring => Self::by_files(carrier, load),
            Carrier::Relay => Self::over_relay(load),
            Carrier::Link(transport) => Self::over_links(transport, load, stage),
            Carrier::Nats => Self::over_nats(load),
            Carrier::Iceoryx | Carrier::Zenoh => Self::over_rival(carrier, load),
        }
    }

    fn new(near: Box<dyn Pipe>, far: Vec<Actor>, load: Load) -> Self {
        let keep = Keep::default();
        Self { near, far, between: Vec::new(), load, links: None, _keep: keep }
    }

    fn by_files(carrier: Carrier, load: Load) -> Self {
        let files = Near::new();
        let mut far = load.start(carrier, |_| files.path().as_os_str().to_owned());
        let mut accepted: Vec<Far> = far.iter().map(|_| files.accept()).collect();
        let near: Box<dyn Pipe> = match carrier {
            Carrier::Ring => {
                let far = accepted.remove(0);
                let [out, back] = [(); 2].map(|()| Files::ring(CAPACITY).unwrap());
                [&out, &back].into_iter().for_each(|files| far.give(&files.as_fds()));
                Box::new(Ring::new(out, back, load.spin()))
            }
            Carrier::BareRing => {
                let far = accepted.remove(0);
                let [out, back] = [(); 2].map(|()| Bare::file(load.size));
                [&out, &back].into_iter().for_each(|file| far.give(&[file.as_fd(); 3]));
                Box::new(Bare::new(&out, &back, load.size))
            }
            _ => Box::new(Streams(accepted.into_iter().map(|far| far.0).collect())),
        };
        far.iter_mut().for_each(Actor::wait_ready);
        Self::new(near, far, load)
    }

    fn over_relay(load: Load) -> Self {
        let relay = Relay::start(load.receivers);
        let near = UnixStream::connect(&relay.near).unwrap();
        let mut far = load.start(Carrier::Relay, |at| relay.far[at].as_os_str().to_owned());
        far.iter_mut().for_each(Actor::wait_ready);
        let mut line = Self::new(Box::new(Streams(vec![near])), far, load);
        line.between.push(relay.pid());
        line._keep._relay = Some(relay);
        line
    }

    /// Under `block`, so that nothing is lost and a sender is as slow as its slowest receiver.
    fn over_links(transport: Transport, load: Load, stage: &'s Stage) -> Self {
        let sender = stage.seat();
        let seats: Vec<_> = (0..load.receivers).map(|_| stage.seat()).collect();
        let link = |ends| stage.link_by(transport, ends, Some(Policy::Block), None);
        let out: Vec<_> = seats.iter().map(|seat| link((sender, Out::NAME, *seat))).collect();
        let back: Vec<_> = seats.iter().map(|seat| link((*seat, Back::NAME, sender))).collect();
        let socket = |at: usize| stage.socket(seats[at], Dialect::Native).into_os_string();
        let mut far = load.start(Carrier::Link(transport), socket);
        far.iter_mut().for_each(Actor::wait_ready);
        let near = stage.socket(sender, Dialect::Native);
        let near = Box::new(Instance::<Out, Back>::connect(&near, load.size));
        let mut line = Self::new(near, far, load);
        line.between.push(stage.daemon.pid());
        let all: Vec<_> = out.iter().chain(&back).copied().collect();
        line.near.settle(Box::new(|| stage.wait_way(transport, &all)));
        line.links = Some(Links { stage, sender, out, back, sent: 0, answered: 0 });
        line
    }

    fn over_nats(load: Load) -> Self {
        let server = Server::start();
        let mut far = load.start(Carrier::Nats, |_| server.port.to_string().into());
        far.iter_mut().for_each(Actor::wait_ready);
        let near = Nats::connect(server.port, ["out", "back"]);
        let mut line = Self::new(Box::new(near), far, load);
        line.between.push(server.pid());
        line._keep._server = Some(server);
        line
    }

    #[cfg(feature = "rivals")]
    fn over_rival(carrier: Carrier, load: Load) -> Self {
        let dir = tempfile::Builder::new().prefix("rival").tempdir().unwrap();
        let path = dir.path().join("socket");
        // An end that listens has to be there first.
        let zenoh = (carrier == Carrier::Zenoh).then(|| super::zenoh::Zenoh::near(&path));
        let mut far = load.start(carrier, |_| path.as_os_str().to_owned());
        far.iter_mut().for_each(Actor::wait_ready);
        let near: Box<dyn Pipe> = match zenoh {
            Some(zenoh) => {
                zenoh.hear_hello(load.receivers);
                Box::new(zenoh)
            }
            None => Box::new(crate::iceoryx::Iceoryx::near(&path, load.size)),
        };
        let mut line = Self::new(near, far, load);
        line._keep._dir = Some(dir);
        line
    }

    #[cfg(not(feature = "rivals"))]
    fn over_rival(carrier: Carrier, _: Load) -> Self {
        panic!("{} is not compiled", carrier.name());
    }

    /// Messages and their answers, one after the other; `after` is called after each.
    pub(super) fn roundtrips(&mut self, count: usize, after: &mut dyn FnMut()) {
        let mut bytes = vec![7; self.load.size];
        self.far[0].tell(&format!("echo {count}"));
        self.near.roundtrips(&mut bytes, count, after);
        self.far[0].wait_done();
        if let Some(links) = &mut self.links {
            links.sent += count as u64;
            links.answered += count as u64;
        }
        assert_eq!(bytes.len(), self.load.size);
    }

    /// Messages one way, until each receiver has all of them.
    pub(super) fn burst(&mut self, count: usize) {
        let bytes = vec![7; self.load.size];
        let order = format!("sink {count}");
        self.far.iter_mut().for_each(|far| far.tell(&order));
        self.near.send_many(&bytes, count);
        self.far.iter_mut().for_each(Actor::wait_done);
        if let Some(links) = &mut self.links {
            links.sent += count as u64;
        }
    }

    /// The instance that is our end of links.
    pub(super) fn sender(&self) -> InstanceId {
        self.links.as_ref().expect("there are links").sender
    }

    /// The processes that have something to do with it, but for this one.
    pub(super) fn processes(&self) -> Vec<u32> {
        self.far.iter().map(Actor::pid).chain(self.between.iter().copied()).collect()
    }

    /// Checks that each link has delivered all that was sent over it.
    pub(super) fn check_nothing_lost(&mut self) {
        let Some(Links { stage, out, back, sent, answered, .. }) = &self.links else { return };
        self.near.settle(Box::new(|| {
            stage.check_nothing_lost(out, *sent);
            stage.check_nothing_lost(&back[..1], *answered);
        }));
    }
}

/// How long so many round trips take, each.
pub(super) fn trip_times(line: &mut Line<'_>, count: usize) -> Times {
    let mut times = Times::with_capacity(count);
    let mut began = Instant::now();
    line.roundtrips(count, &mut || {
        times.push(began.elapsed());
        began = Instant::now();
    });
    times
}

/// A process that takes messages of a link as the instance with this socket.
pub(super) fn far_actor(transport: Transport, load: Load, socket: &Path) -> Actor {
    let mut actors = load.start(Carrier::Link(transport), |_| socket.as_os_str().to_owned());
    actors.pop().expect("there is one receiver")
}

impl Load {
    /// The processes at the other end; each is told where to connect.
    fn start(self, carrier: Carrier, path: impl Fn(usize) -> std::ffi::OsString) -> Vec<Actor> {
        let [regime, size] = [self.regime.to_string(), self.size.to_string()];
        let one = |at| {
            let path = path(at);
            let args = [carrier.name().as_ref(), regime.as_ref(), size.as_ref(), path.as_os_str()];
            Actor::start::<&OsStr>("transports", args)
        };
        (0..self.receivers).map(one).collect()
    }

    fn spin(self) -> Duration {
        if self.regime == Regime::Spinning { SPIN } else { Duration::ZERO }
    }
}

/// The part of a process at the other end.
pub(super) fn play(carrier: Carrier, load: Load, path: &str) {
    // Before there are other threads.
    Machine::look().part(load.regime, End::Far);
    let mut pipe = far_end(carrier, load, path);
    let mut bytes = vec![0; load.size];
    let mut orders = actor::lines_of_orders();
    actor::say_ready();
    while let Some(order) = pipe.order(&mut orders) {
        let (what, count) = order.split_once(' ').expect("an order has two words");
        let count = count.parse().expect("an order has a count");
        match what {
            "echo" => pipe.echoes(&mut bytes, count),
            _ => pipe.receive_many(&mut bytes, count),
        }
        actor::say_done();
    }
}

fn far_end(carrier: Carrier, load: Load, path: &str) -> Box<dyn Pipe> {
    match carrier {
        Carrier::Sockets | Carrier::Relay => {
            Box::new(Streams(vec![UnixStream::connect(path).unwrap()]))
        }
        Carrier::BareRing => {
            let far = Far::connect(path);
            let [out, back] = [far.files(), far.files()];
            Box::new(Bare::new(&back[0], &out[0], load.size))
        }
        Carrier::Ring => {
            let far = Far::connect(path);
            let [out, back] = [far.files(), far.files()].map(Files::from_fds);
            Box::new(Ring::new(back, out, load.spin()))
        }
        Carrier::Link(_) => Box::new(Instance::<Back, Out>::connect(Path::new(path), load.size)),
        Carrier::Nats => Box::new(Nats::connect(path.parse().unwrap(), ["back", "out"])),
        #[cfg(feature = "rivals")]
        Carrier::Iceoryx => Box::new(crate::iceoryx::Iceoryx::far(path, load.size, false)),
        #[cfg(feature = "rivals")]
        Carrier::Zenoh => {
            let zenoh = super::zenoh::Zenoh::far(Path::new(path));
            zenoh.say_hello();
            Box::new(zenoh)
        }
        #[cfg(not(feature = "rivals"))]
        Carrier::Iceoryx | Carrier::Zenoh => panic!("{} is not compiled", carrier.name()),
    }
}
