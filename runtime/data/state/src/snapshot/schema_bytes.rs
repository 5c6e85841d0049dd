//! The stored form of a schema: one byte for the shape, then its parts. The bytes of a shape never change.
//!
//! Lengths are LEB128, text is length and UTF-8. The reader limits depth, so that damaged bytes cannot exhaust the stack.

use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::schema::Variant;
use highwater_types::{DataType, DecodeError, Field, Record, Schema};

/// Nesting at which a stored schema is taken as damaged.
const DEPTH_MAX: usize = 64;

const OPTIONAL: u8 = 14;
const LIST: u8 = 15;
const MAP: u8 = 16;
const TUPLE: u8 = 17;
const STRUCT: u8 = 18;
const ENUM: u8 = 19;
const OPAQUE: u8 = 20;

/// Shapes without parts, by their byte.
const PLAIN: [(u8, DataType); 13] = [
    (1, DataType::Unit),
    (2, DataType::Bool),
    (3, DataType::I8),
    (4, DataType::I16),
    (5, DataType::I32),
    (6, DataType::I64),
    (7, DataType::U8),
    (8, DataType::U16),
    (9, DataType::U32),
    (10, DataType::U64),
    (11, DataType::F32),
    (12, DataType::F64),
    (13, DataType::Utf8),
];

/// Appends a schema and its fingerprint.
pub(crate) fn write_schema(schema: &Schema, out: &mut Vec<u8>) {
    write_type(&schema.root, out);
    schema.fingerprint().0.encode(out);
}

/// Reads a schema and checks that it still has its fingerprint.
pub(crate) fn read_schema(input: &mut &[u8]) -> Result<Schema, DecodeError> {
    let schema = Schema::new(read_type(input, 0)?);
    let stored = u64::decode(input)?;
    if stored != schema.fingerprint().0 {
        return Err(DecodeError::Value {
            what: "schema fingerprint",
            value: stored,
        });
    }
    Ok(schema)
}

pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    encode_length(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn read_text(input: &mut &[u8]) -> Result<String, DecodeError> {
    String::decode(input)
}

fn write_type(data_type: &DataType, out: &mut Vec<u8>) {
    if let Some((code, _)) = PLAIN.iter().find(|(_, plain)| plain == data_type) {
        out.push(*code);
        return;
    }
    match data_type {
        DataType::Optional(inner) => {
            out.push(OPTIONAL);
            write_type(inner, out);
        }
        DataType::List(inner) => {
            out.push(LIST);
            write_type(inner, out);
        }
        DataType::Map(key, value) => {
            out.push(MAP);
            write_type(key, out);
            write_type(value, out);
        }
        DataType::Tuple(parts) => {
            out.push(TUPLE);
            encode_length(parts.len() as u64, out);
            for part in parts {
                write_type(part, out);
            }
        }
        DataType::Struct { name, fields } => {
            out.push(STRUCT);
            write_text(name, out);
            write_fields(fields, out);
        }
        DataType::Enum { name, variants } => {
            out.push(ENUM);
            write_text(name, out);
            encode_length(variants.len() as u64, out);
            for variant in variants {
                write_text(&variant.name, out);
                write_fields(&variant.fields, out);
            }
        }
        DataType::Opaque { name } => {
            out.push(OPAQUE);
            write_text(name, out);
        }
        _ => unreachable!("every shape without parts has its byte in the list of plain shapes"),
    }
}

fn write_fields(fields: &[Field], out: &mut Vec<u8>) {
    encode_length(fields.len() as u64, out);
    for field in fields {
        write_text(&field.name, out);
        write_type(&field.data_type, out);
        match &field.default {
            None => out.push(0),
            Some(default) => {
                out.push(1);
                encode_length(default.len() as u64, out);
                out.extend_from_slice(default);
            }
        }
    }
}

fn read_type(input: &mut &[u8], depth: usize) -> Result<DataType, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Value {
            what: "schema depth",
            value: depth as u64,
        });
    }
    let inner = depth + 1;
    let code = take(input, 1, "schema")?[0];
    if let Some((_, plain)) = PLAIN.iter().find(|(plain, _)| *plain == code) {
        return Ok(plain.clone());
    }
    Ok(match code {
        OPTIONAL => DataType::Optional(Box::new(read_type(input, inner)?)),
        LIST => DataType::List(Box::new(read_type(input, inner)?)),
        MAP => DataType::Map(
            Box::new(read_type(input, inner)?),
            Box::new(read_type(input, inner)?),
        ),
        TUPLE => DataType::Tuple(read_many(input, |input| read_type(input, inner))?),
        STRUCT => DataType::Struct {
            name: read_text(input)?,
            fields: read_many(input, |input| read_field(input, inner))?,
        },
        ENUM => DataType::Enum {
            name: read_text(input)?,
            variants: read_many(input, |input| {
                Ok(Variant {
                    name: read_text(input)?,
                    fields: read_many(input, |input| read_field(input, inner))?,
                })
            })?,
        },
        OPAQUE => DataType::Opaque {
            name: read_text(input)?,
        },
        other => {
            return Err(DecodeError::Value {
                what: "schema shape",
                value: u64::from(other),
            });
        }
    })
}

fn read_field(input: &mut &[u8], depth: usize) -> Result<Field, DecodeError> {
    let name = read_text(input)?;
    let data_type = read_type(input, depth)?;
    let default = if bool::decode(input)? {
        let length = decode_length(input)? as usize;
        Some(take(input, length, "field default")?.to_vec())
    } else {
        None
    };
    Ok(Field {
        name,
        data_type,
        default,
    })
}

/// Reads a length and as many parts.
pub(crate) fn read_many<T>(
    input: &mut &[u8],
    mut read: impl FnMut(&mut &[u8]) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = decode_length(input)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(read(input)?);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, data_type: DataType, default: Option<Vec<u8>>) -> Field {
        Field {
            name: name.to_owned(),
            data_type,
            default,
        }
    }

    #[test]
    fn every_shape_survives() {
        let plain: Vec<_> = PLAIN.iter().map(|(_, plain)| plain.clone()).collect();
        let nested = DataType::Struct {
            name: "Order".to_owned(),
            fields: vec![
                field("all", DataType::Tuple(plain), None),
                field(
                    "note",
                    DataType::Optional(Box::new(DataType::Utf8)),
                    Some(vec![0]),
                ),
                field("tags", DataType::List(Box::new(DataType::Utf8)), None),
                field(
                    "by",
                    DataType::Map(Box::new(DataType::I64), Box::new(DataType::F64)),
                    None,
                ),
                field(
                    "state",
                    DataType::Enum {
                        name: "State".to_owned(),
                        variants: vec![Variant {
                            name: "Open".to_owned(),
                            fields: vec![field("0", DataType::Bool, None)],
                        }],
                    },
                    None,
                ),
                field(
                    "other",
                    DataType::Opaque {
                        name: "x".to_owned(),
                    },
                    None,
                ),
            ],
        };
        let schema = Schema::new(nested);
        let mut bytes = Vec::new();
        write_schema(&schema, &mut bytes);
        let mut input = bytes.as_slice();
        assert_eq!(read_schema(&mut input).unwrap(), schema);
        assert!(input.is_empty());
        for cut in 0..bytes.len() {
            assert!(read_schema(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        assert!(read_schema(&mut vec![OPTIONAL; 100_000].as_slice()).is_err());
    }
}
