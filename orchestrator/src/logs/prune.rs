//! Logs of instances that no daemon knows any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Deletes logs in `logs`, one directory for each instance, until those that are left have at
/// most `max_bytes` together: the ones that were written to longest ago go first. The answer is
/// how many were deleted. Only to be called before any of them is opened.
///
/// # Errors
///
/// When `logs` exists and can't be read. What can't be deleted is left.
pub fn prune(logs: &Path, max_bytes: u64) -> io::Result<usize> {
    let entries = match fs::read_dir(logs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut kept: Vec<(SystemTime, u64, PathBuf)> =
        entries.flatten().filter_map(|entry| measure(&entry.path())).collect();
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
fn measure(dir: &Path) -> Option<(SystemTime, u64, PathBuf)> {
    let (mut newest, mut bytes) = (SystemTime::UNIX_EPOCH, 0);
    for file in fs::read_dir(dir).ok()?.flatten() {
        let metadata = file.metadata().ok()?;
        newest = newest.max(metadata.modified().ok()?);
        bytes += metadata.len();
    }
    Some((newest, bytes, dir.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let dir = tempfile::tempdir().unwrap();
        for age in 0..4 {
            let log = dir.path().join(format!("log-{age}"));
            fs::create_dir(&log).unwrap();
            let path = log.join("00000001.log");
            fs::write(&path, [b'x'; 100]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(3600 * age);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(prune(dir.path(), 250).unwrap(), 2);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["log-0", "log-1"]);
        assert_eq!(prune(&dir.path().join("none"), 1).unwrap(), 0);
    }
}
