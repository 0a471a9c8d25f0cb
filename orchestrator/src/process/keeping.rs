//! What the holder is to keep and to forget, on its way to the holder.
//!
//! Nobody waits for it. What can't be sent at once, because the holder does not keep up, is sent
//! later; what is said of one name arrives in the order in which it was said, so that no file is
//! kept that was to be forgotten, and none is forgotten that came after it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use crate::holder::frame::{Name, Order};

/// Orders that are late. Of each name there is only the last one: the holder does not need those
/// before it. So there are never more than names.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    late: Mutex<BTreeMap<Name, Wish>>,
}

/// What is to become of a file.
#[derive(Debug)]
pub(super) enum Wish {
    /// It is to be kept, instead of another one of that name.
    Keep(OwnedFd),
    /// The same, and the holder is to say that it is.
    KeepAndSay(OwnedFd),
    /// It is to be closed, if there is one.
    Forget,
}

/// What became of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Told {
    /// The holder has it, or somebody is at work to tell it.
    Enough,
    /// It is late, and is the first that is: somebody must [catch up](Keeping::catch_up).
    BeginsToBeLate,
}

impl Keeping {
    /// Has a file kept, or none any more.
    pub(super) fn tell(
        &self,
        name: Name,
        wish: Wish,
        send: impl Fn(Order, &[BorrowedFd<'_>]) -> io::Result<()>,
    ) -> Told {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if !late.is_empty() {
            late.insert(name, wish);
            return Told::Enough;
        }
        if sent(name, &wish, &send) {
            return Told::Enough;
        }
        late.insert(name, wish);
        Told::BeginsToBeLate
    }

    /// Sends what is late, as far as the holder takes it. True if that was all.
    pub(super) fn catch_up(
        &self,
        send: impl Fn(Order, &[BorrowedFd<'_>]) -> io::Result<()>,
    ) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = late.first_entry() {
            if !sent(*first.key(), first.get(), &send) {
                return false;
            }
            first.remove();
        }
        true
    }
}

/// False if it is to be tried again.
fn sent(
    name: Name,
    wish: &Wish,
    send: impl Fn(Order, &[BorrowedFd<'_>]) -> io::Result<()>,
) -> bool {
    let keep = |confirm, file: &OwnedFd| send(Order::Keep { file: name, confirm }, &[file.as_fd()]);
    let sent = match wish {
        Wish::Keep(file) => keep(false, file),
        Wish::KeepAndSay(file) => keep(true, file),
        Wish::Forget => send(Order::Forget { file: name }, &[]),
    };
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            // It has gone, and so will this process; or too many files are on their way.
            tracing::error!(?name, %error, "the holder can't be told what to keep");
            true
        }
        Ok(()) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::os::unix::net::UnixStream;

    fn name(tag: u64) -> Name {
        Name { key: [1; 16], tag }
    }

    proptest! {
        #[test]
        fn what_is_kept_in_the_end_is_what_was_said_last(
            orders in prop::collection::vec((0..5_u64, any::<bool>(), 0..3_usize), 0..60),
        ) {
            let keeping = Keeping::default();
            let (room, kept) = (Cell::new(0), RefCell::new(BTreeSet::new()));
            let send = |order, files: &[BorrowedFd<'_>]| {
                if room.get() == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                room.set(room.get() - 1);
                match order {
                    Order::Keep { file, .. } => {
                        assert_eq!(files.len(), 1);
                        kept.borrow_mut().insert(file);
                    }
                    Order::Forget { file } => {
                        kept.borrow_mut().remove(&file);
                    }
                    _ => unreachable!(),
                }
                Ok(())
            };
            let (mut expected, mut behind) = (BTreeSet::new(), false);
            for (tag, keep, more_room) in orders {
                room.set(room.get() + more_room);
                let file = || OwnedFd::from(UnixStream::pair().unwrap().0);
                let wish = match (keep, tag % 2) {
                    (true, 0) => Wish::Keep(file()),
                    (true, _) => Wish::KeepAndSay(file()),
                    (false, _) => Wish::Forget,
                };
                if keep {
                    expected.insert(name(tag));
                } else {
                    expected.remove(&name(tag));
                }
                let told = keeping.tell(name(tag), wish, send);
                prop_assert!(!(behind && told == Told::BeginsToBeLate));
                behind |= told == Told::BeginsToBeLate;
                if behind && more_room == 2 {
                    behind = !keeping.catch_up(send);
                }
            }
            room.set(usize::MAX);
            prop_assert!(keeping.catch_up(send));
            prop_assert_eq!(kept.into_inner(), expected);
        }
    }
}
