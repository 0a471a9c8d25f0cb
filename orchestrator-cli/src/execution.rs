//! How an instance is executed, in words: what is not as by default.

use orchestrator_proto::control::{Capability, Execution, InheritEnv, Stdin};

/// Each of them, empty if there is nothing to say.
pub(crate) fn facts(execution: &Execution) -> Vec<(&'static str, String)> {
    let files: Vec<_> = execution.env_file.iter().map(ToString::to_string).collect();
    let limits: Vec<_> = execution.rlimit.iter().map(ToString::to_string).collect();
    vec![
        ("user", user(execution)),
        ("umask", execution.umask.map(|mask| mask.to_string()).unwrap_or_default()),
        ("rights", rights(execution)),
        ("limits", limits.join(" ")),
        ("scheduling", scheduling(execution)),
        ("env files", files.join(" ")),
        (
            "inherits",
            match &execution.inherit_env {
                InheritEnv::Clean => String::new(),
                InheritEnv::None => "no variables".into(),
                InheritEnv::All => "all variables of the daemon".into(),
                InheritEnv::Names(names) => format!("the clean set, {}", names.join(", ")),
            },
        ),
        (
            "standard input",
            match &execution.stdin {
                Stdin::Null => String::new(),
                Stdin::File(path) => path.clone(),
            },
        ),
    ]
}

fn user(execution: &Execution) -> String {
    let mut words = Vec::new();
    words.extend(execution.user.clone());
    words.extend(execution.group.as_ref().map(|group| format!("group {group}")));
    words.extend(execution.groups.as_ref().map(|groups| match groups.as_slice() {
        [] => "no supplementary groups".to_owned(),
        groups => format!("supplementary groups {}", groups.join(" ")),
    }));
    words.join(", ")
}

fn rights(execution: &Execution) -> String {
    let mut words = Vec::new();
    let mut caps = |what: &str, caps: &[Capability]| {
        if !caps.is_empty() {
            let caps: Vec<_> = caps.iter().map(ToString::to_string).collect();
            words.push(format!("{what} {}", caps.join(" ")));
        }
    };
    caps("never", &execution.drop_caps);
    caps("as any user", &execution.ambient_caps);
    match execution.keep_caps.as_deref() {
        Some([]) => words.push("never any capability".into()),
        Some(keep) => caps("never others than", keep),
        None => {}
    }
    if execution.no_new_privs {
        words.push("no new privileges".into());
    }
    words.join(", ")
}

fn scheduling(execution: &Execution) -> String {
    let mut words = Vec::new();
    words.extend(execution.nice.map(|nice| format!("nice {nice}")));
    words.extend(execution.realtime.map(|policy| format!("real-time {policy}")));
    words.extend(execution.cpus.as_ref().map(|cpus| format!("processors {cpus}")));
    words.extend(execution.io_class.map(|class| format!("I/O {class}")));
    words.join(", ")
}
