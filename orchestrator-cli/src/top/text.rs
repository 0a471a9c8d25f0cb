//! Other people's text, so that it can't steer the terminal.

use orchestrator_proto::control::LinkInfo;
use orchestrator_proto::control::TargetInfo;

use crate::format;

/// The most characters of a line that are kept: more than the widest terminal has.
pub(super) const MAX_LINE: usize = 1000;

/// What an instance printed, as one line: without colours, with tabs as spaces, and all other
/// control characters escaped.
pub(super) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len().min(MAX_LINE));
    let mut rest = text.chars().take(4 * MAX_LINE).peekable();
    let mut width = 0;
    while let Some(c) = rest.next().filter(|_| width < MAX_LINE) {
        match c {
            // A control sequence, ECMA-48: parameters, then one letter.
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                while rest.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {}
            }
            '\t' => {
                let spaces = 8 - width % 8;
                out.extend(std::iter::repeat_n(' ', spaces));
                width += spaces;
            }
            // Before the end of a line, as on terminals.
            '\r' => {}
            c if c.is_control() => {
                out.extend(c.escape_default());
                width += 1;
            }
            c => {
                out.push(c);
                width += 1;
            }
        }
    }
    out
}

/// Who gets a link's messages, and whose they are.
pub(super) fn ends(link: &LinkInfo) -> (String, String) {
    let from = match (&link.from_name, link.from) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => short(&id.to_string()),
        (None, None) => "any".to_owned(),
    };
    let to = match &link.to {
        TargetInfo::Instance { name: Some(name), .. } => name.clone(),
        TargetInfo::Instance { id, name: None } => short(&id.to_string()),
        TargetInfo::Udp { address } => format!("udp:{address}"),
        TargetInfo::Set { name } => name.clone(),
    };
    (format::line(&from).into_owned(), format::line(&to).into_owned())
}

/// The end of an id, which differs most from others.
pub(super) fn short(id: &str) -> String {
    let from = id.len().saturating_sub(12);
    format!("…{}", id.get(from..).unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_go_and_what_steers_is_escaped() {
        assert_eq!(plain(b"\x1b[1;31mred\x1b[0m\tx\r"), "red     x");
        assert_eq!(plain(b"a\x07b\x1b]0;t"), "a\\u{7}b\\u{1b}]0;t");
        assert_eq!(plain(b"\xff\x1b["), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_output_is_one_plain_line(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let text = plain(&bytes);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert!(text.chars().count() <= 11 * MAX_LINE);
        }
    }
}
