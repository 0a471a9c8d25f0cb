//! Everything as it is defined now.

use orchestrator_proto::control::{
    Exported, LinkSpec, Priority, Program, RuntimeSpec, TargetSpec, Wanted,
};

use super::Registry;
use crate::route::LinkTarget;

impl Registry {
    /// All instances and links, so that applying them changes nothing.
    #[must_use]
    pub fn export(&self) -> Exported {
        let mut exported = Exported::default();
        for set in self.sets() {
            let name = set.spec.name.clone().unwrap_or_default();
            for replica in self.replicas(&name).iter().filter(|it| !self.is_surplus(it)) {
                let view = replica.keeper.view();
                let is_other = |priority| view.priority != priority;
                let differs = view.desired != set.desired || set.priority.is_some_and(is_other);
                if differs {
                    exported.warnings.push(format!(
                        "{} was started or stopped by itself; what is exported is how all \
                         replicas of {name} are to be",
                        replica.label()
                    ));
                }
            }
            exported.set.instances.push(set);
        }
        for instance in self.all().iter().filter(|it| it.replica.is_none()) {
            let view = instance.keeper.view();
            if instance.copy.is_some() {
                exported.warnings.push(format!(
                    "the program of {} is the orchestrator's own copy, {:?}, which goes when the \
                     instance is removed",
                    instance.label(),
                    instance.program
                ));
            }
            let spec = RuntimeSpec {
                id: instance.name.is_none().then_some(instance.id),
                program: Program::Path(instance.program.as_os_str().into()),
                ..RuntimeSpec::clone(&instance.spec)
            };
            let priority = Some(view.priority).filter(|it| *it != Priority::default());
            exported.set.instances.push(Wanted { spec, desired: view.desired, priority });
        }
        let label = |id| self.name_of(id).unwrap_or_else(|| id.to_string());
        exported.set.links = self.export_set_links();
        let parts = self.parts();
        for link in self.router.links() {
            if parts.contains_key(&(link.from, link.type_name.clone(), link.to.clone())) {
                continue;
            }
            let ends = LinkSpec {
                from: link.from.map(|from| label(from).into()),
                type_name: link.type_name.to_string(),
                to: match &link.to {
                    LinkTarget::Instance(to) => TargetSpec::Instance(label(*to).into()),
                    LinkTarget::Udp(address) => TargetSpec::Udp(address.to_string()),
                },
                policy: None,
                capacity: None,
                block_timeout: None,
                history: None,
                transport: None,
                spin_us: None,
            };
            exported.set.links.push(ends.with_rules(link.rules()));
        }
        exported
    }
}
