//! `runtime stdout`, `runtime stderr`, `runtime logs`

use orchestrator_proto::client::{Client, ClientError, ItemStream};
use orchestrator_proto::control::{
    Item, LogLine, LogQuery, LogStream, Observed, Reply, Request, Selector,
};

use clap::builder::styling::AnsiColor;

use crate::cli::LogsArgs;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Output;

/// What stands before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing: exactly what the instance printed.
    Raw,
    /// The time.
    Time,
    /// The time and the stream.
    TimeAndStream,
}

impl Form {
    pub(crate) const fn raw(timestamps: bool) -> Self {
        if timestamps { Self::Time } else { Self::Raw }
    }
}

/// Prints what an instance printed.
pub(crate) async fn logs(
    client: &Client,
    out: &mut Output,
    args: LogsArgs,
    stream: Option<LogStream>,
    form: Form,
) -> Result<Exit, Failure> {
    let instance = Selector(args.instance.clone());
    let follow = match args.follow() {
        Some(follow) => follow,
        None => runs(client, instance.clone()).await?,
    };
    let query = LogQuery {
        instance,
        stream,
        tail: args.tail,
        since_ns: args.since.map(|since| since.ns(format::now_ns())),
        follow,
    };
    let mut query = query;
    let mut printer = Printer { form, wanted: stream, unfinished: None };
    let mut seen = Seen::default();
    'daemons: loop {
        let mut items = client.stream(Request::Logs(query.clone())).await?;
        let mut again = seen.lines;
        loop {
            let item = match next(&mut items, out).await? {
                Next::Item(item) => item,
                Next::End => break 'daemons,
                Next::Replaced => break,
            };
            if let Item::Log(line) = &item
                && seen.is_again(line.time_ns, &mut again)
            {
                continue;
            }
            match item {
                item if out.is_json() => out.json_line(&item)?,
                Item::Log(line) => printer.print(out, &line)?,
                Item::Missed { count, reason } => missed(out, count, &reason),
                Item::Message(_) | Item::Event(_) => return Err(Failure::unexpected_reply()),
            }
        }
        if let Some(time_ns) = seen.time_ns {
            (query.tail, query.since_ns) = (None, Some(time_ns));
        }
    }
    Ok(Exit::Ok)
}

/// Where a log was read to, so that it can be read on from another daemon: lines are in the order
/// of their times.
#[derive(Default)]
struct Seen {
    /// Of the last line.
    time_ns: Option<u64>,
    /// Lines of that time.
    lines: u64,
}

impl Seen {
    /// Whether a line is one of the first `again` of that time, which were seen before.
    fn is_again(&mut self, time_ns: u64, again: &mut u64) -> bool {
        let same = self.time_ns == Some(time_ns);
        if same && *again > 0 {
            *again -= 1;
            return true;
        }
        (self.time_ns, self.lines) = (Some(time_ns), if same { self.lines + 1 } else { 1 });
        *again = 0;
        false
    }
}

/// Whether there may be new lines: something of the instance runs, or will by itself.
async fn runs(client: &Client, instance: Selector) -> Result<bool, Failure> {
    match client.request(Request::RuntimeShow { instance }).await? {
        Reply::Runtime(detail) => {
            let observed = &detail.info.observed;
            let will = matches!(observed, Observed::Waiting { .. } | Observed::BackOff { .. });
            Ok(will || observed.is_active())
        }
        _ => Err(Failure::unexpected_reply()),
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

struct Printer {
    form: Form,
    /// The one stream that was asked for.
    wanted: Option<LogStream>,
    /// The stream whose line was printed in part.
    unfinished: Option<LogStream>,
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
        self.unfinished = (!line.complete).then_some(line.stream);
        Ok(())
    }

    /// What stands before this line or part of a line.
    fn head(&self, line: &LogLine, paint: impl Fn(AnsiColor, &str) -> String) -> String {
        if self.form == Form::Raw || self.unfinished == Some(line.stream) {
            return String::new();
        }
        // A line of another stream begins while one is not finished.
        let end = if self.unfinished.is_some() { "\n" } else { "" };
        let time = format::time_ns(line.time_ns);
        if self.form == Form::Time {
            return format!("{end}{time} ");
        }
        let color = match line.stream {
            LogStream::Stdout => AnsiColor::Green,
            LogStream::Stderr => AnsiColor::Red,
            LogStream::Telemetry => AnsiColor::Blue,
            LogStream::Orchestrator => AnsiColor::Yellow,
        };
        format!("{end}{time} {} ", paint(color, &line.stream.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_not_seen_again() {
        let mut seen = Seen::default();
        for time in [1, 2, 2] {
            assert!(!seen.is_again(time, &mut 0));
        }
        for _ in 0..2 {
            let mut again = seen.lines;
            let times = [2, 2, 2, 3, 3];
            let kept = times.map(|time| !seen.is_again(time, &mut again));
            assert_eq!(kept, [false, false, true, true, true]);
            seen = Seen { time_ns: Some(2), lines: 2 };
        }
    }

    fn heads(form: Form, lines: &[(LogStream, bool)]) -> Vec<String> {
        let mut printer = Printer { form, wanted: None, unfinished: None };
        lines
            .iter()
            .map(|(stream, complete)| {
                let line = LogLine {
                    time_ns: 1_000_000,
                    stream: *stream,
                    complete: *complete,
                    text: "x".into(),
                };
                let head = printer.head(&line, |_, text| text.to_owned());
                printer.unfinished = (!complete).then_some(*stream);
                head
            })
            .collect()
    }

    #[test]
    fn parts_of_a_line_have_one_head() {
        let (out, err) = (LogStream::Stdout, LogStream::Stderr);
        let lines = [(out, false), (out, true), (err, false), (out, true)];
        let time = "1970-01-01T00:00:00.001Z";
        assert_eq!(heads(Form::Raw, &lines), ["", "", "", ""]);
        assert_eq!(
            heads(Form::TimeAndStream, &lines),
            [
                format!("{time} stdout "),
                String::new(),
                format!("{time} stderr "),
                format!("\n{time} stdout "),
            ]
        );
        assert_eq!(heads(Form::Time, &lines[..1]), [format!("{time} ")]);
    }
}
