//! The daemon that is to take the place of this one, and what is said to the service manager:
//! both through the holder.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Linux;
use super::program::in_file;
use crate::holder::frame::{How, MAX_DATAGRAM, MAX_NOTICE, News, Order, SIZE};
use crate::holder::successor_image;

/// How long one that is killed may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// What there can be to hear of one successor: that it was started, that it is able, that it has
/// ended.
const MAX_NEWS: usize = 3;

/// Why no daemon takes the place of this one.
#[derive(Debug, Error)]
pub enum SuccessorError {
    /// It could not be executed.
    #[error("it can't be executed: {0}")]
    NotExecuted(io::Error),
    /// It ended before it was able to.
    #[error(
        "it (process {pid}) {how} before it could take over; the daemon's log has what it said"
    )]
    Ended {
        /// Its process.
        pid: i32,
        /// How.
        how: How,
    },
    /// It took too long.
    #[error("it (process {pid}) was not able to take over within {0:?}, and was killed", .limit)]
    Late {
        /// Its process.
        pid: i32,
        /// The limit.
        limit: Duration,
    },
    /// The holder can't be spoken with.
    #[error("cannot speak with the holder: {0}")]
    Holder(#[from] io::Error),
}

/// A daemon that can take the place of this one. It does when this one ends, unless it is
/// abandoned.
#[derive(Debug)]
pub struct Successor {
    /// Its process.
    pub pid: u32,
    news: mpsc::Receiver<News>,
}

impl Successor {
    /// Resolves when it has ended after all: this daemon has to stay.
    pub async fn ended(&mut self) -> How {
        loop {
            match self.news.recv().await {
                Some(News::SuccessorEnded { how, .. }) => return how,
                Some(_) => {}
                // The holder has gone; nothing can be said any more.
                None => std::future::pending().await,
            }
        }
    }
}

impl Linux {
    /// This daemon could take the place of the one before it. Nothing, if there is none.
    ///
    /// # Errors
    ///
    /// When the holder has gone.
    pub async fn able(&self) -> io::Result<()> {
        self.link().order(Order::Able, &[], &[]).await
    }

    /// Starts `program` as a daemon with this one's arguments and environment, and waits until it
    /// is able to take this one's place. If it is not within `limit`, or ends, nothing is left
    /// of it, and this daemon stays as it is. `path` is its name, for what has no file.
    ///
    /// One at a time: the holder refuses another one with `EBUSY`.
    ///
    /// # Errors
    ///
    /// See [`SuccessorError`].
    pub async fn succeed(
        &self,
        path: &OsStr,
        program: OwnedFd,
        limit: Duration,
    ) -> Result<Successor, SuccessorError> {
        let deadline = Instant::now() + limit;
        let link = self.link();
        let image = successor_image(path)?;
        let (sender, mut news) = mpsc::channel(MAX_NEWS);
        link.table().successor = Some(sender);
        let order = |image| Order::Replace { image, program: true };
        if SIZE + image.len() > MAX_DATAGRAM {
            let file = in_file(&image)?;
            link.order(order(true), &[], &[file.as_fd(), program.as_fd()]).await?;
        } else {
            link.order(order(false), &image, &[program.as_fd()]).await?;
        }
        let mut started = 0;
        loop {
            match timeout_at(deadline, news.recv()).await {
                Ok(Some(News::Successor { able: true, pid, .. })) => {
                    return Ok(Successor { pid: pid.unsigned_abs(), news });
                }
                Ok(Some(News::Successor { errno: 0, pid, .. })) => started = pid,
                Ok(Some(News::Successor { errno, .. })) => {
                    let error = io::Error::from_raw_os_error(errno);
                    return Err(SuccessorError::NotExecuted(error));
                }
                Ok(Some(News::SuccessorEnded { pid, how })) => {
                    return Err(SuccessorError::Ended { pid, how });
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(io::Error::other("it has ended").into()),
                Err(_) => break,
            }
        }
        link.order(Order::Abandon, &[], &[]).await?;
        // Gone before another one is asked for.
        let gone = async {
            while !matches!(news.recv().await, None | Some(News::SuccessorEnded { .. })) {}
        };
        let _ = tokio::time::timeout(GONE, gone).await;
        Err(SuccessorError::Late { pid: started, limit })
    }

    /// Has the holder kill the daemon that was to take the place of this one.
    ///
    /// # Errors
    ///
    /// When the holder has gone.
    pub async fn abandon(&self) -> io::Result<()> {
        self.link().order(Order::Abandon, &[], &[]).await
    }

    /// Has the holder tell the service manager something, see sd_notify(3): lines of at most
    /// [`MAX_NOTICE`] bytes in all; more is cut at a line's end.
    ///
    /// # Errors
    ///
    /// When the holder has gone.
    pub async fn notify(&self, lines: &str) -> io::Result<()> {
        let mut text = String::new();
        for line in lines.lines() {
            if text.len() + line.len() < MAX_NOTICE {
                text.push_str(line);
                text.push('\n');
            }
        }
        self.link().order(Order::Notify, text.as_bytes(), &[]).await
    }
}
