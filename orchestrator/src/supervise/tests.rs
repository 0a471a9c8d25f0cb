//! The machine against a kernel of a few lines, over random sequences of events.

use std::time::Duration;

use orchestrator_proto::control::{Desired, Exit};
use proptest::prelude::*;

use super::*;

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
    ]
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(Config { stop_signal: TERM, stop_timeout: TIMEOUT }),
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
                    self.spawning = true;
                    self.asked_at = None;
                    self.killed = false;
                }
                Action::SignalTree(signal) => {
                    assert_eq!(signal, TERM);
                    assert!(!self.empty());
                    assert!(self.asked_at.is_none(), "asked twice");
                    self.asked_at = Some(self.now);
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
        }
        if let State::Running { pid } = machine.state() {
            assert_eq!(self.main, Some(*pid));
            assert_eq!((self.starts_waiting, self.stops_waiting), (0, 0));
        }
        if let State::Stopping { .. } = machine.state() {
            assert!(!self.empty());
            let at = machine.next_deadline().expect("a stop has a deadline");
            assert!(at <= self.now + TIMEOUT);
            if let Some(asked) = self.asked_at.filter(|_| !self.killed) {
                assert!(at <= asked + TIMEOUT, "the deadline moved");
            }
        }
        if machine.desired() == Desired::Stopped {
            assert_eq!(self.starts_waiting, 0, "a start waits for nothing");
        }
    }

    /// Lets time pass; the processes go only when killed.
    fn settle(&mut self) {
        if self.spawning {
            self.step(Step::SpawnWorks);
        }
        for _ in 0..100 {
            let Some(at) = self.machine.next_deadline() else {
                return;
            };
            self.now = self.now.max(at);
            self.feed(Event::Deadline);
            assert!(self.killed, "no SIGKILL after the deadline");
            self.others = 0;
            if self.main.is_some() {
                self.main_exits(Exit::Signal { signal: SIGKILL, core_dumped: false });
            }
            self.report_empty();
            if self.spawning {
                self.step(Step::SpawnWorks);
            }
            self.check();
        }
        panic!("it never settles: {self:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_over_thousands_of_steps(steps in prop::collection::vec(step(), 0..3000)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }

    #[test]
    fn a_stop_is_final(steps in prop::collection::vec(step(), 0..200), kill: bool) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.step(if kill { Step::Kill } else { Step::Stop });
        prop_assert_eq!(world.machine.desired(), Desired::Stopped);
        world.settle();
        prop_assert_eq!(world.machine.state(), &State::Stopped);
        prop_assert!(world.empty() && !world.watching);
        prop_assert_eq!((world.starts_waiting, world.stops_waiting), (0, 0));
        // Whatever the kernel says now, it stays stopped.
        for event in [Event::Deadline, Event::TreeEmpty] {
            world.feed(event);
            prop_assert_eq!(world.machine.state(), &State::Stopped);
        }
    }

    #[test]
    fn a_start_is_final_too(steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.step(Step::Start);
        world.settle();
        let running = matches!(world.machine.state(), State::Running { .. });
        prop_assert!(running, "{:?}", world.machine.state());
        prop_assert_eq!(world.starts_waiting, 0);
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
    assert_eq!(world.machine.state(), &State::Exited { exit: EXIT });
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
    assert_eq!(world.machine.state(), &State::Exited { exit: EXIT });
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
    assert!(matches!(world.machine.state(), State::Running { pid: 102 }));
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
    let mut machine = Machine::new(Config { stop_signal: TERM, stop_timeout: Duration::MAX });
    for event in [Event::StartRequested, Event::Spawned { pid: 2 }, Event::StopRequested] {
        let _ = machine.handle(Duration::from_secs(9), event);
    }
    assert_eq!(machine.next_deadline(), Some(Duration::MAX));
}
