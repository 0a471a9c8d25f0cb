//! How files are begun, kept and compressed.

use super::super::file::LogFiles;
use super::super::names::{Form, files as forms, part_path};
use super::super::record::Batch;
use super::super::rules::Rules;
use super::*;

const LINES: u64 = 40_000;

fn zstd(keep: u32) -> LogRules {
    LogRules {
        max_size: Some(LogRules::MIN_SIZE),
        keep: Some(keep),
        compress: Compression::Zstd,
        ..LogRules::default()
    }
}

fn text(lines: std::ops::Range<u64>) -> Vec<u8> {
    lines.flat_map(|number| format!("this is line {number}\n").into_bytes()).collect()
}

/// Waits until all files are compressed but the last two.
async fn packed(log: &InstanceLog) {
    within(async {
        loop {
            let files = forms(log.dir()).unwrap();
            let packed = files.values().filter(|form| **form == Form::Packed).count();
            if packed + 2 == files.len() {
                return;
            }
            stats(log).await;
        }
    })
    .await;
}

#[tokio::test]
async fn complete_files_are_compressed_and_read_as_they_were() {
    let bench = Bench::default();
    let log = bench.open_with("a", &zstd(1000));
    let all = text(0..LINES);
    print(&log, LogStream::Stdout, &all).await;
    packed(&log).await;
    assert!(forms(log.dir()).unwrap().len() > 20);
    let items = read_all(&log).await;
    assert!(content(&items, LogStream::Stdout) == all);
    assert_eq!(items.len() as u64, LINES);
    for tail in [1, 1000, 20_000] {
        let query = ReadQuery { tail: Some(tail), ..ReadQuery::default() };
        let content = content(&read(&log, query).await, LogStream::Stdout);
        assert!(content == text(LINES - tail..LINES), "{tail}");
    }
    let grep = Some(Grep::new("line 7$|line 39999$").unwrap());
    let query = ReadQuery { grep: grep.clone(), ..ReadQuery::default() };
    assert_eq!(texts(&read(&log, query).await), ["this is line 7", "this is line 39999"]);
    let query = ReadQuery { grep, tail: Some(2), ..ReadQuery::default() };
    assert_eq!(texts(&read(&log, query).await), ["this is line 7", "this is line 39999"]);
    // What was done is not done again, and it goes on after it.
    within(log.close()).await;
    let dir = log.dir().to_owned();
    let again = bench.capture.open_with(log.instance(), dir.clone(), &zstd(1000)).unwrap();
    print(&again, LogStream::Stdout, b"more\n").await;
    let content = content(&read_all(&again).await, LogStream::Stdout);
    assert!(content == [&all[..], b"more\n"].concat());
    within(again.remove()).await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn followers_and_bounds_do_not_mind_compression() {
    let bench = Bench::default();
    let log = bench.open_with("a", &zstd(5));
    let mut follower = LogReader::open(&log, ReadQuery { follow: true, ..ReadQuery::default() });
    // It has begun when it has the first line.
    print(&log, LogStream::Stdout, &text(0..1)).await;
    let first = within(follower.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&first), ["this is line 0"]);
    let following = tokio::spawn(async move {
        let (mut next, mut missed) = (1, 0);
        while let Some(items) = within(follower.next_batch()).await.unwrap() {
            for text in texts(&items) {
                match text.strip_prefix("this is line ").map(|number| number.parse::<u64>()) {
                    Some(Ok(number)) => {
                        assert!(number == next || (number > next && missed > 0), "{number}");
                        next = number + 1;
                    }
                    _ => missed += 1,
                }
            }
            if next == LINES {
                break;
            }
        }
    });
    print(&log, LogStream::Stdout, &text(1..LINES)).await;
    within(following).await.unwrap();
    packed(&log).await;
    let files = forms(log.dir()).unwrap();
    assert_eq!(files.len(), 5, "{files:?}");
    let items = read_all(&log).await;
    let kept = content(&items, LogStream::Stdout);
    assert!(text(0..LINES).ends_with(&kept) && kept.len() > 100_000);
}

#[tokio::test]
async fn a_log_is_closed_while_it_is_compressed() {
    for _ in 0..10 {
        let bench = Bench::default();
        let log = bench.open_with("a", &zstd(1000));
        let all = text(0..LINES / 4);
        print(&log, LogStream::Stdout, &all).await;
        within(log.close()).await;
        let names = files(log.dir());
        let left = |name: &PathBuf| name.extension().is_some_and(|it| it == "part");
        assert!(!names.iter().any(left), "{names:?}");
        assert!(content(&read_all(&log).await, LogStream::Stdout) == all);
        within(log.remove()).await.unwrap();
        assert!(!log.dir().exists());
    }
}

#[tokio::test]
async fn what_a_kill_left_in_the_middle_of_compressing_is_put_right() {
    let bench = Bench::default();
    let log = bench.open_with("a", &zstd(1000));
    let all = text(0..LINES / 4);
    print(&log, LogStream::Stdout, &all).await;
    packed(&log).await;
    within(log.close()).await;
    // As if it had been killed after the rename, and while the next one was made.
    let dir = log.dir().to_owned();
    fs::write(dir.join("00000001.log"), "what is there twice").unwrap();
    fs::write(part_path(&dir, 3), "half of it").unwrap();
    assert!(content(&read_all(&log).await, LogStream::Stdout).len() < all.len());
    let log = bench.capture.open_with(log.instance(), dir.clone(), &zstd(1000)).unwrap();
    stats(&log).await;
    packed(&log).await;
    assert!(!dir.join("00000001.log").exists() && !part_path(&dir, 3).exists());
    assert!(content(&read_all(&log).await, LogStream::Stdout) == all);
}

#[tokio::test]
async fn a_damaged_file_is_told_and_costs_nothing_else() {
    let bench = Bench::default();
    let log = bench.open_with("a", &zstd(1000));
    print(&log, LogStream::Stdout, &text(0..LINES / 4)).await;
    packed(&log).await;
    fs::write(log.dir().join("00000002.log.zst"), "damaged").unwrap();
    let items = read_all(&log).await;
    let told: Vec<_> = texts(&items).into_iter().filter(|text| text.starts_with('<')).collect();
    assert_eq!(
        told,
        ["<0: log file 2 can't be read: it is damaged, or was compressed by something else>"]
    );
    let kept = content(&items, LogStream::Stdout);
    assert!(kept.starts_with(b"this is line 0\n") && kept.ends_with(b"this is line 9999\n"));
}

#[test]
fn a_file_is_left_when_it_is_too_old() {
    let dir = TempDir::new().unwrap();
    let open = |max_age_ms| {
        let rules = Rules { max_age_ms, ..Rules::default() };
        LogFiles::open(dir.path().into(), rules, Box::new(Kernel)).unwrap().0
    };
    let old = |text: &str| {
        let mut batch = Batch::default();
        batch.push(1_795_199_093_000_000_000, LogStream::Stdout, true, text.as_bytes());
        batch
    };
    // Its age is that of its first record, whoever wrote that.
    fs::write(dir.path().join("00000001.log"), old("first").bytes()).unwrap();
    open(0).write(old("second").bytes()).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    // The tests' records may be in this machine's future.
    let now = super::super::record::now_ns();
    let then = now - 3_600_000_000_000;
    let mut batch = Batch::default();
    batch.push(then, LogStream::Stdout, true, b"an hour ago");
    fs::write(dir.path().join("00000002.log"), batch.bytes()).unwrap();
    open(7_200_000).write(old("third").bytes()).unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    let mut log = open(1_800_000);
    log.write(old("fourth").bytes()).unwrap();
    log.write(old("fifth").bytes()).unwrap();
    assert_eq!(files(dir.path()).len(), 3);
    let last = fs::read_to_string(dir.path().join("00000003.log")).unwrap();
    assert!(last.contains("fourth") && last.contains("fifth"));
}
