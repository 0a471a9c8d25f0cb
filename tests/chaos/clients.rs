//! Clients that ask for anything at random, each knowing what it must get.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orchestrator_proto::ErrorCode;
use orchestrator_proto::Millis;
use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::control::{
    Item, LinkSpec, LogQuery, Policy, Reply, Request, RuntimeSpec, TargetSpec,
};
use tests::routing::Random;

/// What an instance has to be at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// The last command was not answered: one or the other.
    Unknown,
    Running,
    Stopped,
}

/// An instance that only one client starts and stops.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) expected: Expected,
}

/// What a client has to tell in the end.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) owned: Vec<Owned>,
    /// Instance and process of each start that was answered.
    pub(crate) started: Vec<(String, u32)>,
    /// Removed for good, as was answered.
    pub(crate) removed: Vec<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) answered: u64,
    pub(crate) unanswered: u64,
}

/// Whoever asks.
pub(crate) struct Asker {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    socket: PathBuf,
    client: Option<Client>,
    random: Random,
    pub(crate) told: Told,
    next: u32,
}

impl Asker {
    pub(crate) fn new(name: String, dir: &Path, random: Random) -> Self {
        let socket = dir.join("o.sock");
        let (dir, told) = (dir.to_owned(), Told::default());
        Self { name, dir, socket, client: None, random, told, next: 0 }
    }

    /// One request. None if it was not answered, which any end of the daemon may be the reason
    /// of.
    async fn ask(&mut self, request: Request) -> Option<Result<Reply, ErrorCode>> {
        let name = request.name();
        if self.client.is_none() {
            self.client = Client::connect(&self.socket).await.ok();
        }
        let Some(client) = &self.client else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return None;
        };
        let asked = tokio::time::timeout(crate::host::SOON, client.request(request.clone()));
        match asked.await {
            Ok(Ok(reply)) => {
                self.told.answered += 1;
                Some(Ok(reply))
            }
            Ok(Err(ClientError::Failed(error))) => {
                self.told.answered += 1;
                Some(Err(error.code)).inspect(|_| self.judge(name, &request, &error.to_string()))
            }
            Ok(Err(_)) => {
                self.told.unanswered += 1;
                self.client = None;
                None
            }
            Err(_) => {
                let text = format!("{}: no answer to {request:?}", self.name);
                self.told.violations.push(text);
                self.client = None;
                None
            }
        }
    }

    /// Errors that nobody should ever see.
    fn judge(&mut self, name: &str, request: &Request, error: &str) {
        let known =
            ["not found", "no instance", "no link", "stopped before it started", "is taken"];
        if !known.iter().any(|known| error.contains(known)) {
            self.told
                .violations
                .push(format!("{}: {name} failed: {error}: {request:?}", self.name));
        }
    }

    /// Adds an instance of the worker, however often that takes. It has this name, and behaves
    /// like these words say.
    pub(crate) async fn add(&mut self, name: &str, words: &[&str]) -> String {
        let mut spec = RuntimeSpec::new(env!("CARGO_BIN_EXE_chaos-worker"));
        spec.name = Some(name.to_owned());
        spec.args = std::iter::once(&name).chain(words).map(|&word| word.into()).collect();
        spec.env = vec![("CHAOS_DIR".into(), self.dir.as_os_str().into())];
        spec.supervision.stop.steps[0].wait = Millis(400);
        loop {
            match self.ask(Request::RuntimeAdd(spec.clone())).await {
                Some(Ok(Reply::Added { id, .. })) => return id.to_string(),
                // It may be there all the same, or from the time before.
                None | Some(Err(ErrorCode::AlreadyExists)) => loop {
                    let show = Request::RuntimeShow { instance: name.into() };
                    match self.ask(show).await {
                        Some(Ok(Reply::Runtime(detail))) => return detail.info.id.to_string(),
                        Some(_) => break,
                        // Whoever adds it again would be told that it is there.
                        None => {}
                    }
                },
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    /// Adds one that only this client starts and stops.
    pub(crate) async fn own(&mut self, name: &str, words: &[&str]) {
        let id = self.add(name, words).await;
        let (name, expected) = (name.to_owned(), Expected::Stopped);
        self.told.owned.push(Owned { id, name, expected });
    }

    /// Makes a link, however often that takes.
    pub(crate) async fn link(&mut self, from: &str, type_name: &str, to: &str, policy: Policy) {
        let spec = link(from, type_name, to, policy);
        while !matches!(self.ask(Request::LinkAdd(spec.clone())).await, Some(Ok(_))) {}
    }

    pub(crate) async fn start(&mut self, instance: &str) -> bool {
        let request = Request::RuntimeStart { instance: instance.into(), priority: None };
        match self.ask(request).await {
            Some(Ok(Reply::Started { id, pid, .. })) => {
                self.told.started.push((id.to_string(), pid));
                true
            }
            _ => false,
        }
    }

    /// Asks for anything until told to stop.
    pub(crate) async fn ask_at_random(&mut self, shared: &[String], stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let pause = self.random.below(120) as u64;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.random.below(100) {
                0..45 => self.own_command().await,
                45..60 => self.shared_command(shared).await,
                60..70 => self.short_life(shared).await,
                70..82 => self.change_links(shared).await,
                82..86 => drop(self.ask(Request::RuntimeList).await),
                86..90 => drop(self.ask(Request::LinkList).await),
                90..93 => drop(self.ask(Request::Status).await),
                93..97 => self.read_log(shared).await,
                _ => self.read_events().await,
            }
        }
    }

    async fn own_command(&mut self) {
        if self.told.owned.is_empty() {
            return;
        }
        let at = self.random.below(self.told.owned.len());
        let instance = self.told.owned[at].name.as_str().into();
        let (request, expected) = match self.random.below(5) {
            0..2 => (Request::RuntimeStart { instance, priority: None }, Expected::Running),
            2 => (Request::RuntimeRestart { instance }, Expected::Running),
            _ => (Request::RuntimeStop { instance }, Expected::Stopped),
        };
        let before = std::mem::replace(&mut self.told.owned[at].expected, Expected::Unknown);
        match self.ask(request).await {
            Some(Ok(reply)) => {
                self.told.owned[at].expected = expected;
                if let Reply::Started { id, pid, .. } = reply {
                    self.told.started.push((id.to_string(), pid));
                }
            }
            // Asked for twice, it is the same.
            None if before == expected => self.told.owned[at].expected = expected,
            None => {}
            Some(Err(code)) => {
                let text = format!("{}: a command for an own instance: {code:?}", self.name);
                self.told.violations.push(text);
            }
        }
    }

    async fn shared_command(&mut self, shared: &[String]) {
        let instance = shared[self.random.below(shared.len())].as_str().into();
        let request = match self.random.below(3) {
            0 => Request::RuntimeStart { instance, priority: None },
            1 => Request::RuntimeRestart { instance },
            _ => Request::RuntimeStop { instance },
        };
        if let Some(Ok(Reply::Started { id, pid, .. })) = self.ask(request).await {
            self.told.started.push((id.to_string(), pid));
        }
    }

    /// An instance that is added, linked, started and removed.
    async fn short_life(&mut self, shared: &[String]) {
        self.next += 1;
        let name = format!("{}-short-{}", self.name, self.next);
        let id = self.add(&name, &[]).await;
        let other = shared[self.random.below(shared.len())].clone();
        let (from, to) = if self.random.below(2) == 0 { (&name, &other) } else { (&other, &name) };
        let link = link(from, "chaos.lossy", to, Policy::DropOldest);
        let _ = self.ask(Request::LinkAdd(link)).await;
        self.start(&name).await;
        let pause = self.random.below(300) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        loop {
            let remove = Request::RuntimeRemove { instance: id.as_str().into(), force: true };
            match self.ask(remove).await {
                Some(Ok(_)) => {
                    self.told.removed.push(id);
                    break;
                }
                // Removed by a daemon that died before it could answer; or say so in an event.
                Some(Err(ErrorCode::NotFound)) => break,
                Some(Err(code)) => {
                    let text = format!("{}: {name} could not be removed: {code:?}", self.name);
                    self.told.violations.push(text);
                    break;
                }
                None => {}
            }
        }
    }

    /// Links between those that everybody uses.
    async fn change_links(&mut self, shared: &[String]) {
        if self.random.below(3) == 0 {
            if let Some(Ok(Reply::Links(links))) = self.ask(Request::LinkList).await {
                let is_shared =
                    |name: &Option<String>| name.as_ref().is_some_and(|name| shared.contains(name));
                let mut links: Vec<_> =
                    links.into_iter().filter(|link| is_shared(&link.from_name)).collect();
                if !links.is_empty() {
                    let link = links.swap_remove(self.random.below(links.len())).id;
                    let _ = self.ask(Request::LinkRemove { link }).await;
                }
            }
            return;
        }
        let from = shared[self.random.below(shared.len())].clone();
        let to = shared[self.random.below(shared.len())].clone();
        let (type_name, policy) = match self.random.below(4) {
            0 => ("chaos.block", Policy::Block),
            1 => ("chaos.lossy", Policy::DropNewest),
            2 => ("chaos.lossy", Policy::Latest),
            _ => ("chaos.lossy", Policy::DropOldest),
        };
        // The same link with another policy is refused; so be it.
        if let Some(client) = &self.client {
            let _ = client.request(Request::LinkAdd(link(&from, type_name, &to, policy))).await;
        }
    }

    async fn read_log(&mut self, shared: &[String]) {
        let instance = shared[self.random.below(shared.len())].as_str();
        let tail = Some(1 + self.random.below(200) as u64);
        let query = LogQuery { tail, ..LogQuery::of(instance) };
        self.read_to_its_end(Request::Logs(query)).await;
    }

    async fn read_events(&mut self) {
        let (follow, after, since_ms, instance) = (false, None, None, None);
        self.read_to_its_end(Request::Events { follow, after, since_ms, instance }).await;
    }

    async fn read_to_its_end(&mut self, request: Request) {
        let Some(client) = &self.client else { return };
        let Ok(mut stream) = client.stream(request).await else { return };
        while let Some(Ok(item)) = stream.next().await {
            // Capture may be away, and says so.
            if let Item::Missed { count: count @ 1.., reason } = item {
                self.told.violations.push(format!("{}: missed {count}: {reason}", self.name));
            }
        }
    }
}

fn link(from: &str, type_name: &str, to: &str, policy: Policy) -> LinkSpec {
    LinkSpec {
        from: Some(from.into()),
        type_name: type_name.to_owned(),
        to: to.parse::<TargetSpec>().expect("it is the name of an instance"),
        policy: Some(policy),
        capacity: Some(64),
        block_timeout: None,
        history: None,
        transport: None,
        spin_us: None,
    }
}
