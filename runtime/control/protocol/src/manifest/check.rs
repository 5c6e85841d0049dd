//! The soundness of a manifest: closed under reference, inside its bounds.
//!
//! Called when a manifest is encoded and when one is decoded. Linear in the size of the manifest; allocates nothing
//! that grows with a number in it.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{CheckpointId, JobIdentity, MaxParallelism, OperatorUid, Parallelism};

use super::{
    Blob, FileEntry, KEY_HASH, KeyedFile, Manifest, OperatorState, SinkState, SlotOutput,
    SnapshotKind, StoreParts,
};
use crate::paths::{ManifestName, ObjectName, RelativePath};

/// The longest name of a local file.
const LOCAL_NAME_BYTES_MAX: usize = 200;

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// A name is not one that the engine accepts.
    #[error("the name `{0}` is not allowed")]
    Name(String),
    /// State was spread by another hash.
    #[error("keys are spread by `{0}`, this version knows {KEY_HASH} only")]
    KeyHash(String),
    /// A state refers to a file that is not listed.
    #[error("file {0} is used but not listed")]
    Unlisted(RelativePath),
    /// A slice does not fit into its file.
    #[error("bytes {offset}+{length} are outside of file {path}")]
    Range {
        /// The file.
        path: RelativePath,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The lengths of all files do not fit a number.
    #[error("the files are longer than a store can hold")]
    TotalLength,
    /// Key groups are out of range, out of order or double.
    #[error("operator {uid} has wrong key groups in file {path}")]
    KeyGroups {
        /// The operator.
        uid: OperatorUid,
        /// The file.
        path: RelativePath,
    },
    /// The name of a store or of one of its files is not plain, or two files have it.
    #[error(
        "file {path} of operator {uid} has a local file with the name `{name}`, which is not plain or double"
    )]
    LocalName {
        /// The operator.
        uid: OperatorUid,
        /// The file.
        path: RelativePath,
        /// The name.
        name: String,
    },
    /// A parallelism is zero or larger than the number of key groups.
    #[error("operator {uid} has parallelism {parallelism}, allowed are 1 to {max}")]
    Parallelism {
        /// The operator.
        uid: OperatorUid,
        /// The parallelism.
        parallelism: u32,
        /// The number of key groups.
        max: u32,
    },
    /// The parallelism that the job is to go on at is zero or larger than the number of key groups.
    #[error("operator {uid} is rescaled to parallelism {parallelism}, allowed are 1 to {max}")]
    Rescaled {
        /// The operator.
        uid: OperatorUid,
        /// The parallelism.
        parallelism: u32,
        /// The number of key groups.
        max: u32,
    },
    /// A log is empty or belongs to another try.
    #[error("the log of sink {sink} slot {slot} is empty or not of this checkpoint")]
    Log {
        /// The sink.
        sink: OperatorUid,
        /// The slot.
        slot: u32,
    },
    /// The parent is not older, or there is none although the number is not 0.
    #[error("the parent of checkpoint {0} is not older than it")]
    Parent(CheckpointId),
    /// Only what came back by *Going back* has starts that belong to another checkpoint, and that one is older.
    #[error("the starts of sources of checkpoint {0} belong to one that is not older than it")]
    Starts(CheckpointId),
}

pub(super) fn sound(manifest: &Manifest) -> Result<(), ManifestFault> {
    names(manifest)?;
    if manifest.key_hash != KEY_HASH {
        return Err(ManifestFault::KeyHash(
            manifest.key_hash.chars().take(40).collect(),
        ));
    }
    if manifest
        .parent
        .is_some_and(|parent| parent.name.number >= manifest.id.number)
    {
        return Err(ManifestFault::Parent(manifest.id));
    }
    let of_older = |name: ManifestName| {
        manifest.kind == SnapshotKind::Rebased && name.number < manifest.id.number
    };
    if !manifest.starts.is_none_or(of_older) {
        return Err(ManifestFault::Starts(manifest.id));
    }
    let add = |sum: u64, file: &FileEntry| sum.checked_add(file.length);
    manifest
        .files
        .values()
        .try_fold(0, add)
        .ok_or(ManifestFault::TotalLength)?;
    for (uid, operator) in &manifest.operators {
        operator_sound(uid, operator, &manifest.files)?;
    }
    rescaled_sound(manifest)?;
    for (sink, state) in &manifest.sinks {
        sink_sound(manifest.id, sink, state)?;
    }
    Ok(())
}

fn names(manifest: &Manifest) -> Result<(), ManifestFault> {
    let refuse = |name: &str| ManifestFault::Name(name.chars().take(80).collect());
    let identity = manifest.identity.as_str();
    JobIdentity::parse(identity).map_err(|_| refuse(identity))?;
    if let Some(savepoint) = &manifest.savepoint {
        // The rules of names are those of identities.
        JobIdentity::parse(savepoint).map_err(|_| refuse(savepoint))?;
    }
    let rescaled = manifest.rescaled.iter();
    let rescaled = rescaled.flat_map(|of| of.configured.keys().chain(of.to.keys()));
    let uids = manifest
        .operators
        .keys()
        .chain(manifest.sources.keys())
        .chain(manifest.sinks.keys())
        .chain(rescaled);
    for uid in uids {
        OperatorUid::parse(uid.as_str()).map_err(|_| refuse(uid.as_str()))?;
    }
    Ok(())
}

/// Sources have no entry of their own here: what no operator may have, they may not either.
fn rescaled_sound(manifest: &Manifest) -> Result<(), ManifestFault> {
    let Some(rescaled) = &manifest.rescaled else {
        return Ok(());
    };
    for (uid, &Parallelism(parallelism)) in &rescaled.to {
        let max = manifest
            .operators
            .get(uid)
            .map_or(MaxParallelism::LIMIT, |of| of.max_parallelism.get());
        if !(1..=max).contains(&parallelism) {
            return Err(ManifestFault::Rescaled {
                uid: uid.clone(),
                parallelism,
                max,
            });
        }
    }
    Ok(())
}

type Files = BTreeMap<RelativePath, FileEntry>;

fn operator_sound(
    uid: &OperatorUid,
    operator: &OperatorState,
    files: &Files,
) -> Result<(), ManifestFault> {
    let max = operator.max_parallelism.get();
    let parallelism = operator.parallelism.0;
    let counted = max > 0 && max <= MaxParallelism::LIMIT && (1..=max).contains(&parallelism);
    if !counted {
        return Err(ManifestFault::Parallelism {
            uid: uid.clone(),
            parallelism,
            max,
        });
    }
    for keyed in &operator.keyed {
        keyed_sound(uid, max, keyed, files)?;
    }
    for blob in operator.lists.iter().flat_map(|list| &list.elements) {
        if let Blob::File {
            path,
            offset,
            length,
        } = blob
        {
            slice(files, path, *offset, *length)?;
        }
    }
    Ok(())
}

fn keyed_sound(
    uid: &OperatorUid,
    max: u32,
    keyed: &KeyedFile,
    files: &Files,
) -> Result<(), ManifestFault> {
    let KeyedFile {
        path,
        range,
        groups,
        store,
    } = keyed;
    let ordered = groups.windows(2).all(|pair| pair[0].group < pair[1].group);
    let inside = groups.iter().all(|slice| range.contains(slice.group));
    let ranged = range.start < range.end && u32::from(range.end) <= max;
    if !(ordered && inside && ranged) {
        return Err(ManifestFault::KeyGroups {
            uid: uid.clone(),
            path: path.clone(),
        });
    }
    slice(files, path, 0, 0)?;
    groups
        .iter()
        .try_for_each(|group| slice(files, path, group.offset, group.length))?;
    store
        .iter()
        .try_for_each(|store| store_sound(uid, path, store, files))
}

fn store_sound(
    uid: &OperatorUid,
    path: &RelativePath,
    store: &StoreParts,
    files: &Files,
) -> Result<(), ManifestFault> {
    let refuse = |name: &str| ManifestFault::LocalName {
        uid: uid.clone(),
        path: path.clone(),
        name: name.chars().take(80).collect(),
    };
    if !is_plain_name(&store.store) {
        return Err(refuse(&store.store));
    }
    let mut names = BTreeSet::new();
    for part in &store.parts {
        if !is_plain_name(&part.name) || !names.insert(&part.name) {
            return Err(refuse(&part.name));
        }
        slice(files, &part.path, part.offset, part.length)?;
    }
    Ok(())
}

/// Whether a file of this name lies in the directory that it is joined to, on every system.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=LOCAL_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().any(|byte| byte != b'.')
}

fn slice(
    files: &Files,
    path: &RelativePath,
    offset: u64,
    length: u64,
) -> Result<(), ManifestFault> {
    let Some(file) = files.get(path) else {
        return Err(ManifestFault::Unlisted(path.clone()));
    };
    let inside = offset
        .checked_add(length)
        .is_some_and(|end| end <= file.length);
    if inside {
        Ok(())
    } else {
        Err(ManifestFault::Range {
            path: path.clone(),
            offset,
            length,
        })
    }
}

fn sink_sound(
    id: CheckpointId,
    sink: &OperatorUid,
    state: &SinkState,
) -> Result<(), ManifestFault> {
    for (&slot, output) in &state.slots {
        let SlotOutput::Log(parts) = output else {
            continue;
        };
        let own = |path: &RelativePath| {
            let log = ObjectName::SinkLog {
                epoch: id.epoch,
                number: id.number,
            };
            ObjectName::parse(path) == Some(log)
        };
        if parts.is_empty() || !parts.iter().all(|part| own(&part.path)) {
            return Err(ManifestFault::Log {
                sink: sink.clone(),
                slot,
            });
        }
    }
    Ok(())
}
