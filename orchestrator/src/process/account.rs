//! Users and groups by their names, as the machine knows them at the moment.
//!
//! Looks them up as getpwnam(3) and its like do, which may read files and ask servers: it may take
//! long.

use std::ffi::CString;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use orchestrator_proto::control::Execution;
use thiserror::Error;

/// Why a program can't be executed as somebody.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AccountError {
    /// There is no such user.
    #[error("there is no user {0:?} on this machine; add one, or have it run as another")]
    NoUser(String),
    /// There is no such group.
    #[error("there is no group {0:?} on this machine; add one, or name another")]
    NoGroup(String),
    /// A number of no user that is known, so that nobody says which group.
    #[error("there is no user {0} on this machine that would have a group; name a group too")]
    NoGroupOf(u32),
    /// It can't be looked up.
    #[error("{what} can't be looked up: {} ({errno:?})", .errno.desc())]
    NotLookedUp {
        /// A user or a group.
        what: String,
        /// Why.
        errno: Errno,
    },
    /// Only root can make another user's processes.
    #[error(
        "the daemon runs as user {own} and can't execute anything as {user}; run it as root, or \
         have this run as its own user"
    )]
    NotPermitted {
        /// That of the daemon.
        own: Uid,
        /// The other one.
        user: String,
    },
}

/// Somebody that the user database knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

/// As whom a program is to be executed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Identity {
    /// None if it is to be that of the daemon.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) groups: Option<Vec<u32>>,
    /// None if it is not known, or to be that of the daemon.
    pub(super) person: Option<Person>,
}

impl Identity {
    /// As whom it is to be executed, as far as it says so.
    ///
    /// # Errors
    ///
    /// When somebody is not known, or this process can't become that user.
    pub(super) fn of(execution: &Execution) -> Result<Self, AccountError> {
        let user = execution.user.as_deref().map(find_user).transpose()?;
        let group = execution.group.as_deref().map(find_group).transpose()?;
        let named = execution.groups.as_ref().map(|groups| {
            let groups: Result<Vec<_>, _> = groups.iter().map(|group| find_group(group)).collect();
            groups
        });
        let named = named.transpose()?;
        let Some((uid, user)) = user else {
            return Ok(Self { uid: None, gid: group, groups: named, person: None });
        };
        let own = Uid::effective();
        if uid == own.as_raw() && !own.is_root() {
            // Nothing is to be changed, and without rights nothing can be.
            let person = user.map(person);
            return Ok(Self { uid: None, gid: group, groups: named, person });
        }
        if uid != own.as_raw() && !can_become_others() {
            let user = execution.user.clone().unwrap_or_default();
            return Err(AccountError::NotPermitted { own, user });
        }
        let gid = group.or(user.as_ref().map(|user| user.gid.as_raw()));
        let gid = gid.ok_or(AccountError::NoGroupOf(uid))?;
        let groups = match (named, &user) {
            (Some(groups), _) => groups,
            (None, Some(user)) => groups_of(user, gid)?,
            (None, None) => Vec::new(),
        };
        let person = user.map(person);
        Ok(Self { uid: Some(uid), gid: Some(gid), groups: Some(groups), person })
    }
}

/// Who the daemon runs as, if the user database knows.
pub(super) fn own() -> Option<Person> {
    User::from_uid(Uid::effective()).ok().flatten().map(person)
}

/// Why this user can't be had by a daemon like this one, if that can be known without looking
/// anybody up.
#[must_use]
pub fn obstacle(execution: &Execution) -> Option<String> {
    let own = Uid::effective();
    let user = execution.user.as_ref().filter(|_| !can_become_others())?;
    let is_own = match user.parse::<u32>() {
        Ok(uid) => own.as_raw() == uid,
        Err(_) => User::from_uid(own).ok().flatten().is_none_or(|it| it.name == *user),
    };
    let user = user.clone();
    (!is_own).then(|| AccountError::NotPermitted { own, user }.to_string())
}

fn person(user: User) -> Person {
    Person { name: user.name, home: user.dir, shell: user.shell }
}

fn find_user(text: &str) -> Result<(u32, Option<User>), AccountError> {
    let number = number(text);
    let found = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(text),
    };
    match (found, number) {
        (Ok(Some(user)), _) => Ok((user.uid.as_raw(), Some(user))),
        (Ok(None), Some(uid)) | (Err(Errno::ENOENT | Errno::ESRCH), Some(uid)) => Ok((uid, None)),
        (Ok(None), None) | (Err(Errno::ENOENT | Errno::ESRCH), None) => {
            Err(AccountError::NoUser(text.to_owned()))
        }
        (Err(errno), _) => {
            Err(AccountError::NotLookedUp { what: format!("the user {text:?}"), errno })
        }
    }
}

fn find_group(text: &str) -> Result<u32, AccountError> {
    if let Some(gid) = number(text) {
        return Ok(gid);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) | Err(Errno::ENOENT | Errno::ESRCH) => Err(AccountError::NoGroup(text.to_owned())),
        Err(errno) => Err(AccountError::NotLookedUp { what: format!("the group {text:?}"), errno }),
    }
}

/// A number that can be one. The last of all means none, see setresuid(2).
fn number(text: &str) -> Option<u32> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_digits && *number != u32::MAX)
}

/// As initgroups(3) sets them.
fn groups_of(user: &User, gid: u32) -> Result<Vec<u32>, AccountError> {
    let failed = |errno| {
        let what = format!("the groups of user {:?}", user.name);
        AccountError::NotLookedUp { what, errno }
    };
    let name = CString::new(user.name.as_str()).map_err(|_| failed(Errno::EINVAL))?;
    let groups = getgrouplist(&name, Gid::from_raw(gid)).map_err(failed)?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

/// Whether this process has the right to that, see `CAP_SETUID` in capabilities(7).
fn can_become_others() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    match capabilities(None) {
        Ok(own) => own.effective.contains(CapabilitySet::SETUID),
        Err(_) => Uid::effective().is_root(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user: Option<&str>, group: Option<&str>, groups: Option<&[&str]>) -> Execution {
        Execution {
            user: user.map(Into::into),
            group: group.map(Into::into),
            groups: groups.map(|all| all.iter().map(|it| (*it).to_owned()).collect()),
            ..Execution::default()
        }
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(Identity::of(&Execution::default()), Ok(Identity::default()));
        let none = "no-such-account";
        let unknown = Identity::of(&of(Some(none), None, None));
        assert_eq!(unknown, Err(AccountError::NoUser(none.into())));
        for execution in [of(None, Some(none), None), of(None, None, Some(&["0", none]))] {
            assert_eq!(Identity::of(&execution), Err(AccountError::NoGroup(none.into())));
        }
        let numbers = Identity::of(&of(None, Some("7"), Some(&["8", "9"]))).unwrap();
        assert_eq!((numbers.gid, numbers.groups), (Some(7), Some(vec![8, 9])));
        // These mean nobody, or are no numbers.
        for text in ["4294967295", "-1", "+1", "", "99999999999"] {
            assert!(Identity::of(&of(Some(text), None, None)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_user_has_its_group_and_its_groups() {
        let own = Uid::effective();
        if !own.is_root() {
            let other = Identity::of(&of(Some("0"), None, None));
            assert!(matches!(other, Err(AccountError::NotPermitted { .. })), "{other:?}");
            return;
        }
        let root = Identity::of(&of(Some("root"), None, None)).unwrap();
        assert_eq!((root.uid, root.gid), (Some(0), Some(0)));
        assert!(root.groups.unwrap().contains(&0));
        assert_eq!(root.person.unwrap().home, PathBuf::from("/root"));
        let stranger = of(Some("4000000"), None, None);
        assert_eq!(Identity::of(&stranger), Err(AccountError::NoGroupOf(4_000_000)));
        let stranger = Identity::of(&of(Some("4000000"), Some("7"), None)).unwrap();
        assert_eq!((stranger.gid, stranger.groups), (Some(7), Some(vec![])), "none of ours");
    }
}
