//! How an instance is supervised, as those have it who act on it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use orchestrator_proto::control::{RuntimeSpec, Supervision};

/// Where the rules are: by themselves, or as a part of a definition, of which no second copy is made
/// for them.
trait Part: Send + Sync {
    fn rules(&self) -> &Supervision;
}

impl Part for Supervision {
    fn rules(&self) -> &Supervision {
        self
    }
}

impl Part for RuntimeSpec {
    fn rules(&self) -> &Supervision {
        &self.supervision
    }
}

/// How an instance is supervised. Clones are the same: whoever keeps many instances has each one's
/// rules in several places.
#[derive(Clone)]
pub struct Rules(Arc<dyn Part>);

impl Deref for Rules {
    type Target = Supervision;

    fn deref(&self) -> &Supervision {
        self.0.rules()
    }
}

impl From<Supervision> for Rules {
    fn from(rules: Supervision) -> Self {
        Self(Arc::new(rules))
    }
}

/// As the definition says.
impl From<Arc<RuntimeSpec>> for Rules {
    fn from(spec: Arc<RuntimeSpec>) -> Self {
        Self(spec)
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Rules {}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
