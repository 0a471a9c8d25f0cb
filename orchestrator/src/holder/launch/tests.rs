use std::ffi::OsStr;
use std::time::{Duration, Instant};

use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};

use super::*;

fn launches() -> Launches {
    // As in a holder.
    SigSet::all().thread_set_mask().unwrap();
    crate::holder::pass_on_no_files().unwrap();
    // As many as it takes for seats to be used.
    static FILES: std::sync::OnceLock<Vec<File>> = std::sync::OnceLock::new();
    FILES.get_or_init(|| (0..200).map(|_| File::open("/dev/null").unwrap()).collect());
    Launches::new(getrlimit(Resource::Nofile)).unwrap()
}

fn launch(launches: &mut Launches, tag: u64, command: &[&str]) -> Pid {
    launch_in(launches, tag, command, None)
}

fn launch_in(
    launches: &mut Launches,
    tag: u64,
    command: &[&str],
    cgroup: Option<&std::path::PathBuf>,
) -> Pid {
    let cgroup = cgroup.map(|directory| File::open(directory).unwrap().into());
    let args: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
    let (path, cwd) = (args[0], OsStr::new("/"));
    let image =
        image::Program { path, cwd, args: &args, env: &[], attributes: None }.image().unwrap();
    let child = Name { key: [1; 16], tag };
    let nice = launches.nice;
    let launch = Launch {
        child,
        image: &image,
        image_file: None,
        stdin: None,
        cgroup,
        listeners: Listeners::default(),
        nice,
    };
    launches.launch(launch).unwrap();
    Pid::from_raw(launches.underway.last().unwrap().program.pid)
}

/// The next one that arrives.
fn arrival(launches: &mut Launches) -> Result<Launched, Failure> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if let Some(arrival) = launches.arrived() {
            return arrival;
        }
        let status = |file| PollFd::from_borrowed_fd(file, PollFlags::IN);
        let mut files: Vec<_> = launches.status().map(status).collect();
        let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut files, Some(&wait)).unwrap();
    }
    panic!("nothing has arrived");
}

fn end(launches: &mut Launches, pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
    waitpid(pid, None).unwrap();
    launches.ended(pid.as_raw());
}

#[test]
fn one_that_is_killed_on_its_way_has_arrived_when_it_is_collected() {
    let mut launches = launches();
    // More often than there are places, and hopefully at many points of its way.
    for tag in 0..10 * PLACES as u64 {
        let pid = launch(&mut launches, tag, &["/bin/sleep", "1000"]);
        (0..tag).for_each(|_| std::hint::spin_loop());
        end(&mut launches, pid);
        // In a holder, at once. Here another thread may be executing something meanwhile, which
        // has copies of all files until it has.
        assert_eq!(arrival(&mut launches).unwrap().pid, pid.as_raw());
        assert!(!launches.is_any_underway());
        // Places that rest in between are as good as new.
        if tag % 3 == 0 {
            launches.rest();
        }
    }
    assert_eq!(launches.places.len(), PLACES);
}

/// As long as another one has begun, but has not come to close what it needs not.
#[test]
fn one_that_has_ended_has_arrived_whoever_has_a_copy_of_its_files() {
    let mut launches = launches();
    for seated in [true, false] {
        if !seated {
            launches.seats.clear();
        }
        let pid = launch(&mut launches, 1, &["/bin/sleep", "1000"]);
        let underway = launches.underway.last().unwrap();
        assert_eq!(underway.flight.seats().is_some(), seated);
        // Without seats, ours has been closed.
        let copy = seated.then(|| underway.flight.copy_of_its_end());
        end(&mut launches, pid);
        assert_eq!(arrival(&mut launches).unwrap().pid, pid.as_raw());
        drop(copy);
    }
    assert_eq!(launches.places.len(), PLACES);
}

#[test]
fn another_waits_for_seats_that_are_about_to_be_left_and_for_no_others() {
    let mut launches = launches();
    assert_eq!(launches.seats_in(), None);
    let pids: Vec<Pid> =
        (0..SEATED as u64).map(|tag| launch(&mut launches, tag, &["/bin/true"])).collect();
    // Nobody has looked whether they have been left.
    assert!(launches.seats_in().is_none_or(|left| left <= PATIENCE));
    let now = Instant::now();
    launches.underway.iter_mut().for_each(|it| it.began = now + PATIENCE);
    assert_eq!(launches.seats_in(), Some(PATIENCE));
    // Held up, most likely: whoever comes next is given a copy.
    launches.underway.iter_mut().for_each(|it| it.began = now.checked_sub(PATIENCE).unwrap());
    assert_eq!(launches.seats_in(), None);
    let copied = launch(&mut launches, 100, &["/bin/true"]);
    assert!(launches.underway.last().unwrap().flight.seats().is_none());
    for pid in pids.into_iter().chain([copied]) {
        waitpid(pid, None).unwrap();
        launches.ended(pid.as_raw());
        assert!(arrival(&mut launches).is_ok());
    }
    assert_eq!(launches.seats.len(), SEATED);
    assert_eq!(launches.places.len(), PLACES);
}

/// As one on a file system that does not answer.
#[test]
fn one_that_is_held_up_while_it_is_executed_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sleep");
    // By another process: a child of this one could have it open for writing for a moment.
    let copied = std::process::Command::new("cp").arg("/bin/sleep").arg(&path).status();
    assert!(copied.unwrap().success());
    let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC;
    let gate = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC);
    let mark = |gate: &Fanotify| {
        let mask = MaskFlags::FAN_OPEN_EXEC_PERM;
        gate.mark(MarkFlags::FAN_MARK_ADD, mask, nix::fcntl::AT_FDCWD, Some(&path))
    };
    let gate = match gate.and_then(|gate| mark(&gate).map(|()| gate)) {
        Ok(gate) => gate,
        Err(errno) => {
            eprintln!("skipped: nothing can be held up here: {errno}");
            return;
        }
    };
    let mut launches = launches();
    let other = launch(&mut launches, 1, &["/bin/sleep", "1000"]);
    assert!(launches.underway[0].flight.seats().is_some());
    launches.seats.clear();
    let held = launch(&mut launches, 2, &[path.to_str().unwrap(), "1000"]);
    let event = gate.read_events().unwrap().remove(0);
    assert_eq!(event.pid(), held.as_raw());

    assert_eq!(arrival(&mut launches).unwrap().pid, other.as_raw());
    let allow = FanotifyResponse::new(event.fd().unwrap(), Response::FAN_ALLOW);
    gate.write_response(allow).unwrap();
    assert_eq!(arrival(&mut launches).unwrap().pid, held.as_raw());
    end(&mut launches, other);
    end(&mut launches, held);
}

#[test]
fn one_that_is_held_up_holds_up_no_other() {
    let mut launches = launches();
    for round in 0..20 {
        let held = launch(&mut launches, 2 * round, &["/bin/sleep", "1000"]);
        // Most often it does not get far before that.
        kill(held, Signal::SIGSTOP).unwrap();
        let other = launch(&mut launches, 2 * round + 1, &["/bin/sleep", "1000"]);
        let mut arrived = vec![arrival(&mut launches).unwrap().pid];
        if arrived != [other.as_raw()] {
            arrived.push(arrival(&mut launches).unwrap().pid);
        }
        assert!(arrived.contains(&other.as_raw()));
        if !arrived.contains(&held.as_raw()) {
            kill(held, Signal::SIGCONT).unwrap();
            assert_eq!(arrival(&mut launches).unwrap().pid, held.as_raw());
        }
        end(&mut launches, held);
        end(&mut launches, other);
    }
    assert_eq!(launches.places.len(), PLACES);
}

#[test]
fn a_program_is_in_its_cgroup_however_it_gets_there() {
    let mut launches = launches();
    let Some(cgroup) = Cgroup::new() else {
        eprintln!("skipped: no cgroup can be made here");
        return;
    };
    for moves in [false, true] {
        if moves {
            launches.places.iter_mut().for_each(Place::without_clone3);
        }
        for seated in [true, false] {
            if !seated {
                launches.seats.clear();
            }
            let pid = launch_in(&mut launches, 1, &["/bin/sleep", "1000"], Some(&cgroup.0));
            let arrived = arrival(&mut launches).unwrap();
            assert_eq!(arrived.pid, pid.as_raw());
            assert_eq!(cgroup.members(), format!("{pid}\n"));
            end(&mut launches, pid);
        }
    }
}

/// A cgroup of its own, removed at the end.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let root = mounts.lines().find(|line| line.contains(" cgroup2 "))?;
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let directory = std::path::Path::new(root.split(' ').nth(1)?).join(own);
        let directory = directory.join(format!("orchestrator-test-{}", std::process::id()));
        std::fs::create_dir(&directory).ok()?;
        Some(Self(directory))
    }

    fn members(&self) -> String {
        std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_program_has_its_streams_and_no_other_file() {
    let mut launches = launches();
    let other = launch(&mut launches, 0, &["/bin/sleep", "1000"]);
    kill(other, Signal::SIGSTOP).unwrap();
    for seated in [true, false] {
        if !seated {
            launches.seats.clear();
        }
        let pid = launch(&mut launches, 1, &["/bin/ls", "/proc/self/fd"]);
        let arrived = loop {
            let arrived = arrival(&mut launches).unwrap();
            if arrived.pid == pid.as_raw() {
                break arrived;
            }
        };
        waitpid(pid, None).unwrap();
        // Another thread's process may have a copy of the writing end until it has executed.
        rustix::fs::fcntl_setfl(&arrived.stdout, rustix::fs::OFlags::empty()).unwrap();
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut File::from(arrived.stdout), &mut printed).unwrap();
        // The fourth is the directory.
        assert_eq!(printed, "0\n1\n2\n3\n");
    }
    end(&mut launches, other);
}
