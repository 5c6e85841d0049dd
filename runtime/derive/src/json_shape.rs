//! The JSON form of a type, decided once for reading and writing: an object, a newtype or one of a set of strings.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, Fields, Ident, Member, Path, Type, Variant};

use crate::attributes::{Case, DefaultValue, JsonAttributes, Place, distinct};
use crate::root::Root;
use crate::shape::{self, Body};

/// Names of modules of `highwater_json::with` that need no path.
const KNOWN_FORMS: [&str; 3] = ["cents", "epoch_ms", "event_time"];

/// The JSON form of a type.
pub(crate) enum JsonForm<'a> {
    /// A struct with named fields.
    Object(Vec<JsonField<'a>>),
    /// A tuple struct with one field, which it reads and writes as.
    Newtype(JsonField<'a>),
    /// An enum without data.
    Texts(Vec<JsonVariant<'a>>),
}

/// A field of an object.
pub(crate) struct JsonField<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) name: String,
    pub(crate) default: Option<DefaultValue>,
    pub(crate) with: Option<TokenStream>,
    pub(crate) skip: bool,
}

/// A variant of an enum of strings.
pub(crate) struct JsonVariant<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) name: String,
    pub(crate) other: Other,
}

/// Whether a variant takes the strings that no variant names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    /// It is named.
    No,
    /// It takes them and forgets the text.
    Unit,
    /// It takes them and keeps the text.
    Text,
}

/// Reads the form of a type. Also answers where `highwater-json` is found.
pub(crate) fn form(input: &DeriveInput, root: Root) -> syn::Result<(JsonForm<'_>, TokenStream)> {
    let attributes = JsonAttributes::parse(&input.attrs, Place::Type)?;
    let json = root.json(attributes.krate.as_ref());
    let case = attributes.rename_all;
    let form = match shape::body(input)? {
        Body::Enum(variants) => JsonForm::Texts(texts(&variants, case)?),
        Body::Struct(named @ Fields::Named(_)) => JsonForm::Object(object(named, case, &json)?),
        Body::Struct(one @ Fields::Unnamed(_)) if one.len() == 1 => {
            JsonForm::Newtype(newtype(one, &json)?)
        }
        Body::Struct(_) => {
            return Err(Error::new_spanned(
                &input.ident,
                "only structs with named fields and newtypes have a JSON form: name the fields",
            ));
        }
    };
    Ok((form, json))
}

fn object<'a>(
    fields: &'a Fields,
    case: Option<Case>,
    json: &TokenStream,
) -> syn::Result<Vec<JsonField<'a>>> {
    let read: Vec<JsonField<'a>> = fields
        .iter()
        .zip(fields.members())
        .map(|(field, member)| field_of(field, member, case, json))
        .collect::<syn::Result<_>>()?;
    let present = read.iter().filter(|field| !field.skip);
    distinct(
        present.map(|field| (field.name.as_str(), &field.member)),
        "fields",
    )?;
    Ok(read)
}

fn newtype<'a>(fields: &'a Fields, json: &TokenStream) -> syn::Result<JsonField<'a>> {
    let mut all = fields.iter().zip(fields.members());
    let Some((field, member)) = all.next() else {
        return Err(Error::new_spanned(fields, "a newtype has one field"));
    };
    let attributes = JsonAttributes::parse(&field.attrs, Place::Field)?;
    let named = attributes.rename.is_some() || attributes.default.is_some() || attributes.skip;
    if named {
        return Err(Error::new_spanned(
            field,
            "the field of a newtype has no key: only `with` applies to it",
        ));
    }
    field_of(field, member, None, json)
}

fn field_of<'a>(
    field: &'a syn::Field,
    member: Member,
    case: Option<Case>,
    json: &TokenStream,
) -> syn::Result<JsonField<'a>> {
    let attributes = JsonAttributes::parse(&field.attrs, Place::Field)?;
    let others =
        attributes.rename.is_some() || attributes.default.is_some() || attributes.with.is_some();
    if attributes.skip && others {
        return Err(Error::new_spanned(
            field,
            "a skipped field is neither read nor written: remove the other keys",
        ));
    }
    let written = shape::member_name(&member);
    let name = attributes.rename.unwrap_or_else(|| cased(&written, case));
    Ok(JsonField {
        member,
        ty: &field.ty,
        name,
        default: attributes.default,
        with: attributes.with.map(|path| form_module(&path, json)),
        skip: attributes.skip,
    })
}

fn form_module(path: &Path, json: &TokenStream) -> TokenStream {
    let known = path
        .get_ident()
        .filter(|ident| KNOWN_FORMS.iter().any(|known| ident == known));
    known.map_or_else(|| quote!(#path), |ident| quote!(#json::with::#ident))
}

fn cased(written: &str, case: Option<Case>) -> String {
    case.map_or_else(|| written.to_owned(), |case| case.apply(written))
}

fn texts<'a>(variants: &[&'a Variant], case: Option<Case>) -> syn::Result<Vec<JsonVariant<'a>>> {
    let read: Vec<JsonVariant<'a>> = variants
        .iter()
        .map(|variant| variant_of(variant, case))
        .collect::<syn::Result<_>>()?;
    distinct(
        read.iter()
            .map(|variant| (variant.name.as_str(), variant.ident)),
        "variants",
    )?;
    let mut catch_alls = read.iter().filter(|variant| variant.other != Other::No);
    if let (Some(_), Some(second)) = (catch_alls.next(), catch_alls.next()) {
        return Err(Error::new_spanned(
            second.ident,
            "a second `other`: one variant takes the strings that no variant names",
        ));
    }
    Ok(read)
}

fn variant_of(variant: &Variant, case: Option<Case>) -> syn::Result<JsonVariant<'_>> {
    let attributes = JsonAttributes::parse(&variant.attrs, Place::Variant)?;
    let one_text = matches!(variant.fields, Fields::Unnamed(_)) && variant.fields.len() == 1;
    let other = match (&variant.fields, attributes.other) {
        (Fields::Unit, false) => Other::No,
        (Fields::Unit, true) => Other::Unit,
        (_, true) if one_text => Other::Text,
        _ => {
            return Err(Error::new_spanned(
                variant,
                "a variant with data has no JSON form, except one text under #[json(other)]",
            ));
        }
    };
    let written = shape::unraw(&variant.ident);
    Ok(JsonVariant {
        ident: &variant.ident,
        name: attributes.rename.unwrap_or_else(|| cased(&written, case)),
        other,
    })
}

/// The JSON string of `name`, quotes included, as a writer without needless escapes writes it.
pub(crate) fn quoted(name: &str) -> String {
    let mut text = String::from("\"");
    for character in name.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                text.extend(format!("\\u{:04x}", u32::from(control)).chars());
            }
            plain => text.push(plain),
        }
    }
    text.push('"');
    text
}
