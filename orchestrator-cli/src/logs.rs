//! `runtime stdout`, `runtime stderr`, `runtime logs`

use std::collections::{HashMap, HashSet};

use clap::builder::styling::AnsiColor;
use orchestrator_proto::InstanceId;
use orchestrator_proto::client::{Client, ClientError, ItemStream};
use orchestrator_proto::control::{
    Item, LogLine, LogQuery, LogStream, Observed, Reply, Request, RuntimeInfo, Selector,
};

use crate::cli::{LogArgs, LogRange, LogsArgs};
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Output;
use crate::replicas::{self, Shown};

/// What stands before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing: exactly what the instance printed.
    Raw,
    /// The time.
    Time,
    /// The stream, if it is none of the instance's own.
    Stream,
    /// The time and the stream.
    TimeAndStream,
}

/// `runtime stdout` and `runtime stderr`
pub(crate) async fn one_stream(
    client: &Client,
    out: &mut Output,
    args: LogArgs,
    stream: LogStream,
) -> Result<Exit, Failure> {
    let form = if args.range.timestamps { Form::Time } else { Form::Raw };
    let instances = vec![args.instance.into()];
    let query = LogQuery { instances, stream: Some(stream), ..LogQuery::default() };
    print(client, out, query, args.range, form, Some(stream)).await
}

/// `runtime logs`
pub(crate) async fn logs(
    client: &Client,
    out: &mut Output,
    args: LogsArgs,
) -> Result<Exit, Failure> {
    let form = if args.range.timestamps { Form::TimeAndStream } else { Form::Stream };
    let instances = args.instances.into_iter().map(Selector).collect();
    let query = LogQuery { instances, stream: args.stream, ..LogQuery::default() };
    print(client, out, query, args.range, form, None).await
}

/// Prints what instances printed. `wanted` is the one stream of which nothing else may get
/// between the bytes.
async fn print(
    client: &Client,
    out: &mut Output,
    query: LogQuery,
    range: LogRange,
    form: Form,
    wanted: Option<LogStream>,
) -> Result<Exit, Failure> {
    let now_ns = format::now_ns();
    let mut query = query;
    // Both before anything is printed: how wide their names are, and whether they run.
    let known = meant(client, &mut query.instances, wanted).await?;
    query.tail = range.tail;
    query.since_ns = range.since.map(|since| since.ns(now_ns));
    query.until_ns = range.until.map(|until| until.ns(now_ns));
    query.grep = range.grep.clone();
    query.follow = range.follow().unwrap_or_else(|| known.iter().any(runs));
    let names = if known.len() > 1 { Names::of(&known) } else { Names::default() };
    let mut printer = Printer { form, wanted, names, unfinished: None };
    if known.is_empty() && query.instances.is_empty() {
        return Ok(Exit::Ok);
    }
    let from_ns = if query.tail.is_some() { Some(now_ns) } else { query.since_ns };
    let mut seen = Seen::new(query.instances.len(), from_ns);
    'daemons: loop {
        let mut items = client.stream(Request::Logs(query.clone())).await?;
        seen.begin();
        loop {
            let item = match next(&mut items, out).await? {
                Next::Item(item) => item,
                Next::End => break 'daemons,
                Next::Replaced => break,
            };
            if let Item::Log(line) = &item
                && seen.is_again(line.instance, line.time_ns)
            {
                continue;
            }
            match item {
                item if out.is_json() => out.json_line(&item)?,
                Item::Log(line) => printer.print(out, &line)?,
                Item::Missed { count, reason } => missed(out, count, &reason),
                Item::Message(_)
                | Item::Event(_)
                | Item::Source(_)
                | Item::Recorded(_)
                | Item::Replaying(_)
                | Item::Fed(_) => {
                    return Err(Failure::unexpected_reply());
                }
            }
        }
        if let Some(since_ns) = seen.since_ns() {
            (query.tail, query.since_ns) = (None, Some(since_ns));
        }
    }
    Ok(Exit::Ok)
}

/// The instances that are meant: all, if none is named. From then on each is named by its id, so
/// that a daemon that takes over means the same.
async fn meant(
    client: &Client,
    selectors: &mut Vec<Selector>,
    wanted: Option<LogStream>,
) -> Result<Vec<RuntimeInfo>, Failure> {
    let mut known = Vec::new();
    if selectors.is_empty() {
        match client.request(Request::RuntimeList).await? {
            Reply::Runtimes(all) => known = all,
            _ => return Err(Failure::unexpected_reply()),
        }
    }
    for instance in selectors.drain(..) {
        match (replicas::show(client, instance.clone()).await?, wanted) {
            (Shown::Instance(detail), _) => known.push(detail.info),
            (Shown::Set(detail), None) => known.extend(detail.instances),
            // Bytes of several have no order that anybody could make sense of.
            (Shown::Set(_), Some(stream)) => {
                return Err(Failure::invalid(format!(
                    "{instance} is a set of replicas; give one of them, or see `runtime logs \
                     {instance} --stream {stream}`"
                )));
            }
        }
    }
    let mut ids = HashSet::new();
    known.retain(|info: &RuntimeInfo| ids.insert(info.id));
    *selectors = known.iter().map(|info| Selector(info.id.to_string())).collect();
    Ok(known)
}

/// Whether there may be new lines: something of the instance runs, or will by itself.
fn runs(info: &RuntimeInfo) -> bool {
    let will = matches!(info.observed, Observed::Waiting { .. } | Observed::BackOff { .. });
    will || info.observed.is_active()
}

/// Where logs were read to, so that they can be read on from another daemon: the lines of each
/// are in the order of their times.
#[derive(Default)]
struct Seen {
    /// How many logs there are.
    logs: usize,
    /// Before this, nothing was wanted of those of which nothing was seen.
    from_ns: Option<u64>,
    last: HashMap<InstanceId, Last>,
    is_again: bool,
}

/// The last lines of a log.
#[derive(Clone, Copy)]
struct Last {
    time_ns: u64,
    /// Lines of that time, and how many of them are still to come again.
    lines: u64,
    again: u64,
}

impl Seen {
    fn new(logs: usize, from_ns: Option<u64>) -> Self {
        Self { logs, from_ns, ..Self::default() }
    }

    /// All are read from their beginnings, or on from [`since_ns`](Self::since_ns).
    fn begin(&mut self) {
        self.is_again = !self.last.is_empty();
        for last in self.last.values_mut() {
            last.again = last.lines;
        }
    }

    /// From when on there may be lines that were not seen; none if no line was.
    fn since_ns(&self) -> Option<u64> {
        let first = self.last.values().map(|last| last.time_ns).min()?;
        let all = self.last.len() == self.logs;
        Some(if all { first } else { first.min(self.from_ns.unwrap_or(0)) })
    }

    /// Whether a line was seen before, or is one that was not wanted.
    fn is_again(&mut self, instance: InstanceId, time_ns: u64) -> bool {
        let Some(last) = self.last.get_mut(&instance) else {
            if self.is_again && self.from_ns.is_some_and(|from| time_ns < from) {
                return true;
            }
            self.last.insert(instance, Last { time_ns, lines: 1, again: 0 });
            return false;
        };
        if self.is_again && time_ns < last.time_ns && last.again > 0 {
            return true;
        }
        let same = last.time_ns == time_ns;
        if same && last.again > 0 {
            last.again -= 1;
            return true;
        }
        let lines = if same { last.lines + 1 } else { 1 };
        *last = Last { time_ns, lines, again: 0 };
        false
    }
}

/// What a stream says next.
pub(crate) enum Next {
    /// An item.
    Item(Item),
    /// Nothing more.
    End,
    /// Nothing more, but the daemon that has taken over will go on.
    Replaced,
}

/// The next item. What was printed is handed over only when there is none at once: many short
/// lines then cost few system calls, and none of them is held back.
pub(crate) async fn next(items: &mut ItemStream, out: &mut Output) -> Result<Next, Failure> {
    let item = tokio::select! {
        biased;
        item = items.next() => item,
        () = std::future::ready(()) => {
            out.flush()?;
            items.next().await
        }
    };
    Ok(match item {
        Some(Err(ClientError::Replaced)) => Next::Replaced,
        Some(item) => Next::Item(item?),
        None => Next::End,
    })
}

/// Tells that items are missing.
pub(crate) fn missed(out: &mut Output, count: u64, reason: &str) {
    let text = match count {
        0 => format!("some items are missing: {reason}"),
        count => format!("{} missing: {reason}", format::count(count, "item")),
    };
    out.warning(&text);
}

/// The names of several instances, to stand before their lines.
#[derive(Default)]
struct Names(HashMap<InstanceId, (String, AnsiColor)>);

impl Names {
    /// All as wide as the widest, in colours that are as different as can be.
    fn of(known: &[RuntimeInfo]) -> Self {
        const COLORS: [AnsiColor; 10] = [
            AnsiColor::Cyan,
            AnsiColor::Yellow,
            AnsiColor::Green,
            AnsiColor::Magenta,
            AnsiColor::Blue,
            AnsiColor::BrightCyan,
            AnsiColor::BrightYellow,
            AnsiColor::BrightGreen,
            AnsiColor::BrightMagenta,
            AnsiColor::BrightBlue,
        ];
        let name = |info: &RuntimeInfo| info.name.clone().unwrap_or_else(|| info.id.to_string());
        let width = known.iter().map(|info| name(info).len()).max().unwrap_or(0);
        let named = known.iter().zip(COLORS.iter().cycle());
        let named =
            named.map(|(info, color)| (info.id, (format!("{:width$}", name(info)), *color)));
        Self(named.collect())
    }
}

struct Printer {
    form: Form,
    /// The one stream that was asked for.
    wanted: Option<LogStream>,
    names: Names,
    /// The stream whose line was printed in part.
    unfinished: Option<(InstanceId, LogStream)>,
}

impl Printer {
    fn print(&mut self, out: &mut Output, line: &LogLine) -> Result<(), Failure> {
        // A remark of the daemon must not get between the bytes that were asked for.
        if self.wanted.is_some_and(|wanted| wanted != line.stream) {
            out.warning(&format!("{}: {}", line.stream, line.text));
            return Ok(());
        }
        let head = self.head(line, |color, text| out.paint(color, text));
        out.bytes(head.as_bytes())?;
        out.bytes(&line.text.0)?;
        if line.complete {
            out.bytes(b"\n")?;
        }
        self.unfinished = (!line.complete).then_some((line.instance, line.stream));
        Ok(())
    }

    /// What stands before this line or part of a line.
    fn head(&self, line: &LogLine, paint: impl Fn(AnsiColor, &str) -> String) -> String {
        if self.form == Form::Raw || self.unfinished == Some((line.instance, line.stream)) {
            return String::new();
        }
        let mut head = String::new();
        // A line of another stream begins while one is not finished.
        if self.unfinished.is_some() {
            head.push('\n');
        }
        if let Some((name, color)) = self.names.0.get(&line.instance) {
            head.push_str(&paint(*color, &format!("{name} |")));
            head.push(' ');
        }
        if matches!(self.form, Form::Time | Form::TimeAndStream) {
            head.push_str(&format::time_ns(line.time_ns));
            head.push(' ');
        }
        let (color, is_own) = match line.stream {
            LogStream::Stdout => (AnsiColor::Green, true),
            LogStream::Stderr => (AnsiColor::Red, true),
            LogStream::Telemetry => (AnsiColor::Blue, false),
            LogStream::Orchestrator => (AnsiColor::Yellow, false),
        };
        let stream = || paint(color, &line.stream.to_string());
        match self.form {
            Form::TimeAndStream => head.push_str(&format!("{} ", stream())),
            Form::Stream if !is_own => head.push_str(&format!("[{}] ", stream())),
            _ => {}
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(last: u8) -> InstanceId {
        InstanceId::from_bytes([last; 16])
    }

    #[test]
    fn what_was_seen_is_not_seen_again() {
        let mut seen = Seen::new(1, None);
        seen.begin();
        assert_eq!(seen.since_ns(), None);
        for time in [1, 2, 2] {
            assert!(!seen.is_again(id(1), time));
        }
        assert_eq!(seen.since_ns(), Some(2));
        for after in [[2, 2, 2, 3, 3], [3, 3, 3, 3, 4]] {
            seen.begin();
            let kept = after.map(|time| !seen.is_again(id(1), time));
            assert_eq!(kept, [false, false, true, true, true]);
        }
    }

    #[test]
    fn each_of_several_logs_is_read_on_from_where_it_was() {
        let mut seen = Seen::new(3, Some(4));
        seen.begin();
        for (log, time) in [(1, 5), (2, 7), (2, 8)] {
            assert!(!seen.is_again(id(log), time));
        }
        // Of the third nothing was seen, and nothing before 4 is wanted.
        assert_eq!(seen.since_ns(), Some(4));
        seen.begin();
        let lines = [(3, 3), (2, 4), (1, 5), (3, 6), (2, 7), (2, 8), (1, 9), (2, 9)];
        let kept = lines.map(|(log, time)| !seen.is_again(id(log), time));
        assert_eq!(kept, [false, false, false, true, false, false, true, true]);
    }

    fn heads(form: Form, names: &Names, lines: &[(u8, LogStream, bool)]) -> Vec<String> {
        let names = Names(names.0.clone());
        let mut printer = Printer { form, wanted: None, names, unfinished: None };
        lines
            .iter()
            .map(|(log, stream, complete)| {
                let line = LogLine {
                    instance: id(*log),
                    name: None,
                    time_ns: 1_000_000,
                    stream: *stream,
                    complete: *complete,
                    text: "x".into(),
                };
                let head = printer.head(&line, |_, text| text.to_owned());
                printer.unfinished = (!complete).then_some((id(*log), *stream));
                head
            })
            .collect()
    }

    #[test]
    fn parts_of_a_line_have_one_head() {
        let (out, err) = (LogStream::Stdout, LogStream::Stderr);
        let lines = [(1, out, false), (1, out, true), (1, err, false), (1, out, true)];
        let time = "1970-01-01T00:00:00.001Z";
        let none = Names::default();
        assert_eq!(heads(Form::Raw, &none, &lines), ["", "", "", ""]);
        assert_eq!(heads(Form::Stream, &none, &lines), ["", "", "", "\n"]);
        assert_eq!(
            heads(Form::TimeAndStream, &none, &lines),
            [
                format!("{time} stdout "),
                String::new(),
                format!("{time} stderr "),
                format!("\n{time} stdout "),
            ]
        );
        assert_eq!(heads(Form::Time, &none, &lines[..1]), [format!("{time} ")]);
        let remark = [(1, LogStream::Orchestrator, true)];
        assert_eq!(heads(Form::Stream, &none, &remark), ["[orchestrator] "]);
    }

    #[test]
    fn lines_of_several_instances_have_their_names() {
        let named = [(1, "ping"), (2, "a-b")]
            .map(|(log, name)| (id(log), (format!("{name:4}"), AnsiColor::Cyan)));
        let out = LogStream::Stdout;
        let lines = [(1, out, false), (2, out, true), (1, out, true)];
        let heads = heads(Form::Stream, &Names(named.into()), &lines);
        assert_eq!(heads, ["ping | ", "\na-b  | ", "ping | "]);
    }
}
