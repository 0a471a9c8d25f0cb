//! Requests about instances.

use std::sync::Arc;

use orchestrator_proto::WireError;
use orchestrator_proto::control::{Priority, Program, Reply, RuntimeSpec, Selector};

use super::upload::{Chunks, Upload};
use super::{Daemon, to_its_end};

impl Daemon {
    pub(super) async fn runtime_add(
        self: &Arc<Self>,
        mut spec: RuntimeSpec,
        chunks: Chunks,
    ) -> Result<Reply, WireError> {
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

    pub(super) async fn runtime_start(
        &self,
        instance: &Selector,
        priority: Option<Priority>,
    ) -> Result<Reply, WireError> {
        let instance = self.registry.find(instance)?;
        self.registry.start(&instance, priority).await
    }

    pub(super) async fn runtime_run(&self, instance: &Selector) -> Result<Reply, WireError> {
        let instance = self.registry.find(instance)?;
        self.registry.run(&instance).await
    }

    pub(super) async fn runtime_stop(&self, instance: &Selector) -> Result<Reply, WireError> {
        let instance = self.registry.find(instance)?;
        let changed = self.registry.stop(&instance).await?;
        Ok(Reply::Stopped { id: instance.id, changed })
    }

    pub(super) async fn runtime_restart(&self, instance: &Selector) -> Result<Reply, WireError> {
        let instance = self.registry.find(instance)?;
        self.registry.restart(&instance).await
    }

    pub(super) async fn runtime_remove(
        &self,
        instance: &Selector,
        force: bool,
    ) -> Result<Reply, WireError> {
        let instance = self.registry.find(instance)?;
        let links = self.registry.remove(&instance, force).await?;
        Ok(Reply::Removed { id: instance.id, links })
    }

    pub(super) fn runtime_show(&self, instance: &Selector) -> Result<Reply, WireError> {
        let instance = self.registry.find(instance)?;
        Ok(Reply::Runtime(Box::new(instance.detail(&self.registry))))
    }

    pub(super) async fn clear(&self, force: bool) -> Result<Reply, WireError> {
        let (runtimes, links) = self.registry.clear(force).await?;
        Ok(Reply::Cleared { runtimes, links })
    }
}
