//! The connection to the capture process: kept up, and listened to.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_proto::InstanceId;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::CaptureConfig;
use super::asked::{Inventories, Renewal};
use super::instance::Shared;
use super::record::now_ns;
use super::socket::{Socket, Watched};
use super::source::{PipeSource, Pipes};
use super::start::{self, Starter};
use super::wire::{self, Hello, MAX_DATAGRAM, OpenLog, Order, ProcessId, Report, VERSIONS};

/// How long the capture process may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// A capture process that lived this long has not failed to start.
const STABLE: Duration = Duration::from_secs(10);
/// The pause before the third try to start it in a row, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When what went wrong with one log is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is looked whether all has been said before the capture process is replaced.
const LOOK: Duration = Duration::from_millis(10);
/// How long it may take to find the pipes of a run.
const FETCH: Duration = Duration::from_secs(2);
/// Reports that are taken before somebody else comes.
const TURN: usize = 64;

/// See the module.
pub(super) struct Link {
    /// What holds for logs with rules that say nothing.
    pub(super) config: CaptureConfig,
    socket_path: PathBuf,
    starter: Starter,
    source: Arc<dyn PipeSource>,
    runtime: Handle,
    /// The logs that are open.
    logs: Mutex<HashMap<InstanceId, Arc<Shared>>>,
    /// The connection, once both sides have said hello.
    current: Mutex<Option<Arc<Watched>>>,
    /// The process at its other end; 0 while there is none.
    process: AtomicU32,
    /// Logs with orders for which the socket had no room, each once.
    queued: Mutex<VecDeque<Arc<Shared>>>,
    /// Logs with which something went wrong that may go well.
    retries: Mutex<Vec<Arc<Shared>>>,
    inventories: Mutex<Inventories>,
    renewal: Mutex<Renewal>,
    /// The version of the program at the other end, if it says so.
    version: Mutex<Option<String>>,
    /// One of these has something for the task.
    wake: Notify,
    end: watch::Sender<End>,
}

/// How this is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    NotYet,
    /// The capture process is left to itself.
    Leave,
    /// It is told to end, and listened to until it has.
    ShutDown,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("socket_path", &self.socket_path).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the logs.
impl Link {
    pub(super) fn new(
        config: CaptureConfig,
        socket_path: PathBuf,
        starter: Starter,
        source: Arc<dyn PipeSource>,
        runtime: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            socket_path,
            starter,
            source,
            runtime,
            logs: Mutex::default(),
            current: Mutex::default(),
            process: AtomicU32::new(0),
            queued: Mutex::default(),
            retries: Mutex::default(),
            inventories: Mutex::default(),
            renewal: Mutex::default(),
            version: Mutex::default(),
            wake: Notify::new(),
            end: watch::Sender::new(End::NotYet),
        })
    }

    pub(super) fn source(&self) -> &dyn PipeSource {
        &*self.source
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Adds a log. False if the instance has one.
    pub(super) fn add(&self, log: &Arc<Shared>) -> bool {
        let mut logs = lock(&self.logs);
        let free = !logs.contains_key(&log.instance);
        if free {
            logs.insert(log.instance, log.clone());
        }
        drop(logs);
        // After it was added: whichever comes first, this or a new connection, it is connected.
        // And before nothing more is to be said on this one.
        let current = lock(&self.current);
        if let (true, Some(socket)) = (free, &*current) {
            log.connected(socket);
        }
        free
    }

    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.process.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    pub(super) fn waiting(&self) -> usize {
        lock(&self.queued).len()
    }

    pub(super) fn has(&self, instance: InstanceId) -> bool {
        lock(&self.logs).contains_key(&instance)
    }

    pub(super) fn forget(&self, log: &Shared) {
        let mut logs = lock(&self.logs);
        if logs.get(&log.instance).is_some_and(|known| std::ptr::eq(&**known, log)) {
            logs.remove(&log.instance);
        }
    }

    /// Has the log's orders sent when there is room.
    pub(super) fn queue(&self, log: Arc<Shared>) {
        lock(&self.queued).push_back(log);
        self.wake.notify_one();
    }

    pub(super) fn retry_later(&self, log: Arc<Shared>) {
        let mut retries = lock(&self.retries);
        if !retries.iter().any(|known| Arc::ptr_eq(known, &log)) {
            retries.push(log);
        }
        drop(retries);
        self.wake.notify_one();
    }

    pub(super) async fn fetch(
        &self,
        instance: InstanceId,
        run: u64,
    ) -> io::Result<Option<Arc<Pipes>>> {
        let pipes = self.source.pipes(instance, run);
        timeout(FETCH, pipes).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// What the capture process has open; none if the connection ends before it has said so.
    pub(super) async fn inventory(&self) -> Option<Vec<OpenLog>> {
        let (answer, answered) = oneshot::channel();
        lock(&self.inventories).ask(answer);
        self.wake.notify_one();
        answered.await.ok()
    }

    /// The version of the capture process's program, if it is there and says so.
    pub(super) fn version(&self) -> Option<String> {
        lock(&self.version).clone()
    }

    /// Whether a log does not tell yet of what is missing in it: that is known to this capture
    /// process alone.
    pub(super) fn is_failing(&self) -> bool {
        self.all().iter().any(|log| log.is_failing())
    }

    /// Has the capture process end after what it has read, and another one go on. The answer comes
    /// when that one is there; none if there will be none.
    pub(super) async fn renew(&self) -> Option<()> {
        let (answer, answered) = oneshot::channel();
        lock(&self.renewal).ask(answer);
        self.wake.notify_one();
        answered.await.ok()
    }

    /// Leaves the capture process to itself.
    pub(super) fn leave(&self) {
        self.end.send_if_modified(|end| {
            let leaves = *end == End::NotYet;
            if leaves {
                *end = End::Leave;
            }
            leaves
        });
    }

    /// Has the capture process end; the task ends with it.
    pub(super) fn shut_down(&self) {
        self.end.send_replace(End::ShutDown);
    }

    fn all(&self) -> Vec<Arc<Shared>> {
        lock(&self.logs).values().cloned().collect()
    }
}

/// The task.
impl Link {
    /// Keeps up the connection. `first` is the first try, which was made already. The answer
    /// is whether the capture process was told to end, and did.
    pub(super) async fn run(self: Arc<Self>, first: io::Result<Socket>) -> bool {
        let mut first = Some(first);
        let mut failures = 0;
        let shut_down = loop {
            let began = Instant::now();
            let connected = match first.take() {
                Some(connected) => connected,
                None => self.connect().await,
            };
            let (why, told) = match connected {
                Ok(socket) => self.serve(socket).await,
                Err(error) => (format!("it can't be started: {error}"), false),
            };
            if *self.end.borrow() != End::NotYet {
                break told;
            }
            if lock(&self.renewal).ended() {
                tracing::debug!(why, "another capture process goes on");
                failures = 0;
                continue;
            }
            failures = if began.elapsed() < STABLE { failures + 1 } else { 1 };
            let pause = match failures {
                1 => Duration::ZERO,
                n => LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(n - 2)),
            };
            tracing::warn!(why, ?pause, "output is not captured; capture is started again");
            if !pause.is_zero() {
                let why = format!("output is not captured at the moment: {why}").into();
                for log in self.all() {
                    log.set_trouble(&why);
                }
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.ending() => break false,
                }
            }
        };
        *lock(&self.renewal) = Renewal::default();
        for log in self.all() {
            log.set_closed();
        }
        shut_down
    }

    async fn ending(&self) {
        // Fails only without a sender, and that is part of this.
        let _ = self.end.subscribe().wait_for(|end| *end != End::NotYet).await;
    }

    async fn connect(self: &Arc<Self>) -> io::Result<Socket> {
        let this = self.clone();
        // It blocks until a program was executed.
        tokio::task::spawn_blocking(move || start::connect(&this.socket_path, &this.starter))
            .await
            .map_err(io::Error::other)?
    }

    /// Serves a connection until it ends. The answer is why it did, and whether the capture
    /// process was told to end.
    async fn serve(self: &Arc<Self>, socket: Socket) -> (String, bool) {
        let socket = match Watched::new(socket) {
            Ok(socket) => Arc::new(socket),
            Err(error) => return (error.to_string(), false),
        };
        let greeted = tokio::select! {
            greeted = timeout(HELLO, greet(&socket)) => greeted,
            () = self.leaving() => return ("left".to_owned(), false),
        };
        let Hello { process, program, .. } = match greeted {
            Ok(Ok(hello)) => hello,
            Ok(Err(why)) => return (why, false),
            Err(_) => return ("it does not say hello".to_owned(), false),
        };
        tracing::debug!(pid = process.pid, "capture process connected");
        *lock(&self.current) = Some(socket.clone());
        self.process.store(process.pid, Ordering::Relaxed);
        *lock(&self.version) = program;
        lock(&self.renewal).connected();
        for log in self.all() {
            log.connected(&socket);
        }
        let ended = self.listen(&socket, process).await;
        self.process.store(0, Ordering::Relaxed);
        lock(&self.version).take();
        lock(&self.current).take();
        // Logs hold the socket too.
        socket.get().shut_down();
        for log in std::mem::take(&mut *lock(&self.queued)) {
            log.dequeued();
        }
        for log in self.all() {
            log.disconnected();
        }
        *lock(&self.inventories) = Inventories::default();
        ended
    }

    async fn leaving(&self) {
        let _ = self.end.subscribe().wait_for(|end| *end == End::Leave).await;
    }

    async fn listen(&self, socket: &Watched, process: ProcessId) -> (String, bool) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut end = self.end.subscribe();
        let mut told = false;
        let mut retry_at = None;
        loop {
            let blocked = !self.send_rest(socket, *end.borrow_and_update(), &mut told);
            if *end.borrow() == End::Leave {
                return ("left".to_owned(), told);
            }
            let retry = !lock(&self.retries).is_empty();
            let at = *retry_at.get_or_insert_with(|| Instant::now() + RETRY);
            if !retry {
                retry_at = None;
            }
            // What has to be said before may be said by others.
            let renewing = !told && lock(&self.renewal).is_wanted();
            tokio::select! {
                ready = socket.ready(Interest::READABLE) => {
                    if let Err(error) = ready {
                        return (error.to_string(), told);
                    }
                    for _ in 0..TURN {
                        let received = socket
                            .attempt(Interest::READABLE, |socket| socket.receive(&mut buffer));
                        match received {
                            Ok(received) if received.len == 0 => {
                                return (format!("process {} has ended", process.pid), told);
                            }
                            Ok(received) => match wire::decode(&buffer[..received.len]) {
                                Some(report) => self.take(report, process),
                                None => return ("it is not understood".to_owned(), told),
                            },
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            Err(error) => return (error.to_string(), told),
                        }
                    }
                }
                ready = socket.ready(Interest::WRITABLE), if blocked => {
                    // If there is no room after all, that is known from then on.
                    let sent = ready.and_then(|()| {
                        socket.attempt(Interest::WRITABLE, |_| {
                            let sent = self.send_rest(socket, *end.borrow(), &mut told);
                            if sent { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
                        })
                    });
                    match sent {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                            return (error.to_string(), told);
                        }
                        _ => {}
                    }
                }
                () = self.wake.notified() => {}
                _ = end.changed() => {}
                () = sleep(LOOK), if renewing => {}
                () = sleep_until(at), if retry => {
                    retry_at = None;
                    let retries = std::mem::take(&mut *lock(&self.retries));
                    for log in retries {
                        log.retry();
                    }
                }
            }
        }
    }

    /// Sends what found no room before. False if there is none now.
    fn send_rest(&self, socket: &Watched, end: End, told: &mut bool) -> bool {
        loop {
            let log = lock(&self.queued).pop_front();
            let Some(log) = log else { break };
            if !log.send_rest() {
                lock(&self.queued).push_front(log);
                return false;
            }
        }
        let mut inventories = lock(&self.inventories);
        if let Some(order) = inventories.order.take()
            && !send(socket, &order)
        {
            inventories.order = Some(order);
            return false;
        }
        drop(inventories);
        if !*told && lock(&self.renewal).is_wanted() {
            // From now on nothing is said to it; what is wanted waits for the next one.
            lock(&self.current).take();
            if self.all().iter().all(|log| log.pause()) {
                *told = send(socket, &Order::Shutdown);
                lock(&self.renewal).told = *told;
                return *told;
            }
        }
        // First all that was wanted before.
        if end == End::ShutDown && !*told && self.all().iter().all(|log| log.is_settled()) {
            *told = send(socket, &Order::Shutdown);
            return *told;
        }
        true
    }

    fn take(&self, report: Report, process: ProcessId) {
        let log = |instance: InstanceId| lock(&self.logs).get(&instance).cloned();
        match report {
            Report::Opened { instance, state } => {
                if let Some(log) = log(instance) {
                    log.opened(state, process);
                }
            }
            Report::Failed { instance, error } => {
                if let Some(log) = log(instance) {
                    log.failed(&error);
                }
            }
            Report::Progress { instance, state } => {
                if let Some(log) = log(instance) {
                    log.progressed(state);
                }
            }
            Report::Refused { instance, run, error, passing } => {
                if let Some(log) = log(instance) {
                    log.refused(run, &error, passing);
                }
            }
            Report::Closed { instance, state } => {
                if let Some(log) = log(instance) {
                    log.closed(state);
                }
            }
            Report::Inventory { logs, more } => lock(&self.inventories).found(logs, more),
            Report::Notice { text } => tracing::warn!(text, "capture"),
        }
    }
}

/// Whether there was room. A broken connection is seen when it is listened to.
fn send(socket: &Watched, order: &Order) -> bool {
    let Ok(bytes) = wire::encode(order) else { return true };
    !matches!(socket.get().send(&bytes, &[]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Says hello; the answer is who answered.
async fn greet(socket: &Watched) -> Result<Hello, String> {
    let process = ProcessId { pid: std::process::id(), began_ns: now_ns() };
    let hello = Hello { versions: VERSIONS, process, program: wire::program() }.encode();
    socket.get().send(&hello, &[]).map_err(|error| error.to_string())?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        socket.ready(Interest::READABLE).await.map_err(|error| error.to_string())?;
        match socket.attempt(Interest::READABLE, |socket| socket.receive(&mut buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
            Ok(received) if received.len == 0 => return Err("it ended at once".to_owned()),
            Ok(received) => {
                let theirs = Hello::decode(&buffer[..received.len])?;
                Hello::agree(VERSIONS, theirs.versions)?;
                return Ok(theirs);
            }
        }
    }
}
