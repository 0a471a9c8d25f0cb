//! What instances declare of their messages is known to the daemons that follow.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::process::Stdio;

use orchestrator_proto::control::{EventKind, LinkState, Policy};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::schema::{Field, Variant, VariantBody};
use orchestrator_proto::{ErrorCode, LinkId, TypeSchema, WireError};
use serde_json::{Value, json};
use tests::native::Native;
use tests::{Daemon, eventually};

fn pose(number: TypeSchema) -> TypeSchema {
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    TypeSchema::Struct(vec![field("x", number), field("name", TypeSchema::String)])
}

/// The types of an instance as `runtime show` lists them.
fn shown(daemon: &Daemon, name: &str) -> (Value, Value) {
    let show = daemon.json(["runtime", "show", name]);
    (show["runtime"]["outputs"].clone(), show["runtime"]["inputs"].clone())
}

/// Declares, and waits until that is known.
#[track_caller]
fn declare(
    daemon: &Daemon,
    id: &str,
    direction: Direction,
    name: &str,
    schema: &TypeSchema,
) -> Native {
    let mut native = daemon.native(id);
    native.declare(0, direction, name, schema, 1);
    eventually("it is known", || {
        let (outputs, inputs) = shown(daemon, id);
        let names = if direction == Direction::Output { outputs } else { inputs };
        names.as_array().unwrap().contains(&json!(name)).then_some(())
    });
    native
}

/// Waits until all that was declared is stored.
#[track_caller]
fn is_stored(daemon: &Daemon) {
    eventually("nothing waits to be written", || {
        (daemon.json(["daemon", "status"])["queues"]["store_changes"] == json!(0)).then_some(())
    });
    // What was taken to be written is written when this is answered.
    daemon.ok(["events"]);
}

fn mismatch(daemon: &Daemon, id: LinkId) -> Option<WireError> {
    match daemon.link_info(id).state {
        LinkState::Open => None,
        LinkState::Mismatched { error } => Some(error),
    }
}

/// How often a link was said to carry nothing.
fn times_told(daemon: &Daemon) -> usize {
    daemon.ok(["--json", "events"]).lines().filter(|line| line.contains("link-mismatched")).count()
}

/// Ends the daemon in each of the ways in which it can, and looks again.
fn after_every_end(daemon: &mut Daemon, mut look: impl FnMut(&Daemon)) {
    daemon.replace_killed();
    look(daemon);
    daemon.kill();
    daemon.launch();
    look(daemon);
    daemon.ok(["daemon", "restart"]);
    look(daemon);
    daemon.terminate();
    daemon.launch();
    look(daemon);
}

#[test]
fn instances_that_do_not_run_are_checked_by_what_they_declared_to_an_earlier_daemon() {
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("any", "pose", "b");
    drop(declare(&daemon, &a, Direction::Output, "pose", &pose(TypeSchema::F32)));
    drop(declare(&daemon, &b, Direction::Input, "pose", &pose(TypeSchema::F64)));
    daemon.event("it is told", |event| match event.kind {
        EventKind::LinkMismatched { link: told, .. } if told == link => Some(()),
        _ => None,
    });
    let policy = Policy::default();
    let refused = daemon.try_link("a", "pose", "b", policy, 9).unwrap_err();
    assert_eq!(refused.code, ErrorCode::SchemaMismatch, "{refused}");
    let marked = mismatch(&daemon, link).unwrap();
    is_stored(&daemon);
    after_every_end(&mut daemon, |daemon| {
        assert_eq!(shown(daemon, "a"), (json!(["pose"]), json!([])));
        assert_eq!(shown(daemon, "b"), (json!([]), json!(["pose"])));
        assert_eq!(daemon.try_link("a", "pose", "b", policy, 9), Err(refused.clone()));
        assert_eq!(mismatch(daemon, link), Some(marked.clone()));
        assert_eq!(times_told(daemon), 1);
    });
    // To connect again changes nothing; another declaration does, for the daemons that follow too.
    drop(declare(&daemon, &a, Direction::Output, "pose", &pose(TypeSchema::F32)));
    assert_eq!((mismatch(&daemon, link), times_told(&daemon)), (Some(marked), 1));
    drop(declare(&daemon, &a, Direction::Output, "pose", &pose(TypeSchema::F64)));
    eventually("the link is good", || mismatch(&daemon, link).is_none().then_some(()));
    is_stored(&daemon);
    after_every_end(&mut daemon, |daemon| assert_eq!(mismatch(daemon, link), None));
    daemon.try_link("a", "pose", "b", policy, 9).unwrap();
}

#[test]
fn types_go_with_their_instance() {
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    drop(declare(&daemon, &a, Direction::Output, "pose", &pose(TypeSchema::F32)));
    drop(declare(&daemon, &b, Direction::Input, "pose", &pose(TypeSchema::F64)));
    let link = daemon.link("any", "n", "b");
    is_stored(&daemon);
    daemon.replace_killed();
    daemon.ok(["runtime", "remove", "a"]);
    // Another one under the same id has nothing to do with it.
    let spec = |spec: &mut orchestrator_proto::control::RuntimeSpec| {
        spec.id = Some(a.parse().unwrap());
    };
    daemon.put_with("a", spec);
    let look = |daemon: &Daemon| {
        assert_eq!(shown(daemon, "a"), (json!([]), json!([])));
        assert_eq!(shown(daemon, "b"), (json!([]), json!(["pose"])));
        assert_eq!(mismatch(daemon, link), None);
    };
    look(&daemon);
    after_every_end(&mut daemon, look);
    daemon.link("a", "pose", "b");
}

#[test]
fn a_tap_decodes_right_after_the_end_of_a_daemon() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    drop(declare(&daemon, &a, Direction::Output, "pose", &pose(TypeSchema::F32)));
    is_stored(&daemon);
    let payload = postcard::to_stdvec(&(1.5_f32, "lamp")).unwrap();
    for _ in 0..2 {
        daemon.replace_killed();
        let mut command = daemon.cli_command(["--json", "link", "tap", "--count", "1"]);
        let mut tap = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut sender = daemon.native(&a);
        sender.declare(0, Direction::Output, "pose", &pose(TypeSchema::F32), 0);
        eventually("the tap has seen a message", || {
            sender.message(0, &payload);
            tap.try_wait().unwrap()
        });
        let output = String::from_utf8(tap.wait_with_output().unwrap().stdout).unwrap();
        let message: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
        assert_eq!(message["message"]["payload"], json!({"x": 1.5, "name": "lamp"}), "{output}");
    }
}

#[test]
fn types_that_are_as_many_and_as_large_as_can_be_delay_nobody_and_are_all_kept() {
    const COUNT: u16 = 256;
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let mut native = daemon.native(&a);
    let names: Vec<_> = (0..COUNT).map(|at| format!("large.{at:03}")).collect();
    for (at, name) in (0..).zip(&names) {
        let variant = |n| Variant { name: format!("{at}-{n:0>240}"), body: VariantBody::Unit };
        let schema = TypeSchema::Enum((0..250).map(variant).collect());
        native.declare(at, Direction::Output, name, &schema, 0);
    }
    // Others go on meanwhile.
    daemon.link("b", "n", "a");
    assert_eq!(shown(&daemon, &b), (json!([]), json!([])));
    eventually("all are known", || {
        (shown(&daemon, "a").0.as_array().unwrap().len() == names.len()).then_some(())
    });
    is_stored(&daemon);
    daemon.kill();
    daemon.launch();
    assert_eq!(shown(&daemon, "a").0, json!(names));
}

#[test]
fn who_sends_without_a_schema_declares_nothing() {
    let mut daemon = Daemon::start();
    let a = daemon.put("a");
    drop(declare(&daemon, &a, Direction::Output, "both", &TypeSchema::U32));
    let mut veecle = daemon.veecle(&a);
    veecle.storable("v", &json!(1));
    veecle.storable("both", &json!(1));
    eventually("both are known", || (shown(&daemon, "a").0 == json!(["both", "v"])).then_some(()));
    is_stored(&daemon);
    daemon.terminate();
    daemon.launch();
    assert_eq!(shown(&daemon, "a"), (json!([]), json!([])));
}

fn listed(daemon: &Daemon, pattern: &str) -> Vec<Value> {
    let list = daemon.json(["type", "list", pattern]);
    list["types"]["types"].as_array().unwrap().clone()
}

/// Who declares a form, by name.
fn named(declarers: &Value) -> Vec<&str> {
    let listed = declarers["listed"].as_array().unwrap();
    assert_eq!(declarers["count"], json!(listed.len()));
    listed.iter().map(|it| it["name"].as_str().unwrap()).collect()
}

#[test]
fn every_form_that_was_ever_declared_is_listed_and_shown() {
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let (old, new) = (pose(TypeSchema::F32), pose(TypeSchema::F64));
    drop(declare(&daemon, &a, Direction::Output, "pose", &old));
    drop(declare(&daemon, &a, Direction::Output, "pose", &new));
    eventually("the second form is known", || (listed(&daemon, "pose").len() == 2).then_some(()));
    drop(declare(&daemon, &b, Direction::Input, "pose", &new));
    drop(declare(&daemon, &b, Direction::Output, "other", &TypeSchema::U8));
    let link = daemon.link("a", "pose", "b").0;
    is_stored(&daemon);
    let before = listed(&daemon, "p*e");
    let look = |daemon: &Daemon| {
        let all = listed(daemon, "p*e");
        assert_eq!(all.len(), 2, "{all:?}");
        let [now, once] = [&all[0], &all[1]];
        assert_eq!(now["hash"], json!(new.hash().to_string()));
        assert_eq!(once["hash"], json!(old.hash().to_string()));
        assert_eq!((named(&now["outputs"]), named(&now["inputs"])), (vec!["a"], vec!["b"]));
        assert_eq!(now["links"], json!([link]));
        assert_eq!((named(&once["outputs"]), &once["links"]), (vec![], &json!([])));
        assert_eq!(once["first_seen_ms"], before[1]["first_seen_ms"]);
        // In text, the form that is declared, and no other.
        let shown = daemon.ok(["type", "show", "pose"]);
        assert!(shown.contains("sent by a; taken by b; link "), "{shown}");
        assert!(shown.ends_with(&format!("{new}\n")) && !shown.contains("f32"), "{shown}");
        let shown = daemon.ok(["type", "show", "pose", "--all"]);
        assert!(shown.contains("// x: f64 for the one above, f32 for this one\n"), "{shown}");
        assert!(shown.contains("no instance declares it"), "{shown}");
        let hash = old.hash().to_string();
        let shown = daemon.json(["type", "show", &format!("pose@{}", &hash[..6].to_uppercase())]);
        let form = &shown["type"]["forms"][0];
        assert_eq!((&form["hash"], &form["schema"]), (&json!(hash), &json!(old.to_string())));
        assert_eq!(form["json_schema"], old.to_json_schema("pose"));
        let schema = daemon.ok(["type", "show", "pose", "--json-schema"]);
        let schema: Value = serde_json::from_str(&schema).unwrap();
        assert_eq!(schema, new.to_json_schema("pose"));
    };
    look(&daemon);
    after_every_end(&mut daemon, look);
    // Nobody declares it any more: then what was declared last is shown.
    daemon.ok(["runtime", "remove", "a"]);
    daemon.ok(["runtime", "remove", "b"]);
    assert_eq!(listed(&daemon, "pose").len(), 2);
    let shown = daemon.ok(["type", "show", "pose"]);
    assert!(shown.contains("no instance declares it") && !shown.contains("f32"), "{shown}");
}

#[test]
fn a_name_that_is_not_there_is_refused_with_those_that_may_be_meant() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    drop(declare(&daemon, &a, Direction::Output, "acme.imu.v1", &TypeSchema::U8));
    let refused = |what: &str| {
        let said = daemon.cli(["type", "show", what]);
        assert_eq!(said.code, Some(3), "{said:?}");
        said.stderr
    };
    assert!(refused("acme.imv.v1").contains("did you mean acme.imu.v1?"));
    assert!(refused("imu").contains("did you mean acme.imu.v1?"));
    assert!(refused("something.else").contains("`type list` shows those there are"));
    let other = refused("acme.imu.v1@0123456789");
    assert!(other.contains("never declared with a schema whose hash begins with"), "{other}");
    assert_eq!(daemon.cli(["type", "show", &"x".repeat(300)]).code, Some(1));
    assert_eq!(daemon.cli(["type", "show", ""]).code, Some(2));
    let both = ["type", "show", "acme.imu.v1", "--all", "--json-schema"];
    assert_eq!(daemon.cli(both).code, Some(2));
    // Digits that are none come from other clients only.
    let request = |hash: &str| {
        let (name, hash) = ("acme.imu.v1".to_owned(), Some(hash.to_owned()));
        daemon.request(orchestrator_proto::control::Request::TypeShow { name, hash })
    };
    for bad in ["", "xyz", &"0".repeat(65)] {
        let refused = request(bad).unwrap_err().to_string();
        assert!(refused.contains("64 digits of a hash"), "{refused}");
    }
    // Two that declare it in different forms: neither is the one.
    let b = daemon.put("b");
    drop(declare(&daemon, &b, Direction::Input, "acme.imu.v1", &TypeSchema::U16));
    let said = daemon.cli(["type", "show", "acme.imu.v1", "--json-schema"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.stderr.contains("choose one as acme.imu.v1@HASH"), "{said:?}");
}

#[test]
fn what_has_no_schema_is_listed_as_such() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    veecle.storable("v", &json!(1));
    eventually("it is known", || (listed(&daemon, "v").len() == 1).then_some(()));
    let info = &listed(&daemon, "v")[0];
    assert_eq!((&info["hash"], &info["first_seen_ms"]), (&Value::Null, &Value::Null));
    assert_eq!(named(&info["outputs"]), ["a"]);
    assert!(daemon.ok(["type", "show", "v"]).contains("without a schema"));
    assert_eq!(daemon.cli(["type", "show", "v", "--json-schema"]).code, Some(1));
    let table = daemon.ok(["type", "list"]);
    assert!(table.lines().nth(1).unwrap().starts_with("v "), "{table}");
}
