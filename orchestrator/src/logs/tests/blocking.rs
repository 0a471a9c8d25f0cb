//! What if there is no room on the disk, and the instance is to wait.

use super::disk::Small;
use super::*;

fn numbers(from: u32, to: u32) -> Vec<u8> {
    (from..to).flat_map(|number| format!("line {number}\n").into_bytes()).collect()
}

fn on(disk: &Small) -> Bench {
    let disk = disk.clone();
    Bench::on(move || Box::new(disk.clone()))
}

#[tokio::test]
async fn an_instance_waits_for_a_full_disk_and_nothing_is_lost() {
    let disk = Small::new(20_000, usize::MAX);
    let bench = on(&disk);
    let log = bench.open("a");
    let text = numbers(0, 100_000);
    let (mut write, all) = (attach(&log, LogStream::Stdout), text.clone());
    let printing = std::thread::spawn(move || write.write_all(&all).unwrap());
    until(&log, |stats| stats.blocked && stats.failing).await;
    assert!(!printing.is_finished());
    assert!(log.stats().last_error.unwrap().message.contains("No space"));
    // What there is can be read meanwhile.
    let kept = content(&read_all(&log).await, LogStream::Stdout);
    assert!(text.starts_with(&kept) && !kept.is_empty() && kept.ends_with(b"\n"));
    // It goes on by itself, as far as there is room.
    disk.set_left(500_000);
    until(&log, |stats| stats.bytes_written > kept.len() as u64).await;
    until(&log, |stats| stats.blocked).await;
    assert!(!printing.is_finished());
    disk.set_left(usize::MAX / 2);
    within(log.drained()).await;
    printing.join().unwrap();
    let items = read_all(&log).await;
    assert!(content(&items, LogStream::Stdout) == text);
    assert_eq!(remarks(&items), "");
    let stats = stats(&log).await;
    assert_eq!((stats.bytes_written, stats.bytes_lost), (text.len() as u64, 0));
    assert!(!stats.blocked && !stats.failing);
}

#[tokio::test]
async fn who_waits_holds_nobody_else_up_and_can_be_closed() {
    let full = Small::new(0, usize::MAX);
    let disks = Arc::new(std::sync::Mutex::new(vec![Small::new(1 << 20, 100_000), full]));
    let bench = Bench::on(move || Box::new(disks.lock().unwrap().pop().unwrap()));
    let blocked = bench.open("a");
    stats(&blocked).await;
    let other = bench.open("b");
    let mut write = attach(&blocked, LogStream::Stdout);
    // As much as the pipe holds, so that nobody waits.
    write.write_all(b"held\n").unwrap();
    until(&blocked, |stats| stats.blocked).await;
    write.write_all(b"in the pipe\n").unwrap();
    print(&other, LogStream::Stdout, b"text\n").await;
    assert_eq!(texts(&read_all(&other).await), ["text"]);
    // Its own end is said in bounded space.
    for _ in 0..10 {
        blocked.append(LogStream::Telemetry, &[b'x'; 60_000]);
    }
    until(&blocked, |stats| stats.bytes_lost > 0).await;
    within(blocked.close()).await;
    let stats = blocked.stats();
    let printed = b"held\nin the pipe\n".len() + 10 * 60_001;
    assert_eq!((stats.bytes_written, stats.bytes_lost), (0, printed as u64));
    assert!(!stats.blocked);
    // The other one goes on.
    print(&other, LogStream::Stdout, b"more\n").await;
    assert_eq!(texts(&read_all(&other).await), ["text", "more"]);
}

#[tokio::test]
async fn all_that_was_printed_is_there_for_who_asks() {
    let bench = Bench::default();
    let log = bench.open("a");
    let (mut out, mut err) = (attach(&log, LogStream::Stdout), attach(&log, LogStream::Stderr));
    for round in 0..200 {
        out.write_all(format!("out {round}\n").as_bytes()).unwrap();
        err.write_all(&b"err\n".repeat(round)).unwrap();
        let query = |stream| ReadQuery { stream: Some(stream), ..ReadQuery::default() };
        let items = read(&log, query(LogStream::Stdout)).await;
        assert_eq!(items.len(), round + 1);
        assert_eq!(read(&log, query(LogStream::Stderr)).await.len(), (0..=round).sum::<usize>());
    }
}

#[tokio::test]
async fn a_flood_that_is_not_to_wait_is_counted_where_it_is_missing() {
    // One that is slow: a few pieces of each write.
    let bench = on(&Small::new(usize::MAX / 2, 500));
    let log = bench.open_with("a", &LogRules { keep: Some(1000), ..dropping() });
    let text = numbers(0, 2_000_000);
    print(&log, LogStream::Stdout, &text).await;
    let stats = stats(&log).await;
    assert_eq!(stats.bytes_written + stats.bytes_lost, text.len() as u64);
    let items = read_all(&log).await;
    let kept = content(&items, LogStream::Stdout).len() as u64;
    assert_eq!(kept, stats.bytes_written);
    let told = remarks(&items);
    assert_eq!(told_lost(&told), stats.bytes_lost);
    assert!(stats.bytes_lost > 0 && told.contains("it was printed faster than can be written"));
}
