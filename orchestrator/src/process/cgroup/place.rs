//! Where the cgroups of a daemon are: making that, and leaving it as it was found.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orchestrator_proto::InstanceId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sha2::{Digest, Sha256};

use super::super::{FIRST_COMMAND, Part};
use super::controllers::{self, Controller, Controllers};
use super::leaf::is_populated_in;
use super::{Standing, find, tag_of};

/// The name of the one that has those of instances in it.
const INSTANCES: &str = "instances";

/// How long the daemon's own processes may take to end, at its end.
const PATIENCE: Duration = Duration::from_millis(500);

/// A cgroup of the daemon's, with that of its own processes and those of its instances.
#[derive(Debug)]
pub(super) struct Place {
    /// The one that it was started in.
    parent: PathBuf,
    directory: PathBuf,
    controllers: Controllers,
}

/// What the cgroup of a daemon is called that has this state directory: the same for one that is
/// started after it, and for no other on this machine.
pub(super) fn id_of(state: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(state.as_os_str().as_bytes());
    if let Ok(metadata) = fs::metadata(state) {
        // In two containers the same path may be that of two directories.
        hash.update(metadata.dev().to_le_bytes());
        hash.update(metadata.ino().to_le_bytes());
    }
    let hash = hash.finalize();
    let hash = hash.iter().take(8).map(|byte| format!("{byte:02x}"));
    format!("orchestrator-{}", hash.collect::<String>())
}

impl Place {
    /// Makes the cgroups of a daemon of this id where it may, moves the daemon there, and puts in
    /// force what can be limited. `own` is the cgroup that it is in.
    ///
    /// # Errors
    ///
    /// Why that can't be, as a sentence. Then all is as it was.
    pub(super) fn settle(own: &Path, id: &str, holder: i32) -> Result<Self, String> {
        let parent = parent_of(own, id);
        let directory = parent.join(id);
        let mut place =
            Self { parent: parent.to_owned(), directory, controllers: Controllers::default() };
        if let Err(error) = place.make() {
            place.remove();
            return Err(format!(
                "no cgroup can be made in {}: {error}; as a systemd service the daemon needs \
                 Delegate=yes, elsewhere --cgroup can name one that it may use",
                parent.display()
            ));
        }
        if let Err(error) = place.move_to(&place.of_daemon(), holder) {
            place.remove();
            return Err(format!(
                "the daemon can't be moved from {} to a cgroup of its own: {error}",
                own.display()
            ));
        }
        let instances = place.of_instances();
        place.controllers = Controllers::enable(&[&place.parent, &place.directory, &instances]);
        Ok(place)
    }

    fn make(&self) -> io::Result<()> {
        for directory in [&self.directory, &self.of_daemon(), &self.of_instances()] {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Somebody has removed what was empty.
    pub(super) fn make_again(&self) -> io::Result<()> {
        self.make()?;
        let _ = Controllers::enable(&[&self.parent, &self.directory, &self.of_instances()]);
        Ok(())
    }

    /// First the holder, since what it starts begins where it is.
    fn move_to(&self, directory: &Path, holder: i32) -> io::Result<()> {
        let file = directory.join("cgroup.procs");
        fs::write(&file, holder.to_string())?;
        fs::write(&file, "0")
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn standing(&self) -> Standing {
        let missing = |controller: &Controller| self.controllers.missing(*controller);
        let in_force = Controller::ALL.iter().filter(|it| missing(it).is_none());
        Standing::Below {
            directory: self.directory.clone(),
            in_force: in_force.map(|it| it.name()).collect(),
            missing: Controller::ALL.iter().filter_map(missing).map(str::to_owned).collect(),
        }
    }

    fn of_daemon(&self) -> PathBuf {
        self.directory.join("daemon")
    }

    fn of_instances(&self) -> PathBuf {
        self.directory.join(INSTANCES)
    }

    /// That of an instance, which need not be there.
    pub(super) fn of_instance(&self, instance: InstanceId) -> PathBuf {
        self.of_instances().join(instance.to_string())
    }

    pub(super) const fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    /// Those of instances that are there.
    pub(super) fn instances(&self) -> impl Iterator<Item = (InstanceId, PathBuf)> {
        let entries = fs::read_dir(self.of_instances()).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
    }

    /// That of an execution of this part of the instance in which a process is, or below which,
    /// under any parent: the daemon may have been started somewhere else before.
    pub(super) fn of_process(&self, pid: i32, instance: InstanceId, part: Part) -> Option<PathBuf> {
        let path = find::of(&pid.to_string()).ok()?;
        let instances = Path::new(self.directory.file_name()?).join(INSTANCES);
        let of_instance = instances.join(instance.to_string());
        path.ancestors()
            .find(|it| {
                let tag = it.file_name().and_then(|it| it.to_str()).and_then(tag_of);
                tag.is_some_and(|tag| part_of(tag) == part)
                    && it.parent().is_some_and(|it| it.ends_with(&of_instance))
            })
            .map(Path::to_owned)
    }

    /// Removes what is empty.
    fn remove(&self) {
        for directory in [self.of_instances(), self.of_daemon(), self.directory.clone()] {
            let _ = fs::remove_dir(directory);
        }
    }

    /// At the end of the daemon: goes back to where it was started, if nobody else has taken to
    /// that what it has limited, and leaves nothing behind.
    pub(super) fn leave(&self, holder: i32) {
        for (_, directory) in self.instances() {
            let _ = fs::remove_dir(directory);
        }
        let _ = fs::remove_dir(self.of_instances());
        let _ = controllers::disable(&self.directory);
        let mut others = fs::read_dir(&self.parent).into_iter().flatten().flatten();
        let is_child = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|it| it.is_dir());
        if !others.any(|entry| is_child(&entry) && entry.path() != self.directory) {
            let _ = controllers::disable(&self.parent);
        }
        // Others of ours may still be there, such as the one that captures output.
        let procs = fs::read_to_string(self.of_daemon().join("cgroup.procs")).unwrap_or_default();
        let back = self.parent.join("cgroup.procs");
        if fs::write(&back, holder.to_string()).is_ok() {
            for pid in procs.split_ascii_whitespace() {
                let _ = fs::write(&back, pid);
            }
            // Who is about to end can't be moved any more.
            self.wait_for_daemon();
        }
        self.remove();
    }

    /// Waits until the cgroup of the daemon is empty, if that is soon.
    fn wait_for_daemon(&self) {
        let Ok(events) = fs::File::open(self.of_daemon().join("cgroup.events")) else { return };
        let until = Instant::now() + PATIENCE;
        while is_populated_in(&events).unwrap_or(false) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return };
            let mut files = [PollFd::new(&events, PollFlags::PRI)];
            if !poll(&mut files, Some(&left)).is_ok_and(|changed| changed > 0) {
                return;
            }
        }
    }
}

/// The instances in whose cgroups a cgroup is, of any orchestrator, from the root.
pub(super) fn instances_in(path: &Path) -> impl Iterator<Item = InstanceId> {
    let names = || path.iter().map(|name| name.to_str().unwrap_or_default());
    let below = names().zip(names().skip(1)).filter(|(above, _)| *above == INSTANCES);
    below.filter_map(|(_, name)| name.parse().ok())
}

/// What an execution of this number is to its instance.
const fn part_of(tag: u64) -> Part {
    if tag < FIRST_COMMAND { Part::Main } else { Part::Command }
}

/// The cgroup in which a daemon of this id was started that is in `own` now: another one of it may
/// have moved already.
fn parent_of<'a>(own: &'a Path, id: &str) -> &'a Path {
    let moved = own.ends_with(Path::new(id).join("daemon"));
    let parent = own.parent().and_then(Path::parent).filter(|_| moved);
    parent.unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_has_moved_knows_where_it_came_from() {
        let id = "orchestrator-0123456789abcdef";
        let of = |own: &'static str| parent_of(Path::new(own), id);
        assert_eq!(of("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup"));
        let moved = "/cg/x.service/orchestrator-0123456789abcdef/daemon";
        assert_eq!(of(moved), Path::new("/cg/x.service"));
        let other = "/cg/orchestrator-ffffffffffffffff/daemon";
        assert_eq!(of(other), Path::new(other));
        let instance = "/cg/orchestrator-0123456789abcdef/instances/a/run-1";
        assert_eq!(of(instance), Path::new(instance));
    }

    #[test]
    fn instances_are_known_by_their_cgroups_also_of_one_in_another() {
        let [outer, inner] = [InstanceId::generate(), InstanceId::generate()];
        let of = |path: String| instances_in(Path::new(&path)).collect::<Vec<_>>();
        let below = format!("/a/orchestrator-01/instances/{outer}/run-1");
        assert_eq!(of(below.clone()), [outer]);
        assert_eq!(of(format!("{below}/orchestrator-02/instances/{inner}/run-7")), [outer, inner]);
        for none in ["/", "/instances", "/instances/x/run-1", "/orchestrator-01/daemon"] {
            assert_eq!(of(none.to_owned()), []);
        }
        assert_eq!(of(format!("/other/{outer}/run-1")), []);
    }

    #[test]
    fn each_state_directory_has_an_id_of_its_own() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(id_of(one.path()), id_of(one.path()));
        assert_ne!(id_of(one.path()), id_of(two.path()));
        assert_eq!(id_of(one.path()).len(), "orchestrator-".len() + 16);
    }
}
