//! What this machine and this installation allow the daemon, and what to do about each gap.
//!
//! For `control/`, when a client asks. What is the same for everybody on the machine is looked at
//! by the client, also when no daemon runs; here is what only the daemon can know: its rights, its
//! limits, its directories, its processes. Reads files and asks the kernel, and changes nothing.
//! Each check is a pure judgement of what was read, so that all of its answers can be tested.

mod cgroup;
mod disk;
mod limits;
mod system;
mod versions;

use std::path::PathBuf;

use orchestrator_proto::control::Finding;

use crate::process::Standing;

pub use versions::Versions;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The holder's process.
    pub holder: u32,
    /// The programs' versions.
    pub versions: Versions,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Where the logs of instances are.
    pub logs: PathBuf,
    /// The directory of the sockets of instances.
    pub sockets: PathBuf,
    /// What `status` warns of.
    pub warnings: Vec<String>,
    /// Where cgroups of instances are made.
    pub cgroups: Standing,
    /// How many instances there are.
    pub instances: u64,
}

/// Looks at everything. May wait for a disk.
#[must_use]
pub fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![versions::judge(&subject.versions)];
    findings.extend(
        subject
            .warnings
            .iter()
            .map(|warning| Finding::problem("status", warning, "see the daemon's own log")),
    );
    findings.push(disk::directory("state-directory", &subject.state_dir));
    findings.push(disk::made_when_needed("log-directory", &subject.logs));
    findings.push(disk::directory("socket-directory", &subject.sockets));
    findings.push(disk::space(&subject.state_dir));
    findings.push(limits::open_files("the daemon", std::process::id(), subject.instances));
    findings.push(limits::open_files("the holder", subject.holder, subject.instances));
    findings.push(limits::processes());
    findings.push(limits::core_size());
    findings.push(limits::priority());
    findings.push(cgroup::judge(&subject.cgroups));
    findings.push(system::process_groups());
    findings.push(system::exits());
    findings.push(system::clock());
    findings
}
