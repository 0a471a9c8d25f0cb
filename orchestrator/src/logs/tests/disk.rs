use std::io;
use std::process::Command;
use std::sync::Mutex;

use super::super::file::{LogFiles, Position};
use super::super::record::{Batch, Record};
use super::super::rules::Rules;
use super::super::writer::Writer;
use super::*;

/// A disk with room for so many bytes, of which a write takes at most `piece`.
#[derive(Clone)]
pub(super) struct Small(Arc<Mutex<Room>>);

pub(super) struct Room {
    left: usize,
    piece: usize,
    /// Whether even cutting a file fails.
    stuck: bool,
    writes: u64,
}

impl Small {
    pub(super) fn new(left: usize, piece: usize) -> Self {
        Self(Arc::new(Mutex::new(Room { left, piece, stuck: false, writes: 0 })))
    }

    pub(super) fn set_left(&self, left: usize) {
        self.0.lock().unwrap().left = left;
    }
}

impl Disk for Small {
    fn create(&mut self, path: &Path) -> io::Result<File> {
        Kernel.create(path)
    }

    fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut room = self.0.lock().unwrap();
        room.writes += 1;
        let count = bytes.len().min(room.left).min(room.piece);
        if count == 0 {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        room.left -= count;
        Kernel.write_at(file, &bytes[..count], offset)
    }

    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()> {
        let mut room = self.0.lock().unwrap();
        if room.stuck {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        room.left += usize::try_from(file.metadata()?.len() - len).unwrap();
        Kernel.truncate(file, len)
    }
}

fn batch(texts: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for text in texts {
        batch.push(1_795_199_093_000_000_000, LogStream::Stdout, true, text.as_bytes());
    }
    batch
}

fn content_of(dir: &Path) -> String {
    files(dir).iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

fn open_writer(dir: &Path, disk: &Small) -> Writer {
    open_writer_with(dir, disk, WhenFull::Drop)
}

fn open_writer_with(dir: &Path, disk: &Small, when_full: WhenFull) -> Writer {
    let rules = Rules { when_full, ..Rules::default() };
    Writer::open(dir.into(), rules, Box::new(disk.clone())).unwrap()
}

#[test]
fn short_writes_are_completed() {
    let dir = TempDir::new().unwrap();
    let disk = Small::new(1 << 20, 7);
    let mut writer = open_writer(dir.path(), &disk);
    let records = batch(&["one", "two", "three"]);
    writer.write(&records);
    assert_eq!(content_of(dir.path()).as_bytes(), records.bytes());
    assert_eq!((writer.stats().bytes_written, writer.stats().bytes_lost), (14, 0));
}

#[test]
fn a_full_disk_tears_no_record_at_any_byte() {
    let records = batch(&["one", "two", "three"]);
    let len = records.bytes().len();
    for left in 0..=len {
        for piece in [3, 1000] {
            for stuck in [false, true] {
                let dir = TempDir::new().unwrap();
                let disk = Small::new(left, piece);
                disk.0.lock().unwrap().stuck = stuck;
                let mut writer = open_writer(dir.path(), &disk);
                writer.write(&records);
                let stats = writer.stats().clone();
                assert_eq!(stats.bytes_written + stats.bytes_lost, 14);
                assert_eq!((stats.bytes_lost > 0, stats.failing), (left < len, left < len));
                let whole = &records.bytes()[..usize::try_from(writer.end().offset).unwrap()];
                assert!(whole.is_empty() || whole.ends_with(b"\n"));
                assert!(content_of(dir.path()).as_bytes().starts_with(whole));

                disk.set_left(1 << 20);
                writer.write(&batch(&["later"]));
                let text = content_of(dir.path());
                assert!(text.ends_with(" stdout F later\n"), "{text}");
                let told = format!(
                    "stderr F orchestrator: {} bytes of stdout are missing here, between \
                     2026-11-20T18:24:53.000000000Z and 2026-11-20T18:24:53.000000000Z: \
                     No space left on device",
                    stats.bytes_lost
                );
                assert_eq!(text.contains(&told), left < len, "{text}");
                assert_eq!(text.matches("missing here").count(), usize::from(left < len));
                assert!(!writer.stats().failing);
                assert_eq!(writer.stats().last_error, stats.last_error);
                if !stuck {
                    let is_record = |line| Record::parse(line).is_some();
                    assert!(text.lines().map(str::as_bytes).all(is_record), "{text}");
                }
            }
        }
    }
}

#[test]
fn a_nearly_full_disk_is_not_filled_with_remarks() {
    let dir = TempDir::new().unwrap();
    let disk = Small::new(0, usize::MAX);
    let mut writer = open_writer(dir.path(), &disk);
    let long = "x".repeat(10_000);
    writer.write(&batch(&[&long]));
    disk.set_left(1000);
    for _ in 0..100 {
        writer.write(&batch(&[&long]));
    }
    assert_eq!(content_of(dir.path()), "");
    assert_eq!(writer.stats().bytes_lost, 101 * 10_001);
    // Without output the remark is written as soon as there is room.
    writer.write(&Batch::default());
    let text = content_of(dir.path());
    assert!(text.contains(" 1010101 bytes of stdout are missing here"), "{text}");
    assert!(!writer.stats().failing);
}

#[tokio::test]
async fn instances_do_not_wait_for_a_full_disk() {
    let disk = Small::new(100_000, usize::MAX);
    let inner = disk.clone();
    let bench = Bench::on(move || Box::new(inner.clone()));
    let log = bench.open_with("a", &dropping());
    let line = [&[b'x'; 999][..], b"\n"].concat();
    print_all(&log, line.repeat(1000)).await;
    let stats = log.stats();
    assert!(stats.failing && stats.bytes_lost >= 900_000, "{stats:?}");
    assert!(stats.last_error.as_ref().unwrap().message.contains("No space"));
    // It is told although nothing more is printed.
    disk.set_left(1 << 20);
    until(&log, |stats| !stats.failing).await;
    print(&log, LogStream::Stdout, b"again\n").await;
    let items = read_all(&log).await;
    let kept = content(&items, LogStream::Stdout);
    assert_eq!(kept.len() as u64, stats.bytes_written + 6);
    assert!(kept.ends_with(b"again\n"));
    assert_eq!(told_lost(&remarks(&items)), stats.bytes_lost, "{}", remarks(&items));
}

/// A disk that does not answer as long as the mutex is locked.
struct Hung(Arc<Mutex<()>>);

impl Disk for Hung {
    fn create(&mut self, path: &Path) -> io::Result<File> {
        Kernel.create(path)
    }

    fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let _answer = self.0.lock();
        Kernel.write_at(file, bytes, offset)
    }

    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()> {
        Kernel.truncate(file, len)
    }
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "that is how the disk hangs")]
async fn a_shutdown_does_not_wait_for_ever() {
    let answer = Arc::new(Mutex::new(()));
    let inner = answer.clone();
    let bench = Bench::on(move || Box::new(Hung(inner.clone())));
    let log = bench.open("a");
    stats(&log).await;
    let hanging = answer.lock().unwrap();
    log.append(LogStream::Orchestrator, b"text");
    let result = bench.capture.shutdown(Duration::from_millis(50)).await;
    assert!(matches!(result, Err(LogError::Deadline(_))), "{result:?}");
    drop(hanging);
    within(log.close()).await;
    assert_eq!(texts(&read_all(&log).await), ["text"]);
}

#[tokio::test]
async fn a_full_file_system() {
    let mount = TempDir::new().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(mount.path())
        .output();
    match mounted {
        Ok(output) if output.status.success() => {}
        other => {
            // Not by `eprintln!`, which is shown to nobody when a test passes.
            let _ = writeln!(
                io::stderr(),
                "SKIPPED a_full_file_system: a file system can't be mounted here: {other:?}"
            );
            return;
        }
    }
    let _unmount = Unmount(mount.path());
    let bench = Bench::default();
    let dir = mount.path().join("log");
    let log = bench.capture.open_with(InstanceId::generate(), dir, &dropping()).unwrap();
    let other = mount.path().join("other");
    fs::write(&other, vec![0; 100_000]).unwrap();
    let text = [&[b'x'; 99][..], b"\n"].concat().repeat(10_000);
    print_all(&log, text).await;
    let stats = log.stats();
    assert!(stats.failing && stats.bytes_lost > 700_000, "{stats:?}");
    assert_eq!(stats.bytes_written + stats.bytes_lost, 1_000_000);
    fs::remove_file(other).unwrap();
    print_all(&log, b"again\n".to_vec()).await;
    let items = read_all(&log).await;
    let kept = content(&items, LogStream::Stdout);
    assert_eq!(kept.len() as u64, stats.bytes_written + 6);
    assert_eq!(told_lost(&remarks(&items)), stats.bytes_lost, "{}", remarks(&items));
    let is_line = |item: &ReadItem| matches!(item, ReadItem::Line(line) if line.complete);
    assert!(items.iter().all(is_line));
    bench.capture.shutdown(DEADLINE).await.unwrap();
}

async fn print_all(log: &InstanceLog, text: Vec<u8>) {
    let mut write = attach(log, LogStream::Stdout);
    let printing = std::thread::spawn(move || write.write_all(&text).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_deleted_directory_comes_back() {
    let bench = Bench::default();
    let log = bench.open("a/b");
    print(&log, LogStream::Stdout, b"one\n").await;
    let mut reader = LogReader::open(&log, ReadQuery { follow: true, ..ReadQuery::default() });
    let seen = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&seen), ["one"]);
    fs::remove_dir_all(bench.dir.path().join("a")).unwrap();
    print(&log, LogStream::Stdout, b"two\n").await;
    assert_eq!(texts(&read_all(&log).await), ["two"]);
    let seen = within(reader.next_batch()).await.unwrap().unwrap();
    assert_eq!(texts(&seen), ["two"]);
    assert_eq!(log.stats().bytes_lost, 0);
    // Only the file.
    fs::remove_file(&files(log.dir())[0]).unwrap();
    print(&log, LogStream::Stdout, b"three\n").await;
    assert_eq!(texts(&read_all(&log).await), ["three"]);
}

#[test]
fn a_restart_goes_on_and_cuts_what_is_torn() {
    let dir = TempDir::new().unwrap();
    let disk = Small::new(usize::MAX, usize::MAX);
    open_writer(dir.path(), &disk).write(&batch(&["one", "two"]));
    let path = dir.path().join("00000001.log");
    let len = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(len - 2).unwrap();
    let mut writer = open_writer(dir.path(), &disk);
    writer.write(&batch(&["three"]));
    let text = content_of(dir.path());
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines[0], "stdout F one");
    assert!(lines[1].starts_with("stderr F orchestrator: the last record was torn"), "{text}");
    assert_eq!(lines[2], "stdout F three");
    assert_eq!(lines.len(), 3);
    assert_eq!(files(dir.path()).len(), 1);

    // A file that ends with something quite different is left alone.
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let mut writer = open_writer(dir.path(), &disk);
    writer.write(&batch(&["four"]));
    assert_eq!(writer.end().number, 2);
    assert_eq!(files(dir.path()).len(), 2);
    // The rest of a record without anything before it is cut off too.
    fs::write(dir.path().join("00000002.log"), "2026-11-20T18").unwrap();
    let writer = open_writer(dir.path(), &disk);
    assert_eq!(writer.end(), Position { number: 2, offset: 0 });
}

#[test]
fn the_bounds_hold_at_all_times() {
    let dir = TempDir::new().unwrap();
    let config = |max_files| Rules { max_file_bytes: 64 << 10, max_files, ..Rules::default() };
    let open = |max_files| {
        LogFiles::open(dir.path().into(), config(max_files), Box::new(Kernel)).unwrap().0
    };
    let mut records = open(3);
    // Somebody has put a file in the way.
    fs::write(dir.path().join("00000004.log"), "foreign").unwrap();
    let text = "x".repeat(5000);
    for turn in 0..200 {
        records.write(batch(&vec![&text[..]; 1 + turn % 20]).bytes()).unwrap();
        let files = files(dir.path());
        assert!(files.len() <= 4, "{files:?}");
        for file in &files {
            assert!(fs::metadata(file).unwrap().len() <= 64 << 10);
        }
    }
    assert_eq!(files(dir.path()).len(), 3);
    drop(records);
    drop(open(2));
    assert_eq!(files(dir.path()).len(), 2);
}
