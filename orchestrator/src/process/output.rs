//! The reading ends of the pipes that programs print into, for as long as somebody reads them: should
//! that one fail, another goes on with them.
//!
//! The holder has them from the start of a program until its end has been taken note of, so they
//! need not be open here meanwhile; the holder sends them once more with the news of the end, and
//! from then on they are here. An old holder can't be asked; then they are here from the beginning.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use orchestrator_proto::InstanceId;

use super::asked::{Asked, Fetched, answer};
use super::link::Link;
use super::{Linux, Pending};
use crate::holder::frame::{Name, Order};

/// Standard output and standard error of a program, to read from.
pub type Output = (OwnedFd, OwnedFd);

/// Those that are being read.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    all: HashMap<Name, Where>,
    pub(super) asked: Asked<Output>,
}

/// Where the reading ends are.
#[derive(Debug)]
enum Where {
    WithHolder,
    Here(Output),
}

impl Outputs {
    /// A child was collected, and the holder has sent this along.
    pub(super) fn ended(&mut self, child: Name, output: Option<Output>) {
        match (self.all.get_mut(&child), output) {
            (Some(it @ Where::WithHolder), Some(output)) => *it = Where::Here(output),
            (Some(Where::WithHolder), None) => {
                tracing::error!(
                    ?child,
                    "there is no room for the pipes of a program that has ended"
                );
            }
            _ => {}
        }
    }
}

impl Linux {
    /// This output of a program is being read, until it is [released](Self::release_output).
    ///
    /// # Errors
    ///
    /// When there is no file left; then nobody could go on if who reads it fails.
    pub fn keep_output(
        &self,
        (instance, run): (InstanceId, u64),
        (stdout, stderr): (impl AsFd, impl AsFd),
    ) -> io::Result<()> {
        let child = Name { key: *instance.as_bytes(), tag: run };
        let link = self.link();
        let mut table = link.table();
        let is_with_holder = table.holder_gives() && table.alive.contains_key(&child);
        let place = if is_with_holder {
            Where::WithHolder
        } else {
            let copy = |file: &dyn AsFd| file.as_fd().try_clone_to_owned();
            Where::Here((copy(&stdout)?, copy(&stderr)?))
        };
        table.outputs.all.insert(child, place);
        Ok(())
    }

    /// Copies of such an output; none if it is not kept.
    ///
    /// # Errors
    ///
    /// When it may go well another time.
    pub fn output(&self, instance: InstanceId, run: u64) -> Pending<io::Result<Option<Output>>> {
        let child = Name { key: *instance.as_bytes(), tag: run };
        let link = self.link();
        Box::pin(async move {
            match link.table().outputs.all.get(&child) {
                None => return Ok(None),
                Some(Where::Here((stdout, stderr))) => {
                    return Ok(Some((stdout.try_clone()?, stderr.try_clone()?)));
                }
                Some(Where::WithHolder) => {}
            }
            link.ask_for_output(child).await
        })
    }

    /// Nobody reads it any more, or it has come to its end.
    pub fn release_output(&self, instance: InstanceId, run: u64) {
        let child = Name { key: *instance.as_bytes(), tag: run };
        // Closed while nobody waits for the table.
        let released = self.link().table().outputs.all.remove(&child);
        drop(released);
    }
}

impl Link {
    async fn ask_for_output(&self, child: Name) -> Fetched<Output> {
        let answered = self.table().outputs.asked.add(child);
        self.order(Order::Output { child }, &[], &[]).await?;
        answer(answered).await
    }
}
