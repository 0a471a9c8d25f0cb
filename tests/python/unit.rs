//! The package's own unit tests, and its installation.

use super::{package, python};
use std::process::{Command, Stdio};

#[test]
fn the_unit_tests_pass() {
    let Some(mut python) = python() else { return };
    python.args(["-W", "error", "-m", "unittest", "discover", "--start-directory"]);
    python.arg(package().join("tests"));
    // Waited for as long as it takes: it has deadlines of its own.
    let output = python.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("Ran 0 tests"), "{said}");
}

#[test]
fn without_an_orchestrator_it_says_what_to_do() {
    let Some(mut python) = python() else { return };
    python.args(["-c", "import orchestrator; orchestrator.Runtime.connect()"]);
    let output = python.env_remove("ORCHESTRATOR_IPC_SOCKET").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = "NotStartedByOrchestrator: ORCHESTRATOR_IPC_SOCKET is not set; this program has \
                    to be started by an orchestrator: orchestrator-cli runtime add PROGRAM";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn each_module_has_its_types_checked_where_mypy_is_there() {
    let Some(_) = python() else { return };
    let mut mypy = Command::new("python3");
    mypy.args(["-m", "mypy", "--strict", "--no-incremental", "--cache-dir=/dev/null"]);
    // The package, and the programs that show it; `wire_pong.py` is without types.
    let programs = ["divider.py", "divides.py", "imu.py", "ping.py", "pong.py", "tilt.py"];
    mypy.args([&["orchestrator"][..], &programs].concat()).current_dir(package());
    let output = mypy.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if String::from_utf8_lossy(&output.stderr).contains("No module named mypy") {
        return tests::skipped("there is no mypy");
    }
    assert!(output.status.success(), "{said}");
}
