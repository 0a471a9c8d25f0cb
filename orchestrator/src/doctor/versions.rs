//! Whether all processes of the orchestrator are of one version.

use orchestrator_proto::control::Finding;

/// The versions of the programs of an orchestrator; none is one that is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Versions {
    /// The holder's.
    pub holder: Option<String>,
    /// The daemon's.
    pub daemon: String,
    /// The capture process's.
    pub capture: Option<String>,
}

pub(super) fn judge(versions: &Versions) -> Finding {
    let Versions { holder, daemon, capture } = versions;
    let named = [("the holder", holder), ("the capture process", capture)];
    let others: Vec<_> = named
        .into_iter()
        .filter(|(_, version)| version.as_ref() != Some(daemon))
        .map(|(name, version)| match version {
            Some(version) => format!("{name} is of version {version}"),
            None => format!("the version of {name} is not known"),
        })
        .collect();
    if others.is_empty() {
        let message = format!("holder, daemon and capture process are of version {daemon}");
        return Finding::ok("versions", message);
    }
    Finding::warning(
        "versions",
        format!("the daemon is of version {daemon}, but {}", others.join(", and ")),
        "replace what is left of another version: orchestrator-cli daemon restart --all",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn what_is_of_another_version_is_named() {
        let same = Some("1.0".to_owned());
        let all = |holder, capture| judge(&Versions { holder, daemon: "1.0".into(), capture });
        assert_eq!(all(same.clone(), same.clone()).level, Level::Ok);
        let finding = all(Some("0.9".into()), None);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.message.contains("the holder is of version 0.9, and the version of the"));
    }
}
