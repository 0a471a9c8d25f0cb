//! Other rules for a log that is open.

use super::super::names::{Form, files as forms};
use super::disk::Small;
use super::*;

fn text(lines: std::ops::Range<u32>) -> Vec<u8> {
    lines.flat_map(|number| format!("this is line {number}\n").into_bytes()).collect()
}

/// Files of the least size, and so many of them.
fn small(keep: u32) -> LogRules {
    LogRules { max_size: Some(LogRules::MIN_SIZE), keep: Some(keep), ..LogRules::default() }
}

/// Changes the rules, and waits until they count.
async fn change(log: &InstanceLog, rules: &LogRules) {
    log.set_rules(rules);
    stats(log).await;
}

#[tokio::test]
async fn no_line_is_lost_in_a_flood_while_rules_change() {
    let bench = Bench::default();
    let log = bench.open("a");
    let all = text(0..400_000);
    let (mut write, flood) = (attach(&log, LogStream::Stdout), all.clone());
    let printing = std::thread::spawn(move || write.write_all(&flood).unwrap());
    let (small, zstd) = (small(LogRules::MAX_KEEP), Compression::Zstd);
    let rules = [
        LogRules { max_size: Some(Size::mib(1)), ..small.clone() },
        LogRules { compress: zstd, ..small.clone() },
        LogRules { max_age: Millis(1), ..small.clone() },
        LogRules { compress: zstd, when_full: WhenFull::Block, ..small.clone() },
        small,
    ];
    let mut changes = 0;
    while !printing.is_finished() {
        change(&log, &rules[changes % rules.len()]).await;
        changes += 1;
    }
    within(log.drained()).await;
    assert!(changes > 5, "{changes}");
    let items = read_all(&log).await;
    assert!(content(&items, LogStream::Stdout) == all);
    assert_eq!(remarks(&items), "");
    let stats = stats(&log).await;
    assert_eq!((stats.bytes_written, stats.bytes_lost), (all.len() as u64, 0));
}

#[tokio::test]
async fn size_and_age_count_for_the_next_file_and_the_number_at_once() {
    let bench = Bench::default();
    let log = bench.open("a");
    let numbers = || forms(log.dir()).unwrap().into_keys().collect::<Vec<_>>();
    print(&log, LogStream::Stdout, &text(0..10_000)).await;
    assert_eq!(numbers(), [1]);
    // The file is larger than what is allowed now: it stays as it is.
    change(&log, &small(100)).await;
    assert_eq!(numbers(), [1]);
    print(&log, LogStream::Stdout, &text(10_000..20_000)).await;
    let many = numbers();
    assert!(many.len() > 5, "{many:?}");
    for (path, number) in files(log.dir()).into_iter().zip(1..) {
        let size = fs::metadata(&path).unwrap().len();
        assert!(number == 1 || size <= LogRules::MIN_SIZE.0, "{path:?} has {size} bytes");
    }
    change(&log, &small(3)).await;
    assert_eq!(numbers(), many[many.len() - 3..]);
    let kept = content(&read_all(&log).await, LogStream::Stdout);
    assert!(text(0..20_000).ends_with(&kept) && kept.len() > 40_000);
    // More may be kept than there are; the next line begins a new file.
    change(&log, &LogRules { max_age: Millis(1), ..LogRules::default() }).await;
    print(&log, LogStream::Stdout, b"more\n").await;
    assert_eq!(numbers().len(), 4);
    change(&log, &small(1)).await;
    assert_eq!(texts(&read_all(&log).await), ["more"]);
}

#[tokio::test]
async fn who_waits_for_a_full_disk_goes_on_when_it_is_not_to_wait() {
    let disk = Small::new(20_000, usize::MAX);
    let for_log = disk.clone();
    let bench = Bench::on(move || Box::new(for_log.clone()));
    let log = bench.open("a");
    let all = text(0..100_000);
    let (mut write, flood) = (attach(&log, LogStream::Stdout), all.clone());
    let printing = std::thread::spawn(move || write.write_all(&flood).unwrap());
    until(&log, |stats| stats.blocked).await;
    assert!(!printing.is_finished());
    change(&log, &dropping()).await;
    within(log.drained()).await;
    printing.join().unwrap();
    let after = stats(&log).await;
    assert!(after.failing && !after.blocked);
    assert_eq!(after.bytes_written + after.bytes_lost, all.len() as u64);
    // From now on it waits again, and what is missing is told.
    change(&log, &LogRules::default()).await;
    let mut write = attach(&log, LogStream::Stdout);
    write.write_all(&text(0..1000)).unwrap();
    until(&log, |stats| stats.blocked).await;
    disk.set_left(usize::MAX / 2);
    drop(write);
    within(log.drained()).await;
    let items = read_all(&log).await;
    assert!(content(&items, LogStream::Stdout).ends_with(&text(0..1000)));
    assert_eq!(told_lost(&remarks(&items)), after.bytes_lost);
}

#[tokio::test]
async fn files_are_compressed_or_not_from_then_on() {
    let bench = Bench::default();
    let log = bench.open_with("a", &small(1000));
    let packed = || {
        let files = forms(log.dir()).unwrap();
        let packed = files.values().filter(|form| **form == Form::Packed).count();
        (files.len(), packed)
    };
    print(&log, LogStream::Stdout, &text(0..10_000)).await;
    let (before, none) = packed();
    assert!(before > 5 && none == 0);
    change(&log, &LogRules { compress: Compression::Zstd, ..small(1000) }).await;
    // All but the newest, and the newest that is complete.
    within(async {
        while packed().1 < before - 2 {
            stats(&log).await;
        }
    })
    .await;
    change(&log, &small(1000)).await;
    print(&log, LogStream::Stdout, &text(10_000..20_000)).await;
    assert_eq!(packed().1, before - 2);
    assert!(packed().0 > before + 5);
    assert!(content(&read_all(&log).await, LogStream::Stdout) == text(0..20_000));
}

#[tokio::test]
async fn rules_outlive_the_capture_process() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, &text(0..10_000)).await;
    change(&log, &small(1000)).await;
    within(bench.capture.renew(DEADLINE)).await.unwrap();
    print(&log, LogStream::Stdout, &text(10_000..20_000)).await;
    assert!(forms(log.dir()).unwrap().len() > 5);
    // What changes while nobody can be told is told when somebody is there.
    let renewing = bench.capture.renew(DEADLINE);
    log.set_rules(&small(2));
    within(renewing).await.unwrap();
    stats(&log).await;
    assert_eq!(forms(log.dir()).unwrap().len(), 2);
}
