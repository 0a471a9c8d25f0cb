//! Files of variables: `NAME=VALUE` in lines.
//!
//! As systemd.exec(5) has it for `EnvironmentFile=`, and a shell for assignments without
//! substitutions:
//!
//! - empty lines, and those that begin with `#` or `;`, are passed over; so is `export` before a
//!   name;
//! - a name is made of letters, digits and `_`, and does not begin with a digit;
//! - a value without quotes ends with its line; white space around it does not count. A backslash
//!   before any character is that character, and before the end of a line joins it with the next;
//! - in `'` everything counts as it is, newlines too;
//! - in `"` likewise, but for a backslash before `"`, `\`, `` ` `` and `$`, and at the end of a
//!   line;
//! - nothing follows a value in quotes but white space. A dollar is a dollar.
//!
//! What is anything else is told with its line.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use orchestrator_proto::control::EnvFile;
use thiserror::Error;

/// The longest file, bytes.
const MAX: u64 = 1 << 20;

/// Why a file of variables can't be had.
#[derive(Debug, Error)]
pub enum EnvFileError {
    /// It can't be read.
    #[error("the environment file {path:?} can't be read: {source}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// There is something else in it.
    #[error("line {line} of the environment file {path:?} is no variable: {what}")]
    Line {
        /// Which.
        path: String,
        /// The first is 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What a file of variables holds; nothing if it is not there and may be missing.
///
/// # Errors
///
/// When it can't be read, or holds something else.
pub(super) fn read(file: &EnvFile) -> Result<Vec<(OsString, OsString)>, EnvFileError> {
    let path = || file.path.clone();
    match bytes(Path::new(&file.path)) {
        Err(error) if file.optional && error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(EnvFileError::Unreadable { path: path(), source }),
        Ok(bytes) => {
            parse(&bytes).map_err(|(line, what)| EnvFileError::Line { path: path(), line, what })
        }
    }
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe that nobody writes to is not waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let no_file = |what: &str| Err(io::Error::other(what.to_owned()));
    if !file.metadata()?.is_file() {
        return no_file("it is not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX { no_file("it has more than 1 MiB") } else { Ok(bytes) }
}

/// What is wrong, and in which line.
type Wrong = (usize, &'static str);

fn parse(bytes: &[u8]) -> Result<Vec<(OsString, OsString)>, Wrong> {
    let mut text = Text { bytes, at: 0, line: 1 };
    let mut all = Vec::new();
    while text.skip_to_variable() {
        let line = text.line;
        let name = text.name().map_err(|what| (line, what))?;
        let value = text.value().map_err(|what| (line, what))?;
        if value.contains(&0) {
            return Err((line, "it has a zero byte"));
        }
        all.push((name, OsString::from_vec(value)));
    }
    Ok(all)
}

struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Text<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn skip(&mut self, which: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&which) {
            self.next();
        }
    }

    /// False at the end.
    fn skip_to_variable(&mut self) -> bool {
        loop {
            self.skip(|byte| byte.is_ascii_whitespace());
            match self.peek() {
                Some(b'#' | b';') => self.skip(|byte| byte != b'\n'),
                found => return found.is_some(),
            }
        }
    }

    fn word(&mut self) -> &[u8] {
        let start = self.at;
        self.skip(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        &self.bytes[start..self.at]
    }

    fn name(&mut self) -> Result<OsString, &'static str> {
        let mut name = self.word().to_vec();
        if name == b"export" && self.peek().is_some_and(is_blank) {
            self.skip(is_blank);
            name = self.word().to_vec();
        }
        match name.first() {
            Some(first) if first.is_ascii_digit() => Err("its name begins with a digit"),
            None => Err("it has no name; write NAME=VALUE"),
            Some(_) if self.peek() == Some(b'=') => {
                self.next();
                Ok(OsString::from_vec(name))
            }
            Some(_) => Err("there is no = behind its name; write NAME=VALUE"),
        }
    }

    fn value(&mut self) -> Result<Vec<u8>, &'static str> {
        self.skip(is_blank);
        match self.peek() {
            Some(quote @ (b'"' | b'\'')) => {
                self.next();
                let value = self.quoted(quote)?;
                self.skip(is_blank);
                match self.next() {
                    None | Some(b'\n') => Ok(value),
                    Some(_) => Err("there is something behind its closing quote"),
                }
            }
            _ => Ok(self.plain()),
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Vec<u8>, &'static str> {
        let mut value = Vec::new();
        loop {
            match self.next().ok_or("its closing quote is missing")? {
                byte if byte == quote => return Ok(value),
                b'\\' if quote == b'"' => match self.peek() {
                    Some(escaped @ (b'"' | b'\\' | b'`' | b'$')) => {
                        value.push(escaped);
                        self.next();
                    }
                    Some(b'\n') => {
                        self.next();
                    }
                    _ => value.push(b'\\'),
                },
                byte => value.push(byte),
            }
        }
    }

    fn plain(&mut self) -> Vec<u8> {
        let mut value = Vec::new();
        // What is behind this is white space that was not escaped.
        let mut end = 0;
        loop {
            match self.next() {
                None | Some(b'\n') => break,
                Some(b'\\') => match self.next() {
                    None => break,
                    Some(b'\n') => {}
                    Some(byte) => {
                        value.push(byte);
                        end = value.len();
                    }
                },
                Some(byte) => {
                    value.push(byte);
                    if !byte.is_ascii_whitespace() {
                        end = value.len();
                    }
                }
            }
        }
        value.truncate(end);
        value
    }
}

/// White space within a line. A carriage return is at the end of one, as Windows writes them.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn good(text: &str) -> Vec<(String, String)> {
        let all = parse(text.as_bytes()).unwrap();
        let text = |it: OsString| it.into_string().unwrap();
        all.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn variables() {
        let cases = [
            ("A=1", "1"),
            ("A=", ""),
            ("  A=1 2 \t\r\n", "1 2"),
            ("export A=x", "x"),
            ("A = x", ""),
            ("# A=2\n; A=3\n\nA=1", "1"),
            ("A=a # b", "a # b"),
            ("A=a\\ \\\nb", "a b"),
            ("A=$B ${C}", "$B ${C}"),
            ("A='a\\ \"b\n c'  ", "a\\ \"b\n c"),
            ("A=\"a\\\"\\$\\n\\\nb\"\r\n", "a\"$\\nb"),
            ("A=\"\"", ""),
            ("A=it's", "it's"),
            ("A=ü", "ü"),
        ];
        for (text, value) in cases {
            if text == "A = x" {
                assert_eq!(parse(text.as_bytes()).unwrap_err().0, 1);
                continue;
            }
            assert_eq!(good(text), [("A".to_owned(), value.to_owned())], "{text}");
        }
        let two = good("A=1\nB=2\nA=3");
        assert_eq!(two.iter().map(|(name, _)| name.as_str()).collect::<String>(), "ABA");
        assert_eq!(good(""), []);
    }

    #[test]
    fn what_is_no_variable_is_told_with_its_line() {
        let cases: [(&[u8], usize, &str); 8] = [
            (b"A=1\n\nhello\n", 3, "no ="),
            (b"1A=1", 1, "digit"),
            (b"# x\n=1", 2, "no name"),
            (b"A='x\n\n", 1, "closing quote is missing"),
            (b"A=\"x\" y", 1, "behind its closing quote"),
            (b"A=1\nA-B=2", 2, "no ="),
            (b"A='1\n2'\nB=\0", 3, "zero"),
            (b"\xff=1", 1, "no name"),
        ];
        for (text, line, what) in cases {
            let (found, why) = parse(text).unwrap_err();
            assert_eq!(found, line, "{text:?}");
            assert!(why.contains(what), "{why}");
        }
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, optional| EnvFile {
            path: dir.path().join(name).to_str().unwrap().into(),
            optional,
        };
        assert!(read(&file("none", true)).unwrap().is_empty());
        let missing = read(&file("none", false)).unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
        assert!(read(&file(".", true)).unwrap_err().to_string().contains("not a regular file"));
        std::fs::write(dir.path().join("long"), vec![b'\n'; (1 << 20) + 1]).unwrap();
        assert!(read(&file("long", true)).unwrap_err().to_string().contains("1 MiB"));
        std::fs::write(dir.path().join("bad"), "A=1\nB").unwrap();
        let bad = read(&file("bad", true)).unwrap_err().to_string();
        assert!(bad.starts_with("line 2 of the environment file") && bad.contains("bad"), "{bad}");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&file("fifo", false)).is_err(), "it is not waited for");
    }

    proptest! {
        #[test]
        fn no_text_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_text_that_looks_like_one_panics(text in "([A-C]=|['\"\\\\ \n#$ab;]){0,30}") {
            if let Ok(all) = parse(text.as_bytes()) {
                prop_assert!(all.iter().all(|(name, _)| !name.is_empty()));
            }
        }

        #[test]
        fn what_is_quoted_is_read_as_it_was(value in "[^\0]{0,20}") {
            let mut text = b"A=\"".to_vec();
            for byte in value.bytes() {
                if matches!(byte, b'"' | b'\\' | b'`' | b'$') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            text.extend(b"\"\nB=1");
            let all = parse(&text).unwrap();
            prop_assert_eq!(all.len(), 2);
            prop_assert_eq!(all[0].1.as_bytes(), value.as_bytes());
        }
    }
}
