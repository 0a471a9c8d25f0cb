//! The keys that say how much of the machine an instance may use.

use super::read::{Table, Value};
use crate::Size;
use crate::control::{CpuQuota, Limits};

/// What is said of limits.
#[derive(Clone, Debug, Default)]
pub(super) struct LimitsLayer {
    memory_max: Option<Size>,
    memory_high: Option<Size>,
    swap_max: Option<Size>,
    cpu: Option<CpuQuota>,
    cpu_weight: Option<u32>,
    pids_max: Option<u32>,
    io_weight: Option<u32>,
    limits_required: Option<bool>,
}

impl LimitsLayer {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let size = |value: Value<'_>| value.amount("a size such as \"512MiB\"");
        let weight = |value: Value<'_>| value.number(1, Limits::MAX_WEIGHT);
        let layer = Self {
            memory_max: table.read("memory-max", size),
            memory_high: table.read("memory-high", size),
            swap_max: table.read("swap-max", size),
            cpu: table.read("cpu", |value| value.amount("processor time such as \"150%\"")),
            cpu_weight: table.read("cpu-weight", weight),
            pids_max: table.read("pids-max", |value| value.number(1, Limits::MAX_PIDS)),
            io_weight: table.read("io-weight", weight),
            limits_required: table.read("limits-required", |value| value.flag()),
        };
        if let Err((key, why)) = layer.clone().finish().check() {
            table.wrong(table.at(key), format!("{key}: {why}"));
        }
        layer
    }

    /// This, with those below for what it does not say.
    pub(super) fn over(self, below: &Self) -> Self {
        Self {
            memory_max: self.memory_max.or(below.memory_max),
            memory_high: self.memory_high.or(below.memory_high),
            swap_max: self.swap_max.or(below.swap_max),
            cpu: self.cpu.or(below.cpu),
            cpu_weight: self.cpu_weight.or(below.cpu_weight),
            pids_max: self.pids_max.or(below.pids_max),
            io_weight: self.io_weight.or(below.io_weight),
            limits_required: self.limits_required.or(below.limits_required),
        }
    }

    pub(super) fn finish(self) -> Limits {
        Limits {
            memory_max: self.memory_max,
            memory_high: self.memory_high,
            swap_max: self.swap_max,
            cpu: self.cpu,
            cpu_weight: self.cpu_weight,
            pids_max: self.pids_max,
            io_weight: self.io_weight,
            limits_required: self.limits_required.unwrap_or_default(),
        }
    }
}
