//! What the holder needs to execute a program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::listen::with_listeners;
use super::{Launch, NOT_INHERITED};
use crate::holder::image::{self, Program};

/// The image of a program; `environment` is what it inherits.
pub(super) fn image(
    environment: &[(OsString, Vec<u8>)],
    launch: &Launch,
) -> Result<Vec<u8>, image::ZeroByte> {
    let launch = &with_listeners(launch);
    let own = |name: &OsStr| launch.env.iter().any(|(own, _)| own == name);
    let inherited = environment.iter().filter(|(name, _)| !own(name));
    let mut env: Vec<_> = inherited.map(|(_, variable)| variable.clone()).collect();
    for (at, (name, value)) in launch.env.iter().enumerate() {
        // The last one counts.
        if !launch.env[at + 1..].iter().any(|(later, _)| later == name) {
            env.push(image::variable(name, value));
        }
    }
    let program = launch.program.as_os_str();
    let args = launch.args.iter().map(OsString::as_os_str);
    Program {
        path: program,
        cwd: launch.cwd.as_ref().map_or(OsStr::new("/"), |cwd| cwd.as_os_str()),
        args: &std::iter::once(program).chain(args).collect::<Vec<_>>(),
        env: &env,
    }
    .image()
}

/// What this process has in its environment and programs may have too.
pub(super) fn environment() -> Vec<(OsString, Vec<u8>)> {
    let inherited = std::env::vars_os()
        .filter(|(name, _)| !NOT_INHERITED.iter().any(|not| OsStr::new(not) == name));
    inherited
        .map(|(name, value)| {
            let variable = image::variable(&name, &value);
            (name, variable)
        })
        .collect()
}

/// An image that is too long for a datagram.
pub(super) fn in_file(image: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(image::FILE_NAME, MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while written < image.len() {
        written += rustix::io::write(&file, &image[written..])?;
    }
    Ok(file)
}
