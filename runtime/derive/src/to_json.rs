//! `#[derive(ToJson)]`: the keys as constants between the values, without spaces, in order of declaration.

use proc_macro2::{Literal, TokenStream};
use quote::quote;
use syn::DeriveInput;

use crate::json_shape::{self, JsonField, JsonForm, JsonVariant, Other};
use crate::root::Root;
use crate::shape;

/// Expands the derive.
pub(crate) fn derive(input: &DeriveInput, root: Root) -> syn::Result<TokenStream> {
    let (form, json) = json_shape::form(input, root)?;
    let body = match &form {
        JsonForm::Object(fields) => of_object(fields, &json),
        JsonForm::Newtype(field) => write_field(field, &json),
        JsonForm::Texts(variants) => of_texts(variants, &json),
    };
    let name = &input.ident;
    let generics = shape::bounded(&input.generics, &quote!(#json::ToJson))?;
    let (for_impl, for_type, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #for_impl #json::ToJson for #name #for_type #bounds {
            fn to_json(&self, out: &mut ::std::vec::Vec<u8>) {
                #body
            }
        }
    })
}

fn write_field(field: &JsonField<'_>, json: &TokenStream) -> TokenStream {
    let (member, ty) = (&field.member, field.ty);
    field.with.as_ref().map_or_else(
        || quote!(<#ty as #json::ToJson>::to_json(&self.#member, out);),
        |module| quote!(#module::write_json(&self.#member, out);),
    )
}

fn of_object(fields: &[JsonField<'_>], json: &TokenStream) -> TokenStream {
    let written: Vec<_> = fields.iter().filter(|field| !field.skip).collect();
    if written.is_empty() {
        return quote!(out.extend_from_slice(b"{}"););
    }
    let values = written.iter().enumerate().map(|(at, field)| {
        let before = if at == 0 { "{" } else { "," };
        let literal = format!("{before}{}:", json_shape::quoted(&field.name));
        let literal = Literal::byte_string(literal.as_bytes());
        let value = write_field(field, json);
        quote!(out.extend_from_slice(#literal); #value)
    });
    quote! { #(#values)* out.push(b'}'); }
}

fn of_texts(variants: &[JsonVariant<'_>], json: &TokenStream) -> TokenStream {
    let arms = variants.iter().map(|JsonVariant { ident, name, other }| {
        if *other == Other::Text {
            return quote! {
                Self::#ident(text) => #json::write_text(::core::convert::AsRef::as_ref(text), out),
            };
        }
        let literal = Literal::byte_string(json_shape::quoted(name).as_bytes());
        quote!(Self::#ident => out.extend_from_slice(#literal),)
    });
    quote! { match self { #(#arms)* } }
}
