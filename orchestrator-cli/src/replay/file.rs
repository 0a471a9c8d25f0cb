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
use orchestrator_proto::runtime::parts_of_calls;

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
    /// What is not played.
    pub(crate) calls: Calls,
    /// Why it is not whole.
    pub(crate) cut: Option<String>,
}

/// What a recording has of calls: nobody would wait for the replies.
#[derive(Default)]
pub(crate) struct Calls {
    /// By their numbers in the file.
    channels: HashMap<u16, Content>,
    requests: u64,
    /// Replies and failures.
    answers: u64,
}

impl Calls {
    /// How many calls there are. Of some there may be the request alone, or the answer.
    pub(crate) fn count(&self) -> u64 {
        self.requests.max(self.answers)
    }

    fn message(&mut self, channel: u16, data: &[u8]) {
        let Some(content) = self.channels.get(&channel) else { return };
        // As in `schema_of_calls`, requests come first.
        match content.payload(data).is_some_and(|payload| payload.first() == Some(&0)) {
            true => self.requests += 1,
            false => self.answers += 1,
        }
    }
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
        self.content.payload(data)
    }
}

impl Content {
    fn payload(&self, data: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::AsSent => Some(data.to_vec()),
            Self::Json(schema) => schema.from_json(std::str::from_utf8(data).ok()?).ok(),
            Self::Literal => serde_json::to_vec(std::str::from_utf8(data).ok()?).ok(),
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
        calls: Calls::default(),
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
            Of::Message(header, data) => {
                contents.first_ns = contents.first_ns.min(header.log_time);
                contents.last_ns = contents.last_ns.max(header.log_time);
                contents.messages += u64::from(contents.channels.contains_key(&header.channel_id));
                contents.calls.message(header.channel_id, data);
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
        let schema = canonical.as_deref().and_then(|canonical| TypeSchema::decode(canonical).ok());
        if schema.is_some_and(|schema| parts_of_calls(&schema).is_some()) {
            self.calls.channels.insert(channel.id, content);
            return;
        }
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use orchestrator_proto::control::{RecordSource, RecordedMessage};
    use orchestrator_proto::schema::Field;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::RecordEncoding;
    use crate::record::file::Recording;

    fn pose() -> TypeSchema {
        let field = |name: &str, schema| Field { name: name.to_owned(), schema };
        TypeSchema::Struct(vec![field("x", TypeSchema::F64), field("id", TypeSchema::U64)])
    }

    /// A recording of so many messages of two senders, one of which has no schema.
    fn recording(encoding: RecordEncoding, count: u32) -> Vec<u8> {
        let mut recording = Recording::begin(Cursor::new(Vec::new()), encoding).unwrap();
        for (number, schema) in [(0, Some(pose().encode())), (1, None)] {
            let type_name = format!("type.{number}");
            let (from, from_name) = (None, Some(format!("sender{number}")));
            recording.source(&RecordSource { number, from, from_name, type_name, schema }).unwrap();
        }
        for at in 0..count {
            let payload = match at % 2 {
                0 => postcard::to_stdvec(&(0.5, at)).unwrap(),
                _ => serde_json::to_vec(&format!("[{at}]")).unwrap(),
            };
            let (source, time_ns) = (at % 2, 1000 + u64::from(at));
            let message = RecordedMessage { source, time_ns, payload, sent_ns: None };
            recording.message(&message).unwrap();
            if at % 10 == 9 {
                recording.flush().unwrap();
            }
        }
        recording.finish().unwrap().into_inner()
    }

    /// The source of a message, and its payload.
    type Message = (u32, Option<Vec<u8>>);

    /// What is played of these bytes.
    fn played(bytes: &[u8]) -> Result<(Contents, Vec<Message>), McapError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let contents = look(file.path(), &[])?;
        let mut all = Vec::new();
        each(file.path(), |of| {
            if let Of::Message(header, data) = of
                && let Some(played) = contents.channels.get(&header.channel_id)
            {
                all.push((played.source, played.payload(data)));
            }
            ControlFlow::Continue(())
        })?;
        Ok((contents, all))
    }

    #[test]
    fn what_is_played_is_what_was_recorded() {
        for encoding in [RecordEncoding::Json, RecordEncoding::Postcard] {
            let (contents, all) = played(&recording(encoding, 20)).unwrap();
            assert_eq!((contents.messages, contents.foreign, &contents.cut), (20, 0, &None));
            assert_eq!((contents.first_ns, contents.last_ns), (1000, 1019));
            let names: Vec<_> = contents.sources.iter().map(|it| it.type_name.as_str()).collect();
            assert_eq!(names, ["type.0", "type.1"]);
            assert_eq!(contents.sources[0].schema, Some(pose().encode()));
            assert_eq!(contents.sources[1].schema, None);
            for (at, (source, payload)) in (0_u32..).zip(all) {
                let expected = match at % 2 {
                    0 => postcard::to_stdvec(&(0.5, at)).unwrap(),
                    _ => serde_json::to_vec(&format!("[{at}]")).unwrap(),
                };
                assert_eq!((source, payload), (at % 2, Some(expected)));
            }
        }
    }

    #[test]
    fn what_others_have_written_is_passed_over() {
        let mut writer = mcap::Writer::new(Cursor::new(Vec::new())).unwrap();
        let channel = writer.add_channel(0, "/x", "json", &BTreeMap::new()).unwrap();
        let header =
            MessageHeader { channel_id: channel, sequence: 0, log_time: 5, publish_time: 5 };
        writer.write_to_known_channel(&header, b"{}").unwrap();
        writer.finish().unwrap();
        let (contents, all) = played(&writer.into_inner().into_inner()).unwrap();
        assert_eq!((contents.foreign, contents.messages, all.len()), (1, 0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn of_what_is_cut_off_or_damaged_the_beginning_is_played(
            cut in prop::option::of(any::<prop::sample::Index>()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let whole = recording(RecordEncoding::Postcard, 40);
            let (_, expected) = played(&whole).unwrap();
            let mut bytes = whole.clone();
            if let Some(cut) = cut {
                bytes.truncate(cut.index(whole.len()));
            }
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= byte;
                }
            }
            // Or it is said that it can't be read.
            if let Ok((_, all)) = played(&bytes) {
                prop_assert!(all.len() <= expected.len());
            }
            if let Some(cut) = cut
                && let Ok((contents, all)) = played(&whole[..cut.index(whole.len())])
            {
                prop_assert_eq!(&all[..], &expected[..all.len()]);
                prop_assert!(all.len() == expected.len() || contents.cut.is_some());
            }
        }
    }
}
