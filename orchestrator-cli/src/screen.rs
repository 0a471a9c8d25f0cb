//! The terminal's other screen, which is left as it was found whatever happens but SIGKILL.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute, terminal};

/// What has to be undone.
static STATE: AtomicU8 = AtomicU8::new(OUTSIDE);
const OUTSIDE: u8 = 0;
const SHOWING: u8 = 1;
const KEYS: u8 = 2;

/// The other screen, as long as this is there.
pub(crate) struct Screen(());

impl Screen {
    /// Shows the other screen, without a cursor. With `keys`, they come as they are pressed and
    /// are not shown. There is one at a time.
    pub(crate) fn enter(keys: bool) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            // Else what it prints is on the other screen, and gone.
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                before(panic);
            }));
        });
        if keys {
            enable_raw_mode()?;
        }
        STATE.store(if keys { KEYS } else { SHOWING }, Ordering::SeqCst);
        let screen = Self(());
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Shows this text, and nothing else: as many lines as fit.
    pub(crate) fn show(&self, text: &str) -> io::Result<()> {
        let (_, rows) = terminal::size().unwrap_or((80, 24));
        let mut stdout = io::stdout().lock();
        let mut shown = String::with_capacity(text.len() + 1024);
        let all = text.lines().count();
        let room = usize::from(rows).max(2);
        let fits = if all > room { room - 1 } else { all };
        for (number, line) in text.lines().take(fits).enumerate() {
            shown.push_str(if number == 0 { "" } else { "\r\n" });
            shown.push_str(line);
            // What was there before.
            shown.push_str("\x1b[K");
        }
        if fits < all {
            shown.push_str(&format!("\r\n({} more lines)\x1b[K", all - fits));
        }
        execute!(stdout, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        stdout.write_all(shown.as_bytes())?;
        execute!(
            stdout,
            terminal::Clear(terminal::ClearType::FromCursorDown),
            terminal::EndSynchronizedUpdate
        )
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn leave() {
    let before = STATE.swap(OUTSIDE, Ordering::SeqCst);
    if before == OUTSIDE {
        return;
    }
    // Nobody is left to be told if the terminal has gone.
    if before == KEYS {
        let _ = disable_raw_mode();
    }
    let _ = execute!(io::stdout(), terminal::LeaveAlternateScreen, cursor::Show);
}
