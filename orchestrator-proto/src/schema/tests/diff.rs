//! How schemas differ.

use proptest::prelude::*;

use super::super::*;
use super::field;
use super::properties::any_schema;

fn body(of: &VariantBody) -> TypeSchema {
    match of.clone() {
        VariantBody::Unit => TypeSchema::Unit,
        VariantBody::Newtype(inner) => inner,
        VariantBody::Tuple(elements) => TypeSchema::Tuple(elements),
        VariantBody::Struct(fields) => TypeSchema::Struct(fields),
    }
}

/// What is at this place of a type, if there is anything.
fn at(schema: &TypeSchema, steps: &[Step]) -> Option<TypeSchema> {
    use TypeSchema as T;
    let Some((step, rest)) = steps.split_first() else {
        return Some(schema.clone());
    };
    let inner = match (step, schema) {
        (Step::Some, T::Option(inner)) | (Step::Each, T::Seq(inner)) => (**inner).clone(),
        (Step::Key, T::Map(key, _)) => (**key).clone(),
        (Step::Value, T::Map(_, value)) => (**value).clone(),
        (Step::Index(index), T::Tuple(elements)) => elements.get(*index)?.clone(),
        (Step::Field(name), T::Struct(fields)) => {
            fields.iter().find(|it| it.name == *name)?.schema.clone()
        }
        (Step::Variant(name), T::Enum(variants)) => {
            body(&variants.iter().find(|it| it.name == *name)?.body)
        }
        _ => return None,
    };
    at(&inner, rest)
}

/// A schema that is much like another one.
fn changed(schema: &TypeSchema, at: &mut impl Iterator<Item = u8>) -> TypeSchema {
    use TypeSchema as T;
    let mut next = || at.next().unwrap_or(255);
    match schema {
        _ if next() == 0 => T::U8,
        T::Option(inner) => T::Option(changed(inner, at).into()),
        T::Seq(inner) => T::Seq(changed(inner, at).into()),
        T::Map(key, value) => T::Map(changed(key, at).into(), changed(value, at).into()),
        T::Tuple(elements) => T::Tuple(elements.iter().map(|it| changed(it, at)).collect()),
        T::Struct(fields) => {
            let mut fields = fields.clone();
            match (next(), fields.len()) {
                (0, 1..) => drop(fields.remove(0)),
                (1, 2..) => fields.swap(0, 1),
                (2, 1..) => fields[0].name += "+",
                (3, _) => fields.push(field("more+", T::F64)),
                _ => {}
            }
            let each = |it: Field| Field { schema: changed(&it.schema, at), ..it };
            T::Struct(fields.into_iter().map(each).collect())
        }
        T::Enum(variants) => {
            let mut variants = variants.clone();
            match (next(), variants.len()) {
                (0, 1..) => drop(variants.remove(0)),
                (1, 2..) => variants.swap(0, 1),
                (2, 1..) => variants[0].name += "+",
                (3, 1..) => variants[0].body = VariantBody::Struct(vec![]),
                _ => {}
            }
            T::Enum(variants)
        }
        scalar => scalar.clone(),
    }
}

fn check(left: &TypeSchema, right: &TypeSchema) -> Result<(), TestCaseError> {
    let diff = left.diff(right);
    prop_assert_eq!(diff.is_empty(), left.encode() == right.encode(), "{:?}", diff);
    prop_assert!(diff.differences.len() <= MAX_DIFFERENCES);
    for Difference { place, change } in &diff.differences {
        let (here, there) = (at(left, &place.0), at(right, &place.0));
        match change {
            Change::Type { .. } => {
                prop_assert!(here.is_some() || there.is_some(), "{}", place);
            }
            Change::OnlyLeft(_) | Change::Renamed(_) => {
                prop_assert!(here.is_some() && there.is_none(), "{}", place);
            }
            Change::OnlyRight(_) => prop_assert!(here.is_none() && there.is_some(), "{}", place),
            Change::Order { left, right } => {
                let (mut left, mut right) = (left.clone(), right.clone());
                prop_assert_ne!(&left, &right);
                left.sort();
                right.sort();
                prop_assert!(left == right || left.len() == 12);
            }
        }
    }
    let lines = diff.lines("left", "right");
    prop_assert!(lines.len() < 64 << 10);
    prop_assert!(!lines.chars().any(|c| c.is_control() && c != '\n'));
    Ok(())
}

proptest! {
    #[test]
    fn nothing_differs_from_itself(schema in any_schema()) {
        prop_assert!(schema.diff(&schema).is_empty());
        prop_assert_eq!(schema.diff(&schema).lines("left", "right"), "");
    }

    #[test]
    fn what_is_told_is_there_in_two_that_have_nothing_in_common(
        left in any_schema(), right in any_schema(),
    ) {
        check(&left, &right)?;
    }

    #[test]
    fn what_is_told_is_there_in_two_that_are_much_alike(
        left in any_schema(), steps in prop::collection::vec(0..12_u8, 0..40),
    ) {
        let right = changed(&left, &mut steps.into_iter());
        check(&left, &right)?;
        check(&right, &left)?;
    }
}

fn told(left: TypeSchema, right: TypeSchema) -> Vec<String> {
    let lines = left.diff(&right).lines("the sender", "the receiver");
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn differences_are_told_field_by_field() {
    use TypeSchema as T;
    let pose = |x, last| {
        let position = T::Struct(vec![field("x", x), field("y", T::F32)]);
        T::Struct(vec![field("position", position), last])
    };
    let robot = |pose| T::Struct(vec![field("pose", pose), field("axes", T::Seq(Box::new(T::I8)))]);
    assert_eq!(
        told(
            robot(pose(T::F32, field("stamp", T::U64))),
            robot(pose(T::F64, field("time", T::U64))),
        ),
        [
            "pose.position.x: f32 for the sender, f64 for the receiver",
            "pose.stamp: the receiver calls it time",
        ]
    );
    assert_eq!(
        told(
            T::Struct(vec![field("a", T::U8), field("b", T::U8), field("c", T::String)]),
            T::Struct(vec![field("b", T::U8), field("a", T::U8), field("d", T::F64)]),
        ),
        [
            "c: only the sender has it (String)",
            "d: only the receiver has it (f64)",
            ".: in the order a, b for the sender, b, a for the receiver",
        ]
    );
    let list = |of| T::Seq(Box::new(T::Option(Box::new(T::Tuple(vec![T::U8, of])))));
    assert_eq!(told(list(T::U8), list(T::U16)), ["[][1]: u8 for the sender, u16 for the receiver"]);
    assert_eq!(
        told(T::Tuple(vec![T::F32; 3]), T::Tuple(vec![T::F32; 4])),
        [".: [f32; 3] for the sender, [f32; 4] for the receiver"]
    );
    let shape = |name: &str, of| Variant { name: name.into(), body: of };
    let one = VariantBody::Newtype;
    assert_eq!(
        told(
            T::Enum(vec![
                shape("Off", VariantBody::Unit),
                shape("Circle", one(T::F32)),
                shape("Box", VariantBody::Struct(vec![field("w", T::F32)])),
            ]),
            T::Enum(vec![
                shape("Off", VariantBody::Unit),
                shape("Circle", one(T::F64)),
                shape("Box", VariantBody::Struct(vec![field("w", T::F64)])),
                shape("Line", VariantBody::Tuple(vec![T::F32, T::F32])),
            ]),
        ),
        [
            "::Circle: f32 for the sender, f64 for the receiver",
            "::Box.w: f32 for the sender, f64 for the receiver",
            "::Line: only the receiver has it ((f32, f32))",
        ]
    );
    assert_eq!(
        told(T::Enum(vec![shape("A", VariantBody::Unit)]), T::Enum(vec![shape("A", one(T::U8))])),
        ["::A: without content for the sender, (u8) for the receiver"]
    );
}

#[test]
fn what_is_told_is_bounded() {
    let all = |of: TypeSchema| {
        let each = |at| field(&format!("{at:0>250}"), of.clone());
        TypeSchema::Struct((0..200).map(each).collect())
    };
    let diff = all(TypeSchema::U8).diff(&all(TypeSchema::U16));
    assert_eq!((diff.differences.len(), diff.more), (MAX_DIFFERENCES, 150));
    let lines = diff.lines("the sender", "the receiver");
    assert!(lines.len() < 8 << 10, "{}", lines.len());
    assert!(lines.ends_with("and 150 more differences"), "{lines}");
    let deep = |of| (0..31).fold(of, |inner, _| TypeSchema::Struct(vec![field("member", inner)]));
    let diff = deep(TypeSchema::U8).diff(&deep(TypeSchema::U16));
    let place = diff.differences[0].place.to_string();
    assert!(place.chars().count() == 160 && place.starts_with('…'), "{place}");
}
