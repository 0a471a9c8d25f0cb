//! What should happen to an instance: the state machine of one instance, and nothing else.
//!
//! For `process/`, whose keeper feeds a [`Machine`] with what happened and carries out what
//! it answers. Pure: no clock, no file, no process, no async. The time comes in as an
//! argument, so that every path can be tested without waiting.
//!
//! It promises that
//!
//! - there are never two processes of one instance: each [`Action::Spawn`] comes after the
//!   end of everything that the one before started;
//! - a stop is final: an instance that should be stopped ends in [`State::Stopped`], and if
//!   it does not go by itself, it is sent SIGKILL;
//! - every request is answered exactly once, and truly;
//! - it waits for no time in a final state, so an idle instance costs nothing.

mod machine;

#[cfg(test)]
mod tests;

use std::time::Duration;

use orchestrator_proto::control::Exit;

pub use machine::Machine;

/// SIGKILL, see signal(7).
pub(crate) const SIGKILL: i32 = 9;

/// How an instance is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The number of the signal that asks it to stop.
    pub stop_signal: i32,
    /// From that signal to SIGKILL.
    pub stop_timeout: Duration,
}

/// Something that happened to an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It should run. Answered by [`Action::AnswerStart`].
    StartRequested,
    /// It should run, as a new process. Answered by [`Action::AnswerStart`].
    RestartRequested,
    /// It should not run. Answered by [`Action::AnswerStop`].
    StopRequested,
    /// It should not run, and is not asked but killed. Answered by [`Action::AnswerStop`].
    KillRequested,
    /// [`Action::Spawn`] worked.
    Spawned {
        /// The main process.
        pid: u32,
    },
    /// A main process was found that an earlier machine had asked for. First of all.
    Adopted {
        /// The main process.
        pid: u32,
    },
    /// Processes were found that a main process has left behind, of whose end an earlier machine was
    /// told. First of all.
    LeftBehind,
    /// [`Action::Spawn`] did not work, and nothing is left of the attempt.
    SpawnFailed {
        /// Why, with the errno in words.
        error: String,
    },
    /// The main process ended.
    MainExited {
        /// How.
        exit: Exit,
        /// Whether nothing else of its process group is left.
        tree_empty: bool,
    },
    /// Nothing of the process group is left. Comes after [`Action::WatchTree`].
    TreeEmpty,
    /// The time of [`Machine::next_deadline`] has come.
    Deadline,
}

/// Something to be done for an instance, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Execute the program. To be followed by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn,
    /// Send this signal to the whole process group.
    SignalTree(i32),
    /// Send SIGKILL to the whole process group.
    KillTree,
    /// Report [`Event::TreeEmpty`] once nothing of the process group is left.
    WatchTree,
    /// Tell whoever wants to know.
    Emit(Notice),
    /// Answer every start and restart that waits.
    AnswerStart(StartAnswer),
    /// Answer every stop and kill that waits: nothing of the instance is left.
    AnswerStop {
        /// Whether there was anything to stop: it was starting, running or stopping.
        changed: bool,
    },
}

/// What became of a request to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartAnswer {
    /// It runs.
    Running {
        /// The main process.
        pid: u32,
        /// False if it ran already when it was asked to.
        changed: bool,
    },
    /// The program could not be executed.
    Failed {
        /// Why, with the errno in words.
        error: String,
    },
    /// A stop came before the start was done.
    Cancelled,
}

/// What others may want to know, as in [`EventKind`](orchestrator_proto::control::EventKind).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
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
}

/// What an instance does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Final. Nobody started it, or somebody stopped it.
    Stopped,
    /// Its program is being executed.
    Starting,
    /// Its program is being executed, and will be stopped as soon as that is done: an
    /// `execve` that has begun can't be called back.
    Cancelling {
        /// How it will be stopped.
        how: How,
        /// And then.
        then: Then,
    },
    /// Its main process runs.
    Running {
        /// The main process.
        pid: u32,
    },
    /// Its processes have been signalled, and some are left.
    Stopping {
        /// The main process.
        main: Main,
        /// What they were sent, and until when we wait.
        phase: Phase,
        /// Why it stops.
        cause: Cause,
        /// And then.
        then: Then,
    },
    /// Final. Its main process ended by itself.
    Exited {
        /// How.
        exit: Exit,
    },
    /// Final. Its program could not be executed.
    Failed {
        /// Why, with the errno in words.
        error: String,
    },
}

/// How an instance is made to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// With its stop signal first.
    Ask,
    /// With SIGKILL.
    Kill,
}

/// What comes after a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Nothing.
    Rest,
    /// A start.
    Start,
}

/// Why an instance stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Somebody asked it to.
    Request,
    /// Its main process ended by itself, and the rest of the group has to follow.
    MainEnded,
}

/// The main process of an instance that stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Main {
    /// It has not ended.
    Alive {
        /// Which.
        pid: u32,
    },
    /// It has.
    Ended {
        /// How.
        exit: Exit,
    },
}

/// How far a stop has come. Times are since the caller's own epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The stop signal was sent.
    Asked {
        /// When SIGKILL follows.
        kill_at: Duration,
    },
    /// SIGKILL was sent.
    Killed {
        /// When it is sent again, in case a process was being born outside its reach.
        again_at: Duration,
    },
}
