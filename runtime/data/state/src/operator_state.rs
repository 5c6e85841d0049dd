//! Operator state: lists that belong to an operator and to no key, and how a rescale hands them round.
//!
//! The operator keeps its values as it likes; at the barrier it writes them as lists into an [`OperatorSnapshot`], and on
//! restore it takes its share out of an [`OperatorRestore`]. Stored form, version 1:
//!
//! ```text
//! "HWOS"  version u16  uid text  checkpoint u64 + epoch u64  subtask u32  parallelism u32  lists  XXH3-64 of all before
//! list:   name text, redistribution u8, schema, items   (each item: its length and its bytes)
//! ```
//!
//! Source: Flink `OperatorStateStore`, `RoundRobinOperatorStateRepartitioner`.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::key::hash_bytes;
use highwater_types::migrate::migrate;
use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{
    CheckpointId, Compatibility, DecodeError, Epoch, OperatorUid, Parallelism, Record, Schema,
    SubtaskIndex,
};

use crate::error::{StateError, StateName};
use crate::snapshot::schema_bytes::{read_many, read_schema, read_text, write_schema, write_text};

const MAGIC: &[u8; 4] = b"HWOS";
const VERSION: u16 = 1;
const CHECKSUM_BYTES: usize = 8;

/// Who gets which items of a list when the parallelism changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redistribution {
    /// The lists of all subtasks are joined in order of subtask and dealt out one by one.
    Even,
    /// Every subtask gets the lists of all.
    Union,
    /// All subtasks hold the same list; each gets that of one old subtask.
    Broadcast,
}

impl Redistribution {
    const fn code(self) -> u8 {
        match self {
            Self::Even => 1,
            Self::Union => 2,
            Self::Broadcast => 3,
        }
    }

    fn read(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match take(input, 1, "redistribution")?[0] {
            1 => Ok(Self::Even),
            2 => Ok(Self::Union),
            3 => Ok(Self::Broadcast),
            other => Err(DecodeError::Value {
                what: "redistribution",
                value: u64::from(other),
            }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredList {
    redistribution: Redistribution,
    schema: Schema,
    items: Vec<Vec<u8>>,
}

/// The operator state of one subtask at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSnapshot {
    /// The operator.
    pub uid: OperatorUid,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The subtask.
    pub subtask: SubtaskIndex,
    /// How many subtasks there were.
    pub parallelism: Parallelism,
    lists: BTreeMap<String, StoredList>,
}

impl OperatorSnapshot {
    /// A snapshot without lists: also that of a subtask that has finished.
    pub const fn new(
        uid: OperatorUid,
        checkpoint: CheckpointId,
        subtask: SubtaskIndex,
        parallelism: Parallelism,
    ) -> Self {
        Self {
            uid,
            checkpoint,
            subtask,
            parallelism,
            lists: BTreeMap::new(),
        }
    }

    /// Adds a list. The same name replaces the one before.
    pub fn add<T: Record>(&mut self, name: &str, redistribution: Redistribution, items: &[T]) {
        let encode = |item: &T| {
            let mut bytes = Vec::new();
            item.encode(&mut bytes);
            bytes
        };
        let list = StoredList {
            redistribution,
            schema: T::schema(),
            items: items.iter().map(encode).collect(),
        };
        self.lists.insert(name.to_owned(), list);
    }

    /// The bytes of the snapshot. Equal content gives equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        VERSION.encode(&mut out);
        write_text(self.uid.as_str(), &mut out);
        self.checkpoint.number.encode(&mut out);
        self.checkpoint.epoch.0.encode(&mut out);
        self.subtask.0.encode(&mut out);
        self.parallelism.0.encode(&mut out);
        encode_length(self.lists.len() as u64, &mut out);
        for (name, list) in &self.lists {
            write_text(name, &mut out);
            out.push(list.redistribution.code());
            write_schema(&list.schema, &mut out);
            encode_length(list.items.len() as u64, &mut out);
            for item in &list.items {
                encode_length(item.len() as u64, &mut out);
                out.extend_from_slice(item);
            }
        }
        hash_bytes(&out).0.encode(&mut out);
        out
    }

    /// Reads a snapshot back and checks its checksum.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are no such snapshot or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let prefix = MAGIC.len() + size_of::<u16>();
        if bytes.len() < prefix + CHECKSUM_BYTES || &bytes[..MAGIC.len()] != MAGIC {
            return Err(StateError::Format {
                at: "the prefix",
                reason: "it does not begin as an operator snapshot does".to_owned(),
            });
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(StateError::Format {
                at: "the prefix",
                reason: format!("it has version {version}, this program reads version {VERSION}"),
            });
        }
        let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        let decoded = |result: Result<_, DecodeError>| {
            result.map_err(|source| StateError::Decode {
                what: "an operator snapshot".to_owned(),
                source,
            })
        };
        let mut expected = [0; CHECKSUM_BYTES];
        expected.copy_from_slice(checksum);
        let (expected, found) = (u64::from_le_bytes(expected), hash_bytes(body).0);
        if expected != found {
            return Err(StateError::Checksum {
                what: "an operator snapshot".to_owned(),
                expected,
                found,
            });
        }
        decoded(Self::read(&mut &body[prefix..]))
    }

    fn read(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let uid = OperatorUid::parse(&read_text(input)?).map_err(|_| DecodeError::Value {
            what: "operator uid",
            value: 0,
        })?;
        let checkpoint = CheckpointId {
            number: u64::decode(input)?,
            epoch: Epoch(u64::decode(input)?),
        };
        let subtask = SubtaskIndex(u32::decode(input)?);
        let parallelism = Parallelism(u32::decode(input)?);
        let lists = read_many(input, |input| {
            let name = read_text(input)?;
            let list = StoredList {
                redistribution: Redistribution::read(input)?,
                schema: read_schema(input)?,
                items: read_many(input, |input| {
                    let length = decode_length(input)? as usize;
                    Ok(take(input, length, "list item")?.to_vec())
                })?,
            };
            Ok((name, list))
        })?;
        Ok(Self {
            uid,
            checkpoint,
            subtask,
            parallelism,
            lists: lists.into_iter().collect(),
        })
    }
}

/// The share of one subtask in the operator state of a checkpoint.
#[derive(Clone, Debug)]
pub struct OperatorRestore {
    uid: OperatorUid,
    lists: BTreeMap<String, StoredList>,
}

impl OperatorRestore {
    /// The share of subtask `index` of `parallelism`, from the snapshots of all old subtasks; none at all = a new operator.
    ///
    /// # Errors
    /// `Bug` when a snapshot is of another operator; `Corrupt` when one is missing or there twice.
    pub fn redistribute(
        uid: &OperatorUid,
        snapshots: &[OperatorSnapshot],
        index: SubtaskIndex,
        parallelism: Parallelism,
    ) -> Result<Self, StateError> {
        let mut old: Vec<_> = snapshots.iter().collect();
        old.sort_by_key(|snapshot| snapshot.subtask);
        check_complete(uid, &old)?;
        let names: BTreeSet<_> = old
            .iter()
            .flat_map(|snapshot| snapshot.lists.keys())
            .collect();
        let mut lists = BTreeMap::new();
        for name in names {
            let held: Vec<_> = old
                .iter()
                .map(|snapshot| snapshot.lists.get(name))
                .collect();
            if let Some(list) = share(&held, index, parallelism) {
                lists.insert(name.clone(), list);
            }
        }
        Ok(Self {
            uid: uid.clone(),
            lists,
        })
    }

    /// Takes the own share of a list; none when nothing is stored under the name.
    ///
    /// # Errors
    /// `Invalid` when the stored schema cannot be read, `Corrupt` when an item cannot be decoded.
    pub fn take<T: Record>(&mut self, name: &str) -> Result<Vec<T>, StateError> {
        let Some(list) = self.lists.remove(name) else {
            return Ok(Vec::new());
        };
        let (stored, declared) = (&list.schema, T::schema());
        let compatibility = declared.reads(stored);
        if let Compatibility::Refused { reason } = compatibility {
            return Err(StateError::ValueSchema {
                name: self.name(name),
                stored: stored.to_string(),
                declared: declared.to_string(),
                reason,
            });
        }
        let decode = |item: &Vec<u8>| {
            let mut migrated = Vec::new();
            let mut input = item.as_slice();
            if compatibility == Compatibility::Migrate {
                migrate(stored, &declared, &mut input, &mut migrated)?;
                input = migrated.as_slice();
            }
            T::decode(&mut input)
        };
        let items: Result<_, _> = list.items.iter().map(decode).collect();
        items.map_err(|source| StateError::Decode {
            what: format!("an item of {}", self.name(name)),
            source,
        })
    }

    /// Ends the restore.
    ///
    /// # Errors
    /// `Invalid`, with the names, when lists were not taken and are not in `dropped`.
    pub fn finish(mut self, dropped: &BTreeSet<String>) -> Result<(), StateError> {
        self.lists.retain(|name, _| !dropped.contains(name));
        if self.lists.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.lists.keys().map(|name| format!("`{name}`")).collect();
        Err(StateError::Unmatched {
            uid: self.uid,
            names: names.join(", "),
            hint: String::new(),
        })
    }

    fn name(&self, list: &str) -> StateName {
        StateName {
            uid: self.uid.clone(),
            state: list.to_owned(),
        }
    }
}

/// The share of one subtask in one list, whose old parts are in order of subtask.
fn share(
    parts: &[Option<&StoredList>],
    index: SubtaskIndex,
    parallelism: Parallelism,
) -> Option<StoredList> {
    let first = parts.iter().flatten().next()?;
    let joined = || {
        parts
            .iter()
            .flatten()
            .flat_map(|list| list.items.iter().cloned())
    };
    let (index, count) = (index.0 as usize, parallelism.0.max(1) as usize);
    let items = match first.redistribution {
        Redistribution::Even => joined().skip(index).step_by(count).collect(),
        Redistribution::Union => joined().collect(),
        Redistribution::Broadcast => {
            let holders: Vec<_> = parts.iter().flatten().collect();
            holders[index % holders.len()].items.clone()
        }
    };
    Some(StoredList {
        redistribution: first.redistribution,
        schema: first.schema.clone(),
        items,
    })
}

/// Checks that every old subtask is there once; `old` is in order of subtask.
fn check_complete(uid: &OperatorUid, old: &[&OperatorSnapshot]) -> Result<(), StateError> {
    let Some(parallelism) = old.first().map(|snapshot| snapshot.parallelism) else {
        return Ok(());
    };
    if let Some(foreign) = old.iter().find(|snapshot| snapshot.uid != *uid) {
        return Err(StateError::ForeignOperator {
            uid: uid.clone(),
            found: foreign.uid.clone(),
        });
    }
    let expected = (0..parallelism.0).map(SubtaskIndex);
    let found = old.iter().map(|snapshot| snapshot.subtask);
    if expected.eq(found) {
        return Ok(());
    }
    let is_there = |index: &SubtaskIndex| old.iter().any(|snapshot| snapshot.subtask == *index);
    let missing = (0..parallelism.0)
        .map(SubtaskIndex)
        .find(|index| !is_there(index));
    Err(StateError::Subtasks {
        uid: uid.clone(),
        parallelism,
        found: old.len(),
        missing,
    })
}

#[cfg(test)]
mod tests;
