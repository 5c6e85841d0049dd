//! Why a record could not be read from JSON: the fault, the field, the byte, and how the record begins.
//!
//! An error is one pointer, so that a result on the hot path is as large as its value. It is always the author of the
//! record who must act: the kind is `Invalid`, and the source decides between failing and the dead-letter topic.

use highwater_types::{Classified, ErrorKind};

use crate::reader::Reader;

/// How many bytes of the record an error shows.
const EXCERPT_BYTES: usize = 200;

/// What is wrong with the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no value at all.
    #[error("the record is empty or only spaces")]
    Empty,
    /// The text breaks the grammar of JSON.
    #[error("{expected} is expected, found {found}")]
    Syntax {
        /// What the grammar asks for.
        expected: &'static str,
        /// What stands there.
        found: Found,
    },
    /// A value of another type than the field.
    #[error("{expected} is expected, found {found}")]
    Type {
        /// What the field holds.
        expected: &'static str,
        /// What stands there.
        found: Found,
    },
    /// A required field is absent.
    #[error("the field is missing and has no default")]
    Missing,
    /// A number that the type of the field cannot hold.
    #[error("the number {number} does not fit {target}")]
    OutOfRange {
        /// The number as written, cut after 40 bytes.
        number: String,
        /// The type of the field.
        target: &'static str,
    },
    /// An amount with more digits than the field keeps.
    #[error("the amount {number} has more than two decimal places")]
    Precision {
        /// The number as written, cut after 40 bytes.
        number: String,
    },
    /// Bytes that are not UTF-8.
    #[error("the bytes are not UTF-8")]
    Utf8,
    /// An escape in a string that JSON does not know or that is no character.
    #[error("the escape is invalid: {reason}")]
    Escape {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text that is not a time.
    #[error("the text {text:?} is not an ISO-8601 time: {reason}")]
    Time {
        /// The text, cut after 40 bytes.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text that no variant of an enum is named after.
    #[error("the text {text:?} is none of {known}")]
    UnknownText {
        /// The text, cut after 40 bytes.
        text: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// Too many arrays and objects inside each other.
    #[error("the nesting is deeper than {limit} levels")]
    Depth {
        /// The largest depth.
        limit: usize,
    },
    /// Something stands behind the record.
    #[error("the record has ended, but {found} follows")]
    Trailing {
        /// What stands there.
        found: Found,
    },
}

/// What stands at a place of the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Found {
    /// The input ends.
    #[error("the end")]
    End,
    /// A string.
    #[error("a string")]
    Text,
    /// A number.
    #[error("a number")]
    Number,
    /// A number with a fraction or an exponent.
    #[error("a number with a fraction or an exponent")]
    Fraction,
    /// `true` or `false`.
    #[error("a boolean")]
    Bool,
    /// `null`.
    #[error("null")]
    Null,
    /// An object.
    #[error("an object")]
    Object,
    /// An array.
    #[error("an array")]
    Array,
    /// A word that means nothing in JSON, with what is not ASCII escaped, cut after 40 bytes.
    #[error("`{0}`")]
    Word(String),
    /// Any other byte.
    #[error("byte 0x{0:02x}")]
    Byte(u8),
}

impl Found {
    /// What this input begins with.
    #[cold]
    pub(crate) fn at_start_of(input: &[u8]) -> Self {
        match input.first() {
            None => Self::End,
            Some(b'"') => Self::Text,
            Some(b'-' | b'0'..=b'9') => Self::Number,
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(letter) if letter.is_ascii_alphabetic() => Self::word(input),
            Some(&other) => Self::Byte(other),
        }
    }

    /// The first letter does not tell: `this` is no boolean.
    fn word(input: &[u8]) -> Self {
        let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
        let end = input.iter().position(|byte| !of_word(byte));
        match &input[..end.unwrap_or(input.len())] {
            b"true" | b"false" => Self::Bool,
            b"null" => Self::Null,
            word => Self::Word(cut(&word.escape_ascii().to_string())),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detail {
    fault: Fault,
    offset: usize,
    path: String,
    excerpt: String,
}

/// A record that could not be read from JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct JsonError(Box<Detail>);

impl Classified for JsonError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl JsonError {
    /// An error at a byte of the input.
    #[cold]
    #[inline(never)]
    pub fn new(offset: usize, fault: Fault) -> Self {
        Self(Box::new(Detail {
            fault,
            offset,
            path: String::new(),
            excerpt: String::new(),
        }))
    }

    /// A required field is absent from the object that ends where `reader` stands.
    #[cold]
    #[inline(never)]
    pub fn missing(reader: &Reader<'_>, field: &str) -> Self {
        Self::new(reader.offset(), Fault::Missing).inside(field)
    }

    /// The text that begins at `offset` names no variant.
    #[cold]
    #[inline(never)]
    pub fn unknown_text(offset: usize, text: &str, known: &[&str]) -> Self {
        let fault = Fault::UnknownText {
            text: cut(text),
            known: known.join(", "),
        };
        Self::new(offset, fault)
    }

    /// The same error, seen from the object or array that holds the part.
    #[cold]
    #[inline(never)]
    #[must_use]
    pub fn inside(mut self, part: &str) -> Self {
        let dot = match self.0.path.as_bytes().first() {
            None | Some(b'[') => "",
            Some(_) => ".",
        };
        self.0.path = format!("{part}{dot}{}", self.0.path);
        self
    }

    /// The same error with the beginning of the record.
    #[cold]
    #[inline(never)]
    pub(crate) fn quoting(mut self, input: &[u8]) -> Self {
        self.0.excerpt = excerpt(input);
        self
    }

    /// What is wrong.
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// The byte of the input where it is wrong, counted from 0.
    pub fn offset(&self) -> usize {
        self.0.offset
    }

    /// The field, as `order.lines[3].price`; empty for the record itself.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The first 200 bytes of the record; everything but printable ASCII is escaped.
    pub fn excerpt(&self) -> &str {
        &self.0.excerpt
    }

    fn describe(&self) -> String {
        let Detail {
            fault,
            offset,
            path,
            ..
        } = &*self.0;
        let field = match path.as_str() {
            "" => String::new(),
            path => format!("field {path}, "),
        };
        format!("{field}byte {offset}: {fault}")
    }
}

/// The first 40 bytes of a text, at a boundary of characters.
pub(crate) fn cut(text: &str) -> String {
    const BYTES_MAX: usize = 40;
    text[..text.floor_char_boundary(BYTES_MAX)].to_owned()
}

fn excerpt(input: &[u8]) -> String {
    let shown = &input[..input.len().min(EXCERPT_BYTES)];
    let mut text = String::with_capacity(shown.len() + 16);
    for &byte in shown {
        match byte {
            b'"' | b'\'' => text.push(char::from(byte)),
            other => text.extend(other.escape_ascii().map(char::from)),
        }
    }
    if shown.len() < input.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_is_cut_and_escaped() {
        assert_eq!(excerpt(b"{\"a\":\n\xff}"), r#"{"a":\n\xff}"#);
        let long = excerpt(&[b'x'; 300]);
        assert_eq!(long.len(), 203);
        assert!(long.ends_with("x..."));
    }

    #[test]
    fn path_reads_from_the_outside_in() {
        let error = JsonError::new(7, Fault::Missing)
            .inside("price")
            .inside("[3]")
            .inside("lines")
            .inside("order");
        assert_eq!(error.path(), "order.lines[3].price");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(cut(&"é".repeat(30)), "é".repeat(20));
        assert_eq!(cut(&format!("a{}", "é".repeat(30))).len(), 39);
    }
}
