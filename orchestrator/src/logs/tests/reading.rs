use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::thread;

use proptest::prelude::*;

use super::*;

fn follow() -> ReadQuery {
    ReadQuery { follow: true, ..ReadQuery::default() }
}

fn tail(count: u64) -> ReadQuery {
    ReadQuery { tail: Some(count), ..ReadQuery::default() }
}

#[tokio::test]
async fn a_follower_sees_all_lines_in_order_while_files_rotate() {
    // All that is written is kept, in many files.
    let bench = Bench::new(64 << 10, 1000);
    let log = bench.open("a");
    let reader = LogReader::open(&log, follow());
    let following = tokio::spawn(read_to_end(reader));
    let mut write = attach(&log, LogStream::Stdout);
    let lines: Vec<_> = (0..100_000).map(|n| format!("line {n}")).collect();
    let text = lines.join("\n") + "\n";
    let printing = thread::spawn(move || write.write_all(text.as_bytes()).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
    assert!(files(log.dir()).len() > 20);
    log.close().await;
    let seen = texts(&following.await.unwrap());
    assert!(seen == lines, "lines are missing, doubled or out of order");
}

#[tokio::test]
async fn a_slow_follower_is_told_of_what_it_missed() {
    let bench = Bench::new(64 << 10, 2);
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"first\n").await;
    let mut reader = LogReader::open(&log, follow());
    let first = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&first), ["first"]);
    let lines: Vec<_> = (0..20_000).map(|n| format!("line {n}")).collect();
    let mut write = attach(&log, LogStream::Stdout);
    let text = lines.join("\n") + "\n";
    let printing = thread::spawn(move || write.write_all(text.as_bytes()).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
    log.close().await;
    let items = read_to_end(reader).await;
    let gap = items.iter().position(|item| matches!(item, ReadItem::Missed { .. })).unwrap();
    // The file that it had open to its end, then what is kept.
    let (before, after) = (texts(&items[..gap]), texts(&items[gap + 1..]));
    assert!(!before.is_empty() && !after.is_empty());
    assert!(lines.starts_with(&before) && lines.ends_with(&after));
    assert!(texts(&items[gap..=gap])[0].contains("deleted before"));
}

#[tokio::test]
async fn a_follower_comes_to_the_end_when_the_log_is_removed() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"text\n").await;
    let mut reader = LogReader::open(&log, follow());
    assert!(within(reader.next_batch()).await.unwrap().is_some());
    let waiting = tokio::spawn(async move { reader.next_batch().await });
    log.remove().await.unwrap();
    assert_eq!(within(waiting).await.unwrap().unwrap(), None);
    assert!(!log.dir().exists());
    // Again, and after that: nothing is there, nothing is wrong.
    log.remove().await.unwrap();
    assert_eq!(read_all(&log).await, []);
}

#[tokio::test]
async fn a_reader_that_is_interrupted_loses_nothing() {
    let bench = Bench::default();
    let log = bench.open("a");
    let lines: Vec<_> = (0..5000).map(|n| format!("line {n}")).collect();
    let mut write = attach(&log, LogStream::Stdout);
    let text = lines.join("\n") + "\n";
    let printing = thread::spawn(move || write.write_all(text.as_bytes()).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
    let mut reader = LogReader::open(&log, ReadQuery::default());
    let mut items = Vec::new();
    loop {
        tokio::select! {
            biased;
            batch = reader.next_batch() => match batch.unwrap() {
                Some(batch) => items.extend(batch),
                None => break,
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(texts(&items) == lines);
}

#[tokio::test]
async fn only_what_was_asked_for() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"one\n").await;
    print(&log, LogStream::Stderr, b"two\n").await;
    print(&log, LogStream::Stdout, b"three\n").await;
    log.append(LogStream::Orchestrator, b"5 bytes of stdout are missing here");
    log.append(LogStream::Orchestrator, b"5 bytes of stderr are missing here");
    log.close().await;
    let of = |stream| ReadQuery { stream: Some(stream), ..ReadQuery::default() };
    let found = texts(&read(&log, of(LogStream::Stdout)).await);
    assert_eq!(found, ["one", "three", "5 bytes of stdout are missing here"]);
    assert_eq!(read(&log, of(LogStream::Stderr)).await.len(), 2);
    assert_eq!(read(&log, of(LogStream::Orchestrator)).await.len(), 2);
    let all = read_all(&log).await;
    let ReadItem::Line(third) = &all[2] else { panic!("{all:?}") };
    let since = ReadQuery { since_ns: Some(third.time_ns), ..ReadQuery::default() };
    assert_eq!(read(&log, since).await, all[2..]);
    let both = ReadQuery { tail: Some(9), ..since };
    assert_eq!(read(&log, both).await, all[2..]);
    let last_of_stdout = ReadQuery { tail: Some(2), ..of(LogStream::Stdout) };
    assert_eq!(texts(&read(&log, last_of_stdout).await), found[1..]);
}

#[tokio::test]
async fn the_last_lines_over_many_files() {
    let bench = Bench::new(64 << 10, 100);
    let log = bench.open("a");
    let lines: Vec<_> = (0..5000).map(|n| format!("line {n}, {}", "x".repeat(n % 97))).collect();
    let mut write = attach(&log, LogStream::Stdout);
    let text = lines.join("\n") + "\n";
    let printing = thread::spawn(move || write.write_all(text.as_bytes()).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
    assert!(files(log.dir()).len() > 5);
    for count in [0, 1, 2, 499, 500, 501, 2500, 4999, 5000, 5001, u64::MAX] {
        let from = lines.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
        let found = texts(&read(&log, tail(count)).await);
        assert!(found == lines[from..], "tail {count}");
    }
    // What comes after the reader has begun is new.
    let query = ReadQuery { follow: true, ..tail(1) };
    let mut reader = LogReader::open(&log, query);
    let last = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&last), [&lines[4999][..]]);
    print(&log, LogStream::Stdout, b"new\n").await;
    log.close().await;
    assert_eq!(texts(&read_to_end(reader).await), ["new"]);
}

#[tokio::test]
async fn a_line_in_parts_counts_as_one() {
    let bench = Bench::default();
    let log = bench.open("a");
    let mut text = vec![b'a'; 3 * MAX_TEXT];
    text.extend(b"\nb\n");
    text.extend(vec![b'c'; 2 * MAX_TEXT + 5]);
    print(&log, LogStream::Stdout, &text).await;
    let lengths = |items: Vec<ReadItem>| texts(&items).iter().map(String::len).collect::<Vec<_>>();
    let part = MAX_TEXT + "…".len();
    let unfinished = vec![part, part, 5 + "…".len()];
    assert_eq!(lengths(read(&log, tail(1)).await), unfinished);
    let mut expected = vec![1];
    expected.extend(&unfinished);
    assert_eq!(lengths(read(&log, tail(2)).await), expected);
    let mut expected = vec![part, part, MAX_TEXT, 1];
    expected.extend(&unfinished);
    assert_eq!(lengths(read(&log, tail(3)).await), expected);
}

#[tokio::test]
async fn the_last_line_of_a_flood_without_newlines_is_bounded() {
    let bench = Bench::default();
    let log = bench.open("a");
    let mut write = attach(&log, LogStream::Stdout);
    let printing = thread::spawn(move || write.write_all(&vec![b'x'; 4 << 20]).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
    let found = content(&read(&log, tail(2)).await, LogStream::Stdout);
    assert!(found.len() <= 2 << 20 && found.len() > 1_900_000, "{}", found.len());
}

#[tokio::test]
async fn what_somebody_did_to_the_files_is_skipped() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"one\ntwo\nthree\n").await;
    let path = log.dir().join("00000001.log");
    let edited = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = edited.lines().collect();
    let long = "long ".repeat(100_000);
    lines.insert(2, "not a record");
    lines.insert(2, &long);
    lines.insert(0, "\0\0\0");
    fs::write(&path, lines.join("\n") + "\nno end").unwrap();
    // Its length is not what it was, so the log goes on in another file.
    print(&log, LogStream::Stdout, b"four\n").await;
    let missed = |count| format!("<{count}: what stands there is not a log record>");
    let mut seen = texts(&read_all(&log).await);
    // The long line is told of by itself, for it is read in pieces.
    seen.dedup();
    let expected = [&missed(1), "one", "two", &missed(1), "three", &missed(1), "four"];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for (seen, expected) in seen.iter().zip(expected) {
        let both = ["one", "two", "three", "four"];
        assert_eq!(both.contains(&&seen[..]), both.contains(&expected));
    }
    assert_eq!(
        texts(&read(&log, tail(3)).await).last().unwrap(),
        "four",
        "the tail is found all the same"
    );
}

#[tokio::test]
async fn a_file_that_somebody_emptied_ends_no_reader() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"one\ntwo\n").await;
    let mut reader = LogReader::open(&log, follow());
    let path = log.dir().join("00000001.log");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let seen = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&seen), ["<0: a log file was cut before it could be read>"]);
    print(&log, LogStream::Stdout, b"three\n").await;
    let seen = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&seen), ["three"]);
}

#[tokio::test]
async fn names_that_are_no_log_files_do_not_matter() {
    let bench = Bench::default();
    let dir = bench.dir.path().join("a");
    fs::create_dir(&dir).unwrap();
    for name in ["1.log", "x.log", "00000001.log.gz", "+0000001.log", "18446744073709551615.log"] {
        fs::write(dir.join(name), "text").unwrap();
    }
    // Not files at all.
    fs::create_dir(dir.join("00000001.log")).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.join("00000002.log")).unwrap();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"text\n").await;
    assert_eq!(texts(&read_all(&log).await), ["text"]);
    assert!(dir.join("00000003.log").exists());
    log.remove().await.unwrap();
    assert!(dir.join("x.log").exists());
}

proptest! {
    // Megabytes in each case: what fails is shown as it is rather than made smaller for hours.
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_in_the_files_can_be_read(
        files in prop::collection::vec(prop::collection::vec(
            prop_oneof![
                Just(b"2026-11-20T18:24:53Z stdout F text\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..200),
                (1_usize..200_000).prop_map(|len| vec![b'x'; len]),
            ], 0..8), 1..4),
        count in prop::option::of(1_u64..20),
        shorter in 0_u64..100,
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(
            async {
                let bench = Bench::default();
                let dir = bench.dir.path().join("a");
                fs::create_dir(&dir).unwrap();
                for (number, pieces) in files.iter().enumerate() {
                    fs::write(dir.join(format!("{:08}.log", number * 2 + 1)), pieces.concat()).unwrap();
                }
                let log = bench.open("a");
                let mut reader = LogReader::open(&log, ReadQuery { tail: count, ..follow() });
                let newest = dir.join(format!("{:08}.log", files.len() * 2 - 1));
                if let Ok(file) = OpenOptions::new().write(true).open(newest) {
                    let len = file.metadata().unwrap().len();
                    file.set_len(len.saturating_sub(shorter)).unwrap();
                    file.write_all_at(b"", 0).unwrap();
                }
                log.append(LogStream::Stdout, b"the end");
                let mut last = None;
                while last.as_deref() != Some("the end") {
                    let batch = within(reader.next_batch()).await.unwrap().unwrap();
                    last = texts(&batch).pop();
                }
                log.close().await;
            },
        );
    }
}
