//! iceoryx2, which passes messages of many kinds through shared memory without copies, where its
//! users write and read them in place. Compiled with `--features rivals` only.

use std::path::Path;

use iceoryx2::node::Node;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::pipe::Pipe;

/// One end: what it publishes, and what it subscribes to.
pub(crate) struct Iceoryx {
    publisher: Publisher<ipc::Service, [u8], ()>,
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    /// Whether what is echoed goes from its memory to its memory.
    in_place: bool,
    _node: Node<ipc::Service>,
}

/// Messages that may be under way: 1 MiB of them, as with the others.
fn buffer(size: usize) -> usize {
    ((1 << 20) / size).clamp(2, 4096)
}

impl Iceoryx {
    /// The end of the one who measures; `path` is like no other.
    pub(crate) fn near(path: &Path, size: usize) -> Self {
        Self::open(path.to_str().unwrap(), size, ["out", "back"], false)
    }

    pub(crate) fn far(path: &str, size: usize, in_place: bool) -> Self {
        Self::open(path, size, ["back", "out"], in_place)
    }

    fn open(path: &str, size: usize, [out, back]: [&str; 2], in_place: bool) -> Self {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<ipc::Service>().unwrap();
        let service = |way: &str| {
            let name = format!("{path}/{way}");
            node.service_builder(&name.as_str().try_into().unwrap())
                .publish_subscribe::<[u8]>()
                .enable_safe_overflow(false)
                .history_size(0)
                .max_publishers(1)
                .max_subscribers(1)
                .subscriber_max_buffer_size(buffer(size))
                .subscriber_max_borrowed_samples(2)
                .open_or_create()
                .unwrap()
        };
        let publisher = service(out)
            .publisher_builder()
            .initial_max_slice_len(size)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .unwrap();
        let subscriber = service(back).subscriber_builder().create().unwrap();
        Self { publisher, subscriber, in_place, _node: node }
    }

    fn publish(&self, bytes: &[u8]) {
        let sample = self.publisher.loan_slice_uninit(bytes.len()).unwrap();
        sample.write_from_slice(bytes).send().unwrap();
    }
}

impl Pipe for Iceoryx {
    fn send(&mut self, bytes: &[u8]) {
        self.publish(bytes);
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        loop {
            if let Some(sample) = self.subscriber.receive().unwrap() {
                into.clear();
                into.extend_from_slice(sample.payload());
                return;
            }
            std::hint::spin_loop();
        }
    }

    fn echo(&mut self, bytes: &mut Vec<u8>) {
        if !self.in_place {
            self.receive(bytes);
            return self.publish(bytes);
        }
        loop {
            if let Some(sample) = self.subscriber.receive().unwrap() {
                return self.publish(sample.payload());
            }
            std::hint::spin_loop();
        }
    }
}
