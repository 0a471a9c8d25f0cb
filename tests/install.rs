//! `run.sh install` and `run.sh uninstall`: what is put in place works, and all of it is taken away
//! again, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use tests::{Said, binary, eventually, processes, skipped};

/// One at a time: each may build.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `run.sh` with these arguments, on programs that the other tests use too.
fn run(args: &[&str]) -> Said {
    let target = binary("orchestrator").ancestors().nth(2).unwrap().to_owned();
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../run.sh"));
    command.args(args).env("CARGO_TARGET_DIR", target).env("HOME", "/nonexistent");
    // Where cargo and rustc have what they need, whatever HOME is.
    for (name, below) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        if std::env::var_os(name).is_none()
            && let Some(home) = std::env::var_os("HOME")
        {
            command.env(name, Path::new(&home).join(below));
        }
    }
    let done = command.stdin(Stdio::null()).output().expect("run.sh can be run");
    Said {
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        code: done.status.code(),
    }
}

#[track_caller]
fn ok(args: &[&str]) -> String {
    let said = run(args);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout
}

/// What a build of programs that were built with optimizations or not is called.
fn profile() -> &'static [&'static str] {
    if binary("orchestrator").ancestors().nth(1).unwrap().ends_with("release") {
        &[]
    } else {
        &["--debug"]
    }
}

fn install(args: &[&str]) -> Vec<String> {
    let all = [&["install"], args, profile()].concat();
    all.into_iter().map(str::to_owned).collect()
}

#[track_caller]
fn installed(args: &[&str]) -> String {
    let args = install(args);
    ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// All files below a directory, and the empty directories.
fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                let below = all_below(&path);
                if below.is_empty() {
                    all.push(path);
                }
                all.extend(below);
            }
            false => all.push(path),
        }
    }
    all.sort();
    all
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

#[test]
fn into_a_root_of_its_own_and_out_of_it() {
    let _one = ONE.lock();
    let root = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
    let root_arg = root.path().to_str().unwrap();
    let at = |path: &str| root.path().join(path);
    installed(&["--root", root_arg, "--prefix", "/usr"]);
    let files = all_below(root.path());
    for path in [
        "etc/default/orchestrator",
        "usr/bin/orchestrator",
        "usr/bin/orchestrator-cli",
        "usr/lib/systemd/system/orchestrator.service",
        "usr/lib/systemd/system/orchestrator.socket",
        "usr/lib/systemd/user/orchestrator.service",
        "usr/lib/systemd/user/orchestrator.socket",
        "usr/share/bash-completion/completions/orchestrator-cli",
        "usr/share/fish/vendor_completions.d/orchestrator-cli.fish",
        "usr/share/man/man1/orchestrator-cli.1",
        "usr/share/man/man1/orchestrator-cli-runtime-add.1",
        "usr/share/man/man8/orchestrator.8",
        "usr/share/zsh/site-functions/_orchestrator-cli",
    ] {
        assert!(files.contains(&at(path)), "{path}: {files:?}");
        assert!(!text_or_program(&at(path)).contains("@bindir@"));
    }
    let unit = text(&at("usr/lib/systemd/system/orchestrator.service"));
    assert!(unit.contains("\nExecStart=/usr/bin/orchestrator\n"), "{unit}");
    assert!(unit.contains("\nEnvironmentFile=-/etc/default/orchestrator\n"), "{unit}");
    let page = text(&at("usr/share/man/man8/orchestrator.8"));
    assert!(page.contains(".TH orchestrator 8 ") && page.contains("state\\-dir"), "{page}");
    let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("usr/bin/orchestrator"), mode("usr/bin")), (0o755, 0o755));
    assert_eq!(mode("etc/default/orchestrator"), 0o644);
    it_works(&at("usr/bin"));

    // Once more is the same, but for what the operator has changed.
    let list = at("usr/share/orchestrator/installed");
    let (before, config) = (text(&list), at("etc/default/orchestrator"));
    fs::write(&config, "ORCHESTRATOR_LOG=debug\n").unwrap();
    fs::write(at("usr/share/man/man1/other.1"), "of somebody else").unwrap();
    let said = installed(&["--root", root_arg, "--prefix", "/usr"]);
    assert!(said.contains("left as it is"), "{said}");
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&text(&list)), sorted(&before));
    assert_eq!(text(&config), "ORCHESTRATOR_LOG=debug\n");

    let said = ok(&["uninstall", "--root", root_arg, "--prefix", "/usr"]);
    assert!(said.contains("changed since, and left as it is"), "{said}");
    let left = all_below(root.path());
    assert_eq!(left, [config.clone(), at("usr/share/man/man1/other.1")]);
    let said = run(&["uninstall", "--root", root_arg, "--prefix", "/usr"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("nothing is installed"), "{said:?}");

    // With nothing of anybody else's, nothing is left.
    fs::remove_dir_all(at("usr")).unwrap();
    fs::remove_dir_all(at("etc")).unwrap();
    installed(&["--root", root_arg]);
    assert!(at("usr/local/bin/orchestrator").exists());
    ok(&["uninstall", "--root", root_arg]);
    assert_eq!(all_below(root.path()), Vec::<PathBuf>::new());
}

fn text_or_program(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()[..]).chars().take(10_000).collect()
}

/// The installed programs, and nothing else.
fn it_works(bin: &Path) {
    let dir = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
    let socket = dir.path().join("s");
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut daemon = Command::new(bin.join("orchestrator"))
        .arg("--socket")
        .arg(&socket)
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let cli = |args: &[&str]| {
        let mut command = Command::new(bin.join("orchestrator-cli"));
        command.arg("--socket").arg(&socket).args(args);
        Said::of(command)
    };
    eventually("the daemon is there", || {
        assert_eq!(daemon.try_wait().unwrap(), None);
        (cli(&["version"]).code == Some(0)).then_some(())
    });
    assert_eq!(cli(&["runtime", "add", "/bin/sleep", "--name", "a", "--", "1000"]).code, Some(0));
    assert_eq!(cli(&["runtime", "start", "a"]).code, Some(0));
    processes::signal(daemon.id(), Signal::SIGTERM);
    let ended = eventually("it has ended", || daemon.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

/// Who is nobody else, as numbers: no user database is asked.
const SCRATCH: u32 = 61_234;

/// With root's rights, as a user who has no others than its own; else as who runs this.
fn as_user(home: &Path) -> impl Fn(&Path) -> Command + use<> {
    let home = home.to_owned();
    let other = nix::unistd::geteuid().is_root().then_some(SCRATCH);
    if let Some(uid) = other {
        std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
    }
    move |program| {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", &home).current_dir(&home);
        if let Some(uid) = other {
            command.uid(uid).gid(uid);
        }
        command.stdin(Stdio::null());
        command
    }
}

#[test]
fn an_ordinary_user_has_it_below_its_home() {
    let dir = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // What is in this directory may be closed to others.
    let (packaging, built) = (dir.path().join("orchestrator/packaging"), dir.path().join("built"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../orchestrator/packaging");
    fs::create_dir_all(&built).unwrap();
    for from in all_below(&source) {
        let to = packaging.join(from.strip_prefix(&source).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
    for program in ["orchestrator", "orchestrator-cli"] {
        fs::copy(binary(program), built.join(program)).unwrap();
    }
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let user = as_user(&home);
    let run = |action: &str, from: &Path| {
        let mut command = user(&packaging.join("install.sh"));
        command.arg(action).arg("--prefix").arg(home.join(".local"));
        if action == "install" {
            command.arg("--from").arg(from);
        }
        Said::of(command)
    };
    let said = run("install", &dir.path().join("nowhere"));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("there are no programs orchestrator and"), "{said:?}");
    assert_eq!(all_below(&home), Vec::<PathBuf>::new());

    let said = run("install", &built);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("next: systemctl --user daemon-reload"), "{said:?}");
    let files = all_below(&home);
    let at = |path: &str| home.join(".local").join(path);
    for path in [
        "bin/orchestrator",
        "bin/orchestrator-cli",
        "share/bash-completion/completions/orchestrator-cli",
        "share/man/man1/orchestrator-cli.1",
        "share/man/man8/orchestrator.8",
        "share/systemd/user/orchestrator.service",
        "share/systemd/user/orchestrator.socket",
    ] {
        assert!(files.contains(&at(path)), "{path}: {files:?}");
    }
    // Nothing is for anybody else.
    for dir in ["lib", "etc"] {
        assert!(!at(dir).exists(), "{files:?}");
    }
    let unit = text(&at("share/systemd/user/orchestrator.service"));
    let program = format!("\nExecStart={}\n", at("bin/orchestrator").display());
    assert!(unit.contains(&program), "{unit}");

    // It needs no options.
    let mut daemon = user(&at("bin/orchestrator"));
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut daemon = daemon.env("XDG_RUNTIME_DIR", &home).stderr(log).spawn().unwrap();
    let cli = |args: &[&str]| {
        let mut command = user(&at("bin/orchestrator-cli"));
        command.env("XDG_RUNTIME_DIR", &home).args(args);
        Said::of(command)
    };
    eventually("the daemon is there", || {
        assert_eq!(daemon.try_wait().unwrap(), None);
        (cli(&["version"]).code == Some(0)).then_some(())
    });
    assert!(home.join("orchestrator.socket").exists());
    assert_eq!(cli(&["runtime", "add", "/bin/sleep", "--name", "a", "--", "1000"]).code, Some(0));
    assert_eq!(cli(&["runtime", "start", "a"]).code, Some(0));
    processes::signal(daemon.id(), Signal::SIGTERM);
    let ended = eventually("it has ended", || daemon.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));

    let said = run("uninstall", &built);
    assert_eq!(said.code, Some(0), "{said:?}");
    let left = all_below(&home);
    let state = at("state/orchestrator");
    assert!(left.iter().all(|path| path.starts_with(&state)), "{left:?}");
}

#[test]
fn nothing_of_somebody_else_is_replaced() {
    let _one = ONE.lock();
    let root = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
    let root_arg = root.path().to_str().unwrap();
    let bin = root.path().join("usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("orchestrator"), "of somebody else").unwrap();
    let args = install(&["--root", root_arg]);
    let said = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("was not installed by this; move it away first"), "{said:?}");
    assert_eq!(all_below(root.path()), [bin.join("orchestrator")]);
    for bad in ["relative", "/", "/a b", "/a|b"] {
        let said = run(&["install", "--root", root_arg, "--prefix", bad]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("the prefix"), "{said:?}");
    }
    assert_eq!(run(&["install", "--prefix"]).code, Some(1));
    assert_eq!(run(&["install", "--nonsense"]).code, Some(1));
    assert!(ok(&["install", "--help"]).contains("--prefix DIR"));
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let _one = ONE.lock();
    if !Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success())
    {
        skipped("systemd-analyze is missing: install the package systemd");
        return;
    }
    let dir = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
    let prefix = dir.path().join("opt");
    installed(&["--prefix", prefix.to_str().unwrap()]);
    for scope in ["system", "user"] {
        let units = prefix.join("lib/systemd").join(scope);
        let mut command = Command::new("systemd-analyze");
        command.args([&format!("--{scope}"), "verify", "--man=no"]);
        command.env("XDG_RUNTIME_DIR", dir.path());
        command.args([units.join("orchestrator.service"), units.join("orchestrator.socket")]);
        let said = Said::of(command);
        assert_eq!(said.code, Some(0), "{scope}: {said:?}");
        assert!(!said.stderr.contains("orchestrator."), "{scope}: {said:?}");
    }
    ok(&["uninstall", "--prefix", prefix.to_str().unwrap()]);
    assert!(!prefix.exists());
}
