//! `#[derive(Message)]` for `orchestrator-proto`: gives a type its name on the wire.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Attribute, DeriveInput, LitStr, parse_macro_input};

/// The longest name, bytes.
const MAX_NAME: usize = 255;

/// Implements `orchestrator_proto::sdk::Message`, with the name given as
/// `#[message(name = "acme.imu.v1")]`: 1 to 255 bytes, without control characters.
///
/// The type needs `Serialize`, `Deserialize` and `Schema` as well.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let name = match message_name(&input) {
        Ok(name) => name,
        Err(error) => return error.into_compile_error().into(),
    };
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::orchestrator_proto::sdk::Message for #ident #type_generics
        #where_clause
        {
            const NAME: &'static str = #name;
        }
    }
    .into()
}

fn message_name(input: &DeriveInput) -> syn::Result<LitStr> {
    let mut name: Option<LitStr> = None;
    let attributes = input.attrs.iter().filter(|a| a.path().is_ident("message"));
    for attribute in attributes {
        read_attribute(attribute, &mut name)?;
    }
    let name = name.ok_or_else(|| {
        syn::Error::new(
            input.ident.span(),
            "a message needs a name by which links know it: \
             add #[message(name = \"company.thing.v1\")]",
        )
    })?;
    check(&name.value(), name.span())?;
    Ok(name)
}

fn read_attribute(attribute: &Attribute, name: &mut Option<LitStr>) -> syn::Result<()> {
    attribute.parse_nested_meta(|meta| {
        if !meta.path.is_ident("name") {
            return Err(
                meta.error("there is only `name`, as in #[message(name = \"acme.imu.v1\")]")
            );
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
        message_name(input).err().unwrap().to_string()
    }

    #[test]
    fn the_name_is_taken_from_the_attribute() {
        let name = message_name(&parse_quote! {
            #[message(name = "acme.imu.v1")]
            struct Imu;
        });
        assert_eq!(name.unwrap().value(), "acme.imu.v1");
    }

    #[test]
    fn wrong_attributes_are_explained() {
        assert!(complaint(&parse_quote! { struct Imu; }).contains("needs a name"));
        assert!(complaint(&parse_quote! { #[message()] struct Imu; }).contains("is missing"));
        let empty = parse_quote! { #[message(name = "")] struct Imu; };
        assert!(complaint(&empty).contains("must not be empty"));
        let other = parse_quote! { #[message(title = "x")] struct Imu; };
        assert!(complaint(&other).contains("only `name`"));
        let twice = parse_quote! { #[message(name = "a", name = "b")] struct Imu; };
        assert!(complaint(&twice).contains("second"));
        let name = "x".repeat(256);
        let long = parse_quote! { #[message(name = #name)] struct Imu; };
        assert!(complaint(&long).contains("at most 255 bytes; this one has 256"));
        let control = parse_quote! { #[message(name = "a\nb")] struct Imu; };
        assert!(complaint(&control).contains("control"));
    }
}
