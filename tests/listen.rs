//! Sockets that listen for instances: nobody who connects is refused, whatever happens to the
//! instance and to the daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use orchestrator_proto::control::Observed;
use tests::{Daemon, SOON, eventually, processes};

/// Answers whoever connects to any of its sockets with its number, the name of the socket and the
/// number of the file; with the argument `once` it then ends.
const SERVER: &str = r#"
import os, select, socket, sys
names = os.environ["LISTEN_FDNAMES"].split(":")
count = int(os.environ["LISTEN_FDS"])
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
assert count == len(names)
sockets = [socket.socket(fileno=3 + i) for i in range(count)]
print("serving", *names, flush=True)
while True:
    for ready in select.select(sockets, [], [])[0]:
        text = f"{os.getpid()} {names[sockets.index(ready)]} {ready.fileno()}\n"
        if ready.type == socket.SOCK_DGRAM:
            data, sender = ready.recvfrom(100)
            ready.sendto(text.encode(), sender)
        else:
            connection, _ = ready.accept()
            connection.sendall(text.encode())
            connection.close()
        if "once" in sys.argv:
            sys.exit()
"#;

/// An address that no other test has: the loopback network is large.
fn address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [.., c, d] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{d}.{}:7000", 201 + c % 50, 1 + number)
}

/// Adds the server under a name, with further options before `--`.
fn add(daemon: &Daemon, name: &str, options: &[&str], args: &[&str]) -> String {
    let python = ["/usr/bin/env", "--name", name];
    let rest = ["--", "python3", "-c", SERVER];
    daemon.add([&python[..], options, &rest, args].concat())
}

fn pid(daemon: &Daemon, name: &str) -> u32 {
    eventually("it runs", || match daemon.info(name).observed {
        Observed::Ready { pid, .. } => Some(pid),
        _ => None,
    })
}

/// Connects, and reads all that it is told.
fn ask(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn ask_unix(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A client that connects again and again.
struct Client {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    refused: JoinHandle<Vec<std::io::Error>>,
}

impl Client {
    fn new(address: &str) -> Self {
        let (ends, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (end, answer, address) = (ends.clone(), answered.clone(), address.to_owned());
        let refused = std::thread::spawn(move || {
            let mut refused = Vec::new();
            while !end.load(Ordering::Relaxed) {
                match TcpStream::connect(&address) {
                    Ok(mut stream) => {
                        let mut text = String::new();
                        stream.set_read_timeout(Some(SOON)).unwrap();
                        // A program that is killed may have accepted it already.
                        if stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                            answer.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Err(error) => refused.push(error),
                }
            }
            refused
        });
        Self { ends, answered, refused }
    }

    /// Waits until it was answered so many times more.
    #[track_caller]
    fn is_answered(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        let enough = || (self.answered.load(Ordering::Relaxed) > before + 5).then_some(());
        eventually("the client is answered", enough);
    }

    /// How it was refused, each time.
    fn end(self) -> Vec<std::io::Error> {
        self.ends.store(true, Ordering::Relaxed);
        self.refused.join().unwrap()
    }
}

#[test]
fn nobody_is_refused_whatever_restarts() {
    let daemon = Daemon::start();
    let address = address();
    let listen = format!("http=tcp:{address}");
    add(
        &daemon,
        "web",
        &["--listen", &listen, "--restart", "always", "--restart-delay", "50ms"],
        &[],
    );
    // Before it was ever started, too.
    let client = Client::new(&address);
    daemon.ok(["runtime", "start", "web"]);
    client.is_answered();
    for _ in 0..3 {
        daemon.ok(["runtime", "restart", "web"]);
        client.is_answered();
    }
    processes::signal(pid(&daemon, "web"), Signal::SIGKILL);
    client.is_answered();
    daemon.ok(["runtime", "stop", "web"]);
    daemon.ok(["runtime", "start", "web"]);
    client.is_answered();
    // The daemon is replaced, killed, and all of its processes are replaced.
    for step in ["restart", "kill", "all"] {
        let before = pid(&daemon, "web");
        match step {
            "restart" => {
                daemon.ok(["daemon", "restart"]);
            }
            "kill" => {
                daemon.replace_killed();
            }
            _ => {
                daemon.ok(["daemon", "restart", "--all"]);
            }
        }
        client.is_answered();
        assert_eq!(pid(&daemon, "web"), before, "{step}");
        daemon.ok(["runtime", "restart", "web"]);
        client.is_answered();
    }
    // Killed while the instance is stopped: the next daemon has the socket still.
    daemon.ok(["runtime", "stop", "web"]);
    daemon.replace_killed();
    daemon.ok(["runtime", "start", "web"]);
    client.is_answered();
    let refused = client.end();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn a_program_that_serves_one_and_ends_serves_all_that_wait() {
    let daemon = Daemon::start();
    let address = address();
    let listen = format!("tcp:{address}");
    let options = ["--listen", &listen, "--restart", "always", "--restart-delay", "1ms"];
    add(&daemon, "one", &options, &["once"]);
    let waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(&address).unwrap()).collect();
    daemon.ok(["runtime", "start", "one"]);
    let mut pids = Vec::new();
    for mut stream in waiting {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        pids.push(text.split(' ').next().unwrap().to_owned());
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 5, "each by another process: {pids:?}");
}

#[test]
fn several_sockets_have_their_names_and_come_in_their_order() {
    let daemon = Daemon::start().env("LISTEN_PID", "1");
    let (tcp, udp) = (address(), address());
    let [stream, datagram] = ["a/s", "d"].map(|name| daemon.dir().join(name));
    let texts = [
        format!("web=tcp:{tcp}"),
        format!("unix:{},mode=0660", stream.display()),
        format!("dns=udp:{udp}"),
        format!("unix-datagram:{}", datagram.display()),
    ];
    let options: Vec<_> = texts.iter().flat_map(|text| ["--listen", text]).collect();
    add(&daemon, "all", &options, &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&stream), mode(&datagram)), (0o660, 0o600));
    daemon.ok(["runtime", "start", "all"]);
    daemon.prints("all", "serving web unknown dns unknown");
    let pid = pid(&daemon, "all");
    assert_eq!(ask(&tcp), format!("{pid} web 3\n"));
    assert_eq!(ask_unix(&stream), format!("{pid} unknown 4\n"));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.send_to(b"?", &udp).unwrap();
    let mut text = [0; 100];
    let len = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..len], format!("{pid} dns 5\n").as_bytes());

    let shown = daemon.ok(["runtime", "show", "all"]);
    let line = shown.lines().find(|line| line.starts_with("listens:")).unwrap();
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>(), texts);
    let json = daemon.json(["runtime", "show", "all"]);
    let listen = &json["runtime"]["listen"];
    assert_eq!(listen[0]["listen"]["name"], "web");
    assert_eq!(listen[0]["listen"]["socket"]["tcp"], tcp.as_str());
    assert_eq!(listen[1]["listen"]["socket"]["unix"]["mode"], "0660");
    assert!(listen[1]["problem"].is_null());
    let text = daemon.ok(["export"]);
    assert!(text.contains(&format!("listen = [\"web=tcp:{tcp}\", \"unix:")), "{text}");

    daemon.ok(["runtime", "remove", "all", "--force"]);
    assert!(!stream.exists() && !datagram.exists());
    TcpStream::connect(&tcp).unwrap_err();
}

#[test]
fn what_can_not_be_had_is_refused_and_nothing_is_added() {
    let daemon = Daemon::start();
    let (taken, free) = (address(), address());
    let _other = TcpListener::bind(&taken).unwrap();
    let file = daemon.dir().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = |options: &[&str], words: &[&str], code| {
        let said = daemon.cli([&["runtime", "add", "/bin/true", "--name", "a"], options].concat());
        assert_eq!(said.code, Some(code), "{said:?}");
        for word in words {
            assert!(said.stderr.contains(word), "{word}: {said:?}");
        }
    };
    let (taken, free) = (format!("tcp:{taken}"), format!("tcp:{free}"));
    let in_use = ["cannot listen on tcp:", "EADDRINUSE", "ss -ltunp", "instance a"];
    refused(&["--listen", &free, "--listen", &taken], &in_use, 1);
    refused(&["--listen", &format!("unix:{}", file.display())], &["is no socket"], 1);
    refused(&["--listen", &free, "--listen", &free], &["is given twice"], 1);
    refused(&["--listen", &free, "--env", "LISTEN_FDS=1"], &["is set by the daemon itself"], 1);
    refused(&["--listen", &format!("unix:/{}", "x".repeat(120))], &["at most 107 bytes"], 1);
    refused(&["--listen", "tcp:localhost:80"], &["not an IP address with a port"], 2);
    refused(&["--listen", "tcp:127.0.0.1:0"], &["port 0"], 2);
    refused(&["--listen", "unix:/a,mode=9"], &["not a mode"], 2);
    refused(&["--listen", "8080"], &["[NAME=]tcp:IP:PORT"], 2);
    assert_eq!(daemon.json(["runtime", "list"])["runtimes"], serde_json::json!([]));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    add(&daemon, "a", &["--listen", &free], &[]);
    // By another instance.
    let said = daemon.cli(["runtime", "add", "/bin/true", "--name", "b", "--listen", &free]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("is that of instance a"), "{said:?}");
}

#[test]
fn a_relative_path_is_that_of_who_asks() {
    let daemon = Daemon::start();
    let mut command = daemon.cli_command(["runtime", "add", "/bin/true", "--listen", "unix:here"]);
    command.current_dir(daemon.dir());
    assert!(command.status().unwrap().success());
    assert!(daemon.dir().join("here").exists());
}

#[test]
fn an_end_of_everything_closes_them_and_a_start_opens_them_again() {
    let mut daemon = Daemon::start();
    let address = address();
    let path = daemon.dir().join("s");
    let (tcp, unix) = (format!("tcp:{address}"), format!("unix:{}", path.display()));
    add(&daemon, "a", &["--listen", &tcp, "--listen", &unix], &[]);
    daemon.ok(["runtime", "start", "a"]);
    daemon.terminate();
    TcpStream::connect(&address).unwrap_err();
    assert!(!path.exists());
    // Somebody else has one of them by the next start.
    let other = TcpListener::bind(&address).unwrap();
    daemon.launch();
    ask_fails_to_start(&daemon, &address);
    drop(other);
    daemon.ok(["runtime", "start", "a"]);
    assert_eq!(ask(&address), format!("{} unknown 3\n", pid(&daemon, "a")));
    assert_eq!(ask_unix(&path), format!("{} unknown 4\n", pid(&daemon, "a")));

    // All of the orchestrator is killed: the file of the socket stays, and is replaced.
    daemon.kill();
    assert!(path.exists());
    let orphan = ask(&address).split(' ').next().unwrap().parse().unwrap();
    processes::signal(orphan, Signal::SIGKILL);
    processes::gone(orphan);
    daemon.launch();
    eventually("its end is known", || (!daemon.info("a").observed.is_active()).then_some(()));
    daemon.ok(["runtime", "start", "a"]);
    let pid = pid(&daemon, "a");
    assert_eq!(ask_unix(&path), format!("{pid} unknown 4\n"));
    assert_eq!(ask(&address), format!("{pid} unknown 3\n"));
}

/// It could not be started, and that and why is shown.
fn ask_fails_to_start(daemon: &Daemon, address: &str) {
    let shown = eventually("its start has failed", || {
        let shown = daemon.ok(["runtime", "show", "a"]);
        shown.contains("failed").then_some(shown)
    });
    assert!(shown.contains(&format!("tcp:{address} (not open: cannot listen on")), "{shown}");
    let said = daemon.cli(["runtime", "start", "a"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("EADDRINUSE"), "{said:?}");
}

#[test]
fn a_change_of_the_manifest_reopens_nothing_that_stays() {
    let daemon = Daemon::start();
    let (stays, goes, comes) = (address(), address(), address());
    let manifest = daemon.dir().join("orchestrator.toml");
    fs::write(daemon.dir().join("server.py"), SERVER).unwrap();
    let apply = |listen: &str| {
        let text = format!(
            "[instance.web]\nprogram = \"/usr/bin/env\"\nargs = [\"python3\", \"{}\"]\n\
             listen = [{listen}]\n",
            daemon.dir().join("server.py").display()
        );
        fs::write(&manifest, text).unwrap();
        daemon.cli([std::ffi::OsStr::new("apply"), manifest.as_os_str()])
    };
    let stay = format!("{{ name = \"stays\", tcp = \"{stays}\" }}");
    let unix = |mode: &str| format!("{{ unix = \"u\", mode = \"{mode}\" }}");
    let said = apply(&format!("\"tcp:{goes}\", {stay}, {}", unix("0600")));
    assert_eq!(said.code, Some(0), "{said:?}");
    let client = Client::new(&stays);
    client.is_answered();
    let first = pid(&daemon, "web");
    let path = daemon.dir().join("u");
    let inode = fs::metadata(&path).unwrap().ino();

    // Who may connect is changed without a restart.
    assert_eq!(apply(&format!("\"tcp:{goes}\", {stay}, {}", unix("0666"))).code, Some(0));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(pid(&daemon, "web"), first);

    // One that can't be had: nothing changes.
    let other = TcpListener::bind(&comes).unwrap();
    let next = format!("{stay}, {}, \"new=tcp:{comes}\"", unix("0666"));
    let said = apply(&next);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("EADDRINUSE"), "{said:?}");
    assert_eq!(pid(&daemon, "web"), first);
    assert_eq!(ask(&goes), format!("{first} unknown 3\n"));
    drop(other);

    let said = apply(&next);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(ask(&comes).split_once(' ').unwrap().1, "new 5\n");
    assert_ne!(pid(&daemon, "web"), first);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    TcpStream::connect(&goes).unwrap_err();
    client.is_answered();
    let refused = client.end();
    assert!(refused.is_empty(), "{refused:?}");
    // What is exported is what is there.
    let exported = daemon.dir().join("exported.toml");
    fs::write(&exported, daemon.ok(["export"])).unwrap();
    let args = [std::ffi::OsStr::new("apply"), exported.as_os_str(), "--dry-run".as_ref()];
    let said = daemon.cli(args);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.stdout.contains("listen"), "{said:?}");
}
