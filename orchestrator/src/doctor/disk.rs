//! Directories: whether they can be written to, by whom else, and how much room there is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use orchestrator_proto::control::Finding;

/// Less than this many bytes are a problem: a log rotates by files of some MiB.
const LITTLE: u64 = 64 << 20;

/// Less than this part is a warning, in percent.
const LOW: u64 = 5;

/// The same of a directory that is made below one that is looked at, when it is needed.
pub(super) fn made_when_needed(check: &str, path: &Path) -> Finding {
    match path.try_exists() {
        Ok(false) => Finding::ok(check, format!("{} is made when it is needed", path.display())),
        _ => directory(check, path),
    }
}

/// A directory of the daemon's.
pub(super) fn directory(check: &str, path: &Path) -> Finding {
    let shown = path.display();
    if let Err(errno) = access(path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK) {
        let message = format!("{shown} can't be written to: {}", errno.desc());
        let advice = format!(
            "give it to the user that the daemon runs as (chown), or mount its file system \
             writable; see ls -ld {shown}"
        );
        return Finding::problem(check, message, advice);
    }
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.mode());
    open_to_others(check, &shown.to_string(), mode)
}

fn open_to_others(check: &str, path: &str, mode: u32) -> Finding {
    let mode = mode & 0o7777;
    let advice = || format!("chmod 700 {path}");
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        let message = format!("others can write to {path}, which has the mode {mode:04o}");
        return Finding::problem(check, message, advice());
    }
    // Who may pass through and not read has to know the name of what is in it: that of a socket
    // which belongs to the instance's own user.
    if mode & 0o066 != 0 {
        let message = format!("others can look into {path}, which has the mode {mode:04o}");
        return Finding::warning(check, message, advice());
    }
    Finding::ok(check, format!("only this user can look into {path} and write to it"))
}

/// The file system of the state directory.
pub(super) fn space(path: &Path) -> Finding {
    match statvfs(path) {
        Ok(stat) => {
            let unit = stat.fragment_size();
            room(
                &path.display().to_string(),
                (stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit)),
                (stat.files_available(), stat.files()),
            )
        }
        Err(errno) => Finding::problem(
            "disk",
            format!("the file system of {} can't be asked: {}", path.display(), errno.desc()),
            "see whether it is mounted",
        ),
    }
}

/// Free and all: bytes, and files.
fn room(path: &str, (free, all): (u64, u64), (files_free, files): (u64, u64)) -> Finding {
    let message =
        format!("{} MiB of {} MiB are free on the file system of {path}", free >> 20, all >> 20);
    let advice = "make room, or keep less of the logs (--log-max-size, --log-keep): when it is \
                  full, changes are refused and output waits";
    let is_low = free < all / 100 * LOW;
    // Some file systems do not count files.
    let few_files = files > 0 && files_free < files / 100;
    if free < LITTLE {
        Finding::problem("disk", message, advice)
    } else if few_files {
        let message = format!("{files_free} more files can be made on the file system of {path}");
        Finding::warning("disk", message, "remove files that are not needed: df -i shows it")
    } else if is_low {
        Finding::warning("disk", message, advice)
    } else {
        Finding::ok("disk", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn who_else_can_get_in() {
        let level = |mode| open_to_others("x", "/x", mode).level;
        assert_eq!(level(0o40700), Level::Ok);
        assert_eq!(level(0o40755), Level::Warning);
        assert_eq!(level(0o40777), Level::Problem);
        assert_eq!(level(0o41777), Level::Warning);
    }

    #[test]
    fn a_directory_that_is_not_there_can_not_be_written_to() {
        let dir = tempfile::tempdir().unwrap();
        assert_ne!(directory("x", dir.path()).level, Level::Problem);
        let finding = directory("x", &dir.path().join("none"));
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.message.contains("No such file"));
        assert_eq!(made_when_needed("x", &dir.path().join("none")).level, Level::Ok);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(made_when_needed("x", &file.join("below")).level, Level::Problem);
        assert_eq!(space(&dir.path().join("none")).level, Level::Problem);
    }

    #[test]
    fn how_much_room_is_little() {
        const GIB: u64 = 1 << 30;
        let level = |free, files| room("/x", (free, 100 * GIB), files).level;
        assert_eq!(level(50 * GIB, (50, 100)), Level::Ok);
        assert_eq!(level(4 * GIB, (50, 100)), Level::Warning);
        assert_eq!(level(GIB >> 5, (50, 100)), Level::Problem);
        assert_eq!(level(50 * GIB, (0, 1000)), Level::Warning);
        assert_eq!(level(50 * GIB, (0, 0)), Level::Ok, "btrfs counts no files");
    }
}
