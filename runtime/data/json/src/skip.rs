//! Passing over a value that nobody wants, in bounded stack.
//!
//! The value is checked as strictly as one that is read: whether a record is refused must not depend on which fields a
//! job happens to use. Open containers are bits of one integer, so depth costs no call.

use crate::error::JsonError;
use crate::reader::{DEPTH_MAX, Reader};

/// Which of the open containers are objects, innermost in the lowest bit.
#[derive(Default)]
struct Open {
    objects: u128,
    count: usize,
}

const _: () = assert!(DEPTH_MAX <= u128::BITS as usize);

impl Open {
    const fn push(&mut self, object: bool) {
        self.objects = self.objects << 1 | object as u128;
        self.count += 1;
    }

    const fn pop(&mut self) {
        self.objects >>= 1;
        self.count -= 1;
    }

    const fn innermost_is_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

impl Reader<'_> {
    /// Passes one value of any type.
    pub fn skip_value(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{' | b'[') => self.skip_container(),
            _ => self.skip_scalar(),
        }
    }

    fn skip_container(&mut self) -> Result<(), JsonError> {
        let mut open = Open::default();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.begin_object()?;
                    open.push(true);
                }
                Some(b'[') => {
                    self.begin_array()?;
                    open.push(false);
                }
                _ => self.skip_scalar()?,
            }
            if !self.skip_to_next_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Moves to the next value inside the open containers; `false` when all are closed.
    fn skip_to_next_value(&mut self, open: &mut Open) -> Result<bool, JsonError> {
        while open.count > 0 {
            let more = if open.innermost_is_object() {
                self.next_key()?.is_some()
            } else {
                self.next_element()?
            };
            if more {
                return Ok(true);
            }
            open.pop();
        }
        Ok(false)
    }

    #[inline]
    fn skip_scalar(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.read_text().map(|_| ()),
            Some(b't' | b'f') => self.read_bool().map(|_| ()),
            Some(b'n') => self.eat_null().map(|_| ()),
            _ => self.skip_number(),
        }
    }

    #[inline(never)]
    fn skip_number(&mut self) -> Result<(), JsonError> {
        self.read_number("a value").map(|_| ())
    }
}
