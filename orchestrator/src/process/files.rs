//! How many files may be open: the daemon takes all it may have, because each instance costs it
//! five or more; instances keep what the daemon was started with, because programs that use
//! select(2) break above 1,024.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::sys;

/// The bounds (soft, hard) that the daemon was started with, once it has others.
static STARTED_WITH: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the daemon's own bound as far as it may be raised. The answer is the new bound.
///
/// # Errors
///
/// When the kernel refuses, see setrlimit(2).
pub fn raise_file_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let (soft, hard) = *STARTED_WITH.get_or_init(|| (soft, hard));
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    tracing::debug!(before = soft, now = hard, "open files");
    Ok(hard)
}

/// Gives a process that was just executed the bounds that the daemon was started with. Its
/// dynamic loader is still at work by then.
pub(super) fn lower_file_limit(pid: i32) {
    if let Some((soft, hard)) = STARTED_WITH.get()
        && let Err(error) = sys::set_file_limit(pid, *soft, *hard)
    {
        // ESRCH if it has ended already.
        tracing::debug!(pid, %error, "the bound on open files could not be set");
    }
}
