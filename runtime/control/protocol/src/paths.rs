//! Every object path of a job: built here, read back here, nowhere else.
//!
//! Called by drivers of coordinator, worker and garbage collection. The rule: every path that a process writes holds
//! the epoch and an attempt or a nonce, so that no two writers ever share a name and a zombie can overwrite nothing.
//! `head` and the lease are the only objects that are ever overwritten, both on a condition; the start of an added source is created
//! once, by whoever comes first.
//!
//! ```text
//! <identity>/head
//! <identity>/lease
//! <identity>/manifests/<epoch>-<number>-<nonce>
//! <identity>/data/<epoch>-<attempt>/<uid>.<subtask>/<number>-<file>
//! <identity>/sinklog/<epoch>-<number>-<nonce>/<sink>/<slot>[.<part>]
//! <identity>/starts/<epoch>-<number>-<nonce>/<source>
//! savepoints/<name>/manifest, savepoints/<name>/<epoch>-<attempt>/<file>
//! ```

use std::fmt;
use std::sync::Arc;

use highwater_types::{
    AttemptId, CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, Nonce, OperatorUid,
    SavepointName, SubtaskIndex,
};
use serde::{Deserialize, Serialize};

use crate::stop::SlotKey;

const PATH_BYTES_MAX: usize = 512;

/// A path below the prefix of a job or of a savepoint: segments of `[A-Za-z0-9._-]`, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelativePath(Arc<str>);

/// A path that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path `{path}` {fault}; a path is relative to its prefix and has plain segments")]
pub struct PathError {
    path: String,
    fault: &'static str,
}

impl Classified for PathError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

impl RelativePath {
    /// Checks and takes a path.
    pub fn parse(value: &str) -> Result<Self, PathError> {
        let refuse = |fault| {
            Err(PathError {
                path: value.chars().take(80).collect(),
                fault,
            })
        };
        if value.len() > PATH_BYTES_MAX {
            return refuse("is longer than 512 bytes");
        }
        if value.starts_with('/') {
            return refuse("is absolute");
        }
        for segment in value.split('/') {
            if segment.is_empty() {
                return refuse("has an empty segment");
            }
            if segment == "." || segment == ".." {
                return refuse("leaves its prefix");
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !segment.chars().all(plain) {
                return refuse("has a character that is not allowed");
            }
        }
        Ok(Self(Arc::from(value)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<RelativePath> for String {
    fn from(value: RelativePath) -> Self {
        value.0.to_string()
    }
}

impl TryFrom<String> for RelativePath {
    type Error = PathError;

    fn try_from(value: String) -> Result<Self, PathError> {
        Self::parse(&value)
    }
}

/// The name of a manifest: one try of one checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ManifestName {
    /// The epoch of the leader that wrote it.
    pub epoch: Epoch,
    /// The number of the checkpoint.
    pub number: u64,
    /// The nonce of the try.
    pub nonce: Nonce,
}

impl ManifestName {
    /// The checkpoint that it describes.
    pub const fn id(&self) -> CheckpointId {
        CheckpointId {
            number: self.number,
            epoch: self.epoch,
        }
    }

    /// Reads a name; `None` = another object lies in the folder.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, rest) = text.split_once('-')?;
        let (number, nonce) = rest.split_once('-')?;
        Some(Self {
            epoch: Epoch(parse_number(epoch)?),
            number: parse_number(number)?,
            nonce: parse_nonce(nonce)?,
        })
    }
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.number, self.nonce)
    }
}

impl From<ManifestName> for String {
    fn from(value: ManifestName) -> Self {
        value.to_string()
    }
}

/// A text that names no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no manifest name; it needs <epoch>-<number>-<nonce>")]
pub struct ManifestNameError(String);

impl TryFrom<String> for ManifestName {
    type Error = ManifestNameError;

    fn try_from(value: String) -> Result<Self, ManifestNameError> {
        Self::parse(&value).ok_or_else(|| ManifestNameError(value.chars().take(80).collect()))
    }
}

/// Decimal digits without sign or leading zero, so that one number has one name.
fn parse_number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

fn parse_nonce(text: &str) -> Option<Nonce> {
    let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 32 || !text.bytes().all(plain) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(Nonce)
}

/// The writer of a state file: an operator's subtask in one attempt under one leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataWriter {
    /// The epoch of the checkpoint's leader.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// The operator.
    pub uid: OperatorUid,
    /// Its subtask.
    pub subtask: SubtaskIndex,
}

impl DataWriter {
    /// The path of file `file` of checkpoint `number`, relative to the prefix of the job.
    ///
    /// # Panics
    /// If `file` is no plain segment: file names are made by the engine.
    pub fn file(&self, number: u64, file: &str) -> RelativePath {
        let Self {
            epoch,
            attempt,
            uid,
            subtask,
        } = self;
        made(&format!(
            "data/{epoch}-{attempt}/{uid}.{subtask}/{number}-{file}"
        ))
    }
}

/// The path of part `part` of a sink log, relative to the prefix of the job.
pub fn sink_log(id: CheckpointId, nonce: Nonce, slot: &SlotKey, part: u32) -> RelativePath {
    let SlotKey { sink, slot } = slot;
    let folder = format!("sinklog/{}-{}-{nonce}/{sink}/{slot}", id.epoch, id.number);
    if part == 0 {
        made(&folder)
    } else {
        made(&format!("{folder}.{part}"))
    }
}

/// The path of a manifest, relative to the prefix of the job.
pub fn manifest(name: &ManifestName) -> RelativePath {
    made(&format!("manifests/{name}"))
}

/// The path of the start of a source that the checkpoint `base` does not know, relative to the prefix of the job.
pub fn source_start(base: &ManifestName, uid: &OperatorUid) -> RelativePath {
    made(&format!("starts/{base}/{uid}"))
}

fn made(text: &str) -> RelativePath {
    match RelativePath::parse(text) {
        Ok(path) => path,
        Err(error) => panic!("the engine built a path that it would refuse: {error}"),
    }
}

/// What an object below the prefix of a job is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// The head object.
    Head,
    /// The lease of those who may try to lead.
    Lease,
    /// A manifest.
    Manifest(ManifestName),
    /// A state file.
    Data {
        /// The epoch of the checkpoint's leader.
        epoch: Epoch,
        /// The attempt that wrote it.
        attempt: AttemptId,
        /// The number of the checkpoint.
        number: u64,
    },
    /// A part of a sink log.
    SinkLog {
        /// The epoch of the checkpoint's leader.
        epoch: Epoch,
        /// The number of the checkpoint.
        number: u64,
    },
    /// The start of a source that this checkpoint does not know.
    SourceStart(ManifestName),
}

impl ObjectName {
    /// Reads a path; `None` = not an object of this layout: left alone by everyone.
    pub fn parse(path: &RelativePath) -> Option<Self> {
        let mut parts = path.as_str().split('/');
        let name = match parts.next()? {
            "head" => Self::Head,
            "lease" => Self::Lease,
            "manifests" => Self::Manifest(ManifestName::parse(parts.next()?)?),
            "data" => {
                let (epoch, attempt) = parts.next()?.split_once('-')?;
                let _writer = parts.next()?;
                let (number, _file) = parts.next()?.split_once('-')?;
                Self::Data {
                    epoch: Epoch(parse_number(epoch)?),
                    attempt: AttemptId(parse_number(attempt)?),
                    number: parse_number(number)?,
                }
            }
            "sinklog" => {
                let name = ManifestName::parse(parts.next()?)?;
                let (_sink, _slot) = (parts.next()?, parts.next()?);
                Self::SinkLog {
                    epoch: name.epoch,
                    number: name.number,
                }
            }
            "starts" => {
                let base = ManifestName::parse(parts.next()?)?;
                let _uid = parts.next()?;
                Self::SourceStart(base)
            }
            _ => return None,
        };
        parts.next().is_none().then_some(name)
    }

    /// The try that wrote the object; `None` for `head` and the lease.
    pub const fn id(&self) -> Option<CheckpointId> {
        match *self {
            Self::Head | Self::Lease => None,
            Self::Manifest(name) | Self::SourceStart(name) => Some(name.id()),
            Self::Data { epoch, number, .. } | Self::SinkLog { epoch, number } => {
                Some(CheckpointId { number, epoch })
            }
        }
    }
}

/// The paths of one job in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPaths {
    identity: JobIdentity,
}

impl JobPaths {
    /// The paths of `identity`.
    pub const fn new(identity: JobIdentity) -> Self {
        Self { identity }
    }

    /// The prefix of the job, without a slash at its end.
    pub fn prefix(&self) -> &str {
        self.identity.as_str()
    }

    /// The head object.
    pub fn head(&self) -> String {
        format!("{}/head", self.identity)
    }

    /// The lease.
    pub fn lease(&self) -> String {
        format!("{}/lease", self.identity)
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> String {
        format!("{}/manifests", self.identity)
    }

    /// An object of this job.
    pub fn object(&self, path: &RelativePath) -> String {
        format!("{}/{path}", self.identity)
    }

    /// Strips the prefix of the job; `None` = an object of another job or a path that the engine never makes.
    pub fn relative(&self, object: &str) -> Option<RelativePath> {
        let rest = object.strip_prefix(self.prefix())?.strip_prefix('/')?;
        RelativePath::parse(rest).ok()
    }
}

/// A place that can hold no savepoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No name.
    #[error(transparent)]
    Name(highwater_types::id::IdError),
    /// No path of the store.
    #[error(transparent)]
    Path(PathError),
}

/// The paths of one savepoint, below the folder of savepoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointPaths {
    folder: String,
}

impl SavepointPaths {
    /// The savepoint `name` below `folder`.
    pub fn parse(folder: &str, name: &str) -> Result<Self, highwater_types::id::IdError> {
        let name = SavepointName::parse(name)?;
        Ok(Self {
            folder: format!("{}/{name}", folder.trim_end_matches('/')),
        })
    }

    /// The savepoint at `place`: a name below `folder`, or a path of the store, which holds a slash.
    ///
    /// # Errors
    /// When it is neither.
    pub fn at(folder: &str, place: &str) -> Result<Self, PlaceError> {
        if !place.contains('/') {
            return Self::parse(folder, place).map_err(PlaceError::Name);
        }
        let path = RelativePath::parse(place.trim_end_matches('/')).map_err(PlaceError::Path)?;
        Ok(Self {
            folder: path.to_string(),
        })
    }

    /// The manifest: written last; its presence says that the savepoint is complete.
    pub fn manifest(&self) -> String {
        format!("{}/manifest", self.folder)
    }

    /// A file of the savepoint, under the path that its manifest uses.
    pub fn object(&self, path: &RelativePath) -> String {
        format!("{}/{path}", self.folder)
    }

    /// The folder.
    pub fn folder(&self) -> &str {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotKey {
        SlotKey {
            sink: OperatorUid::parse("count-sink").unwrap(),
            slot: 3,
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(513);
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\0b",
            "c:x",
            "data/é",
            "a/./b",
            long.as_str(),
        ] {
            assert!(RelativePath::parse(bad).is_err(), "{bad}");
        }
        assert!(RelativePath::parse("data/3-7/count.0/12-0.state").is_ok());
    }

    #[test]
    fn every_path_is_read_back_with_its_try() {
        let id = CheckpointId {
            number: 12,
            epoch: Epoch(3),
        };
        let name = ManifestName {
            epoch: Epoch(3),
            number: 12,
            nonce: Nonce(9),
        };
        let writer = DataWriter {
            epoch: Epoch(3),
            attempt: AttemptId(7),
            uid: OperatorUid::parse("count").unwrap(),
            subtask: SubtaskIndex(0),
        };
        let data = writer.file(12, "state");
        assert_eq!(data.as_str(), "data/3-7/count.0/12-state");
        for path in [
            data,
            manifest(&name),
            sink_log(id, Nonce(1), &slot(), 0),
            sink_log(id, Nonce(1), &slot(), 2),
        ] {
            let object = ObjectName::parse(&path).unwrap();
            assert_eq!(object.id(), Some(id), "{path}");
        }
        assert_eq!(ManifestName::parse(&name.to_string()), Some(name));
    }

    #[test]
    fn foreign_objects_are_left_alone() {
        for other in [
            "notes.txt",
            "manifests/latest",
            "manifests/01-2-3",
            "data/x",
            "sinklog/1-2-3/a/0",
            "manifests/+1-2-00000000000000000000000000000001",
        ] {
            let parsed = RelativePath::parse(other)
                .ok()
                .and_then(|p| ObjectName::parse(&p));
            assert_eq!(parsed, None, "{other}");
        }
    }

    #[test]
    fn job_paths_stay_below_their_prefix() {
        let paths = JobPaths::new(JobIdentity::parse("fleet").unwrap());
        assert_eq!(paths.head(), "fleet/head");
        let path = sink_log(CheckpointId::default(), Nonce(1), &slot(), 0);
        assert_eq!(paths.relative(&paths.object(&path)), Some(path));
        assert_eq!(paths.relative("fleet2/head"), None);
        assert!(SavepointPaths::parse("s3/savepoints/", "../x").is_err());
        let savepoint = SavepointPaths::parse("savepoints/", "before-upgrade").unwrap();
        assert_eq!(savepoint.manifest(), "savepoints/before-upgrade/manifest");
        assert_eq!(
            SavepointPaths::at("savepoints", "before-upgrade"),
            Ok(savepoint)
        );
        let moved = SavepointPaths::at("savepoints", "archive/2026/one/").unwrap();
        assert_eq!(moved.folder(), "archive/2026/one");
        assert!(SavepointPaths::at("savepoints", "../one").is_err());
        assert!(SavepointPaths::at("savepoints", "/one").is_err());
    }
}
