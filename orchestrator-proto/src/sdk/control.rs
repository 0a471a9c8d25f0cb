//! Requests of a privileged runtime: starting, stopping and listing instances.

use super::{RequestError, Runtime};
use crate::InstanceId;
use crate::control::{Priority, RuntimeInfo};
use crate::runtime::{RuntimeReply, RuntimeRequest};

impl Runtime {
    /// Starts an instance, named by its id, a unique prefix of it, or its name. A priority of
    /// `None` leaves it as it was. Only for privileged instances.
    ///
    /// # Errors
    ///
    /// [`RequestError::Refused`] with the daemon's reason; [`RequestError::Disconnected`] if
    /// the connection is broken or breaks before the answer.
    pub async fn start(
        &self,
        instance: impl Into<String>,
        priority: Option<Priority>,
    ) -> Result<InstanceId, RequestError> {
        let instance = instance.into();
        match self.ask(RuntimeRequest::Start { instance, priority }).await? {
            RuntimeReply::Started { id } => Ok(id),
            _ => Err(RequestError::UnexpectedReply),
        }
    }

    /// Stops an instance, named as for [`start`](Self::start), and waits until it has stopped.
    /// Only for privileged instances.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn stop(&self, instance: impl Into<String>) -> Result<InstanceId, RequestError> {
        let instance = instance.into();
        match self.ask(RuntimeRequest::Stop { instance }).await? {
            RuntimeReply::Stopped { id } => Ok(id),
            _ => Err(RequestError::UnexpectedReply),
        }
    }

    /// All instances, the oldest first. Only for privileged instances.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn list(&self) -> Result<Vec<RuntimeInfo>, RequestError> {
        match self.ask(RuntimeRequest::List).await? {
            RuntimeReply::List(instances) => Ok(instances),
            _ => Err(RequestError::UnexpectedReply),
        }
    }

    async fn ask(&self, request: RuntimeRequest) -> Result<RuntimeReply, RequestError> {
        let answer = self.handle.shared.request(request)?;
        // The sender is dropped when the connection breaks.
        let answer = answer.await.map_err(|_| RequestError::Disconnected)?;
        answer.map_err(RequestError::Refused)
    }
}
