//! Waking and being woken: an eventfd(2), which is touched only when somebody sleeps, and before
//! that a spin within a budget.

use std::hint;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags};

use super::RingError;
use super::layout::Bell;

/// Makes what one end hears and the other one rings. Close-on-exec, never waits.
pub(super) fn make() -> Result<OwnedFd, RingError> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(RingError::io("make an eventfd"))
}

/// One that would wait is not used: the other end has the same one.
fn check(fd: &OwnedFd) -> Result<(), RingError> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(RingError::io("look at an eventfd"))?;
    if flags.contains(OFlags::NONBLOCK) {
        Ok(())
    } else {
        Err(RingError::NotARing("its eventfd would wait"))
    }
}

/// What the other end hears.
#[derive(Debug)]
pub(super) struct Doorbell(OwnedFd);

impl Doorbell {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, RingError> {
        check(&fd)?;
        Ok(Self(fd))
    }
}

impl Bell for Doorbell {
    fn ring(&self) -> Result<(), RingError> {
        loop {
            match rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                // The counter is full, so it rings already.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(RingError::io("wake the other end of a ring")(error)),
            }
        }
    }
}

/// What this end hears.
#[derive(Clone, Debug)]
pub(super) struct Ear(Arc<OwnedFd>);

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ear {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, RingError> {
        check(&fd)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Waits until it rings or the time is over, and forgets that it rang. May come back early.
    pub(super) fn wait(&self, until: Option<Instant>) -> Result<(), RingError> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled = [PollFd::new(&*self.0, PollFlags::IN)];
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => self.forget(),
            Err(error) => Err(RingError::io("wait for the other end of a ring")(error)),
        }
    }

    /// Forgets that it rang. Never waits, even if the other end has made the eventfd one that does.
    pub(super) fn forget(&self) -> Result<(), RingError> {
        let mut count = [0; 8];
        let mut parts = [IoSliceMut::new(&mut count)];
        match rustix::io::preadv2(&*self.0, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(RingError::io("hear the other end of a ring")(error)),
        }
    }
}

/// Looking again and again before sleeping, for no longer than the budget; and for less of it each
/// time that was in vain, so that a quiet ring costs little.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spin {
    budget: Duration,
    now: Duration,
}

/// Whether the machine has one processor, see Documentation/ABI/stable/sysfs-devices-system-cpu. A
/// program that may only run on one of several is not alone: the other end may have another.
fn is_single() -> bool {
    match std::fs::read_to_string("/sys/devices/system/cpu/online") {
        Ok(list) => !list.contains([',', '-']),
        Err(_) => std::thread::available_parallelism().is_ok_and(|count| count.get() == 1),
    }
}

/// Looks between two looks at the clock.
const LOOKS: u32 = 32;
/// How long it is looked without a break by who has something else to do.
const TURN: Duration = Duration::from_micros(5);
/// The part of the budget that is always tried: the other end may be quick again.
const LEAST: u32 = 16;

impl Spin {
    /// None with a single processor: whoever is waited for could not run.
    pub(super) fn new(budget: Duration) -> Self {
        let budget = if is_single() { Duration::ZERO } else { budget };
        Self { budget, now: budget }
    }

    /// Whether it came true meanwhile.
    pub(super) fn until<E>(
        &mut self,
        mut ready: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut began = None;
        loop {
            if let Some(answer) = self.turn(&mut began, &mut ready)? {
                return Ok(answer);
            }
        }
    }

    /// The same for no longer than [`TURN`], for who has something else to do in between. None if the
    /// time is not over; to be called again then. `began` is none at first.
    pub(super) fn turn<E>(
        &mut self,
        began: &mut Option<Instant>,
        mut ready: impl FnMut() -> Result<bool, E>,
    ) -> Result<Option<bool>, E> {
        if ready()? {
            return Ok(Some(true));
        }
        if self.budget.is_zero() {
            return Ok(Some(false));
        }
        let turn = Instant::now();
        let began = *began.get_or_insert(turn);
        loop {
            for _ in 0..LOOKS {
                hint::spin_loop();
                if ready()? {
                    self.now = self.budget.min(self.now * 2);
                    return Ok(Some(true));
                }
            }
            let now = Instant::now();
            if now - began >= self.now {
                self.now = (self.now / 2).max(self.budget / LEAST);
                return Ok(Some(false));
            }
            if now - turn >= TURN {
                return Ok(None);
            }
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
