//! Where the last lines of a log begin.

use std::io;
use std::path::Path;

use orchestrator_proto::control::LogStream;

use super::file::Position;
use super::names::numbers;
use super::read::{CHUNK, ReadQuery};
use super::record::Record;
use super::stored::Stored;

/// How many parts make a line at most: 1 MiB of text. A program that never prints a newline
/// has a last line without end; not all of that is wanted.
const MAX_PARTS: u32 = 64;

/// Counts lines backwards. The parts of a line belong to the end of line after them; parts
/// after the last end of their stream are a line that is not finished.
struct Counter<'a> {
    query: &'a ReadQuery,
    left: u64,
    /// Streams of which a record was seen, and how many parts their line has so far.
    parts: Vec<(LogStream, u32)>,
}

impl Counter<'_> {
    /// Takes the record before the last one. `false` if it belongs to one line too many.
    fn take(&mut self, line: &[u8]) -> bool {
        let Some(record) = Record::parse(line).filter(|record| self.query.wants(record)) else {
            return true;
        };
        let known = self.parts.iter_mut().find(|(stream, _)| *stream == record.stream);
        match known {
            Some((_, parts)) if !record.complete && *parts < MAX_PARTS => {
                *parts += 1;
                return true;
            }
            Some((_, parts)) => *parts = 1,
            None => self.parts.push((record.stream, 1)),
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }
}

/// Finds where to begin so that the query gets `count` lines, or all if there are fewer, of
/// what is before `end`. Reads from there to `end`, backwards, in pieces of 64 KiB.
///
/// A line in parts is cut at its beginning if it is the first and other streams printed
/// meanwhile: there is one place to begin with, and whole lines before it would be too many.
pub(super) fn find(
    dir: &Path,
    end: Position,
    count: u64,
    query: &ReadQuery,
) -> io::Result<Position> {
    let mut start = end;
    if count == 0 {
        return Ok(start);
    }
    let mut counter = Counter { query, left: count, parts: Vec::new() };
    let mut chunk = vec![0; CHUNK];
    for number in numbers(dir)?.into_iter().rev() {
        if number > end.number {
            continue;
        }
        let mut file = match Stored::open(dir, number) {
            Ok(file) => file,
            // Older ones are deleted too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // Reading on from what is before it tells of that.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            Err(error) => return Err(error),
        };
        let mut high = file.len()?;
        if number == end.number {
            high = high.min(end.offset);
        }
        while high > 0 {
            let low = high.saturating_sub(CHUNK as u64);
            let wanted = usize::try_from(high - low).unwrap_or(CHUNK);
            let count = match file.read_at(&mut chunk[..wanted], low) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => break,
                read => read?,
            };
            let piece = &chunk[..count];
            // The first record of the piece may have begun before it.
            let first = match low {
                0 => 0,
                _ => piece.iter().position(|&byte| byte == b'\n').map_or(count, |at| at + 1),
            };
            let mut last = count;
            while last > first {
                let body = &piece[first..last];
                let body = body.strip_suffix(b"\n").unwrap_or(body);
                let begin = body.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
                if !counter.take(&body[begin..]) {
                    return Ok(start);
                }
                last = first + begin;
                let offset = low + last as u64;
                start = Position { number, offset };
            }
            // No whole record in it: somebody else's line. What is before it counts.
            high = low + if first < count { first as u64 } else { 0 };
        }
    }
    Ok(start)
}
