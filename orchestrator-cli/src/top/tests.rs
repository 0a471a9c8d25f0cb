//! What keys do, and how it looks on terminals of all sizes.

use std::time::Duration;

use orchestrator_proto::control::{
    self, Counters, Desired, Health, LastRun, LinkInfo, LinkState, LogLine, LogStream, Observed,
    Policy, Priority, RunResult, RuntimeInfo, RuntimeVitals, Schedule, ScheduleInfo, TargetInfo,
    Transport, Usage, Vitals, Way,
};
use orchestrator_proto::{InstanceId, LinkId, Millis};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw;
use super::state::{Act, App, Event, MAX_LINES, Mode, Order};
use crate::failure::Exit;

fn id(number: u8) -> InstanceId {
    InstanceId::from_bytes([number; 16])
}

fn instance(number: u8, name: &str, observed: Observed) -> RuntimeVitals {
    let info = RuntimeInfo {
        id: id(number),
        name: Some(name.into()),
        program: "/bin/x".into(),
        desired: Desired::Running,
        observed,
        priority: Priority::Normal,
        privileged: false,
        starts: 1,
        connections: 0,
        status: String::new(),
        schedule: None,
        replica: None,
    };
    let usage = Usage {
        cpu_percent_100: 1250,
        cpu_over_ms: 1000,
        cpu_ms: 10,
        memory_bytes: 3 << 20,
        processes: 1,
    };
    let health = Health { at_ms: 1, problem: None };
    let vitals =
        Vitals { restarts: 2, restarts_on_end: 0, health: Some(health), usage: Some(usage) };
    RuntimeVitals { info, vitals }
}

fn ready(number: u8, name: &str) -> RuntimeVitals {
    instance(number, name, Observed::Ready { pid: 4711, since_ms: 0 })
}

fn link(sent: u64) -> LinkInfo {
    LinkInfo {
        id: LinkId(1),
        from: Some(id(1)),
        from_name: Some("camera".into()),
        type_name: "acme.image.v1".into(),
        to: TargetInfo::Udp { address: "h:1".into() },
        policy: Policy::Latest,
        capacity: 1,
        state: LinkState::Open,
        counters: Counters { sent, ..Counters::default() },
        part_of: None,
        block_timeout: Millis::ZERO,
        history: 0,
        transport: Transport::Auto,
        spin_us: 0,
        way: Way::Routed,
        why: None,
        calls: None,
        reported: 0,
    }
}

fn picture(instances: Vec<RuntimeVitals>, sent: u64) -> Event {
    Event::Picture { instances, links: vec![link(sent)] }
}

fn stopped() -> Observed {
    Observed::Stopped { last_exit: None, at_ms: None }
}

fn two() -> App {
    let mut app = App::new(true);
    let orders = app.update(Event::Connected { version: "1.0".into() }, Duration::ZERO);
    assert_eq!(orders, [Order::Follow(None)]);
    let instances = vec![ready(1, "camera"), instance(2, "motor", stopped())];
    let orders = app.update(picture(instances, 0), Duration::ZERO);
    assert_eq!(orders, [Order::Follow(Some(id(1)))]);
    app
}

fn press(app: &mut App, code: KeyCode) -> Vec<Order> {
    app.update(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)), Duration::ZERO)
}

fn char(app: &mut App, c: char) -> Vec<Order> {
    press(app, KeyCode::Char(c))
}

fn printed(number: u8, text: &str) -> Event {
    let line = LogLine {
        instance: id(number),
        name: None,
        time_ns: 0,
        stream: LogStream::Stdout,
        complete: true,
        text: text.into(),
    };
    Event::Printed(id(number), vec![Ok(line)])
}

fn drawn(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(app, frame)).unwrap();
    terminal
}

fn screen(app: &App, width: u16, height: u16) -> String {
    drawn(app, width, height).backend().to_string()
}

#[test]
fn all_of_it_is_on_80_columns_and_24_rows() {
    let mut app = two();
    app.update(printed(1, "\u{1b}[31mhello\u{1b}[0m"), Duration::ZERO);
    app.update(picture(app.all.clone(), 250), Duration::from_secs(2));
    let text = screen(&app, 80, 24);
    for part in [
        "orchestrator 1.0  2 instances, 1 running",
        "NAME",
        "STATE",
        "PID",
        "UPTIME",
        "RESTARTS",
        "CPU%",
        "MEMORY",
        "HEALTH",
        "camera",
        "ready",
        "4711",
        "12.5",
        "3.0M",
        "well",
        "stopped",
        "camera -> udp:h:1",
        "acme.image.v1",
        "125",
        "250",
        "hello",
        "s start  x stop  r restart  / filter  ? help  q quit",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn which_way_messages_go_is_seen_where_there_is_room() {
    let app = two();
    let text = screen(&app, 100, 24);
    assert!(text.contains("TRANSPORT") && text.contains("routed"), "{text}");
    assert!(!screen(&app, 80, 24).contains("TRANSPORT"));
}

#[test]
fn the_names_are_seen_on_a_narrow_terminal_too() {
    let mut app = two();
    app.update(printed(1, "hello"), Duration::ZERO);
    for width in 40..100 {
        let text = screen(&app, width, 24);
        for part in ["camera", "motor", "ready", "stopped", "CPU%", "12.5", "MSG/S", "hello"] {
            assert!(text.contains(part), "{part} at {width}\n{text}");
        }
    }
}

#[test]
fn keys_choose_and_the_log_follows() {
    let mut app = two();
    assert_eq!(char(&mut app, 'j'), [Order::Follow(Some(id(2)))]);
    assert_eq!(char(&mut app, 'j'), [], "it was the last");
    app.update(printed(1, "of another"), Duration::ZERO);
    assert!(app.log.is_empty());
    assert_eq!(press(&mut app, KeyCode::Up), [Order::Follow(Some(id(1)))]);
    assert_eq!(char(&mut app, 'G'), [Order::Follow(Some(id(2)))]);
    assert_eq!(char(&mut app, 'q'), [Order::Quit(Exit::Ok)]);
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    let orders = app.update(Event::Key(ctrl_c), Duration::ZERO);
    assert_eq!(orders, [Order::Quit(Exit::Interrupted)]);
}

#[test]
fn what_ends_something_is_asked_about_first() {
    let mut app = two();
    assert_eq!(char(&mut app, 'x'), []);
    assert!(screen(&app, 80, 24).contains("stop camera? y/n"));
    assert_eq!(char(&mut app, 'n'), []);
    assert_eq!(app.mode, Mode::Browse);
    char(&mut app, 'r');
    // Also if it is not chosen any more.
    app.update(picture(vec![ready(2, "motor")], 0), Duration::ZERO);
    assert_eq!(char(&mut app, 'y'), [Order::Act(Act::Restart, id(1))]);
}

#[test]
fn what_does_not_run_is_started_at_once_and_not_stopped() {
    let mut app = two();
    char(&mut app, 'j');
    assert_eq!(char(&mut app, 's'), [Order::Act(Act::Start, id(2))]);
    assert_eq!(char(&mut app, 'r'), [Order::Act(Act::Restart, id(2))]);
    assert_eq!((char(&mut app, 'x'), app.mode), (vec![], Mode::Browse));
    let back_off = Observed::BackOff {
        reason: "exit code 3".into(),
        last_exit: None,
        until_ms: 0,
        attempt: 1,
    };
    app.update(picture(vec![instance(2, "motor", back_off)], 0), Duration::ZERO);
    assert_eq!(char(&mut app, 'x'), [Order::Act(Act::Stop, id(2))]);
    let next = Observed::Scheduled { next_ms: None };
    app.update(picture(vec![instance(2, "motor", next)], 0), Duration::ZERO);
    assert_eq!(char(&mut app, 'x'), [Order::Act(Act::Stop, id(2))]);
    let refused = Err("no such file".to_owned());
    app.update(Event::Done(Act::Start, refused), Duration::ZERO);
    assert!(screen(&app, 80, 24).contains("no such file"));
    app.update(Event::Resized, Duration::from_secs(60));
    assert!(!screen(&app, 80, 24).contains("no such file"));
}

#[test]
fn a_filter_shows_some_and_escape_shows_all() {
    let mut app = two();
    char(&mut app, '/');
    let orders: Vec<_> = "mot".chars().flat_map(|c| char(&mut app, c)).collect();
    // An `m` is in both names.
    assert_eq!(orders, [Order::Follow(Some(id(2)))]);
    // While it is typed, keys are letters.
    assert_eq!(char(&mut app, 'q'), [Order::Follow(None)]);
    assert!(screen(&app, 80, 24).contains("no instance is like that"));
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Enter);
    let text = screen(&app, 80, 24);
    assert!(text.contains("motor") && text.contains("[filter: mot]"), "{text}");
    press(&mut app, KeyCode::Esc);
    assert_eq!((app.filter.as_str(), app.shown().count()), ("", 2));
}

#[test]
fn a_schedule_says_when_it_runs_and_how_it_ran() {
    let mut app = two();
    let mut backup = instance(1, "backup", Observed::Scheduled { next_ms: Some(u64::MAX / 2) });
    let result = RunResult::Completed { exit: control::Exit::Code(0) };
    backup.info.schedule = Some(ScheduleInfo {
        schedule: Schedule::new("@daily"),
        next_ms: Some(4_102_444_800_000),
        last: Some(LastRun { began_ms: 1000, ended_ms: 3000, result }),
        skipped: 0,
    });
    app.update(picture(vec![backup], 0), Duration::ZERO);
    let text = screen(&app, 200, 24);
    for part in ["scheduled", "backup runs next at 2", "last run: 19", "completed with exit code 0"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    press(&mut app, KeyCode::Char('/'));
    "sched".chars().for_each(|c| drop(char(&mut app, c)));
    assert_eq!(app.shown().count(), 1);
}

#[test]
fn in_the_place_of_one_that_has_gone_is_the_next() {
    let mut app = two();
    let orders = app.update(picture(vec![ready(2, "motor")], 0), Duration::ZERO);
    assert_eq!(orders, [Order::Follow(Some(id(2)))]);
    assert_eq!(app.update(picture(Vec::new(), 0), Duration::ZERO), [Order::Follow(None)]);
    assert!(screen(&app, 80, 24).contains("no instances"));
    for key in ['s', 'x', 'r', 'j', 'k'] {
        assert_eq!(char(&mut app, key), []);
    }
}

#[test]
fn a_log_is_bounded_and_what_is_read_stays_in_its_place() {
    let mut app = two();
    for number in 0..MAX_LINES + 10 {
        app.update(printed(1, &format!("line {number}")), Duration::ZERO);
    }
    assert_eq!(app.log.len(), MAX_LINES);
    let last = format!("line {}", MAX_LINES + 9);
    assert!(screen(&app, 80, 24).contains(&last));
    for _ in 0..3 {
        press(&mut app, KeyCode::PageUp);
    }
    assert!(!screen(&app, 80, 24).contains(&last));
    for _ in 0..3 {
        press(&mut app, KeyCode::PageDown);
    }
    assert!(screen(&app, 80, 24).contains(&last));
}

#[test]
fn a_daemon_that_is_gone_is_said_and_one_that_comes_is_asked_again() {
    let mut app = two();
    app.update(Event::Lost("the connection was lost".into()), Duration::ZERO);
    assert!(screen(&app, 80, 24).contains("reconnecting: the connection was lost"));
    let orders = app.update(Event::Connected { version: "1.1".into() }, Duration::ZERO);
    assert_eq!(orders, [Order::Follow(Some(id(1)))]);
    assert!(screen(&app, 80, 24).contains("orchestrator 1.1"));
    // It counts anew: no rate is better than a wrong one.
    app.update(picture(app.all.clone(), 500), Duration::from_secs(1));
    app.update(picture(app.all.clone(), 5), Duration::from_secs(2));
    assert_eq!(app.links[0].rate, None);
}

#[test]
fn without_colours_nothing_is_coloured() {
    let mut app = two();
    app.color = false;
    app.update(Event::Lost("x".into()), Duration::ZERO);
    char(&mut app, '?');
    let terminal = drawn(&app, 80, 24);
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().all(|cell| cell.fg == ratatui::style::Color::Reset));
    assert!(screen(&app, 80, 24).contains("escape shows all"), "{}", screen(&app, 80, 24));
}

proptest! {
    #[test]
    fn no_size_is_too_small_or_too_large(
        width in 0..200_u16, height in 0..80_u16, instances in 0..60_u8, keys in "[jkxry/?aG]{0,8}",
    ) {
        let mut app = two();
        let all = (0..instances).map(|number| ready(number, "some-long-name-of-an-instance"));
        app.update(picture(all.collect(), 7), Duration::from_secs(1));
        for number in 0..50 {
            app.update(printed(1, &format!("{number} {}", "x".repeat(300))), Duration::ZERO);
        }
        for c in keys.chars() {
            char(&mut app, c);
        }
        drawn(&app, width, height);
    }
}
