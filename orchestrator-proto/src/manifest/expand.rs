//! Variables in texts.

/// What is wrong with a text, and at which of its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// The text with the values of its variables: `${NAME}`, `${NAME:-text}`, and `$$` for a dollar.
/// A dollar before anything but a name or a brace stands for itself, as in a pattern that ends
/// with one.
///
/// # Errors
///
/// The first thing that is wrong.
pub(super) fn expand(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let at = text.len() - rest.len() + dollar;
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((inside, after)) = after.split_once('}') else {
                return Err(Wrong {
                    at,
                    message: "`${` without a `}` after it".to_owned(),
                    help: Some("write ${NAME}, or $${ for the characters themselves".to_owned()),
                });
            };
            out.push_str(&value(inside, &variable).map_err(|(message, help)| Wrong {
                at,
                message,
                help: Some(help),
            })?);
            rest = after;
        } else {
            let name_end = rest.find(|c| !is_in_name(c)).unwrap_or(rest.len());
            let name = &rest[..name_end];
            if name.starts_with(|c: char| !c.is_ascii_digit()) {
                return Err(Wrong {
                    at,
                    message: format!("`${name}` is no variable"),
                    help: Some(format!("write ${{{name}}}, or $${name} for the text itself")),
                });
            }
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

const fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn value(
    inside: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, (String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(is_in_name)
    {
        let message = format!("{name:?} is not the name of a variable");
        return Err((message, "a name has A-Z a-z 0-9 _ and does not begin with a digit".into()));
    }
    match (variable(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the variable {name} is not set"),
            format!("set it, or write ${{{name}:-default}}"),
        )),
    }
}

/// The text that [`expand`] makes this of.
pub(super) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/ada".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables() {
        let good = |text: &str| expand(text, from).unwrap();
        assert_eq!(good("${HOME}/x-${HOME}"), "/home/ada/x-/home/ada");
        assert_eq!(good("${NONE:-a b}${EMPTY:-c}[${EMPTY}]${HOME:-d}"), "a bc[]/home/ada");
        assert_eq!(good("${NONE:-}"), "");
        assert_eq!(good("$$HOME $${HOME} ready$ $1 $"), "$HOME ${HOME} ready$ $1 $");
        let bad = |text: &str| expand(text, from).unwrap_err();
        assert_eq!(bad("ü ${NONE}").at, 3);
        assert_eq!(bad("${NONE}").message, "the variable NONE is not set");
        assert_eq!(bad("${NONE}").help.unwrap(), "set it, or write ${NONE:-default}");
        assert_eq!(bad("$HOME").help.unwrap(), "write ${HOME}, or $$HOME for the text itself");
        for text in ["${", "${HOME", "${}", "${A B}", "${1}", "${A-x}", "${ä}"] {
            assert!(expand(text, from).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_expanded_to_itself(text in any::<String>()) {
            prop_assert_eq!(expand(&escape(&text), |_| None).unwrap(), text);
        }

        #[test]
        fn no_text_panics(text in "[${}:A-Zü-]{0,16}") {
            let _ = expand(&text, from);
        }
    }
}
