//! Limits and the end of fork bombs in a machine of their own, whose kernel has all controllers of
//! cgroups and which nothing else runs on: Debian's kernel for clouds in QEMU, without KVM.
#![allow(missing_docs, clippy::unwrap_used)]

mod machine;

use tests::skipped;

/// Each way to run a daemon in the guest: as root at the root of all cgroups, and as a user to whom
/// one was delegated.
const WAYS: [&str; 2] = ["root", "delegated"];

#[test]
fn limits_are_in_force_and_nothing_survives_in_a_machine_with_all_controllers() {
    let said = match machine::run(include_bytes!("init")) {
        Ok(said) => said,
        Err(why) => return skipped(&why),
    };
    let guest: Vec<_> = said.lines().filter_map(|line| line.split_once("GUEST ")).collect();
    let guest: Vec<_> = guest.into_iter().map(|(_, said)| said.trim_end()).collect();
    let all = || guest.join("\n");
    assert_eq!(guest.last(), Some(&"done"), "it came to its end: {said}");
    assert!(!guest.iter().any(|line| line.starts_with("failed")), "{}", all());
    for way in WAYS {
        for what in [
            "and has no survivors",
            "and killed at its limit, which is said",
            "it is refused more processes than its limit",
            "its quota is in force",
            "it is throttled",
            "they are in force",
        ] {
            let ok = format!("ok {way}: {what}");
            assert!(guest.contains(&ok.as_str()), "{ok}\n{}", all());
        }
    }
}
