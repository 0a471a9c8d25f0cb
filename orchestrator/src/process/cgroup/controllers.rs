//! What can be limited in a cgroup: the controllers that are in force for the children of one.

use std::fs;
use std::io;
use std::path::Path;

/// A controller that limits are written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
    Io,
}

impl Controller {
    pub(super) const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Pids, Self::Io];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }
}

/// Which are in force, and why others are not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Controllers {
    /// In the order of [`Controller::ALL`]: none if it is in force.
    missing: [Option<String>; 4],
}

impl Controllers {
    /// Why this one is not in force, as the end of a sentence; none if it is.
    pub(super) fn missing(&self, controller: Controller) -> Option<&str> {
        self.missing[controller as usize].as_deref()
    }

    /// Puts all that there are in force for the children of each of `directories`, each of which is
    /// the parent of the next.
    pub(super) fn enable(directories: &[&Path]) -> Self {
        let missing = Controller::ALL.map(|controller| {
            directories.iter().find_map(|directory| enable(directory, controller).err())
        });
        Self { missing }
    }
}

fn enable(directory: &Path, controller: Controller) -> Result<(), String> {
    let name = controller.name();
    let file = directory.join("cgroup.subtree_control");
    if has(&file, name) {
        return Ok(());
    }
    if !has(&directory.join("cgroup.controllers"), name) {
        let mut why = format!("the {name} controller is not there in {}", directory.display());
        if is_in_version_1(name) {
            why.push_str(": the kernel has it in cgroups of version 1");
        }
        return Err(why);
    }
    fs::write(&file, format!("+{name}")).map_err(|error| {
        let reason = match error.raw_os_error() {
            Some(libc::EBUSY) => format!(
                "other processes are there ({}), and the kernel wants none beside limits; give the \
                 daemon a cgroup of its own, as systemd does with Delegate=yes",
                others(directory)
            ),
            _ => error.to_string(),
        };
        format!("the {name} controller can't be used in {}: {reason}", directory.display())
    })
}

fn has(file: &Path, name: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_ascii_whitespace().any(|it| it == name))
}

/// Whether the kernel has a controller, and cgroups of version 1 use it; see proc_cgroups(5).
fn is_in_version_1(name: &str) -> bool {
    let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let name = if name == "io" { "blkio" } else { name };
    text.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        fields.next() == Some(name) && fields.next().is_some_and(|hierarchy| hierarchy != "0")
    })
}

/// Who is in a cgroup, in a few words.
fn others(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut pids = text.split_ascii_whitespace();
    let shown: Vec<_> = pids.by_ref().take(3).collect();
    let more = if pids.next().is_some() { ", …" } else { "" };
    format!("process {}{more}", shown.join(", "))
}

/// Puts these out of force again, where they are.
pub(super) fn disable(directory: &Path) -> io::Result<()> {
    let file = directory.join("cgroup.subtree_control");
    for controller in Controller::ALL.into_iter().filter(|it| has(&file, it.name())) {
        fs::write(&file, format!("-{}", controller.name()))?;
    }
    Ok(())
}
