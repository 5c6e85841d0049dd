//! Restore: which stored rows a subtask takes in, and whether it may read them.
//!
//! Called by the backend before the first record. Everything is checked before it is used: the files are of this operator
//! and cover the own key groups once, every checksum holds, every schema fits. Rows of an older value schema are rewritten
//! on the way in.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::migrate::migrate;
use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{
    Compatibility, DecodeError, KeyGroup, KeyGroupRange, MaxParallelism, OperatorUid,
    ProcessingTime, Schema,
};

use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind};
use crate::error::{StateError, StateName};
use crate::keyed::KeyedState;
use crate::snapshot::rows::{next_row, push_row};
use crate::snapshot::{KeyedSnapshot, StateBlock, StateHeader};

/// Stored states that wait to be opened.
#[derive(Default)]
pub(crate) struct Restored {
    /// By name; one block for each file that has the state.
    blocks: BTreeMap<String, Vec<StateBlock>>,
    /// Opened states that the snapshot did not hold.
    new: Vec<StateDescriptor>,
    /// The last access of values that carry none.
    now: ProcessingTime,
}

impl Restored {
    /// Takes what `range` owns out of `snapshots`, without looking into the rows.
    pub(crate) fn collect(
        uid: &OperatorUid,
        (range, max_parallelism): (KeyGroupRange, MaxParallelism),
        snapshots: Vec<KeyedSnapshot>,
        now: ProcessingTime,
    ) -> Result<Self, StateError> {
        for snapshot in &snapshots {
            if snapshot.uid != *uid {
                return Err(StateError::ForeignOperator {
                    uid: uid.clone(),
                    found: snapshot.uid.clone(),
                });
            }
            if snapshot.max_parallelism != max_parallelism {
                return Err(StateError::MaxParallelism {
                    uid: uid.clone(),
                    stored: snapshot.max_parallelism,
                    declared: max_parallelism,
                });
            }
        }
        check_coverage(uid, range, &snapshots)?;
        let mut blocks: BTreeMap<String, Vec<StateBlock>> = BTreeMap::new();
        for mut state in snapshots.into_iter().flat_map(|snapshot| snapshot.states) {
            state.groups.retain(|block| range.contains(block.group));
            blocks
                .entry(state.header.name.clone())
                .or_default()
                .push(state);
        }
        Ok(Self {
            blocks,
            new: Vec::new(),
            now,
        })
    }

    /// Loads what is stored under the name of `state` into it.
    pub(crate) fn load(
        &mut self,
        uid: &OperatorUid,
        state: &mut dyn KeyedState,
    ) -> Result<(), StateError> {
        let descriptor = state.descriptor().clone();
        let name = StateName {
            uid: uid.clone(),
            state: descriptor.name.clone(),
        };
        let Some(blocks) = self.blocks.get(&descriptor.name) else {
            self.new.push(descriptor);
            return Ok(());
        };
        for block in blocks {
            let compatibility = check_header(&name, &block.header, &descriptor)?;
            let form = StoredForm {
                timed: block.header.timed,
                keeps_time: descriptor.ttl.is_some(),
                now: self.now,
            };
            for group in &block.groups {
                let rows = group.verified(&name)?;
                if compatibility == Compatibility::Migrate {
                    let rows =
                        migrate_rows(rows, &block.header, &descriptor).map_err(|source| {
                            StateError::Decode {
                                what: format!("a row of {name} in key group {}", group.group),
                                source,
                            }
                        })?;
                    state.load(group.group, &rows, &form)?;
                } else {
                    state.load(group.group, rows, &form)?;
                }
            }
        }
        self.blocks.remove(&descriptor.name);
        Ok(())
    }

    /// The raw bytes stored under `name`, by key group.
    pub(crate) fn take_raw(
        &mut self,
        uid: &OperatorUid,
        name: &str,
    ) -> Result<Vec<(KeyGroup, Vec<u8>)>, StateError> {
        let full = StateName {
            uid: uid.clone(),
            state: name.to_owned(),
        };
        let mut groups = Vec::new();
        for block in self.blocks.get(name).into_iter().flatten() {
            if block.header.kind != StateKind::Raw {
                return Err(StateError::Kind {
                    name: full,
                    stored: block.header.kind,
                    declared: StateKind::Raw,
                });
            }
            for group in &block.groups {
                groups.push((group.group, group.verified(&full)?.to_vec()));
            }
        }
        self.blocks.remove(name);
        groups.sort_by_key(|&(group, _)| group);
        Ok(groups)
    }

    /// Fails when stored states were not opened, unless they are in `dropped`, which are forgotten.
    pub(crate) fn finish(
        &mut self,
        uid: &OperatorUid,
        dropped: &BTreeSet<String>,
    ) -> Result<(), StateError> {
        self.blocks.retain(|name, _| !dropped.contains(name));
        if self.blocks.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.blocks.keys().map(|name| format!("`{name}`")).collect();
        Err(StateError::Unmatched {
            uid: uid.clone(),
            names: names.join(", "),
            hint: self.rename_hint(),
        })
    }

    /// The stored states that were not opened, with the rows of each.
    pub(crate) fn unmatched(&self) -> impl Iterator<Item = (&str, u64)> {
        let rows = |block: &StateBlock| block.groups.iter().map(|group| group.count).sum::<u64>();
        let blocks = self.blocks.iter();
        blocks.map(move |(name, blocks)| (name.as_str(), blocks.iter().map(rows).sum()))
    }

    /// Forgets all stored states that were not opened.
    pub(crate) fn drop_unmatched(&mut self) {
        self.blocks.clear();
    }

    /// What was not opened, to go into the next snapshot as it is.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &StateBlock> {
        self.blocks.values().flatten()
    }

    fn rename_hint(&self) -> String {
        let mut hint = String::new();
        for (name, blocks) in &self.blocks {
            let header = blocks.first().map(|block| &block.header);
            let twin = self.new.iter().find(|new| {
                header
                    .is_some_and(|header| header.kind == new.kind && header.schemas == new.schemas)
            });
            if let Some(twin) = twin {
                hint.push_str("; `");
                hint.push_str(&twin.name);
                hint.push_str("` is new and has the shape of `");
                hint.push_str(name);
                hint.push_str("`: it may have been renamed");
            }
        }
        hint
    }
}

/// Checks that every group of `range` is spoken for by exactly one file.
fn check_coverage(
    uid: &OperatorUid,
    range: KeyGroupRange,
    snapshots: &[KeyedSnapshot],
) -> Result<(), StateError> {
    if snapshots.is_empty() {
        return Ok(());
    }
    for group in range.groups() {
        let holders = snapshots
            .iter()
            .filter(|snapshot| snapshot.range.contains(group));
        match holders.count() {
            0 => {
                return Err(StateError::Coverage {
                    uid: uid.clone(),
                    group,
                    range,
                });
            }
            1 => {}
            _ => {
                return Err(StateError::Overlap {
                    uid: uid.clone(),
                    group,
                });
            }
        }
    }
    Ok(())
}

fn check_header(
    name: &StateName,
    stored: &StateHeader,
    declared: &StateDescriptor,
) -> Result<Compatibility, StateError> {
    if stored.kind != declared.kind {
        return Err(StateError::Kind {
            name: name.clone(),
            stored: stored.kind,
            declared: declared.kind,
        });
    }
    let (old, new) = (&stored.schemas, &declared.schemas);
    check_same(name, "key", &old.key, &new.key)?;
    check_same(name, "namespace", &old.namespace, &new.namespace)?;
    if declared.kind == StateKind::Map && old.values.len() == 2 && new.values.len() == 2 {
        check_same(name, "map key", &old.values[0], &new.values[0])?;
    }
    let (Some(old), Some(new)) = (old.values.last(), new.values.last()) else {
        return Ok(Compatibility::Same);
    };
    match new.reads(old) {
        Compatibility::Refused { reason } => Err(StateError::ValueSchema {
            name: name.clone(),
            stored: old.to_string(),
            declared: new.to_string(),
            reason,
        }),
        compatibility => Ok(compatibility),
    }
}

fn check_same(
    name: &StateName,
    part: &'static str,
    stored: &Schema,
    declared: &Schema,
) -> Result<(), StateError> {
    if stored.fingerprint() == declared.fingerprint() {
        return Ok(());
    }
    Err(StateError::KeySchema {
        name: name.clone(),
        part,
        stored: stored.to_string(),
        declared: declared.to_string(),
    })
}

/// Rewrites the values of rows; keys, and so the order, stay.
fn migrate_rows(
    mut rows: &[u8],
    stored: &StateHeader,
    declared: &StateDescriptor,
) -> Result<Vec<u8>, DecodeError> {
    let (mut out, mut value) = (Vec::with_capacity(rows.len()), Vec::new());
    while !rows.is_empty() {
        let (key, old) = next_row(&mut rows)?;
        value.clear();
        migrate_value(old, stored, declared, &mut value)?;
        push_row(key, &value, &mut out);
    }
    Ok(out)
}

fn migrate_value(
    mut old: &[u8],
    stored: &StateHeader,
    declared: &StateDescriptor,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let input = &mut old;
    let parts = match stored.kind {
        StateKind::List | StateKind::Map => {
            let count = decode_length(input)?;
            encode_length(count, out);
            count
        }
        _ => 1,
    };
    for _ in 0..parts {
        if stored.timed {
            out.extend_from_slice(take(input, size_of::<ProcessingTime>(), "last access")?);
        }
        for (old, new) in stored.schemas.values.iter().zip(&declared.schemas.values) {
            migrate(old, new, input, out)?;
        }
    }
    Ok(())
}
