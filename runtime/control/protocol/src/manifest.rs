//! Checkpoint manifests: the immutable, self-hashed description of one snapshot.
//!
//! Assembled by the checkpoint machine, encoded here, read back by recovery, garbage collection and offline checks.
//! The rule: a manifest that decodes is closed and sound. Every file it refers to is listed with length and checksum,
//! every path stays below its prefix, every range lies inside its file, every key group inside the maximum. Reading is
//! bounded by the size of the object, whoever wrote it.

use std::collections::BTreeMap;
use std::fmt;

use highwater_types::{
    CheckpointId, Classified, ErrorKind, JobIdentity, KeyGroup, KeyGroupRange, Lineage,
    MaxParallelism, OperatorUid, Parallelism, SubtaskIndex,
};
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::head::ManifestRef;
use crate::paths::{ManifestName, ObjectName, RelativePath};
use crate::rescale::Rescaled;
use crate::sealed::{SealError, SealKind, seal, unseal};

mod check;

pub use check::ManifestFault;

const FORMAT: u32 = 6;
/// The largest manifest: 10^5 files with all their key groups fit, a hostile one cannot take more memory than this.
pub const MANIFEST_BYTES_MAX: usize = 256 << 20;
const KIND: SealKind = SealKind {
    what: "manifest",
    format: FORMAT,
    bytes_max: MANIFEST_BYTES_MAX,
};
/// The key hash of this version, as manifests name it.
pub const KEY_HASH: &str = "xxh3-64";

/// Opaque bytes, as hexadecimal text in JSON.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexBytes(pub Vec<u8>);

impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HexBytes({} bytes)", self.0.len())
    }
}

impl From<HexBytes> for String {
    fn from(value: HexBytes) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        value
            .0
            .iter()
            .flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)])
            .collect()
    }
}

/// A text that is no hexadecimal bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text of {0} characters is no hexadecimal bytes; it needs pairs of digits 0-9 and a-f")]
pub struct HexError(usize);

impl TryFrom<String> for HexBytes {
    type Error = HexError;

    fn try_from(value: String) -> Result<Self, HexError> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = value.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some((nibble(*high)? << 4) | nibble(*low)?))
            .collect();
        bytes
            .filter(|_| rest.is_empty())
            .map(Self)
            .ok_or(HexError(value.len()))
    }
}

/// One file: what its bytes must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Bytes.
    pub length: u64,
    /// The checksum of all bytes.
    pub checksum: ContentHash,
}

/// Why a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// Automatic, owned by the system.
    Checkpoint,
    /// Asked for; the system copies it out once its output is confirmed.
    Savepoint,
    /// The state of an older checkpoint under a new number, by *Going back*.
    Rebased,
    /// The copied-out form: relocatable, canonical, owned by the user.
    Export,
}

/// What a named state looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSchema {
    /// The name of the state inside its operator.
    pub name: String,
    /// Value, list, map, timers, ...: compared as text, never interpreted here.
    pub kind: String,
    /// The fingerprint of the schema.
    pub fingerprint: ContentHash,
    /// The schema as text, for messages and migration.
    pub text: String,
}

/// The bytes of one key group inside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSlice {
    /// The key group.
    pub group: KeyGroup,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// A file of keyed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyedFile {
    /// The file, listed in `files`.
    pub path: RelativePath,
    /// The key groups that the file may hold.
    pub range: KeyGroupRange,
    /// Where each group lies, in order of groups. Empty = the backend's own format covers the whole range.
    pub groups: Vec<GroupSlice>,
    /// The files of a local store that the file speaks of. `None` = all rows lie in the file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreParts>,
}

impl KeyedFile {
    /// The files of a local store that belong to it.
    pub fn parts(&self) -> &[FilePart] {
        self.store.as_ref().map_or(&[], |store| &store.parts)
    }
}

/// The files of a local store, as objects hold them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreParts {
    /// The store that wrote them, as settings name it: only it understands them.
    pub store: String,
    /// The files.
    pub parts: Vec<FilePart>,
}

/// One file of a local store: a slice of an object that may hold others too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePart {
    /// Its name in the directory of the store: no path.
    pub name: String,
    /// Whether the store never changes a file of this name: a later checkpoint may refer to it.
    pub is_immutable: bool,
    /// The object, listed in `files`.
    pub path: RelativePath,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// The checksum of these bytes.
    pub checksum: ContentHash,
}

/// Where the bytes of a piece of operator state are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blob {
    /// In the manifest.
    Inline(HexBytes),
    /// In a file, listed in `files`.
    File {
        /// The file.
        path: RelativePath,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
}

impl Blob {
    /// How many bytes.
    pub const fn length(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.0.len() as u64,
            Self::File { length, .. } => *length,
        }
    }
}

/// How list state is spread over subtasks on restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListMode {
    /// Elements are dealt out.
    Split,
    /// Every subtask gets all elements.
    Union,
    /// Every subtask had the same; each gets one copy.
    Broadcast,
}

/// The list state of one subtask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListState {
    /// The name of the state inside its operator.
    pub name: String,
    /// How it is spread.
    pub mode: ListMode,
    /// The subtask that wrote it.
    pub subtask: SubtaskIndex,
    /// The elements.
    pub elements: Vec<Blob>,
}

/// The state of one operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorState {
    /// Subtasks when the snapshot was taken.
    pub parallelism: Parallelism,
    /// Key groups.
    pub max_parallelism: MaxParallelism,
    /// The key; `None` = not keyed.
    pub key: Option<StateSchema>,
    /// The states, by name.
    pub states: Vec<StateSchema>,
    /// What the operator did with its state: kind and settings that give the state its meaning, such as the size of a
    /// window. Empty = not known.
    #[serde(default)]
    pub form: String,
    /// Keyed state.
    pub keyed: Vec<KeyedFile>,
    /// List state.
    pub lists: Vec<ListState>,
}

impl OperatorState {
    /// Whether there is anything to restore.
    pub fn has_state(&self) -> bool {
        !self.keyed.is_empty() || self.lists.iter().any(|list| !list.elements.is_empty())
    }
}

/// The positions of one source: opaque bytes of its connector.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceState {
    /// The state of the enumerator.
    pub enumerator: HexBytes,
    /// The position of each split.
    pub splits: BTreeMap<String, HexBytes>,
}

/// One part of a sink log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogObject {
    /// The path below the prefix of the job.
    pub path: RelativePath,
    /// What its bytes must be.
    pub file: FileEntry,
    /// How many records it holds.
    pub records: u64,
}

/// The output of one slot in one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotOutput {
    /// Nothing was emitted: confirmed at once.
    Empty,
    /// The log, in order.
    Log(Vec<LogObject>),
}

impl SlotOutput {
    /// Whether the output needs a commit.
    pub const fn is_log(&self) -> bool {
        matches!(self, Self::Log(_))
    }
}

/// Where a sink writes and keeps its markers.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalSink {
    /// The cluster.
    pub cluster: String,
    /// The id of the marker topic: tells it from one that was made anew under the same name.
    pub marker_topic: String,
    /// Where in the cluster the output goes, such as a topic: a logged record does not say it. Empty = not known, or
    /// the cluster names it already.
    #[serde(default)]
    pub output: String,
}

impl ExternalSink {
    /// Whether both keep their markers in the same place, wherever the output goes.
    pub fn has_markers_of(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.marker_topic == other.marker_topic
    }
}

/// The output of one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkState {
    /// Where the output goes.
    pub external: ExternalSink,
    /// A marker offset seen before this manifest was written: no marker of this checkpoint lies before it.
    pub from: u64,
    /// The output of each slot.
    pub slots: BTreeMap<u32, SlotOutput>,
}

/// Bytes of state of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StateBytes {
    /// In objects that it stored.
    pub new: u64,
    /// In objects of older checkpoints that it refers to.
    pub referenced: u64,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    written_by: String,
    /// The job.
    pub identity: JobIdentity,
    /// Its line of checkpoints.
    pub lineage: Lineage,
    /// The checkpoint.
    pub id: CheckpointId,
    /// Why it was taken.
    pub kind: SnapshotKind,
    /// The checkpoint before it; `None` = the first of its lineage, or an export.
    pub parent: Option<ManifestRef>,
    /// The fingerprint of the job graph.
    pub graph: ContentHash,
    /// Whether event time had run to its end before it was taken: every window has fired, and reading on would fire
    /// them again.
    #[serde(default)]
    pub drained: bool,
    /// The savepoint that it was asked for as: the copy of this name is owed until it is there, whoever leads by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    /// The checkpoint that the starts of added sources belong to, if it is not this one: the same through every *Going
    /// back*. `None` in a rebased one of an older format: its parent, see [`crate::source_start::base`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<ManifestName>,
    /// At which parallelism the job goes on from it, if somebody has said so while it ran. Every later checkpoint says it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescaled: Option<Rescaled>,
    key_hash: String,
    /// Every file that the state refers to. Sink logs are listed with their slots.
    pub files: BTreeMap<RelativePath, FileEntry>,
    /// The state of operators.
    pub operators: BTreeMap<OperatorUid, OperatorState>,
    /// The positions of sources.
    pub sources: BTreeMap<OperatorUid, SourceState>,
    /// The output of sinks.
    pub sinks: BTreeMap<OperatorUid, SinkState>,
}

/// What names a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestTitle {
    /// The job.
    pub identity: JobIdentity,
    /// Its line of checkpoints.
    pub lineage: Lineage,
    /// The checkpoint.
    pub id: CheckpointId,
    /// Why it is taken.
    pub kind: SnapshotKind,
    /// The checkpoint before it.
    pub parent: Option<ManifestRef>,
    /// The fingerprint of the job graph.
    pub graph: ContentHash,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not sound.
    #[error("the manifest cannot be read")]
    Seal(#[from] SealError),
    /// The bytes are not those that `head` names.
    #[error("the manifest has hash {found}, head names {expected}; restore the object from a copy")]
    Hash {
        /// The hash of the bytes.
        found: ContentHash,
        /// The hash in `head`.
        expected: ContentHash,
    },
    /// The values contradict each other.
    #[error("the manifest of checkpoint {id} is not sound; it was not written by this system")]
    Unsound {
        /// The checkpoint.
        id: CheckpointId,
        /// What is wrong.
        #[source]
        fault: ManifestFault,
    },
}

impl Classified for ManifestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Seal(error) => error.kind(),
            Self::Hash { .. } | Self::Unsound { .. } => ErrorKind::Corrupt,
        }
    }
}

impl Manifest {
    /// A manifest without content.
    pub fn new(title: ManifestTitle) -> Self {
        Self {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            identity: title.identity,
            lineage: title.lineage,
            id: title.id,
            kind: title.kind,
            parent: title.parent,
            graph: title.graph,
            drained: false,
            savepoint: None,
            starts: None,
            rescaled: None,
            key_hash: KEY_HASH.to_owned(),
            files: BTreeMap::new(),
            operators: BTreeMap::new(),
            sources: BTreeMap::new(),
            sinks: BTreeMap::new(),
        }
    }

    /// Says whom the starts of added sources belong to. What is made of a manifest of an older format has this one then.
    pub fn set_starts(&mut self, starts: Option<ManifestName>) {
        self.starts = starts;
        self.format = FORMAT;
        env!("CARGO_PKG_VERSION").clone_into(&mut self.written_by);
    }

    /// The key hash that spread the keyed state.
    pub fn key_hash(&self) -> &str {
        &self.key_hash
    }

    /// How much state it holds, and how much of that was there already.
    pub fn state_bytes(&self) -> StateBytes {
        let mut bytes = StateBytes::default();
        for (path, file) in &self.files {
            let is_new = ObjectName::parse(path).and_then(|name| name.id()) == Some(self.id);
            let sum = if is_new {
                &mut bytes.new
            } else {
                &mut bytes.referenced
            };
            *sum += file.length;
        }
        bytes
    }

    /// Whether any slot has output that needs a commit.
    pub fn has_output(&self) -> bool {
        self.sinks
            .values()
            .flat_map(|sink| sink.slots.values())
            .any(SlotOutput::is_log)
    }

    /// The bytes and their hash. Equal manifests have equal bytes.
    ///
    /// # Panics
    /// If the manifest is not sound: only sound ones are written.
    pub fn encode(&self) -> (Vec<u8>, ContentHash) {
        if let Err(fault) = check::sound(self) {
            panic!("manifest {} may not be written: {fault}", self.id);
        }
        let bytes = seal(self);
        let hash = ContentHash::of(&bytes);
        (bytes, hash)
    }

    /// Checks without encoding.
    pub fn check(&self) -> Result<(), ManifestFault> {
        check::sound(self)
    }

    /// Reads a manifest that nobody names yet: a savepoint.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = unseal(KIND, bytes)?;
        match check::sound(&manifest) {
            Ok(()) => Ok(manifest),
            Err(fault) => Err(ManifestError::Unsound {
                id: manifest.id,
                fault,
            }),
        }
    }

    /// Reads a manifest that `head` or a child names by hash.
    pub fn decode_named(bytes: &[u8], expected: ContentHash) -> Result<Self, ManifestError> {
        let found = ContentHash::of(bytes);
        if found != expected {
            return Err(ManifestError::Hash { found, expected });
        }
        Self::decode(bytes)
    }
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;
