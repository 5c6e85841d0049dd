//! Schemas: what a record type looks like, so that stored bytes can be checked before a job reads them.
//!
//! A schema is written once beside the data it describes. Its fingerprint is XXH3-64 over a canonical text and never
//! changes for the same shape.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::hash_bytes;

/// The fingerprint of a schema. Equal fingerprints mean equal encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaFingerprint(pub u64);

impl fmt::Display for SchemaFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The shape of one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataType {
    /// No bytes.
    Unit,
    /// One byte, 0 or 1.
    Bool,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// Text: length and UTF-8 bytes.
    Utf8,
    /// Absent or present.
    Optional(Box<DataType>),
    /// Length and elements.
    List(Box<DataType>),
    /// Length and entries in key order.
    Map(Box<DataType>, Box<DataType>),
    /// Parts in order.
    Tuple(Vec<DataType>),
    /// Fields in order of declaration.
    Struct {
        /// The name of the type.
        name: String,
        /// Its fields.
        fields: Vec<Field>,
    },
    /// One byte of variant index, then the fields of the variant.
    Enum {
        /// The name of the type.
        name: String,
        /// Its variants, in order of declaration.
        variants: Vec<Variant>,
    },
    /// A serde type in the fallback codec: only the name is known.
    Opaque {
        /// The name of the type.
        name: String,
    },
}

/// One named field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    /// The name.
    pub name: String,
    /// The shape.
    pub data_type: DataType,
    /// The encoded value that an older record without this field gets; `None` = the field is required.
    pub default: Option<Vec<u8>>,
}

/// One variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variant {
    /// The name.
    pub name: String,
    /// Its fields; tuple variants use "0", "1", ...
    pub fields: Vec<Field>,
}

/// The schema of a record type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Schema {
    /// The shape of the whole record.
    pub root: DataType,
}

impl Schema {
    /// The schema with this root.
    pub const fn new(root: DataType) -> Self {
        Self { root }
    }

    /// The fingerprint: XXH3-64 over the canonical text, which leaves out defaults (they do not change the encoding).
    pub fn fingerprint(&self) -> SchemaFingerprint {
        SchemaFingerprint(hash_bytes(self.to_string().as_bytes()).0)
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[Field]) -> fmt::Result {
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{}: {}", field.name, field.data_type)?;
    }
    Ok(())
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("unit"),
            Self::Bool => f.write_str("bool"),
            Self::I8 => f.write_str("i8"),
            Self::I16 => f.write_str("i16"),
            Self::I32 => f.write_str("i32"),
            Self::I64 => f.write_str("i64"),
            Self::U8 => f.write_str("u8"),
            Self::U16 => f.write_str("u16"),
            Self::U32 => f.write_str("u32"),
            Self::U64 => f.write_str("u64"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Utf8 => f.write_str("text"),
            Self::Optional(inner) => write!(f, "optional<{inner}>"),
            Self::List(inner) => write!(f, "list<{inner}>"),
            Self::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Self::Tuple(parts) => {
                f.write_str("(")?;
                for (at, part) in parts.iter().enumerate() {
                    if at > 0 {
                        f.write_str(", ")?;
                    }
                    part.fmt(f)?;
                }
                f.write_str(")")
            }
            Self::Struct { name, fields } => {
                write!(f, "{name} {{")?;
                write_fields(f, fields)?;
                f.write_str("}")
            }
            Self::Enum { name, variants } => {
                write!(f, "{name} <")?;
                for (at, variant) in variants.iter().enumerate() {
                    if at > 0 {
                        f.write_str(" | ")?;
                    }
                    write!(f, "{} {{", variant.name)?;
                    write_fields(f, &variant.fields)?;
                    f.write_str("}")?;
                }
                f.write_str(">")
            }
            Self::Opaque { name } => write!(f, "opaque<{name}>"),
        }
    }
}
