//! Requests about instances.

use std::sync::Arc;

use orchestrator_proto::control::{Priority, Program, Replicas, Reply, RuntimeSpec, Selector};
use orchestrator_proto::{ErrorCode, WireError};

use super::upload::{Chunks, Upload};
use super::{Daemon, to_its_end};
use crate::registry::Meant;

impl Daemon {
    pub(super) async fn runtime_add(
        self: &Arc<Self>,
        mut spec: RuntimeSpec,
        chunks: Chunks,
    ) -> Result<Reply, WireError> {
        if spec.replicas.is_some() {
            return self.runtime_add_set(spec).await;
        }
        let upload = match &spec.program {
            Program::Path(_) => None,
            Program::Upload { .. } => Some(Upload::receive(self, &mut spec, chunks).await?),
        };
        let registry = self.registry.clone();
        let (id, warnings) = to_its_end(async move {
            let file = upload.as_ref().map(|upload| upload.file().to_owned());
            let added = registry.add(spec, file).await?;
            if let Some(upload) = upload {
                upload.keep();
            }
            Ok(added)
        })
        .await?;
        Ok(Reply::Added { id, warnings })
    }

    async fn runtime_add_set(&self, spec: RuntimeSpec) -> Result<Reply, WireError> {
        if matches!(spec.program, Program::Upload { .. }) {
            let message =
                "each replica of a set executes the program where it is; leave --copy out";
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
        let registry = self.registry.clone();
        let added = to_its_end(async move { registry.add_set(spec).await }).await?;
        Ok(Reply::Scaled(Box::new(added)))
    }

    pub(super) async fn runtime_scale(
        &self,
        set: &Selector,
        replicas: Replicas,
    ) -> Result<Reply, WireError> {
        let name = self.registry.scalable(set, replicas)?;
        loop {
            let (registry, set) = (self.registry.clone(), name.clone());
            let scaling = to_its_end(async move { registry.scale(&set, replicas).await });
            if let Some(scaled) = scaling.await? {
                return Ok(Reply::Scaled(Box::new(scaled)));
            }
            self.registry.names_free(&name, replicas).await;
        }
    }

    pub(super) async fn runtime_start(
        &self,
        instance: &Selector,
        priority: Option<Priority>,
    ) -> Result<Reply, WireError> {
        match self.registry.meant(instance)? {
            Meant::One(instance) => self.registry.start(&instance, priority).await,
            Meant::Set(set) => self.registry.start_set(&set, priority).await,
        }
    }

    pub(super) async fn runtime_run(&self, instance: &Selector) -> Result<Reply, WireError> {
        match self.registry.meant(instance)? {
            Meant::One(instance) => self.registry.run(&instance).await,
            Meant::Set(set) => self.registry.run_set(&set).await,
        }
    }

    pub(super) async fn runtime_stop(&self, instance: &Selector) -> Result<Reply, WireError> {
        let instance = match self.registry.meant(instance)? {
            Meant::One(instance) => instance,
            Meant::Set(set) => return self.registry.stop_set(&set).await,
        };
        let changed = self.registry.stop(&instance).await?;
        Ok(Reply::Stopped { id: instance.id, changed })
    }

    pub(super) async fn runtime_restart(&self, instance: &Selector) -> Result<Reply, WireError> {
        match self.registry.meant(instance)? {
            Meant::One(instance) => self.registry.restart(&instance).await,
            Meant::Set(set) => self.registry.restart_set(&set).await,
        }
    }

    pub(super) async fn runtime_remove(
        &self,
        instance: &Selector,
        force: bool,
    ) -> Result<Reply, WireError> {
        let instance = match self.registry.meant(instance)? {
            Meant::One(instance) => instance,
            Meant::Set(set) => {
                let registry = self.registry.clone();
                return to_its_end(async move {
                    let (instances, links) = registry.remove_set(&set, force).await?;
                    Ok(Reply::SetRemoved { set, instances, links })
                })
                .await;
            }
        };
        if let Some(replica) = &instance.replica {
            let set = &replica.set;
            let message = format!(
                "{replica} is a replica of {set}; `runtime scale {set}` with a smaller number \
                 removes the last ones, and `runtime remove {set}` all"
            );
            return Err(WireError::new(ErrorCode::WrongState, message));
        }
        let links = self.registry.remove(&instance, force).await?;
        Ok(Reply::Removed { id: instance.id, links })
    }

    pub(super) fn runtime_show(&self, instance: &Selector) -> Result<Reply, WireError> {
        let instance = match self.registry.meant(instance)? {
            Meant::One(instance) => instance,
            Meant::Set(set) => {
                return Ok(Reply::ReplicaSet(Box::new(self.registry.set_detail(&set)?)));
            }
        };
        Ok(Reply::Runtime(Box::new(instance.detail(&self.registry))))
    }

    pub(super) async fn clear(&self, force: bool) -> Result<Reply, WireError> {
        let (runtimes, links) = self.registry.clear(force).await?;
        Ok(Reply::Cleared { runtimes, links })
    }
}
