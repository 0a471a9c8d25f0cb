//! Limits: what is written to the cgroup of an instance, and what is not in force and why.

use std::fs;
use std::io;
use std::path::Path;

use orchestrator_proto::control::{CpuQuota, Exit, Limits};
use orchestrator_proto::{InstanceId, Size};

use super::controllers::Controller;
use super::leaf::Leaf;
use super::place::Place;
use super::{Cgroups, Kept};

/// The period that a quota is of, microseconds; the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// One limit, as the kernel reads it.
struct Written {
    /// As it is called in flags and manifests.
    key: &'static str,
    controller: Controller,
    file: &'static str,
    /// None if it is not limited.
    value: Option<String>,
    /// What is written then.
    default: &'static str,
}

fn all(limits: &Limits) -> [Written; 7] {
    let size = |size: Option<Size>| size.map(|size| size.0.to_string());
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let quota =
        |CpuQuota(milli): CpuQuota| format!("{} {PERIOD_US}", u64::from(milli) * PERIOD_US / 1000);
    let written =
        |key, controller, file, value, default| Written { key, controller, file, value, default };
    use Controller::{Cpu, Io, Memory, Pids};
    [
        // First what only slows down.
        written("memory-high", Memory, "memory.high", size(limits.memory_high), "max"),
        written("memory-max", Memory, "memory.max", size(limits.memory_max), "max"),
        written("swap-max", Memory, "memory.swap.max", size(limits.swap_max), "max"),
        written("cpu", Cpu, "cpu.max", limits.cpu.map(quota), "max"),
        written("cpu-weight", Cpu, "cpu.weight", number(limits.cpu_weight), "100"),
        written("pids-max", Pids, "pids.max", number(limits.pids_max), "max"),
        written("io-weight", Io, "io.weight", number(limits.io_weight), "100"),
    ]
}

impl Cgroups {
    /// From now on an instance has these limits: at once, if it runs.
    pub(in super::super) fn limit(&self, instance: InstanceId, limits: &Limits) {
        // Most have none, and no room is taken for that.
        let before = if *limits == Limits::default() {
            self.known().limits.remove(&instance)
        } else {
            let kept = Kept { limits: limits.clone(), unmet: self.out_of_reach(limits) };
            self.known().limits.insert(instance, kept)
        };
        let had_none = before.is_none_or(|before| before.limits.is_none());
        if let Ok(place) = &self.place
            && !(had_none && limits.is_none())
            && place.of_instance(instance).is_dir()
        {
            self.write_limits(place, instance);
        }
    }

    /// There is no such instance any more.
    pub(in super::super) fn forget(&self, instance: InstanceId) {
        self.known().limits.remove(&instance);
    }

    /// Its limits, and what is not in force of them, or would not be if it were started now: a
    /// sentence each.
    pub(in super::super) fn unmet(&self, instance: InstanceId) -> (Limits, Vec<String>) {
        let Kept { limits, unmet } =
            self.known().limits.get(&instance).cloned().unwrap_or_default();
        (limits, unmet)
    }

    /// Whether an instance that runs is where its limits are.
    pub(in super::super) fn is_placed(&self, instance: InstanceId) -> bool {
        self.place.as_ref().is_ok_and(|place| place.of_instance(instance).is_dir())
    }

    /// What can't be in force here, whatever is tried.
    fn out_of_reach(&self, limits: &Limits) -> Vec<String> {
        let asked = all(limits).into_iter().filter(|limit| limit.value.is_some());
        sentences(asked.filter_map(|limit| {
            let why = match &self.place {
                Ok(place) => place.controllers().missing(limit.controller)?.to_owned(),
                Err(why) => format!("instances have no cgroups of their own: {why}"),
            };
            Some((limit.key, why))
        }))
    }

    /// Writes the limits of an instance to its cgroup, which is there.
    pub(super) fn write_limits(&self, place: &Place, instance: InstanceId) {
        let (limits, _) = self.unmet(instance);
        let directory = place.of_instance(instance);
        let unmet = sentences(all(&limits).into_iter().filter_map(|limit| {
            if let Some(why) = place.controllers().missing(limit.controller) {
                return limit.value.is_some().then(|| (limit.key, why.to_owned()));
            }
            let value = limit.value.as_deref().unwrap_or(limit.default);
            let error = fs::write(directory.join(limit.file), value).err()?;
            // What is not there limits nothing.
            limit.value.is_some().then(|| (limit.key, in_words(limit.file, &error)))
        }));
        if let Some(kept) = self.known().limits.get_mut(&instance)
            && kept.limits == limits
        {
            kept.unmet = unmet;
        }
    }
}

fn in_words(file: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("this kernel has no {file}"),
        _ => format!("{file} can't be written: {error}"),
    }
}

/// A sentence for each reason, with all that it is the reason for.
fn sentences(unmet: impl Iterator<Item = (&'static str, String)>) -> Vec<String> {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for (key, why) in unmet {
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, keys)) => keys.push(key),
            None => reasons.push((why, vec![key])),
        }
    }
    let said = |(why, keys): (String, Vec<&str>)| {
        let are = if keys.len() == 1 { "is" } else { "are" };
        format!("{} {are} not in force: {why}", keys.join(" and "))
    };
    reasons.into_iter().map(said).collect()
}

/// How often the kernel has killed processes of an instance for want of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ooms {
    /// Processes that were killed, whoever had too little.
    kills: u64,
    /// Times that its own limit was reached.
    reached: u64,
}

impl Ooms {
    /// So far, in the cgroup of an instance. None if there is no memory controller.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join("memory.events")).ok()?;
        Some(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let value = lines.find_map(|(key, value)| (key == name).then_some(value));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self { kills: value("oom_kill"), reached: value("oom") }
    }
}

impl Leaf {
    /// What the end of the main process was, if it was ended by SIGKILL that nobody sent: perhaps
    /// the kernel has killed it for want of memory.
    pub(in super::super) fn explain(&self, exit: Exit) -> Exit {
        let Some(directory) = self.of_instance() else { return exit };
        let Some(now) = Ooms::of(directory).filter(|now| now.kills > self.before().kills) else {
            return exit;
        };
        let limit = || {
            let text = fs::read_to_string(directory.join("memory.max")).ok()?;
            text.trim().parse().ok().map(Size)
        };
        let is_its_own = now.reached > self.before().reached;
        Exit::OutOfMemory { limit: is_its_own.then(limit).flatten() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_reads_them() {
        let limits = Limits {
            memory_max: Some(Size::mib(1)),
            cpu: Some(CpuQuota(1500)),
            pids_max: Some(7),
            ..Limits::default()
        };
        let written: Vec<_> =
            all(&limits).into_iter().filter_map(|limit| Some((limit.file, limit.value?))).collect();
        let expected = [("memory.max", "1048576"), ("cpu.max", "150000 100000"), ("pids.max", "7")];
        assert_eq!(written, expected.map(|(file, value)| (file, value.to_owned())));
    }

    #[test]
    fn one_sentence_for_each_reason() {
        let unmet =
            [("cpu", "no".to_owned()), ("pids-max", "nor".into()), ("io-weight", "no".into())];
        assert_eq!(
            sentences(unmet.into_iter()),
            ["cpu and io-weight are not in force: no", "pids-max is not in force: nor"]
        );
    }

    #[test]
    fn what_the_kernel_has_killed() {
        let text = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(Ooms::parse(text), Ooms { kills: 1, reached: 2 });
        assert_eq!(Ooms::parse(""), Ooms::default());
        assert_eq!(Ooms::parse("oom_kill x\noom\n"), Ooms::default());
    }
}
