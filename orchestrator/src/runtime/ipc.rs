//! Another orchestrator as the other end: one storable per datagram.
//!
//! Unauthenticated and lossy, as the existing orchestrators do it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use orchestrator_proto::control::IpcStatus;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::veecle::Storable;
use super::{now_ns, translate};
use crate::route::{
    DropReason, Entry, Link, Mailbox, OutputIndex, Router, Sink, Source, TypeDecl, Woken,
};

/// The longest datagram, bytes.
const MAX_DATAGRAM: usize = 2048;
/// Messages of one link that are sent before it is another one's turn.
const BATCH: usize = 64;
/// How long an address that was looked up is used.
const LOOKUP_LIFETIME: Duration = Duration::from_secs(30);
/// How long after a look-up that failed there is no other, however many messages come.
const LOOKUP_PAUSE: Duration = Duration::from_secs(1);

/// Where to listen, and to whom.
#[derive(Clone, Debug)]
pub struct IpcConfig {
    /// The address of the datagram socket.
    pub address: SocketAddr,
    /// Who may send; nobody else is listened to.
    pub allow: Vec<IpNet>,
}

/// Datagrams of other orchestrators.
pub struct IpcSocket {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    unrouted: Arc<crate::route::SourceStats>,
    malformed: AtomicU64,
    refused: AtomicU64,
}

impl IpcSocket {
    /// Listens.
    ///
    /// # Errors
    ///
    /// When the address can't be had.
    pub async fn bind(config: IpcConfig, router: Arc<Router>) -> io::Result<Self> {
        let socket = UdpSocket::bind(config.address).await?;
        let address = socket.local_addr()?;
        let counts = Arc::new(Counts::default());
        let source = router.open_source(None, None, counts.unrouted.clone());
        let receiver = Receiver {
            counts: counts.clone(),
            allow: config.allow,
            router,
            source,
            outputs: HashMap::new(),
            woken: Woken::default(),
        };
        Ok(Self { address, counts, task: tokio::spawn(receiver.run(socket)) })
    }

    /// What came in so far.
    #[must_use]
    pub fn status(&self) -> IpcStatus {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        IpcStatus {
            address: self.address.to_string(),
            received: load(&self.counts.received),
            unrouted: load(&self.counts.unrouted.unrouted),
            malformed: load(&self.counts.malformed),
            refused: load(&self.counts.refused),
        }
    }
}

impl Drop for IpcSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Receiver {
    counts: Arc<Counts>,
    allow: Vec<IpNet>,
    router: Arc<Router>,
    source: Arc<Source>,
    outputs: HashMap<Box<str>, OutputIndex>,
    woken: Woken,
}

impl Receiver {
    async fn run(mut self, socket: UdpSocket) {
        // One byte more than allowed, to tell a datagram that is too long.
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((_, from)) if !self.allows(from.ip()) => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                }
                Ok((length, _)) if length <= MAX_DATAGRAM => {
                    let result = self.datagram(&buffer[..length]);
                    let count = match result {
                        Ok(()) => &self.counts.received,
                        Err(reason) => {
                            tracing::debug!(reason, "a datagram is ignored");
                            &self.counts.malformed
                        }
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => {
                    self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::warn!(%error, "the datagram socket failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn allows(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        self.allow.iter().any(|net| net.contains(&from))
    }

    fn datagram(&mut self, datagram: &[u8]) -> Result<(), &'static str> {
        let storable: Storable<'_> =
            serde_json::from_slice(datagram).map_err(|_| "it is not a storable")?;
        let literal = storable.literal()?;
        let output = match self.outputs.get(&*storable.type_name) {
            Some(output) => *output,
            None => {
                let decl = TypeDecl::new(Arc::from(&*storable.type_name), None);
                let declared = self.router.declare_output(&self.source, Arc::new(decl), 0, None);
                let output = declared.map_err(|_| "more than 1,024 message types came here")?;
                self.outputs.insert(Box::from(&*storable.type_name), output);
                output
            }
        };
        let mut run = vec![Bytes::copy_from_slice(literal.as_bytes())];
        self.source.send_run(output, &mut run, now_ns(), &mut self.woken);
        self.woken.kick();
        Ok(())
    }
}

/// The orchestrators that links point to.
#[derive(Default)]
pub struct Peers {
    tasks: Mutex<HashMap<String, JoinHandle<()>>>,
}

impl Peers {
    /// Begins to send what comes into `mailbox` to `address`, `HOST:PORT`.
    pub fn open(&self, address: &str, mailbox: &Arc<Mailbox>) {
        let wake = Arc::new(Wake::default());
        mailbox.attach(wake.clone());
        let peer = Peer {
            address: address.to_owned(),
            mailbox: mailbox.clone(),
            resolved: None,
            failed: None,
        };
        let task = tokio::spawn(peer.run(wake));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(address.to_owned(), task);
    }

    /// Ends that.
    pub fn close(&self, address: &str) {
        let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
        if let Some(task) = task {
            task.abort();
        }
    }
}

#[derive(Default)]
struct Wake(Notify);

impl Sink for Wake {
    fn kick(&self) {
        self.0.notify_one();
    }
}

struct Peer {
    address: String,
    mailbox: Arc<Mailbox>,
    resolved: Option<(UdpSocket, SocketAddr, Instant)>,
    /// When the last look-up failed, if it did.
    failed: Option<Instant>,
}

impl Peer {
    async fn run(mut self, wake: Arc<Wake>) {
        let mut taken = Vec::new();
        loop {
            wake.0.notified().await;
            while let Some(link) = self.mailbox.next_link() {
                link.take(BATCH, usize::MAX, &mut taken);
                for entry in taken.drain(..) {
                    match self.send(&link, &entry).await {
                        Ok(()) => link.delivered(&entry, 1),
                        Err(reason) => link.give_up(&entry, reason),
                    }
                }
                self.mailbox.give_back(link);
                // Where every message fails at once, nothing else here lets others run.
                tokio::task::coop::consume_budget().await;
            }
        }
    }

    async fn send(&mut self, link: &Link, entry: &Entry) -> Result<(), DropReason> {
        let datagram = datagram(&link.type_name, entry)?;
        let pause = self.failed.is_some_and(|at| at.elapsed() < LOOKUP_PAUSE);
        if !pause && let Err(error) = self.look_up().await {
            tracing::debug!(address = self.address, %error, "the address can't be had");
            self.failed = Some(Instant::now());
        }
        let Some((socket, address, _)) = &self.resolved else {
            return Err(DropReason::Failed);
        };
        socket.send_to(&datagram, *address).await.map_err(|_| DropReason::Failed)?;
        Ok(())
    }

    /// Looks the host up, again from time to time, because names move. When that fails, the
    /// address that was found before stays.
    async fn look_up(&mut self) -> io::Result<()> {
        let resolved = self.resolved.as_ref();
        if resolved.is_some_and(|(_, _, since)| since.elapsed() < LOOKUP_LIFETIME) {
            return Ok(());
        }
        let address = tokio::net::lookup_host(&self.address)
            .await?
            .next()
            .ok_or_else(|| io::Error::other("the host has no address"))?;
        let any: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        self.resolved = Some((socket, address, Instant::now()));
        Ok(())
    }
}

fn datagram(type_name: &str, entry: &Entry) -> Result<Vec<u8>, DropReason> {
    let translated = translate::to_json_literal(entry)?;
    let value = translated.as_ref().unwrap_or(&entry.body);
    let mut datagram = Vec::with_capacity(64 + value.len());
    datagram.extend_from_slice(br#"{"type_name":"#);
    serde_json::to_writer(&mut datagram, type_name).map_err(|_| DropReason::Untranslatable)?;
    datagram.extend_from_slice(br#","value":"#);
    datagram.extend_from_slice(value);
    datagram.push(b'}');
    if datagram.len() > MAX_DATAGRAM {
        return Err(DropReason::TooLong);
    }
    Ok(datagram)
}
