//! What the daemon says, also when it is another one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::control::{Item, LogQuery, Reply, Request, Selector};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::state::{Act, Event};
use crate::format;

/// How often it is asked what instances use and what passed over links.
const INTERVAL: Duration = Duration::from_secs(1);

/// Events that come so soon after each other are one reason to ask.
const TOGETHER: Duration = Duration::from_millis(50);

/// How often another daemon is looked for.
const RETRY: Duration = Duration::from_millis(250);

/// Lines of before that are shown of an instance.
const TAIL: u64 = 200;

/// Lines that are told in one piece.
const BATCH: usize = 128;

/// The connection to the daemon.
pub(super) struct Feed {
    /// The one that is there now.
    client: Arc<Mutex<Arc<Client>>>,
    tell: Sender<Event>,
    following: Option<JoinHandle<()>>,
}

impl Feed {
    /// Begins to tell what there is. Must be called within a tokio runtime.
    pub(super) fn new(path: PathBuf, client: Arc<Client>, tell: Sender<Event>) -> Self {
        let current = Arc::new(Mutex::new(client.clone()));
        tokio::spawn(attend(path, client, current.clone(), tell.clone()));
        Self { client: current, tell, following: None }
    }

    fn client(&self) -> Arc<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells what this instance prints, and no other.
    pub(super) fn follow(&mut self, instance: Option<InstanceId>) {
        if let Some(before) = self.following.take() {
            before.abort();
        }
        let (client, tell) = (self.client(), self.tell.clone());
        self.following = instance.map(|instance| {
            tokio::spawn(async move {
                if let Err(error) = follow(&client, instance, &tell).await
                    // Those are told by who asks for everything.
                    && matches!(error, ClientError::Failed(_))
                {
                    let _ = tell.send(Event::LogEnded(instance, error.to_string())).await;
                }
            })
        });
    }

    /// Does this to an instance, and tells how that ended.
    pub(super) fn act(&self, act: Act, instance: InstanceId) {
        let (client, tell) = (self.client(), self.tell.clone());
        tokio::spawn(async move {
            let instance = Selector(instance.to_string());
            let request = match act {
                Act::Start => Request::RuntimeStart { instance, priority: None },
                Act::Stop => Request::RuntimeStop { instance },
                Act::Restart => Request::RuntimeRestart { instance },
            };
            let done = client.request(request).await;
            let done = done.map(|_| ()).map_err(|error| sentence(&error));
            let _ = tell.send(Event::Done(act, done)).await;
        });
    }
}

fn sentence(error: &ClientError) -> String {
    match error {
        ClientError::Failed(error) => {
            let causes = error.causes.iter().map(|cause| format!(": {cause}"));
            format!("{}{}", error.message, causes.collect::<String>())
        }
        error => error.to_string(),
    }
}

/// Asks one daemon after the other.
async fn attend(
    path: PathBuf,
    mut client: Arc<Client>,
    current: Arc<Mutex<Arc<Client>>>,
    tell: Sender<Event>,
) {
    loop {
        let version = client.server_version();
        if tell.send(Event::Connected { version }).await.is_err() {
            return;
        }
        let Err(error) = look(&client, &tell).await else {
            return;
        };
        if tell.send(Event::Lost(sentence(&error))).await.is_err() {
            return;
        }
        client = Arc::new(other(&path).await);
        *current.lock().unwrap_or_else(PoisonError::into_inner) = client.clone();
    }
}

/// The next daemon that can be reached.
async fn other(path: &Path) -> Client {
    loop {
        tokio::time::sleep(RETRY).await;
        if let Ok(client) = Client::connect(path).await {
            return client;
        }
    }
}

/// Tells how everything is, whenever something has happened and every [`INTERVAL`]. Ends well when
/// nobody listens any more.
async fn look(client: &Client, tell: &Sender<Event>) -> Result<(), ClientError> {
    let since_ms = Some(format::now_ms());
    let request = Request::Events { follow: true, after: None, since_ms, instance: None };
    let mut events = client.stream(request).await?;
    loop {
        let next = Instant::now() + INTERVAL;
        let vitals = client.request(Request::RuntimeVitals { instances: Vec::new() }).await?;
        let links = client.request(Request::LinkList).await?;
        let (Reply::Vitals(instances), Reply::Links(links)) = (vitals, links) else {
            let text = "the daemon's reply does not belong to the request";
            return Err(ClientError::Protocol(text.into()));
        };
        if tell.send(Event::Picture { instances, links }).await.is_err() {
            return Ok(());
        }
        match timeout_at(next, events.next()).await {
            Ok(Some(Ok(_))) => {
                let soon = Instant::now() + TOGETHER;
                while let Ok(Some(Ok(_))) = timeout_at(soon, events.next()).await {}
            }
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => return Err(ClientError::Replaced),
            Err(_) => {}
        }
    }
}

async fn follow(
    client: &Client,
    instance: InstanceId,
    tell: &Sender<Event>,
) -> Result<(), ClientError> {
    let instances = vec![Selector(instance.to_string())];
    let query = LogQuery { instances, tail: Some(TAIL), follow: true, ..LogQuery::default() };
    let mut items = client.stream(Request::Logs(query)).await?;
    while let Some(item) = items.next().await {
        let mut batch = vec![item?];
        while batch.len() < BATCH {
            tokio::select! {
                biased;
                item = items.next() => match item {
                    Some(item) => batch.push(item?),
                    None => break,
                },
                () = std::future::ready(()) => break,
            }
        }
        let lines = batch.into_iter().filter_map(|item| match item {
            Item::Log(line) => Some(Ok(line)),
            Item::Missed { count, reason } => Some(Err((count, reason))),
            Item::Message(_)
            | Item::Event(_)
            | Item::Source(_)
            | Item::Recorded(_)
            | Item::Replaying(_)
            | Item::Fed(_) => None,
        });
        if tell.send(Event::Printed(instance, lines.collect())).await.is_err() {
            break;
        }
    }
    Ok(())
}
