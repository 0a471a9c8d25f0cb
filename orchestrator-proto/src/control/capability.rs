//! Parts of what root may do, see capabilities(7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Their names, in the order of their numbers.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A capability, by its number, 0 to 40. Where people read it, its name: `CAP_NET_RAW`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Capability(pub u8);

impl Capability {
    /// How many there are, as far as this version knows.
    pub const COUNT: u8 = NAMES.len() as u8;

    /// The set of them, as the kernel writes it: a bit for each.
    #[must_use]
    pub fn bits<'a>(all: impl IntoIterator<Item = &'a Self>) -> u64 {
        all.into_iter().fold(0, |bits, it| bits | 1_u64.checked_shl(it.0.into()).unwrap_or(0))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Capability {
    type Err = String;

    /// Its name, in any case, with or without `CAP_`.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let wanted = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let found = NAMES.iter().zip(0..).find(|(name, _)| &name[4..] == wanted);
        found.map(|(_, number)| Self(number)).ok_or_else(|| {
            format!("{text:?} is not a capability; use names as CAP_NET_RAW, see capabilities(7)")
        })
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u8::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_capability() {
        for text in ["CAP_NET_BIND_SERVICE", "net_bind_service", "cap_Net_Bind_Service"] {
            assert_eq!(text.parse(), Ok(Capability(10)));
        }
        assert_eq!("CAP_CHECKPOINT_RESTORE".parse(), Ok(Capability(40)));
        for bad in ["", "CAP_", "10", "CAP_CAP_CHOWN", "ALL"] {
            assert!(bad.parse::<Capability>().is_err(), "{bad}");
        }
        for number in 0..Capability::COUNT {
            assert_eq!(Capability(number).to_string().parse(), Ok(Capability(number)));
        }
        assert_eq!(Capability::bits(&[Capability(0), Capability(10), Capability(255)]), 0x401);
    }
}
