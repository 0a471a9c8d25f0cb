//! `top` and `runtime list --watch`, on a real terminal.

use nix::sys::signal::Signal;
use tests::{Daemon, binary, eventually, processes};

use super::terminal::Terminal;

fn cli() -> String {
    binary("orchestrator-cli").to_str().unwrap().to_owned()
}

fn socket(daemon: &Daemon) -> String {
    daemon.socket().to_str().unwrap().to_owned()
}

/// A terminal with a shell that knows this daemon.
fn terminal(daemon: &Daemon, more: &[(&str, &str)]) -> Option<Terminal> {
    let socket = socket(daemon);
    Terminal::open(80, 24, &[&[("ORCHESTRATOR_SOCKET", socket.as_str())], more].concat())
}

fn robot() -> Daemon {
    let daemon = Daemon::start();
    daemon.add_script("camera", "echo first picture; while read -r x; do :; done; sleep 1000");
    daemon.add(["/bin/sleep", "--name", "motor", "--", "1000"]);
    daemon.ok(["runtime", "start", "camera"]);
    daemon.ok(["link", "add", "--type", "Picture", "--from", "camera", "--to", "motor"]);
    daemon
}

fn begin(terminal: &Terminal) -> String {
    terminal.press(&[&format!("{} top; echo ended with $?", cli()), "Enter"]);
    terminal.shows("quit");
    terminal.shows("first picture")
}

/// It has ended, and the terminal is as it was.
#[track_caller]
fn left(terminal: &Terminal, code: u8) {
    let screen = terminal.shows(&format!("ended with {code}"));
    assert!(!screen.contains("MEMORY"), "{screen}");
    assert!(!terminal.is_on_other_screen() && terminal.has_cursor());
    // What is typed is seen again.
    terminal.press(&["echo so$((1+1))far", "Enter"]);
    terminal.shows("so2far");
    terminal.shows("echo so$((1+1))far");
}

#[test]
fn top_shows_and_does_what_keys_say() {
    let daemon = robot();
    let Some(terminal) = terminal(&daemon, &[]) else { return };
    let screen = begin(&terminal);
    for part in ["2 instances", "camera", "ready", "motor", "stopped", "camera -> motor"] {
        assert!(screen.contains(part), "{part}\n{screen}");
    }
    assert!(terminal.is_on_other_screen() && !terminal.has_cursor());
    // Start.
    terminal.press(&["j"]);
    terminal.press(&["s"]);
    terminal.shows("start: done");
    terminal.shows("2 running");
    let pid = daemon.info("motor").observed.pid();
    // Restart, and stop: asked about.
    terminal.press(&["r"]);
    terminal.shows("restart motor? y/n");
    terminal.press(&["y"]);
    terminal.shows("restart: done");
    assert_ne!(daemon.info("motor").observed.pid(), pid);
    terminal.press(&["x"]);
    terminal.shows("stop motor? y/n");
    terminal.press(&["n"]);
    terminal.press(&["x", "y"]);
    terminal.shows("stop: done");
    assert_eq!(daemon.info("motor").observed.word(), "stopped");
    // Filter, and help.
    terminal.press(&["/", "cam", "Enter"]);
    terminal.shows("[filter: cam]");
    terminal.shows_when("no motor", |screen| !screen.lines().any(|line| line.starts_with("motor")));
    terminal.press(&["?"]);
    terminal.shows("choose an instance");
    terminal.press(&["q"]);
    terminal.press(&["Escape"]);
    terminal
        .shows_when("motor again", |screen| screen.lines().any(|line| line.starts_with("motor")));
    // Another size.
    terminal.resize(50, 12);
    terminal
        .shows_when("few rows", |screen| screen.lines().count() <= 12 && screen.contains("motor"));
    terminal.resize(20, 5);
    terminal.shows("needs 40 columns");
    terminal.resize(120, 40);
    terminal.shows("MEMORY");
    terminal.press(&["q"]);
    left(&terminal, 0);
}

#[test]
fn top_goes_on_with_the_next_daemon() {
    let daemon = robot();
    let Some(terminal) = terminal(&daemon, &[]) else { return };
    begin(&terminal);
    // Killed: the holder starts another one. For a moment there is none.
    let before = daemon.pid();
    daemon.replace_killed();
    terminal.shows("first picture");
    daemon.ok(["runtime", "start", "motor"]);
    terminal.shows("2 running");
    assert_ne!(daemon.pid(), before);
    // Replaced as an upgrade does it.
    daemon.ok(["daemon", "restart"]);
    daemon.ok(["runtime", "stop", "motor"]);
    terminal.shows("1 running");
    terminal.press(&["C-c"]);
    left(&terminal, 130);
}

#[test]
fn top_says_that_there_is_no_daemon_and_waits_for_one() {
    let mut daemon = robot();
    let Some(terminal) = terminal(&daemon, &[]) else { return };
    begin(&terminal);
    daemon.kill();
    terminal.shows("reconnecting");
    daemon.launch();
    terminal.shows_when("it again", |screen| {
        !screen.contains("reconnecting") && screen.contains("2 instances")
    });
    terminal.press(&["q"]);
    left(&terminal, 0);
}

#[test]
fn top_leaves_the_terminal_as_it_was_when_it_is_told_to_end() {
    let daemon = robot();
    let Some(terminal) = terminal(&daemon, &[]) else { return };
    let file = terminal.dir().join("pid");
    let command = format!("sh -c 'echo $$ > {}; exec {} top'", file.display(), cli());
    terminal.press(&[&format!("{command}; echo ended with $?"), "Enter"]);
    terminal.shows("first picture");
    let pid = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    processes::signal(pid, Signal::SIGTERM);
    left(&terminal, 143);
}

#[test]
fn colours_are_left_out_where_nobody_wants_them() {
    let daemon = robot();
    for (variables, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")][..], false)] {
        let Some(terminal) = terminal(&daemon, variables) else { return };
        begin(&terminal);
        let screen = terminal.coloured();
        assert_eq!(screen.contains("\u{1b}[38;5;2m"), coloured, "{screen:?}");
        terminal.press(&["q"]);
        left(&terminal, 0);
    }
}

#[test]
fn top_needs_a_terminal_and_a_daemon() {
    let daemon = Daemon::start();
    let said = daemon.cli(["top"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("needs a terminal") && said.stderr.contains("--watch"),
        "{said:?}"
    );
    let Some(terminal) = terminal(&daemon, &[]) else { return };
    terminal.press(&[&format!("{} --socket /nonexistent top; echo ended with $?", cli()), "Enter"]);
    left(&terminal, 4);
}

#[test]
fn a_watch_redraws_in_its_place_and_leaves_nothing_behind() {
    let daemon = robot();
    let Some(terminal) = terminal(&daemon, &[]) else { return };
    let command = format!("{} runtime list --watch=1h; echo ended with $?", cli());
    terminal.press(&[&command, "Enter"]);
    let screen = terminal.shows("stopped");
    assert!(screen.contains("MEMORY") && screen.contains("CPU%"), "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    daemon.ok(["runtime", "start", "motor"]);
    eventually("it is redrawn", || {
        let screen = terminal.screen();
        (!screen.contains("stopped") && screen.matches("ready").count() == 2).then_some(())
    });
    assert!(terminal.is_on_other_screen());
    terminal.press(&["C-c"]);
    left(&terminal, 130);
}
