//! Sockets that listen for an instance, whether it runs or not.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A socket that is opened when its instance is added, and closed when it is removed. The program
/// is given it when it is executed, see sd_listen_fds(3); until then, and from one execution to
/// the next, who connects waits in the backlog.
///
/// As a text: `[NAME=]tcp:IP:PORT`, `[NAME=]udp:IP:PORT`, `[NAME=]unix:PATH[,mode=MODE]` or
/// `[NAME=]unix-datagram:PATH[,mode=MODE]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// What the program finds in `LISTEN_FDNAMES`: 1 to 64 of `A-Z a-z 0-9 . _ -`. None is
    /// [`Listen::UNNAMED`]. Several may have the same.
    pub name: Option<String>,
    /// Where it listens.
    pub socket: ListenSocket,
}

/// Where a socket listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenSocket {
    /// For TCP connections.
    Tcp(ListenAddress),
    /// For UDP datagrams.
    Udp(ListenAddress),
    /// For connections to a Unix socket, see unix(7).
    Unix {
        /// Its path: absolute, at most [`Listen::MAX_PATH`] bytes.
        path: String,
        /// Who may connect: that takes the permission to write.
        mode: ListenMode,
    },
    /// For datagrams to a Unix socket.
    UnixDatagram {
        /// Its path, as above.
        path: String,
        /// Who may send.
        mode: ListenMode,
    },
}

impl Listen {
    /// The most sockets of one instance.
    pub const MAX: usize = 16;

    /// The longest path of a Unix socket, bytes (unix(7): `sun_path` with its final zero is 108).
    pub const MAX_PATH: usize = 107;

    /// The longest name, bytes.
    pub const MAX_NAME: usize = 64;

    /// The name of a socket that was given none, as sd_listen_fds_with_names(3) has it.
    pub const UNNAMED: &str = "unknown";

    /// The name that the program finds.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(Self::UNNAMED)
    }

    /// The path of its socket, if it is a Unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match &self.socket {
            ListenSocket::Unix { path, .. } | ListenSocket::UnixDatagram { path, .. } => Some(path),
            ListenSocket::Tcp(_) | ListenSocket::Udp(_) => None,
        }
    }

    /// Who may connect or send, if it is a Unix socket.
    #[must_use]
    pub const fn mode(&self) -> Option<ListenMode> {
        match &self.socket {
            ListenSocket::Unix { mode, .. } | ListenSocket::UnixDatagram { mode, .. } => {
                Some(*mode)
            }
            ListenSocket::Tcp(_) | ListenSocket::Udp(_) => None,
        }
    }

    /// The same, with its path as `absolute` makes it.
    ///
    /// # Errors
    ///
    /// Those of `absolute`, and when what it makes is not UTF-8.
    pub fn with_path<E: From<String>>(
        mut self,
        absolute: impl FnOnce(&Path) -> Result<PathBuf, E>,
    ) -> Result<Self, E> {
        if let ListenSocket::Unix { path, .. } | ListenSocket::UnixDatagram { path, .. } =
            &mut self.socket
        {
            let made = absolute(Path::new(path))?.into_os_string().into_string();
            *path = made.map_err(|_| {
                format!("the path of the socket {path:?} is below a directory that is not UTF-8")
            })?;
        }
        Ok(self)
    }

    /// Whether this is the same socket as `other`, whatever it is called and whoever may connect.
    #[must_use]
    pub fn is_same_socket(&self, other: &Self) -> bool {
        match (self.path(), other.path()) {
            // One path is one file.
            (Some(path), Some(other_path)) => {
                path == other_path && self.socket.kind() == other.socket.kind()
            }
            _ => self.socket == other.socket,
        }
    }

    /// Whether this can be: not whether the address is free.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        let Some(path) = self.path() else { return Ok(()) };
        if !path.starts_with('/') {
            Err(format!("the path of the socket {path:?} is not absolute"))
        } else if path.ends_with('/') {
            Err(format!("the path of the socket {path:?} is that of a directory"))
        } else if path.contains('\0') {
            Err(format!("the path of the socket {path:?} has a zero byte"))
        } else if path.len() > Self::MAX_PATH {
            let (len, most) = (path.len(), Self::MAX_PATH);
            Err(format!(
                "the path of a socket has at most {most} bytes, see unix(7); this has {len}: {path}"
            ))
        } else {
            Ok(())
        }
    }

    /// Whether one instance can have all of these.
    ///
    /// # Errors
    ///
    /// A sentence about the first that is wrong.
    pub fn check_all(all: &[Self]) -> Result<(), String> {
        if all.len() > Self::MAX {
            let (count, most) = (all.len(), Self::MAX);
            return Err(format!("an instance has at most {most} sockets; {count} are given"));
        }
        let mut known = HashSet::new();
        for listen in all {
            listen.check()?;
            if !known.insert(listen.place()) {
                return Err(format!("the socket {} is given twice", listen.place()));
            }
        }
        Ok(())
    }

    /// What can be had only once: the text without a name and without a mode. Both kinds of Unix
    /// sockets at one path are one file.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.socket {
            ListenSocket::Tcp(address) => format!("tcp:{address}"),
            ListenSocket::Udp(address) => format!("udp:{address}"),
            ListenSocket::Unix { path, .. } | ListenSocket::UnixDatagram { path, .. } => {
                format!("unix:{path}")
            }
        }
    }
}

impl ListenSocket {
    /// The word before its address.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Unix { .. } => "unix",
            Self::UnixDatagram { .. } => "unix-datagram",
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Err("the name of a socket can't be empty".into())
    } else if !name.chars().all(allowed) {
        Err(format!("the name {name:?} of a socket has characters other than A-Z a-z 0-9 . _ -"))
    } else if name.len() > Listen::MAX_NAME {
        Err(format!("the name {name:?} of a socket has more than {} characters", Listen::MAX_NAME))
    } else {
        Ok(())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        write!(f, "{}:", self.socket.kind())?;
        match &self.socket {
            ListenSocket::Tcp(address) | ListenSocket::Udp(address) => address.fmt(f),
            ListenSocket::Unix { path, mode } | ListenSocket::UnixDatagram { path, mode } => {
                f.write_str(path)?;
                // Else the end of the path would be taken for one.
                let has_end = path.rsplit_once(',').is_some_and(|(_, end)| is_mode(end));
                if *mode != ListenMode::default() || has_end {
                    write!(f, ",mode={mode}")?;
                }
                Ok(())
            }
        }
    }
}

/// Whether this is written like a mode, be it one or not.
fn is_mode(text: &str) -> bool {
    text.starts_with("mode=")
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "{text:?} is no socket; write [NAME=]tcp:IP:PORT, udp:IP:PORT, \
                 unix:PATH[,mode=MODE] or unix-datagram:PATH[,mode=MODE]"
            )
        };
        let (head, rest) = text.split_once(':').ok_or_else(form)?;
        let (name, kind) = match head.split_once('=') {
            Some((name, kind)) => (Some(name.to_owned()), kind),
            None => (None, head),
        };
        if let Some(name) = &name {
            check_name(name)?;
        }
        let path = || {
            let (path, mode) = match rest.rsplit_once(',') {
                Some((path, end)) if is_mode(end) => (path, end["mode=".len()..].parse()?),
                _ => (rest, ListenMode::default()),
            };
            if path.is_empty() { Err(form()) } else { Ok((path.to_owned(), mode)) }
        };
        let socket = match kind {
            "tcp" => ListenSocket::Tcp(rest.parse()?),
            "udp" => ListenSocket::Udp(rest.parse()?),
            "unix" => path().map(|(path, mode)| ListenSocket::Unix { path, mode })?,
            "unix-datagram" => {
                path().map(|(path, mode)| ListenSocket::UnixDatagram { path, mode })?
            }
            _ => return Err(form()),
        };
        Ok(Self { name, socket })
    }
}

/// An IP address and a port other than 0, as a text such as `127.0.0.1:8080` or `[::1]:8080`.
/// Names of hosts are none: what they mean may change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// The address for the kernel.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: SocketAddr = text.parse().map_err(|_| {
            format!(
                "{text:?} is not an IP address with a port, such as 127.0.0.1:8080, [::1]:8080 or \
                 0.0.0.0:8080"
            )
        })?;
        if address.port() == 0 {
            return Err(format!("{text:?} has port 0, which would be another one each time"));
        }
        Ok(Self(address))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

/// The permissions of a Unix socket, as an octal text such as `0660`; at most `0777`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenMode(u16);

impl ListenMode {
    /// The bits, see chmod(2).
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }
}

impl Default for ListenMode {
    /// `0600`: for the daemon's user alone.
    fn default() -> Self {
        Self(0o600)
    }
}

impl fmt::Display for ListenMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for ListenMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_octal = !text.is_empty() && text.bytes().all(|c| matches!(c, b'0'..=b'7'));
        let bits = u16::from_str_radix(text, 8).ok().filter(|bits| is_octal && *bits <= 0o777);
        bits.map(Self).ok_or_else(|| {
            format!("{text:?} is not a mode; write an octal number up to 0777, such as 0660")
        })
    }
}

impl TryFrom<String> for ListenMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ListenMode> for String {
    fn from(mode: ListenMode) -> Self {
        mode.to_string()
    }
}

/// A socket of an instance, as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListenInfo {
    /// Which.
    pub listen: Listen,
    /// Why it is not open; none if it is. It is tried again whenever the instance is started.
    pub problem: Option<String>,
}
