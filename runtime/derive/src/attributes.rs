//! The attributes `#[record(...)]` and `#[json(...)]`, parsed once into plain values and checked for their place.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, Expr, LitStr, Path};

/// How a missing value is made.
pub(crate) enum DefaultValue {
    /// `Default::default()`.
    Trait,
    /// An expression of the type of the field.
    Expression(Box<Expr>),
}

/// `#[record(...)]` on a type, a variant or a field.
#[derive(Default)]
pub(crate) struct RecordAttributes {
    pub(crate) rename: Option<String>,
    pub(crate) default: Option<DefaultValue>,
    pub(crate) krate: Option<Path>,
}

/// `#[json(...)]` on a type, a variant or a field.
#[derive(Default)]
pub(crate) struct JsonAttributes {
    pub(crate) rename: Option<String>,
    pub(crate) rename_all: Option<Case>,
    pub(crate) default: Option<DefaultValue>,
    pub(crate) with: Option<Path>,
    pub(crate) skip: bool,
    pub(crate) other: bool,
    pub(crate) krate: Option<Path>,
}

/// Where an attribute stands; says which keys it may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Type,
    Variant,
    Field,
}

impl Place {
    const fn record_keys(self) -> &'static [&'static str] {
        match self {
            Self::Type => &["rename", "crate"],
            Self::Variant => &["rename"],
            Self::Field => &["rename", "default"],
        }
    }

    const fn json_keys(self) -> &'static [&'static str] {
        match self {
            Self::Type => &["rename_all", "crate"],
            Self::Variant => &["rename", "other"],
            Self::Field => &["rename", "default", "with", "skip"],
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Type => "a type",
            Self::Variant => "a variant",
            Self::Field => "a field",
        }
    }
}

/// The case of the names of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
    Camel,
    Pascal,
    Snake,
    ScreamingSnake,
    Kebab,
}

impl Case {
    const ALL: [(&'static str, Self); 7] = [
        ("lowercase", Self::Lower),
        ("UPPERCASE", Self::Upper),
        ("camelCase", Self::Camel),
        ("PascalCase", Self::Pascal),
        ("snake_case", Self::Snake),
        ("SCREAMING_SNAKE_CASE", Self::ScreamingSnake),
        ("kebab-case", Self::Kebab),
    ];

    fn parse(text: &LitStr) -> syn::Result<Self> {
        let wanted = text.value();
        let known = Self::ALL.iter().find(|(name, _)| *name == wanted);
        known.map(|(_, case)| *case).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            Error::new_spanned(text, format!("unknown case {wanted:?}: expected {names}"))
        })
    }

    /// Rewrites a Rust name, snake case or Pascal case, in this case.
    pub(crate) fn apply(self, name: &str) -> String {
        let words = words(name);
        let capital = |word: &String| {
            let (head, tail) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            head.to_uppercase() + tail
        };
        match self {
            Self::Lower => words.concat(),
            Self::Upper => words.concat().to_uppercase(),
            Self::Pascal => words.iter().map(capital).collect(),
            Self::Camel => {
                let rest = words.iter().skip(1).map(capital);
                words.iter().take(1).cloned().chain(rest).collect()
            }
            Self::Snake => words.join("_"),
            Self::ScreamingSnake => words.join("_").to_uppercase(),
            Self::Kebab => words.join("-"),
        }
    }
}

/// The lower-case words of a name in snake case or Pascal case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut begins = true;
    for character in name.chars() {
        if character == '_' {
            begins = true;
            continue;
        }
        if begins || character.is_uppercase() {
            words.push(String::new());
        }
        begins = false;
        if let Some(word) = words.last_mut() {
            word.extend(character.to_lowercase());
        }
    }
    words
}

impl RecordAttributes {
    /// Parses the attributes that stand at `place`.
    pub(crate) fn parse(attributes: &[Attribute], place: Place) -> syn::Result<Self> {
        let mut parsed = Self::default();
        each(
            attributes,
            "record",
            place.record_keys(),
            place,
            |key, meta| match key {
                "rename" => once(&mut parsed.rename, name(meta)?, meta),
                "default" => once(&mut parsed.default, default_value(meta)?, meta),
                _ => once(&mut parsed.krate, path(meta)?, meta),
            },
        )?;
        Ok(parsed)
    }
}

impl JsonAttributes {
    /// Parses the attributes that stand at `place`.
    pub(crate) fn parse(attributes: &[Attribute], place: Place) -> syn::Result<Self> {
        let mut parsed = Self::default();
        each(
            attributes,
            "json",
            place.json_keys(),
            place,
            |key, meta| match key {
                "rename" => once(&mut parsed.rename, name(meta)?, meta),
                "rename_all" => {
                    let case = Case::parse(&meta.value()?.parse()?)?;
                    once(&mut parsed.rename_all, case, meta)
                }
                "default" => once(&mut parsed.default, default_value(meta)?, meta),
                "with" => once(&mut parsed.with, path(meta)?, meta),
                "skip" => flag(&mut parsed.skip, meta),
                "other" => flag(&mut parsed.other, meta),
                _ => once(&mut parsed.krate, path(meta)?, meta),
            },
        )?;
        Ok(parsed)
    }
}

/// Calls `take` for every key of every attribute called `attribute`, and refuses keys that are not in `keys`.
fn each(
    attributes: &[Attribute],
    attribute: &str,
    keys: &[&str],
    place: Place,
    mut take: impl FnMut(&str, &ParseNestedMeta<'_>) -> syn::Result<()>,
) -> syn::Result<()> {
    for found in attributes.iter().filter(|a| a.path().is_ident(attribute)) {
        found.parse_nested_meta(|meta| {
            let key = meta.path.to_token_stream().to_string();
            if !keys.contains(&key.as_str()) {
                return Err(meta.error(format!(
                    "unknown key `{key}` of `{attribute}` on {}: expected {}",
                    place.noun(),
                    keys.join(", ")
                )));
            }
            take(&key, &meta)
        })?;
    }
    Ok(())
}

fn once<T>(slot: &mut Option<T>, value: T, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if slot.replace(value).is_some() {
        return Err(meta.error("this key is given twice: keep one"));
    }
    Ok(())
}

fn flag(slot: &mut bool, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if std::mem::replace(slot, true) {
        return Err(meta.error("this key is given twice: keep one"));
    }
    Ok(())
}

fn name(meta: &ParseNestedMeta<'_>) -> syn::Result<String> {
    let text: LitStr = meta.value()?.parse()?;
    if text.value().is_empty() {
        return Err(Error::new_spanned(text, "a name may not be empty"));
    }
    Ok(text.value())
}

fn path(meta: &ParseNestedMeta<'_>) -> syn::Result<Path> {
    let text: LitStr = meta.value()?.parse()?;
    let path = text.parse_with(Path::parse_mod_style)?;
    syn::parse2(generated(path.to_token_stream()))
}

/// The same tokens, marked as generated: lints about what people write do not apply to them.
fn generated(tokens: TokenStream) -> TokenStream {
    tokens
        .into_iter()
        .map(|mut token| {
            token.set_span(token.span().resolved_at(Span::call_site()));
            token
        })
        .collect()
}

fn default_value(meta: &ParseNestedMeta<'_>) -> syn::Result<DefaultValue> {
    if meta.input.peek(syn::Token![=]) {
        return Ok(DefaultValue::Expression(Box::new(meta.value()?.parse()?)));
    }
    Ok(DefaultValue::Trait)
}

/// Refuses two equal names; `what` says what carries them.
pub(crate) fn distinct<'a, T: ToTokens + 'a>(
    names: impl IntoIterator<Item = (&'a str, T)>,
    what: &str,
) -> syn::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (name, tokens) in names {
        if !seen.insert(name) {
            return Err(Error::new_spanned(
                tokens,
                format!("two {what} are named `{name}`: rename one"),
            ));
        }
    }
    Ok(())
}
