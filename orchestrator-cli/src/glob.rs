//! Patterns of names, as shells have them: `*` is any text, `?` one character.

/// Whether all of `text` is like the pattern. Takes time in proportion to both lengths at most.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // Where to go on if it does not go on: behind the last star, and what that has taken.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(c) if *c == '?' || *c == text[seen] => {
                (at, seen) = (at + 1, seen + 1);
            }
            _ => match &mut star {
                Some((behind, taken)) => {
                    *taken += 1;
                    (at, seen) = (*behind, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("ping", "ping"),
            ("*", ""),
            ("*", "ping"),
            ("p*g", "ping"),
            ("p*g", "pingpong-g"),
            ("?ing", "ping"),
            ("*-?", "camera-1"),
            ("**a**", "bab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("ping", "pong"), ("ping", "pin"), ("?", ""), ("p*g", "pingx"), ("", "a")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let (pattern, text) = ("*a".repeat(50), "a".repeat(2000) + "b");
        assert!(!matches(&pattern, &text));
    }
}
