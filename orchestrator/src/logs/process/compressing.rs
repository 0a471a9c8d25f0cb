//! Which files of a log are compressed, and when.

use std::io;
use std::rc::Rc;

use super::log::{Inner, Log};
use crate::logs::names::part_path;

impl Log {
    /// Has the next file compressed, if there is one and none is being compressed.
    pub(super) fn pack(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        let newest = inner.writer.end().number;
        if inner.packing.is_some() || inner.closing || inner.packed_below == newest {
            return;
        }
        let Some(number) = inner.writer.files().to_pack() else {
            inner.packed_below = newest;
            return;
        };
        match self.hub.packer.pack(self.dir.to_path_buf(), number) {
            Ok((job, answer)) => {
                inner.packing = Some(job);
                let log = self.clone();
                tokio::task::spawn_local(async move {
                    if let Ok(result) = answer.await {
                        log.packed(number, result);
                    }
                });
            }
            Err(error) => {
                self.not_packed(inner, number, &error);
            }
        }
    }

    fn packed(self: &Rc<Self>, number: u64, result: io::Result<()>) {
        {
            let inner = &mut *self.inner.borrow_mut();
            inner.packing = None;
            let files = inner.writer.files();
            let result = result.and_then(|()| files.take_packed(number));
            // A file that was deleted meanwhile is not to be compressed any more.
            let wanted = files.keeps(number) && !inner.closing;
            match result {
                Ok(()) => inner.told_unpacked = false,
                Err(error) if wanted => {
                    // Whatever there was of it.
                    let _ = std::fs::remove_file(part_path(&self.dir, number));
                    self.not_packed(inner, number, &error);
                }
                Err(_) => {}
            }
        }
        self.pack();
        self.finish_if_done();
    }

    /// With the next file it is tried again.
    fn not_packed(&self, inner: &mut Inner, number: u64, error: &io::Error) {
        inner.packed_below = inner.writer.end().number;
        if !std::mem::replace(&mut inner.told_unpacked, true) {
            let instance = self.instance;
            self.hub.notice(&format!(
                "log file {number} of instance {instance} can't be compressed: {error}"
            ));
        }
    }
}
