//! What the holder says, and who is told of it.

use std::io;
use std::sync::{Arc, Weak};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Exit;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::group::{Group, LinuxProcess};
use super::leader::Leader;
use super::link::{Born, Claim, Link, RELEASE, Refusal, SERVICES};
use super::linux::Survivor;
use super::{Ended, Exited, Pending, Spawned};
use crate::holder::frame::{self, How, Name, News, Stage};
use crate::holder::socket::{self, Files};
use crate::supervise::SIGKILL;

impl Link {
    fn hear(self: &Arc<Self>, news: News, files: Files) {
        match news {
            News::Welcome { protocol, successor, version } => {
                tracing::debug!(
                    protocol,
                    successor,
                    version = version.text(),
                    "the holder is there"
                );
                let mut table = self.table();
                table.holder_version = version;
                table.holder_protocol = Some(protocol);
                if let Some(asker) = table.welcome.take() {
                    table.asked = true;
                    let _ = asker.send(successor);
                }
            }
            News::Spawned { child, pid, warning } => self.spawned(child, pid, warning, files),
            News::NotSpawned { child, stage, errno } => {
                if let Some(asker) = self.table().spawns.remove(&child) {
                    let error = io::Error::from_raw_os_error(errno);
                    let _ = asker.send(Err(Refusal { stage, error }));
                }
            }
            News::Exited { child, pid, how, time_ns } => {
                let mut table = self.table();
                let alive = table.alive.remove(&child);
                if alive.is_none() && !table.asked {
                    return;
                }
                let [pidfd, stdout, stderr] = files;
                table.outputs.ended(child, stdout.zip(stderr));
                let group = table.groups.get(&pid).and_then(Weak::upgrade);
                if let (Some(group), Some(pidfd)) = (&group, pidfd)
                    && group.name() == child
                {
                    group.leader_collected(pidfd);
                }
                if let Some((left, _)) = &mut table.left {
                    let name = |it: &Survivor| (*it.instance.as_bytes(), it.spawned.run);
                    let mut survivors = left.survivors.iter_mut();
                    if let Some(it) = survivors.find(|it| name(it) == (child.key, child.tag)) {
                        it.spawned.exited.before = true;
                    }
                }
                drop(table);
                let ended = Ended { exit: exit(how), time_ms: time_ns / 1_000_000 };
                // Nobody has to care; who does will say when it is noted.
                if alive.is_none_or(|exited| exited.send(ended).is_err()) {
                    self.end_is_noted(child);
                }
            }
            News::Signalled { child, errno } => {
                let askers = self.table().signals.remove(&child).unwrap_or_default();
                for asker in askers {
                    let _ = asker.send(errno);
                }
            }
            News::Kept { file } => {
                let [kept, ..] = files;
                let mut table = self.table();
                match (&mut table.left, kept) {
                    (Some((left, _)), Some(kept)) => {
                        left.files.insert(file, kept);
                    }
                    (_, None) => table.deposits.kept(file, true),
                    (None, Some(_)) => {}
                }
            }
            News::Complete => {
                if let Some((left, asker)) = self.table().left.take() {
                    let _ = asker.send(left);
                }
            }
            News::NotKept { file } => {
                tracing::error!(?file, "the holder has no room for a file");
                self.table().deposits.kept(file, false);
            }
            News::Output { child, is_there } => {
                let [stdout, stderr, _] = files;
                self.table().outputs.asked.came(child, is_there, stdout.zip(stderr));
            }
            News::Fetched { file, is_there } => {
                let [fetched, ..] = files;
                self.table().deposits.asked.came(file, is_there, fetched);
            }
            News::Renewed { version } => {
                let mut table = self.table();
                table.holder_version = version;
                // It is this program.
                table.holder_protocol = Some(frame::PROTOCOL);
                if let Some(asker) = table.renewal.take() {
                    let _ = asker.send(Ok(()));
                }
            }
            News::NotRenewed { errno } => {
                if let Some(asker) = self.table().renewal.take() {
                    let _ = asker.send(Err(io::Error::from_raw_os_error(errno)));
                }
            }
            News::Successor { .. } | News::SuccessorEnded { .. } => {
                tracing::debug!(?news, "news of a successor");
                if let Some(asker) = &self.table().successor {
                    // Room for all that there can be of one.
                    let _ = asker.try_send(news);
                }
            }
        }
    }

    fn spawned(self: &Arc<Self>, child: Name, pid: i32, warning: i32, files: Files) {
        let mut table = self.table();
        let asker = table.spawns.remove(&child);
        if child.key == SERVICES {
            // It serves the next daemon too.
            return;
        }
        if asker.is_none() && !table.asked {
            return;
        }
        let [Some(pidfd), Some(stdout), Some(stderr)] = files else {
            drop(table);
            // It runs, but can't be kept.
            self.signal_unheard(child, SIGKILL);
            if let Some(asker) = asker {
                let error = rustix::io::Errno::MFILE.into();
                let _ = asker.send(Err(Refusal { stage: Stage::Room, error }));
            }
            return;
        };
        let leader = Leader::new(pid, pidfd, table.holder_gives());
        let group = Group::new(leader, self.calls, child, Arc::clone(self), None);
        let group = Arc::new(group);
        if self.cgroups().is_some() {
            group.others();
        }
        let (exited, receiver) = oneshot::channel();
        table.alive.insert(child, exited);
        table.remember(pid, &group);
        if let Some((left, _)) = &mut table.left {
            let process = Arc::new(LinuxProcess(group));
            let warnings = Vec::new();
            let exited = Exited::new(receiver);
            let run = child.tag;
            let output = Some((stdout, stderr));
            let spawned = Spawned { run, process, output, exited, warnings };
            let instance = InstanceId::from_bytes(child.key);
            left.survivors.push(Survivor { instance, spawned });
            return;
        }
        drop(table);
        let claim = Claim(Some(group));
        if let Some(asker) = asker {
            let born = Born { claim, stdout, stderr, exited: receiver, warning };
            // If the asker has gone, the claim is dropped here. Likewise if an earlier daemon
            // was the asker, and the answer comes so late.
            let _ = asker.send(Ok(born));
        }
    }

    /// Nothing can be executed, and no end be heard of, from now on.
    fn ended(&self, error: &io::Error) {
        tracing::error!(%error, "the holder has gone");
        let mut table = self.table();
        table.ended = true;
        table.spawns.clear();
        table.signals.clear();
        table.outputs.asked.clear();
        table.deposits.asked.clear();
        table.left = None;
        table.welcome = None;
        table.successor = None;
        table.renewal = None;
    }
}

/// Hears what the holder says, until it ends.
pub(super) async fn read(link: Arc<Link>) {
    let mut releasing: Pending<()> = Box::pin(std::future::ready(()));
    let error = loop {
        tokio::select! {
            ready = link.socket.readable() => {
                let mut ready = match ready {
                    Ok(ready) => ready,
                    Err(error) => break error,
                };
                loop {
                    let mut bytes = [0; frame::SIZE];
                    match ready.try_io(|socket| socket::receive(socket, &mut bytes)) {
                        Err(_would_block) => break,
                        Ok(Ok((0, _))) => {
                            link.ended(&io::ErrorKind::UnexpectedEof.into());
                            return;
                        }
                        Ok(Ok((len, files))) => match News::decode(&bytes[..len]) {
                            Some(news) => link.hear(news, files),
                            None => tracing::warn!("the holder said what is not known here"),
                        },
                        Ok(Err(error)) => {
                            link.ended(&error);
                            return;
                        }
                    }
                }
            }
            () = &mut releasing => {
                let link = Arc::clone(&link);
                releasing = Box::pin(async move {
                    link.ended_some.notified().await;
                    sleep(RELEASE).await;
                    link.release().await;
                });
            }
        }
    };
    link.ended(&error);
}

const fn exit(how: How) -> Exit {
    match how {
        How::Code(code) => Exit::Code(code),
        How::Signal(signal) => Exit::Signal { signal, core_dumped: false },
        How::Dumped(signal) => Exit::Signal { signal, core_dumped: true },
    }
}
