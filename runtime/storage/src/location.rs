//! Locations as users write them: `file:///dir`, `./dir`, `/dir`, `s3://bucket/prefix`, `memory://`.
//!
//! Credentials are values given by the caller; nothing here reads the environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::StorageError;
use crate::local::LocalStorage;
use crate::memory::MemoryStorage;
use crate::path::ObjectPath;
use crate::storage::ObjectStorage;

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the memory of this process.
    Memory,
    /// In a local directory.
    Local(PathBuf),
    /// In a bucket of an S3-compatible store.
    S3 {
        /// The bucket.
        bucket: String,
        /// The part of every key before the object path.
        prefix: Option<ObjectPath>,
    },
}

impl Location {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// `Invalid`, naming the text and the forms that are understood.
    pub fn parse(value: &str) -> Result<Self, StorageError> {
        let refuse = |reason: &str| StorageError::Location {
            value: value.to_owned(),
            reason: reason.to_owned(),
        };
        let Some((scheme, rest)) = value.split_once("://") else {
            let plain = ["/", "./", "../"]
                .iter()
                .any(|start| value.starts_with(start));
            if plain || value == "." || value == ".." {
                return Ok(Self::Local(PathBuf::from(value)));
            }
            return Err(refuse(
                "write a directory as `./dir`, `/dir` or `file:///dir`, a bucket as `s3://bucket/prefix`",
            ));
        };
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(refuse("a memory store has no name; write `memory://`")),
            "file" if rest.contains(['%', '?', '#']) => Err(refuse(
                "write the directory as it is, without `%` escapes, `?` or `#`",
            )),
            "file" if rest.starts_with('/') => Ok(Self::Local(PathBuf::from(rest))),
            "file" => Err(refuse(
                "a file location is absolute and names no host; write `file:///dir`",
            )),
            "s3" | "s3a" => parse_s3(rest).map_err(refuse),
            _ => Err(refuse(
                "the scheme is unknown; `file`, `s3` and `memory` are understood",
            )),
        }
    }
}

fn parse_s3(rest: &str) -> Result<Location, &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
        return Err(
            "a bucket name has 3 to 63 lower-case letters, digits, `-` and `.`; write `s3://bucket/prefix`",
        );
    }
    let prefix = prefix.trim_end_matches('/');
    let prefix = (!prefix.is_empty())
        .then(|| ObjectPath::parse(prefix))
        .transpose();
    Ok(Location::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.map_err(
            |_| "the prefix holds an empty segment or a character that object paths refuse",
        )?,
    })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory://"),
            Self::Local(root) => write!(f, "{}", root.display()),
            Self::S3 {
                bucket,
                prefix: None,
            } => write!(f, "s3://{bucket}"),
            Self::S3 {
                bucket,
                prefix: Some(prefix),
            } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Text that must appear in no log, message or dump.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the client that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach an S3-compatible store. Without keys, the instance or pod identity of the platform is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Such as `http://127.0.0.1:9000`; `None` = Amazon's own for the region.
    pub endpoint: Option<String>,
    /// Such as `eu-central-1`; `None` = `us-east-1`.
    pub region: Option<String>,
    /// The access key id.
    pub access_key_id: Option<String>,
    /// The secret access key.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary keys.
    pub session_token: Option<Secret>,
    /// The role of a pod identity.
    pub role_arn: Option<String>,
    /// The token file of a pod identity.
    pub web_identity_token_file: Option<String>,
}

/// Opens a location.
///
/// Blocks on file work for a local directory; call it while starting.
///
/// # Errors
/// When the directory cannot be made, or the options cannot work.
pub fn open(
    location: &Location,
    options: &S3Options,
) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    match location {
        Location::Memory => Ok(Arc::new(MemoryStorage::default())),
        Location::Local(root) => Ok(Arc::new(LocalStorage::open(root)?)),
        Location::S3 { bucket, prefix } => open_s3(location, bucket, prefix.as_ref(), options),
    }
}

#[cfg(feature = "s3")]
fn open_s3(
    _: &Location,
    bucket: &str,
    prefix: Option<&ObjectPath>,
    options: &S3Options,
) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    Ok(Arc::new(crate::s3::S3Storage::open(
        bucket, prefix, options,
    )?))
}

#[cfg(not(feature = "s3"))]
fn open_s3(
    location: &Location,
    _: &str,
    _: Option<&ObjectPath>,
    _: &S3Options,
) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    Err(StorageError::Location {
        value: location.to_string(),
        reason: "this program was built without the feature `s3`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_book_are_understood_and_shown_again() {
        for (text, shown) in [
            ("memory://", "memory://"),
            ("file:///var/hw", "/var/hw"),
            ("./state", "./state"),
            ("/var/hw", "/var/hw"),
            ("s3://bucket", "s3://bucket"),
            ("s3://my.bucket-1/jobs/a/", "s3://my.bucket-1/jobs/a"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_refused_location_names_itself_and_the_next_step() {
        for (text, part) in [
            ("checkpoints", "`./dir`"),
            ("", "`./dir`"),
            ("gs://bucket", "scheme is unknown"),
            ("file://host/dir", "names no host"),
            ("file:///a%20b", "without `%`"),
            ("memory://x", "has no name"),
            ("s3://ab/x", "3 to 63"),
            ("s3://Bucket/x", "lower-case"),
            ("s3://bucket/a//b", "empty segment"),
        ] {
            let message = Location::parse(text).unwrap_err().to_string();
            assert!(
                message.contains(part) && message.contains(&format!("`{text}`")),
                "{message}"
            );
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let options = S3Options {
            secret_access_key: Some(Secret::new("hunter2")),
            ..S3Options::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
