//! What the service manager is told of the daemon, see sd_notify(3), and that it is alive, see
//! sd_watchdog_enabled(3). The holder passes it on.

use std::env;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::process::Linux;

/// Tells the service manager, if there is one.
pub(super) struct Service {
    kernel: Option<Linux>,
    beat: Option<Interval>,
}

impl Service {
    /// As the environment says, which is the holder's. Must be called within a tokio runtime.
    pub(super) fn from_environment(kernel: &Linux) -> Self {
        let kernel = env::var_os("NOTIFY_SOCKET").map(|_| kernel.clone());
        let holder = kernel.as_ref().map_or(0, Linux::holder);
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = env::var_os("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == u64::try_from(holder).ok();
        let usec = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && is_ours && kernel.is_some());
        let beat = usec.map(|usec| {
            let mut beat = interval(Duration::from_micros(usec / 2).max(Duration::from_millis(1)));
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        });
        Self { kernel, beat }
    }

    /// It works, also after [`replacing`](Self::replacing).
    pub(super) async fn ready(&self, instances: usize) {
        let Some(kernel) = &self.kernel else { return };
        let (holder, us) = (kernel.holder(), std::process::id());
        let version = env!("CARGO_PKG_VERSION");
        self.tell(format!(
            "READY=1\nMAINPID={holder}\nSTATUS=version {version}, process {us}: {instances} \
             instances"
        ))
        .await;
    }

    /// Another daemon takes over, which will say when it is ready.
    pub(super) async fn replacing(&self, successor: u32) {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = since_boot.tv_sec * 1_000_000 + since_boot.tv_nsec / 1000;
        self.tell(format!(
            "RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=process {successor} takes over"
        ))
        .await;
    }

    /// It ends, and everything with it.
    pub(super) async fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping all instances").await;
    }

    /// Resolves when the service manager is to hear that this daemon is alive.
    pub(super) async fn due(&mut self) {
        match &mut self.beat {
            Some(beat) => {
                beat.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// It is alive.
    pub(super) async fn alive(&self) {
        self.tell("WATCHDOG=1").await;
    }

    async fn tell(&self, lines: impl Display) {
        if let Some(kernel) = &self.kernel
            && let Err(error) = kernel.notify(&lines.to_string()).await
        {
            tracing::warn!(%error, "the service manager can't be told anything");
        }
    }
}
