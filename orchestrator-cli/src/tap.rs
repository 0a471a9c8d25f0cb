//! `link tap`

use clap::builder::styling::AnsiColor;
use orchestrator_proto::InstanceId;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Item, Request, TapFilter, TapMessage};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::LinkTap;
use crate::failure::{Exit, Failure};
use crate::logs::Next;
use crate::output::Output;
use crate::{format, logs};

/// `link tap`
pub(crate) async fn tap(client: &Client, out: &mut Output, args: LinkTap) -> Result<Exit, Failure> {
    let filter = TapFilter { type_name: args.type_name, from: args.from.map(Into::into) };
    let mut items = client.stream(Request::LinkTap(filter.clone())).await?;
    let mut left = args.count;
    loop {
        let item = match logs::next(&mut items, out).await? {
            Next::Item(item) => item,
            Next::End => break,
            Next::Replaced => {
                items = client.stream(Request::LinkTap(filter.clone())).await?;
                let reason = "the daemon was replaced, and what passed meanwhile was not seen";
                Item::Missed { count: 0, reason: reason.to_owned() }
            }
        };
        let is_message = matches!(item, Item::Message(_));
        match item {
            Item::Message(message) if out.is_json() => {
                out.json_line(&JsonItem { message: JsonMessage::new(&message) })?
            }
            item if out.is_json() => out.json_line(&item)?,
            Item::Message(message) => {
                let text = sentence(&message, |text| out.paint(AnsiColor::Cyan, text));
                out.line(&text)?;
            }
            Item::Missed { count, reason } => logs::missed(out, count, &reason),
            Item::Log(_)
            | Item::Event(_)
            | Item::Source(_)
            | Item::Recorded(_)
            | Item::Replaying(_)
            | Item::Fed(_) => {
                return Err(Failure::unexpected_reply());
            }
        }
        if let Some(left) = left.as_mut().filter(|_| is_message) {
            *left -= 1;
            if *left == 0 {
                break;
            }
        }
    }
    Ok(Exit::Ok)
}

/// A message as JSON, as [`Item`] would be but for the payload: that is JSON itself and not JSON
/// in a string.
#[derive(Serialize)]
struct JsonItem<'a> {
    message: JsonMessage<'a>,
}

#[derive(Serialize)]
struct JsonMessage<'a> {
    time_ns: u64,
    from: Option<InstanceId>,
    from_name: Option<&'a str>,
    type_name: &'a str,
    links: u32,
    size: u64,
    /// Kept as it is written, so that no digit of a large number is lost.
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_error: Option<String>,
}

impl<'a> JsonMessage<'a> {
    fn new(message: &'a TapMessage) -> Self {
        let payload = match &message.payload {
            Ok(json) => serde_json::from_str(json).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        let (payload, payload_error) = match payload {
            Ok(payload) => (Some(payload), None),
            Err(why) => (None, Some(why)),
        };
        Self {
            time_ns: message.time_ns,
            from: message.from,
            from_name: message.from_name.as_deref(),
            type_name: &message.type_name,
            links: message.links,
            size: message.size,
            payload,
            payload_error,
        }
    }
}

/// `TIME SENDER TYPE to 2 links: PAYLOAD`
fn sentence(message: &TapMessage, paint: impl Fn(&str) -> String) -> String {
    let from = match (&message.from_name, message.from) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => id.to_string(),
        // A datagram of another orchestrator, or `link send`.
        (None, None) => "outside".into(),
    };
    let links = match message.links {
        0 => "to no link".into(),
        links => format!("to {}", format::count(links.into(), "link")),
    };
    let payload = match &message.payload {
        Ok(json) => json.clone(),
        Err(why) => format!("{} ({why})", format::count(message.size, "byte")),
    };
    format!(
        "{} {} {} {links}: {}",
        format::time_ns(message.time_ns),
        format::line(&from),
        paint(&format::line(&message.type_name)),
        format::line(&payload),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let mut message = TapMessage {
            time_ns: 0,
            from: None,
            from_name: Some("ping".into()),
            type_name: "Ping".into(),
            links: 2,
            size: 3,
            payload: Ok("{\"n\":1}".into()),
        };
        let told = |message: &TapMessage| sentence(message, str::to_owned);
        let time = "1970-01-01T00:00:00.000Z";
        assert_eq!(told(&message), format!("{time} ping Ping to 2 links: {{\"n\":1}}"));
        message.payload = Err("no schema".into());
        message.links = 0;
        message.from_name = None;
        let expected = format!("{time} outside Ping to no link: 3 bytes (no schema)");
        assert_eq!(told(&message), expected);
    }
}
