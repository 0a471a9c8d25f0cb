//! What a new process is given before it becomes the program: bounds, scheduling, user, rights,
//! something to read.
//!
//! It is a list of steps in the image of the program, each of which is a system call or two. The
//! daemon writes it, and this file, with which it does, says in which order (see
//! `Attributes::words`); the new process takes the steps one after the other, and none is passed
//! over: the first that fails ends it, and is told with its stage and errno.
//!
//! Like all that runs in the new process it makes system calls and nothing else: see
//! `exec`. To change the user of a process that shares our memory is sound as to the
//! kernel, which keeps users by thread; and that user gets no hold of our memory through it: the
//! kernel makes memory undumpable when a process that uses it changes its user (`PR_SET_DUMPABLE`
//! in prctl(2)), so that nobody but root can trace it, until execve(2) gives it memory of its own.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use syscalls::{Sysno, syscall};

use super::frame::Stage;

/// What a program is given besides what it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// Bounds: what setrlimit(2) calls the resource, what holds, and the most; [`u64::MAX`] is
    /// infinity.
    pub limits: Vec<(u32, u64, u64)>,
    /// Its nice value, which it has to get.
    pub nice: Option<i32>,
    /// Processors that it may run on; none are those of the holder.
    pub cpus: Vec<u32>,
    /// As ioprio_set(2) takes it.
    pub io_priority: Option<u32>,
    /// A policy and a priority of it, as sched_setscheduler(2) takes them.
    pub realtime: Option<(u32, u32)>,
    /// See umask(2).
    pub umask: Option<u32>,
    /// All of its supplementary groups.
    pub groups: Option<Vec<u32>>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// All capabilities that its bounding set may have, a bit for each.
    pub bounding: Option<u64>,
    /// Its ambient capabilities, likewise.
    pub ambient: u64,
    /// See `PR_SET_NO_NEW_PRIVS` in prctl(2).
    pub no_new_privs: bool,
    /// What its standard input is, opened as its user.
    pub stdin: Option<PathBuf>,
}

/// The kinds of steps. Never changed; what is new gets a new number, which a holder that does not
/// know it refuses.
mod kind {
    /// Resource, soft, hard.
    pub(super) const LIMIT: u32 = 1;
    /// The value, as an i32.
    pub(super) const NICE: u32 = 2;
    /// A bit for each processor.
    pub(super) const CPUS: u32 = 3;
    pub(super) const IO_PRIORITY: u32 = 4;
    /// Policy, priority.
    pub(super) const REALTIME: u32 = 5;
    pub(super) const UMASK: u32 = 6;
    /// How many, then two in each word.
    pub(super) const GROUPS: u32 = 7;
    pub(super) const GROUP: u32 = 8;
    /// A bit for each capability that stays.
    pub(super) const BOUNDING: u32 = 9;
    /// Capabilities outlast the change of the user.
    pub(super) const KEEP_CAPS: u32 = 10;
    pub(super) const USER: u32 = 11;
    /// Those that stay permitted, those that stay effective, those that are inheritable.
    pub(super) const CAPS: u32 = 12;
    pub(super) const AMBIENT: u32 = 13;
    pub(super) const NO_NEW_PRIVS: u32 = 14;
    /// The offset of a path.
    pub(super) const STDIN: u32 = 15;
    /// The user and the group that its output and its errors belong to.
    pub(super) const STREAMS: u32 = 16;
}

impl Attributes {
    /// The steps, and the path of [`kind::STDIN`], if there is one, whose offset is to be put into
    /// the last word.
    ///
    /// The order is that of systemd: what takes rights comes before they are given up; groups, group
    /// and user in this order; then the capabilities that stay. What is opened, and the working
    /// directory after all of these steps, is looked for as the new user: root may be somebody
    /// that a file system does not know, and what the user can't see it shall not get by us.
    pub(super) fn words(&self) -> (Vec<u64>, Option<&[u8]>) {
        let mut steps = Steps(Vec::new());
        for &(resource, soft, hard) in &self.limits {
            steps.put(kind::LIMIT, &[resource.into(), soft, hard]);
        }
        if let Some(nice) = self.nice {
            steps.put(kind::NICE, &[u64::from(nice.cast_unsigned())]);
        }
        if let Some(last) = self.cpus.iter().max() {
            let mut mask = vec![0; *last as usize / 64 + 1];
            for cpu in &self.cpus {
                mask[*cpu as usize / 64] |= 1 << (cpu % 64);
            }
            // As the kernel reads it: words of its own size, which are in the same order.
            steps.put(kind::CPUS, &mask);
        }
        if let Some(priority) = self.io_priority {
            steps.put(kind::IO_PRIORITY, &[priority.into()]);
        }
        if let Some((policy, priority)) = self.realtime {
            steps.put(kind::REALTIME, &[policy.into(), priority.into()]);
        }
        if let Some(mask) = self.umask {
            steps.put(kind::UMASK, &[mask.into()]);
        }
        if self.uid.is_some() || self.gid.is_some() {
            let id = |id: Option<u32>| u64::from(id.unwrap_or(u32::MAX));
            steps.put(kind::STREAMS, &[id(self.uid), id(self.gid)]);
        }
        if let Some(groups) = &self.groups {
            let mut words = vec![groups.len() as u64];
            words.extend(groups.chunks(2).map(|pair| {
                let mut bytes = [0; 8];
                for (place, group) in bytes.chunks_exact_mut(4).zip(pair) {
                    place.copy_from_slice(&group.to_ne_bytes());
                }
                u64::from_ne_bytes(bytes)
            }));
            steps.put(kind::GROUPS, &words);
        }
        if let Some(gid) = self.gid {
            steps.put(kind::GROUP, &[gid.into()]);
        }
        if let Some(bounding) = self.bounding {
            steps.put(kind::BOUNDING, &[bounding]);
        }
        let becomes_another = self.uid.is_some_and(|uid| uid != 0);
        if becomes_another && self.ambient != 0 {
            steps.put(kind::KEEP_CAPS, &[]);
        }
        if let Some(uid) = self.uid {
            steps.put(kind::USER, &[uid.into()]);
        }
        if self.bounding.is_some() || self.ambient != 0 {
            let stay = self.bounding.unwrap_or(u64::MAX);
            // Of a user other than root nothing is in effect, so that what follows is done with no
            // more rights than the program has.
            let (permitted, effective) =
                if becomes_another { (self.ambient, 0) } else { (stay, stay) };
            steps.put(kind::CAPS, &[permitted, effective, self.ambient]);
        }
        if self.ambient != 0 {
            steps.put(kind::AMBIENT, &[self.ambient]);
        }
        if self.no_new_privs {
            steps.put(kind::NO_NEW_PRIVS, &[]);
        }
        if self.stdin.is_some() {
            steps.put(kind::STDIN, &[0]);
        }
        (steps.0, self.stdin.as_ref().map(|path| path.as_os_str().as_bytes()))
    }
}

struct Steps(Vec<u64>);

impl Steps {
    fn put(&mut self, kind: u32, words: &[u64]) {
        self.0.push(u64::from(kind) << 32 | words.len() as u64);
        self.0.extend_from_slice(words);
    }
}

/// The first of these steps: its kind and its words; and those that follow.
fn next(steps: &[u64]) -> Option<(u32, &[u64], &[u64])> {
    let (head, rest) = steps.split_first()?;
    let count = usize::try_from(head & u64::from(u32::MAX)).ok()?;
    let (words, rest) = rest.split_at_checked(count)?;
    Some(((head >> 32) as u32, words, rest))
}

/// Turns offsets in the steps into addresses, in place; `address` gives those of strings. None if
/// they are no steps, or not all of them are known.
pub(super) fn locate(steps: &mut [u64], address: impl Fn(u64) -> Option<u64>) -> Option<()> {
    let mut at = 0;
    while let Some((kind, words, _)) = steps.get(at..).and_then(next) {
        let count = words.len();
        let is_good = match kind {
            kind::LIMIT => count == 3 && RESOURCES.get(words[0] as usize).is_some(),
            kind::CAPS => count == 3,
            kind::REALTIME | kind::STREAMS => count == 2,
            kind::CPUS => count > 0,
            kind::GROUPS => {
                let groups = words.first().and_then(|&count| usize::try_from(count).ok());
                groups.is_some_and(|groups| count == 1 + groups.div_ceil(2))
            }
            kind::KEEP_CAPS | kind::NO_NEW_PRIVS => count == 0,
            kind::NICE
            | kind::IO_PRIORITY
            | kind::UMASK
            | kind::GROUP
            | kind::BOUNDING
            | kind::USER
            | kind::AMBIENT
            | kind::STDIN => count == 1,
            _ => false,
        };
        if !is_good {
            return None;
        }
        if kind == kind::STDIN {
            steps[at + 1] = address(steps[at + 1])?;
        }
        at += 1 + count;
    }
    (at == steps.len()).then_some(())
}

/// In the order of their numbers, which are those of most machines and of this file.
const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// Takes all steps in this process.
///
/// # Errors
///
/// The stage of the first that fails, and why; then some have been taken.
///
/// # Safety
///
/// They were located, and the strings whose addresses are in them are where they were.
pub(super) unsafe fn take(mut steps: &[u64]) -> Result<(), (Stage, Errno)> {
    while let Some((kind, words, rest)) = next(steps) {
        // SAFETY: by our caller's promise.
        unsafe { step(kind, words) }?;
        steps = rest;
    }
    Ok(())
}

/// # Safety
///
/// As [`take`].
unsafe fn step(kind: u32, words: &[u64]) -> Result<(), (Stage, Errno)> {
    let (first, second, third) = match *words {
        [] => (0, 0, 0),
        [first] => (first, 0, 0),
        [first, second] => (first, second, 0),
        [first, second, third, ..] => (first, second, third),
    };
    let (stage, done) = match kind {
        kind::LIMIT => (Stage::Limits, limit(first, second, third)),
        kind::NICE => {
            let nice = (first as u32).cast_signed();
            (Stage::Nice, rustix::process::setpriority_process(None, nice))
        }
        kind::CPUS => (Stage::Cpus, affinity(words)),
        kind::IO_PRIORITY => (Stage::IoClass, io_priority(first)),
        kind::REALTIME => (Stage::Realtime, realtime(first, second)),
        kind::UMASK => {
            rustix::process::umask(Mode::from_raw_mode(first as u32 & 0o777));
            return Ok(());
        }
        kind::STREAMS => (Stage::Streams, give_streams(first as u32, second as u32)),
        kind::GROUPS => (Stage::Groups, groups(words)),
        kind::GROUP => {
            let gid = Some(Gid::from_raw_unchecked(first as u32));
            (Stage::Group, rustix::thread::set_thread_res_gid(gid, gid, gid))
        }
        kind::BOUNDING => (Stage::Bounding, bound(first)),
        kind::KEEP_CAPS => (Stage::Capabilities, prctl(libc::PR_SET_KEEPCAPS, 1, 0)),
        kind::USER => (Stage::User, user(first as u32)),
        kind::CAPS => (Stage::Capabilities, capabilities(first, second, third)),
        kind::AMBIENT => (Stage::Ambient, ambient(first)),
        kind::NO_NEW_PRIVS => (Stage::NoNewPrivs, prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)),
        kind::STDIN => {
            // SAFETY: by our caller's promise it is the address of a string with a final zero.
            let path = unsafe { CStr::from_ptr(first as usize as *const c_char) };
            (Stage::Stdin, read_from(path))
        }
        _ => (Stage::Image, Err(Errno::INVAL)),
    };
    done.map_err(|errno| (stage, errno))
}

fn limit(resource: u64, soft: u64, hard: u64) -> Result<(), Errno> {
    let resource = *RESOURCES.get(resource as usize).ok_or(Errno::INVAL)?;
    let bound = |bound: u64| Some(bound).filter(|bound| *bound != u64::MAX);
    let limit = Rlimit { current: bound(soft), maximum: bound(hard) };
    rustix::process::setrlimit(resource, limit)
}

fn affinity(mask: &[u64]) -> Result<(), Errno> {
    // SAFETY: the kernel reads so many bytes and writes nothing.
    let set = unsafe { syscall!(Sysno::sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) };
    in_rustix(set)
}

fn io_priority(priority: u64) -> Result<(), Errno> {
    /// See ioprio_set(2).
    const WHO_PROCESS: usize = 1;
    // SAFETY: takes integers and touches no memory of ours.
    in_rustix(unsafe { syscall!(Sysno::ioprio_set, WHO_PROCESS, 0, priority as usize) })
}

fn realtime(policy: u64, priority: u64) -> Result<(), Errno> {
    let priority = priority as i32;
    // SAFETY: the kernel reads the priority, all that `struct sched_param` has, and writes nothing.
    in_rustix(unsafe {
        syscall!(Sysno::sched_setscheduler, 0, policy as usize, &raw const priority)
    })
}

/// So that it can open them anew, as `/dev/stdout`.
fn give_streams(uid: u32, gid: u32) -> Result<(), Errno> {
    let id = |id: u32| Some(id).filter(|id| *id != u32::MAX);
    let (uid, gid) = (id(uid).map(Uid::from_raw_unchecked), id(gid).map(Gid::from_raw_unchecked));
    rustix::fs::fchown(rustix::stdio::stdout(), uid, gid)?;
    rustix::fs::fchown(rustix::stdio::stderr(), uid, gid)
}

fn groups(words: &[u64]) -> Result<(), Errno> {
    let (count, words) = words.split_first().ok_or(Errno::INVAL)?;
    let count = (*count as usize).min(words.len() * 2);
    // SAFETY: so many groups of four bytes are there; any are a value of it.
    let groups = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<Gid>(), count) };
    rustix::thread::set_thread_groups(groups)
}

fn user(uid: u32) -> Result<(), Errno> {
    let uid = Some(Uid::from_raw_unchecked(uid));
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // As the kernel does it, unless `fs.suid_dumpable` says otherwise; see the module.
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// Takes all other capabilities out of the bounding set.
fn bound(stay: u64) -> Result<(), Errno> {
    for capability in 0..64_usize {
        if stay & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: takes integers and touches no memory of ours.
        match unsafe { syscall!(Sysno::prctl, libc::PR_CAPBSET_READ, capability, 0, 0, 0) } {
            Ok(0) => {}
            Ok(_) => prctl(libc::PR_CAPBSET_DROP, capability, 0)?,
            // There are no more.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Those that are permitted and those that are effective get no more.
fn capabilities(permitted: u64, effective: u64, inheritable: u64) -> Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3`, with two parts of 32 bits for each set; see capget(2).
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Part {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut header = Header { version: VERSION, pid: 0 };
    let mut parts = [Part { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: the kernel reads and writes the header, and writes the two parts of this version.
    in_rustix(unsafe { syscall!(Sysno::capget, &raw mut header, parts.as_mut_ptr()) })?;
    for (part, shift) in parts.iter_mut().zip([0, 32]) {
        part.permitted &= (permitted >> shift) as u32;
        part.effective &= part.permitted & (effective >> shift) as u32;
        part.inheritable = (inheritable >> shift) as u32;
    }
    // SAFETY: the kernel reads both.
    in_rustix(unsafe { syscall!(Sysno::capset, &raw mut header, parts.as_ptr()) })
}

fn ambient(set: u64) -> Result<(), Errno> {
    for capability in 0..64_usize {
        if set & (1 << capability) != 0 {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, capability)?;
        }
    }
    Ok(())
}

/// A terminal does not become the controlling one, and a pipe or a line that nobody writes to is
/// not waited for.
fn read_from(path: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    rustix::stdio::dup2_stdin(&file)
}

fn prctl(option: i32, first: usize, second: usize) -> Result<(), Errno> {
    // SAFETY: those that are made here take integers and touch no memory of ours.
    in_rustix(unsafe { syscall!(Sysno::prctl, option, first, second, 0, 0) })
}

fn in_rustix(result: Result<usize, syscalls::Errno>) -> Result<(), Errno> {
    result.map(drop).map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}
