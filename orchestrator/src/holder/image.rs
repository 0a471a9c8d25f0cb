//! What execve(2) needs of a program, in one piece of memory that can be used as it is: the
//! daemon builds it, the holder only puts in where it lies.
//!
//! It is a table of words of eight bytes, in the machine's order, and then the strings, each
//! with its final zero, filled up to whole words. The table: the words in it; the offset of the program's path; that of
//! its working directory; those of its arguments, then 0; those of its environment, then 0.
//!
//! If the top bit of the first word is set, the steps of [`attributes`] come between
//! the table and the strings: how many words they are, and those. A holder that does not know of
//! them takes such an image for none, and refuses it: nothing is ever executed without them.

use std::collections::TryReserveError;
use std::ffi::{CStr, OsStr, c_char};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use super::attributes::{self, Attributes};
use super::frame::MAX_DATAGRAM;
use super::sys;

const WORD: usize = size_of::<u64>();

/// Words before the arguments.
const HEAD: usize = 3;

/// In the first word: there are steps.
const STEPS: u64 = 1 << 63;

/// What is to be executed.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its path.
    pub path: &'a OsStr,
    /// Its working directory.
    pub cwd: &'a OsStr,
    /// Its arguments, the first of which is its own name.
    pub args: &'a [&'a OsStr],
    /// `NAME=VALUE`, as it will find them.
    pub env: &'a [Vec<u8>],
    /// What it is given besides, if anything.
    pub attributes: Option<&'a Attributes>,
}

/// A string with a zero byte in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nul byte found in provided data")]
pub struct ZeroByte;

impl Program<'_> {
    /// The image.
    ///
    /// # Errors
    ///
    /// [`ZeroByte`] if any of the strings has one.
    pub fn image(&self) -> Result<Vec<u8>, ZeroByte> {
        let words = HEAD + self.args.len() + 1 + self.env.len() + 1;
        let args = self.args.iter().map(|arg| arg.as_bytes());
        let strings = [self.path.as_bytes(), self.cwd.as_bytes()].into_iter().chain(args.clone());
        let size = strings.chain(self.env.iter().map(Vec::as_slice)).map(|text| text.len() + 1);
        let mut image =
            Image { bytes: Vec::with_capacity(words * WORD + size.sum::<usize>()), words: 0 };
        image.bytes.resize(words * WORD, 0);
        let (steps, stdin) = self.attributes.map(Attributes::words).unwrap_or_default();
        if steps.is_empty() {
            image.put(words as u64);
        } else {
            image.put(words as u64 | STEPS);
            image.bytes.extend_from_slice(&(steps.len() as u64).to_ne_bytes());
            steps.iter().for_each(|word| image.bytes.extend_from_slice(&word.to_ne_bytes()));
        }
        let end_of_steps = image.bytes.len();
        image.string(self.path.as_bytes())?;
        image.string(self.cwd.as_bytes())?;
        for arg in args {
            image.string(arg)?;
        }
        image.put(0);
        for variable in self.env {
            image.string(variable)?;
        }
        let mut bytes = image.bytes;
        if let Some(stdin) = stdin {
            if stdin.contains(&0) {
                return Err(ZeroByte);
            }
            let offset = bytes.len() as u64;
            bytes[end_of_steps - WORD..end_of_steps].copy_from_slice(&offset.to_ne_bytes());
            bytes.extend_from_slice(stdin);
            bytes.push(0);
        }
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        Ok(bytes)
    }
}

struct Image {
    bytes: Vec<u8>,
    words: usize,
}

impl Image {
    fn put(&mut self, word: u64) {
        let at = self.words * WORD;
        self.bytes[at..at + WORD].copy_from_slice(&word.to_ne_bytes());
        self.words += 1;
    }

    fn string(&mut self, text: &[u8]) -> Result<(), ZeroByte> {
        if text.contains(&0) {
            return Err(ZeroByte);
        }
        self.put(self.bytes.len() as u64);
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        Ok(())
    }
}

/// Where execve(2) finds what it needs, in an image that stays where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    pub(super) path: *const c_char,
    pub(super) cwd: *const c_char,
    pub(super) args: *const *const u8,
    pub(super) env: *const *const u8,
    /// The steps to be taken before, and how many words they are.
    pub(super) steps: (*const u64, usize),
}

impl Located {
    /// The address of the byte at this offset of the image.
    pub(super) const fn byte(&self, offset: usize) -> *mut u8 {
        let start = self.args.cast_mut().cast::<u8>().wrapping_sub(HEAD * WORD);
        start.wrapping_add(offset)
    }
}

/// Turns the offsets of an image into addresses, in place. None if it is not an image.
pub(super) fn locate(image: &mut [u64]) -> Option<Located> {
    let base = image.as_mut_ptr();
    let len = size_of_val(image) as u64;
    // So each string that begins before the end has an end.
    if image.last()?.to_ne_bytes()[WORD - 1] != 0 {
        return None;
    }
    let first = *image.first()?;
    let words = usize::try_from(first & !STEPS).ok()?;
    let (table, rest) = image.split_at_mut_checked(words)?;
    let steps = match (first & STEPS, rest) {
        (0, _) => &mut [],
        (_, [count, rest @ ..]) => rest.get_mut(..usize::try_from(*count).ok()?)?,
        (_, []) => return None,
    };
    let words_of_steps = if first & STEPS == 0 { 0 } else { 1 + steps.len() };
    if words < HEAD + 2 || table[words - 1] != 0 || table[HEAD..words - 1].iter().all(|&w| w != 0) {
        return None;
    }
    let strings = ((words + words_of_steps) * WORD) as u64;
    let address = |offset: u64| (strings..len).contains(&offset).then_some(offset + base as u64);
    attributes::locate(steps, address)?;
    let count_of_steps = steps.len();
    let end_of_args = HEAD + table[HEAD..].iter().position(|&offset| offset == 0)?;
    for (at, word) in table.iter_mut().enumerate().skip(1) {
        if at == end_of_args || at == words - 1 {
            continue;
        }
        // A zero among them would end the environment too early.
        *word = address(*word)?;
    }
    let at = |word: usize| base.wrapping_add(word);
    Some(Located {
        path: table[1] as *const c_char,
        cwd: table[2] as *const c_char,
        args: at(HEAD).cast_const().cast(),
        env: at(end_of_args + 1).cast_const().cast(),
        steps: (at(words + usize::from(first & STEPS != 0)).cast_const(), count_of_steps),
    })
}

/// The variable that a program finds its own number in, see sd_listen_fds(3).
pub const ENV_LISTEN_PID: &str = "LISTEN_PID";

/// The most digits of a process's number.
pub const PID_DIGITS: usize = 10;

/// What has room for the number of the new process, which that writes there.
pub const ROOM_FOR_PID: &str = "0000000000";

/// Where in an image that is not located yet there is [`ROOM_FOR_PID`]: the offset of its bytes.
/// None if it has no such variable, or is no image.
pub(super) fn place_for_pid(image: &[u64]) -> Option<usize> {
    let words = usize::try_from(*image.first()? & !STEPS).ok()?;
    let table = image.get(HEAD..words)?;
    let args = table.iter().position(|&offset| offset == 0)?;
    let byte = |at: usize| image.get(at / WORD).map(|word| word.to_ne_bytes()[at % WORD]);
    let wanted = || [ENV_LISTEN_PID, "=", ROOM_FOR_PID, "\0"].into_iter().flat_map(str::bytes);
    table.iter().skip(args + 1).find_map(|&offset| {
        let start = usize::try_from(offset).ok()?;
        let is_it = wanted().enumerate().all(|(i, expected)| {
            start.checked_add(i).and_then(byte).is_some_and(|found| found == expected)
        });
        is_it.then_some(start + ENV_LISTEN_PID.len() + 1)
    })
}

/// The words that are there for each image: as much as a datagram has, and the name of a program.
const KEPT: usize = MAX_DATAGRAM / WORD;

/// Memory for one image after the other. For those that come in a datagram it is always there;
/// what a longer one needs is taken for as long as it is in use.
#[derive(Debug)]
pub(super) struct Words {
    kept: &'static mut [u64],
    /// How many of them are in use, if nothing longer is.
    used: usize,
    longer: Vec<u64>,
}

impl Words {
    /// For one image.
    pub(super) fn new() -> Self {
        Self { kept: sys::pages(KEPT), used: 0, longer: Vec::new() }
    }

    /// So many, in one piece, which is not touched before it is used.
    pub(super) fn several(count: usize) -> impl Iterator<Item = Self> {
        let all = sys::pages(count * KEPT);
        all.chunks_exact_mut(KEPT).map(|kept| Self { kept, used: 0, longer: Vec::new() })
    }

    /// Forgets what is there.
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.longer = Vec::new();
    }

    /// The same, and gives back the memory until it is used again.
    pub(super) fn rest(&mut self) {
        self.clear();
        sys::clear(self.kept);
    }

    /// The image.
    pub(super) fn image(&mut self) -> &mut [u64] {
        if self.longer.is_empty() { &mut self.kept[..self.used] } else { &mut self.longer }
    }

    /// Puts words behind what is there.
    ///
    /// # Errors
    ///
    /// When they are too many for what is kept, and there is no more memory.
    fn extend(&mut self, words: impl ExactSizeIterator<Item = u64>) -> Result<(), TryReserveError> {
        let count = words.len();
        if self.longer.is_empty() {
            if let Some(free) = self.kept[self.used..].get_mut(..count) {
                free.iter_mut().zip(words).for_each(|(free, word)| *free = word);
                self.used += count;
                return Ok(());
            }
            self.longer.try_reserve(self.used + count)?;
            self.longer.extend_from_slice(&self.kept[..self.used]);
        }
        self.longer.try_reserve(count)?;
        self.longer.extend(words);
        Ok(())
    }
}

/// Has an image name another program, whatever it named before. False if it is none.
///
/// # Errors
///
/// When there is no memory.
pub(super) fn name_program(words: &mut Words, path: &CStr) -> Result<bool, TryReserveError> {
    let path = path.to_bytes_with_nul();
    let image = words.image();
    let offset = size_of_val(image) as u64;
    let Some(place) = image.get_mut(1) else { return Ok(false) };
    *place = offset;
    words.extend(path.chunks(WORD).map(|piece| {
        let mut word = [0; WORD];
        word[..piece.len()].copy_from_slice(piece);
        u64::from_ne_bytes(word)
    }))?;
    Ok(true)
}

/// Puts an image, or a piece of one that ends with a whole word, behind what is in `words`.
///
/// # Errors
///
/// When there is no memory.
pub(super) fn copy(bytes: &[u8], words: &mut Words) -> Result<(), TryReserveError> {
    let word = |word: &[u8]| word.try_into().map_or(0, u64::from_ne_bytes);
    words.extend(bytes.chunks_exact(WORD).map(word))
}

/// The name of an open file as a program that is to be executed: `/proc/self/fd/7`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileName([u8; FileName::SIZE]);

impl FileName {
    const SIZE: usize = 32;

    pub(super) fn of(file: impl AsFd) -> Self {
        Self::of_number(file.as_fd().as_raw_fd())
    }

    pub(super) fn of_number(file: RawFd) -> Self {
        use std::io::Write;
        let mut name = [0; Self::SIZE];
        // The longest number leaves zeros at the end.
        let _ = write!(&mut name[..], "/proc/self/fd/{file}");
        Self(name)
    }

    pub(super) fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// An environment as this process has it.
pub(super) fn own_environment(extra: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let is_extra = |name: &OsStr| extra.iter().any(|(extra, _)| name == OsStr::new(extra));
    let own = std::env::vars_os().filter(|(name, _)| !is_extra(name));
    own.map(|(name, value)| variable(&name, &value))
        .chain(extra.iter().map(|(name, value)| variable(OsStr::new(name), OsStr::new(value))))
        .collect()
}

/// `NAME=VALUE`.
#[must_use]
pub fn variable(name: &OsStr, value: &OsStr) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}

/// For the file that holds an image which is too long for a datagram.
pub const FILE_NAME: &CStr = c"image of a program";
