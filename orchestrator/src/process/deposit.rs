//! Files that the holder has for this daemon, which has them open only while it needs them.
//!
//! A file is here until the holder has said that it is there, so that there is no moment in which
//! nobody has it. A holder that has no room for it, or is too old to say so, leaves it here.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::asked::{Asked, Fetched, answer};
use super::keeping::Wish;
use super::link::Link;
use crate::holder::frame::{Name, Order};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Deposits {
    /// Those that are here.
    here: HashMap<Name, OwnedFd>,
    /// How many answers of the holder are to come, to orders to keep a file of that name.
    unsaid: HashMap<Name, u32>,
    pub(super) asked: Asked<OwnedFd>,
}

impl Deposits {
    /// The holder has said whether it has what it was given under this name.
    pub(super) fn kept(&mut self, name: Name, is_kept: bool) {
        let Some(unsaid) = self.unsaid.get_mut(&name) else { return };
        *unsaid -= 1;
        // That was of another one before, if there is more to come.
        if *unsaid == 0 {
            self.unsaid.remove(&name);
            if is_kept {
                self.here.remove(&name);
            }
        }
    }

    pub(super) fn forget(&mut self, name: Name) {
        self.here.remove(&name);
    }
}

impl Link {
    /// See [`Kernel::deposit`](super::Kernel::deposit).
    pub(super) fn deposit(self: &Arc<Self>, name: Name, file: OwnedFd) {
        match file.try_clone() {
            Ok(copy) => {
                self.table().deposits.here.insert(name, file);
                self.keep(name, Wish::KeepAndSay(copy));
            }
            Err(error) => {
                tracing::error!(?name, %error, "a file can't be kept for the next daemon");
                self.table().deposits.here.insert(name, file);
            }
        }
    }

    /// See [`Kernel::is_deposited`](super::Kernel::is_deposited).
    pub(super) fn is_deposited(&self, name: Name, file: OwnedFd) {
        let mut table = self.table();
        if !table.holder_gives() {
            table.deposits.here.insert(name, file);
        }
    }

    /// Sends what is to be kept or forgotten.
    pub(super) fn try_keeping(&self, order: Order, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Nobody hears the answer before this is noted.
        let mut table = self.table();
        self.try_order(order, &[], files)?;
        if let Order::Keep { file, confirm: true } = order
            && table.holder_gives()
        {
            *table.deposits.unsaid.entry(file).or_default() += 1;
        }
        Ok(())
    }

    /// See [`Kernel::fetch`](super::Kernel::fetch).
    pub(super) async fn fetch(&self, file: Name) -> Fetched<OwnedFd> {
        let answered = {
            let mut table = self.table();
            if let Some(here) = table.deposits.here.get(&file) {
                return here.try_clone().map(Some);
            }
            if !table.holder_gives() {
                return Ok(None);
            }
            table.deposits.asked.add(file)
        };
        self.order(Order::Fetch { file }, &[], &[]).await?;
        answer(answered).await
    }
}
