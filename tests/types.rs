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
