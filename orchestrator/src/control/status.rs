//! The daemon about itself.

use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::{PROTOCOL, Reply, Status};

use super::Daemon;
use crate::registry::Instance;
use crate::runtime::{IpcSocket, Telemetry};

impl Daemon {
    pub(super) fn status(&self) -> Reply {
        let all = self.registry.all();
        let running = |instance: &&Arc<Instance>| instance.info().observed.pid().is_some();
        Reply::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            pid: std::process::id(),
            holder_pid: std::os::unix::process::parent_id(),
            started_ms: self.started_ms,
            socket: self.socket.clone(),
            state_dir: self.state_dir.clone(),
            runtimes: all.len() as u64,
            running: all.iter().filter(running).count() as u64,
            links: self.registry.count_links(),
            ipc: self.ipc.as_ref().map(IpcSocket::status),
            telemetry: self.registry.telemetry().map(Telemetry::status),
            warnings: self.warnings(),
        }))
    }

    /// Limits that were asked for and are not in force.
    fn limits_warning(&self) -> Option<String> {
        let all = self.registry.all();
        let unmet = all.iter().filter_map(|it| self.registry.limits_unmet(it).into_iter().next());
        let unmet: Vec<_> = unmet.collect();
        let s = if unmet.len() == 1 { "" } else { "s" };
        let first = unmet.first()?;
        Some(format!("not all limits of {} instance{s} are in force: {first}", unmet.len()))
    }

    /// What an operator should know, a sentence each.
    pub(super) fn warnings(&self) -> Vec<String> {
        let store = self.registry.store();
        let mut warnings = self.warnings.clone();
        if let Some(failure) = store.failing() {
            warnings.push(format!("changes are refused: {failure}"));
        }
        let failure = self.manifest_failure.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(failure.clone());
        drop(failure);
        warnings.extend(self.limits_warning());
        match store.events_lost() {
            0 => {}
            lost => warnings.push(format!("events that could not be stored and are lost: {lost}")),
        }
        warnings
    }
}
