//! What the machine answers.

use std::time::Duration;

use orchestrator_proto::control::{Exit, RunResult};

/// Something to be done for an instance, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Execute the program. To be followed by [`Spawned`](super::Event::Spawned) or
    /// [`SpawnFailed`](super::Event::SpawnFailed).
    Spawn,
    /// Execute the command that asks it to stop. To be followed by
    /// [`StopCommandEnded`](super::Event::StopCommandEnded).
    StopCommand,
    /// Send this signal to the whole process group.
    SignalTree(i32),
    /// Send SIGKILL to all of it.
    KillTree,
    /// Report [`TreeEmpty`](super::Event::TreeEmpty) once nothing of the process group is left.
    WatchTree,
    /// Tell whoever wants to know.
    Emit(Notice),
    /// Answer every start, restart and run that waits.
    AnswerStart(StartAnswer),
    /// Answer the start, restart or run that has just come, and no other.
    AnswerThisStart(StartAnswer),
    /// Answer every stop and kill that waits: nothing of the instance is left.
    AnswerStop {
        /// Whether there was anything to stop.
        changed: bool,
    },
}

/// What became of a request to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartAnswer {
    /// It runs, and is ready.
    Running {
        /// The main process.
        pid: u32,
        /// False if it ran already when it was asked to.
        changed: bool,
    },
    /// It has a schedule, and runs when it is time.
    Scheduled {
        /// False if it had been started already.
        changed: bool,
    },
    /// It has a schedule, and runs when the run that is under way is over.
    Queued,
    /// It does not.
    Failed {
        /// Why, with the errno in words if there is one.
        error: String,
    },
    /// A stop came before the start was done.
    Cancelled,
}

/// What others may want to know, as in [`EventKind`](orchestrator_proto::control::EventKind).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It should run, but has to wait.
    Waiting {
        /// For what, as in `db to be ready`.
        on: String,
    },
    /// The program was executed.
    Started {
        /// The main process.
        pid: u32,
    },
    /// It was found running.
    Adopted {
        /// The main process.
        pid: u32,
    },
    /// The program could not be executed.
    StartFailed {
        /// Why, with the errno in words.
        error: String,
    },
    /// It is ready, or well again. Not told of one that is ready as soon as it runs.
    Ready,
    /// It is not well any more.
    Unhealthy {
        /// What is wrong.
        reason: String,
    },
    /// Its processes were sent this signal, so that they stop.
    Stopping {
        /// The signal's number.
        signal: i32,
    },
    /// It did not stop in time; what was left of it was sent SIGKILL.
    Killed,
    /// The main process ended.
    Exited {
        /// How.
        exit: Exit,
        /// Whether somebody had asked it to stop.
        requested: bool,
    },
    /// Nothing of it is left.
    Stopped,
    /// It will be started again.
    BackOff {
        /// What happened.
        reason: String,
        /// When.
        delay: Duration,
        /// How many times on end it has been started again by now, this one included.
        attempt: u32,
    },
    /// It will not be started again by itself.
    Failed {
        /// Why.
        reason: String,
    },
    /// A run of the schedule begins.
    RunBegan,
    /// The run of the schedule is over.
    RunEnded(RunResult),
    /// A run of the schedule is left out.
    RunSkipped {
        /// When it was due, milliseconds since 1970 (UTC).
        at_ms: u64,
        /// Why.
        reason: String,
    },
}
