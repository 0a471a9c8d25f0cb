//! Sockets that are opened, kept and closed, with the real kernel's files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use super::*;
use crate::process::{Launch, Pending, SpawnError, Spawned};

/// A holder that keeps files, and nothing else.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<Name, OwnedFd>>);

impl Kernel for Shelf {
    fn spawn(&self, _: Launch) -> Pending<Result<Spawned, SpawnError>> {
        Box::pin(std::future::pending())
    }

    fn keep(&self, name: Name, file: OwnedFd) {
        self.0.lock().unwrap().insert(name, file);
    }

    fn forget(&self, name: Name) {
        self.0.lock().unwrap().remove(&name);
    }
}

impl Shelf {
    /// What the next daemon finds.
    fn left(&self) -> Vec<(u64, OwnedFd)> {
        let kept = self.0.lock().unwrap();
        let place = |name: &Name| name.tag - crate::process::FIRST_LISTENER;
        kept.iter().map(|(name, file)| (place(name), file.try_clone().unwrap())).collect()
    }

    /// Where the socket in this place listens: the name of its file, or its address.
    fn at(&self, place: u64) -> String {
        let kept = self.0.lock().unwrap();
        let socket = kept[&listener(ID, place)].try_clone().unwrap();
        let local = TcpListener::from(socket.try_clone().unwrap()).local_addr();
        match local {
            Ok(address) => address.to_string(),
            Err(_) => {
                let address = UnixListener::from(socket).local_addr().unwrap();
                address.as_pathname().unwrap().display().to_string()
            }
        }
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

const ID: InstanceId = InstanceId::from_bytes([7; 16]);

/// An address of this test alone: the loopback network is large, so nobody else's port is met.
fn address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [a, b] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [.., c, d] = std::process::id().to_be_bytes();
    format!("127.{}.{}.{}:{}", 1 + c % 200, d, 1 + a, 2000 + u32::from(b))
}

fn wanted(texts: &[&str]) -> Vec<Listen> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn open(shelf: &Arc<Shelf>, texts: &[&str]) -> Result<Listeners, String> {
    Listeners::open(ID, shelf.clone(), &wanted(texts)).map_err(|error| error.to_string())
}

fn restore(shelf: &Arc<Shelf>, texts: &[&str]) -> Listeners {
    Listeners::restore(ID, shelf.clone(), &wanted(texts), shelf.left())
}

#[test]
fn each_kind_listens() {
    let shelf = Arc::new(Shelf::default());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (tcp, udp) = (address(), address());
    let texts = [
        format!("http=tcp:{tcp}"),
        format!("udp:{udp}"),
        format!("unix:{}", path("made/for/it").display()),
        format!("d=unix-datagram:{},mode=0666", path("d").display()),
    ];
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let listeners = open(&shelf, &texts).unwrap();
    assert_eq!(listeners.at_start().unwrap(), ["http", "unknown", "unknown", "d"]);
    let _waits = TcpStream::connect(&tcp).unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", &udp).unwrap();
    let _waits = UnixStream::connect(path("made/for/it")).unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"x", path("d")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path("made/for/it")), mode(&path("d"))), (0o600, 0o666));
    assert_eq!(shelf.count(), 6, "four sockets and two files");
    listeners.close();
    assert_eq!(shelf.count(), 0);
    assert!(!path("made/for/it").exists() && !path("d").exists());
    assert!(TcpStream::connect(&tcp).is_err());
    assert!(listeners.at_start().is_err());
}

#[test]
fn all_are_opened_or_none() {
    let shelf = Arc::new(Shelf::default());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let (free, taken) = (address(), address());
    let other = TcpListener::bind(&taken).unwrap();
    let unix = format!("unix:{}", path.display());
    let error = open(&shelf, &[&unix, &format!("tcp:{free}"), &format!("tcp:{taken}")]);
    let error = error.err().unwrap();
    assert!(error.starts_with(&format!("cannot listen on tcp:{taken}: ")), "{error}");
    assert!(error.contains("(EADDRINUSE); `ss -ltunp`"), "{error}");
    assert!(!path.exists() && TcpStream::connect(&free).is_err());
    assert_eq!(shelf.count(), 0);
    drop(other);
    open(&shelf, &[&format!("tcp:{taken}")]).unwrap();
    // Not an address of this machine.
    let error = open(&shelf, &["udp:192.0.2.1:5353"]).err().unwrap();
    assert!(error.contains("no network interface has this address"), "{error}");
}

#[test]
fn what_is_no_socket_of_ours_is_left_alone() {
    let shelf = Arc::new(Shelf::default());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| format!("unix:{}", path(name).display());
    fs::write(path("file"), "precious").unwrap();
    std::os::unix::fs::symlink("file", path("link")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    for name in ["file", "link", "dir"] {
        let error = open(&shelf, &[&text(name)]).err().unwrap();
        assert!(error.contains("is no socket"), "{name}: {error}");
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"precious");
    for (name, datagram) in [("stream", false), ("datagram", true)] {
        let alive: Box<dyn std::any::Any> = match datagram {
            true => Box::new(UnixDatagram::bind(path(name)).unwrap()),
            false => Box::new(UnixListener::bind(path(name)).unwrap()),
        };
        for kind in ["unix", "unix-datagram"] {
            let text = format!("{kind}:{}", path(name).display());
            let error = open(&shelf, &[&text]).err().unwrap();
            assert!(error.contains("somebody listens there already"), "{name}: {error}");
        }
        drop(alive);
        // Nobody listens there any more.
        open(&shelf, &[&text(name)]).unwrap();
    }
    // Something else has taken the place of ours by the end.
    let listeners = open(&shelf, &[&text("ours")]).unwrap();
    fs::remove_file(path("ours")).unwrap();
    let other = UnixListener::bind(path("ours")).unwrap();
    listeners.close();
    assert!(fs::symlink_metadata(path("ours")).unwrap().file_type().is_socket());
    drop(other);
}

#[test]
fn the_next_daemon_goes_on_with_the_same_sockets() {
    let shelf = Arc::new(Shelf::default());
    let dir = tempfile::tempdir().unwrap();
    let (tcp, gone) = (address(), dir.path().join("gone"));
    let unix = dir.path().join("unix");
    let (tcp_text, unix_text) = (format!("tcp:{tcp}"), format!("unix:{}", unix.display()));
    let first = open(&shelf, &[&tcp_text, &format!("unix:{}", gone.display()), &unix_text]);
    // Killed: nothing is closed or removed.
    std::mem::forget(first.unwrap());
    let inode = fs::metadata(&unix).unwrap().ino();
    let mut waits = TcpStream::connect(&tcp).unwrap();
    waits.write_all(b"hello").unwrap();

    // One of them is not wanted any more, and the order is another.
    let second = restore(&shelf, &[&unix_text, &tcp_text]);
    assert_eq!(second.at_start().unwrap().len(), 2);
    assert_eq!(fs::metadata(&unix).unwrap().ino(), inode);
    assert!(!gone.exists());
    assert_eq!((shelf.at(0), shelf.at(1)), (unix.display().to_string(), tcp.clone()));
    assert_eq!(shelf.count(), 3);
    // Who has connected before is not lost.
    let [_, (_, socket), ..] = <[_; 3]>::try_from(shelf.left()).unwrap();
    let (mut stream, _) = TcpListener::from(socket).accept().unwrap();
    let mut text = [0; 5];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");

    // The file of one is gone: nobody would find it.
    std::mem::forget(second);
    fs::remove_file(&unix).unwrap();
    let third = restore(&shelf, &[&unix_text, &tcp_text]);
    drop(UnixStream::connect(&unix).unwrap());
    third.close();
    assert!(!unix.exists());

    // Of an instance that is gone.
    std::mem::forget(open(&shelf, &[&unix_text]).unwrap());
    remove_left(shelf.left());
    assert!(!unix.exists());
}

#[test]
fn what_can_not_be_opened_is_tried_again_at_each_start() {
    let shelf = Arc::new(Shelf::default());
    let (one, two) = (address(), address());
    let texts = [format!("tcp:{one}"), format!("tcp:{two}")];
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let other = TcpListener::bind(&two).unwrap();
    let listeners = restore(&shelf, &texts);
    let problems = listeners.info(&wanted(&texts)).into_iter().map(|it| it.problem);
    let problems: Vec<_> = problems.collect();
    assert_eq!(problems[0], None);
    assert!(problems[1].as_ref().unwrap().contains("EADDRINUSE"), "{problems:?}");
    assert!(listeners.at_start().unwrap_err().contains(&two));
    assert_eq!(shelf.count(), 1);
    drop(other);
    assert_eq!(listeners.at_start().unwrap().len(), 2);
    assert_eq!((shelf.at(0), shelf.at(1)), (one, two));
}

#[test]
fn a_change_closes_nothing_that_stays() {
    let shelf = Arc::new(Shelf::default());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let (stays, goes, comes) = (address(), address(), address());
    let unix = |mode: &str| format!("unix:{},mode={mode}", path.display());
    let listeners =
        open(&shelf, &[&format!("tcp:{goes}"), &format!("tcp:{stays}"), &unix("0600")]).unwrap();
    let _waits = TcpStream::connect(&stays).unwrap();
    let inode = || fs::metadata(&path).unwrap().ino();
    let before = inode();

    let texts = [unix("0660"), format!("n=tcp:{stays}"), format!("tcp:{comes}")];
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    // Not carried out.
    drop(listeners.prepare(&wanted(&texts)).unwrap());
    assert!(TcpStream::connect(&comes).is_err());
    let coming = listeners.prepare(&wanted(&texts)).unwrap();
    let _waits = TcpStream::connect(&comes).unwrap();
    listeners.expect(coming, &wanted(&texts));
    // Until it is executed anew, it is given what it was; who may connect changes at once.
    assert_eq!(listeners.at_start().unwrap().len(), 3);
    assert_eq!(shelf.at(0), goes);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(listeners.info(&wanted(&texts)).iter().all(|it| it.problem.is_none()));

    listeners.renew(&wanted(&texts));
    assert_eq!(listeners.at_start().unwrap(), ["unknown", "n", "unknown"]);
    assert_eq!((shelf.at(1), shelf.at(2)), (stays.clone(), comes.clone()));
    assert_eq!(inode(), before);
    assert!(TcpStream::connect(&goes).is_err());
    for place in [1, 2] {
        let left = shelf.left();
        let socket = left.iter().find(|(at, _)| *at == place).unwrap().1.try_clone().unwrap();
        let socket = TcpListener::from(socket);
        socket.set_nonblocking(true).unwrap();
        socket.accept().expect("who has connected before is there");
    }
    listeners.renew(&[]);
    assert_eq!((shelf.count(), path.exists()), (0, false));
    assert_eq!(listeners.at_start(), Ok(Vec::new()));
}

#[test]
fn an_ipv6_address_is_not_an_ipv4_one() {
    let shelf = Arc::new(Shelf::default());
    let Ok(probe) = TcpListener::bind("[::1]:0") else { return };
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    match open(&shelf, &[&format!("tcp:[::1]:{port}")]) {
        Ok(_there) => {
            drop(TcpStream::connect(("::1", port)).unwrap());
            let v4 = TcpStream::connect(("127.0.0.1", port));
            assert!(v4.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
        }
        // Somebody was faster.
        Err(error) => assert!(error.contains("EADDRINUSE"), "{error}"),
    }
}
