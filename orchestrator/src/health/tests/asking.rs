//! Questions to real sockets, and to a real log.

use std::io::Write;
use std::sync::mpsc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers every connection with these bytes and closes it; tells what it was asked.
async fn answer(bytes: &'static [u8]) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = mpsc::sync_channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut request).await.unwrap() > 0
            {}
            let _ = tell.send(String::from_utf8(request).unwrap());
            let _ = stream.write_all(bytes).await;
        }
    });
    (address, told)
}

async fn get(asked: &Asked, bytes: &'static [u8]) -> Result<(), String> {
    let (address, _told) = answer(bytes).await;
    asked.ask(Check::Http(format!("http://{address}/")), LONG).await
}

#[tokio::test]
async fn somebody_listens_or_not() {
    let asked = Asked::new();
    for host in ["127.0.0.1", "localhost"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("{host}:{}", listener.local_addr().unwrap().port());
        assert_eq!(asked.ask(Check::Tcp(address.clone()), LONG).await, Ok(()));
        drop(listener);
        let error = asked.ask(Check::Tcp(address), LONG).await.unwrap_err();
        assert_eq!(error, "connection refused (ECONNREFUSED)");
    }
}

#[tokio::test]
async fn a_url_is_answered_well_or_not() {
    let asked = Asked::new();
    let (address, told) = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nmuch").await;
    let url = format!("http://{address}/a/b?c=d&e#f");
    assert_eq!(asked.ask(Check::Http(url), LONG).await, Ok(()));
    let request = told.recv().unwrap();
    let lower = request.to_lowercase();
    assert!(request.starts_with("GET /a/b?c=d&e HTTP/1.1\r\n"), "{request}");
    assert!(lower.contains(&format!("\r\nhost: {address}\r\n")), "{request}");
    assert_eq!(get(&asked, b"HTTP/1.0 204 No Content\r\n\r\n").await, Ok(()));
    assert_eq!(get(&asked, b"HTTP/1.1 399 X\r\n\r\n").await, Ok(()));
    for (bytes, status) in [
        (&b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..], "status 404"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "status 400"),
    ] {
        assert_eq!(get(&asked, bytes).await.unwrap_err(), status);
    }
    for bytes in [&b""[..], b"SSH-2.0-OpenSSH_9.2\r\n", &[b'x'; 1 << 20]] {
        let error = get(&asked, bytes).await.unwrap_err();
        assert!(error.starts_with("no HTTP: ") || error.contains("(E"), "{error}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let error = asked.ask(Check::Http(url), SHORT).await.unwrap_err();
    assert_eq!(error, "no answer within 200ms");
}

#[test]
fn what_can_be_asked_and_what_not() {
    for good in ["localhost:80", "127.0.0.1:1", "[::1]:65535", "my-host.example:8080"] {
        assert_eq!(check(&Check::Tcp(good.into())), Ok(()), "{good}");
    }
    for bad in ["", ":", ":80", "a", "a:", "a:0", "a:65536", "a:x", "::1:80", "[a]:80", "a b:80"] {
        assert!(check(&Check::Tcp(bad.into())).is_err(), "{bad}");
    }
    for good in ["http://a", "http://a/", "http://a:80/b?c#d", "http://[::1]:80/", "HTTP://a"] {
        assert_eq!(check(&Check::Http(good.into())), Ok(()), "{good}");
    }
    for bad in [
        "",
        "a",
        "/a",
        "http://",
        "http:///a",
        "https://a",
        "ftp://a",
        "http://u@a/",
        "http://a:0/",
        "http://a:/",
        "http://a:99999/",
        "http://a b/",
    ] {
        assert!(check(&Check::Http(bad.into())).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "\\PC*|(http://)?[a-z:@/\\[\\].0-9]*") {
        let _ = check(&Check::Tcp(text.clone()));
        let _ = check(&Check::Http(text.clone()));
        let _ = check(&Check::Output(text));
    }
}

/// A run that prints to its log what is written to the answer.
fn printing(asked: &Asked, run: u64) -> std::fs::File {
    let (read, write) = nix::unistd::pipe().unwrap();
    asked.log.attach(run, read, nix::unistd::pipe().unwrap().0).unwrap();
    write.into()
}

#[tokio::test]
async fn a_line_of_this_run_is_found_whenever_it_was_printed() {
    let asked = Asked::new();
    let ready = Check::Output("^ready$".into());
    asked.health.launching();
    let mut first = printing(&asked, 1);
    first.write_all(b"ready\n").unwrap();
    drop(first);
    // Before it was asked, and once found it stays so.
    assert_eq!(asked.ask(ready.clone(), SHORT).await, Ok(()));
    assert_eq!(asked.ask(ready.clone(), SHORT).await, Ok(()));
    within_test(asked.log.drained()).await;
    // The next run has not printed it.
    asked.health.launching();
    let mut second = printing(&asked, 2);
    second.write_all(b"not ready\nready or not\n").unwrap();
    let mut question = asked.health.ask(&ready, SHORT, 4);
    assert!(timeout(SHORT, &mut question).await.is_err());
    drop(question);
    second.write_all(b"rea").unwrap();
    let mut question = asked.health.ask(&ready, SHORT, 4);
    assert!(timeout(SHORT, &mut question).await.is_err());
    second.write_all(b"dy\n").unwrap();
    assert_eq!(within_test(question).await, Ok(()));
}
