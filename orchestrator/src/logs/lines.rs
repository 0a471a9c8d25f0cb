//! Cuts a stream of bytes into lines. Pure: bytes in, parts of lines out.

use super::record::{MAX_TEXT, newline};

/// Cuts one stream into lines. A line of more than [`MAX_TEXT`] bytes comes in parts.
///
/// Nothing is added, changed or left out: the texts in their order, with a newline after each
/// complete one, are the bytes that went in.
#[derive(Default, Debug)]
pub(super) struct Splitter {
    /// The beginning of a line whose end has not come: at most [`MAX_TEXT`] bytes. It has no
    /// memory while it is empty, for most streams are quiet most of the time.
    pending: Vec<u8>,
    /// Whether the last part that was emitted did not end its line.
    open: bool,
}

impl Splitter {
    /// Takes the next bytes; `emit` gets each text that is known to be whole or too long, and
    /// whether it ends a line.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = MAX_TEXT - self.pending.len();
            // A newline right after a text of full length still ends that line.
            let window = &bytes[..bytes.len().min(room + 1)];
            let (end, complete) = match newline(window) {
                Some(end) => (end, true),
                None if window.len() > room => (room, false),
                None => {
                    self.pending.extend_from_slice(bytes);
                    return;
                }
            };
            if self.pending.is_empty() {
                emit(&bytes[..end], complete);
            } else {
                let mut text = std::mem::take(&mut self.pending);
                text.extend_from_slice(&bytes[..end]);
                emit(&text, complete);
            }
            self.open = !complete;
            bytes = &bytes[end + usize::from(complete)..];
        }
    }

    /// Emits the beginning of a line that is waiting for its end, if there is one.
    pub(super) fn flush(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if !self.pending.is_empty() {
            emit(&std::mem::take(&mut self.pending), false);
            self.open = true;
        }
    }

    /// Whether text is waiting for the end of its line.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many bytes are waiting for the end of their line.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Whether what was emitted does not end with a whole line.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = Splitter::default();
        let mut parts = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |text, complete| parts.push((text.to_vec(), complete)));
        }
        splitter.flush(|text, complete| parts.push((text.to_vec(), complete)));
        assert!(!splitter.is_waiting());
        parts
    }

    #[test]
    fn lines_are_cut_at_newlines_only() {
        let parts = split(&[b"a\r\n\n\0b", b"\xff\n", b"c"]);
        let expected: [(&[u8], bool); 4] =
            [(b"a\r", true), (b"", true), (b"\0b\xff", true), (b"c", false)];
        assert_eq!(parts, expected.map(|(text, end)| (text.to_vec(), end)));
    }

    #[test]
    fn a_line_of_full_length_is_one_part_and_a_longer_one_two() {
        let mut line = vec![b'x'; MAX_TEXT];
        line.push(b'\n');
        assert_eq!(split(&[&line]).len(), 1);
        let (first, second) = line.split_at(MAX_TEXT);
        assert_eq!(split(&[first, second]).len(), 1);
        line.insert(0, b'x');
        let parts = split(&[&line]);
        assert_eq!(parts[0], (vec![b'x'; MAX_TEXT], false));
        assert_eq!(parts[1], (b"x".to_vec(), true));
    }

    #[test]
    fn the_end_of_a_prompt_is_a_part_of_its_own() {
        let mut splitter = Splitter::default();
        let mut parts = Vec::new();
        splitter.push(b"login: ", |_, _| unreachable!());
        assert!(splitter.is_waiting() && !splitter.is_open());
        splitter.flush(|text, complete| parts.push((text.to_vec(), complete)));
        assert!(!splitter.is_waiting() && splitter.is_open());
        splitter.push(b"\n", |text, complete| parts.push((text.to_vec(), complete)));
        assert!(!splitter.is_open());
        assert_eq!(parts, [(b"login: ".to_vec(), false), (Vec::new(), true)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn any_bytes_in_any_chunks_come_out_again(
            pieces in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..8), 0_usize..40_000, any::<bool>()), 0..6),
            cuts in prop::collection::vec(1_usize..70_000, 1..20),
            flushes: u32,
        ) {
            let mut all = Vec::new();
            for (text, run, end) in pieces {
                all.extend_from_slice(&text);
                all.extend(std::iter::repeat_n(b'.', run));
                if end {
                    all.push(b'\n');
                }
            }
            let mut splitter = Splitter::default();
            let mut back = Vec::new();
            let mut longest = 0;
            let mut emit = |text: &[u8], complete: bool| {
                assert!(!text.contains(&b'\n'));
                longest = longest.max(text.len());
                back.extend_from_slice(text);
                if complete {
                    back.push(b'\n');
                }
            };
            let mut rest = &all[..];
            for (turn, cut) in cuts.iter().cycle().enumerate() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                splitter.push(now, &mut emit);
                if flushes >> (turn % 32) & 1 == 1 {
                    splitter.flush(&mut emit);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            splitter.flush(&mut emit);
            prop_assert!(longest <= MAX_TEXT);
            prop_assert!(back == all, "the content has changed");
        }
    }
}
