//! `#[derive(Message)]` for `orchestrator-proto`: gives a type its name on the wire.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::quote;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, DeriveInput, LitStr, Token, Type, bracketed, parse_macro_input};

/// The longest name, bytes.
const MAX_NAME: usize = 255;

/// Implements `orchestrator_proto::sdk::Message`, with the name given as
/// `#[message(name = "acme.imu.v1")]`: 1 to 255 bytes, without control characters.
///
/// With `reads = [Old, Older]` an input of the type takes messages of these types too, which have the
/// same name; it has to be `From` each of them. With `writes = [Old, Older]` an output of the type has
/// each message in their forms too; each of them has to be `From` a reference to it.
///
/// The type needs `Serialize`, `Deserialize` and `Schema` as well.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let Attributes { name, reads, writes } = match attributes(&input) {
        Ok(attributes) => attributes,
        Err(error) => return error.into_compile_error().into(),
    };
    let ident = &input.ident;
    let reads = (!reads.is_empty()).then(|| {
        quote! {
            fn reads() -> ::std::vec::Vec<::orchestrator_proto::sdk::Form<Self>> {
                ::std::vec![#(::orchestrator_proto::sdk::Form::of::<#reads>()),*]
            }
        }
    });
    let writes = (!writes.is_empty()).then(|| {
        quote! {
            fn writes() -> ::std::vec::Vec<::orchestrator_proto::sdk::Offer<Self>> {
                ::std::vec![#(::orchestrator_proto::sdk::Offer::of::<#writes>()),*]
            }
        }
    });
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::orchestrator_proto::sdk::Message for #ident #type_generics
        #where_clause
        {
            const NAME: &'static str = #name;
            #reads
            #writes
        }
    }
    .into()
}

/// What the attributes say.
struct Attributes {
    name: LitStr,
    reads: Vec<Type>,
    writes: Vec<Type>,
}

/// As far as they were read.
#[derive(Default)]
struct Found {
    name: Option<LitStr>,
    reads: Option<Vec<Type>>,
    writes: Option<Vec<Type>>,
}

fn attributes(input: &DeriveInput) -> syn::Result<Attributes> {
    let mut found = Found::default();
    let attributes = input.attrs.iter().filter(|a| a.path().is_ident("message"));
    for attribute in attributes {
        read_attribute(attribute, &mut found)?;
    }
    let Found { name, reads, writes } = found;
    let name = name.ok_or_else(|| {
        syn::Error::new(
            input.ident.span(),
            "a message needs a name by which links know it: \
             add #[message(name = \"company.thing.v1\")]",
        )
    })?;
    check(&name.value(), name.span())?;
    Ok(Attributes { name, reads: reads.unwrap_or_default(), writes: writes.unwrap_or_default() })
}

fn read_attribute(attribute: &Attribute, found: &mut Found) -> syn::Result<()> {
    let Found { name, reads, writes } = found;
    attribute.parse_nested_meta(|meta| {
        for (word, types) in [("reads", &mut *reads), ("writes", &mut *writes)] {
            if meta.path.is_ident(word) {
                if types.is_some() {
                    let sentence = format!("what a message {word} is one list; this is the second");
                    return Err(meta.error(sentence));
                }
                let (list, value);
                value = meta.value()?;
                bracketed!(list in value);
                let all = Punctuated::<Type, Token![,]>::parse_terminated(&list)?;
                *types = Some(all.into_iter().collect());
                return Ok(());
            }
        }
        if !meta.path.is_ident("name") {
            return Err(meta.error(
                "there are only `name`, `reads` and `writes`, as in \
                 #[message(name = \"acme.imu.v1\")]",
            ));
        }
        if name.is_some() {
            return Err(meta.error("a message has one name; this is the second"));
        }
        *name = Some(meta.value()?.parse()?);
        Ok(())
    })?;
    if name.is_none() {
        return Err(syn::Error::new(
            attribute.span(),
            "the name is missing, as in #[message(name = \"acme.imu.v1\")]",
        ));
    }
    Ok(())
}

fn check(name: &str, span: Span) -> syn::Result<()> {
    let problem = if name.is_empty() {
        "the name of a message must not be empty".to_owned()
    } else if name.len() > MAX_NAME {
        let length = name.len();
        format!("the name of a message has at most {MAX_NAME} bytes; this one has {length}")
    } else if name.chars().any(char::is_control) {
        "the name of a message must not contain control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(syn::Error::new(span, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn complaint(input: &DeriveInput) -> String {
        attributes(input).err().unwrap().to_string()
    }

    #[test]
    fn the_name_is_taken_from_the_attribute() {
        let of = attributes(&parse_quote! {
            #[message(name = "acme.imu.v1")]
            struct Imu;
        });
        let of = of.ok().unwrap();
        assert_eq!((of.name.value().as_str(), of.reads.len()), ("acme.imu.v1", 0));
    }

    #[test]
    fn what_is_read_too_is_a_list_of_types() {
        let of = attributes(&parse_quote! {
            #[message(name = "acme.imu", reads = [old::Imu, Older<3>,], writes = [old::Imu])]
            struct Imu;
        });
        let of = of.ok().unwrap();
        assert_eq!((of.reads.len(), of.writes.len()), (2, 1));
    }

    #[test]
    fn wrong_attributes_are_explained() {
        assert!(complaint(&parse_quote! { struct Imu; }).contains("needs a name"));
        assert!(complaint(&parse_quote! { #[message()] struct Imu; }).contains("is missing"));
        let empty = parse_quote! { #[message(name = "")] struct Imu; };
        assert!(complaint(&empty).contains("must not be empty"));
        let other = parse_quote! { #[message(title = "x")] struct Imu; };
        assert!(complaint(&other).contains("only `name`, `reads` and `writes`"));
        let lists = parse_quote! { #[message(name = "a", reads = [B], reads = [C])] struct Imu; };
        assert!(complaint(&lists).contains("one list"));
        let twice = parse_quote! { #[message(name = "a", name = "b")] struct Imu; };
        assert!(complaint(&twice).contains("second"));
        let name = "x".repeat(256);
        let long = parse_quote! { #[message(name = #name)] struct Imu; };
        assert!(complaint(&long).contains("at most 255 bytes; this one has 256"));
        let control = parse_quote! { #[message(name = "a\nb")] struct Imu; };
        assert!(complaint(&control).contains("control"));
    }
}
