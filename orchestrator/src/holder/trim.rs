//! Giving back memory that was needed for a while: pages of the program's file that were read and
//! may not be read again (those that are come back then), and what was freed since.

use std::fs;
use std::ops::Range;

use super::sys;

/// Gives back what can be read from files again, and what is free. What can't be had is left as it
/// is. For the daemon, when it was busy and is not any more.
pub fn give_back() {
    Rest::look().begin();
}

/// What can be given back whenever there is nothing to do.
pub(super) struct Rest {
    /// Mappings of files; there are no new ones once this process is at work.
    clean: Vec<Range<usize>>,
}

impl Rest {
    /// What there is now.
    pub(super) fn look() -> Self {
        let smaps = fs::read_to_string("/proc/self/smaps");
        Self { clean: smaps.map(|maps| clean_files(&maps).collect()).unwrap_or_default() }
    }

    /// Gives it back. Takes no memory for that.
    pub(super) fn begin(&self) {
        // Before the mappings, because it brings back pages of the C library.
        sys::give_back_freed();
        for range in &self.clean {
            sys::give_back(range.clone());
        }
    }
}

/// The mappings of files, in the text of proc_pid_smaps(5), of which no page was written to:
/// neither by the program nor, as relocations, by the loader.
fn clean_files(smaps: &str) -> impl Iterator<Item = Range<usize>> {
    let mut current = None;
    smaps.lines().filter_map(move |line| {
        if let Some(range) = file(line) {
            current = range;
            None
        } else if line.starts_with("Anonymous:") {
            let written = line.split_ascii_whitespace().nth(1) != Some("0");
            current.take().filter(|_| !written)
        } else {
            None
        }
    })
}

/// None if the line does not begin a mapping; else its addresses, if it is one of a file that is
/// private and can't be written to.
fn file(line: &str) -> Option<Option<Range<usize>>> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
    let permissions = fields.next()?;
    let path = fields.nth(3).unwrap_or("");
    let fits = permissions.ends_with('p') && !permissions.contains('w') && path.starts_with('/');
    Some(fits.then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_private_files_are_given_back() {
        let mapping = |head: &str, anonymous: u32| {
            format!("{head}\nSize: 4 kB\nAnonymous:           {anonymous} kB\nVmFlags: rd mr\n")
        };
        let smaps = [
            mapping("1000-2000 r--p 00000000 fe:00 7    /usr/bin/a file", 0),
            mapping("2000-3000 r-xp 00001000 fe:00 7    /usr/bin/a", 0),
            mapping("3000-4000 r--p 00002000 fe:00 7    /usr/bin/a", 4),
            mapping("4000-5000 rw-p 00003000 fe:00 7    /usr/bin/a", 0),
            mapping("5000-6000 r--s 00000000 fe:00 8    /usr/lib/cache", 0),
            mapping("6000-7000 r--p 00000000 00:00 0", 0),
            mapping("7000-8000 r-xp 00000000 00:00 0    [vdso]", 0),
        ]
        .concat();
        let found: Vec<_> = clean_files(&smaps).collect();
        assert_eq!(found, [0x1000..0x2000, 0x2000..0x3000]);
    }

    #[test]
    fn memory_that_is_given_back_is_there_again_when_it_is_used() {
        let page = rustix::param::page_size() / size_of::<u64>();
        let memory = sys::pages(4 * page);
        assert_eq!(memory.as_ptr().addr() % rustix::param::page_size(), 0);
        for _ in 0..2 {
            memory.fill(7);
            // Two whole pages, and pieces of those around them, which stay.
            sys::clear(&mut memory[1..4 * page - 1]);
            let left = memory.iter().filter(|word| **word == 7).count();
            assert_eq!(left, 2 * page);
            assert!(memory[page..3 * page].iter().all(|word| *word == 0));
        }
        // Less than a page.
        sys::clear(&mut memory[1..page]);
        assert_eq!(memory[1], 7);
        sys::clear(&mut []);
    }

    #[test]
    fn this_program_goes_on_after_it() {
        give_back();
        assert_eq!(format!("{:?}", vec![1, 2]), "[1, 2]");
    }
}
