//! Log files that are compressed: made, and read from any place in them.
//!
//! Such a file is a row of Zstandard frames (RFC 8878), each of which says how much it holds and
//! has a check sum: any tool of that format reads it. Since no frame holds more than
//! [`FRAME_BYTES`], a reader needs no more memory than that, and begins wherever it wants.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::read::read_at;

/// The most bytes that one frame holds: 256 KiB.
const FRAME_BYTES: usize = 256 << 10;
/// How much work is put into it: that of the `zstd` program.
const LEVEL: i32 = 3;

/// Compresses what is in `source` into `target`, which is empty, and has it written to the disk.
/// Asks `stop` before each frame.
///
/// # Errors
///
/// Those of the files; [`io::ErrorKind::Interrupted`] if it was stopped.
pub(super) fn pack(source: &File, target: &File, stop: impl Fn() -> bool) -> io::Result<()> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    let mut chunk = vec![0; FRAME_BYTES];
    let (mut from, mut to) = (0, 0);
    loop {
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = read_at(source, &mut chunk, from)?;
        if count == 0 {
            break;
        }
        let frame = compressor.compress(&chunk[..count])?;
        target.write_all_at(&frame, to)?;
        from += count as u64;
        to += frame.len() as u64;
    }
    // Before the original is deleted: a power failure must not cost both.
    target.sync_all()
}

/// A compressed file that is open for reading.
#[derive(Debug)]
pub(super) struct Packed {
    file: File,
    /// Where each frame begins in the file, and in what it holds.
    frames: Vec<(u64, u64)>,
    /// How much they hold.
    len: u64,
    /// The frame that was read last, by its number, and what it holds.
    last: Option<(usize, Vec<u8>)>,
}

impl Packed {
    /// Looks through the frames.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] for a file that [`pack`] did not make, or that was cut.
    pub(super) fn open(file: File) -> io::Result<Self> {
        let mut window = vec![0; zstd_safe::compress_bound(FRAME_BYTES)];
        let (mut at, mut len, mut frames) = (0, 0, Vec::new());
        loop {
            let count = read_at(&file, &mut window, at)?;
            if count == 0 {
                return Ok(Self { file, frames, len, last: None });
            }
            let frame = &window[..count];
            let size = zstd_safe::find_frame_compressed_size(frame).map_err(|_| damaged())?;
            let holds = zstd_safe::get_frame_content_size(frame).ok().flatten();
            let holds = holds.filter(|&holds| holds <= FRAME_BYTES as u64).ok_or_else(damaged)?;
            frames.push((at, len));
            at += size as u64;
            len += holds;
        }
    }

    /// How many bytes it holds.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads until the buffer is full or all that it holds was read.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() && offset + (done as u64) < self.len {
            let at = offset + done as u64;
            let number = self.frames.partition_point(|(_, begin)| *begin <= at).saturating_sub(1);
            let begin = self.frames.get(number).map_or(0, |(_, begin)| *begin);
            let held = self.frame(number)?;
            let skip = usize::try_from(at - begin).unwrap_or(usize::MAX);
            let rest = held.get(skip..).filter(|rest| !rest.is_empty()).ok_or_else(damaged)?;
            let count = rest.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        Ok(done)
    }

    /// What a frame holds.
    fn frame(&mut self, number: usize) -> io::Result<&[u8]> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            let begin = self.frames.get(number).ok_or_else(damaged)?.0;
            let mut frame = vec![0; zstd_safe::compress_bound(FRAME_BYTES)];
            let count = read_at(&self.file, &mut frame, begin)?;
            let size = zstd_safe::find_frame_compressed_size(&frame[..count]);
            let frame = size.ok().and_then(|size| frame.get(..size)).ok_or_else(damaged)?;
            let held = Decompressor::new()?.decompress(frame, FRAME_BYTES)?;
            self.last = Some((number, held));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, held)| held))
    }
}

fn damaged() -> io::Error {
    let message = "it is damaged, or was compressed by something else";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(content: &[u8]) -> File {
        let source = tempfile::tempfile().unwrap();
        source.write_all_at(content, 0).unwrap();
        let target = tempfile::tempfile().unwrap();
        pack(&source, &target, || false).unwrap();
        target
    }

    fn content(len: usize) -> Vec<u8> {
        let line = |number: usize| format!("line {number} {}\n", number.wrapping_mul(0x9e37_79b9));
        (0..).flat_map(|number| line(number).into_bytes()).take(len).collect()
    }

    #[test]
    fn it_is_smaller_and_other_tools_read_it() {
        let content = content(1_000_000);
        let file = packed(&content);
        let len = file.metadata().unwrap().len();
        assert!(len < 500_000, "{len}");
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(zstd::stream::decode_all(&bytes[..]).unwrap() == content);
        assert_eq!(Packed::open(packed(b"")).unwrap().len(), 0);
    }

    #[test]
    fn what_is_damaged_is_an_error_and_what_is_stopped_ends() {
        let file = packed(&content(600_000));
        let len = file.metadata().unwrap().len();
        file.set_len(len - 1).unwrap();
        assert_eq!(Packed::open(file).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let file = packed(&content(600_000));
        file.write_all_at(&[0x55; 100], 5000).unwrap();
        let read = Packed::open(file).and_then(|mut file| file.read_at(&mut [0; 600_000], 0));
        assert!(read.is_err());
        let foreign = tempfile::tempfile().unwrap();
        let bytes = zstd::stream::encode_all(&content(1_000_000)[..], 3).unwrap();
        foreign.write_all_at(&bytes, 0).unwrap();
        assert!(Packed::open(foreign).is_err());
        let (source, target) = (packed(b"x"), tempfile::tempfile().unwrap());
        assert!(pack(&source, &target, || true).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_part_is_read_as_it_was(
            len in 0_usize..700_000,
            parts in prop::collection::vec((0_u64..800_000, 0_usize..300_000), 1..8),
        ) {
            let content = content(len);
            let mut file = Packed::open(packed(&content)).unwrap();
            prop_assert_eq!(file.len(), len as u64);
            for (offset, size) in parts {
                let mut buffer = vec![0; size];
                let count = file.read_at(&mut buffer, offset).unwrap();
                let from = usize::try_from(offset).unwrap().min(len);
                prop_assert!(buffer[..count] == content[from..(from + size).min(len)]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            if let Ok(mut file) = Packed::open(file) {
                let _ = file.read_at(&mut [0; 100], 0);
            }
        }
    }
}
