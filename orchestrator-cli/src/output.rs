//! Where results and failures are printed, for people or as JSON.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use crate::cli::ColorWhen;
use crate::failure::{Failure, Report};
use crate::format;

/// Standard output, standard error, and how to write to them.
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
    terminal: bool,
    stdout_color: bool,
    stderr_color: bool,
}

impl Output {
    pub(crate) fn new(json: bool, color: ColorWhen) -> Self {
        // https://no-color.org: set and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = |terminal: bool| match color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && !no_color,
        };
        let terminal = io::stdout().is_terminal();
        Self {
            stdout: BufWriter::with_capacity(64 << 10, io::stdout()),
            json,
            terminal,
            stdout_color: color(terminal),
            stderr_color: color(io::stderr().is_terminal()),
        }
    }

    /// Whether to print JSON instead of text for people.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether standard output is a terminal.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether standard output takes colours.
    pub(crate) const fn is_coloured(&self) -> bool {
        self.stdout_color
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Prints these bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.stdout.write_all(bytes);
        written.map_err(|error| Failure::output(&error))
    }

    /// Prints a reply as JSON: easy to read on a terminal, one line otherwise.
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        if self.terminal {
            let text = serde_json::to_string_pretty(value);
            self.json_text(text)
        } else {
            self.json_line(value)
        }
    }

    /// Prints an item of a stream as JSON on one line.
    pub(crate) fn json_line<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        self.json_text(serde_json::to_string(value))
    }

    fn json_text(&mut self, text: serde_json::Result<String>) -> Result<(), Failure> {
        let text = text.map_err(|error| Failure::io("can't print it as JSON", &error.into()))?;
        self.line(&text)
    }

    /// Hands over what was printed so far.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|error| Failure::output(&error))
    }

    /// `text` in a colour, if standard output takes colours.
    pub(crate) fn paint(&self, color: AnsiColor, text: &str) -> String {
        paint(self.stdout_color, Style::new().fg_color(Some(color.into())), text)
    }

    /// Prints what is not right but did not prevent success.
    pub(crate) fn warning(&mut self, text: &str) {
        self.remark(AnsiColor::Yellow, "warning", text);
    }

    /// Prints what to do.
    pub(crate) fn hint(&mut self, text: &str) {
        self.remark(AnsiColor::Cyan, "hint", text);
    }

    fn remark(&mut self, color: AnsiColor, word: &str, text: &str) {
        // On a terminal both are seen in the order in which they were written. A failure of
        // standard output comes up again at the next flush.
        let _ = self.stdout.flush();
        let style = Style::new().fg_color(Some(color.into())).bold();
        let word = paint(self.stderr_color, style, word);
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(io::stderr(), "{word}: {}", format::lines(text));
    }

    /// Prints a failure.
    pub(crate) fn report(&mut self, report: &Report) {
        if self.json {
            let _ = self.stdout.flush();
            // Text and lists of text always become JSON.
            if let Ok(json) = report_json(report) {
                let _ = writeln!(io::stderr(), "{json}");
            }
            return;
        }
        self.remark(AnsiColor::Red, "error", &report.message);
        for cause in &report.causes {
            let _ = writeln!(io::stderr(), "  because: {}", format::lines(cause));
        }
        if let Some(hint) = &report.hint {
            self.hint(hint);
        }
    }
}

fn paint(on: bool, style: Style, text: &str) -> String {
    if on { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// `{"error":{"code":…,"message":…,"causes":[…]}}`
#[derive(Serialize)]
struct JsonReport<'a> {
    error: JsonError<'a>,
}

#[derive(Serialize)]
struct JsonError<'a> {
    code: &'a str,
    message: &'a str,
    causes: &'a [String],
}

fn report_json(report: &Report) -> serde_json::Result<String> {
    let error = JsonError { code: report.code, message: &report.message, causes: &report.causes };
    serde_json::to_string(&JsonReport { error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_failure_as_json() {
        let report = Report {
            exit: Exit::Failed,
            code: "io",
            message: "m".into(),
            causes: vec!["c".into()],
            hint: None,
        };
        let expected = r#"{"error":{"code":"io","message":"m","causes":["c"]}}"#;
        assert_eq!(report_json(&report).unwrap(), expected);
    }

    #[test]
    fn colours_surround_the_text() {
        let style = Style::new().fg_color(Some(AnsiColor::Red.into()));
        assert_eq!(paint(true, style, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(paint(false, style, "x"), "x");
    }
}
