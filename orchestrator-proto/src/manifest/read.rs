//! Tables and values of a file, with what is wrong about them told where it is.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Key;
use super::problem::Source;
use super::{Surroundings, expand};
use crate::Millis;

/// A file with what its values are made of.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) surroundings: &'a dyn Surroundings,
}

/// A table whose keys are known.
pub(super) struct Table<'a> {
    context: Context<'a>,
    /// Where it is.
    pub(super) at: usize,
    entries: &'a DeTable<'a>,
    keys: &'static [Key],
}

impl<'a> Table<'a> {
    /// Reads a table that may have these keys. Others are told of.
    pub(super) fn new(
        context: Context<'a>,
        at: usize,
        entries: &'a DeTable<'a>,
        keys: &'static [Key],
    ) -> Self {
        for key in entries.keys() {
            let name = key.get_ref().as_ref();
            if !keys.iter().any(|known| known.name == name) {
                let names = keys.iter().map(|known| known.name);
                let help = flag(name).or_else(|| did_you_mean(name, names.clone()));
                let help = help.unwrap_or_else(|| {
                    format!("there are {}", names.collect::<Vec<_>>().join(", "))
                });
                context.source.mend(
                    key.span().start,
                    format!("there is no key {name:?} here"),
                    help,
                );
            }
        }
        Self { context, at, entries, keys }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        debug_assert!(self.keys.iter().any(|key| key.name == name), "{name} is not declared");
        let value = self.entries.get(name)?;
        Some(Value { context: self.context, value })
    }

    /// The value of a key as `read` has it; none too if that is not good.
    pub(super) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.get(name).and_then(read)
    }

    /// Where this key is written, or the table if it is not.
    pub(super) fn at(&self, name: &str) -> usize {
        let entry = self.entries.get_key_value(name);
        entry.map_or(self.at, |(key, _)| key.span().start)
    }

    pub(super) fn wrong(&self, at: usize, message: impl Into<String>) {
        self.context.source.wrong(at, message);
    }
}

/// A value, wherever it is.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) context: Context<'a>,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    pub(super) const fn new(context: Context<'a>, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { context, value }
    }

    /// Where it is.
    pub(super) fn at(&self) -> usize {
        self.value.span().start
    }

    /// This is wrong with it.
    pub(super) fn wrong<T>(&self, message: impl Into<String>) -> Option<T> {
        self.context.source.wrong(self.at(), message);
        None
    }

    /// This is wrong with it, and can be mended like this.
    pub(super) fn mend<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.context.source.mend(self.at(), message, help);
        None
    }

    fn unlike<T>(&self, expected: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(format!("{expected} is expected here, not {found}"))
    }

    /// A text, with the values of its variables.
    pub(super) fn text(self) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) => self.expanded(text),
            _ => self.unlike("a text in quotes"),
        }
    }

    fn expanded(self, text: &str) -> Option<String> {
        let expanded = expand::expand(text, |name| self.context.surroundings.variable(name));
        match expanded {
            Ok(text) if text.contains('\0') => self.wrong("a text can't have a zero byte"),
            Ok(text) => Some(text),
            Err(wrong) => {
                let at = self.at() + self.offset(text, wrong.at);
                match wrong.help {
                    Some(help) => self.context.source.mend(at, wrong.message, help),
                    None => self.context.source.wrong(at, wrong.message),
                }
                None
            }
        }
    }

    /// Where a byte of a text is in how it is written, if it is written without escapes; else the
    /// beginning.
    fn offset(&self, text: &str, byte: usize) -> usize {
        let written = self.context.source.text.get(self.value.span()).unwrap_or_default();
        written.find(text).map_or(0, |start| start + byte)
    }

    pub(super) fn flag(self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.unlike("true or false"),
        }
    }

    /// A whole number of this range.
    pub(super) fn number<T: TryFrom<u64> + Copy + Display + PartialOrd>(
        self,
        least: T,
        most: T,
    ) -> Option<T> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.unlike("a whole number");
        };
        let good = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let good = good.and_then(|number| T::try_from(number).ok());
        match good.filter(|number| (least..=most).contains(number)) {
            Some(number) => Some(number),
            None => self.wrong(format!("{number} is not {least} to {most}")),
        }
    }

    /// A whole number of this range, which may be less than 0.
    pub(super) fn signed(self, least: i32, most: i32) -> Option<i32> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.unlike("a whole number");
        };
        let good = i32::from_str_radix(number.as_str(), number.radix()).ok();
        match good.filter(|number| (least..=most).contains(number)) {
            Some(number) => Some(number),
            None => self.wrong(format!("{number} is not {least} to {most}")),
        }
    }

    /// A number that is written in octal, as `0o27`; none if it is anything else.
    pub(super) fn octal(self) -> Option<u32> {
        match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 8 => {
                u32::from_str_radix(number.as_str(), 8).ok()
            }
            _ => None,
        }
    }

    /// A length of time: a text with a unit, or a number of seconds.
    pub(super) fn time(self) -> Option<Millis> {
        match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => self.parse_as(number.as_str()),
            DeValue::String(_) => self.parsed(),
            _ => self.unlike("a time such as \"10s\""),
        }
    }

    /// An amount: a text with a unit, or a number.
    pub(super) fn amount<T: FromStr<Err: Display>>(self, expected: &str) -> Option<T> {
        match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => self.parse_as(number.as_str()),
            DeValue::Float(number) => self.parse_as(number.as_str()),
            DeValue::String(_) => self.parsed(),
            _ => self.unlike(expected),
        }
    }

    /// A signal, by its name or its number.
    pub(super) fn signal(self) -> Option<crate::control::Signal> {
        match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => self.parse_as(number.as_str()),
            DeValue::String(_) => self.parsed(),
            _ => self.unlike("a signal such as \"SIGTERM\""),
        }
    }

    /// A text that stands for something else.
    pub(super) fn parsed<T: FromStr<Err: Display>>(self) -> Option<T> {
        let text = self.text()?;
        self.parse_as(&text)
    }

    fn parse_as<T: FromStr<Err: Display>>(&self, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => self.wrong(error.to_string()),
        }
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        self.choose(&text, choices)
    }

    pub(super) fn choose<T: Copy>(self, text: &str, choices: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = choices.iter().map(|(word, _)| *word);
        let all = words.clone().collect::<Vec<_>>().join(", ");
        match did_you_mean(text, words) {
            Some(help) => self.mend(format!("{text:?} is none of {all}"), help),
            None => self.wrong(format!("{text:?} is none of {all}")),
        }
    }

    /// A list, each of whose values is read in the same way.
    pub(super) fn list<T>(
        self,
        what: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Array(values) = self.value.get_ref() else {
            return self.unlike(&format!("a list of {what} in brackets"));
        };
        let read: Vec<_> =
            values.iter().map(|value| read(Self::new(self.context, value))).collect();
        // All are looked at, so that all problems are told.
        read.into_iter().collect()
    }

    pub(super) fn texts(self) -> Option<Vec<String>> {
        self.list("texts", Value::text)
    }

    /// A table of names, each with a text.
    pub(super) fn variables(self) -> Option<Vec<(String, String)>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            return self.unlike("a table of variables");
        };
        let read: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                if name.is_empty() || name.contains(['=', '\0']) {
                    let message = format!("{name:?} is not the name of a variable");
                    self.context.source.wrong(key.span().start, message);
                    return None;
                }
                Some((name, Self::new(self.context, value).text()?))
            })
            .collect();
        read.into_iter().collect()
    }

    /// A path, relative to the directory of the file.
    pub(super) fn path(self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            return self.wrong("a path can't be empty");
        }
        Some(self.absolute(&text))
    }

    pub(super) fn absolute(&self, text: &str) -> PathBuf {
        if text.starts_with('/') {
            // To the letter, so that what was exported is what it was.
            return PathBuf::from(text);
        }
        let directory = self.context.source.path.parent();
        let path = directory.map_or_else(|| PathBuf::from(text), |it| it.join(text));
        self.context.surroundings.absolute(&path)
    }

    /// A program and its arguments: a list, or a text that is split at spaces. The path of the
    /// program is relative to the directory of the file.
    pub(super) fn command(self) -> Option<Vec<String>> {
        let mut words = match self.value.get_ref() {
            DeValue::String(_) => {
                self.text()?.split_ascii_whitespace().map(Into::into).collect::<Vec<String>>()
            }
            _ => self.texts()?,
        };
        match words.first_mut() {
            Some(program) if !program.is_empty() => {
                match self.absolute(program).into_os_string().into_string() {
                    Ok(absolute) => *program = absolute,
                    Err(_) => {
                        return self.mend(
                            "the path of this file is not UTF-8, and a command has to be",
                            "write the whole path of the program, beginning with a slash",
                        );
                    }
                }
                Some(words)
            }
            _ => self.wrong("a command begins with the path of a program"),
        }
    }

    /// The table that it is, if it is one.
    pub(super) fn as_table(self, keys: &'static [Key]) -> Option<Table<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => Some(Table::new(self.context, self.at(), entries, keys)),
            _ => None,
        }
    }

    pub(super) fn table(self, keys: &'static [Key]) -> Option<Table<'a>> {
        let table = self.as_table(keys);
        if table.is_none() {
            return self.unlike("a table");
        }
        table
    }

    /// The entries of a table whose keys are names.
    pub(super) fn named(self) -> Option<Vec<(&'a str, usize, Value<'a>)>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            return self.unlike("a table");
        };
        let entries = table.iter().map(|(key, value)| {
            (key.get_ref().as_ref(), key.span().start, Self::new(self.context, value))
        });
        let mut entries: Vec<_> = entries.collect();
        // As they are written.
        entries.sort_by_key(|(_, at, _)| *at);
        Some(entries)
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }
}

/// The word that was most likely meant.
pub(super) fn did_you_mean<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    let name = name.to_lowercase().replace('_', "-");
    let near = known.map(|known| (strsim::damerau_levenshtein(&name, known), known));
    // Of a word of five letters, one or two may be wrong.
    let near = near.filter(|(distance, known)| *distance * 3 <= known.len().max(3));
    let (_, nearest) = near.min_by_key(|(distance, _)| *distance)?;
    Some(format!("did you mean `{nearest}`?"))
}

/// What to write for a flag of `runtime add` that is part of a key here.
fn flag(name: &str) -> Option<String> {
    let (first, rest) = name.split_once(['-', '_'])?;
    let key = match (first, rest) {
        ("ready", "notify" | "runtime") => return Some(format!("write readiness = {rest:?}")),
        ("ready" | "readiness", _) => "readiness",
        ("live" | "liveness", _) => "liveness",
        ("restart", _) => "restart",
        _ => return None,
    };
    let rest = rest.replace('_', "-");
    Some(format!("write {key} = {{ {rest} = … }}"))
}
