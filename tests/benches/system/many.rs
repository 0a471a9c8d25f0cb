//! What an operator waits for where there are many instances: to see them all, and to change one.
//!
//! Each is the command line as a whole process. With 4,000 instances no rival has a command that
//! does the same but for those shown.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use orchestrator_proto::control::{Reply, Request, ServerBody};
use tests::control::Control;

use crate::fifo::Fifo;
use crate::rivals::{Kept, Rival};
use crate::series::{Contender, Times, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};

/// The most that each may take, seconds.
const TARGET: f64 = 50e-3;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(4000, 200);
    // As many as there is room for: thousands of processes of a rival are another matter.
    let kept_by_rivals = setting.effort.pick(1000, 200);
    let times = setting.effort.pick(5, 2);
    let dir = tempfile::tempdir().unwrap();
    let mut fifo = Fifo::new(dir.path().join("said"));
    let Some(program) = smallest::announce(dir.path(), fifo.path()) else {
        eprintln!("many instances are not measured on this machine");
        return Vec::new();
    };
    let manifest = dir.path().join("many.toml");
    let define = |value: u64| {
        let mut text = String::from("version = 1\n");
        for at in 0..count {
            let program = program.display();
            let _ = write!(text, "[instance.s{at}]\nprogram = \"{program}\"\n");
            if at == count / 2 {
                let _ = writeln!(text, "env = {{ VALUE = \"{value}\" }}");
            }
        }
        fs::write(&manifest, text).unwrap();
    };
    let stage = Stage::start();
    let apply = || {
        let mut command = stage.daemon.cli_command(["apply"]);
        command.arg(&manifest);
        command
    };
    define(0);
    finish(&mut apply());
    let running = fifo.take(count, "they run").len();
    assert_eq!(running, count);
    let mut client = Control::connect(stage.daemon.socket());
    let fifo = RefCell::new(fifo);
    let value = Cell::new(0);

    let rivals = Rival::installed();
    let kept: Vec<Kept> = rivals
        .iter()
        .map(|rival| {
            let kept = rival.keep(&vec![vec![program.clone().into_os_string()]; kept_by_rivals]);
            fifo.borrow_mut().take(kept_by_rivals, "theirs run");
            kept
        })
        .collect();
    let mut contenders: Vec<Contender<'_, 1>> = vec![
        Box::new(|| p50(times, || finish(&mut Command::new("/bin/true")))),
        Box::new(|| {
            p50(times, || {
                let answer = client.ask(1, Request::RuntimeList);
                assert!(matches!(answer, ServerBody::Reply(Reply::Runtimes(_))));
            })
        }),
        Box::new(|| p50(times, || finish(&mut stage.daemon.cli_command(["runtime", "list"])))),
        Box::new(|| p50(times, || finish(&mut apply()))),
        Box::new(|| {
            let mut all = Times::with_capacity(times);
            for _ in 0..times {
                value.set(value.get() + 1);
                define(value.get());
                let began = Instant::now();
                finish(&mut apply());
                fifo.borrow_mut().next("the one that was changed runs again");
                all.push(began.elapsed());
            }
            [all.p50_p99()[0]]
        }),
    ];
    let mut lists = Vec::new();
    for (rival, kept) in rivals.iter().zip(&kept) {
        if kept.list().is_some() {
            lists.push((rival.name(), contenders.len()));
            contenders.push(Box::new(|| p50(1, || finish(&mut kept.list().unwrap()))));
        }
    }
    let mut changes = Vec::new();
    for (rival, kept) in rivals.iter().zip(&kept) {
        if kept.change(kept_by_rivals / 2, 0).is_some() {
            changes.push((rival.name(), contenders.len()));
            contenders.push(Box::new(|| {
                value.set(value.get() + 1);
                let mut update = kept.change(kept_by_rivals / 2, value.get()).unwrap();
                let began = Instant::now();
                finish(&mut update);
                fifo.borrow_mut().next("the one that was changed runs again");
                [began.elapsed().as_secs_f64()]
            }));
        }
    }
    let series = take_turns(setting.effort.pick(5, 2), &mut contenders);
    drop(contenders);

    let row = |what: String, at: usize, floor: Option<usize>, target| Row {
        what,
        regime: setting.regime,
        unit: Unit::Time,
        ours: series[at][0].clone(),
        floor: floor.map(|floor| series[floor][0].clone()),
        target,
    };
    let most = Some(Target::AtMost(TARGET));
    let list = format!("`runtime list`, {count} instances");
    let change = format!("`apply` of one change among {count}, until it runs");
    let mut rows = vec![
        row(format!("the request behind it, {count} instances"), 1, None, None),
        row(format!("{list}; floor: /bin/true"), 2, Some(0), most),
    ];
    let first = Some(Target::Ratio(1.0));
    rows.extend(lists.iter().map(|(name, at)| {
        row(format!("{list}; floor: {name} with {kept_by_rivals}"), 2, Some(*at), first)
    }));
    rows.push(row(
        format!("`apply` of nothing new, {count} instances; floor: /bin/true"),
        3,
        Some(0),
        most,
    ));
    rows.push(row(format!("{change}; floor: /bin/true"), 4, Some(0), most));
    rows.extend(changes.iter().map(|(name, at)| {
        row(format!("{change}; floor: {name} with {kept_by_rivals}"), 4, Some(*at), first)
    }));
    rows
}

fn p50(times: usize, mut measured: impl FnMut()) -> [f64; 1] {
    let mut all = Times::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        measured();
        all.push(began.elapsed());
    }
    [all.p50_p99()[0]]
}

/// Runs it to its end, which is a good one.
fn finish(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    // Of what does not run some tell by their code.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.is_empty(), "{command:?}: {said}");
}
