//! Programs on their way: from an order to execute one until it runs or has failed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Rlimit;

use super::exec::{Begun, Flight, Landing, Listeners, Place, Wishes};
use super::frame::{Name, Stage};
use super::image::{self, Words};
use super::seats::{SEATED, Seats};

/// Programs that can be on their way at once. It takes a file system that does not answer to
/// need more than one or two.
pub const PLACES: usize = 32;

/// The largest image: more than execve(2) takes.
const MAX_IMAGE: u64 = 16 << 20;

/// What a pipe should hold, so that a program that prints in bursts does not wait: 256 KiB.
const PIPE_BYTES: usize = 256 << 10;

/// An order to execute a program.
pub(super) struct Launch<'a> {
    pub(super) child: Name,
    /// Its image, if that did not come in a file.
    pub(super) image: &'a [u8],
    /// The file that it came in.
    pub(super) image_file: Option<OwnedFd>,
    /// None is `/dev/null`.
    pub(super) stdin: Option<OwnedFd>,
    /// What it enters before anything else; none is ours.
    pub(super) cgroup: Option<OwnedFd>,
    /// Files that are kept.
    pub(super) listeners: Listeners,
    pub(super) nice: i32,
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Name,
    pub(super) pid: i32,
    /// While it lives, only until the daemon has been told: its number is its own until we collect
    /// it, so that another one can be had at any time.
    pub(super) pidfd: Option<OwnedFd>,
    /// The reading ends of what it prints.
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The errno of what is not as wished, or 0.
    pub(super) warning: i32,
}

/// Why a program does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) child: Name,
    pub(super) stage: Stage,
    pub(super) errno: i32,
}

/// A program on its way.
struct Underway {
    program: Launched,
    flight: Flight,
    /// Open until it is in it.
    _cgroup: Option<OwnedFd>,
    failed: Option<(Stage, i32)>,
}

/// All of them.
pub(super) struct Launches {
    places: Vec<Place>,
    underway: Vec<Underway>,
    /// `/dev/null`.
    nothing: Arc<File>,
    /// How many files a program may have open.
    files: Rlimit,
    /// Our own nice value.
    nice: i32,
}

impl Launches {
    /// Takes all memory that it will need, but for images that are too long for a datagram.
    pub(super) fn new(files: Rlimit) -> io::Result<Self> {
        let nothing = Arc::new(File::open("/dev/null")?);
        let mut places = Place::several(PLACES);
        if Seats::work() {
            for place in places.iter_mut().rev().take(SEATED) {
                place.seat(Seats::reserve(&nothing)?);
            }
        }
        Ok(Self {
            places,
            underway: Vec::with_capacity(PLACES),
            nothing,
            files,
            nice: rustix::process::getpriority_process(None)?,
        })
    }

    /// What is readable when there is something to know of a program on its way.
    pub(super) fn status(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.underway.iter().map(|underway| underway.flight.status())
    }

    /// Whether any program is on its way.
    pub(super) const fn is_any_underway(&self) -> bool {
        !self.underway.is_empty()
    }

    /// Whether a program of this name is on its way.
    pub(super) fn is_underway(&self, child: Name) -> bool {
        self.underway.iter().any(|underway| underway.program.child == child)
    }

    /// How many files a program may have open.
    pub(super) const fn files(&self) -> Rlimit {
        self.files
    }

    /// `/dev/null`.
    pub(super) fn nothing(&self) -> BorrowedFd<'_> {
        self.nothing.as_fd()
    }

    /// Begins to execute a program.
    pub(super) fn launch(&mut self, launch: Launch<'_>) -> Result<(), Failure> {
        let child = launch.child;
        let failure = |stage, error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
            Failure { child, stage, errno }
        };
        let (stdout, to_stdout) = output().map_err(|error| failure(Stage::Clone, &error))?;
        let (stderr, to_stderr) = output().map_err(|error| failure(Stage::Clone, &error))?;
        let Some(mut place) = self.places.pop() else {
            return Err(failure(Stage::Room, &Errno::AGAIN.into()));
        };
        if let Err(error) = fill(place.image(), launch.image, launch.image_file) {
            self.places.push(place);
            return Err(failure(Stage::Image, &error));
        }
        let mut taken = [None; SEATED];
        let others = self.underway.iter().filter_map(|underway| underway.flight.seats());
        taken.iter_mut().zip(others).for_each(|(seats, numbers)| *seats = Some(numbers));
        let stdin = launch.stdin.as_ref().map_or(self.nothing.as_fd(), AsFd::as_fd);
        let wishes = Wishes {
            streams: [stdin.as_raw_fd(), to_stdout.as_raw_fd(), to_stderr.as_raw_fd()],
            listeners: launch.listeners,
            nice: (launch.nice != self.nice).then_some(launch.nice),
            files: self.files,
            cgroup: launch.cgroup.as_ref().map(AsRawFd::as_raw_fd),
            taken,
        };
        match place.begin(wishes) {
            Ok(Begun { pid, pidfd, flight }) => {
                let pidfd = Some(pidfd);
                let program = Launched { child, pid, pidfd, stdout, stderr, warning: 0 };
                self.underway.push(Underway {
                    program,
                    flight,
                    _cgroup: launch.cgroup,
                    failed: None,
                });
                Ok(())
            }
            Err((place, stage, error)) => {
                self.places.push(place);
                Err(failure(stage, &error))
            }
        }
    }

    /// Gives back the memory of places that are free.
    pub(super) fn rest(&mut self) {
        self.places.iter_mut().for_each(Place::rest);
    }

    /// A process was collected. It need not be one of these.
    pub(super) fn ended(&mut self, pid: i32) {
        if let Some(it) = self.underway.iter_mut().find(|it| it.program.pid == pid) {
            it.flight.ended();
        }
    }

    /// A program that has arrived, one way or the other, if there is one. Never waits.
    pub(super) fn arrived(&mut self) -> Option<Result<Launched, Failure>> {
        let mut at = 0;
        while let Some(underway) = self.underway.get_mut(at) {
            match underway.flight.look() {
                Landing::Underway => at += 1,
                Landing::Warning(errno) => underway.program.warning = errno,
                Landing::Failed(stage, errno) => underway.failed = Some((stage, errno)),
                Landing::Landed(place) => {
                    self.places.push(place);
                    let Underway { program, failed, .. } = self.underway.swap_remove(at);
                    let child = program.child;
                    return Some(match failed {
                        Some((stage, errno)) => Err(Failure { child, stage, errno }),
                        None => Ok(program),
                    });
                }
            }
        }
        None
    }
}

/// A pipe for what a program prints. Only the reading end does not wait: a program whose output
/// did not wait would not expect it.
fn output() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, its) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
    // Refused to users who have many large pipes; it works with a small one too.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, its))
}

/// Puts an image into memory that it can be used in.
pub(super) fn fill(words: &mut Words, bytes: &[u8], file: Option<OwnedFd>) -> io::Result<()> {
    let Some(file) = file else {
        return image::copy(bytes, words).map_err(|_| Errno::NOMEM.into());
    };
    let len = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(u64::MAX);
    if len > MAX_IMAGE {
        return Err(Errno::TOOBIG.into());
    }
    let mut buffer = [0; 4096];
    let mut offset = 0;
    while offset < len {
        // If somebody changes the file meanwhile, this is no image, which will be noticed.
        match rustix::io::pread(&file, &mut buffer, offset)? {
            0 => break,
            count => {
                image::copy(&buffer[..count], words).map_err(|_| Errno::NOMEM)?;
                offset += count as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
                launches.places.iter_mut().for_each(Place::without_seats);
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
        launches.places.iter_mut().for_each(Place::without_seats);
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
                    launches.places.iter_mut().for_each(Place::without_seats);
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
                launches.places.iter_mut().for_each(Place::without_seats);
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
}
