//! What a program gets when it is executed, and why it is not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;
use orchestrator_proto::control::{EnvFile, Priority, Stdin, Umask};

use super::*;

#[tokio::test]
async fn nothing_is_inherited_but_three_streams() {
    let _open = fs::File::open("/dev/null").unwrap();
    let linux = linux();
    let mut kept = Kept::shell("ls /proc/self/fd; echo end", LONG);
    kept.start().await;
    // The fourth is the directory that it lists.
    for file in 0..=3 {
        assert_eq!(kept.number().await, file);
    }
    assert_eq!(kept.line().await, "end");

    let mut grep = program("/bin/grep");
    grep.args = vec!["-E".into(), "^Sig(Blk|Ign)".into(), "/proc/self/status".into()];
    let mut kept = Kept::new(linux, grep, LONG);
    kept.start().await;
    for name in ["SigBlk:\t", "SigIgn:\t"] {
        let mask = kept.line().await;
        let bits = u64::from_str_radix(mask.strip_prefix(name).unwrap(), 16).unwrap();
        assert_eq!(bits, 0, "{mask}");
    }

    let mut kept = Kept::shell("echo ready; exec sleep 1000", LONG);
    let pid = kept.start().await;
    assert_eq!(kept.line().await, "ready");
    let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd.to_str(), Some("/"));
    assert_eq!(Stat::of(pid).unwrap().group, pid);
    assert!(kept.stop().await);
}

#[tokio::test]
async fn arguments_environment_and_directory() {
    let mut launch = sh(r#"printf '%s\n' "$0" "$1" "$A" "$ORCHESTRATOR_LOG" "$PWD""#);
    launch.args.extend(["a b".into(), "$(c)".into()]);
    launch.env = vec![("A".into(), "1 2".into()), ("ORCHESTRATOR_LOG".into(), "mine".into())];
    launch.cwd = Some("/usr".into());
    let mut kept = Kept::new(linux(), launch, LONG);
    kept.start().await;
    for expected in ["a b", "$(c)", "1 2", "mine", "/usr"] {
        assert_eq!(kept.line().await, expected);
    }
    assert_eq!(kept.exited().await, Exit::Code(0));
}

#[tokio::test]
async fn attributes_and_a_clean_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("input"), "from a file\n").unwrap();
    fs::write(path("vars"), "A=1\nB=2\n").unwrap();
    let mut launch = sh("read line; echo $line; umask; ulimit -Sn; ulimit -Hn; echo $A $B; \
                         echo ${CARGO_MANIFEST_DIR:-clean}; nice");
    launch.env = vec![("B".into(), "3".into())];
    launch.execution = Arc::new(Execution {
        umask: Some(Umask(0o27)),
        rlimit: vec!["nofile=50:60".parse().unwrap()],
        nice: Some(4),
        env_file: vec![EnvFile { path: path("vars"), optional: false }],
        stdin: Stdin::File(path("input")),
        no_new_privs: true,
        ..Execution::default()
    });
    let mut kept = Kept::new(linux(), launch.clone(), LONG);
    kept.start().await;
    for expected in ["from a file", "0027", "50", "60", "1 3", "clean", "4"] {
        assert_eq!(kept.line().await, expected);
    }
    assert_eq!(kept.exited().await, Exit::Code(0));

    // The first step that fails is told, and nothing is left of the process.
    let execution = Arc::make_mut(&mut launch.execution);
    execution.cpus = Some("8191".parse().unwrap());
    let told = fails(launch.clone()).await;
    let why =
        "cannot execute \"/bin/sh\": can't have it run on the processors 8191: Invalid argument";
    assert!(told.starts_with(why), "{told}");
    let execution = Arc::make_mut(&mut launch.execution);
    execution.cpus = None;
    execution.env_file.push(EnvFile { path: path("none"), optional: false });
    let told = fails(launch).await;
    let why = format!("cannot execute \"/bin/sh\": the environment file {:?} can't", path("none"));
    assert!(told.starts_with(&why), "{told}");
}

#[tokio::test]
async fn priorities() {
    let linux = linux();
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        let kept = Kept::new(linux.clone(), sh("exec sleep 1000"), LONG);
        let started = within(kept.keeper.start(Some(priority))).await.unwrap();
        let pid = i32::try_from(started.pid().unwrap()).unwrap();
        let nice =
            rustix::process::getpriority_process(rustix::process::Pid::from_raw(pid)).unwrap();
        let field = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let field = field.rsplit(')').next().unwrap().split_whitespace().nth(16);
        assert_eq!(field, Some(nice.to_string().as_str()));
        if started.warnings.is_empty() {
            assert_eq!(nice, priority.nice());
        } else {
            // Without the right to it: it runs, and says that it is not as was asked.
            assert!(!Uid::effective().is_root(), "{:?}", started.warnings);
            assert_ne!(nice, priority.nice());
            assert!(started.warnings[0].contains(&priority.to_string()));
        }
        assert!(kept.stop().await);
    }
}

#[tokio::test]
async fn any_number_can_be_started_at_once() {
    let linux = linux();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..4 * crate::holder::PLACES {
        starts.spawn(linux.spawn(sh("exit 0")));
    }
    while let Some(started) = within(starts.join_next()).await {
        let started = started.unwrap().expect("none is refused because of others");
        assert_eq!(within(started.exited).await.unwrap().exit, Exit::Code(0));
    }
}

#[tokio::test]
async fn errors_say_what_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8], mode: u32| {
        let path = dir.path().join(name);
        written_by_another(&path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let elf = fs::read("/bin/sh").unwrap();
    let mut other_machine = elf.clone();
    other_machine[18] ^= 0x55;
    let mut no_loader = elf;
    let loader = no_loader.windows(8).position(|bytes| bytes == b"/ld-linu");
    if let Some(at) = loader {
        no_loader[at + 1] = b'X';
    }
    let cases = [
        (dir.path().join("none"), "No such file or directory (ENOENT)", ""),
        (dir.path().to_owned(), "(EACCES)", "; it is a directory"),
        (file("plain", b"#!/bin/sh\n", 0o644), "(EACCES)", "chmod +x"),
        (file("text", b"hello\n", 0o755), "(ENOEXEC)", "begins with #!"),
        (file("other", &other_machine, 0o755), "(ENOEXEC)", "architecture"),
        (
            file("script", b"#! /no/such/thing -x\n", 0o755),
            "(ENOENT)",
            "its interpreter \"/no/such/thing\" is not",
        ),
        (file("crlf", b"#!/bin/sh\r\n", 0o755), "(ENOENT)", "as on Windows"),
        (file("loader", &no_loader, 0o755), "(ENOENT)", "dynamic loader"),
        (dir.path().join("plain/x"), "Not a directory (ENOTDIR)", ""),
        ("relative".into(), "not absolute", ""),
    ];
    for (path, reason, hint) in cases {
        if hint == "dynamic loader" && loader.is_none() {
            continue;
        }
        let error = fails(program(&path)).await;
        let begin = format!("cannot execute {path:?}: ");
        assert!(error.starts_with(&begin), "{error}");
        assert!(error.contains(reason) && error.contains(hint), "{error}");
    }

    let mut launch = sh("exit");
    for (cwd, reason) in [
        (dir.path().join("none"), "No such file or directory (ENOENT)"),
        (dir.path().join("plain"), "Not a directory (ENOTDIR)"),
    ] {
        launch.cwd = Some(cwd.clone());
        let error = fails(launch.clone()).await;
        let whole = format!(r#"cannot execute "/bin/sh" in working directory {cwd:?}: {reason}"#);
        assert_eq!(error, whole);
    }
    launch.cwd = None;
    launch.args.push("a\0b".into());
    assert!(fails(launch).await.contains("nul byte"));
}

/// Writes a file that is to be executed. What this process has open for writing is open in every
/// child, too, that another test is about to execute, and keeps the file from being executed until
/// then (ETXTBSY).
fn written_by_another(path: &Path, text: &[u8]) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"cat > "$0""#]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    assert!(child.wait().unwrap().success());
}

async fn fails(launch: Launch) -> String {
    let kept = Kept::new(linux(), launch, LONG);
    let error = within(kept.keeper.start(None)).await.unwrap_err();
    let view = kept.keeper.view();
    let Observed::Failed { reason: shown, .. } = view.observed else {
        panic!("{view:?}");
    };
    assert_eq!(error.to_string(), shown);
    assert_eq!(view.starts, 0);
    shown
}
