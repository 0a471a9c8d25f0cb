//! JSON text, token by token (RFC 8259).

/// What is left of a text.
pub(super) struct Text<'j>(pub(super) &'j str);

impl<'j> Text<'j> {
    /// The next character that is not white space.
    pub(super) fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        self.0.chars().next()
    }

    pub(super) fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.0 = &self.0[wanted.len_utf8()..];
        }
        there
    }

    pub(super) fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.eat(wanted) {
            return Ok(());
        }
        Err(format!("expected {wanted:?}, found {}", self.found()))
    }

    /// What stands here, in brief.
    pub(super) fn found(&mut self) -> String {
        match self.peek() {
            None => "the end".into(),
            Some('{') => "an object".into(),
            Some('[') => "an array".into(),
            Some('"') => {
                let end = self.string_end().unwrap_or(self.0.len());
                shorten(&self.0[..end])
            }
            Some(first) if first.is_ascii_alphanumeric() || first == '-' => {
                let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
                shorten(&self.0[..end.unwrap_or(self.0.len())])
            }
            Some(other) => format!("{other:?}"),
        }
    }

    /// Where the string that begins here ends, after its closing quote.
    pub(super) fn string_end(&self) -> Option<usize> {
        let mut escaped = false;
        for (i, byte) in self.0.bytes().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Some(i + 1),
                _ => {}
            }
        }
        None
    }

    pub(super) fn string(&mut self) -> Result<Option<String>, String> {
        if self.peek() != Some('"') {
            return Ok(None);
        }
        let end = self.string_end().ok_or("a string without an end")?;
        let (string, rest) = self.0.split_at(end);
        self.0 = rest;
        match serde_json::from_str(string) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(format!("{} is not a JSON string", shorten(string))),
        }
    }

    pub(super) fn word(&mut self, word: &str) -> bool {
        self.peek();
        let Some(rest) = self.0.strip_prefix(word) else {
            return false;
        };
        let whole = !rest.starts_with(|c: char| c.is_alphanumeric());
        if whole {
            self.0 = rest;
        }
        whole
    }

    /// A number of RFC 8259, as text.
    pub(super) fn number(&mut self) -> Option<&'j str> {
        self.peek();
        let end = number_end(self.0)?;
        let (number, rest) = self.0.split_at(end);
        if rest.starts_with(|c: char| c.is_alphanumeric() || c == '.') {
            return None;
        }
        self.0 = rest;
        Some(number)
    }
}

pub(super) fn shorten(text: &str) -> String {
    shorten_to(text, 60)
}

pub(super) fn shorten_to(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where the number of RFC 8259 that `text` begins with ends.
pub(super) fn number_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then_some(from + count)
    };
    let start = usize::from(bytes.first() == Some(&b'-'));
    let mut end = digits(start)?;
    if bytes[start] == b'0' && end > start + 1 {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
        end = digits(end + 1 + usize::from(sign))?;
    }
    Some(end)
}
