//! Sockets that listen for instances, whether these run or not.
//!
//! For `registry/`, which has one [`Listeners`] per instance. The daemon opens them; the holder
//! keeps them, and gives them to the program whenever it is executed, see
//! [`Launch::listeners`](crate::process::Launch::listeners). Nothing is ever accepted or read here.
//!
//! It promises that
//!
//! - a socket that is wanted before and after a change, or by the next daemon, is not closed in
//!   between: nobody who connects is refused;
//! - no file is removed but a socket that was made here, or one of the same user's on which nobody
//!   listens any more, at a path where one is to be;
//! - what can't be opened is said, and tried again at each start.

mod file;
mod open;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Listen, ListenInfo};

use crate::process::{Kernel, MAX_LISTENERS, Name, listener};
use open::Open;

pub use open::ListenError;

/// The place of the file of the first Unix socket, behind those of the sockets.
const FIRST_FILE: u64 = 1 << 16;

/// The sockets that listen for one instance. They are closed when this is dropped.
pub struct Listeners {
    instance: InstanceId,
    kernel: Arc<dyn Kernel>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As its program is given them.
    given: Vec<Given>,
    /// Those that it is to be given in addition from its next definition on.
    coming: Coming,
    /// For good.
    is_closed: bool,
}

/// A socket that is to be given, and why that can't be.
struct Given {
    listen: Listen,
    open: Result<Open, String>,
}

/// Sockets that are open, for an instance that does not know of them as yet. They are closed when
/// this is dropped.
#[derive(Default)]
pub struct Coming(Vec<(Listen, Open)>);

impl Coming {
    fn take(&mut self, wanted: &Listen) -> Option<Open> {
        let at = self.0.iter().position(|(listen, _)| listen.is_same_socket(wanted))?;
        Some(self.0.swap_remove(at).1)
    }
}

impl Listeners {
    /// Opens the sockets of a new instance: all of them, or none.
    ///
    /// # Errors
    ///
    /// Why the first that can't be opened can't.
    pub fn open(
        instance: InstanceId,
        kernel: Arc<dyn Kernel>,
        wanted: &[Listen],
    ) -> Result<Self, ListenError> {
        let open =
            |listen: &Listen| Ok(Given { listen: listen.clone(), open: Ok(Open::new(listen)?) });
        let given = wanted.iter().map(open).collect::<Result<_, _>>()?;
        let state = Mutex::new(State { given, ..State::default() });
        let listeners = Self { instance, kernel, state };
        listeners.keep(0..wanted.len());
        Ok(listeners)
    }

    /// Takes over what an earlier daemon has opened for an instance, by its places, and opens what
    /// is missing of it as far as that can be done. What is not wanted any more is closed.
    #[must_use]
    pub fn restore(
        instance: InstanceId,
        kernel: Arc<dyn Kernel>,
        wanted: &[Listen],
        left: Vec<(u64, OwnedFd)>,
    ) -> Self {
        let places = left.iter().filter_map(|(place, _)| usize::try_from(*place).ok());
        let before = places.filter(|place| *place < MAX_LISTENERS).map(|place| place + 1).max();
        let mut left = pairs(left);
        let mut take = |listen: &Listen| {
            left.iter()
                .enumerate()
                .find_map(|(at, (socket, file))| {
                    Some((at, Open::kept(listen, socket, file.as_ref())?))
                })
                .map(|(at, open)| {
                    left.swap_remove(at);
                    open
                })
        };
        let kept: Vec<_> = wanted.iter().map(&mut take).collect();
        // Where one of these was, another one may be wanted.
        left.into_iter().for_each(remove);
        let given = wanted.iter().zip(kept).map(|(listen, kept)| {
            let open = kept.map_or_else(|| opened(listen), Ok);
            Given { listen: listen.clone(), open }
        });
        let state = State { given: given.collect(), ..State::default() };
        let listeners = Self { instance, kernel, state: Mutex::new(state) };
        listeners.keep(0..wanted.len().max(before.unwrap_or(0)));
        listeners
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, place: usize) -> Name {
        listener(self.instance, place as u64)
    }

    fn file_name(&self, place: usize) -> Name {
        listener(self.instance, FIRST_FILE + place as u64)
    }

    /// Has the holder keep what there is in these places, and nothing else.
    fn keep(&self, places: std::ops::Range<usize>) {
        let state = self.state();
        for place in places {
            let open = state.given.get(place).and_then(|given| given.open.as_ref().ok());
            self.keep_one(self.name(place), open.map(Open::socket));
            self.keep_one(self.file_name(place), open.and_then(Open::file));
        }
    }

    fn keep_one(&self, name: Name, file: Option<BorrowedFd<'_>>) {
        match file.map(|file| file.as_fd().try_clone_to_owned()).transpose() {
            Ok(Some(file)) => self.kernel.keep(name, file),
            Ok(None) => self.kernel.forget(name),
            Err(error) => {
                tracing::error!(instance = %self.instance, %error, "a socket can't be kept");
                self.kernel.forget(name);
            }
        }
    }

    /// Opens those of these that are not open: all of them, or none. They are not given to anybody
    /// before [`expect`](Self::expect).
    ///
    /// # Errors
    ///
    /// Why the first that can't be opened can't.
    pub fn prepare(&self, wanted: &[Listen]) -> Result<Coming, ListenError> {
        let state = self.state();
        let mut coming = Coming::default();
        for listen in wanted {
            // What could not be opened before is tried again at each start.
            let given = state.given.iter().map(|given| &given.listen);
            let mut there = given.chain(state.coming.0.iter().map(|(listen, _)| listen));
            if !there.any(|there| there.is_same_socket(listen)) {
                coming.0.push((listen.clone(), Open::new(listen)?));
            }
        }
        Ok(coming)
    }

    /// The instance is defined anew, with these in addition; and with these modes at once.
    pub fn expect(&self, coming: Coming, wanted: &[Listen]) {
        let mut state = self.state();
        state.coming.0.extend(coming.0);
        state.coming.0.retain(|(listen, _)| wanted.iter().any(|it| it.is_same_socket(listen)));
        for given in &mut state.given {
            let same = wanted.iter().find(|wanted| wanted.is_same_socket(&given.listen));
            if let Some(same) = same.filter(|same| same.mode() != given.listen.mode())
                && let Ok(open) = &given.open
            {
                self.set_mode(open, same);
                given.listen.socket = same.socket.clone();
            }
        }
    }

    fn set_mode(&self, open: &Open, wanted: &Listen) {
        if let Err(error) = open.set_mode(wanted) {
            let (instance, socket) = (self.instance, wanted.place());
            tracing::error!(%instance, socket, %error, "the mode of a socket can't be set");
        }
    }

    /// From now on its program is given these. Nothing of it runs.
    pub fn renew(&self, wanted: &[Listen]) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.given);
        let mut coming = std::mem::take(&mut state.coming);
        let places = before.len().max(wanted.len());
        for listen in wanted {
            let at = before.iter().position(|given| given.listen.is_same_socket(listen));
            let before = at.and_then(|at| before.swap_remove(at).open.ok());
            let open = before.or_else(|| coming.take(listen)).map_or_else(|| opened(listen), Ok);
            if let Ok(open) = &open {
                self.set_mode(open, listen);
            }
            state.given.push(Given { listen: listen.clone(), open });
        }
        drop(state);
        self.keep(0..places);
    }

    /// The names of those that its program is given, in order, as at a start: what is not open is
    /// tried again.
    ///
    /// # Errors
    ///
    /// Why not all are open.
    pub fn at_start(&self) -> Result<Vec<String>, String> {
        let mut opened_now = Vec::new();
        let names = {
            let mut state = self.state();
            let mut problem = state.is_closed.then(|| "they are closed".to_owned());
            for (place, given) in state.given.iter_mut().enumerate() {
                if given.open.is_err() {
                    given.open = opened(&given.listen);
                    match &given.open {
                        Ok(_) => opened_now.push(place),
                        Err(error) => problem = problem.or_else(|| Some(error.clone())),
                    }
                }
            }
            let names = state.given.iter().map(|given| given.listen.name().to_owned()).collect();
            problem.map_or(Ok(names), Err)
        };
        for place in opened_now {
            self.keep(place..place + 1);
        }
        names
    }

    /// How those of its definition are.
    #[must_use]
    pub fn info(&self, wanted: &[Listen]) -> Vec<ListenInfo> {
        let state = self.state();
        let problem = |listen: &Listen| {
            let given = state.given.iter().find(|given| given.listen.is_same_socket(listen));
            match given {
                Some(given) => given.open.as_ref().err().cloned(),
                // It is open, for when the program is executed next.
                None => None,
            }
        };
        let info =
            |listen: &Listen| ListenInfo { listen: listen.clone(), problem: problem(listen) };
        wanted.iter().map(info).collect()
    }

    /// Closes them: the instance is there no more, or the daemon ends.
    pub fn close(&self) {
        let closed = State { is_closed: true, ..State::default() };
        let before = std::mem::replace(&mut *self.state(), closed);
        self.keep(0..before.given.len());
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.close();
    }
}

fn opened(listen: &Listen) -> Result<Open, String> {
    Open::new(listen).map_err(|error| error.to_string())
}

/// Removes what an earlier daemon has left of an instance that is there no more, by its places.
pub fn remove_left(left: Vec<(u64, OwnedFd)>) {
    pairs(left).into_iter().for_each(remove);
}

type Pair = (OwnedFd, Option<OwnedFd>);

/// Sockets, each with what its file is recognised by, if it has one.
fn pairs(left: Vec<(u64, OwnedFd)>) -> Vec<Pair> {
    let (sockets, files): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|(place, _)| *place < FIRST_FILE);
    let mut files: HashMap<_, _> =
        files.into_iter().map(|(place, file)| (place - FIRST_FILE, file)).collect();
    sockets.into_iter().map(|(place, socket)| (socket, files.remove(&place))).collect()
}

/// Removes the file of a socket that is not wanted any more.
fn remove((socket, file): Pair) {
    open::end(&socket);
    drop(file.and_then(|file| open::file_of(&socket, file)));
}
