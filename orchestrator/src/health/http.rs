//! Whether a URL is answered well.

use std::sync::Arc;

use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::tcp::{self, Address};

/// The most bytes of the status line and the headers of an answer.
const MAX_HEAD: usize = 16 << 10;

/// An `http://` URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Url {
    address: Address,
    /// As the header has it.
    host: String,
    path_and_query: String,
}

impl Url {
    /// # Errors
    ///
    /// What is wrong with it, as the end of a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: String| format!("{text:?} {what}; write http://HOST:PORT/PATH");
        // What comes after it is for browsers.
        let before = text.split('#').next().unwrap_or_default();
        let uri: Uri = before.parse().map_err(|error| wrong(format!("is no URL: {error}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong("is asked over TLS, which probes don't speak".to_owned()));
            }
            Some(other) => return Err(wrong(format!("has the scheme {other}"))),
            None => return Err(wrong("has no scheme".to_owned())),
        }
        let Some(authority) = uri.authority() else {
            return Err(wrong("has no host".to_owned()));
        };
        if authority.as_str().contains('@') {
            return Err(wrong("has a user name, which is not sent".to_owned()));
        }
        // Whatever is no port is none to `Authority::port`.
        let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let port = match rest.strip_prefix(':').map(str::parse) {
            None => 80,
            Some(Ok(0) | Err(_)) => return Err(wrong("has no port from 1 to 65535".to_owned())),
            Some(Ok(port)) => port,
        };
        let address = Address::new(authority.host(), port).map_err(wrong)?;
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            address,
            host: authority.as_str().to_owned(),
            path_and_query: path_and_query.to_owned(),
        })
    }
}

/// Asks for it. The answer is good if its status is from 200 to 399; its body is not read.
pub(super) async fn get(url: Url, turn: Arc<Semaphore>) -> Result<(), String> {
    let (stream, _turn) = tcp::connect(&url.address, turn).await?;
    let no_http = |error: hyper::Error| format!("no HTTP: {error}");
    let request = Request::builder()
        .method(Method::GET)
        .uri(&url.path_and_query)
        .version(Version::HTTP_11)
        .header(HOST, &url.host)
        .header(USER_AGENT, concat!("orchestrator/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(String::new())
        .map_err(|error| error.to_string())?;
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD);
    let handshake = client.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(no_http)?;
    let answer = sender.send_request(request);
    // Both end with this, read or not.
    let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        ended = &mut connection => match ended {
            // It has passed on what it had.
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = response.map_err(no_http)?.status();
    match status.as_u16() {
        200..=399 => Ok(()),
        status => Err(format!("status {status}")),
    }
}
