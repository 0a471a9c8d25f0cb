//! What is allowed in how an instance is executed.

use orchestrator_proto::WireError;
use orchestrator_proto::control::{Capability, Execution, InheritEnv, IoClass, Realtime, Stdin};

use super::add::invalid;
use super::instance::OWN_VARIABLES;
use super::{MAX_PATH, shorten};
use crate::process::NOT_INHERITED;

/// The longest name of a user or a group, bytes: more than any system allows.
const MAX_NAME: usize = 256;

/// Whether all of it is allowed. Whether it can be had is found out at each start.
///
/// # Errors
///
/// The first thing that is not, in the words of the command line.
pub(super) fn check(execution: &Execution) -> Result<(), WireError> {
    check_users(execution)?;
    check_rights(execution)?;
    check_scheduling(execution)?;
    if let Some(mask) = execution.umask.filter(|mask| mask.0 > 0o777) {
        return Err(invalid(format!("the umask {mask} is not 0 to 0777")));
    }
    let limits = &execution.rlimit;
    for (at, limit) in limits.iter().enumerate() {
        if limits[..at].iter().any(|before| before.resource == limit.resource) {
            let resource = limit.resource;
            return Err(invalid(format!("there are two limits for {resource}; give one")));
        }
        // What the kernel takes for infinity is written as that.
        if !limit.is_ordered() || [limit.soft, limit.hard].contains(&Some(u64::MAX)) {
            return Err(invalid(format!(
                "the limit {limit} is none: the first, which holds, can't be more than the \
                 second, which is the most"
            )));
        }
    }
    check_surroundings(execution)
}

fn check_users(execution: &Execution) -> Result<(), WireError> {
    let groups = execution.groups.as_deref().unwrap_or_default();
    if groups.len() > Execution::MAX_GROUPS {
        let most = Execution::MAX_GROUPS;
        return Err(invalid(format!("an instance can have {most} supplementary groups at most")));
    }
    let users = execution.user.iter().map(|name| ("user", name));
    let all = users.chain(execution.group.iter().chain(groups).map(|name| ("group", name)));
    for (what, name) in all {
        let is_bad = |c: char| c.is_control() || c == ':' || c == '/';
        if name.is_empty() || name.len() > MAX_NAME || name.contains(is_bad) {
            let name = shorten(&format!("{name:?}"));
            return Err(invalid(format!("{name} is not the name of a {what}")));
        }
    }
    Ok(())
}

fn check_rights(execution: &Execution) -> Result<(), WireError> {
    let Execution { keep_caps, drop_caps, ambient_caps, .. } = execution;
    if keep_caps.is_some() && !drop_caps.is_empty() {
        return Err(invalid(
            "capabilities are either kept or dropped; give --keep-caps or --drop-caps, not both"
                .to_owned(),
        ));
    }
    let all = keep_caps.iter().flatten().chain(drop_caps).chain(ambient_caps);
    if let Some(unknown) = all.clone().find(|it| it.0 >= Capability::COUNT) {
        return Err(invalid(format!("there is no capability with the number {}", unknown.0)));
    }
    if all.count() > 3 * usize::from(Capability::COUNT) {
        return Err(invalid("there are capabilities that are named several times".to_owned()));
    }
    let is_lost = |it: &&Capability| {
        drop_caps.contains(it) || keep_caps.as_ref().is_some_and(|keep| !keep.contains(it))
    };
    match ambient_caps.iter().find(is_lost) {
        Some(lost) => Err(invalid(format!(
            "{lost} is an ambient capability and can't be dropped; keep it, or don't ask for it"
        ))),
        None => Ok(()),
    }
}

fn check_scheduling(execution: &Execution) -> Result<(), WireError> {
    if let Some(nice) = execution.nice.filter(|nice| !(-20..=19).contains(nice)) {
        return Err(invalid(format!("the nice value {nice} is not -20 to 19")));
    }
    if execution.cpus.as_ref().is_some_and(|cpus| !cpus.is_good()) {
        return Err(invalid(
            "processors are numbers from 0 to 8191 in ascending order, at least one".to_owned(),
        ));
    }
    let level = execution.io_class.and_then(IoClass::level);
    if let Some(level) = level.filter(|level| *level > IoClass::MAX_LEVEL) {
        return Err(invalid(format!("the I/O level {level} is not 0 to 7")));
    }
    let priority = execution.realtime.map(Realtime::priority);
    match priority.filter(|priority| !(1..=Realtime::MAX_PRIORITY).contains(priority)) {
        Some(priority) => Err(invalid(format!("the real-time priority {priority} is not 1 to 99"))),
        None => Ok(()),
    }
}

fn check_surroundings(execution: &Execution) -> Result<(), WireError> {
    if execution.env_file.len() > Execution::MAX_ENV_FILES {
        let most = Execution::MAX_ENV_FILES;
        return Err(invalid(format!("an instance can have {most} environment files at most")));
    }
    for file in &execution.env_file {
        check_path("an environment file", &file.path)?;
    }
    if let Stdin::File(path) = &execution.stdin {
        check_path("the standard input", path)?;
    }
    let InheritEnv::Names(names) = &execution.inherit_env else {
        return Ok(());
    };
    if names.is_empty() || names.len() > Execution::MAX_NAMES {
        let most = Execution::MAX_NAMES;
        return Err(invalid(format!("1 to {most} variables can be named to be inherited")));
    }
    for name in names {
        let shown = shorten(name);
        if name.is_empty() || name.len() > MAX_PATH || name.contains(['=', '\0']) {
            return Err(invalid(format!("{shown:?} is not the name of a variable")));
        }
        if NOT_INHERITED.contains(&name.as_str()) || OWN_VARIABLES.contains(&name.as_str()) {
            return Err(invalid(format!(
                "the variable {shown} is the daemon's own and can't be inherited"
            )));
        }
    }
    Ok(())
}

fn check_path(what: &str, path: &str) -> Result<(), WireError> {
    let shown = shorten(path);
    if !path.starts_with('/') {
        Err(invalid(format!("the path of {what} is not absolute: {shown}")))
    } else if path.contains('\0') {
        Err(invalid(format!("the path of {what} has a zero byte: {shown}")))
    } else if path.len() > MAX_PATH {
        Err(invalid(format!("the path of {what} has more than {MAX_PATH} bytes: {shown}")))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::{Cpus, EnvFile, Resource, Rlimit, Umask};

    #[test]
    fn what_is_not_allowed_is_refused() {
        let good = Execution::default;
        assert!(check(&good()).is_ok());
        let limit = Rlimit { resource: Resource::Core, soft: Some(1), hard: Some(2) };
        let caps = |numbers: &[u8]| numbers.iter().copied().map(Capability).collect::<Vec<_>>();
        let file = |path: &str| EnvFile { path: path.into(), optional: false };
        let names = |names: &[&str]| {
            InheritEnv::Names(names.iter().map(|name| (*name).to_owned()).collect())
        };
        let bad = [
            Execution { user: Some(String::new()), ..good() },
            Execution { user: Some("a:b".into()), ..good() },
            Execution { group: Some("a\nb".into()), ..good() },
            Execution { groups: Some(vec!["x".repeat(300)]), ..good() },
            Execution { groups: Some(vec!["1".into(); 1025]), ..good() },
            Execution { umask: Some(Umask(0o1000)), ..good() },
            Execution { rlimit: vec![limit, limit], ..good() },
            Execution { rlimit: vec![Rlimit { soft: Some(3), ..limit }], ..good() },
            Execution { rlimit: vec![Rlimit { soft: None, ..limit }], ..good() },
            Execution { rlimit: vec![Rlimit { hard: Some(u64::MAX), ..limit }], ..good() },
            Execution { keep_caps: Some(caps(&[1])), drop_caps: caps(&[2]), ..good() },
            Execution { drop_caps: caps(&[41]), ..good() },
            Execution { drop_caps: caps(&[1; 200]), ..good() },
            Execution { ambient_caps: caps(&[2]), drop_caps: caps(&[2]), ..good() },
            Execution { ambient_caps: caps(&[2]), keep_caps: Some(caps(&[])), ..good() },
            Execution { nice: Some(20), ..good() },
            Execution { nice: Some(-21), ..good() },
            Execution { cpus: Some(Cpus(vec![])), ..good() },
            Execution { cpus: Some(Cpus(vec![1, 0])), ..good() },
            Execution { io_class: Some(IoClass::BestEffort(8)), ..good() },
            Execution { realtime: Some(Realtime::Fifo(0)), ..good() },
            Execution { realtime: Some(Realtime::Rr(100)), ..good() },
            Execution { env_file: vec![file("relative")], ..good() },
            Execution { env_file: vec![file("/a\0b")], ..good() },
            Execution { env_file: vec![file("/a"); 65], ..good() },
            Execution { stdin: Stdin::File("relative".into()), ..good() },
            Execution { stdin: Stdin::File(format!("/{}", "x".repeat(5000))), ..good() },
            Execution { inherit_env: names(&[]), ..good() },
            Execution { inherit_env: names(&["A=B"]), ..good() },
            Execution { inherit_env: names(&["NOTIFY_SOCKET"]), ..good() },
            Execution { inherit_env: names(&["ORCHESTRATOR_INSTANCE_ID"]), ..good() },
        ];
        for execution in bad {
            let error = check(&execution).unwrap_err();
            assert!(error.message.len() < 400, "{error}");
        }
    }
}
