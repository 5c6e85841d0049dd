//! Schema evolution: whether stored bytes can be read with a newer schema, and the rewriting of them.
//!
//! Called on restore, before any record flows. Allowed: fields added with a default, fields removed, fields reordered,
//! enum variants added or reordered, integers widened within their sign. Everything else is refused with the place and
//! the reason; nothing is guessed, and names are never taken for renamed.
//!
//! Source: Flink POJO schema evolution; Avro resolution rules.

use crate::record::{DecodeError, decode_length, encode_length, take};
use crate::schema::{DataType, Field, Schema, Variant};

/// What a reader can do with bytes of a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// The bytes are read as they are.
    Same,
    /// The bytes are rewritten by [`migrate`] first.
    Migrate,
    /// The bytes cannot be read.
    Refused {
        /// Where and why.
        reason: String,
    },
}

impl Schema {
    /// Whether this schema can read what `writer` wrote.
    pub fn reads(&self, writer: &Self) -> Compatibility {
        if self.fingerprint() == writer.fingerprint() {
            return Compatibility::Same;
        }
        match check(&self.root, &writer.root, "the value") {
            Ok(()) => Compatibility::Migrate,
            Err(reason) => Compatibility::Refused { reason },
        }
    }
}

/// Bytes of an integer and whether it has a sign; `None` for anything else.
const fn integer(data_type: &DataType) -> Option<(usize, bool)> {
    Some(match data_type {
        DataType::I8 => (1, true),
        DataType::I16 => (2, true),
        DataType::I32 => (4, true),
        DataType::I64 => (8, true),
        DataType::U8 => (1, false),
        DataType::U16 => (2, false),
        DataType::U32 => (4, false),
        DataType::U64 => (8, false),
        _ => return None,
    })
}

fn widens(reader: &DataType, writer: &DataType) -> bool {
    match (integer(reader), integer(writer)) {
        (Some((wide, signed)), Some((narrow, was_signed))) => signed == was_signed && narrow < wide,
        _ => false,
    }
}

fn check(reader: &DataType, writer: &DataType, place: &str) -> Result<(), String> {
    if reader == writer || widens(reader, writer) {
        return check_walkable(writer, place);
    }
    match (reader, writer) {
        (DataType::Optional(r), DataType::Optional(w)) | (DataType::List(r), DataType::List(w)) => {
            check(r, w, place)
        }
        (DataType::Map(reader_key, r), DataType::Map(writer_key, w)) => {
            if reader_key.to_string() != writer_key.to_string() {
                return Err(format!(
                    "the map keys of {place} changed from {writer_key} to {reader_key}"
                ));
            }
            check(r, w, place)
        }
        (DataType::Tuple(r), DataType::Tuple(w)) if r.len() == w.len() => {
            let pairs = r.iter().zip(w).enumerate();
            pairs
                .into_iter()
                .try_for_each(|(at, (r, w))| check(r, w, &format!("{place}.{at}")))
        }
        (
            DataType::Struct { name, fields },
            DataType::Struct {
                name: writer_name,
                fields: writer_fields,
            },
        ) if name == writer_name => check_fields(fields, writer_fields, place),
        (
            DataType::Enum { name, variants },
            DataType::Enum {
                name: writer_name,
                variants: writer_variants,
            },
        ) if name == writer_name => check_variants(variants, writer_variants, place),
        _ => Err(format!("{place} changed from {writer} to {reader}")),
    }
}

fn check_fields(reader: &[Field], writer: &[Field], place: &str) -> Result<(), String> {
    for field in reader {
        match find_field(writer, &field.name) {
            Some(old) => check(
                &field.data_type,
                &old.data_type,
                &format!("field `{}`", field.name),
            )?,
            None if field.default.is_none() => {
                return Err(format!(
                    "field `{}` of {place} is new and has no default",
                    field.name
                ));
            }
            None => {}
        }
    }
    let removed = writer
        .iter()
        .filter(|field| find_field(reader, &field.name).is_none());
    removed
        .into_iter()
        .try_for_each(|field| check_walkable(&field.data_type, &format!("field `{}`", field.name)))
}

fn check_variants(reader: &[Variant], writer: &[Variant], place: &str) -> Result<(), String> {
    for old in writer {
        let Some((_, new)) = find_variant(reader, &old.name) else {
            return Err(format!("variant `{}` of {place} was removed", old.name));
        };
        let place = format!("variant `{}`", old.name);
        check_fields(&new.fields, &old.fields, &place)?;
    }
    Ok(())
}

/// Values of the serde fallback carry no shape, so nothing around them can be rewritten.
fn check_walkable(data_type: &DataType, place: &str) -> Result<(), String> {
    match data_type {
        DataType::Opaque { name } => Err(format!(
            "{place} is `{name}` in the serde fallback codec, which cannot be migrated; derive Record for it"
        )),
        DataType::Optional(inner) | DataType::List(inner) => check_walkable(inner, place),
        DataType::Map(key, value) => {
            check_walkable(key, place)?;
            check_walkable(value, place)
        }
        DataType::Tuple(parts) => parts
            .iter()
            .try_for_each(|part| check_walkable(part, place)),
        DataType::Struct { fields, .. } => fields
            .iter()
            .try_for_each(|field| check_walkable(&field.data_type, &field.name)),
        DataType::Enum { variants, .. } => variants
            .iter()
            .flat_map(|variant| &variant.fields)
            .try_for_each(|field| check_walkable(&field.data_type, &field.name)),
        _ => Ok(()),
    }
}

fn find_field<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|field| field.name == name)
}

fn find_variant<'a>(variants: &'a [Variant], name: &str) -> Option<(usize, &'a Variant)> {
    variants
        .iter()
        .enumerate()
        .find(|(_, variant)| variant.name == name)
}

/// Rewrites one value: reads it from the front of `input` as `writer` wrote it and appends it as `reader` reads it.
///
/// Pairs that [`Schema::reads`] refuses are not to be handed in.
///
/// # Errors
/// `Corrupt` when the bytes are not a value of `writer`.
pub fn migrate(
    writer: &Schema,
    reader: &Schema,
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    rewrite(&writer.root, &reader.root, input, out)
}

fn rewrite(
    writer: &DataType,
    reader: &DataType,
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    if writer == reader {
        return copy(writer, input, out);
    }
    if let (Some((narrow, signed)), Some((wide, _))) = (integer(writer), integer(reader)) {
        return widen(narrow, wide, signed, (input, out));
    }
    match (writer, reader) {
        (DataType::Optional(w), DataType::Optional(r)) => {
            let flag = take(input, 1, "option")?[0];
            out.push(flag);
            if flag == 1 {
                rewrite(w, r, input, out)
            } else {
                Ok(())
            }
        }
        (DataType::List(w), DataType::List(r)) => {
            let count = decode_length(input)?;
            encode_length(count, out);
            (0..count).try_for_each(|_| rewrite(w, r, input, out))
        }
        (DataType::Map(key, w), DataType::Map(_, r)) => {
            let count = decode_length(input)?;
            encode_length(count, out);
            (0..count).try_for_each(|_| {
                copy(key, input, out)?;
                rewrite(w, r, input, out)
            })
        }
        (DataType::Tuple(w), DataType::Tuple(r)) => w
            .iter()
            .zip(r)
            .try_for_each(|(w, r)| rewrite(w, r, input, out)),
        (DataType::Struct { fields: w, .. }, DataType::Struct { fields: r, .. }) => {
            rewrite_fields(w, r, input, out)
        }
        (DataType::Enum { variants: w, .. }, DataType::Enum { variants: r, .. }) => {
            rewrite_variant(w, r, input, out)
        }
        _ => Err(DecodeError::Value {
            what: "pair of schemas that was refused",
            value: 0,
        }),
    }
}

fn widen(
    narrow: usize,
    wide: usize,
    signed: bool,
    (input, out): (&mut &[u8], &mut Vec<u8>),
) -> Result<(), DecodeError> {
    let bytes = take(input, narrow, "integer")?;
    let is_negative = signed && bytes[narrow - 1] & 0x80 != 0;
    out.extend_from_slice(bytes);
    out.resize(
        out.len() + wide.saturating_sub(narrow),
        if is_negative { 0xff } else { 0 },
    );
    Ok(())
}

fn rewrite_fields(
    writer: &[Field],
    reader: &[Field],
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let mut stored = Vec::with_capacity(writer.len());
    for field in writer {
        let start = *input;
        skip(&field.data_type, input)?;
        stored.push(&start[..start.len() - input.len()]);
    }
    for field in reader {
        let at = writer.iter().position(|old| old.name == field.name);
        match at {
            Some(at) => {
                let mut bytes = stored[at];
                rewrite(&writer[at].data_type, &field.data_type, &mut bytes, out)?;
            }
            None => out.extend_from_slice(field.default.as_deref().unwrap_or_default()),
        }
    }
    Ok(())
}

fn rewrite_variant(
    writer: &[Variant],
    reader: &[Variant],
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let index = take(input, 1, "enum")?[0];
    let unknown = DecodeError::Value {
        what: "enum variant",
        value: u64::from(index),
    };
    let Some(old) = writer.get(usize::from(index)) else {
        return Err(unknown);
    };
    let Some((at, new)) = find_variant(reader, &old.name) else {
        return Err(unknown);
    };
    out.push(at as u8);
    rewrite_fields(&old.fields, &new.fields, input, out)
}

fn copy(data_type: &DataType, input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = *input;
    skip(data_type, input)?;
    out.extend_from_slice(&start[..start.len() - input.len()]);
    Ok(())
}

/// Moves `input` behind one value of `data_type`.
///
/// # Errors
/// `Corrupt` when the bytes are not such a value, or its shape is not known (the serde fallback).
pub fn skip(data_type: &DataType, input: &mut &[u8]) -> Result<(), DecodeError> {
    if let Some((width, _)) = integer(data_type) {
        return take(input, width, "integer").map(|_| ());
    }
    match data_type {
        DataType::Unit => Ok(()),
        DataType::Bool => take(input, 1, "bool").map(|_| ()),
        DataType::F32 => take(input, 4, "f32").map(|_| ()),
        DataType::F64 => take(input, 8, "f64").map(|_| ()),
        DataType::Utf8 => {
            let length = decode_length(input)? as usize;
            take(input, length, "text").map(|_| ())
        }
        DataType::Optional(inner) => match take(input, 1, "option")?[0] {
            0 => Ok(()),
            1 => skip(inner, input),
            other => Err(DecodeError::Value {
                what: "option",
                value: u64::from(other),
            }),
        },
        DataType::List(inner) => (0..decode_length(input)?).try_for_each(|_| skip(inner, input)),
        DataType::Map(key, value) => (0..decode_length(input)?).try_for_each(|_| {
            skip(key, input)?;
            skip(value, input)
        }),
        DataType::Tuple(parts) => parts.iter().try_for_each(|part| skip(part, input)),
        DataType::Struct { fields, .. } => skip_fields(fields, input),
        DataType::Enum { variants, .. } => {
            let index = take(input, 1, "enum")?[0];
            match variants.get(usize::from(index)) {
                Some(variant) => skip_fields(&variant.fields, input),
                None => Err(DecodeError::Value {
                    what: "enum variant",
                    value: u64::from(index),
                }),
            }
        }
        _ => Err(DecodeError::Value {
            what: "shape of a serde fallback value",
            value: 0,
        }),
    }
}

fn skip_fields(fields: &[Field], input: &mut &[u8]) -> Result<(), DecodeError> {
    fields
        .iter()
        .try_for_each(|field| skip(&field.data_type, input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn field(name: &str, data_type: DataType) -> Field {
        Field {
            name: name.to_owned(),
            data_type,
            default: None,
        }
    }

    fn order(fields: Vec<Field>) -> Schema {
        Schema::new(DataType::Struct {
            name: "Order".to_owned(),
            fields,
        })
    }

    fn with_default<T: Record>(name: &str, value: &T) -> Field {
        let mut default = Vec::new();
        value.encode(&mut default);
        Field {
            name: name.to_owned(),
            data_type: T::data_type(),
            default: Some(default),
        }
    }

    fn migrated(writer: &Schema, reader: &Schema, bytes: &[u8]) -> Vec<u8> {
        assert_eq!(reader.reads(writer), Compatibility::Migrate);
        let mut out = Vec::new();
        let mut input = bytes;
        migrate(writer, reader, &mut input, &mut out).unwrap();
        assert!(input.is_empty());
        out
    }

    fn refusal(reader: &Schema, writer: &Schema) -> String {
        match reader.reads(writer) {
            Compatibility::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn encoded<T: Record>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    }

    #[test]
    fn same_shape_is_read_as_it_is() {
        assert_eq!(
            <(i64, String)>::schema().reads(&<(i64, String)>::schema()),
            Compatibility::Same
        );
    }

    #[test]
    fn t44_added_fields_get_their_default_and_removed_ones_go() {
        let writer = order(vec![
            field("id", DataType::I64),
            field("note", DataType::Utf8),
            field("amount", DataType::I32),
        ]);
        let reader = order(vec![
            field("amount", DataType::I64),
            with_default("currency", &"EUR".to_owned()),
            field("id", DataType::I64),
        ]);
        let bytes = encoded(&(7i64, "old".to_owned(), -5i32));
        let out = migrated(&writer, &reader, &bytes);
        assert_eq!(out, encoded(&(-5i64, "EUR".to_owned(), 7i64)));
    }

    #[test]
    fn t44_changed_and_undefaulted_fields_are_refused_by_name() {
        let writer = order(vec![field("id", DataType::I64)]);
        let text = order(vec![field("id", DataType::Utf8)]);
        assert_eq!(
            refusal(&text, &writer),
            "field `id` changed from i64 to text"
        );
        let narrower = order(vec![field("id", DataType::I32)]);
        assert!(refusal(&narrower, &writer).contains("from i64 to i32"));
        let bare = order(vec![field("id", DataType::I64), field("at", DataType::I64)]);
        assert!(refusal(&bare, &writer).contains("field `at` of the value is new"));
        let renamed = Schema::new(DataType::Struct {
            name: "Purchase".to_owned(),
            fields: vec![field("id", DataType::I64)],
        });
        assert!(refusal(&renamed, &writer).contains("Purchase"));
    }

    #[test]
    fn variants_are_matched_by_name() {
        let variant = |name: &str, fields| Variant {
            name: name.to_owned(),
            fields,
        };
        let state = |variants| {
            Schema::new(DataType::List(Box::new(DataType::Enum {
                name: "State".to_owned(),
                variants,
            })))
        };
        let amount = || vec![field("0", DataType::U8)];
        let writer = state(vec![variant("Open", vec![]), variant("Paid", amount())]);
        let reader = state(vec![
            variant("New", vec![]),
            variant("Paid", vec![field("0", DataType::U16)]),
            variant("Open", vec![]),
        ]);
        let out = migrated(&writer, &reader, &[2, 0, 1, 200]);
        assert_eq!(out, [2, 2, 1, 200, 0]);
        assert!(refusal(&writer, &reader).contains("variant `New` of the value was removed"));
    }

    #[test]
    fn fallback_values_cannot_be_walked() {
        let opaque = || DataType::Opaque {
            name: "Blob".to_owned(),
        };
        let writer = order(vec![field("blob", opaque())]);
        let reader = order(vec![field("blob", opaque()), with_default("n", &1i64)]);
        assert!(refusal(&reader, &writer).contains("serde fallback"));
        assert!(skip(&opaque(), &mut [1, 2].as_slice()).is_err());
    }

    #[test]
    fn containers_migrate_inside() {
        let wrap = |inner: DataType| {
            Schema::new(DataType::Map(
                Box::new(DataType::Utf8),
                Box::new(DataType::Optional(Box::new(DataType::Tuple(vec![inner])))),
            ))
        };
        let (writer, reader) = (wrap(DataType::I8), wrap(DataType::I16));
        let out = migrated(&writer, &reader, &[2, 1, b'a', 0, 1, b'b', 1, 0xff]);
        assert_eq!(out, [2, 1, b'a', 0, 1, b'b', 1, 0xff, 0xff]);
        let mut cut = [2u8, 1, b'a'].as_slice();
        assert!(migrate(&writer, &reader, &mut cut, &mut Vec::new()).is_err());
    }
}
