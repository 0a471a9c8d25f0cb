//! What instances ask of the daemon through their sockets.

use std::pin::Pin;
use std::sync::{Arc, Weak};

use orchestrator_proto::control::{EventKind, LogStream, Readiness, Selector};
use orchestrator_proto::runtime::{RuntimeReply, RuntimeRequest};
use orchestrator_proto::{ErrorCode, InstanceId, WireError};

use super::Registry;
use crate::logs::InstanceLog;
use crate::process::Said;
use crate::runtime::{Host, log_line};

/// The registry, for the sockets of one instance. Holds what the message path needs by
/// itself, so that it never waits for the registry's lock.
pub(super) struct RegistryHost {
    pub(super) registry: Weak<Registry>,
    pub(super) name: Option<String>,
    pub(super) log: InstanceLog,
}

impl Host for RegistryHost {
    fn event(&self, instance: InstanceId, kind: EventKind) {
        if let Some(registry) = self.registry.upgrade() {
            registry.events.record(Some(instance), self.name.as_deref(), kind);
        }
    }

    fn control(
        &self,
        instance: InstanceId,
        request: RuntimeRequest,
    ) -> Pin<Box<dyn Future<Output = Result<RuntimeReply, WireError>> + Send>> {
        let registry = self.registry.upgrade();
        Box::pin(async move {
            match registry {
                Some(registry) => registry.privileged(instance, request).await,
                None => Err(WireError::new(ErrorCode::ShuttingDown, "the daemon is ending")),
            }
        })
    }

    fn ready(&self, instance: InstanceId) {
        if let Some(registry) = self.registry.upgrade()
            && let Some(instance) = registry.read().by_id.get(&instance).cloned()
            && instance.spec.supervision.readiness == Readiness::Runtime
        {
            // At most one for each connection.
            tokio::spawn(async move { instance.keeper.said(Said::Ready).await });
        }
    }

    fn telemetry(&self, _instance: InstanceId, object: &[u8]) {
        if let Some(registry) = self.registry.upgrade()
            && let Some(telemetry) = &registry.telemetry
        {
            telemetry.push(object);
        }
        if let Some(line) = log_line(object) {
            self.log.append(LogStream::Telemetry, line.as_bytes());
        }
    }
}

impl Registry {
    async fn privileged(
        self: &Arc<Self>,
        asking: InstanceId,
        request: RuntimeRequest,
    ) -> Result<RuntimeReply, WireError> {
        let asking = self.find(&Selector(asking.to_string()))?;
        if !asking.spec.privileged {
            return Err(WireError::new(
                ErrorCode::NotPermitted,
                format!(
                    "instance {} may not control others; add it with --privileged if it should",
                    asking.label()
                ),
            ));
        }
        let by = asking.label();
        match request {
            RuntimeRequest::Start { instance, priority } => {
                let instance = self.find(&instance.into())?;
                tracing::info!(by, instance = instance.label(), "start requested by an instance");
                self.start(&instance, priority).await?;
                Ok(RuntimeReply::Started { id: instance.id })
            }
            RuntimeRequest::Stop { instance } => {
                let instance = self.find(&instance.into())?;
                tracing::info!(by, instance = instance.label(), "stop requested by an instance");
                self.stop(&instance).await?;
                Ok(RuntimeReply::Stopped { id: instance.id })
            }
            RuntimeRequest::List => Ok(RuntimeReply::List(self.list())),
        }
    }
}
