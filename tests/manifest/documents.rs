//! The manifests that the documents show.

use std::fs;
use std::path::Path;

use orchestrator_proto::manifest::Manifest;
use tests::{Daemon, binary};

use super::{becomes, names};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn the_one_of_the_readme_is_good() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let section = readme.split_once("### The manifest\n").unwrap().1;
    let text = section.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orchestrator.toml");
    fs::create_dir(dir.path().join("sensors")).unwrap();
    fs::write(&path, text).unwrap();
    let manifest = Manifest::read(&path).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((manifest.set.instances.len(), manifest.set.links.len()), (5, 1));
    assert_eq!(manifest.warnings, []);
    // The daemon takes it too.
    let daemon = Daemon::start();
    let said = daemon.cli(["diff", path.to_str().unwrap()]);
    assert_eq!(said.code, Some(5), "{said:?}");
}

#[test]
fn the_one_of_the_examples_runs() {
    let daemon = Daemon::start();
    let path = workspace().join("examples/orchestrator.toml");
    let mut command = daemon.cli_command(["apply", path.to_str().unwrap(), "--wait"]);
    command.env("ORCHESTRATOR_BIN", binary("ping").parent().unwrap());
    let said = tests::Said::of(command);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(names(&daemon), ["ping", "pong", "trace"]);
    becomes(&daemon, "ping", "ready");
    becomes(&daemon, "trace", "stopped");
}
