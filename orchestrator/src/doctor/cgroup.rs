//! Whether the daemon has a part of the cgroup tree to itself, see cgroups(7).

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use orchestrator_proto::control::Finding;

/// Where cgroup v2 is mounted, on all distributions that have it alone.
const ROOT: &str = "/sys/fs/cgroup";

/// Controllers that limits of instances need.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

const ADVICE: &str = "run the daemon as a systemd service with Delegate=yes, or give it a cgroup \
                      of its own and own it (chown); instances run without all that too";

/// What there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// There is no cgroup v2 in the usual place.
    None,
    /// The daemon is in this cgroup.
    In {
        path: PathBuf,
        /// Those that can be had there.
        controllers: Vec<String>,
        /// Whether the daemon may make cgroups in it.
        is_ours: bool,
    },
}

pub(super) fn look() -> Place {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let root = Path::new(ROOT);
    let Some(path) = own_path(root, &own).filter(|_| root.join("cgroup.controllers").exists())
    else {
        return Place::None;
    };
    let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    let is_ours = access(&path, AccessFlags::W_OK).is_ok()
        && access(&path.join("cgroup.procs"), AccessFlags::W_OK).is_ok();
    let controllers = controllers.split_whitespace().map(str::to_owned).collect();
    Place::In { path, controllers, is_ours }
}

/// The line of cgroup v2 begins with `0::`.
fn own_path(root: &Path, text: &str) -> Option<PathBuf> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(own))
}

pub(super) fn judge(place: &Place) -> Finding {
    let (path, controllers, is_ours) = match place {
        Place::None => {
            return Finding::warning(
                "cgroup",
                format!("there is no cgroup v2 at {ROOT}, so instances have no cgroups"),
                "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there; instances \
                 run without it too",
            );
        }
        Place::In { path, controllers, is_ours } => (path.display(), controllers, is_ours),
    };
    if !is_ours {
        let message = format!("the daemon may not make cgroups in its own one, {path}");
        return Finding::warning("cgroup", message, ADVICE);
    }
    let missing: Vec<_> =
        NEEDED.into_iter().filter(|name| !controllers.iter().any(|it| it == name)).collect();
    if missing.is_empty() {
        let all = controllers.join(", ");
        return Finding::ok("cgroup", format!("the daemon can make cgroups in {path}, with {all}"));
    }
    Finding::warning(
        "cgroup",
        format!("the cgroup of the daemon, {path}, has no controller for {}", missing.join(", ")),
        ADVICE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn the_own_cgroup_is_found() {
        let root = Path::new(ROOT);
        let text = "4:memory:/a\n0::/system.slice/o.service\n";
        let expected = root.join("system.slice/o.service");
        assert_eq!(own_path(root, text), Some(expected));
        assert_eq!(own_path(root, "0::/\n"), Some(root.join("")));
        assert_eq!(own_path(root, "4:memory:/a\n"), None);
        let _ = look();
    }

    #[test]
    fn what_is_missing_is_said() {
        let place = |controllers: &[&str], is_ours| {
            let controllers = controllers.iter().map(ToString::to_string).collect();
            judge(&Place::In { path: "/x".into(), controllers, is_ours })
        };
        assert_eq!(place(&["cpu", "memory", "pids", "io"], true).level, Level::Ok);
        let finding = place(&["cpu"], true);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.message.ends_with("memory, pids"), "{finding:?}");
        assert!(place(&["cpu"], false).message.contains("may not"));
        assert_eq!(judge(&Place::None).level, Level::Warning);
    }
}
