//! For tests of what waits: futures that are looked at once.

use std::pin::Pin;

/// Whether it has to wait for something, when it is polled once.
pub(crate) async fn waits(future: Pin<&mut impl Future<Output = ()>>) -> bool {
    tokio::select! {
        biased;
        () = future => false,
        () = std::future::ready(()) => true,
    }
}
