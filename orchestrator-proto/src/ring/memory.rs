//! The memory itself: a sealed memfd, mapped. The only unsafe code of this crate.
//!
//! Why it is sound, in short: the mapping is as long as the file was when it was looked at, and the
//! file is sealed against becoming shorter, so that no access to it faults. No reference to its
//! bytes exists: words are atomics, and other bytes are copied by single machine instructions that
//! the compiler does not see through, so that a change by the other process at the same time
//! yields other bytes and nothing else. Each position is checked against the mapping's length
//! here, whoever computed it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::RingError;
use super::layout::{CONTROL, Cell, Kind, MAGIC, MAX_CAPACITY, MAX_PAYLOAD, Memory, OUTSIDE};

/// The file can't become shorter or longer, and no seal can be added.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Makes the file of a ring: `area` bytes after the control page, `size` in its header. Its pages
/// take no memory until they are touched. Close-on-exec, not executable where the kernel can
/// say so (Linux 6.3).
pub(super) fn make(kind: Kind, area: usize, size: usize) -> Result<OwnedFd, RingError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match rustix::fs::memfd_create("orchestrator-ring", flags | MemfdFlags::NOEXEC_SEAL)
    {
        Err(Errno::INVAL) => rustix::fs::memfd_create("orchestrator-ring", flags),
        made => made,
    };
    let file = made.map_err(RingError::io("make the memory of a ring"))?;
    let len = (CONTROL + area) as u64;
    rustix::fs::ftruncate(&file, len).map_err(RingError::io("size the memory of a ring"))?;
    let mut header = [0; 24];
    for (cell, word) in [(Cell::Magic, MAGIC), (Cell::Kind, kind.word()), (Cell::Size, size as u64)]
    {
        header[cell as usize..][..8].copy_from_slice(&word.to_ne_bytes());
    }
    let written =
        rustix::io::pwrite(&file, &header, 0).map_err(RingError::io("write into a new ring"))?;
    if written != header.len() {
        return Err(RingError::NotARing("its header could not be written"));
    }
    rustix::fs::fcntl_add_seals(&file, SEALS).map_err(RingError::io("seal a ring"))?;
    Ok(file)
}

/// A ring's memory in this process. Unmapped when dropped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    /// Of the whole, bytes.
    len: usize,
}

// SAFETY: it is a mapping of this process, not of a thread, and all access to it is by atomics or
// by copies that bear changes by others at the same time.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the file. Checks that it can't become shorter, and what its header says.
    ///
    /// Answers with the size in the header too, which nobody may have changed: it has to fit the
    /// file's.
    pub(super) fn open(file: BorrowedFd<'_>, kind: Kind) -> Result<(Self, usize), RingError> {
        let mapping = Self::map(file)?;
        if mapping.load(Cell::Magic) != MAGIC {
            return Err(RingError::NotARing("it does not begin as one"));
        }
        if mapping.load(Cell::Kind) != kind.word() {
            return Err(RingError::NotARing("it is of another version or kind"));
        }
        let size = usize::try_from(mapping.load(Cell::Size)).unwrap_or(usize::MAX);
        Ok((mapping, size))
    }

    /// As [`open`](Self::open), whatever kind of ring it is.
    pub(super) fn map(file: BorrowedFd<'_>) -> Result<Self, RingError> {
        // Other files than memfds have no such seals; some can't be asked at all.
        let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
        if !seals.contains(SEALS) {
            return Err(RingError::NotSealed);
        }
        let stat = rustix::fs::fstat(file).map_err(RingError::io("look at a ring"))?;
        let most = CONTROL + MAX_CAPACITY.max(4 * MAX_PAYLOAD);
        let len = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if !(CONTROL..=most).contains(&len) {
            return Err(RingError::NotARing("its size is not that of one"));
        }
        // SAFETY: a new mapping, at an address that the kernel chooses, replaces no other one.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        let base = base.map_err(RingError::io("map a ring"))?;
        let base = NonNull::new(base.cast()).ok_or(RingError::NotARing("it is mapped at zero"))?;
        Ok(Self { base, len })
    }

    /// A word, whose position is that of a cell or was checked.
    fn atomic(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: cells are below `CONTROL` and aligned, and the mapping is no shorter than that;
        // `word_at` has checked the others. The mapping lives as long as `self`, begins at a page
        // and is only accessed by atomics or as bytes of the area.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    fn cell(&self, cell: Cell) -> &AtomicU64 {
        self.atomic(cell as usize)
    }

    /// Where `len` bytes of the area are.
    fn part(&self, at: usize, len: usize) -> Result<*mut u8, RingError> {
        let end = at.checked_add(len).ok_or(OUTSIDE)?;
        if end > self.len - CONTROL {
            return Err(OUTSIDE);
        }
        // SAFETY: the part is inside the mapping, as was just checked.
        Ok(unsafe { self.base.as_ptr().add(CONTROL + at) })
    }

    fn word_at(&self, at: usize) -> Result<&AtomicU64, RingError> {
        if !at.is_multiple_of(8) {
            return Err(OUTSIDE);
        }
        self.part(at, 8)?;
        Ok(self.atomic(CONTROL + at))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Can't fail, since it is a mapping.
        // SAFETY: it was mapped like this, and nothing of it is borrowed any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len)
    }
}

impl Memory for Mapping {
    fn load(&self, cell: Cell) -> u64 {
        self.cell(cell).load(Ordering::Acquire)
    }

    fn store(&self, cell: Cell, value: u64) {
        self.cell(cell).store(value, Ordering::Release);
    }

    fn swap(&self, cell: Cell, value: u64) -> u64 {
        self.cell(cell).swap(value, Ordering::AcqRel)
    }

    fn set(&self, cell: Cell, bits: u64) -> u64 {
        self.cell(cell).fetch_or(bits, Ordering::AcqRel)
    }

    fn clear(&self, cell: Cell, bits: u64) -> u64 {
        self.cell(cell).fetch_and(!bits, Ordering::AcqRel)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn area(&self) -> usize {
        self.len - CONTROL
    }

    fn word(&self, at: usize) -> Result<u64, RingError> {
        Ok(self.word_at(at)?.load(Ordering::Relaxed))
    }

    fn set_word(&self, at: usize, value: u64) -> Result<(), RingError> {
        self.word_at(at)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<(), RingError> {
        let to = self.part(at, bytes.len())?;
        // SAFETY: `part` has checked that so many bytes may be written there.
        unsafe { copy_in(to, bytes) };
        Ok(())
    }

    fn copy_out(&self, at: usize, len: usize, into: &mut Vec<u8>) -> Result<(), RingError> {
        let from = self.part(at, len)?;
        into.try_reserve(len).map_err(|_| RingError::NoMemory(len))?;
        let to = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `part` has checked that so many bytes can be read there, and the vector has
        // room for them, which is none of the mapping.
        unsafe { copy_out(to, from, len) };
        // SAFETY: that many more bytes have just been written.
        unsafe { into.set_len(into.len() + len) };
        Ok(())
    }
}

/// Lets tokio watch an eventfd. In a tokio runtime with I/O.
#[cfg(feature = "sdk")]
pub(super) fn watch(
    ear: super::bell::Ear,
) -> std::io::Result<tokio::io::unix::AsyncFd<super::bell::Ear>> {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    // SAFETY: it holds a descriptor that is open and the same for as long as it lives, which nobody
    // takes out.
    Ok(unsafe { AsyncFd::register_with_interest(ear, Interest::READABLE) }?)
}

/// What is copied at once; the rest byte by byte.
const BLOCK: usize = 16;

/// Copies into shared memory.
///
/// # Safety
///
/// As many bytes as there are in `from` can be written at `to`, only as shared memory is.
unsafe fn copy_in(to: *mut u8, from: &[u8]) {
    let whole = from.len() / BLOCK * BLOCK;
    // SAFETY: the blocks, and then each byte, are inside both.
    unsafe {
        blocks::copy_in(to, from.as_ptr(), whole);
        for (at, byte) in from.iter().enumerate().skip(whole) {
            byte::store(to.add(at), *byte);
        }
    }
}

/// Copies out of shared memory. What another process changes meanwhile is copied as it was before
/// or after that, byte by byte; nothing else depends on it.
///
/// # Safety
///
/// `len` bytes at `from` can be read, only as shared memory is; `len` bytes at `to` can be written,
/// are nobody else's and no shared memory.
unsafe fn copy_out(to: *mut u8, from: *mut u8, len: usize) {
    let whole = len / BLOCK * BLOCK;
    // SAFETY: the blocks, and then each byte, are inside both.
    unsafe {
        blocks::copy_out(to, from, whole);
        for at in whole..len {
            ptr::write(to.add(at), byte::load(from.add(at)));
        }
    }
}

/// A byte, atomically.
mod byte {
    use std::sync::atomic::{AtomicU8, Ordering};

    /// # Safety
    ///
    /// The byte can be read, as shared memory is.
    pub(super) unsafe fn load(from: *mut u8) -> u8 {
        // SAFETY: as the caller promises; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(from) }.load(Ordering::Relaxed)
    }

    /// # Safety
    ///
    /// The byte can be written, as shared memory is.
    pub(super) unsafe fn store(to: *mut u8, byte: u8) {
        // SAFETY: as the caller promises; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(to) }.store(byte, Ordering::Relaxed);
    }
}

/// Blocks, each byte of them atomically. In assembly, because the compiler has no access of this
/// size with which others may race; to the compiler it is as opaque as atomics are, and as fast
/// in a build without optimisation. SSE2 is part of the architecture; AVX was no faster through
/// memory that another core has just written.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod blocks {
    use std::arch::asm;

    pub(super) use copy as copy_in;
    pub(super) use copy as copy_out;

    /// # Safety
    ///
    /// `len`, a multiple of 16, bytes can be read at `from` and written at `to`, and the two do not
    /// overlap.
    #[inline]
    pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: `len` goes down to zero by what was copied: by 64 as long as it is at least that,
        // then by 16. Flags and the named registers are all that changes besides `to`.
        unsafe {
            asm!(
                "sub {len}, 64",
                "jb 3f",
                "2:",
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                "add {from}, 64",
                "add {to}, 64",
                "sub {len}, 64",
                "jae 2b",
                "3:",
                "add {len}, 64",
                "jz 5f",
                "4:",
                "movups {a}, [{from}]",
                "movups [{to}], {a}",
                "add {from}, 16",
                "add {to}, 16",
                "sub {len}, 16",
                "jnz 4b",
                "5:",
                len = inout(reg) len => _,
                from = inout(reg) from => _,
                to = inout(reg) to => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            );
        }
    }
}

/// Blocks, by the atomics that every machine has.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod blocks {
    use std::ptr;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::byte;

    /// # Safety
    ///
    /// `len`, a multiple of 16, bytes can be read at `from`, which is no shared memory, and written
    /// at `to` as shared memory is.
    pub(super) unsafe fn copy_in(to: *mut u8, from: *const u8, len: usize) {
        let aligned = to.addr().is_multiple_of(8);
        for at in (0..len).step_by(8) {
            // SAFETY: as the caller promises; `to` is aligned where that is needed.
            unsafe {
                let word: [u8; 8] = ptr::read(from.add(at).cast());
                if aligned {
                    AtomicU64::from_ptr(to.add(at).cast())
                        .store(u64::from_ne_bytes(word), Ordering::Relaxed);
                } else {
                    for (n, byte) in word.into_iter().enumerate() {
                        byte::store(to.add(at + n), byte);
                    }
                }
            }
        }
    }

    /// # Safety
    ///
    /// `len`, a multiple of 16, bytes can be read at `from` as shared memory is, and written at `to`,
    /// which is none.
    pub(super) unsafe fn copy_out(to: *mut u8, from: *mut u8, len: usize) {
        let aligned = from.addr().is_multiple_of(8);
        for at in (0..len).step_by(8) {
            // SAFETY: as the caller promises; `from` is aligned where that is needed.
            unsafe {
                let word = if aligned {
                    let word = AtomicU64::from_ptr(from.add(at).cast()).load(Ordering::Relaxed);
                    word.to_ne_bytes()
                } else {
                    std::array::from_fn(|n| byte::load(from.add(at + n)))
                };
                ptr::write(to.add(at).cast(), word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;

    use super::*;

    /// Memory that is accessed as shared memory is, at any alignment; and nothing beside it changes.
    #[test]
    fn all_bytes_are_copied_and_no_others() {
        for len in (0..200).step_by(if cfg!(miri) { 23 } else { 1 }) {
            for from in [0, 1, 8] {
                let shared: Vec<UnsafeCell<u8>> = (0..240).map(|_| UnsafeCell::new(9)).collect();
                let base = UnsafeCell::raw_get(shared.as_ptr());
                let sent: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let mut taken = vec![0; len];
                // SAFETY: both are inside their vectors.
                unsafe {
                    copy_in(base.add(from + 16), &sent);
                    copy_out(taken.as_mut_ptr(), base.add(from + 16), len);
                }
                assert_eq!(taken, sent);
                let all: Vec<u8> = shared.into_iter().map(UnsafeCell::into_inner).collect();
                assert!(all[..from + 16].iter().chain(&all[from + 16 + len..]).all(|it| *it == 9));
            }
        }
    }
}
