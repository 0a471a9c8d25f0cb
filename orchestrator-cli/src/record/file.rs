//! A recording as a file: MCAP, <https://mcap.dev/spec>.
//!
//! Each sender's messages of one type are a channel, called `/SENDER/TYPE`; it says in its metadata
//! which instance that is, and by which schema the payloads were written, so that they can be made
//! of what stands there. Whatever is missing stands between the messages, as metadata.

use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, Write};

use mcap::records::{MessageHeader, Metadata};
use mcap::{Compression, McapError, WriteOptions, Writer};
use orchestrator_proto::control::{RecordSource, RecordedMessage};
use orchestrator_proto::{SchemaHash, TypeSchema};
use serde::de::IgnoredAny;

use crate::cli::RecordEncoding;

/// How the content of messages is called that are written as their senders wrote them.
pub(crate) const POSTCARD: &str = "postcard";
/// And their schemas, in canonical form.
pub(crate) const CANONICAL: &str = "orchestrator";
/// Keys of a channel's metadata.
pub(crate) mod key {
    /// The sender's id.
    pub(crate) const INSTANCE: &str = "instance";
    /// The sender's name.
    pub(crate) const NAME: &str = "name";
    /// The declared name of the type.
    pub(crate) const TYPE: &str = "type";
    /// The schema's hash.
    pub(crate) const HASH: &str = "hash";
    /// The schema in canonical form, in hexadecimal digits.
    pub(crate) const SCHEMA: &str = "schema";
}

/// Bytes of messages that are compressed together: 1 MiB.
const CHUNK: u64 = 1 << 20;

/// A recording that is being written.
pub(crate) struct Recording<W: Write + Seek> {
    writer: Writer<W>,
    encoding: RecordEncoding,
    /// By the numbers of their sources.
    channels: HashMap<u32, Channel>,
    /// How many messages of each channel there were, by its number in the file.
    sequences: HashMap<u16, u32>,
    pub(crate) messages: u64,
    pub(crate) missed: u64,
}

struct Channel {
    number: u16,
    /// None for what is JSON already.
    schema: Option<TypeSchema>,
}

impl<W: Write + Seek> Recording<W> {
    pub(crate) fn begin(file: W, encoding: RecordEncoding) -> Result<Self, McapError> {
        let writer = WriteOptions::new()
            .profile("")
            .library(concat!("orchestrator ", env!("CARGO_PKG_VERSION")))
            .chunk_size(Some(CHUNK))
            // Such a piece is written when it is complete, so that no half of one is ever there.
            .disable_seeking(true)
            .compression(Some(Compression::Zstd))
            .create(file)?;
        let (channels, sequences) = (HashMap::new(), HashMap::new());
        Ok(Self { writer, encoding, channels, sequences, messages: 0, missed: 0 })
    }

    /// Another stream begins, with numbers of its own.
    pub(crate) fn forget_sources(&mut self) {
        self.channels.clear();
    }

    /// What messages of this number are from now on.
    pub(crate) fn source(&mut self, source: &RecordSource) -> Result<(), McapError> {
        let schema =
            source.schema.as_deref().and_then(|it| Some((it, TypeSchema::decode(it).ok()?)));
        let is_raw = self.encoding == RecordEncoding::Postcard;
        let name = &source.type_name;
        let number = match &schema {
            Some((canonical, _)) if is_raw => self.writer.add_schema(name, CANONICAL, canonical)?,
            Some((_, schema)) => {
                let text = schema.to_json_schema(name).to_string();
                self.writer.add_schema(name, "jsonschema", text.as_bytes())?
            }
            None => 0,
        };
        let encoding = if is_raw && schema.is_some() { POSTCARD } else { "json" };
        let metadata = metadata(source, schema.as_ref().map(|(canonical, _)| *canonical));
        let number = self.writer.add_channel(number, &topic(source), encoding, &metadata)?;
        let schema = schema.map(|(_, schema)| schema);
        self.channels.insert(source.number, Channel { number, schema });
        Ok(())
    }

    /// Writes a message. What can't be written is missing, and is said to be.
    pub(crate) fn message(&mut self, message: &RecordedMessage) -> Result<(), McapError> {
        let Some(channel) = self.channels.get(&message.source) else {
            return self.missed(message.time_ns, 1, "it is of no sender that was told of");
        };
        let is_raw = self.encoding == RecordEncoding::Postcard;
        let json = match &channel.schema {
            Some(_) if is_raw => Ok(None),
            Some(schema) => schema.to_json(&message.payload).map(Some).map_err(|it| it.to_string()),
            None => literal(&message.payload).map(Some),
        };
        let json = match json {
            Ok(json) => json,
            Err(why) => return self.missed(message.time_ns, 1, &why),
        };
        let sequence = self.sequences.entry(channel.number).or_default();
        *sequence = sequence.wrapping_add(1);
        let header = MessageHeader {
            channel_id: channel.number,
            sequence: *sequence,
            log_time: message.time_ns,
            publish_time: message.sent_ns.unwrap_or(message.time_ns),
        };
        let data = json.as_ref().map_or(&*message.payload, String::as_bytes);
        self.writer.write_to_known_channel(&header, data)?;
        self.messages += 1;
        Ok(())
    }

    /// So many messages are missing here; 0: nobody knows how many.
    pub(crate) fn missed(&mut self, time_ns: u64, count: u64, why: &str) -> Result<(), McapError> {
        self.missed += count;
        let metadata = BTreeMap::from([
            ("time_ns".to_owned(), time_ns.to_string()),
            ("count".to_owned(), count.to_string()),
            ("reason".to_owned(), why.to_owned()),
        ]);
        self.writer.write_metadata(&Metadata { name: "missed".to_owned(), metadata })
    }

    /// What was written so far can be read, whatever comes.
    pub(crate) fn flush(&mut self) -> Result<(), McapError> {
        self.writer.flush()
    }

    /// Ends it, with an index of all that is in it.
    pub(crate) fn finish(mut self) -> Result<W, McapError> {
        self.writer.finish()?;
        Ok(self.writer.into_inner())
    }
}

/// The content of a JSON string that holds JSON.
fn literal(payload: &[u8]) -> Result<String, String> {
    let content = serde_json::from_slice::<String>(payload);
    let checked = content.and_then(|it| serde_json::from_str::<IgnoredAny>(&it).map(|_| it));
    checked.map_err(|error| format!("its payload is no JSON: {error}"))
}

fn topic(source: &RecordSource) -> String {
    let from = match (&source.from_name, source.from) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "udp".to_owned(),
    };
    format!("/{from}/{}", source.type_name)
}

fn metadata(source: &RecordSource, canonical: Option<&[u8]>) -> BTreeMap<String, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let entries = [
        (key::INSTANCE, source.from.map(|id| id.to_string())),
        (key::NAME, source.from_name.clone()),
        (key::TYPE, Some(source.type_name.clone())),
        (key::HASH, canonical.map(|canonical| SchemaHash::of(canonical).to_string())),
        (key::SCHEMA, canonical.map(hex)),
    ];
    entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
