//! Waiting with `await`.

use super::kernel::ring;
use super::model::payload;
use crate::ring::{Files, LatestConsumer, LatestProducer, RingError};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn tasks_pass_messages_of_any_length() {
    let (_files, mut producer, mut consumer) = ring(8192);
    let len = |number: u64| (number * number * 13 % 20_000) as usize;
    runtime().block_on(async {
        let sender = tokio::spawn(async move {
            for number in 0..200 {
                producer.send(number, &payload(number, len(number))).await.unwrap();
            }
        });
        let mut bytes = Vec::new();
        for number in 0..200 {
            assert_eq!(consumer.recv(&mut bytes).await.unwrap(), number);
            assert_eq!(bytes, payload(number, len(number)));
        }
        sender.await.unwrap();
        assert!(matches!(consumer.recv(&mut bytes).await, Err(RingError::Closed)));
    });
}

#[test]
fn a_message_that_is_given_up_is_counted() {
    let (_files, mut producer, mut consumer) = ring(4096);
    runtime().block_on(async {
        let bytes = [7; 10_000];
        {
            let mut sending = std::pin::pin!(producer.send(1, &bytes));
            tokio::select! {
                biased;
                sent = &mut sending => panic!("{sent:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        let mut into = Vec::new();
        assert_eq!(consumer.try_pop(&mut into).unwrap(), None);
        producer.send(2, b"another").await.unwrap();
        assert_eq!(consumer.recv(&mut into).await.unwrap(), 2);
        assert_eq!((&into[..], consumer.cut_short()), (&b"another"[..], 1));
    });
}

#[test]
fn the_newest_value_is_awaited() {
    let files = Files::latest(100).unwrap();
    let mut producer = LatestProducer::open(files.try_clone().unwrap()).unwrap();
    let mut consumer = LatestConsumer::open(files).unwrap();
    runtime().block_on(async {
        let taking = tokio::spawn(async move {
            let mut into = Vec::new();
            let mut last = 0;
            while let Ok(number) = consumer.recv(&mut into).await {
                assert_eq!(into, payload(number, 50));
                last = number;
            }
            last
        });
        for number in 1..=100 {
            producer.put(number, &payload(number, 50)).unwrap();
            tokio::task::yield_now().await;
        }
        drop(producer);
        assert_eq!(taking.await.unwrap(), 100);
    });
}

#[test]
fn it_says_so_where_nothing_can_be_awaited() {
    let (_files, mut producer, mut consumer) = ring(4096);
    let mut bytes = Vec::new();
    let mut receiving = std::pin::pin!(consumer.recv(&mut bytes));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = receiving.as_mut().poll(&mut context);
    assert!(matches!(polled, std::task::Poll::Ready(Err(RingError::NoRuntime))));
    assert!(producer.try_push(1, b"").unwrap());
}
