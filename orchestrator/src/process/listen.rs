//! Listening sockets that a program is given: what the holder is told of them, and what the program
//! finds in its environment, see sd_listen_fds(3).

use std::borrow::Cow;
use std::io;

use super::link::{Link, Refusal};
use super::{Launch, Part};
use crate::holder::frame::{Stage, WITH_LISTENERS};
use crate::holder::image::{ENV_LISTEN_PID, ROOM_FOR_PID};

/// How many they are.
const ENV_LISTEN_FDS: &str = "LISTEN_FDS";

/// Their names.
const ENV_LISTEN_NAMES: &str = "LISTEN_FDNAMES";

/// The names of the listening sockets that it is given.
fn listeners(launch: &Launch) -> &[String] {
    match (launch.part, &launch.listeners) {
        (Part::Main, Ok(names)) => names,
        (Part::Command, _) | (_, Err(_)) => &[],
    }
}

/// The same, with what it has to know of the listening sockets, see sd_listen_fds(3).
pub(super) fn with_listeners(launch: &Launch) -> Cow<'_, Launch> {
    let names = listeners(launch);
    if names.is_empty() {
        return Cow::Borrowed(launch);
    }
    let mut launch = launch.clone();
    launch.env.extend(
        [
            (ENV_LISTEN_FDS, names.len().to_string()),
            (ENV_LISTEN_NAMES, names.join(":")),
            (ENV_LISTEN_PID, ROOM_FOR_PID.to_owned()),
        ]
        .map(|(name, value)| (name.into(), value.into())),
    );
    Cow::Owned(launch)
}

impl Link {
    /// How many listening sockets it is given. When this is answered, the holder has them.
    pub(super) async fn listeners(&self, launch: &Launch) -> Result<i32, Option<Refusal>> {
        let refusal = |error| Some(Refusal { stage: Stage::Listen, error });
        let count = listeners(launch).len();
        if count == 0 {
            return Ok(0);
        }
        if self.table().holder_protocol.is_some_and(|it| it < WITH_LISTENERS) {
            let error = "the holder is of a version that knows nothing of them; replace it with \
                         `orchestrator-cli daemon upgrade`";
            return Err(refusal(io::Error::other(error)));
        }
        while !self.keeping.catch_up(|order, files| self.try_keeping(order, files)) {
            self.writable().await.map_err(refusal)?;
        }
        i32::try_from(count).map_err(|error| refusal(io::Error::other(error)))
    }
}
