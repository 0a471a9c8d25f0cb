//! `top`: instances, links and the log of one instance, on the whole terminal.
//!
//! `state.rs` is what is shown, and takes events; it is pure, and says what is to be done.
//! `draw.rs` shows it. `feed.rs` brings events from the daemon, and `keys.rs` from the keyboard.
//! All queues between them are bounded: who is too fast waits.

mod draw;
mod feed;
mod keys;
mod state;
#[cfg(test)]
mod tests;
mod text;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::failure::{Exit, Failure, Report};
use crate::interrupt::Signals;
use crate::output::Output;
use crate::screen::Screen;
use crate::session;
use feed::Feed;
use state::{App, Order};

/// Events that may wait to be shown.
const QUEUE: usize = 64;

/// How soon after each other it is drawn at most.
const FRAME: Duration = Duration::from_millis(30);

/// `top`
pub(crate) async fn top(out: &mut Output, socket: Option<OsString>) -> Result<Exit, Failure> {
    if out.is_json() || !out.is_terminal() || !io::stdin().is_terminal() {
        let message = "top needs a terminal, for its keys and to draw on";
        let hint = "where there is none, use `runtime list --watch`, with --json for programs";
        let report = Report::new(Exit::Failed, "no-terminal", message, None);
        return Err(Report { hint: Some(hint.to_owned()), ..report }.into());
    }
    let path = session::path(socket)?;
    let client = session::open(&path).await.map_err(|error| Failure::connect(&path, error))?;
    let mut signals = Signals::listen()?;
    let screen = Screen::enter(true).map_err(|error| Failure::output(&error))?;
    let shown = show(&mut signals, out.is_coloured(), (path, Arc::new(client))).await;
    drop(screen);
    shown
}

async fn show(
    signals: &mut Signals,
    color: bool,
    (path, client): (std::path::PathBuf, Arc<orchestrator_proto::client::Client>),
) -> Result<Exit, Failure> {
    let failed = |error: io::Error| Failure::output(&error);
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout())).map_err(failed)?;
    let (tell, mut events) = mpsc::channel(QUEUE);
    keys::listen(tell.clone())
        .map_err(|error| Failure::io("the keyboard can't be listened to", &error))?;
    let mut feed = Feed::new(path, client, tell);
    let began = Instant::now();
    let mut app = App::new(color);
    let mut next_frame = began;
    loop {
        terminal.draw(|frame| draw::draw(&app, frame)).map_err(failed)?;
        let first = tokio::select! {
            event = events.recv() => event,
            exit = signals.next() => return Ok(exit),
        };
        let mut next = first;
        // What comes until then is shown together.
        let until = next_frame.max(Instant::now());
        while let Some(event) = next {
            for order in app.update(event, began.elapsed()) {
                match order {
                    Order::Quit(exit) => return Ok(exit),
                    Order::Follow(instance) => feed.follow(instance),
                    Order::Act(act, instance) => feed.act(act, instance),
                }
            }
            next = if Instant::now() < until {
                timeout_at(until, events.recv()).await.unwrap_or_default()
            } else {
                None
            };
        }
        next_frame = Instant::now() + FRAME;
    }
}
