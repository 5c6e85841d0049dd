//! The derive macros of records, keys and their JSON form.
//!
//! Layer 0: a compiler plug-in that no job links. `Record` and `Key` implement the traits of `highwater-types`,
//! `FromJson` and `ToJson` those of `highwater-json`. Misuse is a compile error at the token that caused it.
//!
//! # Which crates the generated code names
//!
//! Every macro exists twice. The plain one names `::highwater_types` and `::highwater_json` and is for crates of this
//! workspace. The one with the prefix `Facade` names `::highwater::types` and `::highwater::json`; the crate
//! `highwater` re-exports it under the plain name, so users write `#[derive(Record)]` whichever crate they depend on.
//! Nothing is guessed from manifests or the environment. Whoever renames a dependency says so with
//! `#[record(crate = "path::to::types")]` or `#[json(crate = "path::to::json")]` on the type.

mod attributes;
mod from_json;
mod json_shape;
mod key;
mod record;
mod root;
mod shape;
mod to_json;

use proc_macro::TokenStream;
use syn::DeriveInput;

use crate::root::Root;

type Expand = fn(&DeriveInput, Root) -> syn::Result<proc_macro2::TokenStream>;

fn expand(input: TokenStream, root: Root, derive: Expand) -> TokenStream {
    syn::parse::<DeriveInput>(input)
        .and_then(|input| derive(&input, root))
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// Implements `Record`: schema, codec and size of a struct or an enum, field by field in order of declaration.
///
/// Type parameters are bound to `Record`. A record owns its data and may not hold itself. Attributes:
///
/// - on a field, `#[record(default)]` or `#[record(default = expression)]`: records written before the field existed
///   read as this value;
/// - on a type, variant or field, `#[record(rename = "name")]`: the name in the schema;
/// - on a type, `#[record(crate = "path")]`: where the crate `highwater-types` is found.
///
/// An enum is one byte of variant index, counted in order of declaration whatever the discriminants say, and the
/// fields of the variant: new variants go last.
#[proc_macro_derive(Record, attributes(record))]
pub fn derive_record(input: TokenStream) -> TokenStream {
    expand(input, Root::Workspace, record::derive)
}

/// `Record` for users of the crate `highwater`, which re-exports it under that name.
#[proc_macro_derive(FacadeRecord, attributes(record))]
pub fn derive_facade_record(input: TokenStream) -> TokenStream {
    expand(input, Root::Facade, record::derive)
}

/// Implements `Key`: the canonical bytes of a type that keys a stream. The type derives `Record`, `Eq` and `Hash` too.
///
/// A tuple struct with one field has the bytes of that field, so a newtype around a string hashes as the string. Every
/// other struct is its fields in order of declaration, each preceded by its length. An enum without data is its
/// variant index; one with data is the index and the fields, each preceded by its length. The bytes decide where state
/// lives: fields and variants may not be reordered once state exists.
#[proc_macro_derive(Key, attributes(record))]
pub fn derive_key(input: TokenStream) -> TokenStream {
    expand(input, Root::Workspace, key::derive)
}

/// `Key` for users of the crate `highwater`, which re-exports it under that name.
#[proc_macro_derive(FacadeKey, attributes(record))]
pub fn derive_facade_key(input: TokenStream) -> TokenStream {
    expand(input, Root::Facade, key::derive)
}

/// Implements `FromJson`: reads a struct from an object, a newtype from its field, an enum without data from a string.
///
/// The fields are expected in order of declaration and without spaces, which is the fast path; any other order, spaces,
/// escapes and unknown fields are read correctly and slower. Attributes, all under `#[json(...)]`:
///
/// - on a field, `rename = "name"`: its key;
/// - on a field, `default` or `default = expression`: its value when the key is absent (`null` is not absence);
/// - on a field, `with = "module"`: read by `module::read_json` and written by `module::write_json`. `event_time`,
///   `epoch_ms` and `cents` name modules of `highwater_json::with`, anything else is a path;
/// - on a field, `skip`: neither read nor written, `Default::default()` when read;
/// - on a variant, `rename = "text"`: its string;
/// - on one variant, `other`: takes every string that no variant names; with one text field it keeps the string;
/// - on a type, `rename_all = "..."`: the case of all names without a `rename` (`lowercase`, `UPPERCASE`, `camelCase`,
///   `PascalCase`, `snake_case`, `SCREAMING_SNAKE_CASE`, `kebab-case`);
/// - on a type, `crate = "path"`: where the crate `highwater-json` is found.
#[proc_macro_derive(FromJson, attributes(json))]
pub fn derive_from_json(input: TokenStream) -> TokenStream {
    expand(input, Root::Workspace, from_json::derive)
}

/// `FromJson` for users of the crate `highwater`, which re-exports it under that name.
#[proc_macro_derive(FacadeFromJson, attributes(json))]
pub fn derive_facade_from_json(input: TokenStream) -> TokenStream {
    expand(input, Root::Facade, from_json::derive)
}

/// Implements `ToJson`: writes what `FromJson` reads, under the same attributes, without spaces.
#[proc_macro_derive(ToJson, attributes(json))]
pub fn derive_to_json(input: TokenStream) -> TokenStream {
    expand(input, Root::Workspace, to_json::derive)
}

/// `ToJson` for users of the crate `highwater`, which re-exports it under that name.
#[proc_macro_derive(FacadeToJson, attributes(json))]
pub fn derive_facade_to_json(input: TokenStream) -> TokenStream {
    expand(input, Root::Facade, to_json::derive)
}
