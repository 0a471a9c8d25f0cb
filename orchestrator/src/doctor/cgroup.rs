//! Whether instances have cgroups of their own, and what can be limited in them, see cgroups(7).

use orchestrator_proto::control::Finding;

use crate::process::Standing;

const NO_CGROUPS: &str = "run the daemon as a systemd service with Delegate=yes, or name a cgroup \
                          that it may use with --cgroup; instances run without it too, but without \
                          limits";

const NO_CONTROLLER: &str = "without these controllers instances run all the same, but without the \
                             limits that need them; as a systemd service the daemon needs \
                             Delegate=yes, in a container a cgroup of its own that it may write to";

pub(super) fn judge(standing: &Standing) -> Finding {
    let (directory, in_force, missing) = match standing {
        Standing::Nowhere { why } => {
            let message = format!("instances have no cgroups of their own: {why}");
            return Finding::warning("cgroup", message, NO_CGROUPS);
        }
        Standing::Below { directory, in_force, missing } => {
            (directory.display(), in_force, missing)
        }
    };
    let can = match in_force.as_slice() {
        [] => "can't be limited at all".to_owned(),
        names => format!("can be limited in {}", names.join(", ")),
    };
    let message = format!("instances have cgroups of their own in {directory}, and {can}");
    if missing.is_empty() {
        return Finding::ok("cgroup", message);
    }
    Finding::warning("cgroup", format!("{message}; {}", missing.join("; ")), NO_CONTROLLER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    fn below(in_force: &[&'static str], missing: &[&str]) -> Finding {
        judge(&Standing::Below {
            directory: "/cg/orchestrator-01".into(),
            in_force: in_force.to_vec(),
            missing: missing.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn what_can_be_limited_is_said() {
        let finding = below(&["cpu", "memory", "pids", "io"], &[]);
        assert_eq!(finding.level, Level::Ok);
        let said = "in /cg/orchestrator-01, and can be limited in cpu, memory, pids, io";
        assert!(finding.message.ends_with(said), "{finding:?}");
    }

    #[test]
    fn what_is_missing_is_said_with_the_reason_and_what_to_do() {
        let finding = below(&["cpu"], &["there is no memory here", "nor are there pids"]);
        assert_eq!(finding.level, Level::Warning);
        let said = "limited in cpu; there is no memory here; nor are there pids";
        assert!(finding.message.ends_with(said) && !finding.advice.is_empty(), "{finding:?}");
        assert!(below(&[], &["there are none"]).message.contains("can't be limited at all"));
        let finding = judge(&Standing::Nowhere { why: "it is not so".into() });
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.message.ends_with(": it is not so"), "{finding:?}");
    }
}
