//! A daemon with many instances of one program, and one client.

use orchestrator_proto::InstanceId;
use orchestrator_proto::Millis;
use orchestrator_proto::control::{
    ClientBody, Priority, Reply, Request, RestartPolicy, RuntimeSpec, ServerBody,
};
use tests::control::Control;
use tests::{eventually, processes};

use crate::stage::Stage;

/// Requests that are under way at a time.
const WIDTH: usize = 64;

pub(crate) struct Ours {
    pub(crate) stage: Stage,
    pub(crate) instances: Vec<InstanceId>,
}

impl Ours {
    /// A daemon with so many instances, none of which runs.
    pub(crate) fn add(spec: &RuntimeSpec, count: usize) -> Self {
        let stage = Stage::start();
        let mut client = Control::connect(stage.daemon.socket());
        let named = |at| RuntimeSpec { name: Some(format!("s{at}")), ..spec.clone() };
        let answers = all(&mut client, (0..count).map(|at| Request::RuntimeAdd(named(at))));
        let added = answers.into_iter().map(|answer| match answer {
            ServerBody::Reply(Reply::Added { id, .. }) => id,
            other => panic!("{other:?}"),
        });
        let instances = added.collect();
        Self { stage, instances }
    }

    /// Starts them all; the answer is how many could be. Says why others could not.
    pub(crate) fn start(&self) -> usize {
        let priority: Option<Priority> = None;
        let start =
            |id: &InstanceId| Request::RuntimeStart { instance: id.to_string().into(), priority };
        let answers = all(&mut self.client(), self.instances.iter().map(start));
        let (started, other): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| {
            matches!(answer, ServerBody::Reply(Reply::Started { changed: true, .. }))
        });
        if let Some(first) = other.first() {
            let count = other.len();
            eprintln!(
                "ONLY {} OF {} RUN: {count} of {first:?}",
                started.len(),
                self.instances.len()
            );
        }
        started.len()
    }

    pub(crate) fn stop(&self) {
        let stop = |id: &InstanceId| Request::RuntimeStop { instance: id.to_string().into() };
        all(&mut self.client(), self.instances.iter().map(stop));
    }

    pub(crate) fn client(&self) -> Control {
        Control::connect(self.stage.daemon.socket())
    }

    /// All that supervises.
    pub(crate) fn supervisors(&self) -> Vec<u32> {
        let (daemon, holder) = (self.stage.daemon.pid(), self.stage.daemon.holder_pid());
        let capture = eventually("there is a capture process", || processes::capture(holder));
        vec![daemon, holder, capture]
    }
}

/// A program that is executed again as soon as it has ended.
pub(crate) fn restarted(program: impl Into<orchestrator_proto::OsBytes>) -> RuntimeSpec {
    let mut spec = RuntimeSpec::new(program);
    spec.supervision.restart.policy = RestartPolicy::Always;
    spec.supervision.restart.delay = Millis(0);
    spec
}

/// The answers to these requests, in their order, with [`WIDTH`] of them under way.
pub(crate) fn all(
    client: &mut Control,
    requests: impl ExactSizeIterator<Item = Request>,
) -> Vec<ServerBody> {
    let count = requests.len();
    let mut answers: Vec<Option<ServerBody>> = (0..count).map(|_| None).collect();
    let mut requests = requests.enumerate();
    let mut ask = |client: &mut Control| {
        if let Some((at, request)) = requests.next() {
            client.say(at as u64 + 1, ClientBody::Request(request));
        }
    };
    (0..WIDTH).for_each(|_| ask(client));
    for _ in 0..count {
        let frame = client.frame().expect("the daemon answers");
        answers[frame.id as usize - 1] = Some(frame.body);
        ask(client);
    }
    answers.into_iter().flatten().collect()
}
