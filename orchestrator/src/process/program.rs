//! What the holder needs to execute a program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::Launch;
use super::prepare::Prepared;
use crate::holder::image::{self, Program};

/// The image of a program.
pub(super) fn image(launch: &Launch, prepared: &Prepared) -> Result<Vec<u8>, image::ZeroByte> {
    let program = launch.program.as_os_str();
    let args = launch.args.iter().map(OsString::as_os_str);
    Program {
        path: program,
        cwd: launch.cwd.as_ref().map_or(OsStr::new("/"), |cwd| cwd.as_os_str()),
        args: &std::iter::once(program).chain(args).collect::<Vec<_>>(),
        env: &prepared.env,
        attributes: prepared.attributes.as_ref(),
    }
    .image()
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
