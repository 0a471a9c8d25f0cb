//! What it costs that programs are kept running in which nothing happens.
//!
//! All contenders keep theirs at the same time, since none of them is to do anything. What is
//! counted is what supervises, with everything that it consists of, not the programs. Memory and
//! files of one instance are what a supervisor has more than without any, by their number. The
//! kernel's own memory, such as that of a process, is not in it.

use std::fs;
use std::time::Duration;

use crate::fifo::Fifo;
use crate::machine::wait;
use crate::ours::{Ours, restarted};
use crate::rivals::Rival;
use crate::series::Series;
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};
use tests::processes;

/// The most memory of an idle instance, bytes.
const MEMORY: f64 = 8192.0;
/// The most files of an idle instance.
const FILES: f64 = 4.0;
/// After this nobody does anything any more because of what was before.
const SETTLED: Duration = Duration::from_secs(10);

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(1000, 100);
    let window = Duration::from_secs(setting.effort.pick(60, 10));
    let dir = tempfile::tempdir().unwrap();
    let mut fifo = Fifo::new(dir.path().join("said"));
    let Some(program) = smallest::announce(dir.path(), fifo.path()) else {
        eprintln!("idleness is not measured on this machine");
        return Vec::new();
    };
    let ours = Ours::add(&restarted(program.as_os_str()), 0);
    wait(SETTLED);
    let ours_empty = look(&ours.supervisors());
    drop(ours);
    let ours = Ours::add(&restarted(program.as_os_str()), count);
    assert_eq!(ours.start(), count);
    fifo.take(count, "ours run");
    let mut all = vec![Subject { name: "", pids: ours.supervisors(), empty: ours_empty }];
    let mut kept = Vec::new();
    for rival in Rival::installed() {
        let nothing = rival.keep(&[]);
        wait(SETTLED);
        let empty = look(&nothing.supervisors(&[]));
        drop(nothing);
        let with = rival.keep(&vec![vec![program.clone().into_os_string()]; count]);
        let services = fifo.take(count, "theirs run");
        wait(SETTLED);
        all.push(Subject { name: rival.name(), pids: with.supervisors(&services), empty });
        kept.push(with);
    }
    wait(SETTLED);
    let before: Vec<Sample> = all.iter().map(|subject| look(&subject.pids)).collect();
    wait(window);
    let after: Vec<Sample> = all.iter().map(|subject| look(&subject.pids)).collect();

    let figures: Vec<Figures> = all
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(subject, (before, after))| Figures {
            memory: (after.pss - subject.empty.pss) / count as f64,
            files: after.files as f64 - subject.empty.files as f64,
            processes: subject.pids.len() as f64,
            switches: after.switches - before.switches,
            cpu: after.cpu - before.cpu,
        })
        .collect();
    let seconds = window.as_secs();
    let mut rows = Vec::new();
    let mut row = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64, most: Option<f64>| {
        let one = |value: f64| -> Series { [value].into_iter().collect() };
        let mut push = |against: Option<usize>, target| {
            let floor = against.map(|at| one(pick(&figures[at])));
            let name = against.map(|at| format!("; floor: {}", all[at].name)).unwrap_or_default();
            let (what, ours) = (format!("{what}{name}"), one(pick(&figures[0])));
            rows.push(Row { what, regime: setting.regime, unit, ours, floor, target });
        };
        if most.is_some() || all.len() == 1 {
            push(None, most.map(Target::AtMost));
        }
        (1..all.len()).for_each(|at| push(Some(at), Some(Target::Above(0.0))));
    };
    let what = format!("memory (PSS) of one of {count} idle instances");
    row(&what, Unit::Memory, &|it| it.memory, Some(MEMORY));
    let what = format!("open files of one of {count} idle instances, all processes together");
    row(&what, Unit::Count, &|it| it.files / count as f64, Some(FILES));
    let what = format!("processes that keep {count} idle instances");
    row(&what, Unit::Count, &|it| it.processes, None);
    let what = format!("wake-ups in {seconds} s, {count} idle instances");
    row(&what, Unit::Count, &|it| it.switches, Some(0.0));
    let what = format!("processor time in {seconds} s, {count} idle instances");
    row(&what, Unit::Time, &|it| it.cpu, None);
    rows.extend(of_each(setting, &all[0], &before[0], count));
    rows
}

/// What each process of ours has for one instance: where the bound on its files is met first, and
/// where its memory goes.
fn of_each(setting: &Setting, ours: &Subject, with: &Sample, count: usize) -> Vec<Row> {
    let names = ["daemon", "holder", "capture"];
    let each = names.into_iter().zip(with.each.iter().zip(&ours.empty.each));
    let rows = each.flat_map(|(name, (with, empty))| {
        let row = |what: &str, unit, ours: f64, target| Row {
            what: format!("{what} of one of {count} idle instances, {name}"),
            regime: setting.regime,
            unit,
            ours: [ours / count as f64].into_iter().collect(),
            floor: None,
            target,
        };
        let files = with.files as f64 - empty.files as f64;
        [
            row("open files", Unit::Count, files, Some(Target::AtMost(FILES))),
            row("memory (PSS)", Unit::Memory, with.pss - empty.pss, None),
        ]
    });
    rows.collect()
}

/// One who supervises.
struct Subject {
    name: &'static str,
    /// All processes of it.
    pids: Vec<u32>,
    /// The same without anything to supervise.
    empty: Sample,
}

struct Figures {
    memory: f64,
    files: f64,
    processes: f64,
    switches: f64,
    cpu: f64,
}

/// What several processes have used together.
struct Sample {
    /// Bytes.
    pss: f64,
    files: usize,
    each: Vec<One>,
    /// How often any thread went to sleep, and so was woken up.
    switches: f64,
    /// Seconds.
    cpu: f64,
}

/// What one process has.
struct One {
    /// Bytes.
    pss: f64,
    files: usize,
}

fn look(pids: &[u32]) -> Sample {
    let threads = pids.iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.map(|task| task.path())
    });
    let (mut switches, mut cpu) = (0.0, 0.0);
    for thread in threads {
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        switches += field(&status, "voluntary_ctxt_switches:");
        // Nanoseconds on a processor come first, see the kernel's sched-stats.rst.
        let times = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        let on_cpu = times.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
        cpu += on_cpu.unwrap_or(0.0) / 1e9;
    }
    let one = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        One { pss: 1024.0 * field(&rollup, "Pss:"), files: processes::open_files(*pid) }
    };
    let each: Vec<One> = pids.iter().map(one).collect();
    let (pss, files) = (each.iter().map(|it| it.pss).sum(), each.iter().map(|it| it.files).sum());
    Sample { pss, files, each, switches, cpu }
}

/// The number behind the name of a line.
fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}
