//! From the schemas that `#[derive(postcard_schema::Schema)]` makes.

use postcard_schema::schema::{DataModelType, DataModelVariant, NamedType, NamedValue};

use super::{Field, TypeSchema, Variant, VariantBody};

/// Names of types are left out, and a struct with one unnamed field is what it wraps.
///
/// `postcard_schema`'s own node for a schema as a value has no shape that could be stated, so
/// it becomes an enum without variants: payloads with it pass, and can't be shown as JSON.
impl From<&NamedType> for TypeSchema {
    fn from(named: &NamedType) -> Self {
        match named.ty {
            DataModelType::Bool => Self::Bool,
            DataModelType::I8 => Self::I8,
            DataModelType::U8 => Self::U8,
            DataModelType::I16 => Self::I16,
            DataModelType::I32 => Self::I32,
            DataModelType::I64 | DataModelType::Isize => Self::I64,
            DataModelType::I128 => Self::I128,
            DataModelType::U16 => Self::U16,
            DataModelType::U32 => Self::U32,
            DataModelType::U64 | DataModelType::Usize => Self::U64,
            DataModelType::U128 => Self::U128,
            DataModelType::F32 => Self::F32,
            DataModelType::F64 => Self::F64,
            DataModelType::Char => Self::Char,
            DataModelType::String => Self::String,
            DataModelType::ByteArray => Self::Bytes,
            DataModelType::Option(inner) => Self::Option(Box::new(Self::from(*inner))),
            DataModelType::Unit | DataModelType::UnitStruct => Self::Unit,
            DataModelType::NewtypeStruct(inner) => Self::from(*inner),
            DataModelType::Seq(inner) => Self::Seq(Box::new(Self::from(*inner))),
            DataModelType::Tuple([]) | DataModelType::TupleStruct([]) => Self::Unit,
            DataModelType::Tuple(inner) | DataModelType::TupleStruct(inner) => {
                Self::Tuple(all(inner))
            }
            DataModelType::Map { key, val } => {
                Self::Map(Box::new(Self::from(*key)), Box::new(Self::from(*val)))
            }
            DataModelType::Struct(inner) => Self::Struct(fields(inner)),
            DataModelType::Enum(variants) => Self::Enum(
                variants
                    .iter()
                    .map(|variant| Variant {
                        name: variant.name.to_owned(),
                        body: body(variant.ty),
                    })
                    .collect(),
            ),
            DataModelType::Schema => Self::Enum(Vec::new()),
        }
    }
}

fn all(types: &[&NamedType]) -> Vec<TypeSchema> {
    types.iter().map(|inner| TypeSchema::from(*inner)).collect()
}

fn fields(values: &[&NamedValue]) -> Vec<Field> {
    let field = |value: &&NamedValue| Field {
        name: value.name.to_owned(),
        schema: TypeSchema::from(value.ty),
    };
    values.iter().map(field).collect()
}

fn body(variant: &DataModelVariant) -> VariantBody {
    match variant {
        DataModelVariant::UnitVariant => VariantBody::Unit,
        // `postcard_schema` describes `Result` with the latter.
        DataModelVariant::NewtypeVariant(inner) | DataModelVariant::TupleVariant([inner]) => {
            VariantBody::Newtype(TypeSchema::from(*inner))
        }
        DataModelVariant::TupleVariant(inner) => VariantBody::Tuple(all(inner)),
        DataModelVariant::StructVariant(inner) => VariantBody::Struct(fields(inner)),
    }
}
