//! Paths of objects: segments joined by `/`, the same for every driver.
//!
//! Segments hold ASCII letters, digits, `-`, `_`, `.`, `=` and `@` and start with none of `.`: what a file system, a
//! URL and an object key carry alike, and what leaves names that start with a dot to the drivers themselves.

use std::fmt;

use crate::error::StorageError;

const LENGTH_MAX: usize = 900;
const SEGMENT_LENGTH_MAX: usize = 200;

/// The checked path of an object, or of a folder of objects, below a location.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// Checks and takes a path such as `fraud/manifests/3-17-a0`.
    ///
    /// # Errors
    /// `Invalid` when a segment is empty, too long, starts with a dot or holds a character outside the set.
    pub fn parse(value: &str) -> Result<Self, StorageError> {
        let refuse = |reason| StorageError::Path {
            value: value.to_owned(),
            reason,
        };
        if value.len() > LENGTH_MAX {
            return Err(refuse("it is longer than 900 bytes"));
        }
        for segment in value.split('/') {
            check_segment(segment).map_err(refuse)?;
        }
        Ok(Self(value.to_owned()))
    }

    /// The path one or more segments further down.
    ///
    /// # Errors
    /// As [`ObjectPath::parse`].
    pub fn join(&self, below: &str) -> Result<Self, StorageError> {
        Self::parse(&format!("{}/{below}", self.0))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this path lies inside the folder `folder`: longer by at least one whole segment.
    pub fn is_below(&self, folder: &Self) -> bool {
        let rest = self.0.strip_prefix(folder.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    if segment.is_empty() {
        return Err("a segment is empty; write `a/b` without leading, trailing or double slashes");
    }
    if segment.len() > SEGMENT_LENGTH_MAX {
        return Err("a segment is longer than 200 bytes");
    }
    if segment.starts_with('.') {
        return Err("a segment starts with a dot");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=@".contains(&byte);
    if !segment.bytes().all(plain) {
        return Err("use letters, digits and `-_.=@` only");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_some_store_would_read_differently_are_refused() {
        for bad in [
            "", "/a", "a/", "a//b", "a/../b", ".a", "a b", "a%2f", "ä", "a\\b",
        ] {
            assert!(ObjectPath::parse(bad).is_err(), "{bad}");
        }
        assert!(ObjectPath::parse(&"x/".repeat(500)).is_err());
        assert!(ObjectPath::parse("job_1/head.v2/a=b@3").is_ok());
    }

    #[test]
    fn a_folder_holds_whole_segments_only() {
        let path = |text| ObjectPath::parse(text).unwrap();
        assert!(path("a/b/c").is_below(&path("a/b")));
        assert!(!path("a/bc").is_below(&path("a/b")));
        assert!(!path("a/b").is_below(&path("a/b")));
    }
}
