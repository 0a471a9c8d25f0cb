//! Executing a command of an instance: a probe, or what asks it to stop.

use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::Exit;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::process::{Exited, Kernel, Launch, Process, SpawnError};
use crate::supervise::SIGKILL;

/// The most bytes of a command's last line that are told.
const MAX_LINE: usize = 200;

/// From one SIGKILL to the next, when something of the group is left.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// How long the rest of what a command that has ended printed may take. It is there already, unless
/// another process has its output as well.
const LAST_OUTPUT: Duration = Duration::from_millis(50);

/// Executes a command when it is its turn. Well is exit code 0; what it prints is read, and only
/// its last line is kept, to be told if it failed.
///
/// When this is dropped, the command is killed; when it has ended, so is what it left behind in its
/// process group. It is the next one's turn when nothing is left.
pub(super) async fn execute(
    kernel: Arc<dyn Kernel>,
    launch: Launch,
    turn: Arc<Semaphore>,
) -> Result<(), String> {
    let turn = turn.acquire_owned().await.map_err(|error| error.to_string())?;
    // By itself: a program on a file system that does not answer keeps its turn, also when nobody
    // waits for it any more. What comes of that then is dropped.
    let begun = tokio::spawn(async move {
        let spawned = kernel.spawn(launch).await?;
        let exited = Some(spawned.exited);
        let running = Running { process: spawned.process, exited, turn: Some(turn) };
        Ok::<_, SpawnError>((running, spawned.output))
    });
    let begun = begun.await.map_err(|panic| panic.to_string())?;
    let (mut running, output) = begun.map_err(|error| error.to_string())?;
    let mut lines = LastLines::default();
    let exit = {
        let reading = async {
            let Some((stdout, stderr)) = output else { return };
            let pipes = (Receiver::from_owned_fd(stdout), Receiver::from_owned_fd(stderr));
            if let (Ok(stdout), Ok(stderr)) = pipes {
                lines.read(stdout, stderr).await;
            }
        };
        let mut reading = std::pin::pin!(reading);
        let (exit, is_read) = tokio::select! {
            exit = running.exit() => (exit, false),
            () = &mut reading => (running.exit().await, true),
        };
        if !is_read && exit != Some(Exit::Code(0)) {
            let _ = timeout(LAST_OUTPUT, reading).await;
        }
        exit
    };
    match exit {
        Some(Exit::Code(0)) => Ok(()),
        Some(exit) => Err(match lines.text() {
            Some(text) => format!("{exit}: {text}"),
            None => exit.to_string(),
        }),
        None => Err("nobody knows how it ended: the holder has gone".to_owned()),
    }
}

/// A command that has been executed. Nothing is left of it some time after this is dropped.
struct Running {
    process: Arc<dyn Process>,
    /// None once it has ended.
    exited: Option<Exited>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Running {
    async fn exit(&mut self) -> Option<Exit> {
        let ended = match &mut self.exited {
            Some(exited) => exited.await,
            None => None,
        };
        self.exited = None;
        ended.map(|ended| ended.exit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (process, exited, turn) = (self.process.clone(), self.exited.take(), self.turn.take());
        // Without a runtime this process is about to end, and the next daemon sees to it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                clear(process, exited).await;
                drop(turn);
            });
        }
    }
}

/// Kills a command whose end nobody waits for, and its whole process group. Returns when nothing
/// is left of it.
pub async fn end(process: Arc<dyn Process>, exited: Exited) {
    clear(process, Some(exited)).await;
}

async fn clear(process: Arc<dyn Process>, exited: Option<Exited>) {
    if let Some(exited) = exited {
        kill(&process).await;
        exited.await;
    }
    loop {
        if matches!(process.tree_empty().await, Ok(true)) {
            break;
        }
        kill(&process).await;
        if timeout(KILL_AGAIN, process.tree_gone()).await.is_ok() {
            break;
        }
    }
    process.end_is_noted();
}

async fn kill(process: &Arc<dyn Process>) {
    if let Err(error) = process.signal_tree(SIGKILL).await {
        let pid = process.pid();
        tracing::warn!(pid, %error, "a command of an instance can't be killed");
    }
}

/// The last lines of two streams. Which of them came later can't be known.
#[derive(Default)]
struct LastLines {
    out: LastLine,
    err: LastLine,
}

/// The last line of what is read.
#[derive(Default)]
struct LastLine {
    /// Of the line that has not ended, as much as is kept.
    open: Vec<u8>,
    last: Vec<u8>,
}

impl LastLines {
    async fn read(&mut self, mut stdout: Receiver, mut stderr: Receiver) {
        let (mut out, mut err) = ([0; 4096], [0; 4096]);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            tokio::select! {
                count = some(&mut stdout, &mut out), if out_open => {
                    out_open = count > 0;
                    self.out.push(&out[..count]);
                }
                count = some(&mut stderr, &mut err), if err_open => {
                    err_open = count > 0;
                    self.err.push(&err[..count]);
                }
            }
        }
    }

    /// That of the errors, if there is one, else that of the output.
    fn text(&self) -> Option<String> {
        self.err.text().or_else(|| self.out.text())
    }
}

impl LastLine {
    fn push(&mut self, bytes: &[u8]) {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let room = MAX_LINE.saturating_sub(self.open.len()).min(piece.len());
            self.open.extend_from_slice(&piece[..room]);
            if pieces.peek().is_some() {
                if !self.open.trim_ascii().is_empty() {
                    std::mem::swap(&mut self.open, &mut self.last);
                }
                self.open.clear();
            }
        }
    }

    /// None if there is none but empty ones.
    fn text(&self) -> Option<String> {
        let lines = [&self.open, &self.last].map(|line| line.trim_ascii());
        let line = lines.into_iter().find(|line| !line.is_empty())?;
        let text = String::from_utf8_lossy(line);
        Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

/// 0 at the end, and when it can't be read any more.
async fn some(pipe: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> usize {
    pipe.read(bytes).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn last(pieces: &[&[u8]]) -> Option<String> {
        let mut line = LastLine::default();
        pieces.iter().for_each(|piece| line.push(piece));
        line.text()
    }

    #[test]
    fn the_last_line_that_says_something() {
        assert_eq!(last(&[]), None);
        assert_eq!(last(&[b"\n \n"]), None);
        assert_eq!(last(&[b"one\ntwo\n\n"]).unwrap(), "two");
        assert_eq!(last(&[b"one\ntw", b"o\nthr", b"ee"]).unwrap(), "three");
        assert_eq!(last(&[b"a\x1b[31m\xff\n"]).unwrap(), "a [31m\u{fffd}");
        assert_eq!(last(&[&[b'x'; 5000]]).unwrap().len(), MAX_LINE);
    }

    proptest! {
        #[test]
        fn little_is_kept_whatever_is_printed(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..500), 0..20),
        ) {
            let mut line = LastLine::default();
            for piece in &pieces {
                line.push(piece);
                prop_assert!(line.open.len() <= MAX_LINE && line.last.len() <= MAX_LINE);
            }
            let all = pieces.concat();
            let said = all.split(|byte| *byte == b'\n').map(|line| &line[..line.len().min(MAX_LINE)]);
            let expected = said.map(<[u8]>::trim_ascii).rfind(|line| !line.is_empty());
            prop_assert_eq!(line.text().is_some(), expected.is_some());
        }
    }
}
