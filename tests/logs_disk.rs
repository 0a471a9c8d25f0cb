//! What instances print, in bounded space, on disks that are small, full or taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use orchestrator_proto::control::{EventKind, Exit, Item, LogStream, Request};
use tests::logs::{Follower, Gate, bytes, detail, files, lines, log_dir, query, read, run};
use tests::{Daemon, SOON, block_on, eventually, processes};

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
        assert_eq!(follower.line(), format!("{number}\n"));
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

impl SmallDisk {
    /// Makes it one of 8 MB.
    fn grow(&self) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", "remount,size=8m"]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_no_instance_that_drops_is_counted_and_is_recovered_from() {
    let mut daemon = Daemon::prepare(&["--instance-log-bytes", "8000000"]);
    let Some(disk) = SmallDisk::mount(daemon.state_dir()) else {
        tests::skipped("this user can't mount a file system of 1 MB");
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
    let drop_it = ["/bin/sh", "--name", "flood", "--log-when-full", "drop", "--", "-c", &script];
    daemon.add(drop_it);
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
fn an_instance_waits_for_a_full_disk_and_goes_on_by_itself() {
    let mut daemon = Daemon::prepare(&["--instance-log-bytes", "8000000"]);
    let Some(disk) = SmallDisk::mount(daemon.state_dir()) else {
        tests::skipped("this user can't mount a file system of 1 MB");
        return;
    };
    daemon.launch();
    let gate = Gate::new(&daemon);
    let ballast = daemon.state_dir().join("ballast");
    fs::write(&ballast, vec![0; 700_000]).unwrap();
    let done = daemon.dir().join("done");
    let flood = |name: &str| {
        let done = done.display();
        // More than fits into the pipe and on the disk.
        let script = format!(
            "read line < {gate}; seq -f %01000g 600; echo after; touch {done}-{name}; exec sleep 1000"
        );
        daemon.add_script(name, &script);
        daemon.ok(["runtime", "start", name]);
        gate.say("go\n");
        eventually("it is said that it waits", || detail(&daemon, name).log_blocked);
    };
    daemon.add_script("other", "echo quiet; exec sleep 1000");
    daemon.ok(["runtime", "start", "other"]);
    flood("patient");
    assert!(!daemon.dir().join("done-patient").exists());
    let shown = daemon.ok(["runtime", "show", "patient"]);
    assert!(shown.contains("it waits when its pipes are full: No space left"), "{shown}");
    // It can be read, and nobody else waits for it.
    let before = bytes(&read(&daemon, query("patient", false)), LogStream::Stdout).len();
    assert!(before > 0);
    assert_eq!(daemon.info("other").observed.word(), "ready");
    assert_eq!(daemon.ok(["runtime", "stdout", "--no-follow", "other"]), "quiet\n");

    fs::remove_file(&ballast).unwrap();
    let wanted: Vec<u8> =
        (1..=600).flat_map(|n| format!("{n:01000}\n").into_bytes()).chain(*b"after\n").collect();
    eventually("all of it is there", || {
        let items = read(&daemon, query("patient", false));
        (bytes(&items, LogStream::Stdout) == wanted).then_some(())
    });
    let detail = detail(&daemon, "patient");
    assert_eq!((detail.log_blocked, detail.log_bytes_lost), (None, 0));
    eventually("it went on", || daemon.dir().join("done-patient").exists().then_some(()));
    // One that waits can be stopped and removed. On a full disk that is not stored, which is said.
    flood("stopped");
    let said = daemon.cli(["runtime", "stop", "stopped"]);
    assert!(said.code == Some(0) || said.stderr.contains("is full"), "{said:?}");
    assert_eq!(daemon.info("stopped").observed.word(), "stopped");
    disk.grow();
    daemon.ok(["runtime", "remove", "stopped"]);
    assert_eq!(daemon.terminate().code(), Some(0));
    drop(disk);
}

#[test]
fn files_that_are_complete_are_compressed_where_that_is_wanted() {
    let daemon = Daemon::start();
    let script = "seq 1 50000; echo the end";
    let rules = ["--log-max-size", "64KiB", "--log-keep", "100", "--log-compress", "zstd"];
    let mut args = vec!["/bin/sh", "--name", "count"];
    args.extend(rules);
    args.extend(["--", "-c", script]);
    let id = daemon.add(args);
    run(&daemon, "count");
    let dir = log_dir(&daemon, &id);
    let files = eventually("all but the last two are compressed", || {
        let files = files(&dir);
        let packed = |(name, _): &&(PathBuf, u64)| name.extension().is_some_and(|it| it == "zst");
        (files.iter().filter(packed).count() + 2 == files.len()).then_some(files)
    });
    assert!(files.len() > 20, "{files:?}");
    let size: u64 = files.iter().map(|(_, size)| size).sum();
    assert!(size < 50_000 * 30, "{size}");
    let wanted: String = (1..=50_000).map(|n| format!("{n}\n")).collect::<String>() + "the end\n";
    assert!(daemon.ok(["runtime", "stdout", "count"]) == wanted);
    assert_eq!(daemon.ok(["runtime", "stdout", "count", "--grep", "^7$"]), "7\n");
    let age = ["/bin/sh", "--name", "aged", "--log-max-age", "1ms", "--", "-c"];
    let id = daemon
        .add(age.iter().chain(&["for i in 1 2 3; do echo $i; sleep 0.05; done; echo the end"]));
    run(&daemon, "aged");
    assert!(self::files(&log_dir(&daemon, &id)).len() >= 3);
}
