//! How a wait ends without what it was for.

use thiserror::Error;

use super::background::Unmet;

/// Why something that may wait was not done.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Error<E> {
    /// The time that it was given is over. Only from what is given a time.
    #[error("the time was over")]
    TimedOut,
    /// [`Runtime::close`](super::Runtime::close) has ended all waits.
    #[error("the runtime was closed, and nothing waits any more")]
    Closed,
    /// It failed, as it would in a program with tokio.
    #[error(transparent)]
    Failed(E),
}

impl<E> From<Unmet> for Error<E> {
    fn from(unmet: Unmet) -> Self {
        match unmet {
            Unmet::TimedOut => Self::TimedOut,
            Unmet::Closed => Self::Closed,
        }
    }
}

/// One failure out of two.
pub(super) fn flatten<T, E>(result: Result<Result<T, E>, Unmet>) -> Result<T, Error<E>> {
    result?.map_err(Error::Failed)
}
