//! What becomes of messages when the daemon dies, or stands still.

use nix::sys::signal::Signal;
use orchestrator_proto::control::Policy;
use tests::processes;

use super::case::{Case, Dialect};
use super::stage::Stage;

/// L25, L26, L27: under `block` between ends that take part nothing is lost or doubled; else what
/// the daemon held is, and nothing comes out of its order.
pub(crate) fn a_daemon_that_is_killed(case: Case) {
    for policy in [Policy::Block, Policy::DropOldest] {
        let stage = Stage::new(case, policy, if case.can_wait() { 64 } else { 100_000 });
        for _ in 0..3 {
            stage.daemon.replace_killed();
            stage.passes(100);
        }
        let sent = stage.end();
        stage.settled();
        let arrived = stage.arrived(1);
        assert!(arrived.keys().all(|number| *number < sent), "{case:?} {policy}");
        let may_double = case.can_wait() && case.to == Dialect::Veecle && policy == Policy::Block;
        if !may_double {
            stage.check_order();
            assert!(arrived.values().all(|times| *times == 1), "{case:?} {policy}");
        }
        if case.acknowledges() && policy == Policy::Block {
            stage.check_all(1, sent);
        }
    }
}

/// L28: a daemon that stands still for a while loses nothing by that.
pub(crate) fn a_daemon_that_is_stopped(case: Case) {
    let stage = Stage::new(case, Policy::Block, if case.can_wait() { 64 } else { 100_000 });
    let pid = stage.daemon.pid();
    for _ in 0..3 {
        processes::signal(pid, Signal::SIGSTOP);
        // Until the kernel says so, and a little of what is on its way is stuck.
        tests::eventually("it stands still", || (processes::state(pid) == Some('T')).then_some(()));
        let before = stage.count();
        assert!(stage.count() >= before);
        processes::signal(pid, Signal::SIGCONT);
        stage.passes(100);
    }
    assert_eq!(stage.daemon.pid(), pid, "it is the same daemon");
    let sent = stage.end();
    let counters = stage.settled();
    stage.check_order();
    stage.check_all(1, sent);
    assert_eq!((counters.delivered, counters.dropped), (sent, 0), "{case:?}");
}
