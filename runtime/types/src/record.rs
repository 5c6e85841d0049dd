//! Records: the typed values that flow, and their compact binary codec for state and wire.
//!
//! `#[derive(Record)]` (crate `highwater-derive`) implements this trait field by field. The encoding is positional
//! and not self-describing: the schema, written once beside the data, says how to read it. Integers are fixed-width
//! little-endian; lengths are LEB128 varints; `Option` is one byte and the value.

use std::collections::BTreeMap;

use compact_str::CompactString;

use crate::error::{Classified, ErrorKind};
use crate::schema::{DataType, Schema};

/// Why bytes could not be read back as a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the encoded {what} ends after {available} bytes, {needed} are needed")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// How many bytes were left.
        available: usize,
        /// How many the value needs.
        needed: usize,
    },
    /// A byte has a value that the type does not know.
    #[error("the encoded {what} holds the invalid value {value}")]
    Value {
        /// What was being read.
        what: &'static str,
        /// The value that was found.
        value: u64,
    },
    /// Text is not UTF-8.
    #[error("the encoded text is not UTF-8 (valid up to byte {valid_up_to})")]
    Utf8 {
        /// How many bytes are valid.
        valid_up_to: usize,
    },
    /// The fallback codec refused the bytes.
    #[error("the serde fallback codec refused the bytes")]
    Fallback(#[source] postcard::Error),
}

impl Classified for DecodeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// A type that can flow through a job and rest in its state.
///
/// Law: `decode(encode(x)) == x` and consumes exactly the bytes that `encode` appended; the same `schema()` implies the
/// same encoding, in every version.
///
/// Source: Flink `TypeSerializer` and `TypeSerializerSnapshot`.
pub trait Record: Clone + Send + Sync + 'static {
    /// The schema of the type.
    fn schema() -> Schema {
        Schema::new(Self::data_type())
    }

    /// The data type, as a part of a schema.
    fn data_type() -> DataType;

    /// Appends the encoding of `self`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value from the front of `input` and moves `input` behind it.
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError>;

    /// Bytes that the value holds outside its own size, for memory budgets. Exact within allocator rounding.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// Takes `count` bytes from the front of `input`.
///
/// # Errors
/// `Corrupt` when fewer are left.
pub fn take<'a>(
    input: &mut &'a [u8],
    count: usize,
    what: &'static str,
) -> Result<&'a [u8], DecodeError> {
    if input.len() < count {
        return Err(DecodeError::Truncated {
            what,
            available: input.len(),
            needed: count,
        });
    }
    let (head, tail) = input.split_at(count);
    *input = tail;
    Ok(head)
}

/// Appends an unsigned LEB128 varint.
pub fn encode_length(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads an unsigned LEB128 varint.
pub fn decode_length(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1, "length")?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(DecodeError::Value {
        what: "length",
        value,
    })
}

macro_rules! number_record {
    ($($ty:ty => $data:ident),*) => {$(
        impl Record for $ty {
            fn data_type() -> DataType {
                DataType::$data
            }

            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                const WIDTH: usize = size_of::<$ty>();
                let mut bytes = [0; WIDTH];
                bytes.copy_from_slice(take(input, WIDTH, stringify!($ty))?);
                Ok(Self::from_le_bytes(bytes))
            }
        }
    )*};
}
number_record!(
    i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    f32 => F32, f64 => F64
);

impl Record for bool {
    fn data_type() -> DataType {
        DataType::Bool
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match take(input, 1, "bool")?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Value {
                what: "bool",
                value: u64::from(other),
            }),
        }
    }
}

impl Record for () {
    fn data_type() -> DataType {
        DataType::Unit
    }

    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(())
    }
}

fn decode_text<'a>(input: &mut &'a [u8]) -> Result<&'a str, DecodeError> {
    let length = decode_length(input)? as usize;
    let bytes = take(input, length, "text")?;
    std::str::from_utf8(bytes).map_err(|e| DecodeError::Utf8 {
        valid_up_to: e.valid_up_to(),
    })
}

impl Record for String {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len() as u64, out);
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        decode_text(input).map(str::to_owned)
    }

    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl Record for CompactString {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len() as u64, out);
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        decode_text(input).map(Self::from)
    }

    fn heap_bytes(&self) -> usize {
        if self.is_heap_allocated() {
            self.capacity()
        } else {
            0
        }
    }
}

impl<T: Record> Record for Option<T> {
    fn data_type() -> DataType {
        DataType::Optional(Box::new(T::data_type()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.encode(out);
            }
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match take(input, 1, "option")?[0] {
            0 => Ok(None),
            1 => T::decode(input).map(Some),
            other => Err(DecodeError::Value {
                what: "option",
                value: u64::from(other),
            }),
        }
    }

    fn heap_bytes(&self) -> usize {
        self.as_ref().map_or(0, Record::heap_bytes)
    }
}

/// The most elements that a decoder reserves room for before it has seen them: a damaged length allocates nothing big.
const RESERVE_MAX: usize = 1_024;

impl<T: Record> Record for Vec<T> {
    fn data_type() -> DataType {
        DataType::List(Box::new(T::data_type()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len() as u64, out);
        for item in self {
            item.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = decode_length(input)? as usize;
        let mut items = Self::with_capacity(length.min(RESERVE_MAX));
        for _ in 0..length {
            items.push(T::decode(input)?);
        }
        Ok(items)
    }

    fn heap_bytes(&self) -> usize {
        self.capacity() * size_of::<T>() + self.iter().map(Record::heap_bytes).sum::<usize>()
    }
}

impl<K: Record + Ord, V: Record> Record for BTreeMap<K, V> {
    fn data_type() -> DataType {
        DataType::Map(Box::new(K::data_type()), Box::new(V::data_type()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len() as u64, out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = decode_length(input)?;
        let mut map = Self::new();
        for _ in 0..length {
            let key = K::decode(input)?;
            map.insert(key, V::decode(input)?);
        }
        Ok(map)
    }

    fn heap_bytes(&self) -> usize {
        self.iter()
            .map(|(k, v)| size_of::<K>() + size_of::<V>() + k.heap_bytes() + v.heap_bytes())
            .sum()
    }
}

macro_rules! tuple_record {
    ($($name:ident),+) => {
        impl<$($name: Record),+> Record for ($($name,)+) {
            fn data_type() -> DataType {
                DataType::Tuple(vec![$($name::data_type()),+])
            }

            #[allow(non_snake_case, reason = "the type parameters name the parts")]
            fn encode(&self, out: &mut Vec<u8>) {
                let ($($name,)+) = self;
                $($name.encode(out);)+
            }

            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok(($($name::decode(input)?,)+))
            }

            #[allow(non_snake_case, reason = "the type parameters name the parts")]
            fn heap_bytes(&self) -> usize {
                let ($($name,)+) = self;
                0 $(+ $name.heap_bytes())+
            }
        }
    };
}
tuple_record!(A);
tuple_record!(A, B);
tuple_record!(A, B, C);
tuple_record!(A, B, C, D);
tuple_record!(A, B, C, D, E);

macro_rules! time_record {
    ($($ty:ident),*) => {$(
        impl Record for crate::time::$ty {
            fn data_type() -> DataType {
                DataType::I64
            }

            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                i64::decode(input).map(Self)
            }
        }
    )*};
}
time_record!(EventTime, ProcessingTime, Watermark);
