//! Sockets that listen for instances: what is allowed, and which are opened and closed when.

use std::collections::HashMap;
use std::sync::Arc;

use orchestrator_proto::control::{Listen, RuntimeSpec, WantedSet};
use orchestrator_proto::{ErrorCode, InstanceId, OsBytes, WireError};

use super::add::{Plan, invalid};
use super::left::take_listeners;
use super::{Instance, Registry};
use crate::listen::{Coming, ListenError, Listeners};
use crate::plan::{Differences, InstanceStep};
use crate::store::InstanceRecord;

/// Variables that the daemon sets for an instance for which sockets listen.
const LISTEN_VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// Sockets that are open for instances that are about to be defined anew.
pub(super) type AllComing = HashMap<InstanceId, Coming>;

/// Whether these can be, whoever has them.
pub(super) fn check(spec: &RuntimeSpec) -> Result<(), WireError> {
    Listen::check_all(&spec.listen).map_err(invalid)?;
    let is_own = |name: &OsBytes| LISTEN_VARIABLES.iter().any(|own| own.as_bytes() == name.0);
    match spec.env.iter().find(|(name, _)| is_own(name)) {
        Some((name, _)) if !spec.listen.is_empty() => Err(invalid(format!(
            "the variable {name} is set by the daemon itself for an instance for which sockets \
             listen"
        ))),
        _ => Ok(()),
    }
}

/// A socket of this one can't be opened.
fn not_listening(spec: &RuntimeSpec, error: &ListenError) -> WireError {
    let whose = spec.name.as_ref().map_or_else(String::new, |name| format!(" for instance {name}"));
    let message = format!("not all sockets can listen{whose}; nothing was changed");
    WireError::caused_by(ErrorCode::Io, message, error)
}

impl Registry {
    /// Whether the sockets of this are those of another instance. `own` is the one that it is
    /// about, if that is there already.
    pub(super) fn check_sockets(
        &self,
        spec: &RuntimeSpec,
        own: Option<InstanceId>,
    ) -> Result<(), WireError> {
        if spec.listen.is_empty() {
            return Ok(());
        }
        let instances = self.read();
        for listen in &spec.listen {
            let place = listen.place();
            let has_it = |other: &&Arc<Instance>| {
                Some(other.id) != own && other.spec.listen.iter().any(|it| it.place() == place)
            };
            if let Some(other) = instances.by_id.values().find(has_it) {
                let message = format!(
                    "the socket {place} is that of instance {}; it is closed when that is removed \
                     or defined without it",
                    other.label()
                );
                return Err(WireError::new(ErrorCode::AlreadyExists, message));
            }
        }
        Ok(())
    }

    /// Builds an instance that is new, with all sockets that are to listen for it. Blocks.
    pub(super) fn build_listening(self: &Arc<Self>, plan: Plan) -> Result<Instance, WireError> {
        let InstanceRecord { id, spec, .. } = &plan.record;
        self.check_sockets(spec, Some(*id))?;
        let listeners = Listeners::open(*id, self.kernel.clone(), &spec.listen);
        let listeners = listeners.map_err(|error| not_listening(spec, &error))?;
        self.build(Plan { listeners: Some(listeners), ..plan })
    }

    /// The sockets of an instance that is being built. Blocks.
    pub(super) fn listeners(
        &self,
        id: InstanceId,
        spec: &RuntimeSpec,
        new: Option<Listeners>,
        before: Option<&Instance>,
    ) -> Arc<Listeners> {
        match (before, new) {
            (Some(before), _) => {
                before.listeners.renew(&spec.listen);
                before.listeners.clone()
            }
            (None, Some(new)) => Arc::new(new),
            (None, None) => {
                let left = take_listeners(&self.left, id);
                let kernel = self.kernel.clone();
                Arc::new(Listeners::restore(id, kernel, &spec.listen, left))
            }
        }
    }

    /// Opens the sockets that instances which are there are to have in addition: all, or none.
    pub(super) async fn prepare_sockets(
        self: &Arc<Self>,
        set: &WantedSet,
        all: &Differences,
    ) -> Result<AllComing, WireError> {
        let mut wanted = Vec::new();
        for step in &all.instances {
            if let InstanceStep::Change { id, spec: Some(spec), .. } = step
                && !spec.listen.is_empty()
            {
                self.check_sockets(spec, Some(*id))?;
                wanted.push((self.newest(*id)?, spec.clone()));
            }
        }
        if wanted.is_empty() || set.instances.is_empty() {
            return Ok(AllComing::new());
        }
        let opening = tokio::task::spawn_blocking(move || {
            let mut coming = AllComing::new();
            for (instance, spec) in wanted {
                let opened = instance.listeners.prepare(&spec.listen);
                coming.insert(instance.id, opened.map_err(|error| not_listening(&spec, &error))?);
            }
            Ok(coming)
        });
        opening.await.unwrap_or_else(|panic| {
            let message = format!("opening sockets failed: {panic}");
            Err(WireError::new(ErrorCode::Internal, message))
        })
    }

    /// Closes the sockets of all instances, because the daemon ends.
    pub fn close_sockets(&self) {
        for instance in self.all() {
            instance.listeners.close();
        }
    }
}
