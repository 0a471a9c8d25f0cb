//! How it looks. Fits a terminal of 80 columns and 24 rows, and says so if there is no room.

use orchestrator_proto::control::{LinkState, LogStream, Observed, RuntimeVitals};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Padding, Paragraph, Row, Table, TableState};

use super::state::{App, Line, Link, Mode};
use super::text;
use crate::table::Tone;
use crate::{format, list, schedule};

/// The smallest terminal that anything can be seen on.
const SMALLEST: (u16, u16) = (40, 8);

/// The most rows of links, with their heading.
const MAX_LINKS: usize = 7;

const HELP: [&str; 12] = [
    "up, down, j, k    choose an instance",
    "home, end, g, G   the first, the last",
    "page up, down     read what it has printed",
    "/                 show only instances whose name, id or",
    "                  state has this in it; escape shows all",
    "s                 start the chosen instance",
    "x, r              stop it, restart it, after a question",
    "q, Ctrl-C         quit",
    "",
    "CPU% is of one CPU, since the look before; at first since",
    "the instance was started. MEMORY is resident. MSG/S are",
    "messages that were sent on a link.",
];

pub(super) fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("needs {} columns and {} rows", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    // A third for the log at least, if there is anything to choose.
    let links = match app.links.len() {
        0 => 0,
        count => (count + 1).min(MAX_LINKS).min(usize::from(area.height / 4)),
    };
    let links = u16::try_from(links).unwrap_or(0);
    let rest = area.height.saturating_sub(2 + links);
    let wanted = u16::try_from(app.shown().count() + 1).unwrap_or(u16::MAX);
    let instances = wanted.clamp(2, (rest * 3 / 5).max(2));
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(instances),
        Constraint::Length(links),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [head, table, link_table, log, foot] = rows.areas(area);
    draw_head(app, frame, head);
    draw_instances(app, frame, table);
    if links > 0 {
        draw_links(app, frame, link_table);
    }
    draw_log(app, frame, log);
    draw_foot(app, frame, foot);
    if app.mode == Mode::Help {
        draw_help(app, frame, area);
    }
}

/// In this tone, or without a colour.
fn toned(app: &App, tone: Tone) -> Style {
    let color = match tone {
        Tone::Plain => return Style::new(),
        Tone::Faint => return Style::new().add_modifier(Modifier::DIM),
        Tone::Good => Color::Green,
        Tone::Busy => Color::Yellow,
        Tone::Bad => Color::Red,
    };
    if app.color { Style::new().fg(color) } else { Style::new() }
}

const fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn draw_head(app: &App, frame: &mut Frame<'_>, area: Rect) {
    if let Some(why) = &app.lost {
        let text = format!("reconnecting: {}", format::line(why));
        frame.render_widget(Paragraph::new(Span::styled(text, toned(app, Tone::Bad))), area);
        return;
    }
    let running = app.all.iter().filter(|it| it.info.observed.has_process()).count();
    let bad = |it: &&RuntimeVitals| {
        matches!(
            it.info.observed,
            Observed::Failed { .. } | Observed::BackOff { .. } | Observed::Unhealthy { .. }
        )
    };
    let bad = app.all.iter().filter(bad).count();
    let cpu: u64 = app
        .all
        .iter()
        .filter_map(|it| it.vitals.usage)
        .map(|it| u64::from(it.cpu_percent_100))
        .sum();
    let memory: u64 =
        app.all.iter().filter_map(|it| it.vitals.usage).map(|it| it.memory_bytes).sum();
    let count = format::count(app.all.len() as u64, "instance");
    let mut spans = vec![
        Span::styled(format!("orchestrator {}", format::line(&app.version)), bold()),
        Span::raw(format!("  {count}, {running} running")),
    ];
    if bad > 0 {
        spans.push(Span::styled(format!(", {bad} not well"), toned(app, Tone::Bad)));
    }
    let cpu = format::percent(u32::try_from(cpu).unwrap_or(u32::MAX));
    spans.push(Span::raw(format!("  CPU {cpu}%  memory {}", format::bytes(memory))));
    frame.render_widget(Paragraph::new(Text::from(spans)), area);
}

/// A column: its heading, how wide it is (none shares what is left), and which place it has among
/// those that are left out where there is no room for all.
type Column = (&'static str, Option<u16>, Option<u8>);

const INSTANCES: [Column; 8] = [
    ("NAME", None, None),
    ("STATE", Some(9), None),
    ("PID", Some(7), Some(3)),
    ("UPTIME", Some(7), Some(4)),
    ("RESTARTS", Some(8), Some(2)),
    ("CPU%", Some(6), None),
    ("MEMORY", Some(6), None),
    ("HEALTH", Some(8), Some(1)),
];

const LINKS: [Column; 8] = [
    ("LINK", Some(4), None),
    ("FROM -> TO", None, None),
    ("TYPE", None, Some(4)),
    ("TRANSPORT", Some(9), Some(0)),
    ("MSG/S", Some(8), None),
    ("SENT", Some(10), Some(2)),
    ("DROPPED", Some(8), Some(3)),
    ("QUEUED", Some(7), Some(1)),
];

/// The least that a column has that shares what is left.
const LEAST: u16 = 14;

/// The columns that find room, their widths, and their headings.
fn fitting(columns: &[Column], width: u16) -> (Vec<usize>, Vec<Constraint>, Vec<&'static str>) {
    let mut there: Vec<usize> = (0..columns.len()).collect();
    let needed =
        |there: &[usize]| there.iter().map(|at| columns[*at].1.unwrap_or(LEAST) + 1).sum::<u16>();
    while needed(&there) > width {
        let next = there.iter().filter_map(|at| Some((columns[*at].2?, *at))).min();
        let Some((_, gone)) = next else { break };
        there.retain(|at| *at != gone);
    }
    let widths = there.iter().map(|at| match columns[*at].1 {
        Some(width) => Constraint::Length(width),
        None => Constraint::Fill(1),
    });
    let head = there.iter().map(|at| columns[*at].0);
    (there.clone(), widths.collect(), head.collect())
}

/// A row with these columns.
fn only<'a, const N: usize>(cells: [Cell<'a>; N], columns: &[usize]) -> Row<'a> {
    let cells = cells.into_iter().zip(0..).filter(|(_, at)| columns.contains(at));
    Row::new(cells.map(|(cell, _)| cell))
}

fn draw_instances(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let now = format::now_ms();
    let (columns, widths, head) = fitting(&INSTANCES, area.width);
    let rows: Vec<_> = app.shown().map(|it| instance(app, it, now, &columns)).collect();
    if rows.is_empty() {
        let text = match (app.is_loaded, app.filter.is_empty()) {
            (false, _) => "asking the daemon",
            (true, true) => "no instances; add one with `orchestrator-cli runtime add PATH`",
            (true, false) => "no instance is like that; escape shows all",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(app.place());
    frame.render_stateful_widget(table, area, &mut state);
}

fn instance<'a>(app: &App, it: &'a RuntimeVitals, now_ms: u64, columns: &[usize]) -> Row<'a> {
    let info = &it.info;
    let name = match &info.name {
        Some(name) => format::line(name).into_owned(),
        None => text::short(&info.id.to_string()),
    };
    let since_ms = match info.observed {
        Observed::Starting { since_ms, .. }
        | Observed::Ready { since_ms, .. }
        | Observed::Unhealthy { since_ms, .. } => Some(since_ms),
        _ => None,
    };
    let usage = it.vitals.usage;
    let (health, health_tone) = match &it.vitals.health {
        None => ("", Tone::Plain),
        Some(health) if health.problem.is_none() => ("well", Tone::Good),
        Some(_) => ("not well", Tone::Bad),
    };
    let restarts = match it.vitals.restarts {
        0 => String::new(),
        restarts => restarts.to_string(),
    };
    let of_usage = |show: fn(&orchestrator_proto::control::Usage) -> String| {
        Cell::from(usage.as_ref().map(show).unwrap_or_default())
    };
    let cells = [
        Cell::from(name),
        Cell::from(Span::styled(info.observed.word(), toned(app, list::tone(&info.observed)))),
        Cell::from(info.observed.pid().map(|pid| pid.to_string()).unwrap_or_default()),
        Cell::from(since_ms.map(|at| format::ago(at, now_ms)).unwrap_or_default()),
        Cell::from(restarts),
        of_usage(|it| format::percent(it.cpu_percent_100)),
        of_usage(|it| format::bytes(it.memory_bytes)),
        Cell::from(Span::styled(health, toned(app, health_tone))),
    ];
    only(cells, columns)
}

fn draw_links(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let (columns, widths, head) = fitting(&LINKS, area.width);
    let rows = app.links.iter().map(|link| link_row(app, link, &columns));
    let table = Table::new(rows, widths).header(Row::new(head).style(bold()));
    frame.render_widget(table, area);
}

fn link_row<'a>(app: &App, link: &'a Link, columns: &[usize]) -> Row<'a> {
    let (from, to) = text::ends(&link.info);
    let counters = &link.info.counters;
    let dropped = if counters.dropped > 0 { Tone::Busy } else { Tone::Plain };
    let cells = [
        Cell::from(link.info.id.to_string()),
        Cell::from(format!("{from} -> {to}")),
        Cell::from(format::line(&link.info.type_name)),
        Cell::from(link.info.way.to_string()),
        Cell::from(link.rate.map(rate).unwrap_or_default()),
        Cell::from(counters.sent.to_string()),
        Cell::from(Span::styled(counters.dropped.to_string(), toned(app, dropped))),
        Cell::from(counters.queued.to_string()),
    ];
    let row = only(cells, columns);
    match link.info.state {
        LinkState::Open => row,
        LinkState::Mismatched { .. } => row.style(toned(app, Tone::Bad)),
    }
}

/// Messages in a second.
fn rate(rate: f64) -> String {
    match rate {
        0.0..10.0 => format!("{rate:.1}"),
        10.0..100_000.0 => format!("{rate:.0}"),
        _ => format!("{:.0}k", rate / 1000.0),
    }
}

fn draw_log(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let title = match app.chosen() {
        Some(info) => {
            let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
            let why = list::why(&info.observed)
                .or_else(|| schedule::both(info, format::now_ms()))
                .map(|why| format!(" {why}"))
                .unwrap_or_default();
            let back = if app.back > 0 { " (page down goes on)" } else { "" };
            format!(" {}{} ", format::line(&format!("{name}{why}")), back)
        }
        None => String::new(),
    };
    let block = Block::new().borders(Borders::TOP).title(title);
    let room = usize::from(block.inner(area).height);
    let skipped = app.log.len().saturating_sub(room + app.back);
    let lines: Vec<_> =
        app.log.iter().skip(skipped).take(room).map(|line| log_line(app, line)).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn log_line<'a>(app: &App, line: &'a Line) -> Text<'a> {
    let (mark, tone) = match line.stream {
        Some(LogStream::Stdout) => ("", Tone::Plain),
        Some(LogStream::Stderr) => ("", Tone::Bad),
        Some(LogStream::Telemetry) => ("[telemetry] ", Tone::Faint),
        Some(LogStream::Orchestrator) => ("[orchestrator] ", Tone::Busy),
        None => ("-- ", Tone::Busy),
    };
    Text::from(vec![
        Span::styled(mark, toned(app, tone)),
        Span::styled(line.text.as_str(), toned(app, tone)),
    ])
}

fn draw_foot(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let (text, style) = match (&app.mode, &app.remark) {
        (Mode::Filter, _) => {
            (format!("filter: {}_   enter keeps it, escape shows all", app.filter), bold())
        }
        (Mode::Confirm(act, id), _) => {
            let name = app.all.iter().find(|it| it.info.id == *id);
            let name = name.and_then(|it| it.info.name.clone()).unwrap_or_else(|| id.to_string());
            (format!("{} {}? y/n", act.word(), format::line(&name)), bold())
        }
        (_, Some(remark)) => {
            let tone = if remark.is_failure { Tone::Bad } else { Tone::Good };
            (format::line(&remark.text).into_owned(), toned(app, tone))
        }
        _ => {
            let filter = match app.filter.as_str() {
                "" => String::new(),
                filter => format!("   [filter: {filter}]"),
            };
            let keys = "s start  x stop  r restart  / filter  ? help  q quit";
            (format!("{keys}{filter}"), toned(app, Tone::Faint))
        }
    };
    frame.render_widget(Paragraph::new(Span::styled(text, style)), area);
}

fn draw_help(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let height = u16::try_from(HELP.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let width = 62.min(area.width);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .title(" keys ")
        .padding(Padding::horizontal(1))
        .border_style(toned(app, Tone::Busy));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(HELP.map(Text::from).to_vec()).block(block), place);
}
