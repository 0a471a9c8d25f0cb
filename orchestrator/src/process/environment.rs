//! The variables that a program has besides those that it is given.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use orchestrator_proto::control::InheritEnv;

use super::NOT_INHERITED;
use super::account::Person;

/// `PATH`, if the daemon has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is passed on of the daemon's if it is there: how to speak, and where what is.
const CLEAN: [&str; 5] = ["PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR"];

/// What a program has, by name; each name once.
pub(super) type Variables = Vec<(OsString, OsString)>;

/// Who a program runs as.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who<'a> {
    /// The daemon's own user, whom the user database may not know.
    Own(Option<&'a Person>),
    /// Another one, likewise.
    Other(Option<&'a Person>),
}

/// What this process has in its environment and programs may have too.
pub(super) fn of_daemon() -> Variables {
    let is_ours = |name: &OsStr| NOT_INHERITED.iter().any(|not| OsStr::new(not) == name);
    std::env::vars_os().filter(|(name, _)| !is_ours(name)).collect()
}

/// What a program has, of what the daemon has and may pass on.
pub(super) fn inherited(rule: &InheritEnv, daemon: &Variables, who: Who<'_>) -> Variables {
    let is_clean = |name: &OsStr| {
        CLEAN.iter().any(|clean| OsStr::new(clean) == name)
            || name.as_bytes().starts_with(b"LC_")
            || (matches!(who, Who::Own(_)) && name == "XDG_RUNTIME_DIR")
    };
    let is_named = |name: &OsStr| match rule {
        InheritEnv::Names(names) => names.iter().any(|it| OsStr::new(it) == name),
        _ => false,
    };
    let mut all: Variables = match rule {
        InheritEnv::None => return Vec::new(),
        InheritEnv::All => daemon.clone(),
        InheritEnv::Clean | InheritEnv::Names(_) => {
            let wanted = daemon.iter().filter(|(name, _)| is_clean(name) || is_named(name));
            wanted.cloned().collect()
        }
    };
    let person = match who {
        Who::Own(None) => {
            // Who started the daemon knows better than nobody.
            let own = ["HOME", "USER", "LOGNAME", "SHELL"];
            for (name, value) in daemon.iter().filter(|(name, _)| own.iter().any(|it| name == it)) {
                set(&mut all, name, value.clone());
            }
            None
        }
        Who::Other(None) => {
            for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
                all.retain(|(known, _)| known != name);
            }
            None
        }
        // As the daemon was told, if it is to have everything.
        Who::Own(Some(_)) if *rule == InheritEnv::All => None,
        Who::Own(Some(person)) | Who::Other(Some(person)) => Some(person),
    };
    if let Some(Person { name, home, shell }) = person {
        set(&mut all, "HOME", home.into());
        set(&mut all, "USER", name.into());
        set(&mut all, "LOGNAME", name.into());
        set(&mut all, "SHELL", shell.into());
    }
    let has_path = all.iter().any(|(name, value)| name == "PATH" && !value.is_empty());
    if *rule != InheritEnv::All && !has_path {
        set(&mut all, "PATH", PATH.into());
    }
    all
}

/// Sets a variable, whatever it was.
pub(super) fn set(all: &mut Variables, name: impl AsRef<OsStr>, value: OsString) {
    let name = name.as_ref();
    match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, place)) => *place = value,
        None => all.push((name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(text: &str) -> Variables {
        let pairs = text.split_whitespace().filter_map(|it| it.split_once('='));
        let mut all: Variables = pairs.map(|(name, value)| (name.into(), value.into())).collect();
        all.sort();
        all
    }

    fn is(rule: InheritEnv, daemon: &str, who: Who<'_>, expected: &str) {
        let mut all = inherited(&rule, &vars(daemon), who);
        all.sort();
        assert_eq!(all, vars(expected), "{rule}");
    }

    const DAEMON: &str = "PATH=/p HOME=/root USER=root LOGNAME=root SHELL=/b LANG=C LC_ALL=C TZ=UTC A=1 \
         XDG_RUNTIME_DIR=/run/0 TMPDIR=/t";

    #[test]
    fn what_each_rule_means() {
        let www = Person { name: "www".into(), home: "/srv".into(), shell: "/bin/false".into() };
        let (own, other) = (Who::Own(Some(&www)), Who::Other(Some(&www)));
        let person = "HOME=/srv USER=www LOGNAME=www SHELL=/bin/false";
        let clean = format!("PATH=/p LANG=C LC_ALL=C TZ=UTC TMPDIR=/t {person}");
        is(InheritEnv::Clean, DAEMON, other, &clean);
        is(InheritEnv::Clean, DAEMON, own, &format!("{clean} XDG_RUNTIME_DIR=/run/0"));
        is(InheritEnv::Clean, "", other, &format!("PATH={PATH} {person}"));
        is(InheritEnv::Clean, "PATH=", Who::Other(None), &format!("PATH={PATH}"));
        let names = InheritEnv::Names(vec!["A".into(), "B".into(), "XDG_RUNTIME_DIR".into()]);
        is(names, DAEMON, other, &format!("{clean} A=1 XDG_RUNTIME_DIR=/run/0"));
        is(InheritEnv::None, DAEMON, other, "");
        is(InheritEnv::All, DAEMON, own, DAEMON);
        let others =
            format!("{person} PATH=/p LANG=C LC_ALL=C TZ=UTC A=1 XDG_RUNTIME_DIR=/run/0 TMPDIR=/t");
        is(InheritEnv::All, DAEMON, other, &others);
        is(InheritEnv::All, "HOME=/root B=1", Who::Other(None), "B=1");
        is(InheritEnv::Clean, "HOME=/h PATH=/p", Who::Own(None), "HOME=/h PATH=/p");
    }
}
