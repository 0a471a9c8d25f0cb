//! How long it takes until many programs run.
//!
//! Each program says itself that it runs, so that nobody has to be believed. Started by requests is
//! what a client waits for: everything was answered and is on the disk, and runs. From nothing is
//! what a machine waits for after its power came on: from the execution of the supervisor, with
//! everything defined before.
//!
//! An ordinary program has a loader and a library; the smallest there can be has neither, and shows
//! what the supervisors do themselves.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::stat::Mode;
use orchestrator_proto::control::RuntimeSpec;

use crate::fifo::Fifo;
use crate::ours::{Ours, restarted};
use crate::rivals::Rival;
use crate::series::{Contender, take_turns};
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};

/// The most, as a ratio to the bare loop, that a thousand ordinary programs may take.
const TARGET: f64 = 1.3;
/// An ordinary program.
const SH: &str = "/bin/sh";

pub(crate) fn hundred(setting: &Setting) -> Vec<Row> {
    measure(setting, 100, setting.effort.pick(5, 2))
}

pub(crate) fn thousand(setting: &Setting) -> Vec<Row> {
    measure(setting, 1000, setting.effort.pick(5, 1))
}

pub(crate) fn four_thousand(setting: &Setting) -> Vec<Row> {
    measure(setting, 4000, setting.effort.pick(2, 1))
}

fn measure(setting: &Setting, count: usize, rounds: usize) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let fifo = RefCell::new(Fifo::new(dir.path().join("said")));
    let Some(program) = smallest::announce(dir.path(), fifo.borrow().path()) else {
        eprintln!("the start of many is not measured on this machine");
        return Vec::new();
    };
    let by_requests = Ours::add(&restarted(program.as_os_str()), count);
    let arguments = announcing_shell(dir.path(), fifo.borrow().path());
    let mut shell: RuntimeSpec = restarted(SH);
    shell.args = arguments.iter().map(|argument| argument.as_str().into()).collect();
    let shells = Ours::add(&shell, count);
    let at_boot = RefCell::new(Ours::add(&restarted(program.as_os_str()), count));
    // What is to run when it comes back.
    let fits = at_boot.borrow().start();
    fifo.borrow_mut().take(fits, "they run");
    at_boot.borrow_mut().stage.daemon.terminate();
    let rivals = Rival::installed();
    let commands = vec![vec![program.clone().into_os_string()]; count];

    let fifo = &fifo;
    let all_run = |count: usize| fifo.borrow_mut().take(count, "they run");
    let loop_of = |program: &OsStr, arguments: &[String]| {
        let began = Instant::now();
        let children: Vec<Child> = (0..count).map(|_| bare(program, arguments)).collect();
        all_run(count);
        let took = began.elapsed().as_secs_f64();
        children.into_iter().for_each(end);
        [took]
    };
    let requests_of = |ours: &Ours| {
        let began = Instant::now();
        let started = ours.start();
        all_run(started);
        let took = began.elapsed().as_secs_f64();
        ours.stop();
        [took]
    };
    let mut contenders: Vec<Contender<'_, 1>> = vec![
        Box::new(|| loop_of(SH.as_ref(), &arguments)),
        Box::new(|| requests_of(&shells)),
        Box::new(|| loop_of(program.as_os_str(), &[])),
        Box::new(|| requests_of(&by_requests)),
        Box::new(|| {
            let began = Instant::now();
            at_boot.borrow_mut().stage.daemon.launch();
            all_run(fits);
            let took = began.elapsed().as_secs_f64();
            at_boot.borrow_mut().stage.daemon.terminate();
            [took]
        }),
    ];
    for rival in &rivals {
        let (commands, all_run) = (&commands, &all_run);
        contenders.push(Box::new(move || {
            let kept = rival.keep(commands);
            all_run(count);
            [kept.began.elapsed().as_secs_f64()]
        }));
    }
    let series = take_turns(rounds, &mut contenders);
    drop(contenders);

    let row = |what: String, ours: usize, floor: usize, target: Option<f64>| Row {
        what,
        regime: setting.regime,
        unit: Unit::Time,
        ours: series[ours][0].clone(),
        floor: Some(series[floor][0].clone()),
        target: target.map(Target::Ratio),
    };
    let of = if fits < count { format!("{fits} OF {count}") } else { count.to_string() };
    let target = (count == 1000).then_some(TARGET);
    let by_requests = "started by requests; floor: bare posix_spawn";
    let from_nothing = format!("{of} of the smallest program from nothing until they run; floor:");
    let mut rows = vec![
        row(format!("{of} of an ordinary program (/bin/sh) {by_requests}"), 1, 0, target),
        row(format!("{of} of the smallest program {by_requests}"), 3, 2, None),
        row(format!("{from_nothing} bare posix_spawn"), 4, 2, None),
    ];
    rows.extend(
        rivals.iter().enumerate().map(|(at, rival)| {
            row(format!("{from_nothing} {}", rival.name()), 4, 5 + at, Some(1.0))
        }),
    );
    rows
}

/// The arguments of a shell that says at `fifo` that it runs, as [`smallest::announce`] does, though
/// not with its number, and waits for somebody to write to another one, where nobody does.
fn announcing_shell(dir: &Path, fifo: &Path) -> [String; 2] {
    let never = dir.join("never");
    nix::unistd::mkfifo(&never, Mode::from_bits_truncate(0o600)).unwrap();
    let script = format!("printf runs >{}; read line <{}", fifo.display(), never.display());
    ["-c".to_owned(), script]
}

/// With nothing around it.
pub(crate) fn bare(program: &OsStr, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

pub(crate) fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
