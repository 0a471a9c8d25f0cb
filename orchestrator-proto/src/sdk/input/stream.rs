//! An input as a stream, for the combinators of `futures` and `tokio-stream`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Input;
use crate::sdk::{Message, RecvError};

/// All messages, without end; each as [`recv`](Input::recv) gives it, so that an error costs one message
/// and not the stream. Nothing is taken before it is asked for, and a `next()` that is dropped has
/// taken nothing.
///
/// ```no_run
/// use futures_util::StreamExt;
/// # use orchestrator_proto::Message;
/// # use orchestrator_proto::sdk::{Runtime, Schema};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Schema, Message)]
/// # #[postcard(crate = orchestrator_proto::postcard_schema)]
/// #[message(name = "acme.wheel.v1")]
/// struct Wheel {
///     turns_per_s: f32,
/// }
///
/// # async fn example(runtime: Runtime) -> Result<(), Box<dyn std::error::Error>> {
/// let wheel = runtime.input::<Wheel>()?;
/// let mut tens = wheel
///     .filter_map(|wheel| std::future::ready(wheel.ok()))
///     .map(|wheel| wheel.turns_per_s * 0.31)
///     .chunks(10);
/// while let Some(ten) = tens.next().await {
///     println!("{} m/s", ten.iter().sum::<f32>() / 10.0);
/// }
/// # Ok(())
/// # }
/// ```
impl<T: Message> Stream for Input<T> {
    type Item = Result<T, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx).map(Some)
    }
}
