//! What instances print: every byte of it, in bounded space, whatever happens.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use orchestrator_proto::client::ItemStream;
use orchestrator_proto::control::{
    EventKind, Exit, Item, LogLine, LogQuery, LogStream, Reply, Request, RuntimeDetail,
};
use tests::{Daemon, SOON, block_on, eventually, processes, skipped};

fn query(instance: &str, follow: bool) -> LogQuery {
    LogQuery { instance: instance.into(), stream: None, tail: None, since_ns: None, follow }
}

async fn items(mut stream: ItemStream) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item.unwrap());
    }
    items
}

/// What is kept.
fn read(daemon: &Daemon, query: LogQuery) -> Vec<Item> {
    block_on(async {
        let client = daemon.client().await;
        let stream = client.stream(Request::Logs(query)).await.unwrap();
        tokio::time::timeout(SOON, items(stream)).await.expect("it ends")
    })
}

fn lines(items: &[Item]) -> Vec<&LogLine> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Log(line) => Some(line),
            _ => None,
        })
        .collect()
}

/// What was printed to a stream, as it was printed.
fn bytes(items: &[Item], stream: LogStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines(items).into_iter().filter(|line| line.stream == stream) {
        bytes.extend(&line.text.0);
        if line.complete {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Starts it, and waits until it has ended and all that it printed is in the log.
#[track_caller]
fn run(daemon: &Daemon, name: &str) {
    daemon.ok(["runtime", "start", name]);
    assert_eq!(daemon.exited(name), Exit::Code(0), "{}", daemon.log());
    // The output of a program that is stopped is waited for; one that exits by itself may be
    // ahead of its last lines, so there is a last line to wait for.
    eventually("its last line is in the log", || {
        let items = read(daemon, query(name, false));
        let lines = lines(&items);
        lines.iter().any(|line| line.text.0 == b"the end").then_some(())
    });
}

fn detail(daemon: &Daemon, name: &str) -> RuntimeDetail {
    let instance = name.into();
    match daemon.request(Request::RuntimeShow { instance }).unwrap() {
        Reply::Runtime(detail) => *detail,
        other => panic!("{other:?}"),
    }
}

/// A command that follows, and its lines as they come.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn new(daemon: &Daemon, args: &[&str]) -> Self {
        let mut command = daemon.cli_command(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(16);
        std::thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|count| count > 0) {
                let _ = sender.send(std::mem::take(&mut line));
            }
        });
        Self { child, lines }
    }

    /// The next line; empty at the end.
    #[track_caller]
    fn next(&mut self) -> String {
        match self.lines.recv_timeout(SOON) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("no line within {SOON:?}"),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A named pipe, through which a script is told when to go on.
struct Gate(PathBuf);

impl Gate {
    fn new(daemon: &Daemon) -> Self {
        let path = daemon.dir().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self(path)
    }

    /// Waits until a script reads, and tells it this.
    #[track_caller]
    fn say(&self, text: &str) {
        let mut options = fs::OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut pipe = eventually("a script reads from the pipe", || options.open(&self.0).ok());
        pipe.write_all(text.as_bytes()).unwrap();
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

#[test]
fn each_stream_has_its_own_lines_and_logs_has_them_all() {
    let daemon = Daemon::start();
    daemon.add_script("two", "echo out; echo err >&2; echo out2; echo the end");
    run(&daemon, "two");
    let cat = |verb| daemon.ok(["runtime", verb, "--no-follow", "two"]);
    assert_eq!(cat("stdout"), "out\nout2\nthe end\n");
    eventually("the other stream is there too", || (cat("stderr") == "err\n").then_some(()));
    let all = cat("logs");
    assert_eq!(all.lines().count(), 4);
    for line in all.lines() {
        let mut words = line.splitn(3, ' ');
        let time = words.next().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
        let (stream, text) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(stream, if text == "err" { "stderr" } else { "stdout" });
    }
    // An instance that does not run is not followed.
    assert_eq!(daemon.ok(["runtime", "stdout", "two"]), "out\nout2\nthe end\n");
    assert_eq!(daemon.cli(["runtime", "stdout", "nobody"]).code, Some(3));
}

#[test]
fn bytes_arrive_exactly_as_they_were_printed() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("bytes");
    // Every byte, empty lines, carriage returns, zeros, and long lines.
    let mut wanted: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    wanted.extend(b"\n\n\r\n\0\0\n\xff\xfe\n\x1b[31mred\n");
    wanted.extend(vec![b'x'; 100_000]);
    wanted.extend(b"\nthe end\n");
    fs::write(&file, &wanted).unwrap();
    daemon.add(["/bin/cat", "--name", "cat", "--", file.to_str().unwrap()]);
    run(&daemon, "cat");
    let items = read(&daemon, query("cat", false));
    assert!(bytes(&items, LogStream::Stdout) == wanted);
    let output = daemon.cli_command(["runtime", "stdout", "--no-follow", "cat"]).output().unwrap();
    assert!(output.stdout == wanted);
    assert_eq!(detail(&daemon, "cat").log_bytes_lost, 0);
}

#[test]
fn output_without_a_newline_at_the_end_is_not_lost() {
    let daemon = Daemon::start();
    daemon.add_script("prompt", "printf 'name? '; exec sleep 1000");
    daemon.ok(["runtime", "start", "prompt"]);
    // While it runs, and without a newline that would end the line.
    eventually("the prompt is there", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "prompt"]) == "name? ").then_some(())
    });
    daemon.add_script("last", "printf 'a\\nb'");
    daemon.ok(["runtime", "start", "last"]);
    eventually("the last line is there", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "last"]) == "a\nb").then_some(())
    });
}

#[test]
fn what_was_printed_before_a_stop_is_there_when_the_stop_is_done() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = format!(
        "trap 'seq 1 20000; echo bye; exit 0' TERM; echo $$ > {}; sleep 1000 & wait",
        file.display()
    );
    daemon.add_script("wordy", &script);
    for round in 1..=3 {
        daemon.ok(["runtime", "start", "wordy"]);
        processes::pid_in(&file);
        fs::remove_file(&file).unwrap();
        daemon.ok(["runtime", "stop", "wordy"]);
        let text = daemon.ok(["runtime", "stdout", "--no-follow", "wordy"]);
        assert_eq!(text.lines().count(), 20_001 * round);
        assert!(text.ends_with("20000\nbye\n"));
    }
}

#[test]
fn tail_and_since_choose_lines() {
    let daemon = Daemon::start();
    daemon.add_script("count", "seq 1 100; echo err >&2; echo the end");
    run(&daemon, "count");
    let tail = |count| {
        let args = ["runtime", "stdout", "--no-follow", "--tail", count, "count"];
        daemon.ok(args)
    };
    assert_eq!(tail("3"), "99\n100\nthe end\n");
    assert_eq!(tail("0"), "");
    assert_eq!(tail("1000").lines().count(), 101);
    let since = |time: &str| {
        let args = ["runtime", "stdout", "--no-follow", "--since", time, "count"];
        daemon.ok(args)
    };
    assert_eq!(since("1h").lines().count(), 101);
    assert_eq!(since("2099-01-01T00:00:00Z"), "");
    // From a line on, to the nanosecond.
    let items = read(&daemon, query("count", false));
    let lines = lines(&items);
    let from = lines[60].time_ns;
    let query = LogQuery { since_ns: Some(from), ..query("count", false) };
    let wanted = lines.iter().filter(|line| line.time_ns >= from).count();
    assert_eq!(read(&daemon, query).len(), wanted);
    for (flag, value) in [("--tail", "1000001"), ("--tail", "-1"), ("--since", "yesterday")] {
        let said = daemon.cli(["runtime", "stdout", "count", flag, value]);
        assert_eq!(said.code, Some(2), "{said:?}");
    }
}

#[test]
fn a_follower_sees_new_lines_at_once_and_over_restarts_until_the_removal() {
    let daemon = Daemon::start();
    let pipe = Gate::new(&daemon);
    let script = format!("echo begin; exec cat {pipe}");
    daemon.add_script("cat", &script);
    let mut early = Follower::new(&daemon, &["runtime", "stdout", "--follow", "cat"]);
    daemon.ok(["runtime", "start", "cat"]);
    assert_eq!(early.next(), "begin\n");
    // One line at a time: each is seen before the next is printed.
    let say = |text: &str| pipe.say(text);
    say("one\n");
    assert_eq!(early.next(), "one\n");
    assert_eq!(daemon.exited("cat"), Exit::Code(0));
    daemon.ok(["runtime", "start", "cat"]);
    assert_eq!(early.next(), "begin\n");
    let mut late = Follower::new(&daemon, &["runtime", "stdout", "--tail", "2", "-f", "cat"]);
    assert_eq!([late.next(), late.next()], ["one\n", "begin\n"]);
    say("two\n");
    assert_eq!([early.next(), late.next()], ["two\n", "two\n"]);
    daemon.ok(["runtime", "remove", "--force", "cat"]);
    for mut follower in [early, late] {
        assert_eq!(follower.next(), "");
        let status = eventually("the follower ends", || follower.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn a_running_instance_is_followed_unless_told_otherwise() {
    let daemon = Daemon::start();
    daemon.add_script("chatty", "echo one; exec sleep 1000");
    daemon.ok(["runtime", "start", "chatty"]);
    let mut follower = Follower::new(&daemon, &["runtime", "stdout", "chatty"]);
    assert_eq!(follower.next(), "one\n");
    assert!(follower.child.try_wait().unwrap().is_none());
    assert_eq!(daemon.ok(["runtime", "stdout", "--no-follow", "chatty"]), "one\n");
    // Ctrl-C ends it as a shell expects.
    processes::signal(follower.child.id(), nix::sys::signal::Signal::SIGINT);
    let status = eventually("it ends", || follower.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}

/// The files of an instance's log and their sizes.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap().len())
        })
        .collect();
    files.sort();
    files
}

fn log_dir(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.state_dir().join("logs").join(id)
}

#[test]
fn two_hundred_megabytes_without_a_newline_stay_bounded_on_disk_and_in_memory() {
    let daemon =
        Daemon::start_with(&["--instance-log-bytes", "1000000", "--instance-log-files", "3"]);
    let script = "head -c 200000000 /dev/zero | tr '\\0' x; echo; echo the end";
    let id = daemon.add_script("long", script);
    let pid = daemon.pid();
    let before = processes::resident_kib(pid);
    run(&daemon, "long");
    let files = files(&log_dir(&daemon, &id));
    assert!(files.len() <= 3, "{files:?}");
    assert!(files.iter().all(|(_, size)| *size <= 1_000_000), "{files:?}");
    assert!(files.iter().map(|(_, size)| size).sum::<u64>() > 1_000_000, "{files:?}");
    let grown = processes::peak_kib(pid).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    // Nothing was lost on the way to the disk; what is no longer kept is not there.
    assert_eq!(detail(&daemon, "long").log_bytes_lost, 0);
    let items = read(&daemon, query("long", false));
    let text = bytes(&items, LogStream::Stdout);
    assert!(text.ends_with(b"xxx\nthe end\n") && text.len() < 3_000_000);
}

#[test]
fn the_oldest_file_goes_first_and_a_reader_gets_the_rest_in_order() {
    let daemon =
        Daemon::start_with(&["--instance-log-bytes", "65536", "--instance-log-files", "3"]);
    let id = daemon.add_script("count", "seq 1 50000; echo the end");
    run(&daemon, "count");
    let files = files(&log_dir(&daemon, &id));
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|(_, size)| *size <= 65_536), "{files:?}");
    assert!(!files[0].0.ends_with("00000001.log"), "{files:?}");
    let text = daemon.ok(["runtime", "stdout", "--no-follow", "count"]);
    let numbers: Vec<u64> =
        text.lines().filter(|line| *line != "the end").map(|line| line.parse().unwrap()).collect();
    let first = numbers[0];
    assert!(first > 1 && numbers.len() > 1000);
    assert!(numbers.iter().copied().eq(first..=50_000));
}

#[test]
fn a_flood_of_one_instance_keeps_nobody_elses_lines_back() {
    let daemon = Daemon::start_with(&["--instance-log-bytes", "1000000"]);
    for name in ["flood-1", "flood-2"] {
        daemon.add(["/usr/bin/yes", "--name", name]);
        daemon.ok(["runtime", "start", name]);
    }
    let pipe = Gate::new(&daemon);
    let script = format!("exec 3<>{pipe}; while read line <&3; do echo $line; done");
    daemon.add_script("quiet", &script);
    daemon.ok(["runtime", "start", "quiet"]);
    let mut follower = Follower::new(&daemon, &["runtime", "stdout", "quiet"]);
    for number in 0..20 {
        pipe.say(&format!("{number}\n"));
        assert_eq!(follower.next(), format!("{number}\n"));
    }
    for name in ["flood-1", "flood-2"] {
        assert_eq!(daemon.info(name).observed.word(), "ready");
        daemon.ok(["runtime", "stop", name]);
        assert_eq!(detail(&daemon, name).log_bytes_lost, 0);
    }
}

#[test]
fn a_follower_that_is_too_slow_is_told_what_it_missed_and_slows_nobody() {
    let daemon =
        Daemon::start_with(&["--instance-log-bytes", "65536", "--instance-log-files", "2"]);
    let pipe = Gate::new(&daemon);
    let script = format!("echo first; read line < {}; seq 1 200000; echo the end", pipe);
    daemon.add_script("flood", &script);
    block_on(async {
        let client = daemon.client().await;
        let request = Request::Logs(query("flood", true));
        let mut stream = client.stream(request).await.unwrap();
        daemon.ok(["runtime", "start", "flood"]);
        let first = tokio::time::timeout(SOON, stream.next()).await.unwrap();
        assert!(matches!(first, Some(Ok(Item::Log(line))) if line.text.0 == b"first"));
        // Does not read on until all was printed and most of it deleted.
        pipe.say("go on\n");
        std::thread::scope(|scope| {
            let finish = || {
                daemon.exited("flood");
                let tail = ["runtime", "stdout", "--no-follow", "--tail", "1", "flood"];
                eventually("its last line is in the log", || {
                    (daemon.ok(tail) == "the end\n").then_some(())
                });
            };
            scope.spawn(finish).join().unwrap();
        });
        let (mut missed, mut last, mut part) = (false, 0, String::new());
        loop {
            let item = tokio::time::timeout(SOON, stream.next()).await.unwrap();
            match item.unwrap().unwrap() {
                Item::Missed { .. } => {
                    missed = true;
                    part.clear();
                    last = 0;
                }
                Item::Log(line) if !line.complete => part.push_str(&line.text.to_string()),
                Item::Log(line) => {
                    let text = std::mem::take(&mut part) + &line.text.to_string();
                    match text.parse::<u64>() {
                        Ok(number) => {
                            // What was missed may have been the beginning of a line.
                            let follows = last == 0 || number == last + 1;
                            assert!(follows, "{number} after {last}, and nobody told of a gap");
                            last = number;
                        }
                        Err(_) if text == "the end" => break,
                        Err(_) => assert_eq!(text, "first"),
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(missed);
    });
}

/// A file system of 1 MB at this directory; none if this machine does not let us.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=700", "none"]).arg(at);
        let output = mount.output().ok()?;
        output.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_no_instance_is_counted_and_is_recovered_from() {
    let mut daemon = Daemon::prepare(&["--instance-log-bytes", "8000000"]);
    let Some(disk) = SmallDisk::mount(daemon.state_dir()) else {
        skipped("this user can't mount a file system of 1 MB");
        return;
    };
    daemon.launch();
    let pipe = Gate::new(&daemon);
    // Something else fills the disk, and goes away later.
    let ballast = daemon.state_dir().join("ballast");
    fs::write(&ballast, vec![0; 700_000]).unwrap();
    let script = format!(
        "read line < {0}; echo begin; seq 1 200000; echo flooded > {0}; read line < {0}; \
         echo after; exec sleep 1000",
        pipe
    );
    daemon.add_script("flood", &script);
    daemon.add_script("other", "exit 0");
    daemon.ok(["runtime", "start", "flood"]);
    // Not before its start is stored, or that would find the disk full.
    pipe.say("go\n");
    // It has printed everything: it did not wait for the disk.
    let mut told = String::new();
    fs::File::open(&pipe.0).unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "flooded\n");
    let printed: u64 = (1..=200_000_u64).map(|n| n.to_string().len() as u64 + 1).sum();
    let accounted = || {
        let lost = detail(&daemon, "flood").log_bytes_lost;
        let items = read(&daemon, query("flood", false));
        (bytes(&items, LogStream::Stdout).len() as u64, lost)
    };
    let begin = "begin\n".len() as u64;
    eventually("every byte is in the log or counted as lost", || {
        let (kept, lost) = accounted();
        (kept + lost == begin + printed && lost > 100_000).then_some(())
    });
    let shown = daemon.ok(["runtime", "show", "flood"]);
    assert!(shown.contains("log bytes lost"), "{shown}");
    // What does not need the disk works; what does is refused with the reason.
    let said = daemon.cli(["runtime", "start", "other"]);
    assert!(said.code == Some(0) || said.stderr.contains("is full"), "{said:?}");
    assert_eq!(daemon.info("flood").observed.word(), "ready");

    fs::remove_file(&ballast).unwrap();
    pipe.say("go on\n");
    eventually("there are lines again, and a remark says that some are missing", || {
        let items = read(&daemon, query("flood", false));
        let lines = lines(&items);
        let after = lines.iter().any(|line| line.text.0 == b"after");
        let remark = lines.iter().any(|line| line.stream == LogStream::Orchestrator);
        (after && remark).then_some(())
    });
    let (kept, lost) = accounted();
    assert_eq!(kept + lost, begin + printed + "after\n".len() as u64);
    daemon.ok(["runtime", "start", "other"]);
    eventually("it has done its work", || match daemon.info("other").observed.ended() {
        Some(exit) => {
            assert_eq!(exit, Exit::Code(0));
            Some(())
        }
        None => None,
    });
    daemon.ok(["runtime", "remove", "--force", "flood"]);
    assert_eq!(daemon.terminate().code(), Some(0));
    drop(disk);
}

#[test]
fn an_instance_that_can_not_have_a_log_is_refused_and_not_half_added() {
    let daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "before"]);
    let logs = daemon.state_dir().join("logs");
    fs::remove_dir_all(&logs).unwrap();
    fs::write(&logs, "in the way").unwrap();
    let said = daemon.cli(["runtime", "add", "/bin/true", "--name", "x"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("cannot open the log"), "{said:?}");
    assert_eq!(daemon.status().runtimes, 1);
    let sockets = PathBuf::from(format!("{}.d", daemon.socket().display()));
    // Of the one instance, and the capture process's with its lock.
    assert_eq!(fs::read_dir(sockets).unwrap().count(), 2 + 2);
    fs::remove_file(&logs).unwrap();
    daemon.add(["/bin/true", "--name", "x"]);
}

#[test]
fn logs_that_are_deleted_under_a_running_instance_come_back() {
    let daemon = Daemon::start();
    let pipe = Gate::new(&daemon);
    let script = format!("exec 3<>{pipe}; while read line <&3; do echo $line; done");
    let id = daemon.add_script("echo", &script);
    daemon.ok(["runtime", "start", "echo"]);
    pipe.say("one\n");
    let text = || daemon.ok(["runtime", "stdout", "--no-follow", "echo"]);
    eventually("the line is there", || (text() == "one\n").then_some(()));
    fs::remove_dir_all(log_dir(&daemon, &id)).unwrap();
    // The daemon and the instance go on, and new lines are counted if they are not kept.
    pipe.say("two\n");
    assert_eq!(daemon.info("echo").observed.word(), "ready");
    assert_eq!(daemon.cli(["runtime", "stdout", "--no-follow", "echo"]).code, Some(0));
    daemon.ok(["runtime", "remove", "--force", "echo"]);
    let removed = daemon.event("removed", |event| match event.kind {
        EventKind::Removed { .. } => Some(event.name.clone()),
        _ => None,
    });
    assert_eq!(removed.as_deref(), Some("echo"));
}

#[test]
fn json_has_one_item_on_each_line() {
    let daemon = Daemon::start();
    daemon.add_script("two", "printf 'a\\377\\n'; echo the end");
    run(&daemon, "two");
    let text = daemon.ok(["--json", "runtime", "logs", "--no-follow", "two"]);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["log"]["text"], "a\u{fffd}");
    assert_eq!(lines[1]["log"]["stream"], "stdout");
    let mut plain = Vec::new();
    let mut command = daemon.cli_command(["runtime", "stdout", "two"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_to_end(&mut plain).unwrap();
    child.wait().unwrap();
    assert_eq!(plain, b"a\xff\nthe end\n");
}

/// The capture process of a daemon.
fn capture_process(daemon: &Daemon) -> u32 {
    eventually("there is a capture process", || processes::capture(daemon.holder_pid()))
}

#[test]
fn a_killed_capture_process_is_replaced_and_costs_at_most_what_it_held() {
    let mut daemon = Daemon::start_with(&["--instance-log-files", "1000"]);
    let stop = daemon.dir().join("stop");
    let script = format!(
        "i=0; while [ ! -e {} ]; do echo \"line $i\"; i=$((i+1)); done; echo the end",
        stop.display()
    );
    daemon.add(["/bin/sh", "--name", "counting", "--", "-c", &script]);
    daemon.ok(["runtime", "start", "counting"]);
    let last = || LogQuery { tail: Some(1), ..query("counting", false) };
    let number = |line: &str| line.strip_prefix("line ")?.parse::<u64>().ok();
    let mut kills = 0;
    for wanted in [2000, 20_000] {
        eventually("it prints", || {
            let text = bytes(&read(&daemon, last()), LogStream::Stdout);
            let printed = number(String::from_utf8(text).unwrap().trim_end())?;
            (printed > wanted).then_some(())
        });
        let capture = capture_process(&daemon);
        processes::signal(capture, nix::sys::signal::Signal::SIGKILL);
        processes::gone(capture);
        kills += 1;
    }
    // Its pipes are read on before it comes to its end.
    capture_process(&daemon);
    eventually("that is told", || {
        let items = read(&daemon, query("counting", false));
        let remarks = bytes(&items, LogStream::Orchestrator);
        let remarks = String::from_utf8(remarks).unwrap();
        (remarks.matches("capture was restarted").count() == kills).then_some(())
    });
    fs::write(&stop, "").unwrap();
    assert_eq!(daemon.exited("counting"), Exit::Code(0), "{}", daemon.log());
    let items = eventually("its last line is in the log", || {
        let there = bytes(&read(&daemon, last()), LogStream::Stdout) == b"the end\n";
        there.then(|| read(&daemon, query("counting", false)))
    });
    let text = bytes(&items, LogStream::Stdout);
    let seen: Vec<u64> = String::from_utf8_lossy(&text).lines().filter_map(number).collect();
    assert!(seen.windows(2).all(|two| two[0] < two[1]), "no line is doubled");
    let all: usize = (0..=*seen.last().unwrap()).map(|n| format!("line {n}\n").len()).sum();
    let missing = all + "the end\n".len() - text.len();
    assert!(missing <= kills * (64 << 10), "{missing} bytes");
    let remarks = String::from_utf8(bytes(&items, LogStream::Orchestrator)).unwrap();
    assert_eq!(remarks.matches("capture was restarted").count(), kills, "{remarks}");
    assert!(daemon.log().contains("capture is started again"), "{}", daemon.log());
    // In its new place it ends with the daemon.
    let capture = capture_process(&daemon);
    assert_eq!(daemon.terminate().code(), Some(0));
    processes::gone(capture);
}

#[test]
fn the_capture_process_is_small_and_holds_nothing_that_is_not_its_own() {
    let daemon = Daemon::start();
    let capture = capture_process(&daemon);
    daemon.add(["/bin/true", "--name", "x"]);
    // Signals of a terminal or of an operator are the daemon's.
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
        nix::sys::signal::Signal::SIGHUP,
    ] {
        processes::signal(capture, signal);
    }
    daemon.ok(["runtime", "start", "x"]);
    assert_eq!(daemon.exited("x"), Exit::Code(0));
    assert_eq!(capture_process(&daemon), capture);
    let environment = fs::read(format!("/proc/{capture}/environ")).unwrap();
    assert_eq!(environment, b"ORCHESTRATOR_ROLE=capture\0");
    assert_eq!(fs::read_link(format!("/proc/{capture}/cwd")).unwrap(), Path::new("/"));
    for fd in fs::read_dir(format!("/proc/{capture}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let own = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
        let log = daemon.state_dir().join("logs");
        assert!(
            own.iter().any(|own| target.starts_with(own))
                || target.starts_with(log.to_str().unwrap()),
            "{target}"
        );
    }
    let kib = processes::resident_kib(capture);
    assert!(kib < 40 << 10, "{kib} KiB even without optimization");
}

#[test]
fn a_capture_process_that_hangs_holds_up_neither_the_daemon_nor_a_start() {
    let daemon = Daemon::start();
    let capture = capture_process(&daemon);
    daemon.add(["/bin/sh", "--name", "early", "--", "-c", "echo early"]);
    daemon.ok(["runtime", "start", "early"]);
    eventually("its line is in the log", || {
        let items = read(&daemon, query("early", false));
        (bytes(&items, LogStream::Stdout) == b"early\n").then_some(())
    });
    processes::suspend(capture);
    for n in 0..100 {
        let name = format!("late-{n}");
        daemon.add(["/bin/sh", "--name", &name, "--", "-c", "echo late"]);
        daemon.ok(["runtime", "start", &name]);
        assert_eq!(daemon.exited(&name), Exit::Code(0));
    }
    // What there is can be read, and why there may be more is told.
    let items = read(&daemon, query("early", false));
    assert_eq!(bytes(&items, LogStream::Stdout), b"early\n");
    let told = |item: &Item| matches!(item, Item::Missed { count: 0, reason } if reason.contains("does not answer"));
    assert!(items.iter().any(told), "{items:?}");
    processes::signal(capture, nix::sys::signal::Signal::SIGCONT);
    for n in 0..100 {
        eventually("its line is in the log", || {
            let items = read(&daemon, query(&format!("late-{n}"), false));
            (bytes(&items, LogStream::Stdout) == b"late\n").then_some(())
        });
    }
    assert_eq!(capture_process(&daemon), capture);
}
