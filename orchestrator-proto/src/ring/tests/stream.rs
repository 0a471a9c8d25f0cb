//! A ring as a stream of bytes, with `await`.

use std::time::Duration;

use super::model::payload;
use crate::ring::{ByteConsumer, ByteProducer, Files, RingError, Told};

fn ends(capacity: usize) -> (ByteProducer, ByteConsumer) {
    let files = Files::ring(capacity).unwrap();
    let producer = ByteProducer::open(files.try_clone().unwrap()).unwrap();
    (producer, ByteConsumer::open(files).unwrap())
}

async fn write_all(producer: &mut ByteProducer, told: &mut Told, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match producer.try_write(rest).unwrap() {
            0 if producer.ask(rest.len()).unwrap() => told.hear().await.unwrap(),
            written => rest = &rest[written..],
        }
    }
}

fn passes(spin: Duration, threads: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(threads).enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut producer, mut consumer) = ends(4096);
        consumer.set_spin(spin);
        let chunks: Vec<_> = (0..200).map(|n| payload(n, (n * n * 13 % 9000) as usize)).collect();
        let all = chunks.concat();
        let sender = tokio::spawn(async move {
            let mut told = producer.told();
            for chunk in chunks {
                write_all(&mut producer, &mut told, &chunk).await;
            }
        });
        let mut read = Vec::new();
        loop {
            match consumer.try_read(read.len() + 1000, &mut read) {
                Ok(0) => consumer.readable().await.unwrap(),
                Ok(_) => tokio::task::yield_now().await,
                Err(RingError::Closed) => break,
                Err(error) => panic!("{error}"),
            }
        }
        sender.await.unwrap();
        assert!(read == all, "{} bytes of {}", read.len(), all.len());
    });
}

#[test]
fn bytes_pass_whoever_waits_and_however() {
    for threads in [1, 2] {
        for spin in [Duration::ZERO, Duration::from_micros(50)] {
            passes(spin, threads);
        }
    }
}

#[test]
fn an_end_that_goes_is_noticed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut producer, consumer) = ends(4096);
        assert_eq!(producer.try_write(&[1; 5000]).unwrap(), 4 * 1008);
        let mut told = producer.told();
        assert!(producer.ask(1000).unwrap(), "it is full");
        let gone = tokio::spawn(async move { drop(consumer) });
        told.hear().await.unwrap();
        gone.await.unwrap();
        assert!(matches!(producer.ask(1000), Err(RingError::Closed)));

        let (mut producer, mut consumer) = ends(4096);
        assert_eq!(producer.try_write(b"the last").unwrap(), 8);
        let mut read = Vec::new();
        assert_eq!(consumer.try_read(1, &mut read).unwrap(), 8);
        assert_eq!(consumer.try_read(9, &mut read).unwrap(), 0);
        let gone = tokio::spawn(async move { drop(producer) });
        consumer.readable().await.unwrap();
        gone.await.unwrap();
        assert!(matches!(consumer.try_read(9, &mut read), Err(RingError::Closed)));
        assert_eq!(read, b"the last");
    });
}
