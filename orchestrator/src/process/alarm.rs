//! Waiting for a time that the clock on the wall shows, without waking up in between.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::sys;

/// Without a timer of the kernel, how often the clock is looked at in case it was set.
const WITHOUT_TIMER: Duration = Duration::from_secs(60);

/// A timer of the clock on the wall, see timerfd_create(2) on `CLOCK_REALTIME`. It counts the time
/// in which the machine is asleep, and notices that the clock was set.
#[derive(Debug)]
pub(super) struct Alarm(Kind);

#[derive(Debug)]
enum Kind {
    Timer(AsyncFd<OwnedFd>),
    /// There was no room for another file.
    Sleep(Instant),
}

impl Alarm {
    /// Rings at this time, milliseconds since 1970 (UTC), at once if that is in the past; or
    /// earlier, if the clock is set. Must be called within a tokio runtime.
    pub(super) fn at(at_ms: u64, now_ms: u64) -> Self {
        Self(timer(at_ms).map(Kind::Timer).unwrap_or_else(|error| {
            tracing::warn!(%error, "no timer can be had; the clock is looked at each minute");
            let wait = Duration::from_millis(at_ms.saturating_sub(now_ms));
            Kind::Sleep(Instant::now() + wait.min(WITHOUT_TIMER))
        }))
    }

    /// Waits until it rings. It can be called again if it was dropped.
    pub(super) async fn rung(&self) {
        match &self.0 {
            Kind::Sleep(until) => sleep_until(*until).await,
            Kind::Timer(timer) => loop {
                let Ok(mut guard) = timer.readable().await else {
                    // The runtime ends.
                    return std::future::pending().await;
                };
                let mut count = [0; 8];
                match rustix::io::read(guard.get_inner(), &mut count) {
                    Err(Errno::AGAIN | Errno::INTR) => guard.clear_ready(),
                    // It has come, or, with ECANCELED, the clock was set.
                    _ => return,
                }
            },
        }
    }
}

fn timer(at_ms: u64) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    // All zeros would be no time at all.
    let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX).max(1);
    let at = Timespec { tv_sec: at_ms / 1000, tv_nsec: at_ms % 1000 * 1_000_000 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
    sys::readable(timer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    fn now_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap()
    }

    #[tokio::test]
    async fn it_rings_when_the_time_has_come_and_not_before() {
        let at = now_ms() + 50;
        let alarm = Alarm::at(at, now_ms());
        assert!(matches!(alarm.0, Kind::Timer(_)));
        alarm.rung().await;
        assert!(now_ms() >= at);
        for past in [0, 1, now_ms()] {
            tokio::time::timeout(Duration::from_secs(10), Alarm::at(past, now_ms()).rung())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn it_rings_without_a_timer_too() {
        Alarm(Kind::Sleep(Instant::now())).rung().await;
    }
}
