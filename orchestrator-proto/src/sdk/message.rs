//! What can be a message.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Form, Offer};
use crate::TypeSchema;

/// A type that can be sent and received, under the name by which links know it.
///
/// ```
/// use orchestrator_proto::Message;
/// use orchestrator_proto::sdk::Schema;
///
/// #[derive(serde::Serialize, serde::Deserialize, Schema, Message)]
/// #[postcard(crate = orchestrator_proto::postcard_schema)]
/// #[message(name = "acme.imu.v1")]
/// struct Imu {
///     acceleration: [f32; 3],
/// }
///
/// assert_eq!(Imu::NAME, "acme.imu.v1");
/// ```
///
/// Without the attribute it does not compile:
///
/// ```compile_fail
/// # use orchestrator_proto::{Message, sdk::Schema};
/// #[derive(serde::Serialize, serde::Deserialize, Schema, Message)]
/// #[postcard(crate = orchestrator_proto::postcard_schema)]
/// struct Imu;
/// ```
pub trait Message: Serialize + DeserializeOwned + postcard_schema::Schema + Send + 'static {
    /// The type's name, 1 to 255 bytes. Two programs mean the same type by it; their schemas
    /// are compared when a link is made. Put a version into it, for when it changes so much that
    /// [`reads`](Self::reads) can't bridge it.
    const NAME: &'static str;

    /// What the type is made of.
    #[must_use]
    fn schema() -> TypeSchema {
        TypeSchema::from(Self::SCHEMA)
    }

    /// Other forms of this type that an [`Input`](super::Input) of it takes as well, best first: those that
    /// programs send which were built against another definition of it. `#[message(reads = [Old])]`
    /// makes this of `From<Old>`:
    ///
    /// ```
    /// # use orchestrator_proto::{Message, sdk::Schema};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize, Schema, Message)]
    /// #[postcard(crate = orchestrator_proto::postcard_schema)]
    /// #[message(name = "acme.imu")]
    /// struct ImuInG {
    ///     acceleration: [f32; 3],
    /// }
    ///
    /// #[derive(Serialize, Deserialize, Schema, Message)]
    /// #[postcard(crate = orchestrator_proto::postcard_schema)]
    /// #[message(name = "acme.imu", reads = [ImuInG])]
    /// struct Imu {
    ///     metres_per_s2: [f64; 3],
    /// }
    ///
    /// impl From<ImuInG> for Imu {
    ///     fn from(old: ImuInG) -> Self {
    ///         Self { metres_per_s2: old.acceleration.map(|g| f64::from(g) * 9.806_65) }
    ///     }
    /// }
    /// ```
    ///
    /// They have the same name. What is sent is always of the form of the type itself, and of those that
    /// it [writes](Self::writes).
    #[must_use]
    fn reads() -> Vec<Form<Self>>
    where
        Self: Sized,
    {
        Vec::new()
    }

    /// Other forms of this type in which an [`Output`](super::Output) of it has each message as well: for
    /// receivers that were built against another definition of it, and don't read this one. Each gets
    /// the form that is the best one for it. `#[message(writes = [Old])]` makes this of `From<&Self>`
    /// for `Old`, which has the same name. Each message costs the time and the bytes of all its
    /// forms, and goes by way of the daemon.
    #[must_use]
    fn writes() -> Vec<Offer<Self>>
    where
        Self: Sized,
    {
        Vec::new()
    }
}
