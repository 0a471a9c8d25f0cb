//! The keys that say how an instance is executed.

use std::collections::BTreeMap;

use super::keys::RLIMIT;
use super::read::{Table, Value};
use super::write::{Entries, list, text, texts};
use crate::control::{
    Capability, Cpus, EnvFile, Execution, InheritEnv, IoClass, Realtime, Resource, Rlimit, Stdin,
    Umask,
};

/// What is said of it.
#[derive(Clone, Debug, Default)]
pub(super) struct ExecutionLayer {
    user: Option<String>,
    group: Option<String>,
    groups: Option<Vec<String>>,
    umask: Option<Umask>,
    no_new_privs: Option<bool>,
    bounds: Option<Bounds>,
    ambient_caps: Option<Vec<Capability>>,
    rlimit: BTreeMap<Resource, Rlimit>,
    nice: Option<i32>,
    cpus: Option<Cpus>,
    io_class: Option<IoClass>,
    realtime: Option<Realtime>,
    env_file: Option<Vec<EnvFile>>,
    inherit_env: Option<InheritEnv>,
    stdin: Option<Stdin>,
}

/// The nearer of the two wins over both.
#[derive(Clone, Debug)]
enum Bounds {
    Keep(Vec<Capability>),
    Drop(Vec<Capability>),
}

impl ExecutionLayer {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let caps = |value: Value<'_>| value.list("capabilities", |it| it.parsed());
        let keep = table.read("keep-caps", caps);
        let drop = table.read("drop-caps", caps);
        if table.get("keep-caps").is_some() && table.get("drop-caps").is_some() {
            let message = "what is not kept is dropped; write keep-caps or drop-caps, not both";
            table.wrong(table.at("drop-caps"), message);
        }
        Self {
            user: table.read("user", account),
            group: table.read("group", account),
            groups: table.read("groups", |value| value.list("groups", account)),
            umask: table.read("umask", umask),
            no_new_privs: table.read("no-new-privs", |value| value.flag()),
            bounds: keep.map(Bounds::Keep).or(drop.map(Bounds::Drop)),
            ambient_caps: table.read("ambient-caps", caps),
            rlimit: table.read("rlimit", rlimits).unwrap_or_default(),
            nice: table.read("nice", |value| value.signed(-20, 19)),
            cpus: table.read("cpus", |value| value.parsed()),
            io_class: table.read("io-class", |value| value.parsed()),
            realtime: table.read("realtime", |value| value.parsed()),
            env_file: table.read("env-file", |value| {
                if value.is_text() {
                    return Some(vec![env_file(value)?]);
                }
                value.list("files", env_file)
            }),
            inherit_env: table.read("inherit-env", inherit_env),
            stdin: table.read("stdin", stdin),
        }
    }

    pub(super) fn over(self, below: &Self) -> Self {
        let mut rlimit = below.rlimit.clone();
        rlimit.extend(self.rlimit);
        Self {
            user: self.user.or_else(|| below.user.clone()),
            group: self.group.or_else(|| below.group.clone()),
            groups: self.groups.or_else(|| below.groups.clone()),
            umask: self.umask.or(below.umask),
            no_new_privs: self.no_new_privs.or(below.no_new_privs),
            bounds: self.bounds.or_else(|| below.bounds.clone()),
            ambient_caps: self.ambient_caps.or_else(|| below.ambient_caps.clone()),
            rlimit,
            nice: self.nice.or(below.nice),
            cpus: self.cpus.or_else(|| below.cpus.clone()),
            io_class: self.io_class.or(below.io_class),
            realtime: self.realtime.or(below.realtime),
            env_file: self.env_file.or_else(|| below.env_file.clone()),
            inherit_env: self.inherit_env.or_else(|| below.inherit_env.clone()),
            stdin: self.stdin.or_else(|| below.stdin.clone()),
        }
    }

    pub(super) fn finish(self) -> Execution {
        let (keep_caps, drop_caps) = match self.bounds {
            None => (None, Vec::new()),
            Some(Bounds::Keep(caps)) => (Some(caps), Vec::new()),
            Some(Bounds::Drop(caps)) => (None, caps),
        };
        let mut execution = Execution {
            user: self.user,
            group: self.group,
            groups: self.groups,
            umask: self.umask,
            no_new_privs: self.no_new_privs.unwrap_or_default(),
            keep_caps,
            drop_caps,
            ambient_caps: self.ambient_caps.unwrap_or_default(),
            rlimit: self.rlimit.into_values().collect(),
            nice: self.nice,
            cpus: self.cpus,
            io_class: self.io_class,
            realtime: self.realtime,
            env_file: self.env_file.unwrap_or_default(),
            inherit_env: self.inherit_env.unwrap_or_default(),
            stdin: self.stdin.unwrap_or_default(),
        };
        execution.sort();
        execution
    }
}

/// A user or a group: a name or a number.
fn account(value: Value<'_>) -> Option<String> {
    if !value.is_text() {
        return value.number(0, u32::MAX - 1).map(|number| number.to_string());
    }
    let text = value.text()?;
    if text.is_empty() { value.wrong("a name can't be empty") } else { Some(text) }
}

fn umask(value: Value<'_>) -> Option<Umask> {
    if value.is_text() {
        return value.parsed();
    }
    match value.octal() {
        Some(mask) if mask <= 0o777 => Some(Umask(mask)),
        _ => value.mend("a umask is octal, 0 to 0777", "write umask = \"0027\""),
    }
}

fn rlimits(value: Value<'_>) -> Option<BTreeMap<Resource, Rlimit>> {
    let table = value.table(RLIMIT)?;
    let limits = Resource::ALL.into_iter().filter_map(|(resource, name)| {
        let limit = table.read(name, |value| {
            if !value.is_text() {
                let bound = Some(value.number(0, u64::MAX - 1)?);
                return Some(Rlimit { resource, soft: bound, hard: bound });
            }
            match Rlimit::parse(resource, &value.text()?) {
                Ok(limit) => Some(limit),
                Err(message) => value.wrong(message),
            }
        });
        limit.map(|limit| (resource, limit))
    });
    Some(limits.collect())
}

/// A path, relative to the directory of the file, after a `-` if it may be missing.
fn env_file(value: Value<'_>) -> Option<EnvFile> {
    let text = value.text()?;
    let path = text.strip_prefix('-');
    let optional = path.is_some();
    Some(EnvFile { path: path_of(value, path.unwrap_or(&text))?, optional })
}

fn stdin(value: Value<'_>) -> Option<Stdin> {
    Some(match value.parsed()? {
        Stdin::File(path) => Stdin::File(path_of(value, &path)?),
        stdin => stdin,
    })
}

fn path_of(value: Value<'_>, text: &str) -> Option<String> {
    if text.is_empty() {
        return value.wrong("a path can't be empty");
    }
    match value.absolute(text).into_os_string().into_string() {
        Ok(path) => Some(path),
        Err(_) => value.mend(
            "the path of this file is not UTF-8, and this one has to be",
            "write the whole path, beginning with a slash",
        ),
    }
}

fn inherit_env(value: Value<'_>) -> Option<InheritEnv> {
    if value.is_text() {
        return value.parsed();
    }
    let names = value.list("names of variables", |name| {
        let text = name.text()?;
        match text.parse() {
            Ok(InheritEnv::Names(names)) if names.len() == 1 => Some(text),
            _ => name.wrong(format!("{text:?} is not the name of a variable")),
        }
    })?;
    Some(if names.is_empty() { InheritEnv::Clean } else { InheritEnv::Names(names) })
}

/// What a manifest says of it; what is as it is by default is left out.
pub(super) fn entries(all: &mut Entries, execution: &Execution) {
    let default = Execution::default();
    let it = execution;
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            all.add(key, value);
        }
    };
    let shown = |it: &dyn std::fmt::Display| text(&it.to_string());
    let caps = |caps: &[Capability]| list(caps.iter().map(|cap| shown(cap)));
    let some_caps = |given: &[Capability]| (!given.is_empty()).then(|| caps(given));
    add("user", it.user.as_deref().map(text));
    add("group", it.group.as_deref().map(text));
    add("groups", it.groups.as_deref().map(texts));
    add("umask", it.umask.map(|mask| shown(&mask)));
    add("no-new-privs", it.no_new_privs.then(|| "true".to_owned()));
    add("keep-caps", it.keep_caps.as_deref().map(caps));
    add("drop-caps", some_caps(&it.drop_caps));
    add("ambient-caps", some_caps(&it.ambient_caps));
    for limit in &it.rlimit {
        add(&format!("rlimit.{}", limit.resource), Some(text(&limit.bounds())));
    }
    add("nice", it.nice.map(|nice| nice.to_string()));
    add("cpus", it.cpus.as_ref().map(|cpus| shown(cpus)));
    add("io-class", it.io_class.map(|class| shown(&class)));
    add("realtime", it.realtime.map(|policy| shown(&policy)));
    let files = (!it.env_file.is_empty()).then(|| list(it.env_file.iter().map(|it| shown(it))));
    add("env-file", files);
    let inherits = (it.inherit_env != default.inherit_env).then(|| match &it.inherit_env {
        InheritEnv::Names(names) => texts(names),
        word => shown(word),
    });
    add("inherit-env", inherits);
    add("stdin", (it.stdin != default.stdin).then(|| shown(&it.stdin)));
}
