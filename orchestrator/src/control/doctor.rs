//! What the machine and the installation allow.

use orchestrator_proto::control::Reply;
use orchestrator_proto::{ErrorCode, WireError};

use super::Daemon;
use crate::doctor::{Subject, Versions, examine};

impl Daemon {
    pub(super) async fn doctor(&self) -> Result<Reply, WireError> {
        let directories = self.registry.directories();
        let subject = Subject {
            holder: self.kernel.holder().unsigned_abs(),
            versions: Versions {
                holder: self.kernel.holder_version(),
                daemon: env!("CARGO_PKG_VERSION").to_owned(),
                capture: self.registry.capture_version(),
            },
            state_dir: self.state_dir.as_path().to_owned(),
            logs: directories.logs.clone(),
            sockets: directories.sockets.to_path_buf(),
            warnings: self.warnings(),
            cgroups: self.kernel.cgroups(),
            instances: self.registry.all().len() as u64,
        };
        let examined = tokio::task::spawn_blocking(move || examine(&subject)).await;
        examined.map(Reply::Findings).map_err(|panic| {
            WireError::new(ErrorCode::Internal, format!("the request failed: {panic}"))
        })
    }
}
