//! As whom, with which rights and bounds, and in which surroundings an instance is executed, as
//! options of `runtime add`.

use std::path::Path;

use clap::Args;
use orchestrator_proto::control::{
    Capability, Cpus, EnvFile, Execution, InheritEnv, IoClass, Realtime, Rlimit, Stdin, Umask,
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Execution")]
pub(crate) struct ExecutionArgs {
    /// The user it runs as, by name or number, looked up at each start; that of the daemon without
    /// it. Only a daemon of root can give it another one. Example: --user www-data
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// The group it runs as, by name or number; that of the user without it.
    /// Example: --group dialout
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Exactly these supplementary groups, "" for none; without it those that the user database
    /// has for --user. Example: --groups video,audio
    #[arg(long, value_name = "GROUPS")]
    groups: Option<Groups>,

    /// Permissions that files it makes do not get, in octal, see umask(2). Example: --umask 0027
    #[arg(long, value_name = "MASK")]
    umask: Option<Umask>,

    /// Nothing that it executes, such as sudo, gives it more rights. Example: --no-new-privs
    #[arg(long)]
    no_new_privs: bool,

    /// The only capabilities that it and what it executes can ever have; "" for none. All others
    /// are taken out of its bounding, permitted, effective and inheritable sets, see
    /// capabilities(7). A user other than root has none of them unless --ambient-caps says so.
    /// Example: --keep-caps CAP_NET_ADMIN,CAP_NET_RAW
    #[arg(long, value_name = "CAPS", conflicts_with = "drop_caps")]
    keep_caps: Option<Caps>,

    /// Capabilities that it and what it executes can never have: they are taken out of the same
    /// sets. Example: --drop-caps CAP_SYS_ADMIN,CAP_SYS_MODULE
    #[arg(long, value_name = "CAPS", value_delimiter = ',')]
    drop_caps: Vec<Capability>,

    /// Capabilities that it has although its user is not root, and what it executes has too: they
    /// are put into its inheritable and ambient sets.
    /// Example: --user www-data --ambient-caps CAP_NET_BIND_SERVICE
    #[arg(long, value_name = "CAPS", value_delimiter = ',')]
    ambient_caps: Vec<Capability>,

    /// How much of a resource it may use, see setrlimit(2): what holds, and the most that it can
    /// set that to; one number for both, or infinity. Resources are cpu, fsize, data, stack, core,
    /// rss, nproc, nofile, memlock, as, locks, sigpending, msgqueue, nice, rtprio and rttime. May
    /// be repeated. Example: --rlimit nofile=1024:4096 --rlimit core=infinity
    #[arg(long, value_name = "RESOURCE=SOFT[:HARD]")]
    rlimit: Vec<Rlimit>,

    /// Its nice value, -20 to 19, at normal priority; `runtime start --priority` high and low
    /// are 10 less and 10 more than this. Example: --nice 5
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: Option<i32>,

    /// The processors that it may run on. Example: --cpus 0,2-3
    #[arg(long, value_name = "LIST")]
    cpus: Option<Cpus>,

    /// Whose reading and writing of disks comes first: realtime, best-effort or idle, the first
    /// two with a level from 0, the first, to 7; see ioprio_set(2). Example: --io-class idle
    #[arg(long, value_name = "CLASS[:LEVEL]")]
    io_class: Option<IoClass>,

    /// A real-time policy, fifo or rr, with its priority from 1 to 99, the highest; see sched(7).
    /// Example: --realtime fifo:50
    #[arg(long, value_name = "POLICY:PRIORITY")]
    realtime: Option<Realtime>,

    /// A file of variables, read by the daemon at each start: lines of NAME=VALUE, comments after
    /// # at the beginning of a line, values in quotes or not. With a - before its path, as in
    /// --env-file=-PATH, it may be missing. --env counts more. May be repeated.
    /// Example: --env-file /etc/default/ping --env-file=-/etc/ping.local
    #[arg(long, value_name = "[-]PATH", value_parser = env_file)]
    env_file: Vec<EnvFile>,

    /// Which variables it has besides those that are given: clean, a small set (PATH; HOME, USER,
    /// LOGNAME and SHELL of its user; LANG, LANGUAGE, LC_*, TZ, TMPDIR and, as the daemon's own
    /// user, XDG_RUNTIME_DIR as the daemon has them); none; all that the daemon has; or names, as
    /// well as the small set. Example: --inherit-env DISPLAY,XAUTHORITY
    #[arg(long, value_name = "clean|none|all|NAMES", default_value_t)]
    inherit_env: InheritEnv,

    /// What its standard input is: null, or a file that its user opens at each start.
    /// Example: --stdin file:/etc/ping.conf
    #[arg(long, value_name = "null|file:PATH", default_value_t, value_parser = stdin)]
    stdin: Stdin,
}

/// A list that can be empty.
#[derive(Clone, Debug)]
struct Groups(Vec<String>);

impl std::str::FromStr for Groups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        items(text).map(|group| Ok(group.to_owned())).collect::<Result<_, _>>().map(Self)
    }
}

/// A list that can be empty.
#[derive(Clone, Debug)]
struct Caps(Vec<Capability>);

impl std::str::FromStr for Caps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        items(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(move |_| !text.trim().is_empty())
}

fn env_file(text: &str) -> Result<EnvFile, String> {
    let path = text.strip_prefix('-');
    let optional = path.is_some();
    Ok(EnvFile { path: absolute(path.unwrap_or(text))?, optional })
}

fn stdin(text: &str) -> Result<Stdin, String> {
    Ok(match text.parse()? {
        Stdin::File(path) => Stdin::File(absolute(&path)?),
        stdin => stdin,
    })
}

/// As the daemon needs it: it has another working directory.
fn absolute(path: &str) -> Result<String, String> {
    let absolute = std::path::absolute(Path::new(path))
        .map_err(|error| format!("can't make {path:?} absolute: {error}"))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| format!("the current directory, before {path:?}, is not UTF-8"))
}

impl ExecutionArgs {
    pub(crate) fn into_execution(self) -> Execution {
        let mut execution = Execution {
            user: self.user,
            group: self.group,
            groups: self.groups.map(|groups| groups.0),
            umask: self.umask,
            no_new_privs: self.no_new_privs,
            keep_caps: self.keep_caps.map(|caps| caps.0),
            drop_caps: self.drop_caps,
            ambient_caps: self.ambient_caps,
            rlimit: self.rlimit,
            nice: self.nice,
            cpus: self.cpus,
            io_class: self.io_class,
            realtime: self.realtime,
            env_file: self.env_file,
            inherit_env: self.inherit_env,
            stdin: self.stdin,
        };
        execution.sort();
        execution
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_a_list_and_paths_are_made_absolute() {
        assert_eq!("".parse::<Groups>().unwrap().0, Vec::<String>::new());
        assert_eq!("a, 5".parse::<Groups>().unwrap().0, ["a", "5"]);
        assert_eq!("".parse::<Caps>().unwrap().0, []);
        assert!("net_raw,".parse::<Caps>().is_err());
        let file = env_file("-/etc/x").unwrap();
        assert_eq!((file.path.as_str(), file.optional), ("/etc/x", true));
        let file = env_file("x").unwrap();
        assert!(file.path.starts_with('/') && file.path.ends_with("/x") && !file.optional);
        assert!(env_file("").is_err() && env_file("-").is_err());
        assert!(matches!(stdin("file:x"), Ok(Stdin::File(path)) if path.starts_with('/')));
        assert_eq!(stdin("null"), Ok(Stdin::Null));
    }
}
