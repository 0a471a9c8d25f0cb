//! Files: each is read once, with those that it includes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::{DeTable, Error as TomlError};

use super::check::{self, Found, FoundLink, Place};
use super::keys::{DEFAULTS, FILE, INSTANCE};
use super::layer::Layer;
use super::problem::{Collected, Problem, Problems, Source};
use super::read::{Context, Table, Value};
use super::{MAX_FILES, Manifest, Surroundings, VERSION, link};
use crate::InstanceId;
use crate::control::WantedSet;

/// How deep files may include each other.
const MAX_DEPTH: usize = 32;

/// The longest text, bytes, of which all errors of form are told; of a longer one the first.
const ALL_ERRORS: usize = 64 << 10;

pub(super) fn read(path: &Path, surroundings: &dyn Surroundings) -> Result<Manifest, Problems> {
    let collected = Collected::default();
    let reading = Reading { collected: &collected, surroundings };
    let mut state = State::default();
    reading.file(&mut state, path, &Layer::default(), None);
    check::check(&state.texts, &state.instances, &state.links, &collected);
    let State { texts, instances, links, .. } = state;
    Ok(Manifest {
        warnings: collected.finish()?,
        set: WantedSet {
            instances: instances.into_iter().map(|found| found.wanted).collect(),
            links: links.into_iter().map(|found| found.link).collect(),
        },
        files: texts.into_iter().map(|(path, _)| path).collect(),
    })
}

struct Reading<'a> {
    collected: &'a Collected,
    surroundings: &'a dyn Surroundings,
}

/// What has been read.
#[derive(Default)]
struct State {
    /// Each file, as it is shown, and its text.
    texts: Vec<(PathBuf, Rc<str>)>,
    /// Where each file was included, by the path that it is known by.
    known: HashMap<PathBuf, String>,
    /// Those that are being read: each includes the next.
    stack: Vec<(PathBuf, PathBuf)>,
    instances: Vec<Found>,
    links: Vec<FoundLink>,
}

impl Reading<'_> {
    /// Reads a file. `by` is where it is included.
    fn file(
        &self,
        state: &mut State,
        path: &Path,
        defaults: &Layer,
        by: Option<(&Source<'_>, usize)>,
    ) {
        let tell = |message: String| match by {
            Some((source, at)) => source.wrong(at, message),
            None => {
                self.collected.add(Problem { file: path.to_owned(), at: None, message, help: None })
            }
        };
        let shown = path.display();
        let identity = self.surroundings.identity(path);
        if let Some(first) = state.stack.iter().position(|(known, _)| *known == identity) {
            let way = state.stack[first..].iter().map(|(_, path)| path.display().to_string());
            let way: Vec<_> = way.chain([shown.to_string()]).collect();
            return tell(format!("a file can't include itself: {}", way.join(" → ")));
        }
        if let Some(before) = state.known.get(&identity) {
            return tell(format!("{shown} is included twice; first {before}"));
        }
        if state.texts.len() >= MAX_FILES {
            return tell(format!("a manifest has {MAX_FILES} files at most"));
        }
        if state.stack.len() >= MAX_DEPTH {
            return tell(format!("files are included {MAX_DEPTH} deep at most"));
        }
        let text: Rc<str> = match self.surroundings.text(path) {
            Ok(text) => text.into(),
            Err(error) if by.is_some() => return tell(format!("{shown} can't be read: {error}")),
            Err(error) => return tell(format!("it can't be read: {error}")),
        };
        let place = match by {
            Some((source, at)) => {
                format!("at {}:{}", source.path.display(), source.position(at))
            }
            None => "as the manifest itself".to_owned(),
        };
        state.known.insert(identity.clone(), place);
        let index = state.texts.len();
        state.texts.push((path.to_owned(), text.clone()));
        state.stack.push((identity, path.to_owned()));
        let source = Source { path, text: &text, collected: self.collected };
        self.text(state, index, &source, defaults);
        state.stack.pop();
    }

    fn text(&self, state: &mut State, index: usize, source: &Source<'_>, defaults: &Layer) {
        let (table, errors) = if source.text.len() <= ALL_ERRORS {
            DeTable::parse_recoverable(source.text)
        } else {
            match DeTable::parse(source.text) {
                Ok(table) => (table, Vec::new()),
                Err(error) => return not_toml(source, &error),
            }
        };
        if !errors.is_empty() {
            // What can be read in spite of them may not be what was meant.
            return errors.iter().for_each(|error| not_toml(source, error));
        }
        let context = Context { source, surroundings: self.surroundings };
        let table = Table::new(context, 0, table.get_ref(), FILE);
        if let Some(version) = table.get("version") {
            let newer = |number: &u64| *number > VERSION;
            match version.number(1_u64, u64::MAX) {
                Some(number) if newer(&number) => {
                    let message = format!("version {number} of the form is not known here");
                    version.mend(message, format!("write version = {VERSION}, or upgrade this"))
                }
                _ => Some(()),
            };
        }
        let own = table.read("defaults", |value| value.table(DEFAULTS));
        let own = own.map(|table| Layer::defaults(&table)).unwrap_or_default();
        let defaults = own.over(defaults);
        for (name, at, value) in table.read("instance", Value::named).into_iter().flatten() {
            if let Some(wanted) = instance(context, name, at, value, &defaults) {
                state.instances.push(Found { wanted, place: Place { file: index, at } });
            }
        }
        let links = table.read("link", |value| {
            value.list("links, each as [[link]],", |value| {
                let at = value.at();
                link::link(value).map(|link| FoundLink { link, place: Place { file: index, at } })
            })
        });
        state.links.extend(links.into_iter().flatten());
        let includes = table.read("include", |value| {
            value.list("paths", |value| Some((value.at(), value.text()?)))
        });
        for (at, text) in includes.into_iter().flatten() {
            for path in self.paths(source, at, &text) {
                self.file(state, &path, &defaults, Some((source, at)));
            }
        }
    }

    /// The files that a path of `include` means, in the order of their names.
    fn paths(&self, source: &Source<'_>, at: usize, text: &str) -> Vec<PathBuf> {
        let directory = source.path.parent().unwrap_or_else(|| Path::new(""));
        let path = directory.join(text);
        let pattern = text.rsplit('/').next().unwrap_or_default();
        let is_pattern = |text: &str| text.contains(['*', '?']);
        if is_pattern(&text[..text.len() - pattern.len()]) {
            source.wrong(at, "only the last component of a path can have * and ?");
            return Vec::new();
        }
        if pattern.is_empty() {
            source.mend(at, "this is not the path of a file", format!("write \"{text}*.toml\""));
            return Vec::new();
        }
        if !is_pattern(pattern) {
            return vec![path];
        }
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let mut names = match self.surroundings.names(listed) {
            Ok(names) => names,
            Err(error) => {
                let message = format!("{} can't be listed: {error}", listed.display());
                source.wrong(at, message);
                return Vec::new();
            }
        };
        names.retain(|name| is_match(pattern, name));
        names.sort();
        names.into_iter().map(|name| directory.join(name)).collect()
    }
}

fn not_toml(source: &Source<'_>, error: &TomlError) {
    let at = error.span().map_or(source.text.len(), |span| span.start);
    source.wrong(at, format!("this is not TOML: {}", error.message()));
}

fn instance(
    context: Context<'_>,
    name: &str,
    at: usize,
    value: Value<'_>,
    defaults: &Layer,
) -> Option<crate::control::Wanted> {
    let source = context.source;
    let table = value.table(INSTANCE)?;
    let mut layer = Layer::instance(&table);
    let name = match name.parse::<InstanceId>() {
        Ok(id) => {
            if layer.id.is_some_and(|other| other != id) {
                source.wrong(table.at("id"), "this id is not that of the table");
            }
            layer.id = Some(id);
            None
        }
        Err(_) => {
            check::check_name(source, at, name);
            Some(name.to_owned())
        }
    };
    if table.get("program").is_none() {
        source.wrong(at, "`program` is missing: what it executes");
    }
    let program = layer.program.clone()?;
    let layer = layer.over(defaults);
    layer.check(&table);
    Some(layer.finish(name, program))
}

/// Whether a name is matched by a pattern: `*` is any text, `?` any character. A dot at the
/// beginning is matched by a dot only.
fn is_match(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') != pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Where to go on if what follows a star does not match: the star, and one character more.
    let (mut p, mut n, mut again) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                again = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match again {
                Some((star, from)) => {
                    again = Some((star, from + 1));
                    (p, n) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::is_match;

    #[test]
    fn patterns() {
        for (pattern, name) in [("*", "a"), ("*.toml", "a.toml"), ("a?c", "abc"), ("*b*", "abc")] {
            assert!(is_match(pattern, name), "{pattern} {name}");
        }
        assert!(is_match("*a*b*c", "xxaybzzbc") && is_match(".*", ".x") && is_match("a**", "a"));
        for (pattern, name) in [("*", ".a"), ("*.toml", "a.toml~"), ("?", ""), ("?", "ab")] {
            assert!(!is_match(pattern, name), "{pattern} {name}");
        }
    }
}
