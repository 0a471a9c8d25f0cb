//! Capture as a real process: what becomes of output when one of the two ends without warning.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use super::super::file::Position;
use super::super::socket::Socket;
use super::super::wire::{self, Hello, Order, ProcessId, Report, VERSIONS};
use super::*;

/// Becomes the capture process, when it is executed as one.
#[test]
fn role() {
    if let Some(ended) = capture_role() {
        assert_eq!(ended, std::process::ExitCode::SUCCESS);
    }
}

/// The capture processes that were started. Those that are left are killed at the end.
#[derive(Clone, Default)]
pub(super) struct Started(Arc<Mutex<Vec<Child>>>);

impl Started {
    /// Executes this test program as the capture process.
    fn starter(&self) -> Starter {
        let started = self.clone();
        Arc::new(move |listener| {
            let child = Command::new("/proc/self/exe")
                .args(["--exact", "logs::tests::apart::role"])
                .env(process::CAPTURE_ROLE.0, process::CAPTURE_ROLE.1)
                .process_group(0)
                .stdin(listener)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            started.0.lock().unwrap().push(child);
            Ok(())
        })
    }

    /// Kills the last one.
    pub(super) fn kill(&self) {
        let mut started = self.0.lock().unwrap();
        let child = started.last_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits until all have ended by themselves.
    pub(super) fn wait(&self) {
        for child in &mut *self.0.lock().unwrap() {
            child.wait().unwrap();
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) == 1 {
            for child in &mut *self.0.lock().unwrap() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Waits until the daemon's side has let go of a log.
async fn left(log: &InstanceLog) {
    let mut progress = log.shared.progress.subscribe();
    within(progress.wait_for(|progress| progress.closed)).await.unwrap();
}

pub(super) struct Apart {
    dir: TempDir,
    pub(super) started: Started,
    pub(super) capture: Capture,
}

impl Apart {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let started = Started::default();
        let capture = Self::connect(dir.path(), &started);
        Self { dir, started, capture }
    }

    fn connect(dir: &Path, started: &Started) -> Capture {
        // All is kept, however much a test prints.
        let config = CaptureConfig { max_file_bytes: 1 << 20, max_files: 1000 };
        Capture::start(config, dir.join("capture"), started.starter(), Arc::<Kept>::default())
    }

    pub(super) fn open(&self, name: &str) -> InstanceLog {
        let dir = self.dir.path().join(name);
        self.capture.open(InstanceId::generate(), dir).unwrap()
    }
}

/// Prints numbered lines until it is told to stop; the answer is how many.
pub(super) struct Counting {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Counting {
    pub(super) fn new(mut pipe: File) -> Self {
        let stop = Arc::<std::sync::atomic::AtomicBool>::default();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                writeln!(pipe, "line {count}").unwrap();
                count += 1;
            }
            count
        });
        Self { stop, thread }
    }

    pub(super) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The numbers of the lines in a stream, as far as they are whole.
pub(super) fn numbers(items: &[ReadItem], stream: LogStream) -> Vec<u64> {
    let text = String::from_utf8(content(items, stream)).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_daemon_ends() {
    let apart = Apart::new();
    let log = apart.open("a");
    let (id, dir) = (log.instance(), log.dir().to_owned());
    let ((out, to_out), (err, to_err)) = (pipe(), pipe());
    log.attach(7, out, err).unwrap();
    let counting = [Counting::new(to_out), Counting::new(to_err)];
    let far = |at: u64| move |stats: &LogStats| stats.bytes_written > at;
    until(&log, far(100_000)).await;
    let Apart { dir: root, started, capture } = apart;
    // Nothing is said for goodbye, and no copy of the pipes is kept.
    drop(capture);
    left(&log).await;
    drop(log);

    let capture = Apart::connect(root.path(), &started);
    let inventory = within(capture.inventory()).await.unwrap();
    assert_eq!(inventory.len(), 1);
    let pipes = vec![(7, LogStream::Stdout), (7, LogStream::Stderr)];
    assert_eq!(inventory[0], Captured { instance: id, dir: dir.clone(), pipes });
    let log = capture.open(id, dir).unwrap();
    // It goes on: this is no new run.
    log.adopt(7).unwrap();
    let before = stats(&log).await.bytes_written;
    until(&log, far(before + 100_000)).await;
    let printed = counting.map(Counting::stop);
    within(log.drained()).await;
    let items = read_all(&log).await;
    for (stream, printed) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(printed) {
        assert!(numbers(&items, stream).into_iter().eq(0..printed), "{stream}");
    }
    assert_eq!(remarks(&items), "");
    assert_eq!(started.count(), 1);
    capture.shutdown(DEADLINE).await.unwrap();
    started.wait();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_capture_process_loses_no_more_than_it_held() {
    let apart = Apart::new();
    let log = apart.open("a");
    let quiet = apart.open("quiet");
    let _open = attach(&quiet, LogStream::Stdout);
    let ((out, to_out), (err, to_err)) = (pipe(), pipe());
    log.attach(next_run(), out, err).unwrap();
    let counting = [Counting::new(to_out), Counting::new(to_err)];
    let mut kills = 0;
    for _ in 0..3 {
        let before = stats(&log).await.bytes_written;
        until(&log, |stats| stats.bytes_written > before + 200_000).await;
        apart.started.kill();
        kills += 1;
        let restarted = || apart.started.count() > kills;
        let mut heard = log.shared.progress.subscribe();
        within(async {
            while !(restarted() && heard.borrow_and_update().exact) {
                heard.changed().await.unwrap();
            }
        })
        .await;
    }
    let printed = counting.map(Counting::stop);
    within(log.drained()).await;
    let items = read_all(&log).await;
    for (stream, printed) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(printed) {
        let seen = numbers(&items, stream);
        let expected = content(&items, stream).len() as u64;
        let bytes: u64 = (0..printed).map(|n| format!("line {n}\n").len() as u64).sum();
        assert!(seen.windows(2).all(|two| two[0] < two[1]), "{stream}: doubled");
        assert_eq!(seen.last(), Some(&(printed - 1)), "{stream}: the end is there");
        assert!(bytes - expected <= kills as u64 * (64 << 10), "{} bytes", bytes - expected);
    }
    let told = |items: &[ReadItem]| remarks(items).matches("capture was restarted here").count();
    assert_eq!(told(&items), kills, "{}", remarks(&items));
    // Who asks for one stream is told too.
    let query = ReadQuery { stream: Some(LogStream::Stderr), ..ReadQuery::default() };
    assert_eq!(told(&read(&log, query).await), kills);
    assert_eq!(told(&read_all(&quiet).await), kills);
    apart.capture.shutdown(DEADLINE).await.unwrap();
    apart.started.wait();
}

#[tokio::test]
async fn it_ends_by_itself_when_nobody_needs_it() {
    let dir = TempDir::new().unwrap();
    let (ended, wait) = tokio::sync::oneshot::channel();
    let ended = Mutex::new(Some(ended));
    let starter: Starter = Arc::new(move |listener| {
        let ended = ended.lock().unwrap().take();
        thread::spawn(move || {
            let idle = Duration::from_secs(1);
            let result = process::run(listener, Settings { idle, ..Settings::default() });
            ended.unwrap().send(result).unwrap();
        });
        Ok(())
    });
    let config = CaptureConfig::default();
    let socket = dir.path().join("capture");
    let capture = Capture::start(config, socket, starter, Arc::<Kept>::default());
    let log = capture.open(InstanceId::generate(), dir.path().join("a")).unwrap();
    let mut write = attach(&log, LogStream::Stdout);
    stats(&log).await;
    drop(capture);
    left(&log).await;
    // The instance alone keeps it.
    write.write_all(b"alone\n").unwrap();
    drop(write);
    within(wait).await.unwrap().unwrap();
    assert_eq!(texts(&read_all(&log).await)[0], "alone");
}

#[tokio::test]
async fn what_cannot_be_started_is_told_to_readers_and_tried_again() {
    let bench = TempDir::new().unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let (counted, real) = (tries.clone(), in_thread(|| Box::new(Kernel)));
    let starter: Starter =
        Arc::new(move |listener| match counted.fetch_add(1, Ordering::Relaxed) {
            0..4 => Err(std::io::Error::other("no process left")),
            _ => real(listener),
        });
    let config = CaptureConfig::default();
    let socket = bench.path().join("capture");
    let capture = Capture::start(config, socket, starter, Arc::<Kept>::default());
    let log = capture.open(InstanceId::generate(), bench.path().join("a")).unwrap();
    let mut write = attach(&log, LogStream::Stdout);
    write.write_all(b"waits in the pipe\n").unwrap();
    log.append(LogStream::Telemetry, b"waits here");
    let mut reader = LogReader::open(&log, ReadQuery { follow: true, ..ReadQuery::default() });
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(texts(&within(reader.next_batch()).await.unwrap().unwrap()));
    }
    let why = "<0: output is not captured at the moment: it can't be started: no process left>";
    assert_eq!(seen[0], why);
    seen[1..].sort();
    assert_eq!(seen[1..], ["waits here", "waits in the pipe"]);
    assert_eq!(tries.load(Ordering::Relaxed), 5);
}

/// A client of its own, that may say anything.
struct Rude(Socket);

impl Rude {
    async fn new(bench: &Bench) -> Self {
        Self(Socket::connect(&bench.dir.path().join("capture")).unwrap())
    }

    fn greet(&self, versions: (u16, u16)) {
        let hello = Hello { versions, process: ProcessId::default(), program: None };
        self.0.send(&hello.encode(), &[]).unwrap();
    }

    fn order(&self, order: &Order) {
        self.0.send(&wire::encode(order).unwrap(), &[]).unwrap();
    }

    /// The next datagram; empty at the end.
    async fn hear(&self) -> Vec<u8> {
        let mut buffer = vec![0; wire::MAX_DATAGRAM];
        within(async {
            loop {
                match self.0.receive(&mut buffer) {
                    Ok(received) => return buffer[..received.len].to_vec(),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        tokio::task::yield_now().await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn another_version_is_refused_with_a_reason() {
    let bench = Bench::default();
    stats(&bench.open("a")).await;
    let rude = Rude::new(&bench).await;
    rude.greet((7, 9));
    let why = Hello::decode(&rude.hear().await).unwrap_err();
    assert!(why.contains("1 to 1") && why.contains("7 to 9"), "{why}");
    assert_eq!(rude.hear().await, b"");
    let rude = Rude::new(&bench).await;
    rude.0.send(b"what is this", &[]).unwrap();
    assert!(Hello::decode(&rude.hear().await).is_err());
    assert_eq!(rude.hear().await, b"");
}

#[tokio::test]
async fn nonsense_closes_one_connection_and_nothing_else() {
    let bench = Bench::default();
    let log = bench.open("a");
    print(&log, LogStream::Stdout, b"before\n").await;
    let instance = log.instance();
    let text = |text: &[u8]| wire::Text {
        time_ns: 0,
        stream: LogStream::Telemetry,
        complete: true,
        text: orchestrator_proto::OsBytes(text.to_vec()),
    };
    let append = |bytes: &[u8]| {
        wire::encode(&Order::Append { instance, texts: vec![text(bytes)], dropped: vec![] })
    };
    let nonsense = [
        vec![0xff; 100],
        vec![0; 1],
        wire::encode(&Order::Attach { instance, run: 1, again: false }).unwrap(),
        append(b"two\nlines").unwrap(),
        append(&vec![b'x'; MAX_TEXT + 1]).unwrap(),
        [wire::encode(&Order::Shutdown).unwrap(), b"and more".to_vec()].concat(),
    ];
    for datagram in nonsense {
        let rude = Rude::new(&bench).await;
        rude.greet(VERSIONS);
        Hello::decode(&rude.hear().await).unwrap();
        let dir = log.dir().as_os_str().into();
        rude.order(&Order::Open { instance, dir, max_file_bytes: 1 << 20, max_files: 4 });
        assert!(matches!(wire::decode(&rude.hear().await), Some(Report::Opened { .. })));
        rude.0.send(&datagram, &[]).unwrap();
        let Some(Report::Notice { text }) = wire::decode(&rude.hear().await) else {
            panic!("{datagram:?} is understood");
        };
        assert!(text.contains("closes a connection"), "{text}");
        assert_eq!(rude.hear().await, b"");
    }
    // Files that nobody asked for.
    let rude = Rude::new(&bench).await;
    rude.greet(VERSIONS);
    Hello::decode(&rude.hear().await).unwrap();
    let inventory = wire::encode(&Order::Inventory { after: None }).unwrap();
    rude.0.send(&inventory, &[pipe().0.as_fd()]).unwrap();
    assert!(matches!(wire::decode(&rude.hear().await), Some(Report::Notice { .. })));
    assert_eq!(rude.hear().await, b"");
    print(&log, LogStream::Stdout, b"after\n").await;
    assert_eq!(texts(&read_all(&log).await), ["before", "after"]);
}

#[tokio::test]
async fn who_does_not_listen_slows_nobody() {
    let bench = Bench::new(1 << 20, 4);
    let log = bench.open("a");
    stats(&log).await;
    let rude = Rude::new(&bench).await;
    rude.greet(VERSIONS);
    // It asks until its own socket is full, and never hears an answer.
    let inventory = wire::encode(&Order::Inventory { after: None }).unwrap();
    let mut asked = 0;
    while rude.0.send(&inventory, &[]).is_ok() {
        asked += 1;
        tokio::task::yield_now().await;
    }
    assert!(asked > 100);
    let mut child = Command::new("cat").arg("/dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    attach_pipe(&log, LogStream::Stdout, child.stdout.take().unwrap().into());
    until(&log, |stats| stats.bytes_written > 50 << 20).await;
    log.remove().await.unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_flood_costs_a_follower_that_does_not_read_one_datagram() {
    let bench = Bench::default();
    let log = bench.open("a");
    stats(&log).await;
    let idle = Rude::new(&bench).await;
    idle.greet(VERSIONS);
    Hello::decode(&idle.hear().await).unwrap();
    let (instance, dir) = (log.instance(), log.dir().as_os_str().into());
    idle.order(&Order::Open { instance, dir, max_file_bytes: 1 << 20, max_files: 4 });
    assert!(matches!(wire::decode(&idle.hear().await), Some(Report::Opened { .. })));
    idle.order(&Order::Watch { instance, beyond: Position::default() });
    let mut child = Command::new("cat").arg("/dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    attach_pipe(&log, LogStream::Stdout, child.stdout.take().unwrap().into());
    until(&log, |stats| stats.bytes_written > 20 << 20).await;
    log.close().await;
    child.wait().unwrap();
    assert!(matches!(wire::decode(&idle.hear().await), Some(Report::Progress { .. })));
    // That the run has ended, and that the log is closed, is all that comes besides.
    let mut rest = vec![idle.hear().await];
    while !matches!(rest.last().and_then(|last| wire::decode(last)), Some(Report::Closed { .. })) {
        rest.push(idle.hear().await);
    }
    assert!(rest.len() <= 2, "{} datagrams", rest.len());
}
