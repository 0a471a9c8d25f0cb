//! The pipes that instances print into, as the capture of output wants to have them when the process
//! that read them has failed.

use std::sync::Arc;

use orchestrator_proto::InstanceId;

use crate::logs::{PendingPipes, PipeSource, Pipes};
use crate::process::Linux;

/// The kernel has them, with its holder.
pub(super) struct HeldPipes(pub(super) Linux);

impl PipeSource for HeldPipes {
    fn keep(&self, instance: InstanceId, run: u64, pipes: &Arc<Pipes>) {
        let kept = self.0.keep_output((instance, run), (&pipes.stdout, &pipes.stderr));
        if let Err(error) = kept {
            tracing::error!(%instance, %error, "its pipes can't be kept while they are read");
        }
    }

    fn pipes(&self, instance: InstanceId, run: u64) -> PendingPipes {
        let output = self.0.output(instance, run);
        Box::pin(async move {
            let pipes = output.await?.map(|(stdout, stderr)| Pipes { stdout, stderr });
            Ok(pipes.map(Arc::new))
        })
    }

    fn release(&self, instance: InstanceId, run: u64) {
        self.0.release_output(instance, run);
    }
}
