//! Output: how fast a flood of it gets into a file, and how long a line of a neighbour takes
//! meanwhile.
//!
//! What floods writes lines of 100 bytes, 64 KiB at a time, so that hardly anything but the way of
//! its bytes is measured; it says when the last of them was taken from it, which is all but what
//! fits into a pipe. The neighbour prints one line when it is told to, and the kernel tells when a
//! file of its log is written (inotify(7)): the time includes that of waking the neighbour and this
//! program, also in the floor. The floor is one process for each pipe that reads 64 KiB, writes
//! them, and begins a new file every 8 MiB.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use orchestrator_proto::control::{Reply, Request, RuntimeSpec};
use rustix::fs::inotify;
use tests::SOON;

use crate::Setting;
use crate::actor::FLAG;
use crate::fifo::{Fifo, readable};
use crate::rivals::{Kept, Rival};
use crate::series::{Contender, Times, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};

/// The part of an instance that prints as much as it can.
const FLOOD: &str = "flood";
/// The part of an instance that prints a line when it is told to.
const SAY: &str = "say";
/// The part of the floor that brings standard input into a file.
const COPY: &str = "copy";

/// A file of the floor's log.
const FILE_BYTES: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
const LINE: usize = 100;
/// What is printed meanwhile, in MiB, again and again while the neighbour is measured.
const BACKGROUND: u32 = 64;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let mebibytes = setting.effort.pick(128, 32);
    let lines = setting.effort.pick(200, 30);
    let rivals = Rival::installed();
    let mut sides = vec![RefCell::new(Side::bare()), RefCell::new(Side::ours())];
    sides.extend(rivals.iter().map(|rival| RefCell::new(Side::of(*rival))));
    let mut contenders: Vec<Contender<'_, 3>> = Vec::new();
    for side in &sides {
        contenders.push(Box::new(move || {
            let mut side = side.borrow_mut();
            let throughput = side.flood(mebibytes);
            let quiet = side.neighbour(lines, false);
            let flooded = side.neighbour(lines, true);
            [throughput, quiet, flooded]
        }));
    }
    let series = take_turns(setting.effort.rounds(), &mut contenders);
    drop(contenders);
    let names: Vec<&str> = rivals.iter().map(|rival| rival.name()).collect();
    let figures = [
        ("a flood of output, through to the file", Unit::Throughput, Target::Share(1.0)),
        ("a line until it is in its file, p50", Unit::Time, Target::Ratio(1.0)),
        ("the same while a neighbour floods, p50", Unit::Time, Target::Ratio(1.0)),
    ];
    let mut rows = Vec::new();
    for (figure, (what, unit, target)) in figures.into_iter().enumerate() {
        let mut row = |against: &str, floor: usize, target| {
            rows.push(Row {
                what: format!("{what}; floor: {against}"),
                regime: setting.regime,
                unit,
                ours: series[1][figure].clone(),
                floor: Some(series[floor][figure].clone()),
                target,
            });
        };
        row("a bare copy from pipe to file", 0, None);
        names.iter().enumerate().for_each(|(at, name)| row(name, 2 + at, Some(target)));
    }
    rows
}

/// One who brings output into files: that of a flood and that of its neighbour.
struct Side {
    flood: [Fifo; 2],
    say: Fifo,
    written: Written,
    _keeper: Keeper,
    /// Dropped last.
    _dir: tempfile::TempDir,
}

/// Whoever is to end with it.
enum Keeper {
    Bare { _children: Vec<Ended> },
    Ours { _stage: Box<Stage> },
    Rival { _kept: Kept },
}

impl Side {
    /// Has two programs run; `keep` is told their commands, and says where the log of the second
    /// is written.
    fn new(keep: impl FnOnce(&Path, [Vec<OsString>; 2]) -> (Keeper, PathBuf)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [go, done, say] = ["go", "done", "say"].map(|name| Fifo::new(dir.path().join(name)));
        let program = std::env::current_exe().unwrap();
        let command = |part: &str, fifos: &[&Fifo]| -> Vec<OsString> {
            let fixed = [program.clone().into(), FLAG.into(), part.into()];
            fixed.into_iter().chain(fifos.iter().map(|fifo| fifo.path().into())).collect()
        };
        let commands = [command(FLOOD, &[&go, &done]), command(SAY, &[&say])];
        let (keeper, log) = keep(dir.path(), commands);
        let written = Written::watch(&log);
        let mut side = Self { flood: [go, done], say, written, _keeper: keeper, _dir: dir };
        side.flood(1);
        // What comes with the first line, such as the file itself, comes now.
        side.line();
        side
    }

    fn bare() -> Self {
        Self::new(|dir, commands| {
            let mut children = Vec::new();
            let mut log = PathBuf::new();
            for (at, command) in commands.iter().enumerate() {
                log = dir.join(format!("log{at}"));
                fs::create_dir(&log).unwrap();
                let mut prints = Command::new(&command[0]);
                prints.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
                let mut prints = prints.spawn().unwrap();
                let mut copies = Command::new(&command[0]);
                copies.args([FLAG, COPY]).arg(&log).stdin(prints.stdout.take().unwrap());
                children.extend([Ended(prints), Ended(copies.spawn().unwrap())]);
            }
            (Keeper::Bare { _children: children }, log)
        })
    }

    fn ours() -> Self {
        Self::new(|_, commands| {
            let stage = Stage::start();
            let mut log = PathBuf::new();
            for command in commands {
                let mut spec = RuntimeSpec::new(command[0].as_os_str());
                spec.args = command[1..].iter().map(|arg| arg.as_os_str().into()).collect();
                let instance: orchestrator_proto::control::Selector =
                    stage.add(spec).to_string().into();
                let start = Request::RuntimeStart { instance: instance.clone(), priority: None };
                assert!(matches!(stage.daemon.request(start), Ok(Reply::Started { .. })));
                log = match stage.daemon.request(Request::RuntimeShow { instance }) {
                    Ok(Reply::Runtime(detail)) => detail.log_dir.as_path().to_owned(),
                    other => panic!("{other:?}"),
                };
            }
            (Keeper::Ours { _stage: Box::new(stage) }, log)
        })
    }

    fn of(rival: Rival) -> Self {
        Self::new(|_, commands| {
            let kept = rival.keep(&commands);
            let log = kept.logs[1].clone();
            (Keeper::Rival { _kept: kept }, log)
        })
    }

    /// Bytes per second.
    fn flood(&mut self, mebibytes: u32) -> f64 {
        let [go, done] = &mut self.flood;
        let began = Instant::now();
        go.tell(mebibytes);
        let bytes = done.next("the flood is over");
        f64::from(bytes) / began.elapsed().as_secs_f64()
    }

    /// How long it takes until a line is there, seconds.
    fn neighbour(&mut self, lines: usize, flooded: bool) -> f64 {
        let mut times = Times::with_capacity(lines);
        let mut under_way = false;
        for _ in 0..lines {
            if flooded {
                let [go, done] = &mut self.flood;
                if under_way && done.has_next() {
                    done.next("the flood is over");
                    under_way = false;
                }
                if !under_way {
                    go.tell(BACKGROUND);
                    under_way = true;
                }
            }
            times.push(self.line());
        }
        if under_way {
            self.flood[1].next("the flood is over");
        }
        times.p50_p99()[0]
    }

    fn line(&mut self) -> std::time::Duration {
        self.written.forget();
        let began = Instant::now();
        self.say.tell(0);
        self.written.wait();
        began.elapsed()
    }
}

/// Whether anything is written below a directory.
struct Written(OwnedFd);

impl Written {
    fn watch(dir: &Path) -> Self {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, dir, inotify::WatchFlags::MODIFY).unwrap();
        Self(watch)
    }

    fn wait(&self) {
        assert!(readable(&self.0, SOON), "waited {SOON:?} in vain until a line is in its file");
        self.take();
    }

    fn forget(&self) {
        while readable(&self.0, std::time::Duration::ZERO) {
            self.take();
        }
    }

    fn take(&self) {
        rustix::io::read(&self.0, &mut [0; 4096]).unwrap();
    }
}

/// A child that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints as many MiB as it is told to, and says how many bytes that was, until it is killed.
fn play_flood(go: &Path, done: &Path) {
    let line = [&[b'x'; LINE - 1][..], b"\n"].concat();
    let chunk = line.repeat(CHUNK / LINE);
    let mut go = File::open(go).unwrap();
    let mut done = File::options().write(true).open(done).unwrap();
    let mut out = std::io::stdout().lock();
    let mut number = [0; 4];
    while go.read_exact(&mut number).is_ok() {
        let mebibytes = u32::from_ne_bytes(number) as usize;
        let chunks = (mebibytes << 20) / chunk.len();
        for _ in 0..chunks {
            out.write_all(&chunk).unwrap();
        }
        let bytes = u32::try_from(chunks * chunk.len()).unwrap();
        done.write_all(&bytes.to_ne_bytes()).unwrap();
    }
}

/// Prints a line whenever it is told to, until it is killed.
fn play_say(say: &Path) {
    let mut say = File::open(say).unwrap();
    let mut out = std::io::stdout().lock();
    while say.read_exact(&mut [0; 4]).is_ok() {
        out.write_all(b"here is a line\n").unwrap();
    }
}

/// Brings what it reads into a file of `dir`, one after the other.
fn play_copy(dir: &Path) {
    let mut from = File::from(rustix::io::dup(std::io::stdin()).unwrap());
    let path = dir.join("log");
    let mut buffer = vec![0; CHUNK];
    let mut written = 0;
    let mut file = File::create(&path).unwrap();
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => return,
            count => file.write_all(&buffer[..count]).map(|()| written += count).unwrap(),
        }
        if written >= FILE_BYTES {
            fs::rename(&path, dir.join("before")).unwrap();
            file = File::create(&path).unwrap();
            written = 0;
        }
    }
}

/// Tells which part is meant, if it is one of these.
pub(crate) fn play(parts: &[&str]) -> bool {
    match *parts {
        [FLOOD, go, done] => play_flood(Path::new(go), Path::new(done)),
        [SAY, say] => play_say(Path::new(say)),
        [COPY, dir] => play_copy(Path::new(dir)),
        _ => return false,
    }
    true
}
