//! A real terminal: tmux, with a server of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::{SOON, eventually, skipped};

pub(crate) struct Terminal {
    dir: tempfile::TempDir,
    socket: PathBuf,
}

impl Terminal {
    /// A shell with these variables on a terminal of this size; none if there is no tmux.
    pub(crate) fn open(width: u16, height: u16, variables: &[(&str, &str)]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let terminal = Self { socket: dir.path().join("tmux"), dir };
        let (width, height) = (width.to_string(), height.to_string());
        let mut command = terminal.tmux(&["new-session", "-d", "-x", &width, "-y", &height]);
        command.args(["env", "-u", "ORCHESTRATOR_SOCKET", "-u", "NO_COLOR", "PS1=$ "]);
        for (name, value) in variables {
            command.arg(format!("{name}={value}"));
        }
        command.args(["sh"]);
        match command.output() {
            Ok(output) if output.status.success() => {
                terminal.shows("$");
                Some(terminal)
            }
            Ok(output) => panic!("{output:?}"),
            Err(_) => {
                skipped("tmux is not there, so nothing was tried on a real terminal");
                None
            }
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(args);
        command.stdin(Stdio::null()).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Presses keys, as tmux names them, or types text.
    pub(crate) fn press(&self, keys: &[&str]) {
        assert!(self.tmux(&[&["send-keys", "--"], keys].concat()).status().unwrap().success());
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        let mut command = self.tmux(&["resize-window", "-x", &width, "-y", &height]);
        assert!(command.status().unwrap().success());
    }

    /// What is on it now, with escape codes of colours.
    pub(crate) fn coloured(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p", "-e"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on it now.
    pub(crate) fn screen(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether it shows its other screen.
    pub(crate) fn is_on_other_screen(&self) -> bool {
        let output = self.tmux(&["display-message", "-p", "#{alternate_on}"]).output().unwrap();
        output.stdout.starts_with(b"1")
    }

    /// Whether it shows a cursor.
    pub(crate) fn has_cursor(&self) -> bool {
        let output = self.tmux(&["display-message", "-p", "#{cursor_flag}"]).output().unwrap();
        output.stdout.starts_with(b"1")
    }

    /// Waits until this is on it; the answer is the screen.
    #[track_caller]
    pub(crate) fn shows(&self, text: &str) -> String {
        self.shows_when(text, |screen| screen.contains(text))
    }

    #[track_caller]
    pub(crate) fn shows_when(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let began = std::time::Instant::now();
        eventually(&format!("the terminal shows {what}"), || {
            let screen = self.screen();
            if is(&screen) {
                return Some(screen);
            }
            assert!(began.elapsed() < SOON - SOON / 10, "never {what:?} on\n{screen}");
            None
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).stderr(Stdio::null()).status();
    }
}
