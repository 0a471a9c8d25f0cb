//! What is shown, and what keys do. Pure: takes events and the time, and says what is to be done.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use orchestrator_proto::control::{
    LinkInfo, LogLine, LogStream, Observed, RuntimeInfo, RuntimeVitals,
};
use orchestrator_proto::{InstanceId, LinkId};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::text;
use crate::failure::Exit;
use crate::link;

/// Lines of a log that are kept.
pub(super) const MAX_LINES: usize = 2000;

/// The longest filter, characters.
const MAX_FILTER: usize = 64;

/// Lines that a page key goes.
const PAGE: usize = 10;

/// How long a remark is shown.
const REMARK: Duration = Duration::from_secs(6);

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// A daemon answers.
    Connected { version: String },
    /// It does not any more.
    Lost(String),
    /// How everything is.
    Picture { instances: Vec<RuntimeVitals>, links: Vec<LinkInfo> },
    /// What an instance printed; or so many lines are missing, and why.
    Printed(InstanceId, Vec<Result<LogLine, (u64, String)>>),
    /// There will be no more of it.
    LogEnded(InstanceId, String),
    /// Something was done, or why it was not.
    Done(Act, Result<(), String>),
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Quit(Exit),
    /// Tell what this one prints; none is nobody.
    Follow(Option<InstanceId>),
    Act(Act, InstanceId),
}

/// What can be done to an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Start,
    Stop,
    Restart,
}

impl Act {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// What keys mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Browse,
    /// They are the text of the filter.
    Filter,
    Help,
    /// Yes or no.
    Confirm(Act, InstanceId),
}

/// A link, and how fast it is.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Link {
    pub(super) info: LinkInfo,
    /// Messages in a second that were sent; none until there are two looks at it.
    pub(super) rate: Option<f64>,
}

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// None is a remark of this program.
    pub(super) stream: Option<LogStream>,
    pub(super) text: String,
    is_complete: bool,
}

/// How a remark is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Remark {
    pub(super) text: String,
    pub(super) is_failure: bool,
    at: Duration,
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) color: bool,
    pub(super) mode: Mode,
    pub(super) version: String,
    /// Why there is no daemon, if there is none.
    pub(super) lost: Option<String>,
    pub(super) is_loaded: bool,
    pub(super) all: Vec<RuntimeVitals>,
    pub(super) links: Vec<Link>,
    links_at: Duration,
    pub(super) filter: String,
    pub(super) selected: Option<InstanceId>,
    /// Where it is, or was, among those that are shown.
    place: usize,
    pub(super) log: VecDeque<Line>,
    /// Lines between the last one and the last that is shown; 0 goes on with new ones.
    pub(super) back: usize,
    pub(super) remark: Option<Remark>,
}

impl App {
    pub(super) fn new(color: bool) -> Self {
        Self {
            color,
            mode: Mode::Browse,
            version: String::new(),
            lost: None,
            is_loaded: false,
            all: Vec::new(),
            links: Vec::new(),
            links_at: Duration::ZERO,
            filter: String::new(),
            selected: None,
            place: 0,
            log: VecDeque::new(),
            back: 0,
            remark: None,
        }
    }

    /// The instances that are shown.
    pub(super) fn shown(&self) -> impl Iterator<Item = &RuntimeVitals> {
        let filter = self.filter.to_lowercase();
        self.all.iter().filter(move |it| {
            let info = &it.info;
            let name = info.name.as_deref().unwrap_or_default().to_lowercase();
            filter.is_empty()
                || name.contains(&filter)
                || info.observed.word().contains(&filter)
                || info.id.to_string().contains(&filter)
        })
    }

    pub(super) fn place(&self) -> Option<usize> {
        self.selected.map(|_| self.place)
    }

    /// The one that is chosen.
    pub(super) fn chosen(&self) -> Option<&RuntimeInfo> {
        let id = self.selected?;
        self.all.iter().map(|it| &it.info).find(|info| info.id == id)
    }

    /// Takes what happened at `now`, a time since any epoch that does not go back.
    pub(super) fn update(&mut self, event: Event, now: Duration) -> Vec<Order> {
        if self.remark.as_ref().is_some_and(|remark| now.saturating_sub(remark.at) > REMARK) {
            self.remark = None;
        }
        match event {
            Event::Resized => Vec::new(),
            Event::Key(key) => self.key(key),
            Event::Connected { version } => {
                self.version = version;
                self.lost = None;
                // What was followed ended with the daemon of before.
                self.log.clear();
                vec![Order::Follow(self.selected)]
            }
            Event::Lost(why) => {
                self.lost = Some(why);
                Vec::new()
            }
            Event::Picture { instances, links } => {
                self.is_loaded = true;
                self.all = instances;
                self.take_links(links, now);
                self.choose_again()
            }
            Event::Printed(instance, lines) => {
                if self.selected == Some(instance) {
                    lines.into_iter().for_each(|line| self.print(line));
                }
                Vec::new()
            }
            Event::LogEnded(instance, why) => {
                if self.selected == Some(instance) {
                    self.push(None, why, true);
                }
                Vec::new()
            }
            Event::Done(act, done) => {
                let is_failure = done.is_err();
                let text = match done {
                    Ok(()) => format!("{}: done", act.word()),
                    Err(why) => why,
                };
                self.remark = Some(Remark { text, is_failure, at: now });
                Vec::new()
            }
        }
    }

    fn take_links(&mut self, links: Vec<LinkInfo>, now: Duration) {
        let over = now.saturating_sub(self.links_at).as_secs_f64();
        let before: HashMap<LinkId, (u64, Option<f64>)> = self
            .links
            .iter()
            .map(|link| (link.info.id, (link.info.counters.sent, link.rate)))
            .collect();
        // A picture so soon after another says nothing of rates.
        let is_soon = over < 0.2 && !self.links.is_empty();
        let rated = links.into_iter().map(|mut info| {
            // As in `link list`.
            [
                info.counters.sent,
                info.counters.delivered,
                info.counters.dropped,
                info.counters.queued,
            ] = link::passed(&info);
            let rate = before.get(&info.id).and_then(|(sent, rate)| {
                if is_soon {
                    // Counted from the look of before on.
                    info.counters.sent = *sent;
                    return *rate;
                }
                // Fewer than before: a daemon that counts anew.
                Some(info.counters.sent.checked_sub(*sent)? as f64 / over)
            });
            Link { info, rate }
        });
        self.links = rated.collect();
        if !is_soon {
            self.links_at = now;
        }
    }

    fn print(&mut self, line: Result<LogLine, (u64, String)>) {
        match line {
            Ok(line) => self.push(Some(line.stream), text::plain(&line.text.0), line.complete),
            Err((count, why)) => self.push(None, format!("{count} lines are missing: {why}"), true),
        }
    }

    fn push(&mut self, stream: Option<LogStream>, text: String, is_complete: bool) {
        if let Some(last) = self.log.back_mut()
            && !last.is_complete
            && last.stream == stream
            && last.text.len() < text::MAX_LINE
        {
            last.text.push_str(&text);
            last.is_complete = is_complete;
            return;
        }
        self.log.push_back(Line { stream, text, is_complete });
        if self.log.len() > MAX_LINES {
            self.log.pop_front();
        } else if self.back > 0 {
            // What is read stays where it is.
            self.back += 1;
        }
        self.back = self.back.min(self.log.len());
    }

    /// After the instances or the filter have changed.
    fn choose_again(&mut self) -> Vec<Order> {
        let ids: Vec<_> = self.shown().map(|it| it.info.id).collect();
        let kept = self.selected.and_then(|id| ids.iter().position(|it| *it == id));
        // In the place of one that has gone, the next one.
        let place = kept.unwrap_or_else(|| self.place.min(ids.len().saturating_sub(1)));
        self.choose(&ids, place)
    }

    fn choose(&mut self, ids: &[InstanceId], place: usize) -> Vec<Order> {
        let before = self.selected;
        self.place = place;
        self.selected = ids.get(place).copied();
        if self.selected == before {
            return Vec::new();
        }
        self.log.clear();
        self.back = 0;
        vec![Order::Follow(self.selected)]
    }

    fn go(&mut self, by: isize) -> Vec<Order> {
        let ids: Vec<_> = self.shown().map(|it| it.info.id).collect();
        let last = ids.len().saturating_sub(1);
        let place = self.place.saturating_add_signed(by).min(last);
        self.choose(&ids, place)
    }

    fn key(&mut self, key: KeyEvent) -> Vec<Order> {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return vec![Order::Quit(Exit::Interrupted)];
        }
        self.remark = None;
        match self.mode {
            Mode::Browse => self.browse(key.code),
            Mode::Filter => self.edit(key.code),
            Mode::Help => {
                self.mode = Mode::Browse;
                Vec::new()
            }
            Mode::Confirm(act, instance) => {
                self.mode = Mode::Browse;
                match key.code {
                    KeyCode::Char('y' | 'Y') => vec![Order::Act(act, instance)],
                    _ => Vec::new(),
                }
            }
        }
    }

    fn browse(&mut self, key: KeyCode) -> Vec<Order> {
        match key {
            KeyCode::Char('q') => vec![Order::Quit(Exit::Ok)],
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            KeyCode::PageUp => {
                self.back = (self.back + PAGE).min(self.log.len().saturating_sub(1));
                Vec::new()
            }
            KeyCode::PageDown => {
                self.back = self.back.saturating_sub(PAGE);
                Vec::new()
            }
            KeyCode::Char('/') => {
                self.mode = Mode::Filter;
                Vec::new()
            }
            KeyCode::Char('?') => {
                self.mode = Mode::Help;
                Vec::new()
            }
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.choose_again()
            }
            KeyCode::Char('s') => {
                self.selected.map(|id| Order::Act(Act::Start, id)).into_iter().collect()
            }
            KeyCode::Char('x') => self.confirm(Act::Stop),
            KeyCode::Char('r') => self.confirm(Act::Restart),
            _ => Vec::new(),
        }
    }

    /// Asks before something ends that runs.
    fn confirm(&mut self, act: Act) -> Vec<Order> {
        let Some(info) = self.chosen() else {
            return Vec::new();
        };
        let (id, will_end) = (info.id, info.observed.is_active());
        let waits = matches!(
            info.observed,
            Observed::Waiting { .. } | Observed::BackOff { .. } | Observed::Scheduled { .. }
        );
        if will_end {
            self.mode = Mode::Confirm(act, id);
            return Vec::new();
        }
        match act {
            Act::Stop if !waits => Vec::new(),
            act => vec![Order::Act(act, id)],
        }
    }

    fn edit(&mut self, key: KeyCode) -> Vec<Order> {
        match key {
            KeyCode::Enter => self.mode = Mode::Browse,
            KeyCode::Esc => {
                self.mode = Mode::Browse;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(c);
            }
            _ => return Vec::new(),
        }
        self.choose_again()
    }
}
