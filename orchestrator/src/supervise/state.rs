//! What an instance does.

use std::time::Duration;

use orchestrator_proto::control::Exit;

/// What an instance does. Times are since the caller's own epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Final. Nobody started it, or somebody stopped it.
    Stopped,
    /// It should run, but something that it needs is not there.
    Waiting {
        /// What, as in `db to be ready`.
        on: String,
    },
    /// It waits for its time: a schedule of which no run is under way.
    Scheduled,
    /// Its program is being executed.
    Executing,
    /// Its program is being executed, and will be stopped as soon as that is done: an
    /// `execve` that has begun can't be called back.
    Cancelling {
        /// How it will be stopped.
        how: How,
        /// And then.
        then: Then,
    },
    /// Its main process runs and is not ready.
    Starting {
        /// The main process.
        pid: u32,
        /// When it has failed.
        ready_by: Option<Duration>,
    },
    /// Its main process runs and is ready.
    Ready {
        /// The main process.
        pid: u32,
        /// When it has to have said that it is well.
        alive_by: Option<Duration>,
    },
    /// Its main process runs and is not well. It is left alone, because it is never started again
    /// by itself.
    Unhealthy {
        /// The main process.
        pid: u32,
        /// When it has to have said that it is well.
        alive_by: Option<Duration>,
        /// What is wrong.
        reason: String,
    },
    /// Its processes have been asked to stop, and some are left.
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
    /// It has failed, or ended, and will be started again.
    BackOff {
        /// When.
        until: Duration,
        /// What happened.
        reason: String,
        /// How many times on end it has been started again by then.
        attempt: u32,
    },
    /// Final. Its main process ended by itself, and that is no failure.
    Completed {
        /// How.
        exit: Exit,
    },
    /// Final. It has failed, and is not started again by itself.
    Failed {
        /// Why.
        reason: String,
        /// How its main process ended, if that was it.
        exit: Option<Exit>,
    },
}

/// How an instance is made to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// As it is told to.
    Ask,
    /// With SIGKILL.
    Kill,
}

/// What comes after a stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Then {
    /// Nothing.
    Rest,
    /// A start: of a schedule, another run.
    Start,
    /// Of a schedule, its next time.
    Schedule,
    /// What its restart policy says.
    Judge(End),
}

/// An end that nobody asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The main process ended.
    Exited(Exit),
    /// It could not be executed, was not ready in time, or was not well.
    Failed(String),
    /// One that it needs has failed. It is not started again.
    RequirementLost(String),
}

/// Why an instance stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Somebody asked it to.
    Request,
    /// Its main process ended by itself, and the rest of the group has to follow.
    MainEnded,
    /// It was not ready in time, or not well, or has lost one that it needs.
    Failing,
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
    /// The command that asks it to stop runs.
    Commanded {
        /// When the first signal is sent all the same.
        until: Duration,
    },
    /// A signal was sent.
    Asked {
        /// Which: the first is 0.
        step: usize,
        /// When the next one follows, or SIGKILL.
        until: Duration,
    },
    /// SIGKILL was sent.
    Killed {
        /// When it is sent again, in case a process was being born outside its reach.
        again_at: Duration,
    },
}
