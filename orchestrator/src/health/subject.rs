//! What is known of an instance's run, for who asks it and who hears it.

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Observed, Priority};

use crate::process::View;
use crate::shown::Shower;

/// An instance, as far as it concerns this room.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(super) id: InstanceId,
    run: Shower<Run>,
}

/// How far its execution is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Run {
    /// How many times its program was executed.
    pub(super) number: u64,
    pub(super) main: Main,
    pub(super) priority: Priority,
}

/// Its main process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Main {
    /// There is none.
    #[default]
    None,
    /// It is being executed: it may speak before we are told its number.
    Executing,
    /// There is, or was and something of its group is left.
    Is(u32),
}

impl Subject {
    pub(super) fn new(id: InstanceId) -> Self {
        Self { id, run: Shower::new(Run::default()) }
    }

    pub(super) fn changed(&self, view: &View) {
        self.run.send_if_modified(|run| {
            let now = Run {
                number: view.starts,
                main: main(&view.observed, run.main),
                priority: view.priority,
            };
            let changed = *run != now;
            *run = now;
            changed
        });
    }

    /// The main process, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.run.borrow().main {
            Main::Is(pid) => Some(pid),
            Main::None | Main::Executing => None,
        }
    }

    pub(super) fn priority(&self) -> Priority {
        self.run.borrow().priority
    }

    /// The run, once it is known whether there is one.
    pub(super) async fn settled(&self) -> Run {
        let mut run = self.run.subscribe();
        // Fails only without a sender, and that lives as long as `self`.
        match run.wait_for(|run| run.main != Main::Executing).await {
            Ok(run) => *run,
            Err(_) => Run::default(),
        }
    }
}

fn main(observed: &Observed, before: Main) -> Main {
    match *observed {
        Observed::Starting { pid: None, .. } => Main::Executing,
        Observed::Starting { pid: Some(pid), .. }
        | Observed::Ready { pid, .. }
        | Observed::Unhealthy { pid, .. }
        | Observed::Stopping { pid: Some(pid), .. } => Main::Is(pid),
        // Its main process has ended, and others of its group go on.
        Observed::Stopping { pid: None, .. } => before,
        Observed::Stopped { .. }
        | Observed::Waiting { .. }
        | Observed::Scheduled { .. }
        | Observed::BackOff { .. }
        | Observed::Completed { .. }
        | Observed::Failed { .. } => Main::None,
    }
}
