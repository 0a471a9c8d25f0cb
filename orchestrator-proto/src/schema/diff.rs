//! PURE: how two schemas differ, field by field.
//!
//! Fields and variants are matched by their names. What only one side has is taken for renamed if
//! the other side has something of the very same form in its place that only that one has.

use std::fmt;

use super::brief::brief;
use super::{Field, TypeSchema, Variant, VariantBody};

/// The most differences that are told one by one.
pub const MAX_DIFFERENCES: usize = 50;

/// The most names that are listed where an order differs.
const MAX_NAMES: usize = 12;

/// The longest text of a place, characters; the end of a longer one is shown.
const MAX_PLACE: usize = 160;

/// One step from a type to what it is made of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Into a field of this name, of a struct or of a variant.
    Field(String),
    /// Into a variant of this name.
    Variant(String),
    /// Into an element of a tuple, counted from 0, or of a variant with several values.
    Index(usize),
    /// Into what an option holds.
    Some,
    /// Into the elements of a sequence.
    Each,
    /// Into the keys of a map.
    Key,
    /// Into the values of a map.
    Value,
}

/// Where in a type: as in `pose.position.x`, `axes[].gain` or `shape::Circle`. The whole type is
/// a dot.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Place(pub Vec<Step>);

/// Something in which two schemas, the left and the right one, differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where; by its name on the left side, if it has another one on the right.
    pub place: Place,
    /// What.
    pub change: Change,
}

/// What differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The types, each in brief.
    Type {
        /// Left.
        left: String,
        /// Right.
        right: String,
    },
    /// Only the left side has this field or variant; of what type, in brief.
    OnlyLeft(String),
    /// Only the right side has it.
    OnlyRight(String),
    /// The right side calls this field or variant so.
    Renamed(String),
    /// The fields or variants that both sides have stand in another order.
    Order {
        /// Their names on the left side, the first `MAX_NAMES` of them.
        left: Vec<String>,
        /// The same in the order of the right side.
        right: Vec<String>,
    },
}

/// How two schemas differ. Empty if, and only if, they have the same canonical form.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Diff {
    /// In the order of the fields; the first [`MAX_DIFFERENCES`].
    pub differences: Vec<Difference>,
    /// How many more there are.
    pub more: usize,
}

impl TypeSchema {
    /// How this schema, the left one, differs from another, the right one.
    #[must_use]
    pub fn diff(&self, right: &Self) -> Diff {
        let mut walk = Walk::default();
        walk.types(self, right);
        walk.diff
    }
}

impl Diff {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// One line for each difference, where the sides are called so: as in
    /// `pose.position.x: f32 for the sender, f64 for the receiver`. At most some 20 kB.
    #[must_use]
    pub fn lines(&self, left: &str, right: &str) -> String {
        let mut lines: Vec<_> = self.differences.iter().map(|it| it.line(left, right)).collect();
        if self.more > 0 {
            lines.push(format!("and {} more differences", self.more));
        }
        lines.join("\n")
    }
}

impl Difference {
    fn line(&self, left: &str, right: &str) -> String {
        let place = &self.place;
        match &self.change {
            Change::Type { left: here, right: there } => {
                format!("{place}: {here} for {left}, {there} for {right}")
            }
            Change::OnlyLeft(of) => format!("{place}: only {left} has it ({of})"),
            Change::OnlyRight(of) => format!("{place}: only {right} has it ({of})"),
            Change::Renamed(name) => format!("{place}: {right} calls it {}", shown(name)),
            Change::Order { left: here, right: there } => {
                let list = |names: &[String]| {
                    names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ")
                };
                let (here, there) = (list(here), list(there));
                format!("{place}: in the order {here} for {left}, {there} for {right}")
            }
        }
    }
}

/// Names come from another process: nothing that acts on a terminal gets through, and no more
/// than 40 characters.
fn shown(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    let text = if is_plain { name.to_owned() } else { format!("{name:?}") };
    super::json_text::shorten_to(&text, 40)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Field(name) if text.is_empty() => text += &shown(name),
                Step::Field(name) => text += &format!(".{}", shown(name)),
                Step::Variant(name) => text += &format!("::{}", shown(name)),
                Step::Index(index) => text += &format!("[{index}]"),
                Step::Some => {}
                Step::Each => text += "[]",
                Step::Key => text += "[key]",
                Step::Value => text += "[value]",
            }
        }
        match (text.chars().count(), text.is_empty()) {
            (_, true) => f.write_str("."),
            (0..=MAX_PLACE, _) => f.write_str(&text),
            (count, _) => {
                f.write_str("…")?;
                text.chars()
                    .skip(count - MAX_PLACE + 1)
                    .try_for_each(|c| fmt::Write::write_char(f, c))
            }
        }
    }
}

/// A field or a variant: what has a name.
trait Member: Clone {
    fn name(&self) -> &str;
    fn step(&self) -> Step;
    fn is_alike(&self, other: &Self) -> bool;
    fn brief(&self) -> String;
}

impl Member for Field {
    fn name(&self) -> &str {
        &self.name
    }

    fn step(&self) -> Step {
        Step::Field(self.name.clone())
    }

    fn is_alike(&self, other: &Self) -> bool {
        is_same(&self.schema, &other.schema)
    }

    fn brief(&self) -> String {
        brief(&self.schema)
    }
}

impl Member for Variant {
    fn name(&self) -> &str {
        &self.name
    }

    fn step(&self) -> Step {
        Step::Variant(self.name.clone())
    }

    fn is_alike(&self, other: &Self) -> bool {
        let alone = |body: &VariantBody| {
            TypeSchema::Enum(vec![Variant { name: "V".to_owned(), body: body.clone() }])
        };
        self.body == other.body || is_same(&alone(&self.body), &alone(&other.body))
    }

    fn brief(&self) -> String {
        match &self.body {
            VariantBody::Unit => "without content".to_owned(),
            VariantBody::Newtype(inner) => brief(inner),
            VariantBody::Tuple(one) if one.len() == 1 => brief(&one[0]),
            VariantBody::Tuple(several) if several.is_empty() => {
                "with empty parentheses".to_owned()
            }
            VariantBody::Tuple(several) => brief(&TypeSchema::Tuple(several.clone())),
            VariantBody::Struct(fields) => brief(&TypeSchema::Struct(fields.clone())),
        }
    }
}

/// One meaning may have two values, which have the same canonical form.
fn is_same(left: &TypeSchema, right: &TypeSchema) -> bool {
    left == right || left.encode() == right.encode()
}

#[derive(Default)]
struct Walk {
    place: Vec<Step>,
    diff: Diff,
}

impl Walk {
    fn found(&mut self, step: Option<Step>, change: Change) {
        if self.diff.differences.len() >= MAX_DIFFERENCES {
            self.diff.more += 1;
            return;
        }
        let place = Place(self.place.iter().cloned().chain(step).collect());
        self.diff.differences.push(Difference { place, change });
    }

    fn into(&mut self, step: Step, compare: impl FnOnce(&mut Self)) {
        self.place.push(step);
        compare(self);
        self.place.pop();
    }

    fn types(&mut self, left: &TypeSchema, right: &TypeSchema) {
        use TypeSchema as T;
        if is_same(left, right) {
            return;
        }
        match (left, right) {
            (T::Option(left), T::Option(right)) => {
                self.into(Step::Some, |this| this.types(left, right));
            }
            (T::Seq(left), T::Seq(right)) => self.into(Step::Each, |this| this.types(left, right)),
            (T::Tuple(left), T::Tuple(right)) if left.len() == right.len() => {
                self.elements(left, right);
            }
            (T::Map(left_key, left), T::Map(right_key, right)) => {
                self.into(Step::Key, |this| this.types(left_key, right_key));
                self.into(Step::Value, |this| this.types(left, right));
            }
            (T::Struct(left), T::Struct(right)) => self.fields(left, right),
            (T::Enum(left), T::Enum(right)) => self.members(left, right, |this, left, right| {
                this.into(left.step(), |this| this.bodies(left, right));
            }),
            _ => self.found(None, Change::Type { left: brief(left), right: brief(right) }),
        }
    }

    fn elements(&mut self, left: &[TypeSchema], right: &[TypeSchema]) {
        for (index, (left, right)) in left.iter().zip(right).enumerate() {
            self.into(Step::Index(index), |this| this.types(left, right));
        }
    }

    fn fields(&mut self, left: &[Field], right: &[Field]) {
        self.members(left, right, |this, left, right| {
            this.into(left.step(), |this| this.types(&left.schema, &right.schema));
        });
    }

    fn bodies(&mut self, left: &Variant, right: &Variant) {
        use VariantBody as B;
        match (&left.body, &right.body) {
            (B::Newtype(left), B::Newtype(right)) => self.types(left, right),
            (B::Tuple(left), B::Tuple(right)) if left.len() == right.len() => {
                self.elements(left, right);
            }
            (B::Struct(left), B::Struct(right)) => self.fields(left, right),
            _ if left.is_alike(right) => {}
            _ => {
                let of = |variant: &Variant| match &variant.body {
                    B::Newtype(inner) => format!("({})", brief(inner)),
                    _ => variant.brief(),
                };
                self.found(None, Change::Type { left: of(left), right: of(right) });
            }
        }
    }

    /// Names on each side are all different.
    fn members<M: Member>(
        &mut self,
        left: &[M],
        right: &[M],
        mut compare: impl FnMut(&mut Self, &M, &M),
    ) {
        // To each of the left side its partner on the right side.
        let by_name: std::collections::HashMap<_, _> =
            right.iter().enumerate().map(|(at, it)| (it.name(), at)).collect();
        let mut partners: Vec<_> = left.iter().map(|it| by_name.get(it.name()).copied()).collect();
        let mut is_taken = vec![false; right.len()];
        partners.iter().flatten().for_each(|at| is_taken[*at] = true);
        for (at, of) in left.iter().enumerate() {
            let in_its_place = right.get(at).filter(|it| !is_taken[at] && it.is_alike(of));
            if partners[at].is_none() && in_its_place.is_some() {
                partners[at] = Some(at);
                is_taken[at] = true;
            }
        }
        for (of, partner) in left.iter().zip(&partners) {
            match partner.map(|at| &right[at]) {
                None => self.found(Some(of.step()), Change::OnlyLeft(of.brief())),
                Some(other) if other.name() != of.name() => {
                    self.found(Some(of.step()), Change::Renamed(other.name().to_owned()));
                }
                Some(other) => compare(self, of, other),
            }
        }
        for (of, _) in right.iter().zip(&is_taken).filter(|(_, is_taken)| !**is_taken) {
            self.found(Some(of.step()), Change::OnlyRight(of.brief()));
        }
        if !partners.iter().flatten().is_sorted() {
            let mut pairs: Vec<_> = left.iter().zip(&partners).collect();
            pairs.retain(|(_, partner)| partner.is_some());
            let names = |pairs: &[(&M, &Option<usize>)]| {
                pairs.iter().take(MAX_NAMES).map(|(it, _)| it.name().to_owned()).collect()
            };
            let here = names(&pairs);
            pairs.sort_by_key(|(_, partner)| **partner);
            self.found(None, Change::Order { left: here, right: names(&pairs) });
        }
    }
}
