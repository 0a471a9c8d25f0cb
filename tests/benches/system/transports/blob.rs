//! An instance with the SDK that sends bytes of any length, on a tokio runtime with one thread.

use std::num::NonZeroU32;
use std::path::Path;

use orchestrator_proto::sdk::{Input, Message, Output, Runtime, Schema};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::pipe::Pipe;

/// A message of bytes.
pub(super) trait Blob: Message + From<Vec<u8>> + Into<Vec<u8>> {}

macro_rules! blob {
    ($name:ident, $wire:literal, $why:literal) => {
        #[doc = $why]
        #[derive(Serialize, Deserialize, Schema, Message)]
        #[postcard(crate = orchestrator_proto::postcard_schema)]
        #[message(name = $wire)]
        pub(super) struct $name(#[serde(with = "serde_bytes")] Vec<u8>);

        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes)
            }
        }

        impl From<$name> for Vec<u8> {
            fn from(blob: $name) -> Self {
                blob.0
            }
        }

        impl Blob for $name {}
    };
}

blob!(Out, "bench.out", "From the one who measures.");
blob!(Back, "bench.back", "To the one who measures.");

/// Bytes that may wait in an input, about: as with the others, no more than that is under way.
const WINDOW_BYTES: usize = 16 << 20;

/// What sends `S` and takes `R`.
pub(super) struct Instance<S, R> {
    tokio: tokio::runtime::Runtime,
    runtime: Runtime,
    output: Output<S>,
    input: Input<R>,
}

impl<S: Blob, R: Blob> Instance<S, R> {
    /// On the instance socket at `path`, for messages of this size.
    pub(super) fn connect(path: &Path, size: usize) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let most = Runtime::DEFAULT_WINDOW.get();
        let window = u32::try_from(WINDOW_BYTES / size).map_or(most, |window| window.min(most));
        let window = NonZeroU32::new(window).expect("some messages may wait");
        let (runtime, output, input) = tokio.block_on(async {
            let runtime = Runtime::connect_to(path).await.unwrap();
            let output = runtime.output().unwrap();
            let input = runtime.input_with_window(window).unwrap();
            (runtime, output, input)
        });
        Self { tokio, runtime, output, input }
    }
}

impl<S: Blob, R: Blob> Pipe for Instance<S, R> {
    fn send(&mut self, bytes: &[u8]) {
        let message = S::from(bytes.to_vec());
        self.tokio.block_on(self.output.send(&message)).unwrap();
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        *into = self.tokio.block_on(self.input.recv()).unwrap().into();
    }

    fn send_many(&mut self, bytes: &[u8], count: usize) {
        let message = S::from(bytes.to_vec());
        self.tokio.block_on(async {
            self.output.send_many(std::iter::repeat_n(&message, count)).await.unwrap();
            // The SDK's task stands still outside of this.
            self.runtime.flush().await.unwrap();
        });
    }

    fn receive_many(&mut self, into: &mut Vec<u8>, count: usize) {
        self.tokio.block_on(async {
            for _ in 0..count {
                let bytes: Vec<u8> = self.input.recv().await.unwrap().into();
                assert_eq!(bytes.len(), into.len());
            }
        });
    }

    fn roundtrips(&mut self, bytes: &mut Vec<u8>, count: usize, after: &mut dyn FnMut()) {
        let message = S::from(bytes.clone());
        self.tokio.block_on(async {
            for _ in 0..count {
                self.output.send(&message).await.unwrap();
                *bytes = self.input.recv().await.unwrap().into();
                after();
            }
        });
    }

    fn echoes(&mut self, _bytes: &mut Vec<u8>, count: usize) {
        self.tokio.block_on(async {
            for _ in 0..count {
                let bytes: Vec<u8> = self.input.recv().await.unwrap().into();
                self.output.send(&S::from(bytes)).await.unwrap();
            }
            self.runtime.flush().await.unwrap();
        });
    }

    fn settle(&mut self, wait: Box<dyn FnOnce() + Send + '_>) {
        crate::sdk::settle(&self.tokio, wait);
    }

    /// Meanwhile the SDK's task goes on.
    fn order(&mut self, orders: &mut UnboundedReceiver<String>) -> Option<String> {
        self.tokio.block_on(orders.recv())
    }
}
