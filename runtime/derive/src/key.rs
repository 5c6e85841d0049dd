//! `#[derive(Key)]`: canonical key bytes, part by part.
//!
//! The bytes decide which subtask owns a key and where its state lies, so the rules here may never change: a newtype is
//! its field, every other struct is its parts, an enum is its index and its parts.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Fields, Variant};

use crate::attributes::{Place, RecordAttributes};
use crate::root::Root;
use crate::shape::{self, Body};

/// Expands the derive.
pub(crate) fn derive(input: &DeriveInput, root: Root) -> syn::Result<TokenStream> {
    let attributes = RecordAttributes::parse(&input.attrs, Place::Type)?;
    let types = root.types(attributes.krate.as_ref());
    let methods = match shape::body(input)? {
        Body::Struct(fields) => of_struct(fields, &types),
        Body::Enum(variants) => of_enum(&variants, &types),
    };
    let name = &input.ident;
    let generics = shape::bounded(&input.generics, &quote!(#types::Key))?;
    let (for_impl, for_type, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #for_impl #types::Key for #name #for_type #bounds {
            #methods
        }
    })
}

fn of_struct(fields: &Fields, types: &TokenStream) -> TokenStream {
    let kinds: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    if matches!(fields, Fields::Unnamed(_)) && fields.len() == 1 {
        return quote! {
            #[inline]
            fn write_key(&self, out: &mut #types::key::KeyBytes) {
                #(<#kinds as #types::Key>::write_key(&self.0, out);)*
            }

            #[inline]
            fn key_hash(&self) -> #types::KeyHash {
                #(<#kinds as #types::Key>::key_hash(&self.0))*
            }
        };
    }
    let members: Vec<_> = fields.members().collect();
    let unused = members.is_empty().then(|| quote!(_ = out;));
    quote! {
        #[inline]
        fn write_key(&self, out: &mut #types::key::KeyBytes) {
            #unused
            #(#types::key::write_key_part::<#kinds>(&self.#members, out);)*
        }
    }
}

fn of_enum(variants: &[&Variant], types: &TokenStream) -> TokenStream {
    let indexes = 0..variants.len() as u64;
    let names = variants.iter().map(|variant| &variant.ident);
    if shape::all_units(variants) {
        return quote! {
            #[inline]
            fn write_key(&self, out: &mut #types::key::KeyBytes) {
                let index: ::core::primitive::u64 = match self { #(Self::#names => #indexes),* };
                #types::Key::write_key(&index, out);
            }
        };
    }
    let arms = variants.iter().zip(indexes).map(|(variant, index)| {
        let name = &variant.ident;
        let (members, bound) = shape::bindings(&variant.fields);
        let kinds = variant.fields.iter().map(|field| &field.ty);
        quote! {
            Self::#name { #(#members: #bound),* } => {
                #types::key::write_key_part(&#index, out);
                #(#types::key::write_key_part::<#kinds>(#bound, out);)*
            }
        }
    });
    quote! {
        fn write_key(&self, out: &mut #types::key::KeyBytes) {
            match self { #(#arms)* }
        }
    }
}
