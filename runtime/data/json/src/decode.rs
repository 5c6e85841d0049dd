//! `FromJson`: a type that can be read from JSON, and the types that everything else is made of.

use std::collections::BTreeMap;

use compact_str::CompactString;

use crate::error::JsonError;
use crate::reader::Reader;
use crate::scratch::Scratch;

/// A type that can be read from JSON.
///
/// Law: the result depends on the value that the JSON text denotes, never on spaces, escapes or the order of keys; and
/// `from_json(to_json(x)) == x` for every `x` but floats that are not finite, which JSON cannot hold.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from JSON",
    label = "derive `FromJson` for it, or name a form with #[json(with = \"...\")]"
)]
pub trait FromJson: Sized {
    /// Reads the value at the position of `reader` and moves behind it.
    ///
    /// # Errors
    /// `Invalid`, see [`crate::Fault`].
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError>;

    /// What a field of this type is when its key is absent; `None` = the field is required.
    #[inline]
    fn absent() -> Option<Self> {
        None
    }

    /// Reads a whole record: one value, and nothing but spaces around it.
    ///
    /// # Errors
    /// `Invalid`, with the field, the byte and the beginning of the record.
    #[inline]
    fn from_json(input: &[u8], scratch: &mut Scratch) -> Result<Self, JsonError> {
        let mut reader = match Reader::new(input, scratch) {
            Ok(reader) => reader,
            Err(error) => return Err(error.quoting(input)),
        };
        let value = match Self::read_json(&mut reader) {
            Ok(value) => value,
            Err(error) => return Err(error.quoting(input)),
        };
        match reader.finish() {
            Ok(()) => Ok(value),
            Err(error) => Err(error.quoting(input)),
        }
    }
}

macro_rules! integer_from_json {
    ($($ty:ident),*) => {$(
        impl FromJson for $ty {
            fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
                reader.read_integer(stringify!($ty))
            }
        }
    )*};
}
integer_from_json!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! float_from_json {
    ($($ty:ident by $convert:ident),*) => {$(
        impl FromJson for $ty {
            fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
                let number = reader.read_number("a number")?;
                let begin = reader.offset() - number.text.len();
                number.$convert().map_err(|fault| JsonError::new(begin, fault))
            }
        }
    )*};
}
float_from_json!(f32 by to_f32, f64 by to_f64);

impl FromJson for bool {
    #[inline]
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        reader.read_bool()
    }
}

macro_rules! text_from_json {
    ($($ty:ident),*) => {$(
        impl FromJson for $ty {
            #[inline]
            fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
                reader.read_text().map(Self::from)
            }
        }
    )*};
}
text_from_json!(String, CompactString);

/// Absent and `null` are both `None`.
impl<T: FromJson> FromJson for Option<T> {
    #[inline]
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        if reader.eat_null()? {
            return Ok(None);
        }
        T::read_json(reader).map(Some)
    }

    #[inline]
    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: FromJson> FromJson for Box<T> {
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        T::read_json(reader).map(Self::new)
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        let mut items = Self::new();
        reader.begin_array()?;
        while reader.next_element()? {
            match T::read_json(reader) {
                Ok(item) => items.push(item),
                Err(error) => return Err(error.inside(&Reader::element_name(items.len()))),
            }
        }
        Ok(items)
    }
}

/// An object with any keys. Of a repeated key the last value stays.
impl<K: Ord + for<'k> From<&'k str>, V: FromJson> FromJson for BTreeMap<K, V> {
    fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        let mut entries = Self::new();
        reader.begin_object()?;
        while let Some(key) = reader.next_key()?.map(K::from) {
            let value = V::read_json(reader)?;
            if entries.insert(key, value).is_some() {
                reader.scratch().counters.repeated_keys += 1;
            }
        }
        Ok(entries)
    }
}
