//! Forms for `#[json(with = "...")]`: how a plain integer field stands for a time or an amount of money.

/// A field that holds milliseconds since the Unix epoch.
pub trait Millis: Copy {
    /// The field at this instant.
    fn from_millis(ms: i64) -> Self;
    /// The instant of the field.
    fn to_millis(self) -> i64;
}

impl Millis for i64 {
    fn from_millis(ms: i64) -> Self {
        ms
    }

    fn to_millis(self) -> i64 {
        self
    }
}

macro_rules! time_millis {
    ($($ty:ident),*) => {$(
        impl Millis for highwater_types::$ty {
            fn from_millis(ms: i64) -> Self {
                Self(ms)
            }

            fn to_millis(self) -> i64 {
                self.0
            }
        }
    )*};
}
time_millis!(EventTime, ProcessingTime);

/// Reads ISO-8601 text or milliseconds; writes ISO-8601 text.
pub mod event_time {
    use super::Millis;
    use crate::{JsonError, Reader};

    /// Reads the field.
    #[inline]
    pub fn read_json<T: Millis>(reader: &mut Reader<'_>) -> Result<T, JsonError> {
        reader.read_time().map(T::from_millis)
    }

    /// Writes the field.
    pub fn write_json<T: Millis>(value: &T, out: &mut Vec<u8>) {
        crate::time::write_time(value.to_millis(), out);
    }
}

/// Reads and writes milliseconds since the epoch as a number.
pub mod epoch_ms {
    use super::Millis;
    use crate::{JsonError, Reader, ToJson};

    /// Reads the field.
    #[inline]
    pub fn read_json<T: Millis>(reader: &mut Reader<'_>) -> Result<T, JsonError> {
        reader
            .read_epoch_ms("a time in milliseconds")
            .map(T::from_millis)
    }

    /// Writes the field.
    pub fn write_json<T: Millis>(value: &T, out: &mut Vec<u8>) {
        value.to_millis().to_json(out);
    }
}

/// Reads and writes a decimal with two places as an integer of cents.
pub mod cents {
    use crate::{Cents, FromJson, JsonError, Reader, ToJson};

    /// Reads the field.
    #[inline]
    pub fn read_json(reader: &mut Reader<'_>) -> Result<i64, JsonError> {
        Cents::read_json(reader).map(Cents::get)
    }

    /// Writes the field.
    pub fn write_json(value: &i64, out: &mut Vec<u8>) {
        Cents(*value).to_json(out);
    }
}
