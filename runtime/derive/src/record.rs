//! `#[derive(Record)]`: schema, codec and size, field by field in order of declaration.
//!
//! The generated code calls the trait on each field and nothing else, so it stays a few lines per field and the
//! encoding is decided in one place, `highwater-types`.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{DeriveInput, Error, Fields, Variant};

use crate::attributes::{DefaultValue, Place, RecordAttributes, distinct};
use crate::root::Root;
use crate::shape::{self, Body};

/// The most variants: one byte of index, of which at least one value stays invalid so that damage can show.
const VARIANTS_MAX: usize = 255;

/// The three bodies of methods that differ between structs and enums, and the schema.
struct Methods {
    data_type: TokenStream,
    encode: TokenStream,
    decode: TokenStream,
    heap_bytes: TokenStream,
}

/// Expands the derive.
pub(crate) fn derive(input: &DeriveInput, root: Root) -> syn::Result<TokenStream> {
    let attributes = RecordAttributes::parse(&input.attrs, Place::Type)?;
    let types = root.types(attributes.krate.as_ref());
    let schema_name = attributes
        .rename
        .unwrap_or_else(|| shape::unraw(&input.ident));
    let methods = match shape::body(input)? {
        Body::Struct(fields) => of_struct(input, fields, &schema_name, &types)?,
        Body::Enum(variants) => of_enum(input, &variants, &schema_name, &types)?,
    };
    let Methods {
        data_type,
        encode,
        decode,
        heap_bytes,
    } = methods;
    let name = &input.ident;
    let generics = shape::bounded(&input.generics, &quote!(#types::Record))?;
    let (for_impl, for_type, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #for_impl #types::Record for #name #for_type #bounds {
            fn data_type() -> #types::DataType {
                #data_type
            }

            #[inline]
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                #encode
            }

            #[inline]
            fn decode(
                input: &mut &[u8],
            ) -> ::core::result::Result<Self, #types::DecodeError> {
                #decode
            }

            fn heap_bytes(&self) -> usize {
                #heap_bytes
            }
        }
    })
}

fn of_struct(
    input: &DeriveInput,
    fields: &Fields,
    schema_name: &str,
    types: &TokenStream,
) -> syn::Result<Methods> {
    let schema = schema_fields(&input.ident, fields, types)?;
    let members: Vec<_> = fields.members().collect();
    let kinds: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let read = read_fields(fields, types);
    let used = |name: &str| mark_used(fields.is_empty(), name);
    let (out, bytes) = (used("out"), used("input"));
    Ok(Methods {
        data_type: quote! {
            #types::DataType::Struct {
                name: ::std::string::String::from(#schema_name),
                fields: ::std::vec![#schema],
            }
        },
        encode: quote! { #out #(<#kinds as #types::Record>::encode(&self.#members, out);)* },
        decode: quote! { #bytes ::core::result::Result::Ok(Self { #read }) },
        heap_bytes: quote! { 0usize #(+ <#kinds as #types::Record>::heap_bytes(&self.#members))* },
    })
}

/// Marks a parameter as used where there is no field that uses it.
fn mark_used(unused: bool, name: &str) -> TokenStream {
    let name = format_ident!("{name}");
    if unused {
        quote!(_ = #name;)
    } else {
        TokenStream::new()
    }
}

fn of_enum(
    input: &DeriveInput,
    variants: &[&Variant],
    schema_name: &str,
    types: &TokenStream,
) -> syn::Result<Methods> {
    if variants.len() > VARIANTS_MAX {
        return Err(Error::new_spanned(
            variants[VARIANTS_MAX],
            "an enum record has at most 255 variants: its index is one byte",
        ));
    }
    let mut names = Vec::with_capacity(variants.len());
    let (mut schema, mut encode, mut decode) = (Vec::new(), Vec::new(), Vec::new());
    let mut heap_bytes = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        let index = index as u8;
        let ident = &variant.ident;
        let attributes = RecordAttributes::parse(&variant.attrs, Place::Variant)?;
        let variant_name = attributes.rename.unwrap_or_else(|| shape::unraw(ident));
        let fields = schema_fields(&input.ident, &variant.fields, types)?;
        schema.push(quote! {
            #types::schema::Variant {
                name: ::std::string::String::from(#variant_name),
                fields: ::std::vec![#fields],
            }
        });
        let (members, bound) = shape::bindings(&variant.fields);
        let kinds: Vec<_> = variant.fields.iter().map(|field| &field.ty).collect();
        let pattern = quote!(Self::#ident { #(#members: #bound),* });
        encode.push(quote! {
            #pattern => { out.push(#index); #(<#kinds as #types::Record>::encode(#bound, out);)* }
        });
        let read = read_fields(&variant.fields, types);
        decode.push(quote!(#index => ::core::result::Result::Ok(Self::#ident { #read })));
        heap_bytes
            .push(quote!(#pattern => 0usize #(+ <#kinds as #types::Record>::heap_bytes(#bound))*));
        names.push((variant_name, *variant));
    }
    distinct(
        names.iter().map(|(name, at)| (name.as_str(), &at.ident)),
        "variants",
    )?;
    let unknown = unknown_index(schema_name, types);
    Ok(Methods {
        data_type: quote! {
            #types::DataType::Enum {
                name: ::std::string::String::from(#schema_name),
                variants: ::std::vec![#(#schema),*],
            }
        },
        encode: quote! { match self { #(#encode)* } },
        decode: quote! {
            match #types::record::take(input, 1, #schema_name)?[0] { #(#decode,)* #unknown }
        },
        heap_bytes: if shape::all_units(variants) {
            quote!(0)
        } else {
            quote! { match self { #(#heap_bytes,)* } }
        },
    })
}

fn unknown_index(schema_name: &str, types: &TokenStream) -> TokenStream {
    quote! {
        other => ::core::result::Result::Err(#types::DecodeError::Value {
            what: #schema_name,
            value: ::core::primitive::u64::from(other),
        })
    }
}

fn read_fields(fields: &Fields, types: &TokenStream) -> TokenStream {
    let members = fields.members();
    let kinds = fields.iter().map(|field| &field.ty);
    quote!(#(#members: <#kinds as #types::Record>::decode(input)?),*)
}

fn schema_fields(owner: &Ident, fields: &Fields, types: &TokenStream) -> syn::Result<TokenStream> {
    let mut names = Vec::with_capacity(fields.len());
    let mut entries = Vec::with_capacity(fields.len());
    for (field, member) in fields.iter().zip(fields.members()) {
        if shape::mentions(&field.ty, owner) {
            return Err(Error::new_spanned(
                &field.ty,
                "a record may not hold itself: its schema would have no end",
            ));
        }
        let attributes = RecordAttributes::parse(&field.attrs, Place::Field)?;
        let name = attributes
            .rename
            .unwrap_or_else(|| shape::member_name(&member));
        let ty = &field.ty;
        let default = default_bytes(attributes.default.as_ref(), field, types);
        entries.push(quote! {
            #types::schema::Field {
                name: ::std::string::String::from(#name),
                data_type: <#ty as #types::Record>::data_type(),
                default: #default,
            }
        });
        names.push((name, ty));
    }
    distinct(
        names.iter().map(|(name, ty)| (name.as_str(), *ty)),
        "fields",
    )?;
    Ok(quote!(#(#entries),*))
}

fn default_bytes(
    default: Option<&DefaultValue>,
    field: &syn::Field,
    types: &TokenStream,
) -> TokenStream {
    let ty = &field.ty;
    let value = match default {
        None => return quote!(::core::option::Option::None),
        Some(DefaultValue::Trait) => quote! {
            <#ty as ::core::default::Default>::default()
        },
        Some(DefaultValue::Expression(expression)) => quote!(#expression),
    };
    quote! {
        ::core::option::Option::Some({
            let value: #ty = #value;
            let mut bytes = ::std::vec::Vec::new();
            #types::Record::encode(&value, &mut bytes);
            bytes
        })
    }
}
