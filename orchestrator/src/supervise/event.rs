//! What the machine is told.

use std::time::Duration;

use orchestrator_proto::control::Exit;

use super::Rules;

/// Something that happened to an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It should run. Answered by [`AnswerStart`](super::Action::AnswerStart).
    StartRequested,
    /// It should run, as a new process. Answered by [`AnswerStart`](super::Action::AnswerStart).
    RestartRequested,
    /// It should run now, although it is not time as yet. Answered by
    /// [`AnswerStart`](super::Action::AnswerStart).
    RunRequested,
    /// It is time. Comes only while it is [desired](super::Machine::desired) and has a schedule.
    Due {
        /// When it was, milliseconds since 1970 (UTC).
        at_ms: u64,
    },
    /// It should not run. Answered by [`AnswerStop`](super::Action::AnswerStop).
    StopRequested,
    /// It should not run, and is not asked but killed. Answered by
    /// [`AnswerStop`](super::Action::AnswerStop).
    KillRequested,
    /// Something that it waits for is not there: it can't be started from now on.
    Blocked {
        /// What, as in `db to be ready`.
        by: String,
    },
    /// All that it waits for is there.
    Unblocked,
    /// An instance that it needs has failed or was stopped.
    RequirementLost {
        /// Which and how, as in `db has failed`.
        reason: String,
        /// What follows.
        effect: Effect,
    },
    /// [`Spawn`](super::Action::Spawn) worked.
    Spawned {
        /// The main process.
        pid: u32,
    },
    /// A main process was found that an earlier machine had asked for. First of all.
    Adopted {
        /// The main process.
        pid: u32,
        /// Whether it has been ready.
        ready: bool,
    },
    /// Processes were found that a main process has left behind, of whose end an earlier machine was
    /// told. First of all.
    LeftBehind,
    /// [`Spawn`](super::Action::Spawn) did not work, and nothing is left of the attempt.
    SpawnFailed {
        /// Why, with the errno in words.
        error: String,
    },
    /// It has said that it is ready.
    SaidReady,
    /// It has said that it is well.
    SaidAlive,
    /// It has said that it is not well, and what its supervisor should do about it is what follows
    /// when it has not said in time that it is.
    SaidUnwell,
    /// It has asked for more time to become ready or to stop: this long from now.
    MoreTime(Duration),
    /// It was asked by the probe of [`Machine::probe`](super::Machine::probe): it is well, or
    /// what is wrong.
    Probed(Result<(), String>),
    /// The command of [`StopCommand`](super::Action::StopCommand) has ended.
    StopCommandEnded {
        /// Whether it did what it should. Then the instance may take the rest of its time.
        worked: bool,
    },
    /// The main process ended.
    MainExited {
        /// How.
        exit: Exit,
        /// Whether nothing else of its process group is left.
        tree_empty: bool,
    },
    /// Nothing of the process group is left. Comes after [`WatchTree`](super::Action::WatchTree).
    TreeEmpty,
    /// From now on it is supervised like this.
    RulesChanged(Rules),
    /// The time of [`Machine::next_deadline`](super::Machine::next_deadline) has come.
    Deadline,
}

/// What becomes of an instance that has lost one that it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It is stopped and has failed.
    Stop,
    /// It is stopped and waits.
    Restart,
}
