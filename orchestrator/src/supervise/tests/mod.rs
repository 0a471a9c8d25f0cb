//! The machine against a kernel of a few lines, over random sequences of events.

use std::time::Duration;

use orchestrator_proto::Millis;
use orchestrator_proto::control::{
    Check, Desired, Exit, Kind, Overlap, Probe, Readiness, Restart, RestartPolicy, Schedule,
    Signal, Stop, StopStep, Supervision,
};
use proptest::prelude::*;

use super::*;

mod schedule;

const TIMEOUT: Duration = Duration::from_secs(10);
const TERM: i32 = 15;

/// Processes as far as the machine can see them.
#[derive(Debug)]
struct World {
    machine: Machine,
    now: Duration,
    /// A spawn is under way.
    spawning: bool,
    /// The main process, while it lives.
    main: Option<u32>,
    /// Other members of the process group.
    others: u32,
    /// Reports of an empty tree that were asked for and have not come.
    watching: bool,
    next_pid: u32,
    starts_waiting: u32,
    stops_waiting: u32,
    /// Since when there has been nothing but waiting for the tree to go.
    asked_at: Option<Duration>,
    killed: bool,
    /// Something that it needs is not there.
    blocked: bool,
    /// The stop command runs.
    commanded: bool,
    /// Signals since the last spawn, and the most that any of its rules has had.
    signals: usize,
    most_signals: usize,
    /// A run of a schedule is under way.
    in_run: bool,
    log: Vec<Notice>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start,
    Restart,
    Stop,
    Kill,
    SpawnWorks,
    SpawnFails,
    MainExits,
    MainForks,
    OtherExits,
    Wait(u64),
    Early,
    Block,
    Unblock,
    LoseRequirement(Effect),
    SayReady,
    SayAlive,
    Probe(bool),
    MoreTime(u64),
    CommandEnds(bool),
    RunNow,
    Due,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Start),
        2 => Just(Step::Restart),
        3 => Just(Step::Stop),
        1 => Just(Step::Kill),
        6 => Just(Step::SpawnWorks),
        1 => Just(Step::SpawnFails),
        3 => Just(Step::MainExits),
        2 => Just(Step::MainForks),
        3 => Just(Step::OtherExits),
        2 => (0_u64..15_000).prop_map(Step::Wait),
        1 => Just(Step::Early),
        1 => Just(Step::Block),
        2 => Just(Step::Unblock),
        1 => prop_oneof![Just(Effect::Stop), Just(Effect::Restart)].prop_map(Step::LoseRequirement),
        3 => Just(Step::SayReady),
        2 => Just(Step::SayAlive),
        4 => any::<bool>().prop_map(Step::Probe),
        1 => (0_u64..20_000).prop_map(Step::MoreTime),
        2 => any::<bool>().prop_map(Step::CommandEnds),
        2 => Just(Step::RunNow),
        3 => Just(Step::Due),
    ]
}

/// Every kind of rules, with times that come in reach of [`Step::Wait`].
fn rules() -> impl Strategy<Value = Supervision> {
    let probe = || {
        (1_u32..4, 1_u32..3).prop_map(|(failures, successes)| Probe {
            failures,
            successes,
            ..Probe::new(Check::Tcp("localhost:1".into()))
        })
    };
    let restart = (
        prop_oneof![
            Just(RestartPolicy::Never),
            Just(RestartPolicy::OnFailure),
            Just(RestartPolicy::Always)
        ],
        0_u64..3000,
        0_u32..4,
    );
    let restart = restart.prop_map(|(policy, delay, burst)| Restart {
        policy,
        delay: Millis(delay),
        burst,
        ..Restart::default()
    });
    let readiness = prop_oneof![
        Just(Readiness::Running),
        Just(Readiness::Notify),
        Just(Readiness::Runtime),
        probe().prop_map(Readiness::Probe)
    ];
    let times = (prop_oneof![Just(0_u64), 1_u64..20_000], prop_oneof![Just(0_u64), 1_u64..20_000]);
    let stop = (any::<bool>(), prop::collection::vec(0_u64..10_000, 1..4));
    (restart, readiness, prop::option::of(probe()), times, stop, kind()).prop_map(
        |(restart, readiness, liveness, (start_timeout, watchdog), (command, waits), kind)| {
            Supervision {
                run_timeout: Millis(kind.1),
                kind: kind.0,
                restart,
                readiness,
                start_timeout: Millis(start_timeout),
                liveness,
                watchdog: Millis(watchdog),
                stop: Stop {
                    command: if command { vec!["/bin/quit".into()] } else { Vec::new() },
                    steps: waits
                        .into_iter()
                        .map(|wait| StopStep { signal: Signal(TERM), wait: Millis(wait) })
                        .collect(),
                },
                ..Supervision::default()
            }
        },
    )
}

/// Every kind, and how long it may run.
fn kind() -> impl Strategy<Value = (Kind, u64)> {
    let schedule = schedule::overlap()
        .prop_map(|overlap| Kind::Schedule(Schedule { overlap, ..Schedule::new("every 10s") }));
    let kind = prop_oneof![1 => Just(Kind::Service), 1 => Just(Kind::Task), 2 => schedule];
    (kind, prop_oneof![Just(0_u64), 1_u64..20_000])
}

impl World {
    fn new() -> Self {
        Self::with(Supervision::default())
    }

    fn with(rules: Supervision) -> Self {
        Self {
            most_signals: rules.stop.steps.len(),
            machine: Machine::new(rules, 7),
            blocked: false,
            commanded: false,
            signals: 0,
            now: Duration::ZERO,
            spawning: false,
            main: None,
            others: 0,
            watching: false,
            next_pid: 100,
            starts_waiting: 0,
            stops_waiting: 0,
            asked_at: None,
            killed: false,
            in_run: false,
            log: Vec::new(),
        }
    }

    fn empty(&self) -> bool {
        self.main.is_none() && self.others == 0
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start => {
                self.starts_waiting += 1;
                self.feed(Event::StartRequested);
            }
            Step::Restart => {
                self.starts_waiting += 1;
                self.feed(Event::RestartRequested);
            }
            Step::Stop => {
                self.stops_waiting += 1;
                self.feed(Event::StopRequested);
            }
            Step::Kill => {
                self.stops_waiting += 1;
                self.feed(Event::KillRequested);
            }
            Step::SpawnWorks if self.spawning => {
                self.spawning = false;
                self.next_pid += 1;
                self.main = Some(self.next_pid);
                self.feed(Event::Spawned { pid: self.next_pid });
            }
            Step::SpawnFails if self.spawning => {
                self.spawning = false;
                self.feed(Event::SpawnFailed { error: "no".into() });
            }
            Step::MainExits if self.main.is_some() => self.main_exits(Exit::Code(0)),
            Step::MainForks if !self.empty() => self.others += 1,
            Step::OtherExits if self.others > 0 => {
                self.others -= 1;
                self.report_empty();
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                if self.machine.next_deadline().is_some_and(|at| at <= self.now) {
                    self.feed(Event::Deadline);
                }
            }
            Step::Early => self.feed(Event::Deadline),
            Step::Block => {
                self.blocked = true;
                self.feed(Event::Blocked { by: "db to be ready".into() });
            }
            Step::Unblock => {
                self.blocked = false;
                self.feed(Event::Unblocked);
            }
            Step::LoseRequirement(effect) => {
                self.feed(Event::RequirementLost { reason: "db has failed".into(), effect });
            }
            Step::SayReady => self.feed(Event::SaidReady),
            Step::SayAlive => self.feed(Event::SaidAlive),
            Step::Probe(well) if self.machine.probe().is_some() => {
                self.feed(Event::Probed(if well { Ok(()) } else { Err("deaf".into()) }));
            }
            Step::MoreTime(ms) => self.feed(Event::MoreTime(Duration::from_millis(ms))),
            Step::RunNow => {
                self.starts_waiting += 1;
                self.feed(Event::RunRequested);
            }
            Step::Due => self.feed(Event::Due { at_ms: 7 }),
            Step::CommandEnds(worked) if self.commanded => {
                self.commanded = false;
                self.feed(Event::StopCommandEnded { worked });
            }
            _ => {}
        }
        self.check();
    }

    fn main_exits(&mut self, exit: Exit) {
        self.main = None;
        let tree_empty = self.others == 0;
        self.feed(Event::MainExited { exit, tree_empty });
    }

    fn report_empty(&mut self) {
        if self.watching && self.empty() {
            self.watching = false;
            self.feed(Event::TreeEmpty);
        }
    }

    fn feed(&mut self, event: Event) {
        for action in self.machine.handle(self.now, event) {
            match action {
                Action::Spawn => {
                    assert!(self.empty() && !self.spawning, "two processes");
                    assert!(!self.watching, "still watching the tree before");
                    assert!(!self.blocked, "what it needs is not there");
                    self.spawning = true;
                    self.signals = 0;
                    self.commanded = false;
                    self.asked_at = None;
                    self.killed = false;
                }
                Action::StopCommand => {
                    assert!(self.main.is_some() && self.asked_at.is_none() && !self.killed);
                    self.commanded = true;
                }
                Action::SignalTree(signal) => {
                    assert_eq!(signal, TERM);
                    assert!(!self.empty());
                    self.signals += 1;
                    assert!(self.signals <= self.most_signals, "asked more often than it should");
                    self.asked_at.get_or_insert(self.now);
                }
                Action::KillTree => {
                    assert!(!self.empty());
                    self.killed = true;
                }
                Action::WatchTree => {
                    assert!(!self.watching && self.main.is_none());
                    self.watching = true;
                }
                Action::Emit(notice) => self.emit(notice),
                Action::AnswerStart(answer) => {
                    if let StartAnswer::Running { pid, .. } = answer {
                        assert_eq!(self.main, Some(pid), "a lie");
                    }
                    self.starts_waiting = 0;
                }
                Action::AnswerThisStart(answer) => {
                    match answer {
                        StartAnswer::Running { pid, .. } => assert_eq!(self.main, Some(pid)),
                        StartAnswer::Scheduled { .. } | StartAnswer::Queued => {
                            assert!(self.machine.schedule().is_some());
                            assert_eq!(self.machine.desired(), Desired::Running);
                        }
                        StartAnswer::Failed { .. } | StartAnswer::Cancelled => {}
                    }
                    assert!(self.starts_waiting > 0, "an answer to nobody");
                    self.starts_waiting -= 1;
                }
                Action::AnswerStop { .. } => {
                    assert!(self.empty() && !self.spawning, "a lie");
                    self.stops_waiting = 0;
                }
            }
        }
    }

    /// The order of what is told.
    fn emit(&mut self, notice: Notice) {
        let last = self.log.iter().rev().find(|n| {
            matches!(n, Notice::Started { .. } | Notice::Exited { .. } | Notice::Stopped)
        });
        match &notice {
            Notice::Started { .. } => {
                assert!(matches!(last, None | Some(Notice::Stopped)), "started after {last:?}")
            }
            Notice::Exited { .. } => assert!(matches!(last, Some(Notice::Started { .. }))),
            Notice::Stopped => {
                assert!(self.empty(), "something is left");
                assert!(!matches!(last, Some(Notice::Started { .. })));
            }
            Notice::RunBegan => {
                assert!(!self.in_run, "two runs");
                self.in_run = true;
            }
            Notice::RunEnded(_) => {
                assert!(self.in_run, "a run that has not begun");
                self.in_run = false;
            }
            Notice::RunSkipped { .. } => assert!(self.machine.schedule().is_some()),
            _ => {}
        }
        self.log.push(notice);
    }

    /// What holds after every step.
    fn check(&self) {
        let machine = &self.machine;
        if machine.is_final() {
            assert!(self.empty() && !self.spawning);
            assert_eq!(machine.next_deadline(), None, "a timer in a final state");
            assert_eq!((self.starts_waiting, self.stops_waiting), (0, 0));
            assert!(machine.probe().is_none(), "a question to nobody");
        }
        match machine.state() {
            State::Starting { pid, .. } => assert_eq!(self.main, Some(*pid)),
            State::Ready { pid, .. } | State::Unhealthy { pid, .. } => {
                assert_eq!(self.main, Some(*pid));
                assert_eq!((self.starts_waiting, self.stops_waiting), (0, 0));
            }
            State::Stopping { .. } => {
                assert!(!self.empty());
                machine.next_deadline().expect("a stop has a deadline");
            }
            State::Scheduled => {
                assert!(machine.schedule().is_some() && !self.in_run);
                assert!(self.empty() && !self.spawning);
                assert_eq!(machine.next_deadline(), None, "a timer for nothing");
                assert_eq!((self.starts_waiting, self.stops_waiting), (0, 0));
            }
            State::Waiting { .. } => {
                assert!(self.blocked && self.empty() && !self.spawning);
                assert_eq!(machine.next_deadline(), None, "a timer for nothing");
            }
            State::BackOff { until, .. } => {
                assert!(self.empty() && !self.spawning);
                let longest = 2 * machine.rules().restart.max_delay.duration();
                assert!(*until <= self.now + longest);
            }
            _ => {}
        }
        if machine.schedule().is_some() {
            assert!(!matches!(machine.state(), State::Completed { .. } | State::Failed { .. }));
        } else {
            assert!(!self.in_run);
        }
        if machine.is_final() {
            assert!(!self.in_run, "a run without an end");
        }
        if machine.rules().restart.policy == RestartPolicy::Never {
            assert!(!matches!(machine.state(), State::BackOff { .. }));
        } else {
            assert!(!matches!(machine.state(), State::Unhealthy { .. }));
        }
        if machine.desired() == Desired::Stopped {
            assert_eq!(self.starts_waiting, 0, "a start waits for nothing");
        }
    }

    /// Lets time pass; the processes go only when killed. Not for rules that start again for ever.
    fn settle(&mut self) {
        for _ in 0..200 {
            if self.spawning {
                self.step(Step::SpawnWorks);
            }
            let Some(at) = self.machine.next_deadline() else {
                return;
            };
            self.now = self.now.max(at);
            self.feed(Event::Deadline);
            if self.killed {
                self.others = 0;
                if self.main.is_some() {
                    self.main_exits(Exit::Signal { signal: SIGKILL, core_dumped: false });
                }
                self.report_empty();
            }
            self.check();
        }
        panic!("it never settles: {self:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_over_thousands_of_steps(
        rules in rules(), steps in prop::collection::vec(step(), 0..3000),
    ) {
        let mut world = World::with(rules);
        for step in steps {
            world.step(step);
        }
    }

    #[test]
    fn rules_can_change_at_any_time(
        first in rules(),
        parts in prop::collection::vec((prop::collection::vec(step(), 0..20), rules()), 0..20),
    ) {
        let mut world = World::with(first);
        for (steps, rules) in parts {
            for step in steps {
                world.step(step);
            }
            world.most_signals = world.most_signals.max(rules.stop.steps.len());
            let (main, desired) = (world.main, world.machine.desired());
            world.feed(Event::RulesChanged(rules.clone().into()));
            world.check();
            prop_assert_eq!(world.machine.rules(), &rules);
            prop_assert_eq!((world.main, world.machine.desired()), (main, desired));
        }
        world.step(Step::Stop);
        world.settle();
        prop_assert_eq!(world.machine.state(), &State::Stopped);
    }

    #[test]
    fn a_stop_is_final(
        rules in rules(), steps in prop::collection::vec(step(), 0..200), kill: bool,
    ) {
        let mut world = World::with(rules);
        for step in steps {
            world.step(step);
        }
        world.step(if kill { Step::Kill } else { Step::Stop });
        prop_assert_eq!(world.machine.desired(), Desired::Stopped);
        world.settle();
        prop_assert_eq!(world.machine.state(), &State::Stopped);
        prop_assert!(world.empty() && !world.watching);
        prop_assert_eq!((world.starts_waiting, world.stops_waiting), (0, 0));
        // Whatever happens now, it stays stopped.
        for event in [
            Event::Deadline,
            Event::TreeEmpty,
            Event::SaidReady,
            Event::Unblocked,
            Event::Probed(Ok(())),
            Event::RequirementLost { reason: "db has failed".into(), effect: Effect::Restart },
        ] {
            world.feed(event);
            prop_assert_eq!(world.machine.state(), &State::Stopped);
        }
    }

    #[test]
    fn a_start_is_final_too(
        mut rules in rules(), steps in prop::collection::vec(step(), 0..200),
    ) {
        // It is ready as soon as it runs, and stays well.
        rules.readiness = Readiness::Running;
        rules.watchdog = Millis::ZERO;
        rules.run_timeout = Millis::ZERO;
        let mut world = World::with(rules);
        for step in steps {
            world.step(step);
        }
        world.step(Step::Unblock);
        world.step(Step::Start);
        world.settle();
        if matches!(world.machine.state(), State::Failed { .. }) {
            // That was the end of what went on before.
            world.step(Step::Start);
            world.settle();
        }
        let runs = matches!(world.machine.state(), State::Ready { .. } | State::Unhealthy { .. });
        let runs = runs || world.machine.state() == &State::Scheduled;
        prop_assert!(runs, "{:?}", world.machine.state());
        prop_assert_eq!(world.starts_waiting, 0);
    }

    #[test]
    fn what_should_run_is_started_again_until_it_is_given_up(
        mut rules in rules(), steps in prop::collection::vec(step(), 0..200),
    ) {
        rules.kind = Kind::Service;
        rules.run_timeout = Millis::ZERO;
        rules.restart.policy = RestartPolicy::Always;
        rules.restart.burst = 3;
        rules.restart.burst_within = Millis::secs(1_000_000);
        rules.stop.command.clear();
        let mut world = World::with(rules);
        for step in steps {
            world.step(step);
        }
        world.step(Step::Unblock);
        world.step(Step::Start);
        // It ends whenever it runs.
        for _ in 0..100 {
            if world.spawning {
                world.step(Step::SpawnWorks);
            }
            world.step(Step::MainExits);
            while world.others > 0 {
                world.step(Step::OtherExits);
            }
            if let Some(at) = world.machine.next_deadline() {
                world.now = world.now.max(at);
                world.feed(Event::Deadline);
                world.check();
            }
        }
        let given_up = matches!(world.machine.state(), State::Failed { .. });
        prop_assert!(given_up, "{:?}", world.machine.state());
    }
}

fn running() -> World {
    let mut world = World::new();
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world
}

const EXIT: Exit = Exit::Code(0);

#[test]
fn an_exit_by_itself() {
    let mut world = running();
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Completed { exit: EXIT });
    assert_eq!(world.machine.desired(), Desired::Running);
    let requested = false;
    let exited = Notice::Exited { exit: EXIT, requested };
    assert_eq!(world.log[1..], [exited, Notice::Stopped]);
    world.step(Step::Stop);
    assert_eq!(world.machine.state(), &State::Stopped);
    assert_eq!(world.machine.last_exit(), Some(EXIT));
}

#[test]
fn what_a_main_process_leaves_behind_is_stopped() {
    let mut world = running();
    world.step(Step::MainForks);
    world.step(Step::MainExits);
    assert_eq!(world.machine.next_deadline(), Some(TIMEOUT), "{:?}", world.machine.state());
    world.step(Step::OtherExits);
    assert_eq!(world.machine.state(), &State::Completed { exit: EXIT });
    assert!(world.log.contains(&Notice::Stopping { signal: TERM }));
    assert!(!world.log.contains(&Notice::Killed));
}

#[test]
fn the_rest_of_the_group_is_not_asked_twice() {
    let mut world = running();
    world.step(Step::MainForks);
    world.step(Step::Stop);
    world.step(Step::Wait(3000));
    world.step(Step::MainExits);
    assert_eq!(world.machine.next_deadline(), Some(TIMEOUT));
    world.step(Step::Wait(7000));
    assert!(world.killed);
    world.step(Step::OtherExits);
    assert_eq!(world.machine.state(), &State::Stopped);
    assert_eq!(
        world.log[1..],
        [
            Notice::Stopping { signal: TERM },
            Notice::Exited { exit: EXIT, requested: true },
            Notice::Killed,
            Notice::Stopped,
        ]
    );
}

#[test]
fn a_stop_overtakes_a_start() {
    let mut world = World::new();
    world.step(Step::Start);
    world.step(Step::Stop);
    assert_eq!((world.starts_waiting, world.stops_waiting), (0, 1));
    world.step(Step::SpawnWorks);
    assert_eq!(world.asked_at, Some(Duration::ZERO));
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Stopped);

    world.step(Step::Start);
    world.step(Step::Stop);
    world.step(Step::SpawnFails);
    assert_eq!(world.machine.state(), &State::Stopped);
}

#[test]
fn a_start_waits_for_the_stop() {
    let mut world = running();
    world.step(Step::Stop);
    world.step(Step::Start);
    assert_eq!(world.machine.desired(), Desired::Running);
    assert!(!world.spawning);
    world.step(Step::MainExits);
    assert!(world.spawning);
    assert_eq!(world.stops_waiting, 0);
    world.step(Step::SpawnWorks);
    assert!(matches!(world.machine.state(), State::Ready { pid: 102, .. }));
}

#[test]
fn a_kill_does_not_ask() {
    let mut world = running();
    world.step(Step::Kill);
    assert!(world.killed && world.asked_at.is_none());
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Stopped);
    assert_eq!(world.log[1], Notice::Stopping { signal: SIGKILL });
}

#[test]
fn a_timeout_without_bound_does_not_overflow() {
    let mut rules = Supervision::default();
    rules.stop.steps[0].wait = Millis(u64::MAX);
    let mut machine = Machine::new(rules, 7);
    let now = Duration::MAX - Duration::from_secs(1);
    for event in [Event::StartRequested, Event::Spawned { pid: 2 }, Event::StopRequested] {
        let _ = machine.handle(now, event);
    }
    assert_eq!(machine.next_deadline(), Some(Duration::MAX));
}

fn restarted(policy: RestartPolicy) -> Supervision {
    let restart = Restart { policy, jitter: 0, ..Restart::default() };
    Supervision { restart, ..Supervision::default() }
}

#[test]
fn it_is_started_again_after_a_delay_that_grows() {
    let mut world = World::with(restarted(RestartPolicy::Always));
    world.step(Step::Start);
    for delay in [100, 200, 400] {
        world.step(Step::SpawnWorks);
        world.step(Step::MainExits);
        let until = world.now + Duration::from_millis(delay);
        assert_eq!(world.machine.next_deadline(), Some(until));
        world.step(Step::Wait(delay - 1));
        assert!(!world.spawning);
        world.step(Step::Wait(1));
        assert!(world.spawning);
    }
    // After it has been ready for a while, the delays begin anew.
    world.step(Step::SpawnWorks);
    world.step(Step::Wait(10_000));
    world.step(Step::MainExits);
    assert_eq!(world.machine.next_deadline(), Some(world.now + Duration::from_millis(100)));
    world.step(Step::Stop);
    assert_eq!(world.machine.state(), &State::Stopped);
}

#[test]
fn a_success_is_no_reason_to_start_it_again_on_failure() {
    let mut world = World::with(restarted(RestartPolicy::OnFailure));
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(1));
    assert!(matches!(world.machine.state(), State::BackOff { attempt: 1, .. }));
    world.step(Step::Wait(100));
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(0));
    assert_eq!(world.machine.state(), &State::Completed { exit: EXIT });
}

#[test]
fn it_is_given_up_when_it_was_started_too_often_and_a_start_begins_anew() {
    let mut rules = restarted(RestartPolicy::OnFailure);
    rules.restart.burst = 1;
    let mut world = World::with(rules);
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(1));
    world.step(Step::Wait(100));
    world.step(Step::SpawnFails);
    let State::Failed { reason, exit: None } = world.machine.state() else {
        panic!("{:?}", world.machine.state());
    };
    assert_eq!(reason, "no; it was started again 1 times within 1m already");
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(1));
    assert!(matches!(world.machine.state(), State::BackOff { attempt: 1, .. }));
}

#[test]
fn a_start_is_answered_when_it_is_ready() {
    for early in [false, true] {
        let mut world =
            World::with(Supervision { readiness: Readiness::Notify, ..Supervision::default() });
        world.step(Step::Start);
        if early {
            // It was quicker than the news of its start.
            world.step(Step::SayReady);
        }
        world.step(Step::SpawnWorks);
        assert_eq!(world.starts_waiting, u32::from(!early));
        world.step(Step::SayReady);
        assert_eq!(world.starts_waiting, 0);
        assert!(matches!(world.machine.state(), State::Ready { .. }));
        // That was of that process.
        world.step(Step::Restart);
        world.step(Step::MainExits);
        world.step(Step::SpawnWorks);
        assert_eq!(world.starts_waiting, 1);
    }
}

#[test]
fn who_is_not_ready_in_time_has_failed() {
    let rules = Supervision {
        readiness: Readiness::Probe(Probe::new(Check::Tcp("localhost:1".into()))),
        start_timeout: Millis(500),
        ..Supervision::default()
    };
    let mut world = World::with(rules);
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.step(Step::Probe(false));
    world.step(Step::Wait(500));
    assert!(matches!(world.machine.state(), State::Stopping { .. }));
    world.step(Step::MainExits);
    let State::Failed { reason, .. } = world.machine.state() else {
        panic!("{:?}", world.machine.state());
    };
    assert_eq!(reason, "it was not ready within 500ms: deaf");
}

#[test]
fn who_is_not_well_is_started_again_or_left_alone() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnFailure] {
        let mut rules = restarted(policy);
        rules.liveness = Some(Probe::new(Check::Tcp("localhost:1".into())));
        let mut world = World::with(rules);
        world.step(Step::Start);
        world.step(Step::SpawnWorks);
        for well in [false, false, true, false, false] {
            world.step(Step::Probe(well));
            assert!(matches!(world.machine.state(), State::Ready { .. }));
        }
        world.step(Step::Probe(false));
        if policy == RestartPolicy::Never {
            assert!(matches!(world.machine.state(), State::Unhealthy { .. }));
            world.step(Step::Probe(true));
            assert!(matches!(world.machine.state(), State::Ready { .. }));
        } else {
            assert!(matches!(world.machine.state(), State::Stopping { .. }));
            world.step(Step::MainExits);
            assert!(matches!(world.machine.state(), State::BackOff { .. }));
        }
    }
}

#[test]
fn who_has_to_say_that_it_is_alive_and_does_not() {
    let mut rules = restarted(RestartPolicy::OnFailure);
    rules.watchdog = Millis(1000);
    let mut world = World::with(rules);
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    for _ in 0..3 {
        world.step(Step::Wait(900));
        world.step(Step::SayAlive);
    }
    assert!(matches!(world.machine.state(), State::Ready { .. }));
    world.step(Step::Wait(1000));
    assert!(matches!(world.machine.state(), State::Stopping { .. }));
}

#[test]
fn a_stop_goes_through_its_command_and_its_signals() {
    let wait = |ms| StopStep { signal: Signal(TERM), wait: Millis(ms) };
    let stop = Stop { command: vec!["/bin/quit".into()], steps: vec![wait(100), wait(200)] };
    let mut world = World::with(Supervision { stop, ..Supervision::default() });
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.step(Step::Stop);
    assert!(world.commanded && world.signals == 0);
    world.step(Step::Wait(50));
    world.step(Step::CommandEnds(true));
    world.step(Step::Wait(49));
    assert_eq!(world.signals, 0, "it has the rest of the time");
    world.step(Step::Wait(1));
    assert_eq!(world.signals, 1);
    world.step(Step::Wait(100));
    assert_eq!(world.signals, 2);
    world.step(Step::MoreTime(1000));
    world.step(Step::Wait(999));
    assert!(!world.killed);
    world.step(Step::Wait(1));
    assert!(world.killed);
}

#[test]
fn a_stop_command_that_fails_is_followed_by_the_signal_at_once() {
    let stop = Stop { command: vec!["/bin/quit".into()], ..Stop::default() };
    let mut world = World::with(Supervision { stop, ..Supervision::default() });
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.step(Step::Stop);
    world.step(Step::CommandEnds(false));
    assert_eq!(world.signals, 1);
}

#[test]
fn what_it_needs_comes_and_goes() {
    let mut world = World::new();
    world.step(Step::Block);
    world.step(Step::Start);
    assert_eq!(world.machine.state(), &State::Waiting { on: "db to be ready".into() });
    assert_eq!(world.starts_waiting, 1);
    world.step(Step::Unblock);
    world.step(Step::SpawnWorks);
    assert_eq!(world.starts_waiting, 0);
    world.step(Step::Block);
    world.step(Step::LoseRequirement(Effect::Restart));
    world.step(Step::MainExits);
    assert!(matches!(world.machine.state(), State::Waiting { .. }));
    world.step(Step::Unblock);
    world.step(Step::SpawnWorks);
    world.step(Step::LoseRequirement(Effect::Stop));
    world.step(Step::MainExits);
    let reason = "db has failed".to_owned();
    assert_eq!(world.machine.state(), &State::Failed { reason, exit: None });
}

#[test]
fn new_rules_count_at_once() {
    // It waits to be started again, and is not to be any more.
    let mut world = World::with(restarted(RestartPolicy::OnFailure));
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(3));
    assert!(matches!(world.machine.state(), State::BackOff { .. }));
    world.feed(Event::RulesChanged(Supervision::default().into()));
    let (reason, exit) = ("exit code 3".to_owned(), Some(Exit::Code(3)));
    assert_eq!(world.machine.state(), &State::Failed { reason, exit });

    // It had to be ready in a second, and gets two.
    let slow = |ms| {
        let start_timeout = Millis(ms);
        Supervision { readiness: Readiness::Notify, start_timeout, ..Supervision::default() }
    };
    let mut world = World::with(slow(1000));
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.step(Step::Wait(900));
    world.feed(Event::RulesChanged(slow(2000).into()));
    assert_eq!(world.machine.next_deadline(), Some(Duration::from_secs(2)));
    // It need not say so any more.
    world.feed(Event::RulesChanged(Supervision::default().into()));
    assert!(matches!(world.machine.state(), State::Ready { .. }));
    assert_eq!(world.starts_waiting, 0);

    // It is not well, and nobody asks any more.
    let probe = Probe { failures: 1, ..Probe::new(Check::Tcp("localhost:1".into())) };
    let rules = Supervision { liveness: Some(probe), ..Supervision::default() };
    let mut world = World::with(rules.clone());
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    world.step(Step::Probe(false));
    assert!(matches!(world.machine.state(), State::Unhealthy { .. }));
    let mut ill = World { machine: world.machine.clone(), ..World::new() };
    (ill.main, ill.next_pid) = (world.main, world.next_pid);
    ill.log.clone_from(&world.log);
    world.feed(Event::RulesChanged(Supervision::default().into()));
    assert!(matches!(world.machine.state(), State::Ready { .. }));
    // Or it is to be started again when it is not well.
    let restart = Restart { policy: RestartPolicy::Always, ..Restart::default() };
    ill.feed(Event::RulesChanged(Supervision { restart, ..rules }.into()));
    assert!(matches!(ill.machine.state(), State::Stopping { .. }));
}

#[test]
fn the_table_of_the_readme_is_that_of_the_code() {
    let table = |text: &str, prefix: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::trim);
        let lines = lines.skip_while(|line| !line.starts_with("| state | start |"));
        lines
            .take_while(|line| !line.starts_with("An instance at rest") && !line.starts_with('#'))
            .filter(|line| line.starts_with('|'))
            .map(Into::into)
            .collect()
    };
    let code = table(include_str!("../machine/mod.rs"), "///");
    let readme = table(include_str!("../../../../README.md"), "");
    assert!(code.len() > 20);
    assert_eq!(readme[..code.len()], code[..]);
}
