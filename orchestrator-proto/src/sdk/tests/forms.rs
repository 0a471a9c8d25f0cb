//! Inputs that take several forms of a type.

use super::*;

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[message(name = "test.level")]
struct Percent(u8);

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[message(name = "test.level", reads = [Percent])]
struct Level {
    value: f64,
}

impl From<Percent> for Level {
    fn from(Percent(percent): Percent) -> Self {
        Self { value: f64::from(percent) / 100.0 }
    }
}

#[derive(Serialize, Deserialize, Schema, Message)]
#[message(name = "test.other", reads = [Percent])]
struct Other(u8);

impl From<Percent> for Other {
    fn from(Percent(percent): Percent) -> Self {
        Self(percent)
    }
}

impl Peer {
    async fn expect_takes(&mut self, channel: u16) {
        self.expect_stamps(channel).await;
        let body = self.body().await.unwrap();
        let (schema, hash) = (Percent::schema().encode(), Some(Percent::schema().hash().0));
        let expected = Frame::Takes { channel, schema: &schema, hash };
        assert_eq!(postcard::from_bytes(&body), Ok(expected));
        let recognise = self.body().await.unwrap();
        assert_eq!(postcard::from_bytes(&recognise), Ok(Frame::Recognise { channel }));
        let body = self.body().await.unwrap();
        let Frame::Declare(declare) = postcard::from_bytes(&body).unwrap() else {
            panic!("no declaration: {body:?}");
        };
        assert_eq!((declare.channel, declare.schema), (channel, &Level::schema().encode()[..]));
    }

    async fn level<T: Serialize>(&mut self, value: &T) {
        let payload = postcard::to_stdvec(value).unwrap();
        self.send(&Frame::Message { channel: 0, payload: &payload }).await;
    }
}

#[tokio::test]
async fn each_message_is_read_in_the_form_that_was_told() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, mut peer) = daemon.connect().await;
        let mut input = runtime.input::<Level>().unwrap();
        peer.expect_takes(0).await;
        peer.level(&Level { value: 1.5 }).await;
        peer.send(&Frame::Form { channel: 0, form: 1 }).await;
        peer.level(&Percent(50)).await;
        peer.level(&Percent(25)).await;
        peer.send(&Frame::Form { channel: 0, form: 0 }).await;
        peer.level(&Level { value: 3.0 }).await;
        for value in [1.5, 0.5, 0.25, 3.0] {
            assert_eq!(input.recv().await, Ok(Level { value }));
        }
        peer.send(&Frame::Form { channel: 0, form: 1 }).await;
        peer.level(&Level { value: 1.0 }).await;
        assert!(matches!(input.recv().await, Err(RecvError::BadPayload { .. })));
        // A form that was never declared costs the messages in it, and nothing else.
        peer.send(&Frame::Form { channel: 0, form: 2 }).await;
        peer.level(&Percent(1)).await;
        peer.send(&Frame::Form { channel: 0, form: 1 }).await;
        peer.level(&Percent(2)).await;
        assert!(matches!(input.recv().await, Err(RecvError::BadPayload { .. })));
        assert_eq!(input.recv().await, Ok(Level { value: 0.02 }));
        // Another connection begins with the form of the declaration.
        drop(peer);
        let mut peer = daemon.welcome().await;
        peer.expect_takes(0).await;
        peer.level(&Level { value: 4.0 }).await;
        assert_eq!(input.recv().await, Ok(Level { value: 4.0 }));
        // An output is of the form of the type alone.
        let output = runtime.output::<Level>().unwrap();
        peer.expect_declare(1, Level::NAME, 0).await;
        assert_eq!(format!("{output:?}"), "Output(\"test.level\")");
    })
    .await;
}

#[tokio::test]
async fn what_has_another_name_can_not_be_read() {
    soon(async {
        let daemon = Daemon::new();
        let (runtime, _peer) = daemon.connect().await;
        let (name, other) = ("test.other".to_owned(), "test.level".to_owned());
        let error = runtime.input::<Other>().unwrap_err();
        assert_eq!(error, DeclareError::OtherName { name, other });
        // Nothing was declared.
        drop(runtime.output::<Other>().unwrap());
    })
    .await;
}
