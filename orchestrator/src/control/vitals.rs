//! How instances fare.

use std::sync::Arc;

use orchestrator_proto::WireError;
use orchestrator_proto::control::{Reply, RuntimeVitals, Selector};

use super::Daemon;
use crate::process::{Main, Usages};
use crate::registry::Instance;

impl Daemon {
    /// Of these instances, or of all if none is named.
    pub(super) async fn runtime_vitals(&self, instances: &[Selector]) -> Result<Reply, WireError> {
        let all = match instances {
            [] => self.registry.all(),
            named => {
                let found = named.iter().map(|it| self.registry.find_all(it));
                found.collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        let usages = self.usages(&all).await;
        let vitals = all.iter().map(|instance| {
            let info = instance.info();
            let mut vitals = instance.vitals();
            vitals.usage = usages.get(&info.id).copied().filter(|_| info.observed.is_active());
            RuntimeVitals { info, vitals }
        });
        Ok(Reply::Vitals(vitals.collect()))
    }

    async fn usages(&self, wanted: &[Arc<Instance>]) -> Arc<Usages> {
        let mains = |instances: &[Arc<Instance>]| {
            let main = |instance: &Arc<Instance>| {
                let observed = instance.observed();
                let main = Main { instance: instance.id, pid: observed.pid() };
                observed.is_active().then_some(main)
            };
            instances.iter().filter_map(main).collect::<Vec<_>>()
        };
        let wanted = mains(wanted);
        if wanted.is_empty() {
            return Arc::default();
        }
        // All of them are measured: the next who asks may ask for another.
        self.meter.usages(&wanted, || mains(&self.registry.all())).await
    }
}
