//! Instances that use the SDK, as programs do: on a tokio runtime with one thread.

use std::path::Path;
use std::time::Duration;

use orchestrator_proto::sdk::{Input, Message, Output, Runtime};

use crate::actor;
use crate::wire::{Data64, Data1024, Ping, Pong};

/// A message with a number in it.
pub(crate) trait Numbered: Message + Default {
    fn set_number(&mut self, number: f64);
    fn number(&self) -> f64;
}

impl Numbered for Data64 {
    fn set_number(&mut self, number: f64) {
        self.values[0] = number;
    }
    fn number(&self) -> f64 {
        self.values[0]
    }
}

impl Numbered for Data1024 {
    fn set_number(&mut self, number: f64) {
        self.values[0][0] = number;
    }
    fn number(&self) -> f64 {
        self.values[0][0]
    }
}

/// Numbers begin again after so many messages.
const SERIES: usize = 1024;

/// Lets the tasks of this runtime go on until `wait` is over, which blocks.
pub(crate) fn settle(tokio: &tokio::runtime::Runtime, wait: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(wait);
        tokio.block_on(async {
            while !waiting.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    });
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Part `sdk-echo`: answers each ping with a pong.
pub(crate) fn echo(path: &Path) {
    tokio_runtime().block_on(async {
        let runtime = Runtime::connect_to(path).await.unwrap();
        let mut pings = runtime.input::<Ping>().unwrap();
        let pongs = runtime.output::<Pong>().unwrap();
        actor::say_ready();
        loop {
            let values = pings.recv().await.unwrap().values;
            pongs.send(&Pong { values }).await.unwrap();
        }
    });
}

/// Parts `sdk-count-…`: counts messages, which must come in their order.
pub(crate) fn count<T: Numbered>(path: &Path) {
    let tokio = tokio_runtime();
    tokio.block_on(async {
        let runtime = Runtime::connect_to(path).await.unwrap();
        let mut input = runtime.input::<T>().unwrap();
        actor::say_ready();
        let mut number = 0;
        for messages in actor::orders() {
            for _ in 0..messages {
                let message = input.recv().await.unwrap();
                assert!(message.number() as usize == number, "a message is missing");
                number = (number + 1) % SERIES;
            }
            actor::say_done();
        }
    });
}

/// Our own end of a round trip.
pub(crate) struct Pinger {
    tokio: tokio::runtime::Runtime,
    pings: Output<Ping>,
    pongs: Input<Pong>,
}

impl Pinger {
    pub(crate) fn connect(path: &Path) -> Self {
        let tokio = tokio_runtime();
        let (pings, pongs) = tokio.block_on(async {
            let runtime = Runtime::connect_to(path).await.unwrap();
            (runtime.output().unwrap(), runtime.input().unwrap())
        });
        Self { tokio, pings, pongs }
    }

    /// Lets the SDK's task go on until `wait` is over, which blocks.
    pub(crate) fn settle(&self, wait: impl FnOnce() + Send) {
        settle(&self.tokio, wait);
    }

    /// So many round trips; `after` is called after each.
    pub(crate) fn roundtrips(&mut self, count: usize, mut after: impl FnMut()) {
        let (pings, pongs) = (&self.pings, &mut self.pongs);
        self.tokio.block_on(async {
            for _ in 0..count {
                pings.send(&Ping::default()).await.unwrap();
                pongs.recv().await.unwrap();
                after();
            }
        });
    }
}

/// Our own end of a link.
pub(crate) struct Sender<T> {
    tokio: tokio::runtime::Runtime,
    runtime: Runtime,
    output: Output<T>,
    series: Vec<T>,
    next: usize,
}

impl<T: Numbered> Sender<T> {
    pub(crate) fn connect(path: &Path) -> Self {
        let tokio = tokio_runtime();
        let (runtime, output) = tokio.block_on(async {
            let runtime = Runtime::connect_to(path).await.unwrap();
            let output = runtime.output().unwrap();
            (runtime, output)
        });
        let numbered = |number| {
            let mut message = T::default();
            message.set_number(number as f64);
            message
        };
        Self { tokio, runtime, output, series: (0..SERIES).map(numbered).collect(), next: 0 }
    }

    /// As [`Pinger::settle`].
    pub(crate) fn settle(&self, wait: impl FnOnce() + Send) {
        settle(&self.tokio, wait);
    }

    /// Sends so many, with one `send` for each or in bursts.
    pub(crate) fn send(&mut self, count: u64, burst: bool) {
        let (series, start) = (&self.series, self.next);
        let messages = series.iter().cycle().skip(start).take(count as usize);
        self.tokio.block_on(async {
            if burst {
                self.output.send_many(messages).await.unwrap();
            } else {
                for message in messages {
                    self.output.send(message).await.unwrap();
                }
            }
            // The SDK's task stands still outside of this.
            self.runtime.flush().await.unwrap();
        });
        self.next = (start + count as usize) % SERIES;
    }
}
