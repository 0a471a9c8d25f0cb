//! A recording as it is read: what `record::file` has written, record by record, so that files of any
//! length need no more memory than one chunk of them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use mcap::McapError;
use mcap::records::{Channel, MessageHeader, Record, op};
use mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};
use orchestrator_proto::TypeSchema;
use orchestrator_proto::control::ReplaySource;

use crate::record::file::{POSTCARD, key};

/// The longest record, and the longest chunk of them, that is read: 128 MiB.
const MAX_RECORD: usize = 128 << 20;

/// What is played of a recording.
pub(crate) struct Contents {
    /// Senders and types, in the order in which they come.
    pub(crate) sources: Vec<ReplaySource>,
    /// By the numbers of channels in the file.
    pub(crate) channels: HashMap<u16, Played>,
    /// When the first message of all was sent, nanoseconds since 1970 (UTC).
    pub(crate) first_ns: u64,
    /// And the last one.
    pub(crate) last_ns: u64,
    /// Messages that are to be played.
    pub(crate) messages: u64,
    /// Channels that `link record` has not written.
    pub(crate) foreign: usize,
    /// Why it is not whole.
    pub(crate) cut: Option<String>,
}

/// A channel that is played.
#[derive(Clone)]
pub(crate) struct Played {
    /// Which of the sources.
    pub(crate) source: u32,
    content: Content,
}

/// How payloads are written in the file.
#[derive(Clone)]
enum Content {
    /// As they were sent.
    AsSent,
    /// As JSON, by this schema.
    Json(TypeSchema),
    /// As JSON, and were sent as such in a string.
    Literal,
}

impl Played {
    /// The payload as it was sent; none if that can't be made of what stands there, as of `null` for
    /// a NaN.
    pub(crate) fn payload(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.content {
            Content::AsSent => Some(data.to_vec()),
            Content::Json(schema) => schema.from_json(std::str::from_utf8(data).ok()?).ok(),
            Content::Literal => serde_json::to_vec(std::str::from_utf8(data).ok()?).ok(),
        }
    }
}

/// How reading ended.
pub(crate) enum End {
    /// There was all of it, or enough was read.
    Whole,
    /// It was cut off, or is damaged from there on.
    Cut(String),
}

/// Looks through a recording; of which types messages are to be played, all if there are none.
pub(crate) fn look(path: &Path, types: &[String]) -> Result<Contents, McapError> {
    let mut contents = Contents {
        sources: Vec::new(),
        channels: HashMap::new(),
        first_ns: u64::MAX,
        last_ns: 0,
        messages: 0,
        foreign: 0,
        cut: None,
    };
    let mut seen = std::collections::HashSet::new();
    let end = each(path, |record| {
        match record {
            Of::Channel(channel) => {
                if seen.insert(channel.id) {
                    contents.enter(&channel, types);
                }
            }
            Of::Message(header, _) => {
                contents.first_ns = contents.first_ns.min(header.log_time);
                contents.last_ns = contents.last_ns.max(header.log_time);
                contents.messages += u64::from(contents.channels.contains_key(&header.channel_id));
            }
        }
        ControlFlow::Continue(())
    })?;
    if let End::Cut(why) = end {
        contents.cut = Some(why);
    }
    contents.first_ns = contents.first_ns.min(contents.last_ns);
    Ok(contents)
}

impl Contents {
    fn enter(&mut self, channel: &Channel, types: &[String]) {
        let metadata = &channel.metadata;
        let Some(type_name) = metadata.get(key::TYPE) else {
            self.foreign += 1;
            return;
        };
        if !types.is_empty() && !types.contains(type_name) {
            return;
        }
        let Some((canonical, content)) = content(&channel.message_encoding, metadata) else {
            self.foreign += 1;
            return;
        };
        let from = metadata.get(key::NAME).or_else(|| metadata.get(key::INSTANCE));
        let source = ReplaySource {
            from: from.map(|from| from.as_str().into()),
            type_name: type_name.clone(),
            schema: canonical,
        };
        // A sender that connected to another daemon in between has another channel.
        let known = self.sources.iter().position(|known| *known == source);
        let at = known.unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        let source = u32::try_from(at).unwrap_or(u32::MAX);
        self.channels.insert(channel.id, Played { source, content });
    }
}

/// The canonical form of the schema, and how payloads are written. None if that is not understood.
fn content(
    encoding: &str,
    metadata: &BTreeMap<String, String>,
) -> Option<(Option<Vec<u8>>, Content)> {
    let canonical = metadata.get(key::SCHEMA).map(|digits| bytes(digits));
    Some(match (canonical, encoding) {
        (None, "json") => (None, Content::Literal),
        (Some(canonical), "json") => {
            let schema = TypeSchema::decode(canonical.as_deref()?).ok()?;
            (canonical, Content::Json(schema))
        }
        (Some(canonical), POSTCARD) => (Some(canonical?), Content::AsSent),
        _ => return None,
    })
}

/// Of hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        (pair.len() == 2).then(|| u8::from_str_radix(text, 16).ok())?
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

/// What there is in a recording that is played.
pub(crate) enum Of<'a> {
    Channel(Channel),
    Message(MessageHeader, &'a [u8]),
}

/// Reads a recording to its end, or until `take` has enough. Only chunks that are whole are taken.
pub(crate) fn each(
    path: &Path,
    mut take: impl FnMut(Of<'_>) -> ControlFlow<()>,
) -> Result<End, McapError> {
    let mut file = File::open(path)?;
    let options = LinearReaderOptions::default()
        .with_skip_end_magic(true)
        .with_prevalidate_chunk_crcs(true)
        .with_record_length_limit(MAX_RECORD);
    let mut reader = LinearReader::new_with_options(options);
    let mut has_begun = false;
    while let Some(event) = reader.next_event() {
        let event = match event {
            Ok(event) => event,
            // That it begins with something else is no damage: it is another file.
            Err(error) if !has_begun => return Err(error),
            Err(McapError::Io(error)) => return Err(McapError::Io(error)),
            Err(error) => return Ok(End::Cut(error.to_string())),
        };
        match event {
            LinearReadEvent::ReadRequest(wanted) => {
                let count = loop {
                    match file.read(reader.insert(wanted)) {
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        count => break count?,
                    }
                };
                reader.notify_read(count);
            }
            LinearReadEvent::Record { opcode, data } => {
                has_begun = true;
                let record = match opcode {
                    // What follows is an index of what was read.
                    op::DATA_END => return Ok(End::Whole),
                    op::CHANNEL | op::MESSAGE => mcap::parse_record(opcode, data),
                    _ => continue,
                };
                let flow = match record {
                    Ok(Record::Channel(channel)) => take(Of::Channel(channel)),
                    Ok(Record::Message { header, data }) => take(Of::Message(header, &data)),
                    Ok(_) => ControlFlow::Continue(()),
                    Err(error) => return Ok(End::Cut(error.to_string())),
                };
                if flow.is_break() {
                    return Ok(End::Whole);
                }
            }
        }
    }
    Ok(End::Cut("it has no end".to_owned()))
}
