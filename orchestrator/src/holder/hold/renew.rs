//! Another program in place of this one, in the same process: handing over, and going on.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::signal::SigSet;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::Holder;
use crate::holder::daemon::Daemon;
use crate::holder::exec::{Place, execute};
use crate::holder::frame::{News, Version};
use crate::holder::handover::{self, FORM, Number, Record, SIZE};
use crate::holder::image::{self, FileName};
use crate::holder::launch::{self, Launched};
use crate::holder::succession::Executable;
use crate::holder::{read_all, sys};

/// Records that are written at once.
const AT_ONCE: usize = 64;

/// What a program that the kernel executes itself begins with.
const ELF: &[u8; 4] = b"\x7fELF";

/// Handing over.
impl Holder {
    /// Executes a program as the holder. Comes back only if that fails; then everything is as it
    /// was, and this is why. Its image is in `bytes`, or in a file.
    pub(super) fn renew(
        &mut self,
        bytes: &[u8],
        image_file: Option<OwnedFd>,
        program: Option<OwnedFd>,
        reads: i32,
    ) -> io::Error {
        if reads < FORM {
            return Errno::PROTO.into();
        }
        // So that nothing has to be handed over but what there is when nothing happens.
        let busy = !self.lives.is_ready()
            || self.proven.is_some()
            || self.succession.daemon().is_some()
            || self.launches.is_any_underway()
            || self.owes();
        let Some(mut place) = self.spare.take_if(|_| !busy) else {
            return Errno::BUSY.into();
        };
        let opened = self.children.open_pidfds();
        let failed = opened.and_then(|()| self.hand_over(&mut place, bytes, image_file, program));
        self.children.close_pidfds();
        self.spare = Some(place);
        failed.err().unwrap_or_else(|| Errno::INVAL.into())
    }

    /// Writes down what there is, and executes the program.
    fn hand_over(
        &self,
        place: &mut Place,
        bytes: &[u8],
        image_file: Option<OwnedFd>,
        program: Option<OwnedFd>,
    ) -> io::Result<()> {
        let program = program.ok_or(Errno::BADF)?;
        // A script's interpreter would find no file under the name that we give it.
        let mut magic = [0; ELF.len()];
        if rustix::io::pread(&program, &mut magic, 0)? < ELF.len() || &magic != ELF {
            return Err(Errno::NOEXEC.into());
        }
        let words = place.image();
        launch::fill(words, bytes, image_file)?;
        if !image::name_program(words, FileName::of(&program).path()).map_err(|_| Errno::NOMEM)? {
            return Err(Errno::INVAL.into());
        }
        let before = open(c"/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let executable = memfd_create(image::FILE_NAME, MemfdFlags::CLOEXEC)?;
        File::from(executable.try_clone()?).write_all(&self.executable.image)?;
        let state = memfd_create(c"what a holder hands over", MemfdFlags::CLOEXEC)?;
        self.write(&state, before.as_fd(), executable.as_fd())?;

        let result = self.stay_open([before.as_fd(), executable.as_fd()], FdFlags::empty());
        let result = result.and_then(|()| Ok(rustix::stdio::dup2_stdin(&state)?));
        let result = result.and_then(|()| Err(execute(words)));
        // Here again. Nobody reads from this, but it is not to keep what was handed over.
        let _ = rustix::stdio::dup2_stdin(self.launches.nothing());
        self.stay_open([before.as_fd(), executable.as_fd()], FdFlags::CLOEXEC)?;
        result
    }

    /// Writes down what there is.
    fn write(
        &self,
        state: &OwnedFd,
        before: BorrowedFd<'_>,
        executable: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let daemon = self.daemon.as_ref().ok_or(Errno::SRCH)?;
        let number = |file: &OwnedFd| file.as_raw_fd();
        let head = [
            Record::Head {
                form: FORM,
                pid: std::process::id().cast_signed(),
                before: before.as_raw_fd(),
            },
            Record::Holder {
                name: own_name()?,
                age: self.now(),
                hangup_ignored: self.hangup_ignored,
                last_signal: self.last_signal,
            },
            Record::Limits(self.launches.files()),
            Record::Lives(self.lives),
            Record::Daemon {
                pid: daemon.pid,
                able: daemon.able,
                socket: daemon.socket.as_raw_fd(),
            },
            Record::Executable {
                image: executable.as_raw_fd(),
                program: self.executable.program.as_ref().map(number),
            },
        ];
        let children = self.children.each().flat_map(|(program, ended)| {
            let Launched { child, pid, warning, pidfd, stdout, stderr } = program;
            // They were opened for this.
            let pidfd = pidfd.as_ref().map_or(-1, number);
            let files = [pidfd, number(stdout), number(stderr)];
            let child = *child;
            let ended = ended.map(|(how, time_ns)| Record::Ended { child, how, time_ns });
            let child = Record::Child { child, pid: *pid, warning: *warning, files };
            std::iter::once(child).chain(ended)
        });
        let kept = self.files.each();
        let kept = kept.map(|(name, file)| Record::Kept { name, file: file.as_raw_fd() });
        let mut out = Out { file: state, bytes: [[0; SIZE]; AT_ONCE], used: 0, count: 0 };
        for record in head.into_iter().chain(children).chain(kept) {
            out.put(record)?;
        }
        out.put(Record::End(out.count))?;
        out.flush()
    }

    /// Has exactly the files that are handed over stay open when a program is executed in this
    /// process, or not any more.
    fn stay_open(&self, also: [BorrowedFd<'_>; 2], flags: FdFlags) -> io::Result<()> {
        let programs = self.children.each().map(|(program, _)| program);
        let children =
            programs.flat_map(|it| [it.pidfd.as_ref(), Some(&it.stdout), Some(&it.stderr)]);
        let own = children.flatten().chain(&self.executable.program);
        let own = own.chain(self.daemon.as_ref().map(|daemon| &daemon.socket));
        let own = own.map(AsFd::as_fd).chain(self.files.each().map(|(_, file)| file));
        for file in own.chain(also) {
            fcntl_setfd(file, flags)?;
        }
        Ok(())
    }
}

/// Records on their way to a file.
struct Out<'a> {
    file: &'a OwnedFd,
    bytes: [[u8; SIZE]; AT_ONCE],
    /// How many of these wait.
    used: usize,
    /// How many there were in all.
    count: u64,
}

impl Out<'_> {
    fn put(&mut self, record: Record) -> io::Result<()> {
        if self.used == AT_ONCE {
            self.flush()?;
        }
        self.bytes[self.used] = record.encode();
        self.used += 1;
        self.count += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut rest = self.bytes[..self.used].as_flattened();
        while !rest.is_empty() {
            let written = rustix::io::write(self.file, rest)?;
            rest = &rest[written..];
        }
        self.used = 0;
        Ok(())
    }
}

/// The name of this process, with a zero at its end. Executing a program changes it.
fn own_name() -> io::Result<[u8; 16]> {
    let mut name = [0; 16];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, c"/proc/self/comm", flags, Mode::empty())?;
    let len = rustix::io::read(file, &mut name)?;
    // The file ends with a newline instead.
    name[len.saturating_sub(1)..].fill(0);
    Ok(name)
}

/// Going on.
impl Holder {
    /// Goes on with what was handed over in these bytes. On an error all that came with it is as it
    /// was.
    ///
    /// # Errors
    ///
    /// When it can't be read, or there is no memory.
    pub(in crate::holder) fn resume(signals: &SigSet, bytes: &[u8]) -> io::Result<Self> {
        let records = handover::read(bytes).map_err(io::Error::other)?;
        if let Some(closed) = handover::files(records.clone()).find(|&file| !sys::is_open(file)) {
            return Err(io::Error::other(format!("file {closed} of it is not open")));
        }
        let (mut limits, mut image) = (None, None);
        for record in records.clone() {
            match record {
                Record::Limits(files) => limits = Some(files),
                Record::Executable { image: file, .. } => image = Some(file),
                _ => {}
            }
        }
        let (Some(limits), Some(image)) = (limits, image) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let image = read_all(&open(
            FileName::of_number(image).path(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)?;
        let mut holder = Self::new(signals, false, image, limits)?;
        for record in records {
            holder.inherit(record)?;
        }
        holder.children.close_pidfds();
        let _ = rustix::stdio::dup2_stdin(holder.launches.nothing());
        Ok(holder)
    }

    /// What only fails if a file is not open, which was looked at.
    fn inherit(&mut self, record: Record) -> io::Result<()> {
        let file = |number: Number| sys::inherit(number);
        match record {
            // It was needed to go back to.
            Record::Head { before, .. } => drop(file(before)?),
            Record::Holder { name, age, hangup_ignored, last_signal } => {
                let name = std::ffi::CStr::from_bytes_until_nul(&name).unwrap_or_default();
                let _ = nix::sys::prctl::set_name(name);
                self.before = age;
                self.hangup_ignored = hangup_ignored;
                self.last_signal = last_signal;
            }
            Record::Limits(_) | Record::End(_) => {}
            Record::Lives(lives) => self.lives = lives,
            Record::Daemon { pid, able, socket } => {
                self.daemon.insert(Daemon::new(pid, file(socket)?)).able = able;
            }
            Record::Executable { image, program } => {
                drop(file(image)?);
                let image = std::mem::take(&mut self.executable.image);
                self.executable = Executable { image, program: program.map(file).transpose()? };
            }
            Record::Child { child, pid, warning, files: [pidfd, stdout, stderr] } => {
                let (pidfd, stdout, stderr) = (Some(file(pidfd)?), file(stdout)?, file(stderr)?);
                self.children.inherit(Launched { child, pid, pidfd, stdout, stderr, warning });
            }
            Record::Ended { how, time_ns, .. } => self.children.inherit_end(how, time_ns),
            Record::Kept { name, file: number } => self.files.inherit(name, file(number)?),
        }
        Ok(())
    }

    /// The daemon is to hear what became of its order to execute another program.
    pub(in crate::holder) fn tell_renewed(&mut self, goes_on: bool) {
        self.answer(if goes_on {
            News::Renewed { version: Version::OWN }
        } else {
            News::NotRenewed { errno: Errno::PROTO.raw_os_error() }
        });
    }
}
