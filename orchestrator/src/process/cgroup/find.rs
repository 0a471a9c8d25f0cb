//! Which directory is the cgroup of this process: from proc_pid_cgroup(5) and
//! proc_pid_mountinfo(5).

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The directory of the cgroup that this process is in.
///
/// # Errors
///
/// Why there is none, as a sentence.
pub(super) fn own() -> Result<PathBuf, String> {
    of("self")
}

/// The directory of the cgroup that a process is in: its number, or `self`.
pub(super) fn of(pid: &str) -> Result<PathBuf, String> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read(&path).map_err(|error| format!("{path} can't be read: {error}"))
    };
    let path = path_in(&read("cgroup")?).ok_or_else(|| {
        "the kernel has no cgroups of version 2, or was told to use none (see cgroups(7))"
            .to_owned()
    })?;
    // Of ours: it is ours that we look at.
    let mounts = fs::read("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo can't be read: {error}"))?;
    directory(&mounts, &path)
}

/// The path of the cgroup of version 2, as seen from the root of the cgroup namespace.
pub(super) fn path_in(text: &[u8]) -> Option<PathBuf> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    // One that was removed while we are in it can't be used, and is not found below.
    Some(path(line))
}

fn path(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

/// Where a cgroup is seen, in a text of proc_pid_mountinfo(5).
fn directory(mounts: &[u8], cgroup: &Path) -> Result<PathBuf, String> {
    let mut is_mounted = false;
    // The last one that was mounted hides those before it.
    for line in mounts.split(|byte| *byte == b'\n').rev() {
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else { continue };
        let Some(b"cgroup2") = fields.skip_while(|field| *field != b"-").nth(1) else { continue };
        is_mounted = true;
        if let Ok(below) = cgroup.strip_prefix(path(&unescaped(root))) {
            let directory = path(&unescaped(point));
            return Ok(if below.as_os_str().is_empty() {
                directory
            } else {
                directory.join(below)
            });
        }
    }
    Err(if is_mounted {
        format!("the cgroup of the daemon, {cgroup:?}, is not below what is mounted here")
    } else {
        "cgroups of version 2 are mounted nowhere; try mount -t cgroup2 none /sys/fs/cgroup".into()
    })
}

/// Spaces and their like are written as `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let octal = text.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let octal = octal.and_then(|it| u8::from_str_radix(std::str::from_utf8(it).ok()?, 8).ok());
        out.push(octal.unwrap_or(*byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn unified_hybrid_and_neither() {
        assert_eq!(path_in(b"9:name=systemd:/\n0::/a/b\n"), Some("/a/b".into()));
        assert_eq!(path_in(b"9:name=systemd:/\n1:cpu:/\n"), None);
        let found = |mounts: &[u8], cgroup: &str| directory(mounts, Path::new(cgroup));
        assert_eq!(found(HYBRID, "/"), Ok("/sys/fs/cgroup/unified".into()));
        assert_eq!(found(HYBRID, "/a/b"), Ok("/sys/fs/cgroup/unified/a/b".into()));
        let unified = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 none rw,nsdelegate\n";
        assert_eq!(found(unified, "/user.slice"), Ok("/sys/fs/cgroup/user.slice".into()));
        let part = b"30 23 0:26 /docker/x /cg\\040roup ro - cgroup2 none ro\n";
        assert_eq!(found(part, "/docker/x/y"), Ok("/cg roup/y".into()));
        assert!(found(part, "/docker/z").unwrap_err().contains("not below"));
        assert!(found(b"1 1 0:1 / / rw - ext4 /dev/sda rw\n", "/").unwrap_err().contains("mount"));
    }

    #[test]
    fn this_process_is_in_one_that_is_there() {
        if let Ok(own) = own() {
            assert!(own.join("cgroup.procs").exists(), "{own:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(mounts in any::<Vec<u8>>(), cgroup in any::<String>()) {
            let _ = (directory(&mounts, Path::new(&cgroup)), path_in(&mounts));
        }
    }
}
