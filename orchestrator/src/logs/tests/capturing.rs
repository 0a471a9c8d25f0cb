use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;

use super::*;

#[tokio::test]
async fn bytes_of_any_kind_survive() {
    let bench = Bench::default();
    let log = bench.open("a");
    let mut all: Vec<u8> = (0..=255).collect();
    all.extend(b"\xff\xfe \r\n\0\n\n  spaces  \n\xc3");
    print(&log, LogStream::Stderr, b"err\n").await;
    print(&log, LogStream::Stdout, &all).await;
    let items = read_all(&log).await;
    assert_eq!(content(&items, LogStream::Stdout), all);
    assert_eq!(content(&items, LogStream::Stderr), b"err\n");
    let stats = log.stats();
    assert_eq!(stats.bytes_written, all.len() as u64 + 4);
    assert_eq!((stats.bytes_lost, stats.last_error), (0, None));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(log.dir()), 0o700);
    assert_eq!(mode(&log.dir().join("00000001.log")), 0o600);
}

#[tokio::test]
async fn a_flood_without_newlines_stays_within_bounds() {
    let bench = Bench::new(1 << 20, 3);
    let log = bench.open("a");
    let mut write = attach(&log, LogStream::Stdout);
    let flood = thread::spawn(move || {
        for _ in 0..1024 {
            write.write_all(&[b'x'; 64 << 10]).unwrap();
        }
    });
    within(log.drained()).await;
    flood.join().unwrap();
    let stats = log.stats();
    assert_eq!((stats.bytes_written, stats.bytes_lost), (64 << 20, 0));
    let sizes: u64 = files(log.dir()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(sizes <= 3 << 20 && sizes > 2_000_000, "{sizes} bytes on disk");
    let items = read_all(&log).await;
    let bytes = content(&items, LogStream::Stdout);
    assert!(bytes.iter().all(|&byte| byte == b'x'));
    assert!(bytes.len() > 2_000_000);
}

#[tokio::test]
async fn a_prompt_shows_before_its_line_ends() {
    let bench = Bench::default();
    let log = bench.open("a");
    let mut write = attach(&log, LogStream::Stdout);
    let mut reader = LogReader::open(&log, ReadQuery { follow: true, ..ReadQuery::default() });
    write.write_all(b"hello\nlogin: ").unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(within(reader.next_batch()).await.unwrap().unwrap());
    }
    assert_eq!(texts(&seen), ["hello", "login: …"]);
    write.write_all(b"root\n").unwrap();
    let rest = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&rest), ["root"]);
}

#[tokio::test]
async fn a_new_run_does_not_continue_the_line_of_the_last() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"no newline").await;
    print(&log, LogStream::Stdout, b"next run\n").await;
    assert_eq!(texts(&read_all(&log).await), ["no newline…", "", "next run"]);
}

#[tokio::test]
async fn what_the_daemon_says_is_among_it() {
    let bench = Bench::default();
    let log = bench.open("a");
    log.append(LogStream::Telemetry, b"one\ntwo\n");
    log.append(LogStream::Orchestrator, b"");
    let long = vec![b'x'; MAX_TEXT + 1];
    log.append(LogStream::Telemetry, &long);
    until(&log, |stats| stats.bytes_written == 9 + MAX_TEXT as u64 + 2).await;
    let items = read_all(&log).await;
    let mut expected = b"one\ntwo\n".to_vec();
    expected.extend(&long);
    expected.push(b'\n');
    assert_eq!(content(&items, LogStream::Telemetry), expected);
    assert_eq!(remarks(&items), "\n");
}

#[tokio::test]
async fn what_finds_the_queue_full_is_counted_and_told() {
    let bench = Bench::default();
    let log = bench.open("a");
    let text = vec![b'x'; 99_999];
    for _ in 0..200 {
        log.append(LogStream::Telemetry, &text);
    }
    log.close().await;
    let stats = log.stats();
    assert_eq!(stats.bytes_written + stats.bytes_lost, 200 * 100_000);
    assert!(!stats.failing);
    let items = read_all(&log).await;
    let kept = content(&items, LogStream::Telemetry).len() as u64;
    assert_eq!(kept, stats.bytes_written);
    assert_eq!(
        remarks(&items).contains(" bytes of telemetry are missing here"),
        stats.bytes_lost > 0
    );
    log.append(LogStream::Telemetry, b"too late");
    assert_eq!(log.stats().bytes_lost, stats.bytes_lost + 9);
}

#[tokio::test]
async fn what_is_no_pipe_is_told_of_in_the_log() {
    let bench = Bench::default();
    let log = bench.open("a");
    let (read, write) = pipe();
    let file = File::create(bench.dir.path().join("file")).unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    for wrong in [OwnedFd::from(file), OwnedFd::from(write), OwnedFd::from(socket)] {
        attach_pipe(&log, LogStream::Stdout, wrong);
        within(log.drained()).await;
    }
    print(&log, LogStream::Stdout, b"a pipe\n").await;
    let refused = |why| format!("stdout and stderr can't be captured: {why}");
    assert_eq!(
        texts(&read_all(&log).await),
        [
            &refused("it is not a pipe"),
            &refused("it is the writing end of a pipe"),
            &refused("it is not a pipe"),
            "a pipe",
        ]
    );
    let again = bench.capture.open(log.instance(), log.dir().to_owned()).unwrap_err();
    assert!(matches!(again, LogError::AlreadyOpen(_)), "{again}");
    log.close().await;
    let error = log.attach(next_run(), read, pipe().0).unwrap_err();
    assert!(matches!(error, LogError::Closed(_)), "{error}");
    within(log.drained()).await;
    bench.capture.open(log.instance(), log.dir().to_owned()).unwrap();
}

#[tokio::test]
async fn a_flood_starves_nobody() {
    let bench = Bench::default();
    let flood = bench.open("flood");
    let mut child = Command::new("cat").arg("/dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    attach_pipe(&flood, LogStream::Stdout, OwnedFd::from(stdout));
    until(&flood, |stats| stats.bytes_written > 1 << 20).await;
    let quiet = bench.open("quiet");
    // The pipe of the flood is never empty: were it read until it is, no line would come.
    for turn in 0..101 {
        let before = stats(&flood).await.bytes_written;
        let line = format!("line {turn}\n");
        print(&quiet, LogStream::Stdout, line.as_bytes()).await;
        until(&flood, |stats| stats.bytes_written > before).await;
    }
    assert_eq!(read_all(&quiet).await.len(), 101);
    flood.remove().await.unwrap();
    assert!(!flood.dir().exists());
    // Its pipe is closed, so it dies of that by itself.
    child.wait().unwrap();
}

#[tokio::test]
async fn two_hundred_instances_at_once() {
    let bench = Bench::new(256 << 10, 2);
    let logs: Vec<_> = (0..200).map(|n| bench.open(&format!("{n}"))).collect();
    let mut pipes: Vec<_> = logs.iter().map(|log| attach(log, LogStream::Stdout)).collect();
    let printing = thread::spawn(move || {
        for line in 0..50 {
            for (n, pipe) in pipes.iter_mut().enumerate() {
                writeln!(pipe, "line {line} of {n}").unwrap();
            }
        }
    });
    for (n, log) in logs.iter().enumerate() {
        within(log.drained()).await;
        let expected: Vec<_> = (0..50).map(|line| format!("line {line} of {n}")).collect();
        assert_eq!(texts(&read_all(log).await), expected);
    }
    printing.join().unwrap();
    bench.capture.shutdown(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_takes_what_is_there_and_the_next_daemon_goes_on() {
    let bench = Bench::default();
    let log = bench.open("a");
    let (read, mut write) = pipe();
    attach_pipe(&log, LogStream::Stdout, read.try_clone().unwrap());
    write.write_all(b"one\ntwo\nthr").unwrap();
    bench.capture.shutdown(DEADLINE).await.unwrap();
    // Nobody waits for a log that nobody writes.
    within(log.drained()).await;
    within(log.close()).await;
    assert_eq!(texts(&read_all(&log).await), ["one", "two", "thr…"]);

    write.write_all(b"ee\nfour\n").unwrap();
    drop(write);
    let next = Bench::default();
    let log = next.capture.open(log.instance(), log.dir().to_owned()).unwrap();
    attach_pipe(&log, LogStream::Stdout, read);
    within(log.drained()).await;
    let items = read_all(&log).await;
    assert_eq!(content(&items, LogStream::Stdout), b"one\ntwo\nthree\nfour\n");
    assert_eq!(files(log.dir()).len(), 1);
}

#[tokio::test]
async fn two_pipes_that_end_together_cost_one_word() {
    let bench = Bench::default();
    let log = bench.open("a");
    stats(&log).await;
    let mut heard = log.shared.progress.subscribe();
    let ((stdout, write), (stderr, other)) = (pipe(), pipe());
    log.attach(next_run(), stdout, stderr).unwrap();
    drop(heard.borrow_and_update());
    drop((write, other));
    within(heard.changed()).await.unwrap();
    assert_eq!(heard.borrow_and_update().runs, 0);
    // The answer to this is the only other one.
    let look = log.shared.look();
    within(heard.changed()).await.unwrap();
    assert_eq!(heard.borrow().looked, look);
}

#[tokio::test]
async fn what_comes_bit_by_bit_is_read_each_time() {
    let bench = Bench::default();
    let log = bench.open("a");
    let mut pipes = [LogStream::Stdout, LogStream::Stderr, LogStream::Stdout]
        .map(|stream| attach(&log, stream));
    let mut reader = LogReader::open(&log, ReadQuery { follow: true, ..ReadQuery::default() });
    for round in 0..200 {
        // Nothing is under way for any of them when the next line comes.
        let at = round % pipes.len();
        let line = format!("line {round}");
        writeln!(pipes[at], "{line}").unwrap();
        let items = within(reader.next_batch()).await.unwrap().unwrap();
        assert_eq!(texts(&items), [line]);
    }
    drop(pipes);
    within(log.drained()).await;
}

#[tokio::test]
async fn a_pipe_that_others_have_open_is_read_by_one_log_after_the_other() {
    let bench = Bench::default();
    let (read, mut write) = pipe();
    for round in 0..20_u32 {
        let log = bench.open(&format!("log {round}"));
        attach_pipe(&log, LogStream::Stdout, read.try_clone().unwrap());
        writeln!(write, "first of {round}").unwrap();
        within(log.close()).await;
        // Of what comes now nobody is told, before it is the next one's.
        writeln!(write, "rest of {round}").unwrap();
        let items = read_all(&log).await;
        let seen = texts(&items);
        let before = (round > 0).then(|| format!("rest of {}", round - 1));
        let expected: Vec<_> = before.into_iter().chain([format!("first of {round}")]).collect();
        assert_eq!(seen, expected);
    }
}
