//! Capture, as the rest of the daemon sees it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{LogRules, LogStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::instance::{InstanceLog, Shared};
use super::link::Link;
use super::rules::Rules;
use super::source::PipeSource;
use super::start::{self, Starter};
use super::{CaptureConfig, LogError, file};

/// Captures the output of all instances, in a process of its own, which is started if there is
/// none, and again whenever it ends.
///
/// Dropping it leaves the capture process to itself: it reads on, until all pipes have ended
/// and no daemon has come for 10 s. The logs are closed for this daemon then.
#[derive(Debug)]
pub struct Capture {
    link: Arc<Link>,
    /// None once it was taken for the end.
    task: Option<JoinHandle<bool>>,
}

/// A log that the capture process has open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// Whose log it is.
    pub instance: InstanceId,
    /// Where its files are.
    pub dir: PathBuf,
    /// The pipes that are being read: of which run, and which of the two.
    pub pipes: Vec<(u64, LogStream)>,
}

impl Capture {
    /// Connects to the capture process at a socket of this path, in a directory that is this
    /// user's alone and that of the file `capture.lock`; has one started if there is none. Must
    /// be called in a tokio runtime. If that fails it is tried again, which the daemon's log and
    /// the logs of instances tell of.
    #[must_use]
    pub fn start(
        config: CaptureConfig,
        socket: PathBuf,
        starter: Starter,
        source: Arc<dyn PipeSource>,
    ) -> Self {
        let first = start::connect(&socket, &starter);
        let link = Link::new(config, socket, starter, source, Handle::current());
        let task = tokio::spawn(link.clone().run(first));
        Self { link, task: Some(task) }
    }

    /// Opens an instance's log under the default rules; see [`open_with`](Self::open_with).
    ///
    /// # Errors
    ///
    /// As that.
    pub fn open(&self, instance: InstanceId, dir: PathBuf) -> Result<InstanceLog, LogError> {
        self.open_with(instance, dir, &LogRules::default())
    }

    /// Opens an instance's log in a directory of its own, which is created (mode 0700) if
    /// necessary; goes on after what is there, or with what the capture process has open.
    /// Blocks while it lists the directory.
    ///
    /// # Errors
    ///
    /// [`LogError::Open`]; [`LogError::AlreadyOpen`] until the instance's earlier log is
    /// closed.
    pub fn open_with(
        &self,
        instance: InstanceId,
        dir: PathBuf,
        rules: &LogRules,
    ) -> Result<InstanceLog, LogError> {
        if self.link.has(instance) {
            return Err(LogError::AlreadyOpen(instance));
        }
        let failed = |source| LogError::Open { dir: dir.clone(), source };
        let dir = std::path::absolute(&dir).map_err(failed)?;
        let end = file::prepare(&dir).map_err(failed)?;
        let rules = Rules::new(self.link.config, rules);
        let shared = Shared::new(self.link.clone(), instance, dir, rules, end);
        let shared = Arc::new(shared);
        if !self.link.add(&shared) {
            return Err(LogError::AlreadyOpen(instance));
        }
        Ok(InstanceLog { shared })
    }

    /// The logs that the capture process has open, by ascending id: those of this daemon, and
    /// those that an earlier one left.
    ///
    /// # Errors
    ///
    /// [`LogError::Stopped`] when the capture process ends before it has answered.
    pub async fn inventory(&self) -> Result<Vec<Captured>, LogError> {
        let logs = self.link.inventory().await.ok_or(LogError::Stopped)?;
        let captured = logs.into_iter().map(|log| Captured {
            instance: log.instance,
            dir: log.dir.as_path().to_owned(),
            pipes: log.pipes,
        });
        Ok(captured.collect())
    }

    /// Has the capture process end after what it has read, and another one go on where it was. What
    /// is in the pipes stays there until then, so that nothing is lost or doubled. Returns when the
    /// other one is there.
    ///
    /// # Errors
    ///
    /// [`LogError::Failing`] while a log can't be written, since what is missing in it would never be
    /// told of there; [`LogError::Late`] if it takes longer than `limit`: it is done all the same, as
    /// soon as it can be; [`LogError::Stopped`] at the end of everything.
    pub fn renew(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<(), LogError>> + Send + use<> {
        let link = self.link.clone();
        async move {
            if link.is_failing() {
                return Err(LogError::Failing);
            }
            let renewed = tokio::time::timeout(limit, link.renew()).await;
            renewed.map_err(|_| LogError::Late(limit))?.ok_or(LogError::Stopped)
        }
    }

    /// The version of the capture process's program; none while it is not known.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.link.version()
    }

    /// The capture process; none while it is being started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.link.pid()
    }

    /// Logs with orders for the capture process that found no room on the way to it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.link.waiting()
    }

    /// Closes all logs: reads what is in the pipes without waiting for more, writes it, and
    /// ends the capture process. What instances print after that stays in the pipes.
    ///
    /// # Errors
    ///
    /// [`LogError::Deadline`] when the disk does not answer; [`LogError::Stopped`] if there is
    /// no capture process.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), LogError> {
        self.link.shut_down();
        let Some(task) = self.task.take() else { return Ok(()) };
        let ended = tokio::time::timeout(deadline, task);
        match ended.await.map_err(|_| LogError::Deadline(deadline))? {
            Ok(true) => Ok(()),
            Ok(false) => Err(LogError::Stopped),
            Err(panic) => {
                let error = io::Error::other(panic);
                tracing::error!(%error, "the link to the capture process has failed");
                Err(LogError::Stopped)
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.link.leave();
    }
}
