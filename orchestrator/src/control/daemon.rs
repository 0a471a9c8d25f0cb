//! The processes of the daemon, its replacement, and that of the holder's program.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use orchestrator_proto::control::{DaemonStatus, ProcessStatus, Queues, Reply, SuccessorSpec};
use orchestrator_proto::{ErrorCode, WireError};

use super::{Daemon, to_its_end};
use crate::process::Facts;

/// This process's program, also if its file was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the kernel puts behind the name of a program whose file is gone.
const DELETED: &[u8] = b" (deleted)";

impl Daemon {
    pub(super) fn daemon_status(&self) -> Result<Reply, WireError> {
        let (capture, logs_waiting) = self.registry.capture();
        let (store_changes, store_events) = self.registry.store().depths();
        let links = self.registry.list_links();
        let instances = self.registry.list();
        let own_version = Some(env!("CARGO_PKG_VERSION").to_owned());
        let holder_version = self.kernel.holder_version();
        let holder = process(self.kernel.holder().unsigned_abs(), holder_version)?;
        let capture_version = self.registry.capture_version();
        let capture = capture.and_then(|pid| process(pid, capture_version).ok());
        Ok(Reply::Daemon(Box::new(DaemonStatus {
            daemon: process(std::process::id(), own_version)?,
            holder,
            capture,
            queues: Queues {
                clients: self.clients.load(Ordering::Relaxed),
                requests: self.requests.load(Ordering::Relaxed),
                connections: instances.iter().map(|info| u64::from(info.connections)).sum(),
                link_messages: links.iter().map(|link| link.counters.queued).sum(),
                store_changes,
                store_events,
                logs_waiting,
            },
        })))
    }

    /// Starts another daemon. When it is able to, this one lets go.
    pub(super) async fn daemon_replace(
        self: &Arc<Self>,
        successor: SuccessorSpec,
        timeout_ms: u64,
    ) -> Result<Reply, WireError> {
        if timeout_ms == 0 {
            return Err(invalid("the new daemon needs some time: timeout_ms must be at least 1"));
        }
        let daemon = self.clone();
        to_its_end(async move {
            let Ok(_one_at_a_time) = daemon.replacing.try_lock() else {
                return Err(stays(
                    "another daemon is being started already, or the holder replaced",
                ));
            };
            if daemon.letting_go.borrow().is_some() {
                return Err(stays("another daemon takes over already"));
            }
            daemon.check_not_ending()?;
            let opened = tokio::task::spawn_blocking(move || open(&successor)).await;
            let (path, program) = opened.map_err(|panic| {
                WireError::new(ErrorCode::Internal, format!("the request failed: {panic}"))
            })??;
            tracing::info!(?path, "starting the daemon that is to take over");
            let limit = Duration::from_millis(timeout_ms);
            let able = daemon.kernel.succeed(path.as_os_str(), program, limit).await;
            let able = able.map_err(|error| {
                tracing::error!(?path, %error, "no daemon takes over; this one stays");
                let message =
                    format!("the daemon stays, because the new one ({path:?}) can't take over");
                WireError::caused_by(ErrorCode::WrongState, message, &error)
            })?;
            if let Err(error) = daemon.check_not_ending() {
                // The end of this one would not be followed by it; but it must not wait for ever.
                let _ = daemon.kernel.abandon().await;
                return Err(error);
            }
            let successor = able.pid;
            daemon.letting_go.send_replace(Some(successor));
            Ok(Reply::Replacing { pid: std::process::id(), successor })
        })
        .await
    }

    /// Has the holder execute this daemon's program.
    pub(super) async fn holder_renew(
        self: &Arc<Self>,
        timeout_ms: u64,
    ) -> Result<Reply, WireError> {
        if timeout_ms == 0 {
            return Err(invalid("the holder needs some time: timeout_ms must be at least 1"));
        }
        let daemon = self.clone();
        to_its_end(async move {
            let stays = |why: &str| {
                WireError::new(ErrorCode::WrongState, format!("the holder is not replaced: {why}"))
            };
            let Ok(_one_at_a_time) = daemon.replacing.try_lock() else {
                return Err(stays("a daemon or the holder is being replaced already"));
            };
            if daemon.letting_go.borrow().is_some() {
                return Err(stays("another daemon takes over"));
            }
            daemon.check_not_ending()?;
            let program = File::open(OWN_PROGRAM).map_err(|error| {
                WireError::caused_by(ErrorCode::Io, "cannot open this daemon's program", &error)
            })?;
            let (kernel, from) = (&daemon.kernel, daemon.kernel.holder_version());
            tracing::info!(
                holder = kernel.holder(),
                ?from,
                "the holder is to execute this program"
            );
            let limit = Duration::from_millis(timeout_ms);
            kernel.renew_holder(program.into(), limit).await.map_err(|error| {
                tracing::error!(%error, "the holder's program stays what it is");
                WireError::caused_by(ErrorCode::WrongState, "the holder stays as it is", &error)
            })?;
            let (pid, to) = (kernel.holder().unsigned_abs(), kernel.holder_version());
            tracing::info!(holder = pid, ?to, "the holder's program was replaced");
            Ok(Reply::HolderRenewed { pid, from, to })
        })
        .await
    }

    /// Has another capture process go on.
    pub(super) async fn capture_renew(
        self: &Arc<Self>,
        timeout_ms: u64,
    ) -> Result<Reply, WireError> {
        if timeout_ms == 0 {
            return Err(invalid("capture needs some time: timeout_ms must be at least 1"));
        }
        let daemon = self.clone();
        to_its_end(async move {
            daemon.check_not_ending()?;
            let registry = &daemon.registry;
            let (before, from) = (registry.capture().0, registry.capture_version());
            registry.renew_capture(Duration::from_millis(timeout_ms)).await.map_err(|error| {
                let message = "the capture process is not replaced";
                WireError::caused_by(ErrorCode::WrongState, message, &error)
            })?;
            let (pid, to) = (registry.capture().0, registry.capture_version());
            tracing::info!(?before, ?pid, ?from, ?to, "the capture process was replaced");
            Ok(Reply::CaptureRenewed { before, pid, from, to })
        })
        .await
    }

    fn check_not_ending(&self) -> Result<(), WireError> {
        if self.registry.is_closing() {
            return Err(WireError::new(ErrorCode::ShuttingDown, "the daemon is shutting down"));
        }
        Ok(())
    }
}

fn process(pid: u32, version: Option<String>) -> Result<ProcessStatus, WireError> {
    let facts = Facts::of(pid).ok_or_else(|| {
        let message = format!("/proc does not tell of process {pid}; is it mounted?");
        WireError::new(ErrorCode::Io, message)
    })?;
    Ok(ProcessStatus {
        pid,
        version,
        started_ms: facts.started_ms,
        resident_bytes: facts.resident_bytes,
        open_files: facts.open_files,
    })
}

fn invalid(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, message)
}

fn stays(why: &str) -> WireError {
    WireError::new(ErrorCode::WrongState, format!("the daemon is not replaced: {why}"))
}

/// The program, and where it is from.
fn open(successor: &SuccessorSpec) -> Result<(PathBuf, OwnedFd), WireError> {
    let ours = Path::new(OWN_PROGRAM);
    let path = match successor {
        // Not by its name, so that it is this one whatever became of its file.
        SuccessorSpec::Same => ours.to_owned(),
        SuccessorSpec::Installed => {
            let path = fs::read_link(ours).map_err(|error| {
                WireError::caused_by(ErrorCode::Io, "cannot find this program's file", &error)
            })?;
            installed(path)
        }
        SuccessorSpec::Binary(path) => path.as_path().to_owned(),
    };
    if !path.is_absolute() {
        return Err(invalid(format!("the path of the new daemon must be absolute: {path:?}")));
    }
    let file = check(&path).map_err(|error| {
        let message = format!("{path:?} is no program that could take over");
        WireError::caused_by(ErrorCode::InvalidArgument, message, &error)
    })?;
    Ok((path, file.into()))
}

/// The name without what the kernel adds when the file is gone.
fn installed(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(name) => OsString::from_vec(name.to_vec()).into(),
        None => path,
    }
}

fn check(path: &Path) -> io::Result<File> {
    // Looked at first: to open a pipe waits for who writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    access(path, AccessFlags::X_OK)?;
    let mut file = File::open(path)?;
    let mut begin = [0; 2];
    if file.read_exact(&mut begin).is_ok() && &begin == b"#!" {
        return Err(io::Error::other(
            "it is a script, which can't be started again when its file is gone; give the \
             program itself",
        ));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_replaced_ours_has_its_name() {
        assert_eq!(installed("/bin/o (deleted)".into()), Path::new("/bin/o"));
        assert_eq!(installed("/bin/o".into()), Path::new("/bin/o"));
    }

    #[test]
    fn what_can_not_take_over_is_refused_before_it_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let say = |path: &Path| {
            open(&SuccessorSpec::Binary(path.as_os_str().into())).unwrap_err().to_string()
        };
        assert!(say(&script).contains("Permission denied") || say(&script).contains("EACCES"));
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, executable).unwrap();
        assert!(say(&script).contains("script"));
        assert!(say(dir.path()).contains("no file"));
        assert!(say(Path::new("bin")).contains("absolute"));
        assert!(say(&dir.path().join("none")).contains("No such file"));
        open(&SuccessorSpec::Same).unwrap();
        open(&SuccessorSpec::Installed).unwrap();
    }
}
