//! Another program in place of the holder's, which goes on in the same process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Linux;
use super::program::in_file;
use crate::holder::frame::{MAX_DATAGRAM, Order, SIZE};
use crate::holder::{handover, holder_image};

/// How soon a holder that had something under way is asked again.
const AGAIN: Duration = Duration::from_millis(10);

/// Why the holder's program stays what it is.
#[derive(Debug, Error)]
pub enum RenewalError {
    /// There was always something under way.
    #[error(
        "something was under way for all of {0:?}: a program that is being executed, a daemon that \
         takes over, news that this daemon did not take; try again, or with a longer timeout"
    )]
    Busy(Duration),
    /// It has not answered.
    #[error("it has not answered within {0:?}; an old holder does not know how to be replaced")]
    Silent(Duration),
    /// The program could not go on with what the holder has to hand over.
    #[error(
        "the program can't go on with what the holder hands over; its standard error may say more"
    )]
    Unreadable,
    /// The program could not be executed.
    #[error("the program can't be executed: {0}")]
    NotExecuted(io::Error),
    /// The holder can't be spoken with.
    #[error("cannot speak with the holder: {0}")]
    Holder(#[from] io::Error),
}

impl Linux {
    /// Has the holder execute `program`, which must be that of this process, with the arguments
    /// and the environment of this process. It goes on with all that it has; on an error it does so
    /// as it is. While it has something under way it is asked again, for `limit` at most.
    ///
    /// One at a time.
    ///
    /// # Errors
    ///
    /// See [`RenewalError`].
    pub async fn renew_holder(
        &self,
        program: OwnedFd,
        limit: Duration,
    ) -> Result<(), RenewalError> {
        let deadline = Instant::now() + limit;
        let link = self.link();
        let image = holder_image()?;
        let in_file = (SIZE + image.len() > MAX_DATAGRAM).then(|| in_file(&image)).transpose()?;
        let order = Order::Renew { image: in_file.is_some(), reads: handover::FORM };
        loop {
            let (answer, answered) = oneshot::channel();
            link.table().renewal = Some(answer);
            match &in_file {
                Some(file) => link.order(order, &[], &[file.as_fd(), program.as_fd()]).await?,
                None => link.order(order, &image, &[program.as_fd()]).await?,
            }
            let error = match timeout_at(deadline, answered).await {
                Err(_) => return Err(RenewalError::Silent(limit)),
                Ok(Err(_)) => return Err(io::Error::other("it has ended").into()),
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(error))) => error,
            };
            match Errno::from_io_error(&error) {
                Some(Errno::BUSY) => {}
                Some(Errno::PROTO) => return Err(RenewalError::Unreadable),
                _ => return Err(RenewalError::NotExecuted(error)),
            }
            let again = Instant::now() + AGAIN;
            if again >= deadline {
                return Err(RenewalError::Busy(limit));
            }
            sleep_until(again).await;
        }
    }

    /// The version of the holder's program, if it is known.
    #[must_use]
    pub fn holder_version(&self) -> Option<String> {
        self.link().table().holder_version.text().map(str::to_owned)
    }
}
