//! Memory that is no mapping: for tests of the pure halves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::ring::RingError;
use crate::ring::layout::{Bell, Cell, Memory, OUTSIDE};

/// Words of the control page.
const CELLS: usize = 640 / 8 + 1;

/// Both ends of a ring share one.
#[derive(Clone, Debug)]
pub(super) struct Heap(Arc<(Vec<AtomicU64>, Vec<AtomicU64>)>);

impl Heap {
    /// With an area of so many bytes.
    pub(super) fn new(area: usize) -> Self {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new((words(CELLS), words(area / 8))))
    }

    fn cell(&self, cell: Cell) -> &AtomicU64 {
        &self.0.0[cell as usize / 8]
    }

    fn byte(&self, at: usize) -> Result<u8, RingError> {
        let word = self.0.1.get(at / 8).ok_or(OUTSIDE)?.load(Ordering::Relaxed);
        Ok(word.to_ne_bytes()[at % 8])
    }

    /// Puts any word anywhere: a peer that does not keep to the rules.
    pub(super) fn scribble(&self, at: usize, value: u64) {
        let (cells, area) = &*self.0;
        let all = cells.len() + area.len();
        let word = cells.iter().chain(area).nth(at % all).unwrap();
        word.store(value, Ordering::Relaxed);
    }
}

impl Memory for Heap {
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
        self.0.1.len() * 8
    }

    fn word(&self, at: usize) -> Result<u64, RingError> {
        Ok(self.0.1.get(at / 8).ok_or(OUTSIDE)?.load(Ordering::Relaxed))
    }

    fn set_word(&self, at: usize, value: u64) -> Result<(), RingError> {
        self.0.1.get(at / 8).ok_or(OUTSIDE)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<(), RingError> {
        for (at, byte) in (at..).zip(bytes) {
            let word = self.0.1.get(at / 8).ok_or(OUTSIDE)?;
            let mut all = word.load(Ordering::Relaxed).to_ne_bytes();
            all[at % 8] = *byte;
            word.store(u64::from_ne_bytes(all), Ordering::Relaxed);
        }
        Ok(())
    }

    fn copy_out(&self, at: usize, len: usize, into: &mut Vec<u8>) -> Result<(), RingError> {
        for at in at..at + len {
            into.push(self.byte(at)?);
        }
        Ok(())
    }
}

/// A bell that nobody hears.
#[derive(Clone, Debug, Default)]
pub(super) struct Mute;

impl Bell for Mute {
    fn ring(&self) -> Result<(), RingError> {
        Ok(())
    }
}
