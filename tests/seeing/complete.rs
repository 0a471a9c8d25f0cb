//! Completions, in a real bash.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::{Daemon, Said, binary, eventually, skipped};

/// What bash offers for this line, whose last word is the one that is completed.
fn offered(script: &Path, socket: Option<&Path>, words: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("bash");
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let (last, before) = (words.last().unwrap(), words.get(words.len() - 2).unwrap());
    let cli = binary("orchestrator-cli");
    let line = format!(
        "PATH={dir}:$PATH\n. {script}\nCOMP_WORDS=({all})\nCOMP_CWORD={at}\n\
         _clap_complete_orchestrator_cli orchestrator-cli '{last}' '{before}' 2>/dev/null\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        dir = cli.parent().unwrap().display(),
        script = script.display(),
        all = quoted.join(" "),
        at = words.len() - 1,
    );
    command.args(["--norc", "--noprofile", "-c", &line]).stdin(Stdio::null());
    command.env_remove("ORCHESTRATOR_SOCKET").env_remove("XDG_RUNTIME_DIR");
    // Where no daemon of this user's can be.
    command.env("TMPDIR", script.parent().unwrap());
    if let Some(socket) = socket {
        command.env("ORCHESTRATOR_SOCKET", socket);
    }
    if Command::new("bash").arg("--version").stdout(Stdio::null()).status().is_err() {
        skipped("bash is not there, so its completions were not tried");
        return None;
    }
    let said = Said::of(command);
    let words = said.stdout.lines().filter(|line| !line.is_empty());
    Some(words.map(str::to_owned).collect())
}

fn script(directory: &Path) -> std::path::PathBuf {
    let mut command = Command::new(binary("orchestrator-cli"));
    command.args(["completions", "bash"]);
    let said = Said::of(command);
    assert_eq!(said.code, Some(0), "{said:?}");
    let path = directory.join("completions");
    std::fs::write(&path, said.stdout).unwrap();
    path
}

#[test]
fn names_of_instances_and_numbers_of_links_are_completed() {
    let daemon = Daemon::start();
    for name in ["ping", "pong", "camera"] {
        daemon.add(["/bin/sleep", "--name", name, "--", "1000"]);
    }
    daemon.ok(["link", "add", "--type", "T", "--from", "ping", "--to", "pong"]);
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path());
    let socket = daemon.socket();
    let of = |words: &[&str]| offered(&script, Some(socket), words);
    if of(&["orchestrator-cli", "runtime", "start", ""]).is_none() {
        return;
    }
    // A daemon that takes more than 80 ms, as on a busy machine, is not waited for.
    let offers = |line: &[&str], wanted: &[&str]| {
        eventually(&format!("{wanted:?} are offered for {line:?}"), || {
            let all = of(line)?;
            wanted.iter().all(|word| all.iter().any(|it| it == word)).then_some(all)
        })
    };
    offers(&["orchestrator-cli", "runtime", "start", ""], &["ping", "pong", "camera"]);
    for command in [
        &["runtime", "stop"][..],
        &["runtime", "show"],
        &["runtime", "logs", "camera"],
        &["runtime", "wait"],
        &["runtime", "list"],
        &["link", "add", "--from"],
        &["link", "add", "--to"],
        &["events", "--instance"],
    ] {
        let line = [&["orchestrator-cli"], command, &["p"]].concat();
        assert_eq!(offers(&line, &["ping", "pong"]).len(), 2, "{command:?}");
    }
    offers(&["orchestrator-cli", "link", "remove", ""], &["1"]);
    // Commands and flags too.
    offers(&["orchestrator-cli", "runtime", "st"], &["start", "stop"]);
    let transports = ["auto", "direct", "routed", "shm"];
    offers(&["orchestrator-cli", "link", "add", "--transport", ""], &transports);
    let all = offers(&["orchestrator-cli", "link", "set", "1", "--transport", "d"], &["direct"]);
    assert_eq!(all, ["direct"]);
    // The socket of the line is the one that is asked.
    let path = socket.to_str().unwrap();
    let line = ["orchestrator-cli", "--socket", path, "runtime", "stop", "p"];
    eventually("the socket of the line is asked", || {
        let all = offered(&script, None, &line)?;
        (all == ["ping", "pong"]).then_some(())
    });
    // A name may be that of a set of replicas; only that of one can be scaled.
    daemon.ok(["runtime", "add", "/bin/true", "--name", "probe", "--replicas", "0"]);
    offers(&["orchestrator-cli", "runtime", "stop", "p"], &["ping", "probe"]);
    let all = offers(&["orchestrator-cli", "runtime", "scale", "p"], &["probe"]);
    assert_eq!(all, ["probe"]);
    // Types that an instance has declared.
    let camera = daemon.info("camera").id.to_string();
    daemon.sender(&camera, "acme.image.v1");
    daemon.declared("camera", "acme.image.v1");
    offers(&["orchestrator-cli", "type", "show", "acme"], &["acme.image.v1"]);
    offers(&["orchestrator-cli", "link", "tap", "--type", ""], &["acme.image.v1"]);
    // Only schedules can be run.
    daemon.add(["/bin/true", "--name", "purge", "--schedule", "@yearly"]);
    let all = offers(&["orchestrator-cli", "runtime", "run", "p"], &["purge"]);
    assert_eq!(all, ["purge"]);
}

#[test]
fn without_a_daemon_there_is_nothing_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path());
    // Nobody answers there.
    let path = dir.path().join("socket");
    let _deaf = std::os::unix::net::UnixListener::bind(&path).unwrap();
    for socket in [None, Some(dir.path().join("none")), Some(path)] {
        let began = Instant::now();
        let line = ["orchestrator-cli", "runtime", "stop", "p"];
        let Some(words) = offered(&script, socket.as_deref(), &line) else {
            return;
        };
        assert_eq!(words, [""; 0]);
        // 80 ms, and two processes on a machine that may be busy.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
