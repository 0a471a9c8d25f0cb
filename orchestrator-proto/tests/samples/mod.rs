//! Values of every type that crosses the wire, with no two neighbouring fields alike.

use orchestrator_proto::control::*;
use orchestrator_proto::runtime::{
    self, Answer, CallEnd, CallFailure, CallFrame, Declare, DeclareCalls, Direction, Frame, Medium,
    Passed, RuntimeReply, RuntimeRequest, Sender, UNLIMITED,
};
use orchestrator_proto::{
    ErrorCode, InstanceId, LinkId, Millis, SchemaHash, Size, TypeSchema, WireError,
};
use serde::Serialize;
use serde_json::Value;

const NOON_MS: u64 = 1_795_175_693_000;

pub(crate) fn camera() -> InstanceId {
    "0197c5e4-7a10-7cc3-98c4-dc0c0c07398f".parse().unwrap()
}

/// A value of the code, as bytes and as what they should be read as.
pub(crate) struct Sample {
    pub(crate) type_name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Value,
}

fn sample<T: Serialize>(type_name: &'static str, value: &T) -> Sample {
    Sample {
        type_name,
        bytes: postcard::to_stdvec(value).unwrap(),
        expected: serde_json::to_value(value).unwrap(),
    }
}

/// One sample of each variant. Does not compile while a variant is missing.
macro_rules! variants {
    ($name:ident: $($pattern:pat => $value:expr),* $(,)?) => {{
        #[allow(dead_code, clippy::match_same_arms)]
        fn complete(value: &$name) { match value { $($pattern => {})* } }
        (stringify!($name), vec![$(sample(stringify!($name), &$value)),*])
    }};
}

pub(crate) fn error() -> WireError {
    WireError {
        code: ErrorCode::SpawnFailed,
        message: "camera was not started".into(),
        causes: vec!["not found".into()],
    }
}

fn spec() -> RuntimeSpec {
    RuntimeSpec {
        id: Some(camera()),
        name: Some("camera".into()),
        args: vec!["--rate".into(), "30".into()],
        env: vec![("LEVEL".into(), "debug".into())],
        cwd: Some("/tmp".into()),
        privileged: true,
        supervision: supervision(),
        log: log_rules(),
        execution: execution().into(),
        limits: limits().into(),
        listen: vec![listen()],
        replicas: Some(Replicas(200)),
        ..RuntimeSpec::new("/opt/camera")
    }
}

fn schedule() -> Schedule {
    Schedule {
        expression: "30 3 * * *".into(),
        time_zone: Some("Europe/Berlin".into()),
        overlap: Overlap::Queue,
        catch_up: true,
    }
}

fn schedule_info() -> ScheduleInfo {
    let result = RunResult::Completed { exit: Exit::Code(300) };
    ScheduleInfo {
        schedule: schedule(),
        next_ms: Some(NOON_MS),
        last: Some(LastRun { began_ms: NOON_MS, ended_ms: NOON_MS, result }),
        skipped: 300,
    }
}

fn supervision() -> Supervision {
    Supervision {
        kind: Kind::Task,
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Millis(300),
            factor: 3,
            max_delay: Millis(400),
            jitter: 4,
            reset_after: Millis(500),
            burst: 5,
            burst_within: Millis(600),
            success_exit_codes: vec![0, 200],
        },
        readiness: Readiness::Notify,
        start_timeout: Millis(700),
        liveness: Some(probe()),
        watchdog: Millis(800),
        requires: vec![requirement()],
        after: vec![After { instance: "net".into(), condition: Condition::Started }],
        stop: Stop {
            command: vec!["/bin/quit".into()],
            steps: vec![StopStep { signal: Signal(2), wait: Millis(500) }],
        },
        run_timeout: Millis(1000),
    }
}

fn log_rules() -> LogRules {
    LogRules {
        max_size: Some(Size(1 << 20)),
        max_age: Millis(900),
        keep: Some(300),
        compress: Compression::Zstd,
        when_full: WhenFull::Drop,
    }
}

fn execution() -> Execution {
    Execution {
        user: Some("camera".into()),
        group: Some("101".into()),
        groups: Some(vec!["video".into(), "102".into()]),
        umask: Some(Umask(0o27)),
        no_new_privs: true,
        keep_caps: Some(vec![Capability(3)]),
        drop_caps: vec![Capability(4), Capability(5)],
        ambient_caps: vec![Capability(10)],
        rlimit: vec![rlimit()],
        nice: Some(-7),
        cpus: Some(Cpus(vec![0, 2, 300])),
        io_class: Some(IoClass::BestEffort(6)),
        realtime: Some(Realtime::Rr(50)),
        env_file: vec![env_file()],
        inherit_env: InheritEnv::Names(vec!["DISPLAY".into()]),
        stdin: Stdin::File("/etc/camera".into()),
    }
}

fn rlimit() -> Rlimit {
    Rlimit { resource: Resource::Nofile, soft: Some(300), hard: None }
}

fn env_file() -> EnvFile {
    EnvFile { path: "/etc/camera.env".into(), optional: true }
}

fn limits() -> Limits {
    Limits {
        memory_max: Some(Size(1 << 29)),
        memory_high: Some(Size(1 << 28)),
        swap_max: Some(Size(0)),
        cpu: Some(CpuQuota(1500)),
        cpu_weight: Some(300),
        pids_max: Some(64),
        io_weight: Some(50),
        limits_required: true,
    }
}

fn probe() -> Probe {
    Probe {
        check: Check::Tcp("localhost:1".into()),
        interval: Millis(1000),
        timeout: Millis(900),
        failures: 300,
        successes: 2,
    }
}

fn requirement() -> Requirement {
    Requirement {
        instance: "db".into(),
        condition: Condition::Completed,
        on_failure: OnFailure::Ignore,
    }
}

fn info() -> RuntimeInfo {
    RuntimeInfo {
        id: camera(),
        name: Some("camera".into()),
        program: "/opt/camera".into(),
        desired: Desired::Running,
        observed: Observed::Ready { pid: 4711, since_ms: NOON_MS },
        priority: Priority::Low,
        privileged: true,
        starts: 300,
        connections: 2,
        status: "3 of 4 lenses".into(),
        schedule: Some(schedule_info()),
        replica: Some(Replica { set: "worker".into(), index: 200 }),
    }
}

fn detail() -> RuntimeDetail {
    RuntimeDetail {
        info: info(),
        args: vec!["--rate".into()],
        env: vec![("LEVEL".into(), "debug".into())],
        cwd: "/tmp".into(),
        copied: true,
        supervision: supervision(),
        added_ms: NOON_MS,
        outputs: vec!["acme.image.v1".into()],
        inputs: vec!["acme.trigger.v1".into(), "acme.zoom.v1".into()],
        sent: 1000,
        unrouted: 1001,
        protocol_errors: 1002,
        log: log_rules(),
        log_bytes_lost: 1003,
        log_blocked: Some("no space".into()),
        log_dir: "/var/lib/orchestrator/logs".into(),
        links: vec![LinkId(1), LinkId(200)],
        execution: execution(),
        limits: limits(),
        limits_unmet: vec!["no memory controller".into()],
        vitals: vitals(),
        exits: vec![PastExit {
            exit: Exit::Code(3),
            at_ms: NOON_MS,
            ran_ms: Some(1004),
            requested: true,
        }],
        listen: vec![listen_info()],
        reported: 900,
    }
}

fn listen() -> Listen {
    "http=tcp:127.0.0.1:8080".parse().unwrap()
}

fn socket(text: &str) -> ListenSocket {
    text.parse::<Listen>().unwrap().socket
}

fn listen_info() -> ListenInfo {
    ListenInfo { listen: listen(), problem: Some("in use".into()) }
}

fn vitals() -> Vitals {
    Vitals {
        restarts: 1005,
        restarts_on_end: 300,
        health: Some(Health { at_ms: NOON_MS, problem: Some("deaf".into()) }),
        usage: Some(Usage {
            cpu_percent_100: 12_345,
            cpu_over_ms: 1006,
            cpu_ms: 1007,
            memory_bytes: 1008,
            processes: 301,
        }),
    }
}

fn finding() -> Finding {
    Finding::warning("open-files", "few are left", "raise the limit")
}

fn link_info() -> LinkInfo {
    LinkInfo {
        id: LinkId(200),
        from: Some(camera()),
        from_name: Some("camera".into()),
        type_name: "acme.image.v1".into(),
        to: TargetInfo::Instance { id: camera(), name: None },
        policy: Policy::Latest,
        capacity: 1,
        state: LinkState::Mismatched { error: error() },
        counters: Counters {
            sent: 1000,
            delivered: 990,
            dropped: 7,
            queued: 3,
            drops: Drops {
                full: 1,
                too_long: 2,
                untranslatable: 3,
                failed: 4,
                timed_out: 5,
                lost: 6,
            },
            last_ms: Some(NOON_MS),
            replayed: 400,
        },
        part_of: Some(LinkId(300)),
        block_timeout: Millis(500),
        history: 300,
        transport: Transport::Shm,
        spin_us: 300,
        way: Way::Routed,
        why: Some("camera does not run".into()),
        calls: Some(CallCounters { calls: 1000, replies: 990, failed: 7, in_flight: 3 }),
        reported: 900,
    }
}

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        protocol: PROTOCOL,
        pid: 1201,
        holder_pid: 1200,
        started_ms: NOON_MS,
        socket: "/run/o.socket".into(),
        state_dir: "/var/lib/o".into(),
        runtimes: 3,
        running: 2,
        links: 300,
        ipc: None,
        telemetry: Some(TelemetryStatus {
            address: "10.0.0.7:9100".into(),
            connected: true,
            sent: 300,
            dropped: 7,
        }),
        warnings: vec!["the disk is full".into()],
    }
}

fn process(pid: u32) -> ProcessStatus {
    ProcessStatus {
        pid,
        version: Some("0.1.0".into()),
        started_ms: NOON_MS,
        resident_bytes: 4 << 20,
        open_files: 12,
    }
}

fn daemon_status() -> DaemonStatus {
    DaemonStatus {
        holder: process(1200),
        daemon: process(1201),
        capture: Some(ProcessStatus { version: None, ..process(1202) }),
        queues: Queues {
            clients: 1,
            requests: 2,
            connections: 3,
            link_messages: 4,
            store_changes: 5,
            store_events: 6,
            logs_waiting: 7,
        },
    }
}

pub(crate) fn log_line() -> LogLine {
    LogLine {
        instance: camera(),
        name: Some("camera".into()),
        time_ns: NOON_MS * 1_000_000,
        stream: LogStream::Stderr,
        complete: true,
        text: "no camera".into(),
    }
}

fn event() -> Event {
    Event {
        seq: 300,
        time_ms: NOON_MS,
        instance: Some(camera()),
        name: Some("camera".into()),
        kind: EventKind::Exited {
            exit: Exit::Signal { signal: 11, core_dumped: true },
            requested: false,
        },
    }
}

fn rules_spec() -> RulesSpec {
    RulesSpec {
        policy: Some(Policy::Block),
        capacity: Some(300),
        block_timeout: Some(Millis(500)),
        history: Some(7),
        transport: Some(Transport::Routed),
        spin_us: None,
    }
}

pub(crate) fn link_spec() -> LinkSpec {
    LinkSpec {
        from: None,
        type_name: "acme.image.v1".into(),
        to: TargetSpec::Instance("recorder".into()),
        policy: Some(Policy::Block),
        capacity: Some(32),
        block_timeout: Some(Millis(500)),
        history: Some(300),
        transport: Some(Transport::Shm),
        spin_us: Some(300),
    }
}

fn wanted_set() -> WantedSet {
    let wanted = Wanted { spec: spec(), desired: Desired::Running, priority: Some(Priority::High) };
    WantedSet { instances: vec![wanted], links: vec![link_spec()] }
}

fn plan() -> Plan {
    let key = KeyChange {
        key: "restart.delay".into(),
        from: Some("\"1s\"".into()),
        to: Some("\"2s\"".into()),
    };
    let instance = InstanceChange {
        kind: ChangeKind::Change,
        id: Some(camera()),
        name: Some("camera".into()),
        effect: Effect::Restart,
        keys: vec![key.clone()],
    };
    let set = SetChange { kind: ChangeKind::Add, name: "worker".into(), keys: vec![key.clone()] };
    let link = LinkChange {
        kind: ChangeKind::Remove,
        id: Some(LinkId(300)),
        from: Some("camera".into()),
        type_name: "acme.image.v1".into(),
        to: "recorder".into(),
        keys: vec![key],
    };
    Plan {
        applied: true,
        instances: vec![instance],
        links: vec![link],
        unchanged_instances: 300,
        unchanged_links: 400,
        warnings: vec!["it is a directory".into()],
        sets: vec![set],
    }
}

fn named() -> Named {
    Named { id: camera(), name: "worker.1".into() }
}

fn scaled() -> Scaled {
    Scaled {
        set: "worker".into(),
        replicas: Replicas(200),
        added: vec![named()],
        removed: vec![named(), named()],
        warnings: vec!["it is a directory".into()],
    }
}

fn outcome(outcome: Outcome) -> ReplicaOutcome {
    ReplicaOutcome { id: camera(), name: "worker.1".into(), outcome }
}

fn set_info() -> ReplicaSetInfo {
    let (replicas, desired) = (Replicas(200), Desired::Running);
    ReplicaSetInfo { name: "worker".into(), replicas, desired }
}

fn set_detail() -> ReplicaSetDetail {
    let set = wanted_set().instances.remove(0);
    ReplicaSetDetail { set, links: vec![LinkId(300)], instances: vec![info()] }
}

pub(crate) fn log_query() -> LogQuery {
    LogQuery { tail: Some(10), grep: Some("cam".into()), follow: true, ..LogQuery::of("camera") }
}

fn tap_message(payload: Result<String, String>) -> TapMessage {
    TapMessage {
        time_ns: NOON_MS * 1_000_000,
        from: Some(camera()),
        from_name: None,
        type_name: "acme.image.v1".into(),
        links: 2,
        size: 4096,
        payload,
    }
}

fn record_filter() -> RecordFilter {
    let types = vec!["acme.image.v1".into()];
    RecordFilter { types, from: vec!["camera".into()], links: vec![LinkId(300)] }
}

fn record_source() -> RecordSource {
    RecordSource {
        number: 300,
        from: Some(camera()),
        from_name: Some("camera".into()),
        type_name: "acme.image.v1".into(),
        schema: Some(value_schema()),
    }
}

fn replay_spec() -> ReplaySpec {
    ReplaySpec {
        sources: vec![replay_source()],
        links: vec![LinkId(300)],
        to: Some("display".into()),
    }
}

fn replay_source() -> ReplaySource {
    ReplaySource {
        from: Some("camera".into()),
        type_name: "acme.image.v1".into(),
        schema: Some(value_schema()),
    }
}

fn replay_message() -> ReplayMessage {
    ReplayMessage { source: 300, payload: vec![1, 2, 200] }
}

fn replay_route() -> ReplayRoute {
    ReplayRoute { from: Some(camera()), links: 300, is_connected: true }
}

fn fed() -> Fed {
    Fed { feeds: 300, messages: 400, unrouted: 7 }
}

fn declarer() -> Declarer {
    Declarer { id: camera(), name: Some("camera".into()) }
}

fn type_info() -> TypeInfo {
    TypeInfo {
        name: "acme.image.v1".into(),
        hash: Some(SchemaHash::of(&value_schema())),
        outputs: Declarers { count: 300, listed: vec![declarer()] },
        inputs: Declarers { count: 1, listed: vec![Declarer { name: None, ..declarer() }] },
        links: vec![LinkId(300), LinkId(301)],
        first_seen_ms: Some(NOON_MS),
        last_seen_ms: Some(NOON_MS + 1),
    }
}

fn type_list() -> TypeList {
    TypeList { types: vec![type_info()], more: 300 }
}

fn type_forms() -> TypeForms {
    TypeForms {
        forms: vec![TypeForm { info: type_info(), schema: Some(value_schema()) }],
        more: 300,
    }
}

fn recorded() -> RecordedMessage {
    RecordedMessage {
        source: 300,
        time_ns: NOON_MS * 1_000_000,
        payload: vec![1, 2, 200],
        sent_ns: Some(NOON_MS * 1_000_000),
    }
}

fn send_spec() -> SendSpec {
    SendSpec {
        to: "camera".into(),
        type_name: "acme.image.v1".into(),
        payload: "{\"value\":300}".into(),
        timeout: Millis(5000),
    }
}

fn called() -> Called {
    Called { id: camera(), type_name: "acme.image.v1".into(), reply: "{\"value\":7}".into() }
}

fn sent() -> Sent {
    Sent { id: camera(), type_name: "acme.image.v1".into(), size: 300 }
}

pub(crate) fn value_schema() -> Vec<u8> {
    TypeSchema::decode(&[21, 1, 5, b'v', b'a', b'l', b'u', b'e', 3]).unwrap().encode()
}

pub(crate) fn declare(schema: &[u8]) -> Declare<'_> {
    Declare {
        channel: 0,
        direction: Direction::Output,
        name: "acme.count.v1",
        schema,
        hash: Some(TypeSchema::decode(schema).unwrap().hash().0),
        window: 0,
    }
}

pub(crate) fn declare_calls(schema: &[u8]) -> DeclareCalls<'_> {
    DeclareCalls {
        channel: 300,
        end: CallEnd::Service,
        name: "acme.count.v1",
        request: schema,
        reply: &[1],
        at_once: 64,
    }
}

pub(crate) fn sender() -> Sender {
    Sender { epoch: 300, instance: camera(), anybody: false }
}

pub(crate) fn start(instance: &str, priority: Option<Priority>) -> RuntimeRequest {
    RuntimeRequest::Start { instance: instance.into(), priority }
}

fn passed() -> Passed {
    Passed { sent: 1000, delivered: 990, dropped: 7, returned: 3, output: 1100 }
}

/// Each enum of the page, with one sample of each variant.
#[rustfmt::skip]
pub(crate) fn enums() -> Vec<(&'static str, Vec<Sample>)> {
    let (id, instance) = (camera(), || Selector::from("camera"));
    let schema = value_schema();
    type FrameOf = Frame<'static>;
    type CallFrameOf = CallFrame<'static>;
    type AnswerOf = Answer<'static>;
    let text = || "why".to_owned();
    let calls = variants!(CallFrameOf:
        CallFrame::Declare(_) => CallFrame::Declare(declare_calls(&schema)),
        CallFrame::Call { .. } => CallFrame::Call { channel: 300, id: 1 << 40, timeout_ms: 10_000, payload: b"\xff\x00" },
        CallFrame::Cancel { .. } => CallFrame::Cancel { channel: 300, id: 1 << 40 },
        CallFrame::Answer { .. } => CallFrame::Answer { channel: 300, id: 1 << 40, answer: Answer::Reply(b"\xff\x00") },
    );
    let answers = variants!(AnswerOf:
        Answer::Reply(_) => Answer::Reply(b"\xff\x00"),
        Answer::Failure(_) => Answer::Failure(CallFailure::TimedOut { given: true }),
    );
    let frames = variants!(FrameOf:
        Frame::Hello { .. } => Frame::Hello { magic: runtime::MAGIC, protocol: 2, sdk: "demo" },
        Frame::Welcome { .. } => Frame::Welcome { protocol: 2, server: "0.1.0", instance: id },
        Frame::Refused(_) => Frame::Refused(error()),
        Frame::Declare(_) => Frame::Declare(declare(&schema)),
        Frame::Message { .. } => Frame::Message { channel: 300, payload: b"\xff\x00" },
        Frame::Grant { .. } => Frame::Grant { channel: 300, total: UNLIMITED },
        Frame::Request { .. } => Frame::Request { id: 300, request: start("a", Some(Priority::High)) },
        Frame::Reply { .. } => Frame::Reply { id: 300, result: Err(error()) },
        Frame::Keep { .. } => Frame::Keep { channel: 300, epoch: 1 << 40, next: 300, again: 200 },
        Frame::Recognise { .. } => Frame::Recognise { channel: 300 },
        Frame::Acknowledge { .. } => Frame::Acknowledge { channel: 300, total: 1 << 40 },
        Frame::From { .. } => Frame::From { channel: 300, sender: Some(sender()), next: 300, kept: true },
        Frame::Skip { .. } => Frame::Skip { channel: 300, count: 1 << 40 },
        Frame::Ready => Frame::Ready,
        Frame::Report { .. } => Frame::Report { channel: 300 },
        Frame::Dropped { .. } => Frame::Dropped { channel: 300, total: 1 << 40 },
        Frame::Calls(_) => Frame::Calls(CallFrame::Declare(declare_calls(&schema))),
        Frame::Lanes { .. } => Frame::Lanes { memory: true },
        Frame::Lane { .. } => Frame::Lane { channel: 300, lane: 1 << 40, link: LinkId(7), policy: Policy::Latest, capacity: 300, anybody: true, medium: Medium::Memory { spin_us: 300 } },
        Frame::Claim { .. } => Frame::Claim { magic: runtime::MAGIC, protocol: 2, lane: 1 << 40 },
        Frame::Claimed => Frame::Claimed,
        Frame::Switched { .. } => Frame::Switched { channel: 300, lane: 1 << 40 },
        Frame::Wanted { .. } => Frame::Wanted { channel: 300, wanted: true },
        Frame::Leave { .. } => Frame::Leave { channel: 300, lane: 1 << 40 },
        Frame::Left { .. } => Frame::Left { channel: 300, lane: 1 << 40, passed: passed() },
        Frame::Again { .. } => Frame::Again { channel: 300, lane: 1 << 40, number: 500, payload: b"\xff\x00" },
        Frame::Gone { .. } => Frame::Gone { channel: 300, lane: 1 << 40 },
        Frame::Passed { .. } => Frame::Passed { channel: 300, lane: 1 << 40, passed: passed() },
        Frame::Ask { .. } => Frame::Ask { channel: 300, lane: 1 << 40 },
        Frame::Uses { .. } => Frame::Uses { channel: 300, lane: 1 << 40, link: LinkId(7), memory: true },
        Frame::Takes { .. } => Frame::Takes { channel: 300, schema: &[3], hash: None },
        Frame::Form { .. } => Frame::Form { channel: 300, form: 15 },
        Frame::Stamps { .. } => Frame::Stamps { channel: 300, stamped: true },
        Frame::Counted { .. } => Frame::Counted { channel: 300, lane: 1 << 40, count: 500 },
    );
    vec![
        ("Frame", frames.1.into_iter().map(|frame| Sample { type_name: "Frame", ..frame }).collect()),
        ("CallFrame", calls.1.into_iter().map(|it| Sample { type_name: "CallFrame", ..it }).collect()),
        ("Answer", answers.1.into_iter().map(|it| Sample { type_name: "Answer", ..it }).collect()),
        variants!(CallEnd: CallEnd::Client => CallEnd::Client, CallEnd::Service => CallEnd::Service),
        variants!(CallFailure:
            CallFailure::NoLink => CallFailure::NoLink,
            CallFailure::Mismatched(_) => CallFailure::Mismatched(text()),
            CallFailure::TimedOut { .. } => CallFailure::TimedOut { given: true },
            CallFailure::Cancelled => CallFailure::Cancelled,
            CallFailure::ServiceGone => CallFailure::ServiceGone,
            CallFailure::LinkRemoved => CallFailure::LinkRemoved,
            CallFailure::Failed(_) => CallFailure::Failed(text()),
            CallFailure::BadRequest(_) => CallFailure::BadRequest(text()),
            CallFailure::TooMany => CallFailure::TooMany,
            CallFailure::NotRead => CallFailure::NotRead),
        variants!(Direction:
            Direction::Output => Direction::Output, Direction::Input => Direction::Input),
        variants!(RuntimeRequest:
            RuntimeRequest::Start { .. } => start("camera", None),
            RuntimeRequest::Stop { .. } => RuntimeRequest::Stop { instance: "camera".into() },
            RuntimeRequest::List => RuntimeRequest::List),
        variants!(RuntimeReply:
            RuntimeReply::Started { .. } => RuntimeReply::Started { id },
            RuntimeReply::Stopped { .. } => RuntimeReply::Stopped { id },
            RuntimeReply::List(_) => RuntimeReply::List(vec![info()])),
        variants!(ClientBody:
            ClientBody::Request(_) => ClientBody::Request(Request::RuntimeList),
            ClientBody::Cancel => ClientBody::Cancel,
            ClientBody::Chunk(_) => ClientBody::Chunk(vec![1, 2, 255]),
            ClientBody::ChunksEnd { .. } => ClientBody::ChunksEnd { sha256: [7; 32] },
            ClientBody::Feed(_) => ClientBody::Feed(vec![replay_message()]),
            ClientBody::FeedEnd => ClientBody::FeedEnd),
        variants!(ServerBody:
            ServerBody::Reply(_) => ServerBody::Reply(Reply::Links(vec![link_info()])),
            ServerBody::Error(_) => ServerBody::Error(error()),
            ServerBody::Item(_) => ServerBody::Item(Item::Event(event())),
            ServerBody::End => ServerBody::End),
        variants!(Request:
            Request::Status => Request::Status,
            Request::RuntimeAdd(_) => Request::RuntimeAdd(spec()),
            Request::RuntimeStart { .. } => Request::RuntimeStart { instance: instance(), priority: Some(Priority::Low) },
            Request::RuntimeStop { .. } => Request::RuntimeStop { instance: instance() },
            Request::RuntimeRestart { .. } => Request::RuntimeRestart { instance: instance() },
            Request::RuntimeRemove { .. } => Request::RuntimeRemove { instance: instance(), force: true },
            Request::RuntimeList => Request::RuntimeList,
            Request::RuntimeShow { .. } => Request::RuntimeShow { instance: instance() },
            Request::Logs(_) => Request::Logs(LogQuery {
                stream: Some(LogStream::Orchestrator), since_ns: Some(NOON_MS), until_ns: Some(NOON_MS + 1), ..log_query() }),
            Request::LinkAdd(_) => Request::LinkAdd(LinkSpec { from: Some(instance()), ..link_spec() }),
            Request::LinkRemove { .. } => Request::LinkRemove { link: LinkId(300) },
            Request::LinkList => Request::LinkList,
            Request::LinkTap(_) => Request::LinkTap(TapFilter { type_name: Some("a".into()), from: Some(instance()) }),
            Request::Clear { .. } => Request::Clear { force: true },
            Request::Events { .. } => Request::Events { follow: true, after: Some(300), since_ms: Some(NOON_MS), instance: Some(instance()) },
            Request::DaemonStatus => Request::DaemonStatus,
            Request::DaemonReplace { .. } => Request::DaemonReplace { successor: SuccessorSpec::Installed, timeout_ms: 30_000 },
            Request::HolderRenew { .. } => Request::HolderRenew { timeout_ms: 30_000 },
            Request::CaptureRenew { .. } => Request::CaptureRenew { timeout_ms: 30_000 },
            Request::Apply { .. } => Request::Apply { set: wanted_set(), prune: true, dry_run: false },
            Request::Export => Request::Export,
            Request::RuntimeVitals { .. } => Request::RuntimeVitals { instances: vec![instance()] },
            Request::Doctor => Request::Doctor,
            Request::RuntimeRun { .. } => Request::RuntimeRun { instance: instance() },
            Request::LinkSet { .. } => Request::LinkSet { link: LinkId(300), rules: rules_spec() },
            Request::RuntimeScale { .. } => Request::RuntimeScale { set: "worker".into(), replicas: Replicas(200) },
            Request::ReplicaSets => Request::ReplicaSets,
            Request::LinkRecord(_) => Request::LinkRecord(record_filter()),
            Request::LinkSend(_) => Request::LinkSend(send_spec()),
            Request::LinkCall(_) => Request::LinkCall(send_spec()),
            Request::TypeList => Request::TypeList,
            Request::TypeShow { .. } => Request::TypeShow { name: "a".into(), hash: Some("39c5".into()) },
            Request::LinkReplay(_) => Request::LinkReplay(replay_spec())),
        variants!(SuccessorSpec:
            SuccessorSpec::Same => SuccessorSpec::Same,
            SuccessorSpec::Installed => SuccessorSpec::Installed,
            SuccessorSpec::Binary(_) => SuccessorSpec::Binary("/opt/orchestrator".into())),
        variants!(Reply:
            Reply::Status(_) => Reply::Status(Box::new(status())),
            Reply::Added { .. } => Reply::Added { id, warnings: vec!["it is a directory".into()] },
            Reply::Started { .. } => Reply::Started { id, pid: 4711, changed: true, warnings: vec!["a".into()] },
            Reply::Stopped { .. } => Reply::Stopped { id, changed: true },
            Reply::Removed { .. } => Reply::Removed { id, links: vec![LinkId(300)] },
            Reply::Runtimes(_) => Reply::Runtimes(vec![info(), info()]),
            Reply::Runtime(_) => Reply::Runtime(Box::new(detail())),
            Reply::LinkAdded { .. } => Reply::LinkAdded { id: LinkId(300), created: true },
            Reply::LinkRemoved { .. } => Reply::LinkRemoved { id: LinkId(300), discarded: 7 },
            Reply::Links(_) => Reply::Links(vec![link_info()]),
            Reply::Cleared { .. } => Reply::Cleared { runtimes: 300, links: 7 },
            Reply::Daemon(_) => Reply::Daemon(Box::new(daemon_status())),
            Reply::Replacing { .. } => Reply::Replacing { pid: 300, successor: 400 },
            Reply::HolderRenewed { .. } => Reply::HolderRenewed { pid: 300, from: None, to: Some("0.1.0".into()) },
            Reply::CaptureRenewed { .. } => Reply::CaptureRenewed { before: Some(300), pid: Some(400), from: None, to: Some("0.1.0".into()) },
            Reply::Plan(_) => Reply::Plan(Box::new(plan())),
            Reply::Exported(_) => Reply::Exported(Box::new(Exported { set: wanted_set(), warnings: vec!["a copy".into()] })),
            Reply::Vitals(_) => Reply::Vitals(vec![RuntimeVitals { info: info(), vitals: vitals() }]),
            Reply::Findings(_) => Reply::Findings(vec![finding()]),
            Reply::Scheduled { .. } => Reply::Scheduled { id, next_ms: Some(NOON_MS), changed: true },
            Reply::Queued { .. } => Reply::Queued { id },
            Reply::LinkSet { .. } => Reply::LinkSet { id: LinkId(300), changed: true, dropped: 7 },
            Reply::Scaled(_) => Reply::Scaled(Box::new(scaled())),
            Reply::ReplicaSets(_) => Reply::ReplicaSets(vec![set_info()]),
            Reply::ReplicaSet(_) => Reply::ReplicaSet(Box::new(set_detail())),
            Reply::Each { .. } => Reply::Each { set: "worker".into(), outcomes: vec![outcome(Outcome::Queued)] },
            Reply::SetRemoved { .. } => Reply::SetRemoved { set: "worker".into(), instances: vec![named()], links: vec![LinkId(300)] },
            Reply::LinkSent(_) => Reply::LinkSent(sent()),
            Reply::LinkCalled(_) => Reply::LinkCalled(called()),
            Reply::Types(_) => Reply::Types(type_list()),
            Reply::Type(_) => Reply::Type(type_forms())),
        variants!(Outcome:
            Outcome::Started { .. } => Outcome::Started { pid: 300, changed: true, warnings: vec!["a".into()] },
            Outcome::Scheduled { .. } => Outcome::Scheduled { next_ms: Some(NOON_MS), changed: true },
            Outcome::Queued => Outcome::Queued,
            Outcome::Stopped { .. } => Outcome::Stopped { changed: true },
            Outcome::Failed(_) => Outcome::Failed(error())),
        variants!(Level: Level::Ok => Level::Ok, Level::Warning => Level::Warning, Level::Problem => Level::Problem),
        variants!(ChangeKind:
            ChangeKind::Add => ChangeKind::Add, ChangeKind::Change => ChangeKind::Change,
            ChangeKind::Remove => ChangeKind::Remove),
        variants!(Effect:
            Effect::Nothing => Effect::Nothing, Effect::Start => Effect::Start,
            Effect::Stop => Effect::Stop, Effect::Restart => Effect::Restart),
        variants!(Item:
            Item::Log(_) => Item::Log(log_line()),
            Item::Message(_) => Item::Message(tap_message(Ok("{}".into()))),
            Item::Event(_) => Item::Event(event()),
            Item::Missed { .. } => Item::Missed { count: 300, reason: "too slow".into() },
            Item::Source(_) => Item::Source(record_source()),
            Item::Recorded(_) => Item::Recorded(recorded()),
            Item::Replaying(_) => Item::Replaying(vec![replay_route()]),
            Item::Fed(_) => Item::Fed(fed())),
        variants!(Program:
            Program::Path(_) => Program::Path("/bin/true".into()),
            Program::Upload { .. } => Program::Upload { file_name: "camera".into(), size: 300 }),
        variants!(Priority:
            Priority::High => Priority::High, Priority::Normal => Priority::Normal, Priority::Low => Priority::Low),
        variants!(Resource:
            Resource::Cpu => Resource::Cpu, Resource::Fsize => Resource::Fsize,
            Resource::Data => Resource::Data, Resource::Stack => Resource::Stack,
            Resource::Core => Resource::Core, Resource::Rss => Resource::Rss,
            Resource::Nproc => Resource::Nproc, Resource::Nofile => Resource::Nofile,
            Resource::Memlock => Resource::Memlock, Resource::As => Resource::As,
            Resource::Locks => Resource::Locks, Resource::Sigpending => Resource::Sigpending,
            Resource::Msgqueue => Resource::Msgqueue, Resource::Nice => Resource::Nice,
            Resource::Rtprio => Resource::Rtprio, Resource::Rttime => Resource::Rttime),
        variants!(IoClass:
            IoClass::Realtime(_) => IoClass::Realtime(1),
            IoClass::BestEffort(_) => IoClass::BestEffort(7),
            IoClass::Idle => IoClass::Idle),
        variants!(Realtime: Realtime::Fifo(_) => Realtime::Fifo(99), Realtime::Rr(_) => Realtime::Rr(1)),
        variants!(InheritEnv:
            InheritEnv::Clean => InheritEnv::Clean, InheritEnv::None => InheritEnv::None,
            InheritEnv::All => InheritEnv::All,
            InheritEnv::Names(_) => InheritEnv::Names(vec!["LANG".into(), "A".into()])),
        variants!(Stdin: Stdin::Null => Stdin::Null, Stdin::File(_) => Stdin::File("/a".into())),
        variants!(LogStream:
            LogStream::Stdout => LogStream::Stdout, LogStream::Stderr => LogStream::Stderr,
            LogStream::Telemetry => LogStream::Telemetry, LogStream::Orchestrator => LogStream::Orchestrator),
        variants!(Compression: Compression::None => Compression::None, Compression::Zstd => Compression::Zstd),
        variants!(ListenSocket:
            ListenSocket::Tcp(_) => listen().socket,
            ListenSocket::Udp(_) => ListenSocket::Udp("[::1]:5353".parse().unwrap()),
            ListenSocket::Unix { .. } => socket("unix:/run/a,mode=0660"),
            ListenSocket::UnixDatagram { .. } => socket("unix-datagram:/run/a"),
        ),
        variants!(WhenFull: WhenFull::Block => WhenFull::Block, WhenFull::Drop => WhenFull::Drop),
        variants!(TargetSpec:
            TargetSpec::Instance(_) => TargetSpec::Instance(instance()),
            TargetSpec::Udp(_) => TargetSpec::Udp("10.0.0.7:9000".into())),
        variants!(Policy:
            Policy::Block => Policy::Block, Policy::DropNewest => Policy::DropNewest,
            Policy::DropOldest => Policy::DropOldest, Policy::Latest => Policy::Latest),
        variants!(Transport:
            Transport::Auto => Transport::Auto, Transport::Routed => Transport::Routed,
            Transport::Direct => Transport::Direct, Transport::Shm => Transport::Shm),
        variants!(Way: Way::Routed => Way::Routed, Way::Direct => Way::Direct, Way::Shm => Way::Shm),
        variants!(Kind:
            Kind::Service => Kind::Service, Kind::Task => Kind::Task,
            Kind::Schedule(_) => Kind::Schedule(schedule())),
        variants!(Overlap:
            Overlap::Skip => Overlap::Skip, Overlap::Queue => Overlap::Queue,
            Overlap::Replace => Overlap::Replace),
        variants!(RunResult:
            RunResult::Completed { .. } => RunResult::Completed { exit: Exit::Code(300) },
            RunResult::Failed { .. } => RunResult::Failed { reason: "no".into(), exit: Some(Exit::Code(300)) },
            RunResult::Stopped => RunResult::Stopped),
        variants!(RestartPolicy:
            RestartPolicy::Never => RestartPolicy::Never,
            RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            RestartPolicy::Always => RestartPolicy::Always),
        variants!(Readiness:
            Readiness::Running => Readiness::Running,
            Readiness::Notify => Readiness::Notify,
            Readiness::Runtime => Readiness::Runtime,
            Readiness::Probe(_) => Readiness::Probe(probe())),
        variants!(Check:
            Check::Exec(_) => Check::Exec(vec!["/bin/true".into()]),
            Check::Http(_) => Check::Http("http://localhost".into()),
            Check::Tcp(_) => Check::Tcp("localhost:1".into()),
            Check::Output(_) => Check::Output("ready".into())),
        variants!(Condition:
            Condition::Started => Condition::Started,
            Condition::Ready => Condition::Ready,
            Condition::Completed => Condition::Completed),
        variants!(OnFailure:
            OnFailure::Stop => OnFailure::Stop,
            OnFailure::Restart => OnFailure::Restart,
            OnFailure::Ignore => OnFailure::Ignore),
        variants!(Desired:
            Desired::Stopped => Desired::Stopped, Desired::Running => Desired::Running),
        variants!(Observed:
            Observed::Stopped { .. } => Observed::Stopped { last_exit: Some(Exit::Code(300)), at_ms: Some(NOON_MS) },
            Observed::Waiting { .. } => Observed::Waiting { on: "db to be ready".into(), since_ms: NOON_MS },
            Observed::Starting { .. } => Observed::Starting { pid: Some(300), since_ms: NOON_MS },
            Observed::Ready { .. } => Observed::Ready { pid: 300, since_ms: NOON_MS },
            Observed::Unhealthy { .. } => Observed::Unhealthy { pid: 300, since_ms: NOON_MS, reason: "deaf".into() },
            Observed::Stopping { .. } => Observed::Stopping { pid: Some(300), since_ms: NOON_MS },
            Observed::BackOff { .. } => Observed::BackOff { reason: "exit code 3".into(), last_exit: Some(Exit::Code(300)), until_ms: NOON_MS, attempt: 400 },
            Observed::Completed { .. } => Observed::Completed { exit: Exit::Code(-1), at_ms: NOON_MS },
            Observed::Failed { .. } => Observed::Failed { reason: "no".into(), exit: Some(Exit::Code(300)), at_ms: NOON_MS },
            Observed::Scheduled { .. } => Observed::Scheduled { next_ms: Some(NOON_MS) }),
        variants!(Exit:
            Exit::Code(_) => Exit::Code(255),
            Exit::Signal { .. } => Exit::Signal { signal: 64, core_dumped: true },
            Exit::Unknown => Exit::Unknown,
            Exit::OutOfMemory { .. } => Exit::OutOfMemory { limit: Some(Size(1 << 29)) }),
        variants!(TargetInfo:
            TargetInfo::Instance { .. } => TargetInfo::Instance { id, name: Some("camera".into()) },
            TargetInfo::Udp { .. } => TargetInfo::Udp { address: "10.0.0.7:9000".into() },
            TargetInfo::Set { .. } => TargetInfo::Set { name: "worker".into() }),
        variants!(LinkState:
            LinkState::Open => LinkState::Open,
            LinkState::Mismatched { .. } => LinkState::Mismatched { error: error() }),
        variants!(EventKind:
            EventKind::DaemonStarted => EventKind::DaemonStarted,
            EventKind::DaemonStopping => EventKind::DaemonStopping,
            EventKind::Added => EventKind::Added,
            EventKind::Removed { .. } => EventKind::Removed { links: 300 },
            EventKind::Started { .. } => EventKind::Started { pid: 300 },
            EventKind::StartFailed { .. } => EventKind::StartFailed { error: "no".into() },
            EventKind::Stopping { .. } => EventKind::Stopping { signal: 15 },
            EventKind::Killed => EventKind::Killed,
            EventKind::Exited { .. } => EventKind::Exited { exit: Exit::Code(1), requested: true },
            EventKind::Stopped => EventKind::Stopped,
            EventKind::LinkAdded { .. } => EventKind::LinkAdded { link: LinkId(300), description: "a".into() },
            EventKind::LinkRemoved { .. } => EventKind::LinkRemoved { link: LinkId(300) },
            EventKind::LinkMismatched { .. } => EventKind::LinkMismatched { link: LinkId(300), error: "no".into() },
            EventKind::Connected { .. } => EventKind::Connected { dialect: "native".into() },
            EventKind::Disconnected { .. } => EventKind::Disconnected { dialect: "veecle".into(), error: Some("no".into()) },
            EventKind::StateSetAside { .. } => EventKind::StateSetAside { path: "/a".into(), reason: "no".into() },
            EventKind::EventsLost { .. } => EventKind::EventsLost { count: 300 },
            EventKind::Adopted { .. } => EventKind::Adopted { pid: 300 },
            EventKind::MessagesLost { .. } => EventKind::MessagesLost { link: LinkId(300), count: 400 },
            EventKind::ConnectionKept { .. } => EventKind::ConnectionKept { dialect: "veecle".into() },
            EventKind::MessageCut { .. } => EventKind::MessageCut { dialect: "veecle".into() },
            EventKind::DaemonReplaced { .. } => EventKind::DaemonReplaced { successor: 300 },
            EventKind::Waiting { .. } => EventKind::Waiting { on: "db to be ready".into() },
            EventKind::Ready => EventKind::Ready,
            EventKind::Unhealthy { .. } => EventKind::Unhealthy { reason: "deaf".into() },
            EventKind::BackOff { .. } => EventKind::BackOff { reason: "exit code 3".into(), delay_ms: 300, attempt: 400 },
            EventKind::Failed { .. } => EventKind::Failed { reason: "exit code 3".into() },
            EventKind::Changed { .. } => EventKind::Changed { keys: "args, env.LEVEL".into() },
            EventKind::RunSkipped { .. } => EventKind::RunSkipped { due_ms: NOON_MS, reason: "no".into() },
            EventKind::LinkChanged { .. } => EventKind::LinkChanged { link: LinkId(300), policy: Policy::Latest, capacity: 300, block_timeout: Millis(500), history: 300, transport: Transport::Shm, spin_us: 300 },
            EventKind::Scaled { .. } => EventKind::Scaled { from: 300, to: 200 },
            EventKind::SetRemoved => EventKind::SetRemoved,
            EventKind::SchemasForgotten { .. } => EventKind::SchemasForgotten { count: 300 },
            EventKind::LinkDiverged { .. } => EventKind::LinkDiverged { link: LinkId(300), delivered: 400, read: 500 },
            EventKind::LaneCut { .. } => EventKind::LaneCut { link: LinkId(300), queued: 400 }),
    ]
}

/// The structs that no variant above holds with all its options set.
pub(crate) fn structs() -> Vec<Sample> {
    let ipc = IpcStatus {
        address: "127.0.0.1:9000".into(),
        received: 300,
        unrouted: 7,
        malformed: 8,
        refused: 9,
    };
    let full = Status { ipc: Some(ipc), ..status() };
    let reply = ServerFrame { id: 300, body: ServerBody::End };
    let refused = ServerHello { refused: Some("no".into()), ..super::server_hello() };
    let schema = value_schema();
    vec![
        sample("Status", &full),
        sample("ServerHello", &refused),
        sample("ClientHello", &super::client_hello()),
        sample("ServerFrame", &reply),
        sample("ClientFrame", &super::request(300, Request::Status)),
        sample("Declare", &declare(&schema)),
        sample("Passed", &passed()),
        sample("TapMessage", &tap_message(Err("cut".into()))),
        sample("TapFilter", &TapFilter::default()),
        sample("RecordFilter", &RecordFilter::default()),
        sample(
            "RecordSource",
            &RecordSource { from: None, from_name: None, schema: None, ..record_source() },
        ),
        sample("RecordedMessage", &recorded()),
        sample(
            "TypeInfo",
            &TypeInfo { hash: None, first_seen_ms: None, last_seen_ms: None, ..type_info() },
        ),
        sample("ReplaySpec", &ReplaySpec::default()),
        sample("ReplaySource", &ReplaySource { from: None, schema: None, ..replay_source() }),
        sample("ReplayMessage", &replay_message()),
        sample("ReplayRoute", &ReplayRoute { from: None, ..replay_route() }),
        sample("Fed", &fed()),
        sample("Declarers", &Declarers::default()),
        sample("Declarer", &declarer()),
        sample("TypeForm", &TypeForm { info: type_info(), schema: None }),
        sample("TypeForms", &type_forms()),
        sample("TypeList", &type_list()),
    ]
}
