//! The room against real sockets and real programs.

mod asking;
mod commands;

use std::time::Duration;

use orchestrator_proto::control::Observed;
use tempfile::TempDir;

use super::*;
use crate::holder::start_holder;
use crate::logs::{Bench, open_bench};
use crate::process::Linux;

/// What a test waits for is there long before that.
const LONG: Duration = Duration::from_secs(60);

/// What a test waits for the end of.
const SHORT: Duration = Duration::from_millis(200);

/// Asks an instance that has a holder, and a log, of its own.
struct Asked {
    health: Health,
    log: InstanceLog,
    _bench: Bench,
    dir: TempDir,
}

impl Asked {
    fn new() -> Self {
        let linux = Linux::attach(start_holder()).unwrap();
        let (bench, log) = open_bench();
        let dir = TempDir::new().unwrap();
        let mut launch = Launch::new(log.instance(), "/bin/true");
        launch.cwd = Some(dir.path().to_owned());
        launch.env = vec![
            ("COLOUR".into(), "blue".into()),
            (ENV_NOTIFY.into(), "/nowhere".into()),
            (ENV_WATCHDOG.into(), "1".into()),
        ];
        let instance = log.instance();
        let launching = Arc::new(move || launch.clone());
        let health = Health::new(instance, launching, log.clone(), Arc::new(linux));
        Self { health, log, _bench: bench, dir }
    }

    /// It is shown like this.
    fn is(&self, observed: Observed) {
        self.health.changed(&View {
            desired: orchestrator_proto::control::Desired::Running,
            observed,
            starts: 3,
            ..View::never_started()
        });
    }

    async fn ask(&self, check: Check, limit: Duration) -> Result<(), String> {
        within_test(self.health.ask(&check, limit, 3)).await
    }

    async fn shell(&self, script: &str, limit: Duration) -> Result<(), String> {
        self.ask(Check::Exec(sh(script)), limit).await
    }
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

async fn within_test<T>(answer: impl Future<Output = T>) -> T {
    timeout(LONG, answer).await.expect("in time")
}

/// Waits until the file is there, whole: with a newline at its end.
async fn text_of(path: &std::path::Path) -> String {
    within_test(async {
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await
}
