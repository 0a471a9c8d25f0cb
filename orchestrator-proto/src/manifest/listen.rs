//! The key that says which sockets listen for an instance.

use super::keys::LISTEN;
use super::read::{Table, Value};
use crate::control::{Listen, ListenMode, ListenSocket};

/// The keys of a table that say where it listens.
const SOCKETS: [&str; 4] = ["tcp", "udp", "unix", "unix-datagram"];

pub(super) fn all(value: Value<'_>) -> Option<Vec<Listen>> {
    let all = value.list("sockets such as \"tcp:127.0.0.1:8080\"", one)?;
    match Listen::check_all(&all) {
        Ok(()) => Some(all),
        Err(error) => value.wrong(error),
    }
}

fn one(value: Value<'_>) -> Option<Listen> {
    let listen = if value.is_text() { value.parsed()? } else { table(&value.table(LISTEN)?)? };
    let absolute = listen.with_path(|path| match path.to_str() {
        Some(path) => Ok(value.absolute(path)),
        None => Err(String::new()),
    });
    match absolute.and_then(|listen| listen.check().map(|()| listen)) {
        Ok(listen) => Some(listen),
        Err(error) => value.wrong(error),
    }
}

fn table(table: &Table<'_>) -> Option<Listen> {
    let name = table.read("name", |value| value.text());
    let mode = table.read("mode", |value| value.parsed::<ListenMode>());
    let mut written: Vec<_> = SOCKETS.into_iter().filter(|key| table.get(key).is_some()).collect();
    written.sort_by_key(|key| table.at(key));
    let (first, second) = (written.first(), written.get(1));
    let Some(first) = first else {
        table.wrong(table.at, format!("a socket has one of {}", SOCKETS.join(", ")));
        return None;
    };
    if let Some(second) = second {
        table.wrong(table.at(second), format!("a socket has only one of {}", SOCKETS.join(", ")));
        return None;
    }
    if first.starts_with("unix") {
        let path = table.read(first, |value| match value.text()? {
            path if path.is_empty() => value.wrong("a path can't be empty"),
            path => Some(path),
        })?;
        let mode = mode.unwrap_or_default();
        let socket = match *first {
            "unix" => ListenSocket::Unix { path, mode },
            _ => ListenSocket::UnixDatagram { path, mode },
        };
        return Some(Listen { name, socket });
    }
    if table.get("mode").is_some() {
        table.wrong(table.at("mode"), "only a Unix socket has a mode");
    }
    let address = table.read(first, |value| value.parsed())?;
    let socket = match *first {
        "tcp" => ListenSocket::Tcp(address),
        _ => ListenSocket::Udp(address),
    };
    Some(Listen { name, socket })
}
