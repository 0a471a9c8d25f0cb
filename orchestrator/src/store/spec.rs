//! How a runtime is kept: JSON that people can read, and that is exact.
//!
//! Not the protocol's own JSON, which shows what is not UTF-8 as U+FFFD. Fields that are
//! missing get their default, so that a field can be added without a migration; fields that
//! are not known are refused, so that nothing that was asked for is silently left out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use orchestrator_proto::OsBytes;
use orchestrator_proto::control::{
    Execution, Limits, Listen, LogRules, Program, Replicas, RuntimeSpec, Supervision,
};
use serde::{Deserialize, Serialize};

/// What [`RuntimeSpec`] says, without the id and the name, which have columns of their own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    program: KeptProgram,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<Text>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<(Text, Text)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<Text>,
    #[serde(default)]
    privileged: bool,
    #[serde(default)]
    supervision: Supervision,
    #[serde(default)]
    log: LogRules,
    #[serde(default, skip_serializing_if = "is_default")]
    execution: Execution,
    #[serde(default, skip_serializing_if = "is_default")]
    limits: Limits,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    listen: Vec<Listen>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replicas: Option<Replicas>,
    #[serde(default = "first", skip_serializing_if = "is_first")]
    from_start: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn first() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_first(number: &u64) -> bool {
    *number <= 1
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeptProgram {
    Path(Text),
    Upload { file_name: Text, size: u64 },
}

/// Text where it is UTF-8, else the bytes as numbers.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl From<&OsBytes> for Text {
    fn from(bytes: &OsBytes) -> Self {
        match std::str::from_utf8(&bytes.0) {
            Ok(text) => Self::Utf8(text.to_owned()),
            Err(_) => Self::Bytes(bytes.0.clone()),
        }
    }
}

impl From<Text> for OsBytes {
    fn from(text: Text) -> Self {
        match text {
            Text::Utf8(text) => text.into(),
            Text::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

/// The JSON of a runtime; see [`InstanceRecord::from_start`](super::InstanceRecord::from_start).
///
/// # Errors
///
/// None that is known: text, numbers and lists always become JSON.
pub(super) fn to_json(spec: &RuntimeSpec, from_start: u64) -> serde_json::Result<String> {
    serde_json::to_string(&Kept {
        program: match &spec.program {
            Program::Path(path) => KeptProgram::Path(path.into()),
            Program::Upload { file_name, size } => {
                KeptProgram::Upload { file_name: file_name.into(), size: *size }
            }
        },
        args: spec.args.iter().map(Text::from).collect(),
        env: spec.env.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        cwd: spec.cwd.as_ref().map(Text::from),
        privileged: spec.privileged,
        supervision: spec.supervision.clone(),
        log: spec.log.clone(),
        execution: (*spec.execution).clone(),
        limits: (*spec.limits).clone(),
        listen: spec.listen.clone(),
        replicas: spec.replicas,
        from_start,
    })
}

/// The runtime of a JSON, without an id, and the first execution that is as it says.
///
/// # Errors
///
/// When it is none.
pub(super) fn from_json(
    json: &str,
    name: Option<String>,
) -> serde_json::Result<(RuntimeSpec, u64)> {
    let kept: Kept = serde_json::from_str(json)?;
    let from_start = kept.from_start;
    let spec = RuntimeSpec {
        id: None,
        name,
        program: match kept.program {
            KeptProgram::Path(path) => Program::Path(path.into()),
            KeptProgram::Upload { file_name, size } => {
                Program::Upload { file_name: file_name.into(), size }
            }
        },
        args: kept.args.into_iter().map(OsBytes::from).collect(),
        env: kept.env.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        cwd: kept.cwd.map(OsBytes::from),
        privileged: kept.privileged,
        supervision: kept.supervision,
        log: kept.log,
        execution: kept.execution.into(),
        limits: kept.limits.into(),
        listen: kept.listen,
        replicas: kept.replicas,
    };
    Ok((spec, from_start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::{
        Capability, CpuQuota, EnvFile, InheritEnv, Resource, Rlimit, Signal, Stdin, StopStep,
        Umask, WhenFull,
    };
    use orchestrator_proto::{Millis, Size};
    use proptest::prelude::*;

    #[test]
    fn readable_and_with_defaults() {
        let mut spec = RuntimeSpec::new("/bin/ping");
        spec.args = vec!["-c".into(), OsBytes(vec![0xff, 1])];
        let json = to_json(&spec, 1).unwrap();
        assert_eq!(
            json.split_once(r#","supervision":{"kind":"service","#).unwrap().0,
            r#"{"program":{"path":"/bin/ping"},"args":["-c",[255,1]],"privileged":false"#
        );
        assert_eq!(from_json(&json, None).unwrap(), (spec, 1));
        let short = from_json(r#"{"program":{"path":"/bin/ping"}}"#, Some("p".into())).unwrap();
        let plain = RuntimeSpec { name: Some("p".into()), ..RuntimeSpec::new("/bin/ping") };
        assert_eq!(short, (plain, 1));
        assert!(from_json(r#"{"program":{"path":"/a"},"cgroup":1}"#, None).is_err());
    }

    fn bytes() -> impl Strategy<Value = OsBytes> {
        prop_oneof!["[a-z\"\\\\ü]{0,8}".prop_map(OsBytes::from), any::<Vec<u8>>().prop_map(OsBytes)]
    }

    proptest! {
        #[test]
        fn exact(
            path in bytes(), args in prop::collection::vec(bytes(), 0..4),
            env in prop::collection::vec((bytes(), bytes()), 0..4), cwd in prop::option::of(bytes()),
            from_start in 1..=u64::MAX, upload in any::<bool>(), privileged in any::<bool>(),
            signal in 1..=64,
            wait in any::<u64>(), keep in prop::option::of(any::<u32>()), text in ".{0,8}",
            umask in prop::option::of(0_u32..=0o777), caps in prop::collection::vec(0_u8..41, 0..3),
            port in prop::option::of(1..=u16::MAX),
        ) {
            let program = match upload {
                true => Program::Upload { file_name: path, size: wait },
                false => Program::Path(path),
            };
            let (id, name) = (None, Some("a".to_owned()));
            let mut supervision = Supervision::default();
            supervision.stop.steps = vec![StopStep { signal: Signal(signal), wait: Millis(wait) }];
            let log = LogRules {
                max_size: keep.map(|_| Size(wait)),
                keep,
                when_full: WhenFull::Drop,
                ..LogRules::default()
            };
            let execution = Execution {
                user: keep.map(|_| text.clone()),
                umask: umask.map(Umask),
                keep_caps: umask.map(|_| caps.iter().copied().map(Capability).collect()),
                ambient_caps: caps.into_iter().map(Capability).collect(),
                rlimit: vec![Rlimit { resource: Resource::As, soft: Some(wait), hard: None }],
                env_file: vec![EnvFile { path: text.clone(), optional: privileged }],
                inherit_env: InheritEnv::Names(vec![text.clone()]),
                stdin: Stdin::File(text),
                ..Execution::default()
            };
            let limits = Limits {
                memory_max: keep.map(|_| Size(wait)),
                cpu: keep.map(|keep| CpuQuota(keep.clamp(10, 8_192_000))),
                pids_max: keep,
                limits_required: privileged,
                ..Limits::default()
            };
            let listen = port.map(|port| format!("a=tcp:[::1]:{port}").parse().unwrap());
            let listen = listen.into_iter().collect();
            let spec = RuntimeSpec {
                id, name: name.clone(), program, args, env, cwd, privileged, supervision, log,
                execution: execution.into(), limits: limits.into(), listen, replicas: keep.map(Replicas),
            };
            let json = to_json(&spec, from_start).unwrap();
            prop_assert_eq!(from_json(&json, name).unwrap(), (spec, from_start));
        }
    }
}
