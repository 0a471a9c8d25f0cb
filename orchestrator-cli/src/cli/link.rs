//! `link …`

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use orchestrator_proto::control::{LinkSpec, Policy, TargetSpec, Transport};
use orchestrator_proto::{LinkId, Millis};

use super::value;
use crate::complete;
use crate::replay::Rate;

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// Send messages of a type from one instance, or from any, to a target.
    ///
    /// Prints `added link ID`, or `link ID was there already`.
    #[command(after_help = "Examples:
  orchestrator-cli link add --from ping --type Ping --to pong
  orchestrator-cli link add --type Position --to display --policy latest --history 1
  orchestrator-cli link add --from log --type Line --to disk --policy block --block-timeout 500ms
  orchestrator-cli link add --from camera --type Image --to detector --transport direct
  orchestrator-cli link add --type Alarm --to udp:192.168.1.7:5000")]
    Add(LinkAdd),

    /// Change the rules of links, while messages pass over them.
    ///
    /// What waits in a link stays in it, in its order, but for what there is no room for under
    /// `drop-oldest` or `latest`. A link that carries calls has no rules: to set them is refused.
    #[command(after_help = "Examples:
  orchestrator-cli link set 3 --capacity 64
  orchestrator-cli link set 3 4 --policy block
  orchestrator-cli link set 3 --block-timeout 2s --history 10
  orchestrator-cli link set 3 --transport routed")]
    Set(LinkSet),

    /// Remove links. Messages that wait in them are dropped.
    #[command(after_help = "Example:\n  orchestrator-cli link remove 3 4")]
    Remove {
        /// Numbers of links, as shown by `link list`. Example: link remove 3
        #[arg(required = true, value_name = "LINK", value_parser = value::link_id,
              add = complete::links())]
        links: Vec<LinkId>,
    },

    /// List all links and what passed over them.
    #[command(after_help = "Example:\n  orchestrator-cli link list")]
    List,

    /// Show messages as they pass, until Ctrl-C.
    #[command(after_help = "Examples:
  orchestrator-cli link tap
  orchestrator-cli link tap --type Ping --from ping --count 10 --json")]
    Tap(LinkTap),

    /// Record messages as they pass into a file, until Ctrl-C.
    ///
    /// The file is an MCAP file (<https://mcap.dev>) with the schemas of all messages in it. Recording
    /// never slows a link: what this program is too slow for is counted, and noted in the file. What
    /// was recorded more than a second ago can be read, however it ends.
    #[command(after_help = "Examples:
  orchestrator-cli link record -o drive.mcap
  orchestrator-cli link record --type acme.imu.v1 --type acme.gps.v1 -o imu.mcap --duration 10s
  orchestrator-cli link record --link 3 --encoding postcard -o exact.mcap")]
    Record(LinkRecord),

    /// Send messages to an instance yourself, written as JSON.
    ///
    /// Prints how each went, when the instance has it. The instance gets it like one of its links'
    /// messages; no link is needed, and none counts it. Taps see it.
    #[command(after_help = "Examples:
  orchestrator-cli link send motor --type acme.speed.v1 '{\"metres_per_s\": 1.5}'
  orchestrator-cli link send motor --type acme.speed.v1 --timeout 30s 'null'
  jq -c '.[]' speeds.json | orchestrator-cli link send motor --type acme.speed.v1 -")]
    Send(LinkSend),

    /// Call a service yourself, and print its reply as JSON.
    ///
    /// No link is needed, and none counts it. Taps see it. Ends with 6 if there was no reply in time,
    /// and with 7 if the service failed or went away: then what was asked may have been done.
    #[command(after_help = "Examples:
  orchestrator-cli link call divider --type examples.divide.v1 '{\"dividend\": 7, \"divisor\": 2}'
  orchestrator-cli link call arm --type acme.move.v1 --timeout 1m '{\"to\": [0.1, 0.2]}'
  orchestrator-cli link call divider --type examples.divide.v1 - < requests.jsonl")]
    Call(LinkCall),
    /// Play a recording: its messages go over the links of those who sent them, at the times at which
    /// they were sent.
    ///
    /// Policies, counters, histories and taps of these links hold as for any message. Where a link with
    /// the policy block has no room, the replay waits. An instance that sent and is still connected sends
    /// as well. A recording that was cut off is played up to where it is whole. Calls are not played, which
    /// is said.
    #[command(after_help = "Examples:
  orchestrator-cli link replay drive.mcap
  orchestrator-cli link replay drive.mcap --type acme.imu.v1 --to filter --rate 4
  orchestrator-cli link replay drive.mcap --link 3 --skip 10s --loop
  orchestrator-cli link replay drive.mcap --rate max --json")]
    Replay(LinkReplay),
}

#[derive(Args, Debug)]
pub(crate) struct LinkAdd {
    /// Whose messages, by id or name; anybody's without it. Example: --from ping
    #[arg(long, value_name = "INSTANCE", add = complete::instances())]
    pub(crate) from: Option<String>,

    /// The declared name of the messages' type. Example: --type Ping
    #[arg(long = "type", value_name = "NAME", add = complete::types())]
    pub(crate) type_name: String,

    /// Who gets them: an instance by id or name, or another orchestrator as udp:HOST:PORT.
    /// Example: --to pong
    #[arg(long, value_name = "TARGET", add = complete::instances())]
    pub(crate) to: TargetSpec,

    /// What happens when there is no room: block, drop-newest, drop-oldest (default) or latest.
    /// Example: --policy latest
    #[arg(long)]
    pub(crate) policy: Option<Policy>,

    /// How many messages may wait, 1 to 1048576; 1024 without it. Example: --capacity 64
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LinkSpec::MAX_CAPACITY)))]
    pub(crate) capacity: Option<u32>,

    /// How long --policy block holds a sender back. What it sends after that is dropped, and
    /// counted, until there is room again; 0, and without it, is without end.
    /// Example: --block-timeout 500ms
    #[arg(long, value_name = "TIME")]
    pub(crate) block_timeout: Option<Millis>,

    /// How many of the last messages a receiver gets that connects later, 0 to 65536; none without
    /// it. Example: --history 1
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=i64::from(LinkSpec::MAX_HISTORY)))]
    pub(crate) history: Option<u32>,

    /// Which way its messages go: auto (default) is from instance to instance where that is
    /// possible, else through the daemon; routed is through the daemon, always; direct is as auto,
    /// but `link list` says why where it is not; shm is through memory that both ends share, and
    /// direct where that is not possible. Example: --transport shm
    #[arg(long, add = complete::transports())]
    pub(crate) transport: Option<Transport>,

    /// With --transport shm: for how many microseconds an end that waits keeps a processor busy
    /// before it sleeps, 0 to 10000; not at all without it. What saves the time of a wake-up costs
    /// a processor for as long. Example: --spin-us 50
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=i64::from(LinkSpec::MAX_SPIN_US)))]
    pub(crate) spin_us: Option<u32>,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("rules").required(true).multiple(true)
    .args(["policy", "capacity", "block_timeout", "history", "transport", "spin_us"]))]
pub(crate) struct LinkSet {
    /// Numbers of links, as shown by `link list`. Example: link set 3 --policy latest
    #[arg(required = true, value_name = "LINK", value_parser = value::link_id,
          add = complete::links())]
    pub(crate) links: Vec<LinkId>,

    /// What happens from now on when there is no room: block, drop-newest, drop-oldest or latest.
    /// Example: --policy block
    #[arg(long)]
    pub(crate) policy: Option<Policy>,

    /// How many messages may wait from now on, 1 to 1048576. Example: --capacity 64
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LinkSpec::MAX_CAPACITY)))]
    pub(crate) capacity: Option<u32>,

    /// How long the policy block holds a sender back from now on; 0 is without end.
    /// Example: --block-timeout 500ms
    #[arg(long, value_name = "TIME")]
    pub(crate) block_timeout: Option<Millis>,

    /// How many of the last messages a receiver gets that connects later, 0 to 65536. What was
    /// sent before that is remembered only if it was so before. Example: --history 1
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=i64::from(LinkSpec::MAX_HISTORY)))]
    pub(crate) history: Option<u32>,

    /// Which way messages go from now on: auto is from instance to instance where that is possible,
    /// else through the daemon; routed is through the daemon, always; direct is as auto, but `link
    /// list` says why where it is not; shm is through memory that both ends share, and direct where
    /// that is not possible. Example: --transport routed
    #[arg(long, add = complete::transports())]
    pub(crate) transport: Option<Transport>,

    /// With the transport shm: for how many microseconds an end that waits keeps a processor busy
    /// from now on before it sleeps, 0 to 10000. Example: --spin-us 50
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=i64::from(LinkSpec::MAX_SPIN_US)))]
    pub(crate) spin_us: Option<u32>,
}

/// How the payloads of a recording are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum RecordEncoding {
    /// As JSON, with a JSON Schema: other tools can show it
    Json,
    /// As it was sent, byte by byte
    Postcard,
}

#[derive(Args, Debug)]
pub(crate) struct LinkRecord {
    /// Only messages of these types. Example: --type acme.imu.v1 --type acme.gps.v1
    #[arg(long = "type", value_name = "NAME", add = complete::types())]
    pub(crate) types: Vec<String>,

    /// Only messages from these instances. Example: --from camera
    #[arg(long, value_name = "INSTANCE", add = complete::instances())]
    pub(crate) from: Vec<String>,

    /// Messages over these links, besides what --type and --from say. Example: --link 3
    #[arg(long = "link", value_name = "LINK", value_parser = value::link_id,
          add = complete::links())]
    pub(crate) links: Vec<LinkId>,

    /// The file to write. Example: -o drive.mcap
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    /// How payloads are written. Veecle OS runtimes' are JSON either way. Example: --encoding postcard
    #[arg(long, value_enum, default_value = "json")]
    pub(crate) encoding: RecordEncoding,

    /// Write over a file that is there. Example: --force
    #[arg(long)]
    pub(crate) force: bool,

    /// End after this many messages. Example: --count 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// End after this time. Example: --duration 10s
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<Millis>,
}

#[derive(Args, Debug)]
pub(crate) struct LinkSend {
    /// Who gets it: an instance by id or name. Example: link send motor --type Stop null
    #[arg(value_name = "TARGET", add = complete::instances())]
    pub(crate) target: String,

    /// The message as JSON, as `link tap` shows it; or `-` to read messages from standard input, one
    /// on each line. Ends at the first that fails. Example: link send motor --type Gear 3
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) message: String,

    /// The declared name of its type. Example: --type acme.speed.v1
    #[arg(long = "type", value_name = "NAME")]
    pub(crate) type_name: String,

    /// How long each message may take until the instance has it: a program that has just been
    /// started may have to connect first. Example: --timeout 30s
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) timeout: Millis,
}

#[derive(Args, Debug)]
pub(crate) struct LinkCall {
    /// Who is called: an instance by id or name. Example: link call arm --type Where null
    #[arg(value_name = "TARGET", add = complete::instances())]
    pub(crate) target: String,

    /// The request as JSON; or `-` to read requests from standard input, one on each line, and to call
    /// one after the other. Ends at the first that fails. Example: link call arm --type Joint 3
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) request: String,

    /// The declared name of its type. Example: --type acme.move.v1
    #[arg(long = "type", value_name = "NAME")]
    pub(crate) type_name: String,

    /// How long the reply may take. Example: --timeout 30s
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) timeout: Millis,
}

#[derive(Args, Debug)]
pub(crate) struct LinkReplay {
    /// A file that `link record` has written. Example: link replay drive.mcap
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Only messages of these types. Example: --type acme.imu.v1 --type acme.gps.v1
    #[arg(long = "type", value_name = "NAME", add = complete::types())]
    pub(crate) types: Vec<String>,

    /// Over these links, whoever they are from, and over no other. Example: --link 3
    #[arg(long = "link", value_name = "LINK", value_parser = value::link_id,
          add = complete::links())]
    pub(crate) links: Vec<LinkId>,

    /// Over the links to this instance, whoever they are from, and over no other. Example: --to filter
    #[arg(long, value_name = "INSTANCE", add = complete::instances())]
    pub(crate) to: Option<String>,

    /// How fast: 2 is twice as fast as it was recorded; max, or 0, as fast as the links take it.
    /// Example: --rate 0.5
    #[arg(long, value_name = "RATE", default_value = "1")]
    pub(crate) rate: Rate,

    /// Pass over the beginning of the recording, so much of it. Example: --skip 10s
    #[arg(long, value_name = "TIME", default_value = "0")]
    pub(crate) skip: Millis,

    /// Play it again and again, until Ctrl-C. Example: --loop
    #[arg(long = "loop")]
    pub(crate) again: bool,
}

#[derive(Args, Debug)]
pub(crate) struct LinkTap {
    /// Only messages of this type. Example: --type Ping
    #[arg(long = "type", value_name = "NAME", add = complete::types())]
    pub(crate) type_name: Option<String>,

    /// Only messages from this instance. Example: --from ping
    #[arg(long, value_name = "INSTANCE", add = complete::instances())]
    pub(crate) from: Option<String>,

    /// End after this many messages. Example: --count 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}
