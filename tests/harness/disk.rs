//! Disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own, unmounted when it is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a file system of so many KiB; none where this user may not.
    pub fn mount(at: &Path, kib: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=700"), "none"]).arg(at);
        let output = mount.output().ok()?;
        output.status.success().then(|| Self(at.to_owned()))
    }

    /// Uses up all room that is left, in one file.
    pub fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut bytes = 0;
        // By the size of a page, until there is none.
        while fs::write(&ballast, vec![0; bytes + 4096]).is_ok() {
            bytes += 4096;
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
