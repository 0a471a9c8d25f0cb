//! The connection to the holder: whoever wants something sends an order. What the holder says is for
//! [`hearing`](super::hearing).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Priority;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::cgroup::{Cgroups, Entry, Leaf};
use super::deposit::Deposits;
use super::group::Others;
use super::group::{Calls, Group};
use super::keeping::{Keeping, Told, Wish};
use super::linux::Left;
use super::output::Outputs;
use super::prepare::{Prepared, Surroundings};
use super::program::{self, in_file};
use super::{Ended, FIRST_COMMAND, Launch, Part, Pending, sys};
use crate::holder::frame::{self, MAX_DATAGRAM, Name, News, Order, Stage, Version};
use crate::holder::socket::{self};
use crate::supervise::SIGKILL;

/// The key of processes that serve the daemon, and of no instance.
pub(super) const SERVICES: [u8; 16] = [0; 16];

/// How often the holder is told what it need not remember any more, at most.
pub(super) const RELEASE: Duration = Duration::from_millis(100);

/// How long a program waits for others that are on their way, so many that the holder takes no
/// more, while none of them arrives: it takes a file system that does not answer for that.
const PLACE: Duration = Duration::from_secs(5);

/// The connection to the holder.
pub(super) struct Link {
    /// Waited for to be readable only: to be told each time that it is writable would cost a
    /// wake-up for each order.
    pub(super) socket: AsyncFd<OwnedFd>,
    /// The holder's number, for as long as there is a connection.
    pub(super) holder: i32,
    pub(super) table: Mutex<Table>,
    pub(super) keeping: Keeping,
    /// Something can be released.
    pub(super) ended_some: Notify,
    /// What the daemon has that programs may have too.
    pub(super) surroundings: Arc<Surroundings>,
    /// Those of the holder for programs on their way.
    pub(super) places: Semaphore,
    /// How many have left such a place.
    pub(super) arrived: AtomicU64,
    /// The nice value of what is executed, if nothing is done about it.
    pub(super) nice: i32,
    pub(super) next_run: AtomicU64,
    pub(super) calls: Calls,
    /// Where instances are, for the kernel. Set once, before anything is spawned.
    pub(super) cgroups: OnceLock<Arc<Cgroups>>,
    /// Whether the ends that were passed on are taken note of, so that the holder need not
    /// remember them.
    pub(super) noted: OnceLock<Noted>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// Asks whether all that was passed on before is kept.
pub(super) type Noted = Box<dyn Fn() -> Pending<bool> + Send + Sync>;

/// Who waits for what the holder will say.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) spawns: HashMap<Name, oneshot::Sender<Result<Born, Refusal>>>,
    pub(super) alive: HashMap<Name, oneshot::Sender<Ended>>,
    pub(super) signals: HashMap<Name, Vec<oneshot::Sender<i32>>>,
    /// Groups that somebody still cares for, by number, to tell them when it is reused.
    pub(super) groups: HashMap<i32, Weak<Group>>,
    /// Ends that the holder need not remember any more.
    pub(super) released: Vec<Name>,
    /// What programs print into that is being read.
    pub(super) outputs: Outputs,
    /// Files that are to be with the holder alone.
    pub(super) deposits: Deposits,
    /// Who waits to hear whether there is a daemon whose place this one is to take.
    pub(super) welcome: Option<oneshot::Sender<bool>>,
    /// Who waits for what an earlier daemon has left, and that, as far as it is known.
    pub(super) left: Option<(Left, oneshot::Sender<Left>)>,
    /// Who wants to hear of the daemon that is to take the place of this one.
    pub(super) successor: Option<mpsc::Sender<News>>,
    /// Who wants to hear whether another program is the holder now.
    pub(super) renewal: Option<oneshot::Sender<io::Result<()>>>,
    /// Of the holder's program.
    pub(super) holder_version: Version,
    /// The version of the protocol that the holder speaks, once it has said so.
    pub(super) holder_protocol: Option<i32>,
    /// The holder has heard that it was asked for that. What it tells before is told again, and
    /// better understood, after it; to take it twice would make two of one program.
    pub(super) asked: bool,
    /// The holder has gone.
    pub(super) ended: bool,
}

/// A program that was not executed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) stage: Stage,
    pub(super) error: io::Error,
}

#[derive(Debug)]
pub(super) struct Born {
    pub(super) claim: Claim,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) exited: oneshot::Receiver<Ended>,
    pub(super) warning: i32,
}

/// A group that its asker has not taken. If that never happens, because the asker has gone,
/// nobody else could ever stop it.
#[derive(Debug)]
pub(super) struct Claim(pub(super) Option<Arc<Group>>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            group.signal_unheard(SIGKILL);
        }
    }
}

impl Link {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error is none if the holder has gone.
    pub(super) async fn spawn(
        &self,
        launch: &Launch,
        prepared: &Prepared,
    ) -> Result<Born, Option<Refusal>> {
        let refusal = |error| Some(Refusal { stage: Stage::Image, error });
        let listeners = self.listeners(launch).await?;
        let _place = self.place().await;
        // Not before that, or there would be one for each that waits.
        let image = program::image(launch, prepared)
            .map_err(|error| refusal(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let tag = self.next_run.fetch_add(1, Ordering::Relaxed);
        // A time in nanoseconds: the top bit is free until the year 2262.
        let tag = match launch.part {
            Part::Main => tag,
            Part::Command => tag | FIRST_COMMAND,
        };
        let child = Name { key: *launch.instance.as_bytes(), tag };
        // Kept until the answer is there: dropped, it removes a cgroup that nobody is in.
        let entry = self.enter(child);
        let (answer, answered) = oneshot::channel();
        {
            let mut table = self.table();
            if table.ended {
                return Err(None);
            }
            table.spawns.insert(child, answer);
        }
        let file = if frame::SIZE + image.len() > MAX_DATAGRAM {
            let file = in_file(&image);
            Some(file.inspect_err(|_| self.forget(child)).map_err(refusal)?)
        } else {
            None
        };
        let order = Order::Spawn {
            child,
            // If its nice value is one that it has to get, that is among its attributes.
            nice: launch.execution.nice.map_or(launch.priority.nice(), |_| self.nice),
            image: file.is_some(),
            stdin: false,
            cgroup: entry.is_some(),
            listeners,
        };
        let files = file.iter().chain(entry.as_ref().map(|entry| &entry.directory));
        let files: Vec<_> = files.map(AsFd::as_fd).collect();
        let image = if file.is_some() { &[] } else { &image[..] };
        let sent = self.order(order, image, &files).await;
        sent.inspect_err(|_| self.forget(child)).map_err(refusal)?;
        // Nobody answers when the holder has gone.
        let answer = answered.await;
        self.arrived.fetch_add(1, Ordering::Relaxed);
        answer.map_err(|_| None)?.map_err(Some)
    }

    /// A place in the holder, when it is this one's turn. None if no place becomes free: the holder
    /// then refuses what it has no room for.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let mut turn = pin!(self.places.acquire());
        loop {
            let arrived = self.arrived.load(Ordering::Relaxed);
            match timeout(PLACE, &mut turn).await {
                Ok(place) => return place.ok(),
                Err(_) if self.arrived.load(Ordering::Relaxed) == arrived => return None,
                Err(_) => {}
            }
        }
    }

    pub(super) fn cgroups(&self) -> Option<&Arc<Cgroups>> {
        self.cgroups.get()
    }

    /// A cgroup for this child, if it can have one. Why it can't is a warning at its start, if it
    /// has limits, see [`Kernel::unmet`](super::Kernel::unmet).
    fn enter(&self, child: Name) -> Option<Entry> {
        if self.table().holder_protocol.is_some_and(|it| it < frame::WITH_CGROUPS) {
            return None;
        }
        self.cgroups()?.enter(child).unwrap_or_else(|error| {
            tracing::warn!(error, "a program is executed without a cgroup of its own");
            None
        })
    }

    /// Which of its limits are not in force, see [`Kernel::unmet`](super::Kernel::unmet).
    pub(super) fn unmet(&self, instance: InstanceId, runs: bool) -> Vec<String> {
        let Some(cgroups) = self.cgroups() else { return Vec::new() };
        let (limits, unmet) = cgroups.unmet(instance);
        if unmet.is_empty() && runs && !limits.is_none() && !cgroups.is_placed(instance) {
            let why = "none of its limits is in force: what runs was executed by a version of the \
                       orchestrator, or in a place, without cgroups; a restart puts them in force";
            return vec![why.to_owned()];
        }
        unmet
    }

    /// Why an instance is not to be executed: what can't be in force of what it requires.
    pub(super) fn refusal(&self, launch: &Launch) -> Option<Vec<String>> {
        let (limits, unmet) = self.cgroups()?.unmet(launch.instance);
        let is_required = limits.limits_required && launch.part == Part::Main;
        (is_required && !unmet.is_empty()).then_some(unmet)
    }

    /// How those of an execution are known that have left its process group.
    pub(super) fn others(&self, child: Name) -> Others {
        let leaf: Option<Arc<Leaf>> = self.cgroups().and_then(|cgroups| cgroups.find(child));
        match leaf {
            Some(leaf) => Others::InCgroup(leaf),
            None => Others::ByLineage { is_command: child.tag >= FIRST_COMMAND, everywhere: false },
        }
    }

    /// Whether a child has not been collected.
    pub(super) fn is_alive(&self, child: Name) -> bool {
        self.table().alive.contains_key(&child)
    }

    /// The numbers of main processes that somebody cares for.
    pub(super) fn numbers(&self) -> HashSet<i32> {
        let table = self.table();
        let kept = table.groups.iter().filter(|(_, group)| group.strong_count() > 0);
        kept.map(|(number, _)| *number).collect()
    }

    fn forget(&self, child: Name) {
        self.table().spawns.remove(&child);
    }

    /// Sends an order. Waits while the holder does not keep up.
    pub(super) async fn order(
        &self,
        order: Order,
        image: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        loop {
            match self.try_order(order, image, files) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
            self.writable().await?;
        }
    }

    /// Has a file kept under this name, or none any more; later, if the holder does not keep up.
    pub(super) fn keep(self: &Arc<Self>, name: Name, wish: Wish) {
        let told = self.keeping.tell(name, wish, |order, files| self.try_keeping(order, files));
        // If there is no runtime any more, this process is about to end.
        if told == Told::BeginsToBeLate
            && let Ok(runtime) = Handle::try_current()
        {
            let link = Arc::clone(self);
            runtime.spawn(async move {
                while !link.keeping.catch_up(|order, files| link.try_keeping(order, files)) {
                    if link.writable().await.is_err() {
                        sleep(RELEASE).await;
                    }
                }
            });
        }
    }

    /// Waits until the holder takes an order.
    pub(super) async fn writable(&self) -> io::Result<()> {
        let socket = self.socket.get_ref().try_clone()?;
        let _writable = sys::writable(socket)?.writable().await?;
        Ok(())
    }

    pub(super) fn try_order(
        &self,
        order: Order,
        image: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let frame = order.encode();
        socket::send(self.socket.get_ref(), &[IoSlice::new(&frame), IoSlice::new(image)], files)
    }

    /// The end of a child was passed on to where it will be kept.
    pub(super) fn end_is_noted(&self, child: Name) {
        self.table().released.push(child);
        self.ended_some.notify_one();
    }

    /// Tells the holder which ends it can forget: those that are kept elsewhere.
    pub(super) async fn release(&self) {
        let Some(noted) = self.noted.get() else {
            return;
        };
        let passed_on = std::mem::take(&mut self.table().released);
        if !noted().await {
            self.table().released.extend(passed_on);
            return;
        }
        for child in passed_on {
            // If it fails the holder has gone.
            let _ = self.order(Order::Release { child }, &[], &[]).await;
        }
    }

    /// Has the holder signal a group by its number. `ECHILD` if its leader has been collected.
    pub(super) async fn signal(&self, child: Name, signal: i32) -> io::Result<()> {
        let (answer, answered) = oneshot::channel();
        self.table().signals.entry(child).or_default().push(answer);
        self.order(Order::Signal { child, signal }, &[], &[]).await?;
        match answered.await {
            Ok(0) => Ok(()),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(io::Error::other("the holder has ended")),
        }
    }

    /// The same, without waiting for anything, when nobody is there to hear of it.
    pub(super) fn signal_unheard(&self, child: Name, signal: i32) {
        let _ = self.try_order(Order::Signal { child, signal }, &[], &[]);
    }

    /// A failure is a warning: the program does run.
    pub(super) fn warning(&self, priority: Priority, errno: i32) -> Option<String> {
        if errno == 0 {
            return None;
        }
        let error = io::Error::from_raw_os_error(errno);
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                " (the daemon would need CAP_SYS_NICE or a higher RLIMIT_NICE)"
            }
            _ => "",
        };
        let (nice, keeps) = (priority.nice(), self.nice);
        Some(format!(
            "priority {priority} (nice {nice}) could not be set: {error}{hint}; it runs with nice \
             {keeps}"
        ))
    }
}

impl Table {
    /// Whether the holder can be asked for what it has open, so that it need not be open here.
    pub(super) fn holder_gives(&self) -> bool {
        self.holder_protocol.is_none_or(|it| it >= frame::WITH_FETCHING)
    }

    pub(super) fn remember(&mut self, pid: i32, group: &Arc<Group>) {
        if self.groups.len() > 2 * self.alive.len() + 64 {
            self.groups.retain(|_, group| group.strong_count() > 0);
        }
        let before = self.groups.insert(pid, Arc::downgrade(group));
        if let Some(before) = before.and_then(|before| before.upgrade()) {
            before.number_is_reused();
        }
    }
}
