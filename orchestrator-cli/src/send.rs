//! `link send`, `link call`

use std::io::{self, BufRead, BufReader, Read};

use orchestrator_proto::InstanceId;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Called, Reply, Request, SendSpec};
use orchestrator_proto::frame::MAX_CONTROL;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::cli::{LinkCall, LinkSend};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::{action, format};

/// Stands for standard input.
const STDIN: &str = "-";

/// The longest line of standard input, bytes: with the rest of a request it has to fit a frame.
const MAX_LINE: usize = MAX_CONTROL - 1024;

/// Lines that are read ahead.
const AHEAD: usize = 16;

/// `link send`
pub(crate) async fn send(
    client: &Client,
    out: &mut Output,
    args: LinkSend,
) -> Result<Exit, Failure> {
    let LinkSend { target, message, type_name, timeout } = args;
    let to = target.into();
    let spec = SendSpec { to, type_name, payload: message, timeout };
    each(client, out, spec, Request::LinkSend).await
}

/// `link call`
pub(crate) async fn call(
    client: &Client,
    out: &mut Output,
    args: LinkCall,
) -> Result<Exit, Failure> {
    let LinkCall { target, request, type_name, timeout } = args;
    let to = target.into();
    let spec = SendSpec { to, type_name, payload: request, timeout };
    each(client, out, spec, Request::LinkCall).await
}

/// What is given, or each line of standard input, one after the other.
async fn each(
    client: &Client,
    out: &mut Output,
    spec: SendSpec,
    request: fn(SendSpec) -> Request,
) -> Result<Exit, Failure> {
    if spec.payload != STDIN {
        return one(client, out, request(spec)).await;
    }
    let mut lines = lines();
    while let Some((number, line)) = lines.recv().await {
        let line = line.map_err(|error| Failure::io("can't read standard input", &error))?;
        if line.trim().is_empty() {
            continue;
        }
        let request = request(SendSpec { payload: line, ..spec.clone() });
        one(client, out, request).await.map_err(|failure| of_line(failure, number))?;
        // Whoever waits for it sees each when it is done.
        out.flush()?;
    }
    Ok(Exit::Ok)
}

async fn one(client: &Client, out: &mut Output, request: Request) -> Result<Exit, Failure> {
    let reply = client.request(request).await?;
    match &reply {
        Reply::LinkCalled(called) if out.is_json() => {
            out.json_line(&JsonReply { called: JsonCalled::new(called)? })?;
            Ok(Exit::Ok)
        }
        Reply::LinkCalled(called) => {
            out.line(&format::line(&called.reply))?;
            Ok(Exit::Ok)
        }
        _ => action::tell(out, &reply, false),
    }
}

/// A reply as JSON, as [`Reply`] would be but for what the service said: that is JSON itself and not
/// JSON in a string.
#[derive(Serialize)]
struct JsonReply<'a> {
    #[serde(rename = "link-called")]
    called: JsonCalled<'a>,
}

#[derive(Serialize)]
struct JsonCalled<'a> {
    id: InstanceId,
    type_name: &'a str,
    /// Kept as it is written, so that no digit of a large number is lost.
    reply: &'a RawValue,
}

impl<'a> JsonCalled<'a> {
    fn new(called: &'a Called) -> Result<Self, Failure> {
        let Called { id, type_name, reply } = called;
        let reply = serde_json::from_str(reply).map_err(|_| Failure::unexpected_reply())?;
        Ok(Self { id: *id, type_name, reply })
    }
}

/// Says which line it was. Those before it were sent.
fn of_line(failure: Failure, number: u64) -> Failure {
    match failure {
        Failure::Report(mut report) => {
            report.message = format!("line {number}: {}", report.message);
            Failure::Report(report)
        }
        closed @ Failure::OutputClosed => closed,
    }
}

/// A line with its number, the first is 1.
type Line = (u64, io::Result<String>);

/// The lines of standard input, as they come. Ends after an error.
fn lines() -> mpsc::Receiver<Line> {
    let (sender, lines) = mpsc::channel(AHEAD);
    // Nothing can interrupt a read of it, so the thread ends with the program.
    std::thread::spawn(move || {
        let mut input = BufReader::new(io::stdin());
        for number in 1.. {
            let line = match line(&mut input) {
                Ok(None) => return,
                Ok(Some(line)) => Ok(line),
                Err(error) => Err(error),
            };
            let is_last = line.is_err();
            if sender.blocking_send((number, line)).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

/// The next line with its newline; none at the end.
fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    if line.len() > MAX_LINE {
        let message = format!("a line has more than {MAX_LINE} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    if line.is_empty() {
        return Ok(None);
    }
    let line = String::from_utf8(line);
    line.map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_text() {
        let mut input = &b"1\n\n2"[..];
        let mut next = || line(&mut input).unwrap();
        assert_eq!([next(), next(), next()].map(Option::unwrap), ["1\n", "\n", "2"]);
        assert_eq!(next(), None);
        assert!(line(&mut &b"\xff\n"[..]).is_err());
        let long = vec![b'1'; MAX_LINE + 2];
        assert!(line(&mut &long[..]).is_err());
    }
}
