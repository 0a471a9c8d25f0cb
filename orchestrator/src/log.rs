//! The daemon's own log: written by a thread of its own, so that whoever reads it and stalls,
//! such as a pager or a full pipe, costs the daemon lines of its log and nothing else. The log
//! itself says where lines are missing.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written; more are lost, and counted.
pub const WAITING_LINES: usize = 8192;

/// Where lines of the log go.
pub struct Log {
    /// Behind a lock, so that each line is known to be taken or lost. Never held for long: a
    /// line is put into a queue or given up.
    queue: Mutex<Queue>,
    json: bool,
}

struct Queue {
    writer: NonBlocking,
    /// Lines that were lost and that the log has not told of.
    lost: u64,
}

impl Log {
    /// A log on standard error, with remarks as JSON objects if `json` is set. What waits is
    /// written when the guard is dropped, for a second at most.
    pub fn start(json: bool) -> (Self, WorkerGuard) {
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING_LINES)
            .lossy(true)
            .thread_name("log")
            .finish(std::io::stderr());
        (Self { queue: Mutex::new(Queue { writer, lost: 0 }), json }, guard)
    }
}

impl Queue {
    /// Whether there was room.
    fn put(&mut self, line: &[u8]) -> io::Result<bool> {
        let counter = self.writer.error_counter();
        let before = counter.dropped_lines();
        self.writer.write_all(line)?;
        Ok(counter.dropped_lines() == before)
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Takes one line, in one call.
pub struct Line<'a>(&'a Log);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lost > 0 {
            let remark = match self.0.json {
                true => format!(
                    "{{\"level\":\"WARN\",\"fields\":{{\"message\":\"lines of this log were lost \
                     here\",\"lines\":{}}}}}\n",
                    queue.lost
                ),
                false => format!(
                    "WARN {} lines of this log were lost here: it was not read in time\n",
                    queue.lost
                ),
            };
            if queue.put(remark.as_bytes())? {
                queue.lost = 0;
            }
        }
        if queue.lost > 0 || !queue.put(line)? {
            queue.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
