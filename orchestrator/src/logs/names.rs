//! What the files of one log are called: `00000001.log`, or `00000001.log.zst` when it is
//! compressed, and so on; `00000001.log.zst.part` while that is under way.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PLAIN: &str = ".log";
const PACKED: &str = ".log.zst";
const PART: &str = ".log.zst.part";

/// How a file is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Plain,
    Packed,
}

/// A log file as it is.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}{PLAIN}"))
}

/// A log file that is compressed.
pub(super) fn packed_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}{PACKED}"))
}

/// One that is being compressed.
pub(super) fn part_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}{PART}"))
}

/// The number in a name that ends like this, if it is one that is made here.
fn number(name: &OsStr, ending: &str) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(ending)?;
    // None from which counting on could overflow.
    let number = digits.parse().ok().filter(|&number: &u64| number < u64::MAX / 2)?;
    (format!("{number:08}") == digits).then_some(number)
}

/// The files in a directory by their numbers; none if the directory is gone. One that is there
/// in both forms was compressed completely.
pub(super) fn files(dir: &Path) -> io::Result<BTreeMap<u64, Form>> {
    let mut files = BTreeMap::new();
    each(dir, |name| {
        if let Some(number) = number(name, PACKED) {
            files.insert(number, Form::Packed);
        } else if let Some(number) = number(name, PLAIN) {
            files.entry(number).or_insert(Form::Plain);
        }
    })?;
    Ok(files)
}

/// The numbers of the log files in a directory, ascending; none if the directory is gone.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    Ok(files(dir)?.into_keys().collect())
}

fn each(dir: &Path, mut look: impl FnMut(&OsStr)) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            look(&entry.file_name());
        }
    }
    Ok(())
}

/// Deletes what was left when compressing ended without warning: parts, and files as they were
/// that are there compressed as well.
pub(super) fn tidy(dir: &Path) -> io::Result<()> {
    let (mut parts, mut plain, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    each(dir, |name| {
        parts.extend(number(name, PART));
        packed.extend(number(name, PACKED));
        plain.extend(number(name, PLAIN));
    })?;
    for number in parts {
        gone(fs::remove_file(part_path(dir, number)))?;
    }
    for number in plain.into_iter().filter(|number| packed.contains(number)) {
        gone(fs::remove_file(path_of(dir, number)))?;
    }
    Ok(())
}

/// Deletes a log file in all its forms.
pub(super) fn delete(dir: &Path, number: u64) -> io::Result<()> {
    gone(fs::remove_file(path_of(dir, number)))?;
    gone(fs::remove_file(packed_path(dir, number)))
}

/// Deletes the log files of a directory, and the directory if nothing else is in it.
pub(super) fn delete_all(dir: &Path) -> io::Result<()> {
    tidy(dir)?;
    for number in numbers(dir)? {
        delete(dir, number)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => gone(removed),
    }
}

/// It is no error if it was not there.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_files_of_a_log() {
        let dir = tempfile::TempDir::new().unwrap();
        let ours = ["00000001.log.zst", "00000002.log", "00000003.log", "00000003.log.zst"];
        let others = [
            "1.log",
            "00000004.log.gz",
            "00000005",
            "x.log",
            "00000006.log.zst.part",
            "+0000007.log",
        ];
        for name in ours.iter().chain(&others) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("00000008.log")).unwrap();
        let expected = [(1, Form::Packed), (2, Form::Plain), (3, Form::Packed)];
        assert_eq!(files(dir.path()).unwrap(), BTreeMap::from(expected));
        tidy(dir.path()).unwrap();
        assert!(!path_of(dir.path(), 3).exists() && !part_path(dir.path(), 6).exists());
        assert_eq!(numbers(dir.path()).unwrap(), [1, 2, 3]);
        delete_all(dir.path()).unwrap();
        assert_eq!(numbers(dir.path()).unwrap(), [0_u64; 0]);
        assert!(dir.path().join("1.log").exists());
        delete_all(&dir.path().join("nowhere")).unwrap();
    }
}
