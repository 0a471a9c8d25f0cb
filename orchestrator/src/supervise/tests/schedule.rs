//! Runs of a schedule, one scenario each.

use orchestrator_proto::control::RunResult;

use super::*;

fn schedule(overlap: Overlap) -> Supervision {
    let schedule = Schedule { overlap, ..Schedule::new("30 3 * * *") };
    Supervision { kind: Kind::Schedule(schedule), ..Supervision::default() }
}

fn started(overlap: Overlap) -> World {
    let mut world = World::with(schedule(overlap));
    world.step(Step::Start);
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert_eq!(world.machine.desired(), Desired::Running);
    assert_eq!(world.starts_waiting, 0, "nobody waits for the next time");
    world
}

/// With a run under way.
fn running(overlap: Overlap) -> World {
    let mut world = started(overlap);
    world.step(Step::Due);
    world.step(Step::SpawnWorks);
    assert!(matches!(world.machine.state(), State::Ready { .. }));
    world
}

fn ended(world: &World) -> Vec<RunResult> {
    let ended = world.log.iter().filter_map(|notice| match notice {
        Notice::RunEnded(result) => Some(result.clone()),
        _ => None,
    });
    ended.collect()
}

fn skipped(world: &World) -> usize {
    world.log.iter().filter(|notice| matches!(notice, Notice::RunSkipped { .. })).count()
}

fn failed(reason: &str, exit: Option<Exit>) -> RunResult {
    RunResult::Failed { reason: reason.into(), exit }
}

const DONE: RunResult = RunResult::Completed { exit: Exit::Code(0) };

#[test]
fn each_run_ends_and_the_next_time_is_waited_for() {
    let mut world = started(Overlap::Skip);
    for _ in 0..3 {
        world.step(Step::Due);
        world.step(Step::SpawnWorks);
        world.step(Step::MainExits);
        assert_eq!(world.machine.state(), &State::Scheduled);
    }
    assert_eq!(ended(&world), [DONE, DONE, DONE]);
    world.step(Step::Stop);
    assert_eq!(world.machine.state(), &State::Stopped);
    world.step(Step::Due);
    assert_eq!(world.machine.state(), &State::Stopped, "it is stopped");
}

#[test]
fn a_run_that_fails_is_tried_again_and_the_schedule_goes_on() {
    let mut rules = schedule(Overlap::Skip);
    rules.restart.policy = RestartPolicy::OnFailure;
    rules.restart.burst = 1;
    let mut world = World::with(rules);
    world.step(Step::Start);
    world.step(Step::Due);
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(3));
    assert!(matches!(world.machine.state(), State::BackOff { .. }));
    assert!(ended(&world).is_empty(), "the same run");
    world.step(Step::Wait(10_000));
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(3));
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert!(matches!(ended(&world).as_slice(), [RunResult::Failed { exit: Some(_), .. }]));
    // The next run has all its attempts again.
    world.step(Step::Due);
    world.step(Step::SpawnFails);
    assert!(matches!(world.machine.state(), State::BackOff { .. }));
}

#[test]
fn skip() {
    let mut world = running(Overlap::Skip);
    world.step(Step::Due);
    world.step(Step::Due);
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert_eq!((ended(&world), skipped(&world)), (vec![DONE], 2));
}

#[test]
fn queue() {
    let mut world = running(Overlap::Queue);
    for _ in 0..3 {
        world.step(Step::Due);
    }
    world.step(Step::MainExits);
    assert!(world.spawning, "one of them follows");
    assert_eq!((ended(&world), skipped(&world)), (vec![DONE], 2));
    world.step(Step::SpawnWorks);
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert_eq!(ended(&world), [DONE, DONE]);
}

#[test]
fn a_stop_forgets_what_waits() {
    let mut world = running(Overlap::Queue);
    world.step(Step::Due);
    world.step(Step::Stop);
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Stopped);
    assert_eq!(ended(&world), [RunResult::Stopped]);
}

#[test]
fn replace() {
    let mut world = running(Overlap::Replace);
    world.step(Step::Due);
    assert_eq!(world.signals, 1);
    world.step(Step::Due);
    assert_eq!(world.signals, 1, "one is about to begin");
    world.step(Step::MainExits);
    assert!(world.spawning);
    assert_eq!(ended(&world), [RunResult::Stopped]);
    world.step(Step::SpawnWorks);
    world.step(Step::MainExits);
    assert_eq!(ended(&world), [RunResult::Stopped, DONE]);
    assert_eq!(world.machine.state(), &State::Scheduled);
}

#[test]
fn replace_while_it_is_to_be_tried_again() {
    let mut rules = schedule(Overlap::Replace);
    rules.restart.policy = RestartPolicy::OnFailure;
    let mut world = World::with(rules);
    world.step(Step::Start);
    world.step(Step::Due);
    world.step(Step::SpawnWorks);
    world.main_exits(Exit::Code(3));
    world.step(Step::Due);
    assert!(world.spawning);
    assert_eq!(ended(&world), [failed("exit code 3", Some(Exit::Code(3)))]);
    // What it has left behind is being ended; it gives way then, and is not tried again.
    world.step(Step::SpawnWorks);
    world.step(Step::MainForks);
    world.main_exits(Exit::Code(3));
    world.step(Step::Due);
    assert!(matches!(world.machine.state(), State::Stopping { .. }));
    world.step(Step::OtherExits);
    assert!(world.spawning);
    assert_eq!(ended(&world).len(), 2);
}

#[test]
fn run_now() {
    let mut world = started(Overlap::Skip);
    world.step(Step::RunNow);
    assert!(world.spawning);
    assert_eq!(world.starts_waiting, 1);
    world.step(Step::SpawnWorks);
    assert_eq!(world.starts_waiting, 0);
    let ready = world.machine.state().clone();
    world.step(Step::RunNow);
    assert_eq!((world.machine.state(), world.starts_waiting), (&ready, 0), "it runs already");
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Scheduled);
}

#[test]
fn run_now_while_it_runs() {
    let mut world = running(Overlap::Queue);
    world.step(Step::RunNow);
    assert_eq!(world.starts_waiting, 0, "it is told that it comes later");
    world.step(Step::MainExits);
    assert!(world.spawning);
    let mut world = running(Overlap::Replace);
    world.step(Step::RunNow);
    assert_eq!(world.starts_waiting, 1);
    world.step(Step::MainExits);
    world.step(Step::SpawnWorks);
    assert_eq!(world.starts_waiting, 0, "told when the new one runs");
}

#[test]
fn what_is_stopped_is_not_run() {
    let mut world = World::with(schedule(Overlap::Skip));
    world.step(Step::RunNow);
    assert_eq!((world.machine.state(), world.starts_waiting), (&State::Stopped, 0));
    let mut world = running(Overlap::Queue);
    world.step(Step::Stop);
    world.step(Step::RunNow);
    assert_eq!(world.starts_waiting, 0);
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Stopped);
}

#[test]
fn a_start_while_it_stops_leads_to_its_next_time() {
    let mut world = running(Overlap::Skip);
    world.step(Step::Stop);
    world.step(Step::Start);
    assert_eq!(world.machine.desired(), Desired::Running);
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert_eq!(ended(&world), [RunResult::Stopped]);
}

#[test]
fn a_start_leaves_a_run_alone_and_a_restart_does_not() {
    let mut world = running(Overlap::Skip);
    let ready = world.machine.state().clone();
    world.step(Step::Start);
    assert_eq!(world.machine.state(), &ready);
    world.step(Step::Restart);
    world.step(Step::MainExits);
    assert!(world.spawning, "another run");
    let mut world = started(Overlap::Skip);
    world.step(Step::Restart);
    assert_eq!((world.machine.state(), world.starts_waiting), (&State::Scheduled, 0));
}

#[test]
fn a_run_waits_for_what_it_needs() {
    let mut world = started(Overlap::Skip);
    world.step(Step::Block);
    world.step(Step::Due);
    assert!(matches!(world.machine.state(), State::Waiting { .. }));
    world.step(Step::Due);
    assert_eq!(skipped(&world), 1);
    world.step(Step::Unblock);
    assert!(world.spawning);
}

#[test]
fn what_does_not_end_in_time_has_failed() {
    for kind in [Kind::Task, schedule(Overlap::Skip).kind] {
        let rules = Supervision { kind, run_timeout: Millis::secs(5), ..Supervision::default() };
        let mut world = World::with(rules.clone());
        world.step(Step::Start);
        world.step(Step::Due);
        world.step(Step::SpawnWorks);
        assert_eq!(world.machine.next_deadline(), Some(Duration::from_secs(5)));
        world.step(Step::Wait(5000));
        assert_eq!(world.signals, 1);
        world.main_exits(Exit::Signal { signal: TERM, core_dumped: false });
        let reason = "it did not end within 5s";
        if rules.kind == Kind::Task {
            let expected = State::Failed { reason: reason.into(), exit: None };
            assert_eq!(world.machine.state(), &expected);
        } else {
            assert_eq!(world.machine.state(), &State::Scheduled);
            assert_eq!(ended(&world), [failed(reason, None)]);
        }
        assert_eq!(world.machine.next_deadline(), None);
    }
    // One that has ended before leaves no timer to the next.
    let mut world = running(Overlap::Skip);
    world.feed(Event::RulesChanged(
        Supervision { run_timeout: Millis::secs(5), ..schedule(Overlap::Skip) }.into(),
    ));
    assert_eq!(world.machine.next_deadline(), Some(Duration::from_secs(5)));
    world.step(Step::MainExits);
    assert_eq!(world.machine.next_deadline(), None);
}

#[test]
fn what_becomes_a_schedule_and_what_was_one() {
    let change = |world: &mut World, rules: Supervision| {
        world.feed(Event::RulesChanged(rules.into()));
        world.check();
    };
    let mut world = World::new();
    world.step(Step::Start);
    world.step(Step::SpawnWorks);
    change(&mut world, schedule(Overlap::Skip));
    assert!(matches!(world.machine.state(), State::Ready { .. }), "it runs on");
    world.step(Step::MainExits);
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert_eq!(ended(&world), [DONE]);
    change(&mut world, Supervision::default());
    assert!(world.spawning, "a service that should run");
    world.step(Step::SpawnWorks);
    world.step(Step::MainExits);
    assert!(matches!(world.machine.state(), State::Completed { .. }));
    change(&mut world, schedule(Overlap::Skip));
    assert_eq!(world.machine.state(), &State::Scheduled);
    assert_eq!(ended(&world), [DONE], "that was no run");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever came before, a schedule that is started and whose processes end comes to rest at
    /// its next time, and runs when that has come.
    #[test]
    fn a_schedule_goes_on(
        mut rules in rules(), steps in prop::collection::vec(step(), 0..200), overlap in overlap(),
    ) {
        rules.kind = schedule(overlap).kind;
        rules.restart.burst = 3;
        rules.restart.burst_within = Millis::secs(1_000_000);
        if rules.restart.policy == RestartPolicy::Always {
            rules.restart.policy = RestartPolicy::OnFailure;
        }
        let mut world = World::with(rules);
        for step in steps {
            world.step(step);
        }
        world.step(Step::Unblock);
        world.step(Step::Start);
        for _ in 0..100 {
            world.step(Step::SpawnWorks);
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
        prop_assert_eq!(world.machine.state(), &State::Scheduled);
        let before = ended(&world).len();
        world.step(Step::Due);
        world.step(Step::SpawnWorks);
        world.step(Step::MainExits);
        prop_assert_eq!(ended(&world)[before..].to_vec(), [DONE]);
    }
}

pub(super) fn overlap() -> impl Strategy<Value = Overlap> {
    prop_oneof![Just(Overlap::Skip), Just(Overlap::Queue), Just(Overlap::Replace)]
}
