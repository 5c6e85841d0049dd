//! `#[derive(FromJson)]`: the expected keys in straight line first, a loop over any keys for what remains.
//!
//! The straight line compares `,"key":` with the bytes at hand, a comparison of constant length, and reads the value.
//! A key that is not there is skipped over; whatever does not fit is left to the loop, which knows spaces, escapes, any
//! order, unknown and repeated keys. Behind an unknown field the straight line is tried again: producers that write
//! more fields than a job reads are the rule. Both fill the same slots, so they cannot disagree about a value.

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};
use syn::DeriveInput;

use crate::attributes::DefaultValue;
use crate::json_shape::{self, JsonField, JsonForm, JsonVariant, Other};
use crate::root::Root;
use crate::shape;

/// Expands the derive.
pub(crate) fn derive(input: &DeriveInput, root: Root) -> syn::Result<TokenStream> {
    let (form, json) = json_shape::form(input, root)?;
    let body = match &form {
        JsonForm::Object(fields) => of_object(fields, &json),
        JsonForm::Newtype(field) => {
            let (member, read) = (&field.member, reader_of(field, &json));
            quote! { #read(reader).map(|value| Self { #member: value }) }
        }
        JsonForm::Texts(variants) => of_texts(variants, &json),
    };
    let absent = match &form {
        JsonForm::Newtype(JsonField {
            ty,
            with: None,
            member,
            ..
        }) => quote! {
            #[inline]
            fn absent() -> ::core::option::Option<Self> {
                <#ty as #json::FromJson>::absent().map(|value| Self { #member: value })
            }
        },
        _ => TokenStream::new(),
    };
    let name = &input.ident;
    let generics = shape::bounded(&input.generics, &quote!(#json::FromJson))?;
    let (for_impl, for_type, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #for_impl #json::FromJson for #name #for_type #bounds {
            fn read_json(
                reader: &mut #json::Reader<'_>,
            ) -> ::core::result::Result<Self, #json::JsonError> {
                #body
            }

            #absent
        }
    })
}

/// The function that reads a field.
fn reader_of(field: &JsonField<'_>, json: &TokenStream) -> TokenStream {
    let ty = field.ty;
    field.with.as_ref().map_or_else(
        || quote!(<#ty as #json::FromJson>::read_json),
        |module| quote!(#module::read_json),
    )
}

fn of_object(fields: &[JsonField<'_>], json: &TokenStream) -> TokenStream {
    let read: Vec<(&JsonField<'_>, Ident)> = fields
        .iter()
        .filter(|field| !field.skip)
        .enumerate()
        .map(|(at, field)| (field, format_ident!("slot{at}")))
        .collect();
    let slots = read.iter().map(|(field, slot)| {
        let ty = field.ty;
        quote!(let mut #slot: ::core::option::Option<#ty> = ::core::option::Option::None;)
    });
    let arms = read.iter().map(|(field, slot)| {
        let (name, reader) = (&field.name, reader_of(field, json));
        quote! {
            #name => {
                let repeated = #slot.is_some();
                #slot = ::core::option::Option::Some(reader.member(#name, repeated, #reader)?);
            }
        }
    });
    let mut at = 0;
    let values = fields.iter().map(|field| {
        let member = &field.member;
        if field.skip {
            return quote!(#member: ::core::default::Default::default());
        }
        let value = value_of(field, &format_ident!("slot{at}"), json);
        at += 1;
        quote!(#member: #value)
    });
    let expected = straight_line(&read, json);
    quote! {
        reader.begin_object()?;
        #(#slots)*
        'object: loop {
            #expected
            if reader.end_object() {
                break 'object;
            }
            while let ::core::option::Option::Some(key) = reader.next_key()? {
                match key {
                    #(#arms)*
                    _ => {
                        reader.skip_unknown()?;
                        continue 'object;
                    }
                }
            }
            break 'object;
        }
        ::core::result::Result::Ok(Self { #(#values),* })
    }
}

/// The keys in order of declaration. All but the first one stand behind a comma, which no object begins with.
fn straight_line(read: &[(&JsonField<'_>, Ident)], json: &TokenStream) -> TokenStream {
    let mut steps = read.iter().map(|(field, slot)| {
        let key = format!(",{}:", json_shape::quoted(&field.name));
        let (name, reader) = (&field.name, reader_of(field, json));
        let value = quote! {
            reader.count_repeated(#slot.is_some());
            #slot = ::core::option::Option::Some(reader.field(#name, #reader)?);
        };
        (Literal::byte_string(key.as_bytes()), value)
    });
    let Some((key, value)) = steps.next() else {
        return TokenStream::new();
    };
    let first = quote!(if reader.eat_first_key(#key) { #value });
    let rest: Vec<TokenStream> = steps
        .map(|(key, value)| quote!(if reader.eat_key(#key) { #value }))
        .collect();
    let rest = (!rest.is_empty()).then(|| quote!(if reader.is_behind_value() { #(#rest)* }));
    quote!(#first #rest)
}

/// What a slot becomes once the object has ended.
fn value_of(field: &JsonField<'_>, slot: &Ident, json: &TokenStream) -> TokenStream {
    let (ty, name) = (field.ty, &field.name);
    match (&field.default, &field.with) {
        (Some(DefaultValue::Trait), _) => {
            quote!(#slot.unwrap_or_else(<#ty as ::core::default::Default>::default))
        }
        (Some(DefaultValue::Expression(expression)), _) => quote! {
            match #slot {
                ::core::option::Option::Some(value) => value,
                ::core::option::Option::None => #expression,
            }
        },
        (None, None) => quote!(match #slot {
            ::core::option::Option::Some(value) => value,
            ::core::option::Option::None => reader.absent::<#ty>(#name)?,
        }),
        (None, Some(_)) => quote! {
            match #slot {
                ::core::option::Option::Some(value) => value,
                ::core::option::Option::None => {
                    return ::core::result::Result::Err(#json::JsonError::missing(reader, #name));
                }
            }
        },
    }
}

fn of_texts(variants: &[JsonVariant<'_>], json: &TokenStream) -> TokenStream {
    let named = || variants.iter().filter(|variant| variant.other == Other::No);
    let arms = named().map(|JsonVariant { ident, name, .. }| {
        quote!(#name => ::core::result::Result::Ok(Self::#ident),)
    });
    let catch_all = variants.iter().find(|variant| variant.other != Other::No);
    let rest = match catch_all {
        None => {
            let known = named().map(|variant| &variant.name);
            quote!(other => ::core::result::Result::Err(
                #json::JsonError::unknown_text(at, other, &[#(#known),*])
            ))
        }
        Some(JsonVariant {
            ident,
            other: Other::Text,
            ..
        }) => quote! {
            other => ::core::result::Result::Ok(Self::#ident(::core::convert::From::from(other)))
        },
        Some(JsonVariant { ident, .. }) => quote!(_ => ::core::result::Result::Ok(Self::#ident)),
    };
    let at = catch_all
        .is_none()
        .then(|| quote!(let at = reader.offset();));
    quote! {
        #at
        match reader.read_text()? { #(#arms)* #rest }
    }
}
