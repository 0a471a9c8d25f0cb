//! Every key of the form, once: what may be written is read by these, and the schema is made of
//! them.

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// For people who write it, as editors show it.
    pub(super) doc: &'static str,
    pub(super) shape: Shape,
}

/// What its value looks like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Text,
    Flag,
    Number {
        least: u64,
        most: u64,
    },
    Signed {
        least: i64,
        most: i64,
    },
    Time,
    /// An amount of bytes.
    Size,
    /// An amount of processor time.
    Cpu,
    Signal,
    Choice(&'static [&'static str]),
    List(&'static Shape),
    /// Exactly one of these.
    OneOf(&'static [Shape]),
    Table(&'static [Key]),
    /// A table of any names, each with one of these.
    Named(&'static Shape),
}

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, doc, shape }
}

use Shape::{
    Choice, Cpu, Flag, List, Named, Number, OneOf, Signal, Signed, Size, Table, Text, Time,
};

const COMMAND: Shape = OneOf(&[Text, List(&Text)]);
const CONDITION: Shape = Choice(&["started", "ready", "completed"]);
const ACCOUNT: Shape = OneOf(&[Text, Number { least: 0, most: u32::MAX as u64 - 1 }]);

const WEIGHT: Shape = Number { least: 1, most: crate::control::Limits::MAX_WEIGHT as u64 };
const COUNT: Shape = Number { least: 1, most: u32::MAX as u64 };

/// Of a whole file.
pub(super) static FILE: &[Key] = &[
    key("version", Number { least: 1, most: super::VERSION }, "The version of this form."),
    key(
        "include",
        List(&Text),
        "Files to be read too, relative to this one; * and ? in the last component of a path.",
    ),
    key("defaults", Table(DEFAULTS), "What holds for all instances that do not say otherwise."),
    key("instance", Named(&Table(INSTANCE)), "An instance: its name, and how it is to be run."),
    key("link", List(&Table(LINK)), "Messages of a type go from one instance to another."),
];

macro_rules! instance_keys {
    ($($first:expr),* $(,)?) => { &[
        $($first,)*
        key("args", List(&Text), "Its arguments, without the program itself."),
        key("env", Named(&Text), "Variables set on top of those that it inherits and those from files."),
        key("cwd", Text, "Its working directory, relative to this file; / without it."),
        key("privileged", Flag, "Whether it may start and stop instances itself."),
        key(
            "priority",
            Choice(&["high", "normal", "low"]),
            "How favourably it is scheduled; without it as at its last start.",
        ),
        key("state", Choice(&["running", "stopped"]), "Whether it should run; running without it."),
        key(
            "kind",
            Choice(&["service", "task", "schedule"]),
            "A service runs for ever, a task once to its end, a schedule again and again to its end.",
        ),
        key(
            "time-zone",
            Text,
            "The time zone of its schedule, such as Europe/Berlin; that of the machine without it.",
        ),
        key(
            "overlap",
            Choice(&["skip", "queue", "replace"]),
            "What happens when it is time and the run before is not over: the new one is left out, \
             waits, or takes its place; skip without it.",
        ),
        key("catch-up", Flag, "Whether there is one run after some were missed; not without it."),
        key(
            "run-timeout",
            Time,
            "It has failed if an execution does not end within this time; 0 is never.",
        ),
        key(
            "restart",
            OneOf(&[RESTART_POLICY, Table(RESTART)]),
            "When it is started again by itself; never without it.",
        ),
        key(
            "success-exit-codes",
            List(&Number { least: 0, most: 255 }),
            "Exit codes that are no failure; 0 without it.",
        ),
        key(
            "readiness",
            OneOf(&[READINESS_WORD, Table(READINESS)]),
            "When it counts as ready: as soon as it runs, when it says so, or when it answers.",
        ),
        key("start-timeout", Time, "It has failed if it is not ready within this time; 0 is never."),
        key("liveness", Table(LIVENESS), "How it is asked whether it is well."),
        key("watchdog", Time, "It has to say WATCHDOG=1 this often, see sd_notify(3); 0 is never."),
        key(
            "requires",
            List(&OneOf(&[Text, Table(REQUIREMENT)])),
            "Instances that it needs: a name, NAME:CONDITION:ON-FAILURE, or a table.",
        ),
        key(
            "after",
            List(&OneOf(&[Text, Table(AFTER)])),
            "Instances that it waits for if they are to run: a name, NAME:CONDITION, or a table.",
        ),
        key(
            "stop",
            List(&Text),
            "Signals that ask it to stop, each with the time until the next one, as in \
             \"SIGINT 1s\"; SIGKILL is the last.",
        ),
        key("stop-signal", Signal, "The only signal that asks it to stop; SIGTERM without it."),
        key("stop-timeout", Time, "How long it may take to stop until SIGKILL; 10s without it."),
        key("stop-command", COMMAND, "A command that asks it to stop, before any signal."),
        key("user", ACCOUNT, "The user it runs as, by name or number; that of the daemon without it."),
        key("group", ACCOUNT, "The group it runs as; that of the user without it."),
        key(
            "groups",
            List(&ACCOUNT),
            "Exactly these supplementary groups; without it those that the user database has for \
             the user.",
        ),
        key(
            "umask",
            OneOf(&[Text, Number { least: 0, most: 0o777 }]),
            "Permissions that what it makes does not get, in octal, as \"0027\".",
        ),
        key("no-new-privs", Flag, "Whether nothing that it executes gives it more rights."),
        key(
            "keep-caps",
            List(&Text),
            "The only capabilities that it can ever have, as \"CAP_NET_RAW\"; others are dropped.",
        ),
        key("drop-caps", List(&Text), "Capabilities that it can never have."),
        key("ambient-caps", List(&Text), "Capabilities that it has although its user is not root."),
        key(
            "rlimit",
            Table(RLIMIT),
            "How much it may use: a number, \"infinity\", or two as in \"1024:4096\", what holds \
             and the most that it can set that to.",
        ),
        key(
            "nice",
            Signed { least: -20, most: 19 },
            "Its nice value at normal priority; high and low are 10 less and 10 more.",
        ),
        key("cpus", Text, "The processors that it may run on, as \"0,2-3\"."),
        key(
            "io-class",
            Text,
            "Whose reading and writing of disks comes first: realtime, best-effort or idle, as \
             \"best-effort:2\".",
        ),
        key("realtime", Text, "Its real-time policy, fifo or rr, as \"fifo:50\"."),
        key(
            "env-file",
            COMMAND,
            "Files of variables, read at each start, relative to this file; with a - before its \
             path one may be missing.",
        ),
        key(
            "inherit-env",
            COMMAND,
            "Which variables it has besides: clean, none, all, or names as well as the clean set; \
             clean without it.",
        ),
        key("stdin", Text, "What its standard input is: null, or \"file:PATH\"; null without it."),
        key("memory-max", Size, "The most memory; if it can't be kept, the kernel kills."),
        key("memory-high", Size, "From so much memory on it is slowed down."),
        key("swap-max", Size, "The most swap; 0 is none."),
        key("cpu", Cpu, "The most processor time: \"150%\" or 1.5 is one and a half processors."),
        key("cpu-weight", WEIGHT, "Its share where processors are short; others have 100."),
        key(
            "pids-max",
            Number { least: 1, most: crate::control::Limits::MAX_PIDS as u64 },
            "The most processes and threads.",
        ),
        key("io-weight", WEIGHT, "Its share where disks are slow; others have 100."),
        key(
            "limits-required",
            Flag,
            "Whether it is not started where these limits can't be in force.",
        ),
        key(
            "log-max-size",
            Size,
            "A new log file is begun when one has so many bytes, 64KiB to 64GiB; without it as the \
             daemon was told.",
        ),
        key(
            "log-max-age",
            Time,
            "A new log file is begun with the first line that comes so long after the first one of \
             the file; 0 is never.",
        ),
        key(
            "log-keep",
            Number { least: 1, most: crate::control::LogRules::MAX_KEEP as u64 },
            "So many log files are kept, the one that is written included; without it as the daemon \
             was told.",
        ),
        key(
            "log-compress",
            Choice(&["none", "zstd"]),
            "How log files are kept that are complete, but for the newest of those; none without it.",
        ),
        key(
            "log-when-full",
            Choice(&["block", "drop"]),
            "If the disk is full, or it prints faster than can be written: it waits, or output is \
             lost, counted and marked in the log; block without it.",
        ),
    ] };
}

macro_rules! rlimit_keys {
    ($($name:literal: $doc:literal),* $(,)?) => { &[$(key(
        $name,
        OneOf(&[Text, Number { least: 0, most: u64::MAX - 1 }]),
        $doc,
    )),*] };
}

/// Of `rlimit`, see setrlimit(2).
pub(super) static RLIMIT: &[Key] = rlimit_keys![
    "cpu": "Processor time, seconds.",
    "fsize": "The largest file that it writes, bytes.",
    "data": "Its data, bytes.",
    "stack": "Its stack, bytes.",
    "core": "The file that its memory is written to when it crashes, bytes.",
    "rss": "Without an effect.",
    "nproc": "Processes and threads of its user.",
    "nofile": "Open files.",
    "memlock": "Memory that can't be swapped out, bytes.",
    "as": "Its address space, bytes.",
    "locks": "Without an effect.",
    "sigpending": "Signals that wait, of its user.",
    "msgqueue": "Memory for POSIX message queues of its user, bytes.",
    "nice": "How far it can lower its nice value: to 20 less this.",
    "rtprio": "The highest real-time priority that it can give itself.",
    "rttime": "Time on the processor without a pause with a real-time policy, microseconds.",
];

/// Of `[defaults]`.
pub(super) static DEFAULTS: &[Key] = instance_keys![];

/// Of an instance.
pub(super) static INSTANCE: &[Key] = instance_keys![
    key("program", Text, "What to execute: a path, relative to this file."),
    key(
        "schedule",
        Text,
        "When it runs: five fields as in crontab(5), @daily and the like, or \"every 10s\".",
    ),
    key("id", Text, "The id that it gets when it is added; without it the daemon chooses one."),
    key(
        "replicas",
        Number { least: 0, most: crate::control::Replicas::MAX as u64 },
        "How many of it: a set of replicas, which are called NAME.1, NAME.2 and so on; one instance \
         without it.",
    ),
    key(
        "listen",
        List(&OneOf(&[Text, Table(LISTEN)])),
        "Sockets that listen for it whether it runs or not: [NAME=]tcp:IP:PORT, udp:IP:PORT, \
         unix:PATH[,mode=MODE] or unix-datagram:PATH[,mode=MODE], or a table.",
    ),
];

pub(super) const RESTART_POLICY: Shape = Choice(&["never", "on-failure", "always"]);

/// Of `restart`.
pub(super) static RESTART: &[Key] = &[
    key("policy", RESTART_POLICY, "When; never without it."),
    key("delay", Time, "From its end to the first new start; 100ms without it."),
    key(
        "factor",
        Number { least: 1, most: 100 },
        "By how much each delay is longer; 2 without it.",
    ),
    key("max-delay", Time, "The longest delay; 1m without it."),
    key(
        "jitter",
        Number { least: 0, most: 100 },
        "Each delay is changed by chance by up to so many percent; 10 without it.",
    ),
    key("reset-after", Time, "After it was ready for so long, delays begin anew; 10s without it."),
    key(
        "burst",
        Number { least: 0, most: 1000 },
        "It has failed after so many new starts within burst-within; 0 is never.",
    ),
    key("burst-within", Time, "See burst; 1m without it."),
];

const READINESS_WORD: Shape = Choice(&["running", "notify", "runtime"]);

macro_rules! probe_keys {
    ($($last:expr),* $(,)?) => { &[
        key("exec", COMMAND, "Whether this command ends with exit code 0."),
        key("http", Text, "Whether this URL is answered with a status from 200 to 399."),
        key("tcp", Text, "Whether somebody listens at this HOST:PORT."),
        key("interval", Time, "From one question to the next; 1s without it."),
        key("timeout", Time, "How long an answer may take; 1s without it."),
        key("failures", COUNT, "So many bad answers on end mean that it is not well; 3 without it."),
        key("successes", COUNT, "So many good answers on end mean that it is; 1 without it."),
        $($last,)*
    ] };
}

/// Of `liveness`.
pub(super) static LIVENESS: &[Key] = probe_keys![];

/// Of `readiness`.
pub(super) static READINESS: &[Key] = probe_keys![key(
    "output",
    Text,
    "Whether it has printed a line that matches this regular expression."
),];

/// Of each of `requires`.
pub(super) static REQUIREMENT: &[Key] = &[
    key("instance", Text, "Its name, or its id."),
    key("condition", CONDITION, "How far it has to be; ready without it."),
    key(
        "on-failure",
        Choice(&["stop", "restart", "ignore"]),
        "What if it fails or is stopped later; restart without it.",
    ),
];

/// Of each of `after`.
pub(super) static AFTER: &[Key] = &[
    key("instance", Text, "Its name, or its id."),
    key("condition", CONDITION, "How far it has to be; ready without it."),
];

/// Of each of `listen`.
pub(super) static LISTEN: &[Key] = &[
    key("name", Text, "What the program finds in LISTEN_FDNAMES; unknown without it."),
    key("tcp", Text, "For TCP connections to this IP:PORT."),
    key("udp", Text, "For UDP datagrams to this IP:PORT."),
    key("unix", Text, "For connections to a Unix socket: its path, relative to this file."),
    key("unix-datagram", Text, "For datagrams to a Unix socket: its path, relative to this file."),
    key("mode", Text, "The permissions of a Unix socket, such as \"0660\"; 0600 without it."),
];

/// Of each `[[link]]`.
pub(super) static LINK: &[Key] = &[
    key("from", Text, "Whose messages: a name or an id; anybody's without it."),
    key("type", Text, "The type of the messages, by its declared name."),
    key("to", Text, "Who gets them: a name, an id, or udp:HOST:PORT."),
    key(
        "policy",
        Choice(&["block", "drop-newest", "drop-oldest", "latest"]),
        "What happens when there is no room; drop-oldest without it.",
    ),
    key(
        "capacity",
        Number { least: 1, most: crate::control::LinkSpec::MAX_CAPACITY as u64 },
        "Messages that may wait; 1024 without it.",
    ),
    key(
        "block-timeout",
        Time,
        "How long the policy block holds a sender back; 0, and without it, is without end.",
    ),
    key(
        "history",
        Number { least: 0, most: crate::control::LinkSpec::MAX_HISTORY as u64 },
        "How many of the last messages a receiver gets that connects later; none without it.",
    ),
    key(
        "transport",
        Choice(&["auto", "routed", "direct", "shm"]),
        "Which way its messages go: directly where that is possible, always through the daemon, or \
         through memory that both ends share; auto without it.",
    ),
    key(
        "spin-us",
        Number { least: 0, most: crate::control::LinkSpec::MAX_SPIN_US as u64 },
        "For how many microseconds an end that waits keeps a processor busy before it sleeps, with \
         transport shm; 0 without it.",
    ),
];

/// The keys without which a table is not whole.
pub(super) fn required(keys: &'static [Key]) -> &'static [&'static str] {
    if std::ptr::eq(keys, INSTANCE) {
        &["program"]
    } else if std::ptr::eq(keys, REQUIREMENT) || std::ptr::eq(keys, AFTER) {
        &["instance"]
    } else if std::ptr::eq(keys, LINK) {
        &["type", "to"]
    } else {
        &[]
    }
}
