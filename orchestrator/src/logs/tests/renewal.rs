//! One capture process after another.

use super::apart::{Apart, Counting, numbers};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_capture_is_replaced() {
    const ROUNDS: usize = 8;
    let apart = Apart::new();
    let log = apart.open("a");
    let ((out, to_out), (err, to_err)) = (pipe(), pipe());
    log.attach(7, out, err).unwrap();
    let counting = [Counting::new(to_out), Counting::new(to_err)];
    // One whose pipes end while nobody reads, one that is closed, one that prints nothing.
    let quiet = apart.open("quiet");
    let _silent = attach(&quiet, LogStream::Stdout);
    for round in 0..ROUNDS {
        let before = stats(&log).await.bytes_written;
        until(&log, |stats| stats.bytes_written > before + 50_000).await;
        let (ends, closes) = (apart.open(&format!("e{round}")), apart.open(&format!("c{round}")));
        let mut ending = attach(&ends, LogStream::Stdout);
        let mut closing = attach(&closes, LogStream::Stderr);
        closing.write_all(b"all of it\n").unwrap();
        let pid = apart.capture.pid();
        let renewed = tokio::spawn(apart.capture.renew(DEADLINE));
        for at in 0..50 {
            log.append(LogStream::Orchestrator, format!("{round} {at}").as_bytes());
            writeln!(ending, "line {at}").unwrap();
            tokio::task::yield_now().await;
        }
        drop(ending);
        within(closes.close()).await;
        within(renewed).await.unwrap().unwrap();
        assert_ne!(apart.capture.pid(), pid);
        assert_eq!(apart.capture.version().as_deref(), Some(env!("CARGO_PKG_VERSION")));
        within(ends.drained()).await;
        assert!(numbers(&read_all(&ends).await, LogStream::Stdout).into_iter().eq(0..50));
        assert_eq!(texts(&read_all(&closes).await), ["all of it"]);
        for log in [ends, closes] {
            within(log.remove()).await.unwrap();
        }
    }
    let printed = counting.map(Counting::stop);
    within(log.drained()).await;
    let items = read_all(&log).await;
    for (stream, printed) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(printed) {
        assert!(numbers(&items, stream).into_iter().eq(0..printed), "{stream}");
    }
    let said = (0..ROUNDS).flat_map(|round| (0..50).map(move |at| format!("{round} {at}")));
    assert!(remarks(&items).lines().eq(said), "{}", remarks(&items));
    assert_eq!(stats(&log).await.bytes_lost, 0);
    assert_eq!(apart.started.count(), ROUNDS + 1);
    apart.capture.shutdown(DEADLINE).await.unwrap();
    apart.started.wait();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_process_that_is_killed_while_it_is_replaced_is_replaced_all_the_same() {
    let apart = Apart::new();
    let log = apart.open("a");
    let ((out, to_out), (err, _silent)) = (pipe(), pipe());
    log.attach(7, out, err).unwrap();
    let counting = Counting::new(to_out);
    until(&log, |stats| stats.bytes_written > 50_000).await;
    let renewed = tokio::spawn(apart.capture.renew(DEADLINE));
    apart.started.kill();
    let before = stats(&log).await.bytes_written;
    until(&log, |stats| stats.bytes_written > before + 50_000).await;
    within(renewed).await.unwrap().unwrap();
    counting.stop();
    apart.capture.shutdown(DEADLINE).await.unwrap();
}
