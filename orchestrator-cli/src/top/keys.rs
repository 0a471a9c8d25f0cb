//! What the keyboard says, and the size of the terminal.

use std::io;

use ratatui::crossterm::event::{self, Event as Input};
use tokio::sync::mpsc::Sender;

use super::state::Event;

/// Tells of keys, on a thread of its own that waits for them, and ends with the program.
pub(super) fn listen(tell: Sender<Event>) -> io::Result<()> {
    let listen = move || {
        // An end of the terminal comes as SIGHUP too.
        while let Ok(input) = event::read() {
            let told = match input {
                Input::Key(key) if key.is_press() => tell.blocking_send(Event::Key(key)),
                Input::Resize(..) => tell.blocking_send(Event::Resized),
                _ => Ok(()),
            };
            if told.is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(listen)?;
    Ok(())
}
