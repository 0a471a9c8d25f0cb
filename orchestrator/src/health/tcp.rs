//! Whether somebody listens at an address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::in_words;

/// Names that may be looked up at once, of all instances. The system's resolver takes a thread for
/// each, for as long as its name servers are silent, and threads are needed elsewhere.
const MAX_LOOKUPS: usize = 16;

static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;

/// `HOST:PORT`: a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address {
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with it, as the end of a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?} {what}; write HOST:PORT"));
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("has no port");
        };
        let port = match port.parse() {
            Ok(0) | Err(_) => return wrong("has no port from 1 to 65535"),
            Ok(port) => port,
        };
        Self::new(host, port).or_else(|what| wrong(&what))
    }

    /// # Errors
    ///
    /// What is wrong with the host.
    pub(super) fn new(host: &str, port: u16) -> Result<Self, String> {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(inner) if inner.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => inner,
            Some(_) => return Err("has brackets around what is no IPv6 address".to_owned()),
            None if host.is_empty() => return Err("has no host".to_owned()),
            None if host.contains(':') => {
                return Err("has an IPv6 address without brackets".to_owned());
            }
            None if host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) => {
                return Err("has a host with spaces or control characters".to_owned());
            }
            None => host,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Connects, and closes at once.
pub(super) async fn probe(address: Address, turn: Arc<Semaphore>) -> Result<(), String> {
    connect(&address, turn).await.map(drop)
}

/// A connection to whoever answers first of all addresses of the host, in their order; and the
/// turn.
pub(super) async fn connect(
    address: &Address,
    turn: Arc<Semaphore>,
) -> Result<(TcpStream, OwnedSemaphorePermit), String> {
    let turn = turn.acquire_owned().await.map_err(|error| error.to_string())?;
    let (found, turn) = addresses(address, turn).await?;
    let mut failure = format!("{} has no address", address.host);
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, turn)),
            Err(error) => failure = in_words(&error),
        }
    }
    Err(failure)
}

/// Looks up a host, anew each time. The turn is kept until the resolver has answered, also if
/// nobody waits for that any more.
async fn addresses(
    address: &Address,
    turn: OwnedSemaphorePermit,
) -> Result<(Vec<SocketAddr>, OwnedSemaphorePermit), String> {
    let Address { host, port } = address.clone();
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((vec![SocketAddr::new(ip, port)], turn));
    }
    let asked = tokio::spawn(async move {
        let _one_of_them = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        let found = tokio::net::lookup_host((host, port)).await?;
        Ok::<_, io::Error>((found.take(MAX_ADDRESSES).collect(), turn))
    });
    let answer = asked.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    answer.map_err(|error| format!("cannot look up {}: {error}", address.host))
}
