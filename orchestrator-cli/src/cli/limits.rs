//! How much of the machine an instance may use, as options of `runtime add`.

use clap::Args;
use orchestrator_proto::Size;
use orchestrator_proto::control::{CpuQuota, Limits};

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits of all its processes together (cgroup v2)")]
pub(crate) struct LimitsArgs {
    /// The most memory; if it can't be kept, the kernel kills a process of it.
    /// Example: --memory-max 512M
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<Size>,

    /// From so much memory on it is slowed down and has memory taken back.
    /// Example: --memory-high 400M
    #[arg(long, value_name = "SIZE")]
    memory_high: Option<Size>,

    /// The most swap; 0 is none. Example: --swap-max 0
    #[arg(long, value_name = "SIZE")]
    swap_max: Option<Size>,

    /// The most processor time: 150% or 1.5 is one and a half processors. Example: --cpu 150%
    #[arg(long, value_name = "CPUS")]
    cpu: Option<CpuQuota>,

    /// Its share where processors are short, 1 to 10000; others have 100.
    /// Example: --cpu-weight 300
    #[arg(long, value_name = "WEIGHT",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::MAX_WEIGHT)))]
    cpu_weight: Option<u32>,

    /// The most processes and threads. Example: --pids-max 64
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::MAX_PIDS)))]
    pids_max: Option<u32>,

    /// Its share where disks are slow, 1 to 10000; others have 100. Example: --io-weight 50
    #[arg(long, value_name = "WEIGHT",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::MAX_WEIGHT)))]
    io_weight: Option<u32>,

    /// Do not start it where these limits can't be in force; without this a start only warns.
    /// Example: --limits-required
    #[arg(long)]
    limits_required: bool,
}

impl LimitsArgs {
    pub(crate) fn into_limits(self) -> Limits {
        Limits {
            memory_max: self.memory_max,
            memory_high: self.memory_high,
            swap_max: self.swap_max,
            cpu: self.cpu,
            cpu_weight: self.cpu_weight,
            pids_max: self.pids_max,
            io_weight: self.io_weight,
            limits_required: self.limits_required,
        }
    }
}
