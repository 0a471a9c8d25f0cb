//! Inputs that take several forms of a type.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use orchestrator_proto::control::{LinkState, Policy};
use orchestrator_proto::runtime::{Direction, Frame, MAX_FORMS};
use orchestrator_proto::schema::Field;
use orchestrator_proto::sdk::{Input, Output, Runtime, Schema};
use orchestrator_proto::{ErrorCode, Message, TypeSchema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tests::native::Native;
use tests::{Daemon, SOON, eventually};

#[derive(Serialize, Deserialize, Schema, Message, Clone, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "acme.imu")]
struct Oldest(f32);

#[derive(Serialize, Deserialize, Schema, Message, Clone, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "acme.imu")]
struct Old {
    x: f32,
    y: f32,
}

#[derive(Serialize, Deserialize, Schema, Message, Clone, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "acme.imu", reads = [Old, Oldest])]
struct Imu {
    x: f64,
    y: f64,
    stamp: Option<u64>,
}

impl From<Old> for Imu {
    fn from(Old { x, y }: Old) -> Self {
        Self { x: x.into(), y: y.into(), stamp: None }
    }
}

impl From<Oldest> for Imu {
    fn from(Oldest(x): Oldest) -> Self {
        Self { x: x.into(), y: 0.0, stamp: None }
    }
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn connect(tokio: &tokio::runtime::Runtime, daemon: &Daemon, id: &str) -> Runtime {
    tokio.block_on(Runtime::connect_to(daemon.native_socket(id))).unwrap()
}

fn next(tokio: &tokio::runtime::Runtime, input: &mut Input<Imu>) -> Imu {
    let received = async { tokio::time::timeout(SOON, input.recv()).await };
    tokio.block_on(received).expect("it arrives").unwrap()
}

/// A runtime with an output of this type.
fn sender<T: Message>(
    tokio: &tokio::runtime::Runtime,
    daemon: &Daemon,
    id: &str,
) -> (Runtime, Output<T>) {
    let runtime = connect(tokio, daemon, id);
    let output = runtime.output().unwrap();
    (runtime, output)
}

#[test]
fn what_senders_of_three_builds_send_arrives_at_one_that_reads_them_all() {
    let mut daemon = Daemon::start();
    let [a, b, c, to] = ["a", "b", "c", "to"].map(|name| daemon.put(name));
    let tokio = tokio();
    let receiver = connect(&tokio, &daemon, &to);
    let mut input = receiver.input::<Imu>().unwrap();
    daemon.declared("to", Imu::NAME);
    let (first, old) = sender::<Old>(&tokio, &daemon, &a);
    let (second, oldest) = sender::<Oldest>(&tokio, &daemon, &b);
    let (third, new) = sender::<Imu>(&tokio, &daemon, &c);
    for from in ["a", "b", "c"] {
        daemon.declared(from, Imu::NAME);
    }
    // From anybody: those that are there already are all checked.
    let link = daemon.link_with("any", Imu::NAME, "to", Policy::Block, 8);
    for round in 0..50_u8 {
        let x = f32::from(round);
        let imu = Imu { x: x.into(), y: 2.0, stamp: Some(7) };
        // Each has to arrive before the next one, so that the form changes each time.
        tokio.block_on(async { old.send(&Old { x, y: 1.0 }).await.unwrap() });
        assert_eq!(next(&tokio, &mut input), Imu { x: x.into(), y: 1.0, stamp: None });
        tokio.block_on(async { oldest.send(&Oldest(x)).await.unwrap() });
        assert_eq!(next(&tokio, &mut input), Imu { x: x.into(), y: 0.0, stamp: None });
        tokio.block_on(async { new.send(&imu).await.unwrap() });
        assert_eq!(next(&tokio, &mut input), imu);
        if round == 25 {
            // On a connection to another daemon all of it is told anew.
            daemon.replace_killed();
            let all = [&first, &second, &third, &receiver];
            all.iter().for_each(|runtime| tokio.block_on(runtime.connected()));
            eventually("the link goes on", || {
                let list = daemon.json(["type", "list"]);
                let declared = list["types"]["types"].as_array()?.len() == 3;
                (declared && daemon.info("to").connections == 1).then_some(())
            });
        }
    }
    assert_eq!(daemon.link_info(link).state, LinkState::Open);
    let list = daemon.json(["type", "list", "acme.*"]);
    for form in list["types"]["types"].as_array().unwrap() {
        assert_eq!((&form["outputs"]["count"], &form["inputs"]["count"]), (&json!(1), &json!(1)));
    }
    daemon.terminate();
}

fn schemas() -> [TypeSchema; 3] {
    let field = |name: &str| Field { name: name.to_owned(), schema: TypeSchema::U32 };
    let pair = |name: &str| TypeSchema::Struct(vec![field("x"), field(name)]);
    [pair("y"), TypeSchema::U32, TypeSchema::String]
}

/// Declares an input on channel 0 that takes the first two of these forms.
fn taker(daemon: &Daemon, id: &str, name: &str) -> Native {
    let [best, other, _] = schemas();
    let mut native = daemon.native(id);
    let canonical = other.encode();
    native.send(&Frame::Takes { channel: 0, schema: &canonical, hash: Some(other.hash().0) });
    native.declare(0, Direction::Input, name, &best, 0);
    native
}

#[test]
fn forms_are_known_to_the_daemons_that_follow_and_the_nearest_is_compared() {
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    drop(taker(&daemon, &b, "t"));
    daemon.declared("b", "t");
    let declares = |daemon: &Daemon, schema: &TypeSchema| {
        let mut native = daemon.native(&a);
        native.declare(0, Direction::Output, "t", schema, 0);
        let hash = json!(schema.hash().to_string());
        eventually("it is declared", || {
            let list = daemon.json(["type", "list", "t"]);
            let mut forms = list["types"]["types"].as_array()?.iter();
            forms.any(|it| it["hash"] == hash && it["outputs"]["count"] == json!(1)).then_some(())
        });
    };
    let [best, other, none] = schemas();
    for round in 0..2 {
        declares(&daemon, &other);
        let link = daemon.link("a", "t", "b");
        assert_eq!(daemon.link_info(link).state, LinkState::Open, "{round}");
        daemon.ok(["link", "remove", &link.to_string()]);
        declares(&daemon, &best);
        let link = daemon.link("a", "t", "b");
        daemon.ok(["link", "remove", &link.to_string()]);
        for schema in [&none, &TypeSchema::Struct(vec![])] {
            declares(&daemon, schema);
            let refused = daemon.try_link("a", "t", "b", Policy::Block, 1).unwrap_err();
            assert_eq!(refused.code, ErrorCode::SchemaMismatch);
            assert!(refused.causes[0].contains("takes 1 more of its forms"), "{refused}");
        }
        eventually("nothing waits to be written", || {
            let waits = &daemon.json(["daemon", "status"])["queues"]["store_changes"];
            (*waits == json!(0)).then_some(())
        });
        daemon.ok(["events"]);
        daemon.kill();
        daemon.launch();
        // Once that is answered, the sockets of its instances are there.
        daemon.ok(["status"]);
    }
}

#[test]
fn a_form_is_told_before_the_first_message_in_it() {
    let daemon = Daemon::start();
    let [a, b, v, to] = ["a", "b", "v", "to"].map(|name| daemon.put(name));
    daemon.link("any", "t", "to");
    let [best, other, _] = schemas();
    let mut receiver = taker(&daemon, &to, "t");
    daemon.declared("to", "t");
    let (mut first, mut second) = (daemon.native(&a), daemon.native(&b));
    first.declare(0, Direction::Output, "t", &best, 0);
    second.declare(0, Direction::Output, "t", &other, 0);
    let mut veecle = daemon.veecle(&v);
    // The form of the declaration, if nothing was said.
    let mut form = 0;
    let mut next = |receiver: &mut Native| loop {
        let (told, message) = receiver
            .next(|frame| match frame {
                Frame::Form { channel: 0, form } => (Some(form), None),
                Frame::Message { channel: 0, payload } => (None, Some(payload.to_vec())),
                _ => (None, None),
            })
            .unwrap();
        if let Some(told) = told {
            assert_ne!(told, form, "it is told what it knows");
            form = told;
        }
        if let Some(payload) = message {
            return (form, payload);
        }
    };
    for _ in 0..3 {
        first.message(0, &[1, 2]);
        assert_eq!(next(&mut receiver), (0, vec![1, 2]));
        first.message(0, &[3, 4]);
        assert_eq!(next(&mut receiver), (0, vec![3, 4]));
        second.message(0, &[5]);
        assert_eq!(next(&mut receiver), (1, vec![5]));
        // In the best form that it is a value of.
        veecle.storable("t", &json!({"x": 6, "y": 7}));
        assert_eq!(next(&mut receiver), (0, vec![6, 7]));
        veecle.storable("t", &json!(8));
        assert_eq!(next(&mut receiver), (1, vec![8]));
    }
    veecle.storable("t", &json!("none of them"));
    first.message(0, &[9, 9]);
    assert_eq!(next(&mut receiver), (0, vec![9, 9]));
}

fn takes(channel: u16, schema: &[u8]) -> Frame<'_> {
    Frame::Takes { channel, schema, hash: None }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let [best, other, _] = schemas();
    let (best, other) = (best.encode(), other.encode());
    let refused = |play: &dyn Fn(&mut Native)| {
        let mut native = daemon.native(&a);
        play(&mut native);
        let refusal = native.refusal();
        assert_eq!(refusal.code, ErrorCode::Malformed);
        refusal.message
    };
    let declare = |native: &mut Native, channel, direction| {
        native.declare(channel, direction, "t", &TypeSchema::Bool, 0);
    };
    let said = refused(&|native| {
        native.send(&takes(0, &best));
        declare(native, 0, Direction::Output);
        // Two parts, and a byte more.
        native.message(0, &[1, 7, 1, 7, 0]);
    });
    assert!(said.contains("one part for each"), "{said}");
    let said = refused(&|native| {
        native.send(&takes(0, &best));
        declare(native, 1, Direction::Input);
    });
    assert!(said.contains("not that of 0"), "{said}");
    let said = refused(&|native| {
        native.send(&takes(0, &best));
        native.send(&takes(1, &other));
    });
    assert!(said.contains("channel 0 are not yet declared"), "{said}");
    let said = refused(&|native| {
        native.send(&takes(0, &best));
        native.send(&takes(0, &best));
        declare(native, 0, Direction::Input);
    });
    assert!(said.contains("one form twice"), "{said}");
    let said = refused(&|native| {
        native.send(&takes(0, &TypeSchema::Bool.encode()));
        declare(native, 0, Direction::Input);
    });
    assert!(said.contains("one form twice"), "{said}");
    let said = refused(&|native| {
        for length in 1..=MAX_FORMS {
            native.send(&takes(0, &TypeSchema::Tuple(vec![TypeSchema::U8; length]).encode()));
        }
    });
    assert!(said.contains("more than 16 forms"), "{said}");
    let said = refused(&|native| native.send(&takes(0, &[99])));
    assert!(said.contains("kind 99"), "{said}");
    let hash = Some([0; 32]);
    let said = refused(&|native| native.send(&Frame::Takes { channel: 0, schema: &best, hash }));
    assert!(said.contains("hash"), "{said}");
    let said = refused(&|native| {
        native.send(&takes(0, &best));
        native.message(0, &[1]);
    });
    assert!(said.contains("right after they were named"), "{said}");
    let said = refused(&|native| native.send(&Frame::Form { channel: 0, form: 0 }));
    assert!(said.contains("only the daemon sends"), "{said}");
    // As many as may be.
    let mut native = daemon.native(&a);
    for length in 1..MAX_FORMS {
        native.send(&takes(0, &TypeSchema::Tuple(vec![TypeSchema::U8; length]).encode()));
    }
    native.send(&Frame::Recognise { channel: 0 });
    declare(&mut native, 0, Direction::Input);
    daemon.declared("a", "t");
}

#[derive(Serialize, Deserialize, Schema, Message, Clone, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "acme.imu", writes = [Old, Oldest])]
struct Newest {
    x: f64,
    y: f64,
    z: f64,
}

impl From<&Newest> for Old {
    fn from(Newest { x, y, .. }: &Newest) -> Self {
        Self { x: *x as f32, y: *y as f32 }
    }
}

impl From<&Newest> for Oldest {
    fn from(Newest { x, .. }: &Newest) -> Self {
        Self(*x as f32)
    }
}

/// F4: receivers of four builds, and a sender that has all their forms; stamped, and as it is.
#[test]
fn one_output_has_a_form_for_each_of_its_receivers() {
    for stamped in [false, true] {
        let daemon = Daemon::start();
        let from = daemon.put("from");
        let ids = ["newest", "imu", "old", "oldest"].map(|name| (name, daemon.put(name)));
        let tokio = tokio();
        let receivers = ids.clone().map(|(_, id)| connect(&tokio, &daemon, &id));
        let mut newest = receivers[0].input::<Newest>().unwrap();
        let mut imus = receivers[1].input::<Imu>().unwrap();
        let mut olds = receivers[2].input::<Old>().unwrap();
        let mut oldests = receivers[3].input::<Oldest>().unwrap();
        let runtime = connect(&tokio, &daemon, &from);
        let output: Output<Newest> =
            if stamped { runtime.stamped_output() } else { runtime.output() }.unwrap();
        daemon.declared("from", Newest::NAME);
        let links = ids.map(|(name, _)| {
            daemon.declared(name, Newest::NAME);
            daemon.link_with("from", Newest::NAME, name, Policy::Block, 8)
        });
        tokio.block_on(async {
            for round in 0..50_u8 {
                let x = f64::from(round);
                let (as_f32, sent) = (f32::from(round), Newest { x, y: 2.0, z: 3.0 });
                match round % 2 {
                    0 => output.send(&sent).await.unwrap(),
                    _ => assert_eq!(output.send_many([&sent]).await.unwrap(), 1),
                }
                let got = newest.recv_envelope().await.unwrap();
                assert_eq!((got.message, got.sent.is_some()), (sent, stamped));
                let got = imus.recv_envelope().await.unwrap();
                // Which reads this form itself: the sender makes it, the receiver what it needs of it.
                let imu = Imu { x, y: 2.0, stamp: None };
                assert_eq!((got.message, got.sent.is_some()), (imu, stamped));
                assert_eq!(olds.recv().await.unwrap(), Old { x: as_f32, y: 2.0 });
                assert_eq!(oldests.recv().await.unwrap(), Oldest(as_f32));
            }
        });
        for link in links {
            assert_eq!(daemon.link_info(link).state, LinkState::Open);
            assert_eq!(daemon.settled(link, 50).dropped, 0);
        }
        // Who watches sees its own form.
        let mut tap = daemon.cli_command(["link", "tap", "--from", "from", "--count", "1"]);
        let mut tap = tap.stdout(std::process::Stdio::piped()).spawn().unwrap();
        drop(receivers);
        let ended = eventually("it has seen one", || {
            let _ = output.try_send(&Newest { x: 1.0, y: 2.0, z: 3.0 });
            tokio.block_on(tokio::task::yield_now());
            tap.try_wait().unwrap()
        });
        assert!(ended.success());
        let seen = tap.wait_with_output().unwrap().stdout;
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.contains(r#"{"x":1.0,"y":2.0,"z":3.0}"#), "{seen}");
    }
}
