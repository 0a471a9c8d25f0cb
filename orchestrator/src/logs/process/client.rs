//! One connection of the capture process.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use orchestrator_proto::InstanceId;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Hub;
use super::log::{Log, Refused, STREAMS};
use crate::logs::rules::Rules;
use crate::logs::socket::{Received, Socket, Watched};
use crate::logs::wire::{
    self, Hello, MAX_DATAGRAM, MAX_WORDS, Order, Report, State, VERSIONS, words,
};

/// How long a client may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// Orders that are carried out before somebody else comes.
const TURN: usize = 32;
/// Answers that may wait to be sent; while there are more, no order is taken. One order has
/// one answer, so there are never [`TURN`] more. Progress does not count: at most one waits
/// for each log.
const MAX_ANSWERS: usize = 64;
/// Logs in one inventory report.
const PAGE: usize = 8;

/// What waits to be sent to a client.
#[derive(Default)]
pub(super) struct Outgoing {
    answers: RefCell<VecDeque<Report>>,
    /// Logs of which progress is to be told, each once.
    progress: RefCell<VecDeque<Rc<Log>>>,
    wake: Notify,
}

impl Outgoing {
    pub(super) fn answer(&self, report: Report) {
        self.answers.borrow_mut().push_back(report);
        self.wake.notify_one();
    }

    pub(super) fn progress(&self, log: Rc<Log>) {
        self.progress.borrow_mut().push_back(log);
        self.wake.notify_one();
    }

    fn is_full(&self) -> bool {
        self.answers.borrow().len() >= MAX_ANSWERS
    }

    /// The next datagram. Answers first: what was refused is known before progress tells that
    /// it is not there.
    fn next(self: &Rc<Self>) -> Option<Vec<u8>> {
        loop {
            let answer = self.answers.borrow_mut().pop_front();
            let report = match answer {
                Some(answer) => Some(answer),
                None => {
                    let log = self.progress.borrow_mut().pop_front()?;
                    let state = log.tell(self);
                    state.map(|state| Report::Progress { instance: log.instance, state })
                }
            };
            // None if the log was closed meanwhile, which has been told.
            if let Some(bytes) = report.and_then(|report| wire::encode(&report).ok()) {
                return Some(bytes);
            }
        }
    }
}

struct Client {
    hub: Rc<Hub>,
    socket: Watched,
    out: Rc<Outgoing>,
    /// What found no room in the socket.
    unsent: Option<Vec<u8>>,
    /// The logs that it has open, and some that were closed.
    logs: HashMap<InstanceId, Weak<Log>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        for log in self.logs.values().filter_map(Weak::upgrade) {
            log.leave(&self.out);
        }
        self.hub.clients.borrow_mut().retain(|client| !Rc::ptr_eq(client, &self.out));
        self.hub.changed.notify_one();
    }
}

/// Serves a connection until it ends, or says something that nobody can understand.
pub(super) async fn serve(hub: Rc<Hub>, socket: Socket) {
    let Ok(socket) = Watched::new(socket) else { return };
    let out = Rc::new(Outgoing::default());
    hub.clients.borrow_mut().push(out.clone());
    hub.changed.notify_one();
    let mut client = Client { hub, socket, out, unsent: None, logs: HashMap::new() };
    let mut buffer = vec![0; 256];
    if timeout(HELLO, client.greet(&mut buffer)).await.is_ok_and(|greeted| greeted) {
        // Nothing is told to who does not read any more.
        let _ = client.run().await;
    }
}

impl Client {
    /// Whether the two understand each other.
    async fn greet(&self, buffer: &mut [u8]) -> bool {
        let received = loop {
            if self.socket.ready(Interest::READABLE).await.is_err() {
                return false;
            }
            match self.socket.attempt(Interest::READABLE, |socket| socket.receive(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
                Ok(received) => break received,
            }
        };
        let agreed = Hello::decode(&buffer[..received.len])
            .and_then(|theirs| Hello::agree(VERSIONS, theirs.versions));
        let answer = match &agreed {
            Ok(_) => {
                Hello { versions: VERSIONS, process: self.hub.process, program: wire::program() }
                    .encode()
            }
            Err(why) => wire::refusal(why),
        };
        // There is room: nothing was sent yet.
        self.socket.get().send(&answer, &[]).is_ok() && agreed.is_ok()
    }

    async fn run(&mut self) -> io::Result<()> {
        let mut ended = self.hub.ended.subscribe();
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let blocked = !self.flush()?;
            if *ended.borrow() && !blocked {
                return Ok(());
            }
            tokio::select! {
                ready = self.socket.ready(Interest::WRITABLE), if blocked => {
                    ready?;
                    // If there is no room after all, that is known from then on.
                    let Some(bytes) = &self.unsent else { continue };
                    let send = |socket: Socket<BorrowedFd<'_>>| socket.send(bytes, &[]);
                    match self.socket.attempt(Interest::WRITABLE, send) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        result => {
                            result?;
                            self.unsent = None;
                        }
                    }
                }
                _ = ended.changed() => {}
                () = self.out.wake.notified(), if !blocked => {}
                ready = self.socket.ready(Interest::READABLE), if !self.out.is_full() => {
                    ready?;
                    let mut orders = Vec::new();
                    let mut end = false;
                    while orders.len() < TURN {
                        let received = self
                            .socket
                            .attempt(Interest::READABLE, |socket| socket.receive(&mut buffer));
                        match received {
                            Ok(Received { len: 0, .. }) => { end = true; break }
                            Ok(received) => {
                                let order = wire::decode(&buffer[..received.len]);
                                orders.push((order, received));
                            }
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            Err(error) => {
                                self.reject("a datagram is too long");
                                return Err(error);
                            }
                        }
                    }
                    for (order, received) in orders {
                        let understood = match order {
                            Some(order) => self.carry_out(order, received),
                            None => Err("a datagram is no order"),
                        };
                        if let Err(why) = understood {
                            self.reject(why);
                            return Err(io::ErrorKind::InvalidData.into());
                        }
                    }
                    if end {
                        return Ok(());
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Sends what waits. Whether there was room for all of it.
    fn flush(&mut self) -> io::Result<bool> {
        while let Some(bytes) = self.unsent.take().or_else(|| self.out.next()) {
            match self.socket.get().send(&bytes, &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(bytes);
                    return Ok(false);
                }
                result => result?,
            }
        }
        Ok(true)
    }

    /// Says why the connection ends, if there is room.
    fn reject(&mut self, why: &str) {
        let text = format!("the capture process closes a connection: {why}");
        self.out.answer(Report::Notice { text });
        let _ = self.flush();
    }

    /// # Errors
    ///
    /// A sentence, when nobody who speaks this protocol would say that.
    fn carry_out(&mut self, order: Order, received: Received) -> Result<(), &'static str> {
        let with_files = matches!(order, Order::Attach { .. });
        if !with_files && (!received.files.is_empty() || received.files_lost) {
            return Err("files came with an order that has none");
        }
        match order {
            Order::Open { instance, dir, rules } => {
                let report = match self.open(instance, dir.as_path().to_owned(), rules.bounded()) {
                    Ok(state) => Report::Opened { instance, state },
                    Err(error) => Report::Failed { instance, error },
                };
                self.out.answer(report);
            }
            Order::Attach { instance, run, again } => {
                self.attach(instance, run, again, received)?;
            }
            Order::Append { instance, texts, dropped } => {
                if !texts.iter().all(wire::Text::is_valid) {
                    return Err("a text has a newline, or is too long");
                }
                if let Some(log) = self.known(instance) {
                    log.append(&texts, &dropped);
                }
            }
            Order::Watch { instance, beyond } => {
                if let Some(log) = self.known(instance) {
                    log.watch(&self.out, beyond);
                }
            }
            Order::Look { instance, number } => {
                if let Some(log) = self.known(instance) {
                    log.look(&self.out, number);
                }
            }
            Order::Close { instance } => {
                if let Some(log) = self.known(instance) {
                    log.close();
                }
            }
            Order::Inventory { after } => {
                let logs = self.hub.logs.borrow();
                let above = |id: &InstanceId| after.is_none_or(|after| *id > after);
                let mut rest = logs.range(..).filter(|(id, _)| above(id)).map(|(_, log)| log);
                let page = rest.by_ref().take(PAGE).map(|log| log.entry()).collect();
                let report = Report::Inventory { logs: page, more: rest.next().is_some() };
                drop(logs);
                self.out.answer(report);
            }
            Order::Shutdown => {
                self.hub.ending.set(true);
                self.hub.changed.notify_one();
            }
        }
        Ok(())
    }

    /// A log that this client has open. If it was closed, the client is told so.
    fn known(&mut self, instance: InstanceId) -> Option<Rc<Log>> {
        let there = self.logs.get(&instance).and_then(Weak::upgrade);
        let there = there.filter(|log| !log.is_closed());
        if there.is_none() {
            self.logs.remove(&instance);
            self.out.answer(Report::Closed { instance, state: State::default() });
        }
        there
    }

    fn open(
        &mut self,
        instance: InstanceId,
        dir: std::path::PathBuf,
        rules: Rules,
    ) -> Result<State, String> {
        if dir.as_os_str().len() > MAX_WORDS {
            return Err("the path of its directory is too long".to_owned());
        }
        if self.hub.ending.get() {
            return Err("the capture process is ending".to_owned());
        }
        let open = self.hub.logs.borrow().get(&instance).cloned();
        let log = match open {
            Some(log) if log.is_closing() => return Err("it is being closed".to_owned()),
            Some(log) if *log.dir != *dir => {
                return Err(format!("it is open in another directory, {:?}", log.dir));
            }
            Some(log) => {
                log.set_rules(rules);
                log
            }
            None => {
                let log = Log::open(&self.hub, instance, dir.into(), rules)
                    .map_err(|error| words(&error))?;
                self.hub.logs.borrow_mut().insert(instance, log.clone());
                log
            }
        };
        log.join(&self.out);
        if self.logs.len() > 2 * self.hub.logs.borrow().len() + 64 {
            self.logs.retain(|_, log| log.strong_count() > 0);
        }
        self.logs.insert(instance, Rc::downgrade(&log));
        log.tell(&self.out).ok_or_else(|| "it was closed".to_owned())
    }

    fn attach(
        &mut self,
        instance: InstanceId,
        run: u64,
        again: bool,
        received: Received,
    ) -> Result<(), &'static str> {
        let Some(log) = self.known(instance) else { return Ok(()) };
        let Received { files, files_lost, .. } = received;
        let files = match <[_; STREAMS.len()]>::try_from(files) {
            Ok(files) if !files_lost => Some(files),
            Err(_) if files_lost => None,
            _ => return Err("an order to attach comes with two files"),
        };
        let attached = log.attach(&self.out, run, again, files);
        if let Err(Refused { error, passing }) = attached {
            if !passing {
                log.remark(&format!("stdout and stderr can't be captured: {error}"));
            }
            self.out.answer(Report::Refused { instance, run, error, passing });
            log.tell_soon(&self.out);
        }
        Ok(())
    }
}
