//! What a privileged instance can ask for, and how it is answered.

use serde::{Deserialize, Serialize};

use crate::control::{Priority, RuntimeInfo};
use crate::id::InstanceId;

/// What a privileged instance can ask for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RuntimeRequest {
    /// Starts an instance.
    Start {
        /// Its id, a unique prefix of it, or its name.
        instance: String,
        /// Its priority; none leaves it as it was.
        priority: Option<Priority>,
    },
    /// Stops an instance.
    Stop {
        /// Its id, a unique prefix of it, or its name.
        instance: String,
    },
    /// All instances.
    List,
}

/// How a request ends well.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum RuntimeReply {
    /// It runs.
    Started {
        /// The instance.
        id: InstanceId,
    },
    /// It does not run any more.
    Stopped {
        /// The instance.
        id: InstanceId,
    },
    /// All instances, the oldest first.
    List(Vec<RuntimeInfo>),
}
