//! What a derived type looks like to every macro: its fields, its variants and the shapes that none of them accepts.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::{Data, DeriveInput, Error, Fields, GenericParam, Generics, Member, Type, TypeParamBound};

/// The body of a type that may be derived.
pub(crate) enum Body<'a> {
    /// A struct of any form.
    Struct(&'a Fields),
    /// An enum with at least one variant.
    Enum(Vec<&'a syn::Variant>),
}

/// Checks that the type owns its data and is a struct or an enum with variants.
///
/// # Errors
/// Points at the union, the lifetime or the empty enum.
pub(crate) fn body(input: &DeriveInput) -> syn::Result<Body<'_>> {
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(Error::new_spanned(
            lifetime,
            "a record owns its data: replace the borrowed fields by owned ones, such as CompactString",
        ));
    }
    match &input.data {
        Data::Struct(data) => Ok(Body::Struct(&data.fields)),
        Data::Enum(data) if data.variants.is_empty() => Err(Error::new_spanned(
            &input.ident,
            "an enum without variants has no values to write: add a variant",
        )),
        Data::Enum(data) => Ok(Body::Enum(data.variants.iter().collect())),
        Data::Union(data) => Err(Error::new_spanned(
            data.union_token,
            "a union does not know which field is valid: use an enum",
        )),
    }
}

/// Whether no variant has data.
pub(crate) fn all_units(variants: &[&syn::Variant]) -> bool {
    variants
        .iter()
        .all(|variant| matches!(variant.fields, Fields::Unit))
}

/// The generics with `bound` on every type parameter.
pub(crate) fn bounded(generics: &Generics, bound: &TokenStream) -> syn::Result<Generics> {
    let bound: TypeParamBound = syn::parse2(bound.clone())?;
    let mut generics = generics.clone();
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(bound.clone());
        }
    }
    Ok(generics)
}

/// The members of `fields` and a local name for each.
pub(crate) fn bindings(fields: &Fields) -> (Vec<Member>, Vec<Ident>) {
    let members: Vec<Member> = fields.members().collect();
    let names = (0..members.len())
        .map(|at| format_ident!("field{at}"))
        .collect();
    (members, names)
}

/// The name of a member as it is written in the source; tuple members are "0", "1", ...
pub(crate) fn member_name(member: &Member) -> String {
    match member {
        Member::Named(name) => unraw(name),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

/// The text of an identifier without the mark of a raw one.
pub(crate) fn unraw(name: &Ident) -> String {
    let text = name.to_string();
    text.strip_prefix("r#").unwrap_or(&text).to_owned()
}

/// Whether `ty` names the type `name` or `Self` without a path in front.
pub(crate) fn mentions(ty: &Type, name: &Ident) -> bool {
    fn walk(tokens: TokenStream, name: &Ident) -> bool {
        let mut after_path = false;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) if !after_path && (ident == name || ident == "Self") => {
                    return true;
                }
                TokenTree::Group(group) if walk(group.stream(), name) => return true,
                _ => {}
            }
            after_path = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == ':');
        }
        false
    }
    walk(ty.to_token_stream(), name)
}
