//! What the service manager is told, see sd_notify(3). It believes the process that it has
//! started, which is the holder; what there is to tell, the daemon knows.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};

use super::frame::MAX_NOTICE;

/// Where the service manager listens: a path, or the name of an abstract socket after an `@`.
const ENV_SOCKET: &str = "NOTIFY_SOCKET";

/// A way to the service manager.
pub(super) struct Notify {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Notify {
    /// None if nobody wants to be told.
    pub(super) fn from_environment() -> Option<Self> {
        let address = address(&std::env::var_os(ENV_SOCKET)?)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        Some(Self { socket, address })
    }

    /// Tells it something, now or never: it is not waited for.
    pub(super) fn tell(&self, text: &[u8]) {
        let text = text.get(..MAX_NOTICE).unwrap_or(text);
        if !text.is_empty() {
            let _ = sendto(&self.socket, text, SendFlags::NOSIGNAL, &self.address);
        }
    }
}

fn address(name: &OsStr) -> Option<SocketAddrUnix> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name).ok(),
        path @ [b'/', ..] => SocketAddrUnix::new(path).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let path = address(OsStr::new("/run/systemd/notify")).unwrap();
        assert_eq!(path.path_bytes(), Some(&b"/run/systemd/notify"[..]));
        let name = address(OsStr::new("@notify")).unwrap();
        assert_eq!(name.abstract_name(), Some(&b"notify"[..]));
        for none in ["", "relative", "vsock:2:1234", &"/long".repeat(40)] {
            assert!(address(OsStr::new(none)).is_none(), "{none}");
        }
    }
}
