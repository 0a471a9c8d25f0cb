//! What earlier daemons left in the state directory: what belongs to an instance stays, the rest
//! goes as far as it should.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::store::Snapshot;

/// Bytes of logs of instances that were removed, or that no daemon knows, that are kept: 256 MiB.
const OLD_LOG_BYTES: u64 = 256 << 20;

/// Deletes programs that belong to no instance in `snapshot`, and the oldest logs of such. If the
/// database was set aside, the programs that belong to it are set aside too, and no log is
/// deleted. What can't be done is said and left.
pub(super) fn clear(state: &Path, snapshot: &Snapshot) {
    let (programs, logs) = (state.join("programs"), state.join("logs"));
    if let Some(aside) = &snapshot.set_aside {
        let to = state.join(format!("programs{}", aside.suffix));
        match fs::rename(&programs, &to) {
            Ok(()) => tracing::warn!(?to, "moved the programs of its instances aside too"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, ?programs, "programs could not be moved aside"),
        }
        return;
    }
    match clear_programs(&programs, &snapshot.copies) {
        Ok(0) => {}
        Ok(deleted) => tracing::info!(deleted, "deleted programs that belong to no instance"),
        Err(error) => tracing::warn!(%error, "programs of earlier daemons could not be deleted"),
    }
    match prune(&logs, &snapshot.ids, OLD_LOG_BYTES) {
        Ok(0) => {}
        Ok(deleted) => tracing::info!(deleted, "deleted logs that belong to no instance"),
        Err(error) => tracing::warn!(%error, "logs of earlier daemons could not be looked at"),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `copies` are paths of programs below `programs`, each in a directory of its own.
fn clear_programs(programs: &Path, copies: &HashSet<PathBuf>) -> io::Result<usize> {
    let known: HashSet<_> = copies.iter().filter_map(|copy| copy.iter().next()).collect();
    let mut deleted = 0;
    for dir in entries(programs)? {
        if !dir.file_name().is_some_and(|name| known.contains(name)) {
            fs::remove_dir_all(&dir)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Deletes logs in `logs`, one directory for each instance, until those that belong to none in
/// `known` have at most `max_bytes` together: the ones that were written to longest ago go first.
fn prune(logs: &Path, known: &HashSet<String>, max_bytes: u64) -> io::Result<usize> {
    let is_known = |dir: &PathBuf| {
        dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(name))
    };
    let unknown = entries(logs)?.into_iter().filter(|dir| !is_known(dir));
    let mut kept: Vec<_> = unknown.filter_map(measure).collect();
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    let mut deleted = 0;
    for (_, bytes, dir) in kept {
        if total <= max_bytes {
            break;
        }
        match fs::remove_dir_all(&dir) {
            Ok(()) => {
                total -= bytes;
                deleted += 1;
            }
            Err(error) => tracing::warn!(?dir, %error, "an old log could not be deleted"),
        }
    }
    Ok(deleted)
}

/// When a log was last written to, and its bytes.
fn measure(dir: PathBuf) -> Option<(SystemTime, u64, PathBuf)> {
    let (mut newest, mut bytes) = (SystemTime::UNIX_EPOCH, 0);
    for file in fs::read_dir(&dir).ok()?.flatten() {
        let metadata = file.metadata().ok()?;
        newest = newest.max(metadata.modified().ok()?);
        bytes += metadata.len();
    }
    Some((newest, bytes, dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SetAside;
    use std::fs::File;
    use std::time::Duration;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = entries(dir)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn of_unknown_logs_the_oldest_go_until_the_rest_fits() {
        let dir = tempfile::tempdir().unwrap();
        for age in 0..5 {
            let log = dir.path().join(format!("log-{age}"));
            fs::create_dir(&log).unwrap();
            let path = log.join("00000001.log");
            fs::write(&path, [b'x'; 100]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(3600 * age);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        let known = HashSet::from(["log-4".to_owned()]);
        assert_eq!(prune(dir.path(), &known, 250).unwrap(), 2);
        assert_eq!(names(dir.path()), ["log-0", "log-1", "log-4"]);
        assert_eq!(prune(&dir.path().join("none"), &known, 1).unwrap(), 0);
    }

    fn state() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        for dir in ["programs/a", "programs/b", "logs"] {
            fs::create_dir_all(state.path().join(dir)).unwrap();
        }
        fs::write(state.path().join("programs/a/ping"), "").unwrap();
        state
    }

    #[test]
    fn programs_of_known_instances_stay() {
        let state = state();
        let copies = HashSet::from([PathBuf::from("a/ping")]);
        clear(state.path(), &Snapshot { copies, ..Snapshot::default() });
        assert_eq!(names(&state.path().join("programs")), ["a"]);
        clear(state.path(), &Snapshot::default());
        assert!(names(&state.path().join("programs")).is_empty());
    }

    #[test]
    fn nothing_is_deleted_that_a_database_that_was_set_aside_knows() {
        let state = state();
        let aside = SetAside {
            path: state.path().join("state.db.corrupt-1"),
            suffix: ".corrupt-1".to_owned(),
            reason: String::new(),
        };
        clear(state.path(), &Snapshot { set_aside: Some(aside), ..Snapshot::default() });
        assert_eq!(names(&state.path().join("programs.corrupt-1")), ["a", "b"]);
    }
}
