//! What an instance last declared of its message types; kept while it is not connected.

use std::collections::BTreeMap;
use std::sync::Arc;

use orchestrator_proto::runtime::Direction;
use orchestrator_proto::schema::{Diff, side_by_side};
use orchestrator_proto::{ErrorCode, InstanceId, WireError};

use super::decl::TypeDecl;
use super::router::MAX_OUTPUTS;

/// Told of each type that is declared, and whether it is news: in another form than before, or for
/// the first time. Must not wait and must not call the router.
pub type TellType = Arc<dyn Fn(Direction, &TypeDecl, bool) + Send + Sync>;

/// By type name. Nothing is taken for it while it is empty.
type Decls = BTreeMap<Arc<str>, Arc<TypeDecl>>;

/// The types of one instance.
#[derive(Default)]
pub(super) struct Types {
    outputs: Decls,
    inputs: Decls,
    tell: Option<TellType>,
}

impl Types {
    /// From now on declarations are told.
    pub(super) fn tell(&mut self, tell: TellType) {
        self.tell = Some(tell);
    }

    fn of(&mut self, direction: Direction) -> &mut Decls {
        match direction {
            Direction::Output => &mut self.outputs,
            Direction::Input => &mut self.inputs,
        }
    }

    pub(super) fn output(&self, name: &str) -> Option<&Arc<TypeDecl>> {
        self.outputs.get(name)
    }

    pub(super) fn input(&self, name: &str) -> Option<&Arc<TypeDecl>> {
        self.inputs.get(name)
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = &Arc<str>> {
        self.outputs.keys()
    }

    /// All outputs and all inputs.
    pub(super) fn all(&self) -> impl Iterator<Item = (Direction, &Arc<TypeDecl>)> {
        let outputs = self.outputs.values().map(|decl| (Direction::Output, decl));
        outputs.chain(self.inputs.values().map(|decl| (Direction::Input, decl)))
    }

    /// The names of all outputs and of all inputs, sorted.
    pub(super) fn names(&self) -> (Vec<String>, Vec<String>) {
        let names = |decls: &Decls| {
            let mut names: Vec<_> = decls.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        (names(&self.outputs), names(&self.inputs))
    }

    /// The instance declares this. The answer is who is to be told, and whether its schema was
    /// another until now. At most [`MAX_OUTPUTS`] names are kept in each direction, because an instance
    /// may connect again and again with others.
    pub(super) fn declare(
        &mut self,
        direction: Direction,
        decl: &Arc<TypeDecl>,
    ) -> Option<(TellType, bool)> {
        let decls = self.of(direction);
        if decls.len() >= MAX_OUTPUTS && !decls.contains_key(&decl.name) {
            return None;
        }
        let hashes = |decl: &TypeDecl| decl.forms().map(|(hash, _)| *hash).collect::<Vec<_>>();
        let before = decls.insert(decl.name.clone(), decl.clone());
        let is_news = before.map_or_else(Vec::new, |before| hashes(&before)) != hashes(decl);
        Some((self.tell.clone()?, is_news))
    }
}

/// How the two ends of a link disagree, field by field, and both schemas.
pub(super) fn mismatch(
    (from, output): (&InstanceId, &TypeDecl),
    (to, input): (&InstanceId, &TypeDecl),
) -> Option<WireError> {
    // Without a schema on one side the messages are translated, as far as they can be.
    let (_, sent) = output.schema.as_ref()?;
    if output.forms().any(|(hash, _)| input.form_of(*hash).is_some()) {
        return None;
    }
    // Of those that it takes, the one that is the most like it.
    let count = |diff: &Diff| diff.differences.len() + diff.more;
    let nearest = input.forms().map(|(_, taken)| (sent.diff(taken), taken));
    let (diff, taken) = nearest.min_by_key(|(diff, _)| count(diff))?;
    let mut error = WireError::new(
        ErrorCode::SchemaMismatch,
        format!(
            "the two ends declare different schemas for {}; rebuild one of them against the \
             other's definition",
            output.name
        ),
    );
    let mut lines = diff.lines("the sender", "the receiver");
    if !input.also.is_empty() {
        let others = input.also.len();
        lines += &format!("\n(the receiver takes {others} more of its forms, which differ more)");
    }
    error.causes.push(lines);
    let (left, right) = (format!("sent by {from}"), format!("taken by {to}"));
    error.causes.push(side_by_side(&left, sent, &right, taken));
    Some(error)
}
