//! The reader of one record: a position in checked text that moves forward value by value.
//!
//! Derived and hand-written `FromJson` implementations call it. It never looks back except at the byte that it has just
//! passed, builds no tree, and holds nothing on the stack that grows with the input but the depth of nested records.

use std::borrow::Cow;

use crate::decode::FromJson;
use crate::error::{Fault, Found, JsonError};
use crate::number::{self, Number};
use crate::scratch::Scratch;
use crate::text;

/// The deepest nesting of arrays and objects that is read.
pub const DEPTH_MAX: usize = 128;

/// U+FEFF in UTF-8. Some writers put it in front of a text; it says nothing.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads one JSON text.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    scratch: &'a mut Scratch,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `input`, behind a byte order mark if there is one.
    ///
    /// # Errors
    /// `Invalid` when `input` is not UTF-8 or holds no value at all.
    #[inline]
    pub fn new(input: &'a [u8], scratch: &'a mut Scratch) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(input)
            .map_err(|error| JsonError::new(error.valid_up_to(), Fault::Utf8))?;
        let at = if text.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let mut reader = Self {
            text,
            at,
            depth: 0,
            scratch,
        };
        match reader.peek() {
            Some(_) => Ok(reader),
            None => Err(JsonError::new(reader.at, Fault::Empty)),
        }
    }

    /// The position in the input, in bytes.
    #[inline]
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// What the reader keeps between records.
    #[inline]
    pub(crate) const fn scratch(&mut self) -> &mut Scratch {
        self.scratch
    }

    #[inline]
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    #[inline]
    pub(crate) const fn advance(&mut self, count: usize) {
        self.at += count;
    }

    /// Skips spaces and returns the byte that follows, without passing it.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Passes `literal` if exactly it stands here.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "the literal must be a constant where it is compared"
    )]
    pub fn eat(&mut self, literal: &[u8]) -> bool {
        let found = self
            .bytes()
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(literal));
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Passes a comma and a key, given as `,"key":`, if they stand here with at most one space between the two.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "the literal must be a constant where it is compared"
    )]
    pub fn eat_key(&mut self, literal: &[u8]) -> bool {
        if self.eat(literal) {
            return true;
        }
        let key = literal.get(1..).unwrap_or_default();
        let rest = self.bytes().get(self.at..).unwrap_or_default();
        let found = rest.starts_with(b", ") && rest[2..].starts_with(key);
        if found {
            self.at += 2 + key.len();
        }
        found
    }

    /// Like [`Reader::eat_key`], and right behind the opening brace the same key without the comma.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "the literal must be a constant where it is compared"
    )]
    pub fn eat_first_key(&mut self, literal: &[u8]) -> bool {
        if self.is_behind_value() {
            return self.eat_key(literal);
        }
        self.eat(literal.get(1..).unwrap_or_default())
    }

    /// Whether the reader stands behind a value of an object, and not behind its opening brace.
    #[inline]
    pub fn is_behind_value(&self) -> bool {
        !self.at_opening(b'{')
    }

    /// Counts a key that has been there before.
    #[inline]
    pub fn count_repeated(&mut self, repeated: bool) {
        if repeated {
            self.scratch.counters.repeated_keys += 1;
        }
    }

    /// An error of this fault at the current position.
    #[cold]
    #[inline(never)]
    pub fn fail(&self, fault: Fault) -> JsonError {
        JsonError::new(self.at, fault)
    }

    /// An error that a value of another type stands here.
    #[cold]
    #[inline(never)]
    pub fn wrong_type(&self, expected: &'static str) -> JsonError {
        let found = self.found();
        self.fail(match found {
            Found::End | Found::Word(_) | Found::Byte(_) => Fault::Syntax { expected, found },
            _ => Fault::Type { expected, found },
        })
    }

    #[cold]
    #[inline(never)]
    fn syntax(&self, expected: &'static str) -> JsonError {
        let found = self.found();
        self.fail(Fault::Syntax { expected, found })
    }

    /// What stands here.
    fn found(&self) -> Found {
        Found::at_start_of(self.bytes().get(self.at..).unwrap_or_default())
    }

    #[inline]
    fn enter(&mut self) -> Result<(), JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(self.fail(Fault::Depth { limit: DEPTH_MAX }));
        }
        self.at += 1;
        self.depth += 1;
        Ok(())
    }

    #[inline]
    const fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Passes the brace that opens an object.
    #[inline]
    pub fn begin_object(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{') => self.enter(),
            _ => Err(self.wrong_type("an object")),
        }
    }

    /// Passes the brace that closes an object, if it stands here without a space before it.
    #[inline]
    pub fn end_object(&mut self) -> bool {
        let found = self.bytes().get(self.at) == Some(&b'}');
        if found {
            self.leave();
        }
        found
    }

    /// Passes the comma and the next key, or the brace that closes the object.
    ///
    /// To be called right behind the opening brace or right behind a value.
    pub fn next_key(&mut self) -> Result<Option<&str>, JsonError> {
        let first = self.at_opening(b'{');
        match self.peek() {
            Some(b'}') => {
                self.leave();
                return Ok(None);
            }
            Some(b',') if !first => self.at += 1,
            Some(_) if first => {}
            _ => return Err(self.syntax("a comma or a closing brace")),
        }
        if self.peek() != Some(b'"') {
            return Err(self.syntax("a key in quotes"));
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(self.syntax("a colon behind the key"));
        }
        self.at += 1;
        Ok(Some(match key {
            Some(key) => key,
            None => &self.scratch.buffer,
        }))
    }

    /// Passes the bracket that opens an array.
    #[inline]
    pub fn begin_array(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'[') => self.enter(),
            _ => Err(self.wrong_type("an array")),
        }
    }

    /// Passes the comma before the next element and returns `true`, or passes the bracket that closes the array.
    ///
    /// To be called right behind the opening bracket or right behind an element.
    #[inline]
    pub fn next_element(&mut self) -> Result<bool, JsonError> {
        let first = self.at_opening(b'[');
        match self.peek() {
            Some(b']') => {
                self.leave();
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.syntax("a comma or a closing bracket")),
        }
    }

    /// Whether the byte just passed is `opening`: no value ends with one.
    #[inline]
    fn at_opening(&self, opening: u8) -> bool {
        self.at
            .checked_sub(1)
            .is_some_and(|before| self.bytes()[before] == opening)
    }

    /// Passes `null` if it stands here.
    #[inline]
    pub fn eat_null(&mut self) -> Result<bool, JsonError> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        if self.eat(b"null") {
            return Ok(true);
        }
        Err(self.syntax("null"))
    }

    /// Reads `true` or `false`.
    #[inline]
    pub fn read_bool(&mut self) -> Result<bool, JsonError> {
        match self.peek() {
            Some(b't') if self.eat(b"true") => Ok(true),
            Some(b'f') if self.eat(b"false") => Ok(false),
            Some(b't' | b'f') => Err(self.syntax("true or false")),
            _ => Err(self.wrong_type("a boolean")),
        }
    }

    /// Reads a string. Valid until the reader moves on.
    #[inline]
    pub fn read_text(&mut self) -> Result<&str, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong_type("a string"));
        }
        Ok(match self.string()? {
            Some(text) => text,
            None => &self.scratch.buffer,
        })
    }

    /// Passes the string at the quote here. `None`: it had escapes, and the buffer of the scratch holds it.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "the two callers are the hot loop, the rest is a cold call"
    )]
    fn string(&mut self) -> Result<Option<&'a str>, JsonError> {
        let start = self.at + 1;
        let end = text::end_of_run(self.bytes(), start);
        if self.bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Some(&self.text[start..end]));
        }
        self.string_with_escapes(start, end).map(|()| None)
    }

    #[cold]
    #[inline(never)]
    fn string_with_escapes(&mut self, start: usize, end: usize) -> Result<(), JsonError> {
        let buffer = self.scratch.empty_buffer();
        let end = text::unescape(self.text, start, end, buffer)
            .map_err(|(at, fault)| JsonError::new(at, fault))?;
        match self.bytes().get(end) {
            Some(b'"') => {
                self.at = end + 1;
                Ok(())
            }
            other => Err(JsonError::new(
                end,
                Fault::Syntax {
                    expected: "a closing quote, and control characters escaped",
                    found: other.map_or(Found::End, |byte| Found::Byte(*byte)),
                },
            )),
        }
    }

    /// Reads a number; `expected` says what for.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "a number that passes through memory costs more than its digits"
    )]
    pub(crate) fn read_number(&mut self, expected: &'static str) -> Result<Number<'a>, JsonError> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => {}
            _ => return Err(self.wrong_type(expected)),
        }
        let (number, end) =
            number::scan(self.text, self.at).map_err(|(at, fault)| JsonError::new(at, fault))?;
        self.at = end;
        Ok(number)
    }

    /// Reads an integer of up to 64 bits, of which `target` is the type.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "a number that passes through memory costs more than its digits"
    )]
    pub(crate) fn read_integer<T: TryFrom<i128>>(
        &mut self,
        target: &'static str,
    ) -> Result<T, JsonError> {
        let number = self.read_number("an integer")?;
        let begin = self.at - number.text.len();
        let value = number
            .to_integer()
            .map_err(|fault| JsonError::new(begin, fault))?;
        value
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| JsonError::new(begin, number.out_of_range(target)))
    }

    /// Reads the value of a field; its errors name the field.
    #[inline]
    pub fn field<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        match read(self) {
            Ok(value) => Ok(value),
            Err(error) => Err(error.inside(name)),
        }
    }

    /// Reads the value of a field that stood out of order, and counts it when the key had been there before.
    #[inline(never)]
    pub fn member<T>(
        &mut self,
        name: &str,
        repeated: bool,
        read: impl FnOnce(&mut Self) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        self.count_repeated(repeated);
        self.field(name, read)
    }

    /// What a type makes of a field that is not there.
    ///
    /// # Errors
    /// `Invalid` when the type has no such value.
    #[inline]
    pub fn absent<T: FromJson>(&self, name: &str) -> Result<T, JsonError> {
        T::absent().ok_or_else(|| JsonError::missing(self, name))
    }

    /// Passes the value of a field that the type does not know, and counts it.
    pub fn skip_unknown(&mut self) -> Result<(), JsonError> {
        self.scratch.counters.unknown_fields += 1;
        self.skip_value()
    }

    /// Checks that nothing but spaces follows.
    #[inline]
    pub fn finish(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fail(Fault::Trailing {
                found: self.found(),
            })),
        }
    }

    /// The name of the element `index` of an array, for errors.
    #[cold]
    pub(crate) fn element_name(index: usize) -> Cow<'static, str> {
        Cow::Owned(format!("[{index}]"))
    }
}
