//! What is wrong with a manifest, and where.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use super::MAX_PROBLEMS;

/// A place in a text, as editors count: both begin at 1, and a column is a character.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Something that is wrong with a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// Where in it; none if it can't be read at all.
    pub at: Option<Position>,
    /// What, as a sentence.
    pub message: String,
    /// What to do, as a sentence, if that can be said.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, "{at}:")?;
        }
        write!(f, " {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a manifest: at least one problem, in the order of files and lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems {
    /// The first of them, at most [`MAX_PROBLEMS`].
    pub all: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.all.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// Where problems are collected while a manifest is read.
#[derive(Debug, Default)]
pub(super) struct Collected {
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    all: Vec<Problem>,
    more: usize,
    warnings: Vec<Problem>,
}

impl Collected {
    pub(super) fn add(&self, problem: Problem) {
        let mut inner = self.inner.borrow_mut();
        if inner.all.len() < MAX_PROBLEMS {
            inner.all.push(problem);
        } else {
            inner.more += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.inner.borrow().all.len() >= MAX_PROBLEMS
    }

    fn warn(&self, problem: Problem) {
        self.inner.borrow_mut().warnings.push(problem);
    }

    /// What was warned of, if nothing was wrong.
    ///
    /// # Errors
    ///
    /// What was wrong.
    pub(super) fn finish(self) -> Result<Vec<Problem>, Problems> {
        let Inner { mut all, more, warnings } = self.inner.into_inner();
        if all.is_empty() {
            return Ok(warnings);
        }
        // Files stay in the order in which they were read.
        let mut files: Vec<&Path> = Vec::new();
        for problem in &all {
            if !files.contains(&problem.file.as_path()) {
                files.push(&problem.file);
            }
        }
        let files: Vec<PathBuf> = files.into_iter().map(Into::into).collect();
        all.sort_by_key(|problem| {
            (files.iter().position(|file| *file == problem.file), problem.at)
        });
        Err(Problems { all, more })
    }
}

/// One file of a manifest, while it is read.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// As it is shown.
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) collected: &'a Collected,
}

impl Source<'_> {
    /// Where this byte is.
    pub(super) fn position(&self, byte: usize) -> Position {
        let mut byte = byte.min(self.text.len());
        while !self.text.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &self.text[..byte];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: 1 + before.bytes().filter(|byte| *byte == b'\n').count(),
            column: 1 + before[start..].chars().count(),
        }
    }

    /// This is wrong at this byte.
    pub(super) fn tell(&self, byte: usize, message: String, help: Option<String>) {
        if self.collected.is_full() {
            // To find a line takes time, and nobody will be told of it.
            self.collected.inner.borrow_mut().more += 1;
        } else {
            self.collected.add(self.problem(byte, message, help));
        }
    }

    fn problem(&self, byte: usize, message: String, help: Option<String>) -> Problem {
        Problem { file: self.path.to_owned(), at: Some(self.position(byte)), message, help }
    }

    /// This is wrong at this byte.
    pub(super) fn wrong(&self, byte: usize, message: impl Into<String>) {
        self.tell(byte, message.into(), None);
    }

    /// This is wrong at this byte, and can be mended like this.
    pub(super) fn mend(&self, byte: usize, message: impl Into<String>, help: impl Into<String>) {
        self.tell(byte, message.into(), Some(help.into()));
    }

    /// This may be a slip.
    pub(super) fn warn(&self, byte: usize, message: String, help: Option<String>) {
        if self.collected.inner.borrow().warnings.len() >= MAX_PROBLEMS {
            return;
        }
        self.collected.warn(self.problem(byte, message, help));
    }
}
