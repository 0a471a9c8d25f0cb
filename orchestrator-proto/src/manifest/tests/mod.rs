//! Manifests, good and bad.

mod bad;
mod properties;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::*;
use crate::control::*;
use crate::{InstanceId, Millis, Size};

/// Files and variables of a test.
#[derive(Default)]
pub(super) struct Fake {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeMap<String, String>,
}

impl Fake {
    pub(super) fn new(text: &str) -> Self {
        Self::default().with("/etc/orchestrator.toml", text)
    }

    pub(super) fn with(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.to_owned());
        self
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn read(&self) -> Result<Manifest, Problems> {
        Manifest::read_from(Path::new("/etc/orchestrator.toml"), self)
    }
}

impl Surroundings for Fake {
    fn text(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let inside = self.files.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

pub(super) fn good(text: &str) -> Manifest {
    Fake::new(text).read().unwrap_or_else(|problems| panic!("{problems}"))
}

fn one(keys: &str) -> Wanted {
    let manifest = good(&format!("[instance.a]\nprogram = \"/bin/a\"\n{keys}\n"));
    manifest.set.instances.into_iter().next().unwrap()
}

fn plain() -> Wanted {
    let spec = RuntimeSpec { name: Some("a".into()), ..RuntimeSpec::new("/bin/a") };
    Wanted::running(spec)
}

fn rules(keys: &str) -> Supervision {
    one(keys).spec.supervision
}

#[test]
fn nothing_is_a_manifest() {
    assert_eq!(good("").set, WantedSet::default());
    assert_eq!(good("version = 1").files, [Path::new("/etc/orchestrator.toml")]);
}

#[test]
fn an_instance_has_defaults() {
    assert_eq!(one(""), plain());
}

#[test]
fn every_key_of_an_instance() {
    let wanted = good(
        r#"
        [instance.a]
        program = "bin/a"
        id = "0195fc7b-33e6-70e3-bee1-ac515185fac7"
        args = ["--rate", "30"]
        env = { LEVEL = "debug", EMPTY = "" }
        cwd = "../work"
        privileged = true
        priority = "low"
        state = "stopped"
        listen = ["http=tcp:127.0.0.1:8080", { name = "c", unix = "run/c", mode = "0660" }]
        "#,
    );
    let spec = RuntimeSpec {
        id: Some("0195fc7b-33e6-70e3-bee1-ac515185fac7".parse().unwrap()),
        args: vec!["--rate".into(), "30".into()],
        env: vec![("EMPTY".into(), "".into()), ("LEVEL".into(), "debug".into())],
        cwd: Some("/etc/../work".into()),
        privileged: true,
        name: Some("a".into()),
        listen: vec![
            "http=tcp:127.0.0.1:8080".parse().unwrap(),
            "c=unix:/etc/run/c,mode=0660".parse().unwrap(),
        ],
        ..RuntimeSpec::new("/etc/bin/a")
    };
    let low = Some(Priority::Low);
    assert_eq!(wanted.set.instances, [Wanted { spec, desired: Desired::Stopped, priority: low }]);
}

#[test]
fn a_set_of_replicas_is_known_by_its_name_and_theirs() {
    let manifest = good(
        r#"
        [instance.worker]
        program = "/w"
        replicas = 3
        [instance.web]
        program = "/a"
        requires = ["worker", "worker.3"]
        [instance."worker.x"]
        program = "/x"
        [[link]]
        from = "worker.1"
        type = "T"
        to = "worker"
        "#,
    );
    assert_eq!(manifest.warnings, []);
    let set = &manifest.set.instances[0];
    let names = |set: &Wanted| set.replicas().map(|all| all.iter().map(Wanted::label).collect());
    let three = ["worker.1", "worker.2", "worker.3"].map(String::from).to_vec();
    assert_eq!(names(set), Some(three));
    assert_eq!(names(&manifest.set.instances[1]), None);
    let beyond = good(
        "[instance.w]\nprogram = \"/w\"\nreplicas = 1\nafter = []\n\
        [[link]]\ntype = \"T\"\nto = \"w.2\"",
    );
    assert_eq!(beyond.warnings.len(), 1, "{:?}", beyond.warnings);
}

#[test]
fn every_key_of_supervision() {
    let rules = rules(
        r#"
        kind = "task"
        run-timeout = "1m30s"
        restart = { policy = "on-failure", delay = "1s", factor = 3, max-delay = "5m", jitter = 0, reset-after = 20, burst = 5, burst-within = "10s" }
        success-exit-codes = [0, 3]
        readiness = { exec = "bin/test -e /run/a", interval = "100ms", timeout = "2s", failures = 4, successes = 2 }
        start-timeout = "30s"
        liveness = { http = "http://127.0.0.1:80/", interval = "10s", timeout = "5s", failures = 1, successes = 2 }
        watchdog = 5
        requires = ["db", "net:started:ignore", { instance = "c", condition = "completed", on-failure = "stop" }]
        after = ["d", "e:started", { instance = "f", condition = "completed" }]
        stop = ["SIGINT 1s", "TERM 5s", "34"]
        stop-command = ["/bin/quit", "now please"]
        "#,
    );
    let probe = |check, interval, timeout, failures| Probe {
        interval: Millis(interval),
        timeout: Millis(timeout),
        failures,
        successes: 2,
        check,
    };
    let needs = |instance: &str, condition, on_failure| Requirement {
        instance: instance.into(),
        condition,
        on_failure,
    };
    let after = |instance: &str, condition| After { instance: instance.into(), condition };
    let step = |signal, secs| StopStep { signal: Signal(signal), wait: Millis::secs(secs) };
    let exec = vec!["/etc/bin/test".into(), "-e".into(), "/run/a".into()];
    let expected = Supervision {
        kind: Kind::Task,
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            delay: Millis::secs(1),
            factor: 3,
            max_delay: Millis::secs(300),
            jitter: 0,
            reset_after: Millis::secs(20),
            burst: 5,
            burst_within: Millis::secs(10),
            success_exit_codes: vec![0, 3],
        },
        readiness: Readiness::Probe(probe(Check::Exec(exec), 100, 2000, 4)),
        start_timeout: Millis::secs(30),
        liveness: Some(probe(Check::Http("http://127.0.0.1:80/".into()), 10_000, 5000, 1)),
        watchdog: Millis::secs(5),
        requires: vec![
            needs("db", Condition::Ready, OnFailure::Restart),
            needs("net", Condition::Started, OnFailure::Ignore),
            needs("c", Condition::Completed, OnFailure::Stop),
        ],
        after: vec![
            after("d", Condition::Ready),
            after("e", Condition::Started),
            after("f", Condition::Completed),
        ],
        stop: Stop {
            command: vec!["/bin/quit".into(), "now please".into()],
            steps: vec![step(2, 1), step(15, 5), step(34, 10)],
        },
        run_timeout: Millis::secs(90),
    };
    assert_eq!(rules, expected);
}

#[test]
fn when_it_runs() {
    let kind = |keys| rules(keys).kind;
    let all = "kind = \"schedule\"\nschedule = \"30 3 * * *\"\ntime-zone = \"Europe/Berlin\"\n\
         overlap = \"replace\"\ncatch-up = true";
    let expected = Schedule {
        expression: "30 3 * * *".into(),
        time_zone: Some("Europe/Berlin".into()),
        overlap: Overlap::Replace,
        catch_up: true,
    };
    assert_eq!(kind(all), Kind::Schedule(expected));
    let hourly = Kind::Schedule(Schedule::new("@hourly"));
    assert_eq!(kind("schedule = \"@hourly\""), hourly, "the kind goes without saying");
    let manifest = good(
        r#"
        [defaults]
        kind = "task"
        time-zone = "UTC"
        run-timeout = "1m"

        [instance.a]
        program = "/a"

        [instance.b]
        program = "/b"
        schedule = "@hourly"

        [instance.c]
        program = "/c"
        kind = "service"
        "#,
    );
    let rules = manifest.set.instances.iter().map(|it| &it.spec.supervision);
    let rules: Vec<_> = rules.map(|it| (it.kind.clone(), it.run_timeout)).collect();
    let utc = Schedule { time_zone: Some("UTC".into()), ..Schedule::new("@hourly") };
    let minute = Millis::secs(60);
    assert_eq!(
        rules,
        [(Kind::Task, minute), (Kind::Schedule(utc), minute), (Kind::Service, Millis::ZERO)],
        "what can't be said of an instance does not hold for it"
    );
}

#[test]
fn the_other_forms() {
    assert_eq!(rules("restart = \"always\"").restart.policy, RestartPolicy::Always);
    assert_eq!(rules("readiness = \"notify\"").readiness, Readiness::Notify);
    assert_eq!(rules("readiness = \"runtime\"").readiness, Readiness::Runtime);
    assert_eq!(rules("readiness = \"running\"").readiness, Readiness::Running);
    let output = Probe::new(Check::Output("ready$".into()));
    assert_eq!(rules("readiness = { output = \"ready$\" }").readiness, Readiness::Probe(output));
    let tcp = Probe::new(Check::Tcp("localhost:1".into()));
    assert_eq!(rules("liveness = { tcp = \"localhost:1\" }").liveness, Some(tcp));
    let steps = |keys| rules(keys).stop.steps;
    let step = |signal, secs| [StopStep { signal: Signal(signal), wait: Millis::secs(secs) }];
    assert_eq!(steps("stop-signal = \"INT\""), step(2, 10));
    assert_eq!(steps("stop-signal = 3\nstop-timeout = \"2s\""), step(3, 2));
    assert_eq!(rules("stop-command = \"quit now\"").stop.command, ["/etc/quit", "now"]);
}

#[test]
fn every_key_of_a_log() {
    let log = |keys: &str| one(keys).spec.log;
    let rules = log("log-max-size = \"1MiB\"\nlog-max-age = \"1d\"\nlog-keep = 10\n\
                     log-compress = \"zstd\"\nlog-when-full = \"drop\"");
    let expected = LogRules {
        max_size: Some(Size::mib(1)),
        max_age: Millis::secs(86_400),
        keep: Some(10),
        compress: Compression::Zstd,
        when_full: WhenFull::Drop,
    };
    assert_eq!(rules, expected);
    assert_eq!(log("log-max-size = 65536").max_size, Some(LogRules::MIN_SIZE));
    // The nearer one wins, key by key.
    let defaults = "[defaults]\nlog-keep = 10\nlog-compress = \"zstd\"\nlog-max-age = 60\n";
    let manifest = good(&format!(
        "{defaults}[instance.a]\nprogram = \"/a\"\nlog-keep = 2\nlog-compress = \"none\"\n"
    ));
    let nearer = LogRules { keep: Some(2), max_age: Millis::secs(60), ..LogRules::default() };
    assert_eq!(manifest.set.instances[0].spec.log, nearer);
}

#[test]
fn defaults_and_what_is_nearer() {
    let manifest = good(
        r#"
        [defaults]
        args = ["-v"]
        env = { A = "1", B = "2" }
        restart = { policy = "always", delay = "5s" }
        stop-timeout = "3s"
        [instance.a]
        program = "/bin/a"
        [instance.b]
        program = "/bin/b"
        args = []
        env = { B = "3" }
        restart = "on-failure"
        stop-signal = "INT"
        [instance.c]
        program = "/bin/c"
        stop = ["SIGHUP 1s"]
        "#,
    );
    let [a, b, c] = manifest.set.instances.as_slice() else { panic!() };
    assert_eq!(a.spec.args, ["-v".into()]);
    assert_eq!(b.spec.args, []);
    assert_eq!(b.spec.env, [("A".into(), "1".into()), ("B".into(), "3".into())]);
    let restart = &b.spec.supervision.restart;
    assert_eq!((restart.policy, restart.delay), (RestartPolicy::OnFailure, Millis::secs(5)));
    let step = |it: &Wanted| it.spec.supervision.stop.steps.clone();
    assert_eq!(step(a), [StopStep { signal: Signal(15), wait: Millis::secs(3) }]);
    assert_eq!(step(b), [StopStep { signal: Signal(2), wait: Millis::secs(3) }]);
    assert_eq!(step(c), [StopStep { signal: Signal(1), wait: Millis::secs(1) }]);
}

#[test]
fn links() {
    let manifest = good(
        r#"
        [[link]]
        type = "Ping"
        to = "udp:10.0.0.1:9"
        [[link]]
        from = "a"
        type = "Ping"
        to = "b"
        policy = "block"
        capacity = 4
        block-timeout = "1500ms"
        history = 7
        transport = "direct"
        "#,
    );
    let any = LinkSpec {
        from: None,
        type_name: "Ping".into(),
        to: TargetSpec::Udp("10.0.0.1:9".into()),
        policy: None,
        capacity: None,
        block_timeout: None,
        history: None,
        transport: None,
        spin_us: None,
    };
    let ours = LinkSpec {
        from: Some("a".into()),
        to: TargetSpec::Instance("b".into()),
        policy: Some(Policy::Block),
        capacity: Some(4),
        block_timeout: Some(Millis(1500)),
        history: Some(7),
        transport: Some(Transport::Direct),
        spin_us: None,
        ..any.clone()
    };
    assert_eq!(manifest.set.links, [any, ours]);
    // Neither is in the manifest, and both may be there all the same.
    assert_eq!(manifest.warnings.len(), 2);
}

#[test]
fn an_instance_without_a_name_is_known_by_its_id() {
    let manifest = good("[instance.0195fc7b-33e6-70e3-bee1-ac515185fac7]\nprogram = \"/a\"");
    let spec = &manifest.set.instances[0].spec;
    let id: InstanceId = "0195fc7b-33e6-70e3-bee1-ac515185fac7".parse().unwrap();
    assert_eq!((spec.id, &spec.name), (Some(id), &None));
}

#[test]
fn variables_of_the_environment() {
    let text = "[instance.a]\nprogram = \"${DIR}/a\"\nargs = [\"${NONE:-x}\", \"$$\"]\n";
    let manifest = Fake::new(text).set("DIR", "/opt").read().unwrap();
    let spec = &manifest.set.instances[0].spec;
    assert_eq!(spec.program, Program::Path("/opt/a".into()));
    assert_eq!(spec.args, ["x".into(), "$".into()]);
}

#[test]
fn includes() {
    let manifest = Fake::new(
        "include = [\"more/*.toml\", \"last.toml\"]\n[defaults]\nprivileged = true\nargs = [\"1\"]\n\
         [instance.top]\nprogram = \"top\"",
    )
    .with("/etc/more/b.toml", "[defaults]\nargs = [\"2\"]\n[instance.b]\nprogram = \"b\"")
    .with("/etc/more/a.toml", "include = [\"../deep.toml\"]\n[instance.a]\nprogram = \"a\"")
    .with("/etc/more/.hidden.toml", "nonsense")
    .with("/etc/more/a.toml~", "nonsense")
    .with("/etc/more/../deep.toml", "[instance.deep]\nprogram = \"deep\"")
    .with("/etc/last.toml", "[[link]]\nfrom = \"a\"\ntype = \"T\"\nto = \"b\"");
    let manifest = manifest.read().unwrap_or_else(|problems| panic!("{problems}"));
    let all = manifest.set.instances.iter().map(|it| {
        assert!(it.spec.privileged);
        let Program::Path(path) = &it.spec.program else { panic!() };
        (it.label(), path.to_string(), it.spec.args[0].to_string())
    });
    let expected = [
        ("top", "/etc/top", "1"),
        ("a", "/etc/more/a", "1"),
        ("deep", "/etc/more/../deep", "1"),
        ("b", "/etc/more/b", "2"),
    ];
    let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(all.collect::<Vec<_>>(), expected);
    assert_eq!((manifest.files.len(), manifest.set.links.len()), (5, 1));
    assert_eq!(manifest.warnings, []);
}

#[test]
fn what_may_be_a_slip_is_a_warning() {
    let manifest = good(
        "[instance.db]\nprogram = \"/db\"\n[instance.web]\nprogram = \"/w\"\nrequires = [\"bd\"]",
    );
    let shown: Vec<_> = manifest.warnings.iter().map(ToString::to_string).collect();
    let expected = "/etc/orchestrator.toml:3:11: web needs or waits for \"bd\", which is not in \
                    this manifest; did you mean `db`?";
    assert_eq!(shown, [expected]);
}

#[test]
fn what_is_written() {
    let manifest = good(
        r#"
        [instance.db]
        program = "/opt/db"
        env = { "A.B" = "x\"y\n$$" }
        restart = "always"
        readiness = { tcp = "localhost:1", interval = "100ms" }
        [instance."a.b"]
        program = "/a"
        restart = { policy = "always", delay = "1s" }
        requires = ["db", "x:ready:ignore", "y:completed"]
        stop = ["INT 1s"]
        [[link]]
        type = "T"
        to = "db"
        policy = "latest"
        capacity = 7
        "#,
    );
    let text = write(&manifest.set).unwrap();
    let expected = r#"version = 1

[instance.db]
program = "/opt/db"
env."A.B" = "x\"y\n$$"
restart = "always"
readiness = { tcp = "localhost:1", interval = "100ms" }

[instance."a.b"]
program = "/a"
restart.policy = "always"
restart.delay = "1s"
requires = ["db", "x:ready:ignore", "y:completed"]
stop = ["SIGINT 1s"]

[[link]]
type = "T"
to = "db"
policy = "latest"
"#;
    assert_eq!(text, expected);
}

#[test]
fn what_is_no_text_can_not_be_written() {
    let mut wanted = plain();
    wanted.spec.args = vec![crate::OsBytes(vec![0xff])];
    let error = write(&WantedSet { instances: vec![wanted], links: vec![] }).unwrap_err();
    let expected = "an argument of instance a is not UTF-8, and a manifest is text";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_schema_knows_every_key() {
    let schema = json_schema();
    let instance = &schema["properties"]["instance"]["additionalProperties"];
    assert_eq!(instance["required"], serde_json::json!(["program"]));
    assert_eq!(instance["additionalProperties"], false);
    assert!(instance["properties"]["restart"]["anyOf"][1]["properties"]["delay"].is_object());
    assert!(schema["properties"]["defaults"]["properties"]["program"].is_null());
    // Each key has a sentence.
    fn check(schema: &serde_json::Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let doc = property["description"].as_str().unwrap_or_default();
            assert!(doc.ends_with('.'), "{name}: {doc}");
            check(property);
        }
    }
    check(&schema);
    check(instance);
}
