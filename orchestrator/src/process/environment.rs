//! The variables that a program has besides those that it is given.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use orchestrator_proto::control::InheritEnv;

use super::NOT_INHERITED;
use super::account::Person;

/// `PATH`, if the daemon has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is passed on of the daemon's if it is there: how to speak, and where what is.
const CLEAN: [&str; 5] = ["PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR"];

/// What a program has, by name. Files may hold many.
pub(super) type Variables = BTreeMap<OsString, OsString>;

/// What says who a program runs as: where it lives, its name twice, its shell.
const PERSON: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

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
        InheritEnv::None => return Variables::new(),
        InheritEnv::All => daemon.clone(),
        InheritEnv::Clean | InheritEnv::Names(_) => {
            let wanted = daemon.iter().filter(|(name, _)| is_clean(name) || is_named(name));
            wanted.map(|(name, value)| (name.clone(), value.clone())).collect()
        }
    };
    let person = match who {
        Who::Own(None) => {
            // Who started the daemon knows better than nobody.
            let own = PERSON.iter().filter_map(|name| daemon.get_key_value(OsStr::new(name)));
            all.extend(own.map(|(name, value)| (name.clone(), value.clone())));
            None
        }
        Who::Other(None) => {
            all.retain(|known, _| !PERSON.iter().any(|name| known == name));
            None
        }
        // As the daemon was told, if it is to have everything.
        Who::Own(Some(_)) if *rule == InheritEnv::All => None,
        Who::Own(Some(person)) | Who::Other(Some(person)) => Some(person),
    };
    if let Some(Person { name, home, shell }) = person {
        let values = [home.into(), name.into(), name.into(), shell.into()];
        all.extend(PERSON.map(Into::into).into_iter().zip(values));
    }
    let has_path = all.get(OsStr::new("PATH")).is_some_and(|path| !path.is_empty());
    if *rule != InheritEnv::All && !has_path {
        all.insert("PATH".into(), PATH.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(text: &str) -> Variables {
        let pairs = text.split_whitespace().filter_map(|it| it.split_once('='));
        pairs.map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn is(rule: InheritEnv, daemon: &str, who: Who<'_>, expected: &str) {
        assert_eq!(inherited(&rule, &vars(daemon), who), vars(expected), "{rule}");
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
