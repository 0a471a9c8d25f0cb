//! As whom, with which rights and bounds, and in which surroundings a program is executed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::capability::Capability;
use super::rlimit::Rlimit;
use super::scheduling::{Cpus, IoClass, Realtime};
use crate::rare::Usual;

/// All of it. Every part has a default: the user, the rights and the bounds of the daemon, a small
/// clean environment, and nothing to read. What belongs to the instance and is not its program,
/// such as a probe, is executed in the same way, but for its standard input.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Execution {
    /// The user, by name or number, looked up at each start; none is that of the daemon.
    pub user: Option<String>,
    /// The group, by name or number, looked up at each start; none is that of the user.
    pub group: Option<String>,
    /// Exactly these supplementary groups; none are those that the user database has for the user,
    /// if one is given, else those of the daemon. At most [`Execution::MAX_GROUPS`].
    pub groups: Option<Vec<String>>,
    /// Permissions that what it makes does not get, see umask(2); none is that of the daemon.
    pub umask: Option<Umask>,
    /// Nothing that it executes gives it more rights, see `PR_SET_NO_NEW_PRIVS` in prctl(2).
    pub no_new_privs: bool,
    /// The only capabilities that it and what it executes can ever have (the bounding set); none
    /// is as the daemon. Not together with `drop_caps`.
    pub keep_caps: Option<Vec<Capability>>,
    /// Capabilities that it and what it executes can never have.
    pub drop_caps: Vec<Capability>,
    /// Capabilities that it has although its user is not root (the ambient set).
    pub ambient_caps: Vec<Capability>,
    /// Bounds, one for each resource at most; others are those of the daemon.
    pub rlimit: Vec<Rlimit>,
    /// Its nice value at normal priority, -20 to 19; none is 0. See [`Execution::nice_at`].
    pub nice: Option<i32>,
    /// The processors that it may run on; none are those of the daemon.
    pub cpus: Option<Cpus>,
    /// Whose reading and writing of disks comes first; none is as the kernel has it by the nice
    /// value.
    pub io_class: Option<IoClass>,
    /// Its real-time policy, if it has one.
    pub realtime: Option<Realtime>,
    /// Files of variables, read at each start. What is in a later one counts, and the variables of
    /// the runtime itself count more. At most [`Execution::MAX_ENV_FILES`].
    pub env_file: Vec<EnvFile>,
    /// Which variables it has besides those that are given.
    pub inherit_env: InheritEnv,
    /// What its standard input is.
    pub stdin: Stdin,
}

impl Usual for Execution {
    const USUAL: &'static Self = &Self {
        user: None,
        group: None,
        groups: None,
        umask: None,
        no_new_privs: false,
        keep_caps: None,
        drop_caps: Vec::new(),
        ambient_caps: Vec::new(),
        rlimit: Vec::new(),
        nice: None,
        cpus: None,
        io_class: None,
        realtime: None,
        env_file: Vec::new(),
        inherit_env: InheritEnv::Clean,
        stdin: Stdin::Null,
    };
}

impl Execution {
    /// The most supplementary groups.
    pub const MAX_GROUPS: usize = 1024;
    /// The most files of variables.
    pub const MAX_ENV_FILES: usize = 64;
    /// The most variables that are named to be inherited.
    pub const MAX_NAMES: usize = 1024;

    /// Puts what has no order of its own into one, so that what means the same is the same.
    pub fn sort(&mut self) {
        self.rlimit.sort_by_key(|limit| limit.resource);
        for caps in
            [&mut self.drop_caps, &mut self.ambient_caps].into_iter().chain(&mut self.keep_caps)
        {
            caps.sort_unstable();
            caps.dedup();
        }
    }

    /// The nice value at a priority: that of the priority, from `nice` on, and within -20 to 19.
    #[must_use]
    pub fn nice_at(&self, priority: super::Priority) -> i32 {
        (self.nice.unwrap_or(0).clamp(-20, 19) + priority.nice()).clamp(-20, 19)
    }
}

/// Permissions that are taken away, 0 to 0o777. Where people read it, a text in octal: `0027`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Umask(pub u32);

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for Umask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let mask = u32::from_str_radix(text, 8).ok().filter(|mask| is_octal && *mask <= 0o777);
        mask.map(Self).ok_or_else(|| format!("{text:?} is not a umask; write it in octal, as 0027"))
    }
}

impl Serialize for Umask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u32::deserialize(deserializer).map(Self)
        }
    }
}

/// A file of variables: lines of `NAME=VALUE`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EnvFile {
    /// Its absolute path.
    pub path: String,
    /// Whether it may be missing.
    pub optional: bool,
}

impl fmt::Display for EnvFile {
    /// The path, after a `-` if it may be missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.optional { "-" } else { "" }, self.path)
    }
}

/// Which variables an instance has besides those that are given.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InheritEnv {
    /// A small set: `PATH`; `HOME`, `USER`, `LOGNAME` and `SHELL` of its user; and, as far as the
    /// daemon has them, `LANG`, `LANGUAGE`, those that begin with `LC_`, `TZ` and `TMPDIR`, and
    /// `XDG_RUNTIME_DIR` if its user is that of the daemon.
    #[default]
    Clean,
    /// None.
    None,
    /// All that the daemon has and that do not speak to the daemon alone.
    All,
    /// The small set, and these as far as the daemon has them.
    Names(Vec<String>),
}

impl fmt::Display for InheritEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.pad("clean"),
            Self::None => f.pad("none"),
            Self::All => f.pad("all"),
            Self::Names(names) => f.pad(&names.join(",")),
        }
    }
}

impl FromStr for InheritEnv {
    type Err = String;

    /// `clean`, `none`, `all`, or names with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "clean" => Self::Clean,
            "none" => Self::None,
            "all" => Self::All,
            names => {
                let names: Vec<_> = names.split(',').map(|name| name.trim().to_owned()).collect();
                if names.iter().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
                    let message = "write clean, none, all, or names of variables, as LANG,DISPLAY";
                    return Err(format!("{text:?} can't be inherited; {message}"));
                }
                Self::Names(names)
            }
        })
    }
}

/// What the standard input of an instance is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// This file, by its absolute path, opened at each start by the instance's own user.
    File(String),
}

impl fmt::Display for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.pad("null"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

impl FromStr for Stdin {
    type Err = String;

    /// `null`, or `file:` and a path.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            None if text == "null" => Ok(Self::Null),
            _ => Err(format!("{text:?} can't be read from; write null or file:PATH")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Priority;

    #[test]
    fn what_people_write() {
        assert_eq!("0027".parse(), Ok(Umask(0o27)));
        assert_eq!("777".parse(), Ok(Umask(0o777)));
        assert_eq!(Umask(0o27).to_string(), "0027");
        for bad in ["", "8", "1000", "00027", "-1", "+7", "0o27", "rwx"] {
            assert!(bad.parse::<Umask>().is_err(), "{bad}");
        }
        let names = InheritEnv::Names(vec!["LANG".into(), "A".into()]);
        assert_eq!("LANG, A".parse(), Ok(names.clone()));
        for it in [InheritEnv::Clean, InheritEnv::None, InheritEnv::All, names] {
            assert_eq!(it.to_string().parse(), Ok(it));
        }
        for bad in ["", "A,,B", "A=1"] {
            assert!(bad.parse::<InheritEnv>().is_err(), "{bad}");
        }
        assert_eq!("file:/a:b".parse(), Ok(Stdin::File("/a:b".into())));
        assert_eq!("null".parse(), Ok(Stdin::Null));
        for bad in ["", "/a", "file:", "tty"] {
            assert!(bad.parse::<Stdin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_priority_counts_from_the_nice_value() {
        let at = |nice, priority| Execution { nice, ..Execution::default() }.nice_at(priority);
        assert_eq!(at(None, Priority::High), -10);
        assert_eq!(at(Some(5), Priority::Normal), 5);
        assert_eq!(at(Some(5), Priority::High), -5);
        assert_eq!(at(Some(15), Priority::Low), 19);
        assert_eq!(at(Some(-15), Priority::High), -20);
        assert_eq!(at(Some(i32::MAX), Priority::Low), 19);
    }
}
