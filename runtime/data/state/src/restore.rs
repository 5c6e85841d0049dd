//! Restore: which stored rows a subtask takes in, and whether it may read them.
//!
//! Called by the backend before the first record. Everything is checked before it is used: the files are of this operator
//! and cover the own key groups once, every checksum holds, every schema fits. Rows of an older value schema are rewritten
//! on the way in.
//!
//! The own store goes on from the files of one snapshot, whatever the parallelism was: of those that a store of its kind wrote, the
//! one with most of the own key groups. The rows of others in it go when it is opened; those of the other own key groups are
//! read from their files and written into it. The rule: what is taken in says of which key groups it is, and no two overlap.
//! So it does not matter in which order the rows of a state come.

mod loader;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{
    Compatibility, KeyGroup, KeyGroupRange, MaxParallelism, OperatorUid, ProcessingTime, Schema,
};

use self::loader::{Loader, blocks_of};

use crate::backing::Backing;
use crate::cell::StoredForm;
use crate::descriptor::{StateDescriptor, StateKind};
use crate::error::{StateError, StateName};
use crate::keyed::KeyedState;
use crate::snapshot::{
    GroupBlock, KeyedSnapshot, RowOrder, RowsPlace, SavedRows, SealedInStore, StateHeader,
    UnsealedState,
};
use crate::store::{FrozenStore, StoreFactory, StoreFiles};

/// A snapshot of the checkpoint that is restored, with the files of its store where it has one.
pub struct RestoredSnapshot {
    /// The snapshot.
    pub snapshot: KeyedSnapshot,
    /// Verified files in which rows of it lie.
    pub files: Option<StoreFiles>,
}

impl From<KeyedSnapshot> for RestoredSnapshot {
    fn from(snapshot: KeyedSnapshot) -> Self {
        Self {
            snapshot,
            files: None,
        }
    }
}

impl From<SealedInStore> for RestoredSnapshot {
    fn from(sealed: SealedInStore) -> Self {
        Self {
            snapshot: sealed.head,
            files: Some(sealed.files),
        }
    }
}

/// Where the rows of a stored state are.
enum StoredRows {
    /// In the snapshot.
    Groups(Vec<GroupBlock>),
    /// In a store that is only read: which, the key groups to take, and their order.
    Frozen(usize, KeyGroupRange, RowOrder),
    /// In the own store, which went on from the files: those of these key groups, in this order.
    Own(KeyGroupRange, RowOrder),
}

/// Where the rows of a snapshot are that lie in the files of a store.
#[derive(Clone, Copy)]
enum Files {
    /// There are no files.
    None,
    /// The own store goes on from them.
    Own,
    /// They are only read: by which reader.
    Read(usize),
}

/// The files from which the own store goes on.
pub(crate) struct OwnFiles {
    pub(crate) files: StoreFiles,
    /// The key groups of their rows.
    pub(crate) held: KeyGroupRange,
}

/// One stored state of one file.
struct Stored {
    header: StateHeader,
    rows: StoredRows,
}

/// Stored states that wait to be opened.
#[derive(Default)]
pub(crate) struct Restored {
    /// By name; one for each file that has the state.
    blocks: BTreeMap<String, Vec<Stored>>,
    /// The stores of other key groups, or of another backend.
    readers: Vec<Box<dyn FrozenStore>>,
    /// Opened states that the snapshot did not hold.
    new: Vec<StateDescriptor>,
    /// The last access of values that carry none.
    now: ProcessingTime,
}

/// What the own store does when a state is opened: see [`Restored::load`].
pub(crate) trait OwnRows {
    /// The rows of the state `name` as they are in the own store.
    fn open(&mut self) -> Result<Box<dyn Backing>, StateError>;

    /// Removes them.
    fn remove(&mut self) -> Result<(), StateError>;
}

impl Restored {
    /// Takes what `range` owns out of `snapshots`, without looking into the rows. Returns also the files from which the own
    /// store goes on, if there are any that the store `own` wrote.
    pub(crate) fn collect(
        uid: &OperatorUid,
        (range, max_parallelism): (KeyGroupRange, MaxParallelism),
        snapshots: Vec<RestoredSnapshot>,
        (factory, own): (Option<&dyn StoreFactory>, Option<&str>),
        now: ProcessingTime,
    ) -> Result<(Self, Option<OwnFiles>), StateError> {
        check_operator(uid, max_parallelism, &snapshots)?;
        check_coverage(uid, range, &snapshots)?;
        let mut restored = Self {
            now,
            ..Self::default()
        };
        let goes_on = own.and_then(|own| to_go_on_from(range, &snapshots, own));
        let mut own_files = None;
        for (at, RestoredSnapshot { snapshot, files }) in snapshots.into_iter().enumerate() {
            let held = snapshot.range;
            if !held.intersects(range) {
                continue;
            }
            let files = match files {
                Some(files) if goes_on == Some(at) => {
                    own_files = Some(OwnFiles { files, held });
                    Files::Own
                }
                Some(files) => Files::Read(restored.read(uid, factory, files)?),
                None => Files::None,
            };
            let taken = held.intersection(range);
            for state in snapshot.states {
                let rows = rows_of(
                    uid,
                    &state.header.name,
                    (state.place, state.groups),
                    (files, taken),
                )?;
                let name = state.header.name.clone();
                let stored = Stored {
                    header: state.header,
                    rows,
                };
                restored.blocks.entry(name).or_default().push(stored);
            }
        }
        Ok((restored, own_files))
    }

    fn read(
        &mut self,
        uid: &OperatorUid,
        factory: Option<&dyn StoreFactory>,
        files: StoreFiles,
    ) -> Result<usize, StateError> {
        let Some(factory) = factory.filter(|factory| factory.name() == files.store) else {
            return Err(StateError::UnknownStore {
                uid: uid.clone(),
                store: files.store,
            });
        };
        let reader = factory.read(files).map_err(|source| StateError::Store {
            uid: uid.clone(),
            operation: "read the files of",
            kind: source.kind(),
            source,
        })?;
        self.readers.push(reader);
        Ok(self.readers.len() - 1)
    }

    /// Loads what is stored under the name of `state` into it. `own` gives access to its rows in the own store.
    pub(crate) fn load(
        &mut self,
        uid: &OperatorUid,
        state: &mut dyn KeyedState,
        own: &mut dyn OwnRows,
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
        for Stored { header, rows } in blocks {
            let compatibility = check_header(&name, header, &descriptor)?;
            let mut loader = Loader {
                name: &name,
                header,
                descriptor: &descriptor,
                migrates: compatibility == Compatibility::Migrate,
                form: StoredForm {
                    timed: header.timed,
                    keeps_time: descriptor.ttl.is_some(),
                    now: self.now,
                },
                state: &mut *state,
            };
            match rows {
                StoredRows::Groups(groups) => {
                    for group in groups {
                        loader.load(group.group, &group.verified(&name)?)?;
                    }
                }
                StoredRows::Frozen(reader, groups, order) => {
                    let reader = self.readers[*reader].as_mut();
                    loader.load_frozen(reader, *groups, *order)?;
                }
                StoredRows::Own(groups, order) => loader.load_own(own, *groups, *order)?,
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
        for Stored { header, rows } in self.blocks.get(name).into_iter().flatten() {
            let StoredRows::Groups(blocks) = rows else {
                return Err(kind_of(full, header.kind));
            };
            if header.kind != StateKind::Raw {
                return Err(kind_of(full, header.kind));
            }
            for group in blocks {
                groups.push((group.group, group.verified(&full)?.into_owned()));
            }
        }
        self.blocks.remove(name);
        groups.sort_by_key(|&(group, _)| group);
        Ok(groups)
    }

    /// Fails when stored states were not opened, unless they are in `dropped`, which are forgotten. Returns the names of
    /// those of them that lie in the own store.
    pub(crate) fn finish(
        &mut self,
        uid: &OperatorUid,
        dropped: &BTreeSet<String>,
    ) -> Result<Vec<String>, StateError> {
        let kept = self.blocks.keys().filter(|name| !dropped.contains(*name));
        let names: Vec<_> = kept.map(|name| format!("`{name}`")).collect();
        if names.is_empty() {
            return Ok(self.drop_unmatched());
        }
        self.blocks.retain(|name, _| !dropped.contains(name));
        Err(StateError::Unmatched {
            uid: uid.clone(),
            names: names.join(", "),
            hint: self.rename_hint(),
        })
    }

    /// The stored states that were not opened, with the rows of each where that is known without reading them.
    pub(crate) fn unmatched(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        let rows = |stored: &Stored| match &stored.rows {
            StoredRows::Groups(groups) => Some(groups.iter().map(|group| group.count).sum::<u64>()),
            StoredRows::Frozen(..) | StoredRows::Own(..) => None,
        };
        let blocks = self.blocks.iter();
        blocks.map(move |(name, blocks)| (name.as_str(), blocks.iter().map(rows).sum()))
    }

    /// Forgets all stored states that were not opened. Returns the names of those in the own store.
    pub(crate) fn drop_unmatched(&mut self) -> Vec<String> {
        self.readers.clear();
        let dropped = std::mem::take(&mut self.blocks).into_iter();
        let is_own = |blocks: &[Stored]| {
            let mut rows = blocks.iter().map(|stored| &stored.rows);
            rows.any(|rows| matches!(rows, StoredRows::Own(..)))
        };
        let own = dropped.filter(|(_, blocks)| is_own(blocks));
        own.map(|(name, _)| name).collect()
    }

    /// Whether the snapshot holds a state of this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.blocks.contains_key(name)
    }

    /// Whether rows of a state that was not opened lie in the own store.
    pub(crate) fn holds_own(&self) -> bool {
        let mut all = self.blocks.values().flatten();
        all.any(|stored| matches!(stored.rows, StoredRows::Own(..)))
    }

    /// Keeps what was not opened for the snapshots to come: rows that lie elsewhere come into memory.
    pub(crate) fn keep_unmatched(&mut self, uid: &OperatorUid) -> Result<(), StateError> {
        for (name, stored) in &mut self.blocks {
            let name = StateName {
                uid: uid.clone(),
                state: name.clone(),
            };
            for Stored { rows, .. } in stored {
                let groups = match rows {
                    StoredRows::Own(..) => continue,
                    StoredRows::Groups(groups) => {
                        let held = groups.iter().map(|group| group.in_memory(&name));
                        held.collect::<Result<Vec<_>, _>>()?
                    }
                    StoredRows::Frozen(reader, groups, order) => {
                        blocks_of(&name, self.readers[*reader].as_mut(), *groups, *order)?
                    }
                };
                *rows = StoredRows::Groups(groups);
            }
        }
        self.readers.clear();
        Ok(())
    }

    /// What was not opened, to go into the next snapshot as it is.
    pub(crate) fn carried(&self) -> Vec<UnsealedState> {
        let all = self.blocks.values().flatten();
        let carried = all.map(|Stored { header, rows }| UnsealedState {
            header: header.clone(),
            rows: match rows {
                StoredRows::Groups(groups) => SavedRows::Blocks(groups.clone()),
                StoredRows::Own(_, order) => SavedRows::InStore(*order, None),
                StoredRows::Frozen(..) => {
                    unreachable!("the end of a restore drops them or brings them into memory")
                }
            },
        });
        carried.collect()
    }

    fn rename_hint(&self) -> String {
        let mut hint = String::new();
        for (name, blocks) in &self.blocks {
            let header = blocks.first().map(|stored| &stored.header);
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

/// The snapshot from whose files the store `own` goes on: of those that it wrote, the one with most of the groups of `range`,
/// the first of equals.
fn to_go_on_from(range: KeyGroupRange, snapshots: &[RestoredSnapshot], own: &str) -> Option<usize> {
    let written = snapshots.iter().enumerate().filter(|(_, restored)| {
        let files = restored.files.as_ref();
        files.is_some_and(|files| files.store == own) && restored.snapshot.range.intersects(range)
    });
    let taken = |restored: &RestoredSnapshot| restored.snapshot.range.intersection(range).len();
    let most = written.min_by_key(|(_, restored)| Reverse(taken(restored)));
    most.map(|(at, _)| at)
}

/// Where the rows of one state are, of which the key groups `taken` are wanted.
fn rows_of(
    uid: &OperatorUid,
    state: &str,
    (place, mut groups): (RowsPlace, Vec<GroupBlock>),
    (files, taken): (Files, KeyGroupRange),
) -> Result<StoredRows, StateError> {
    match (place, files) {
        (RowsPlace::Here, _) => {
            groups.retain(|block| taken.contains(block.group));
            Ok(StoredRows::Groups(groups))
        }
        (RowsPlace::InStore(order), Files::Read(reader)) => {
            Ok(StoredRows::Frozen(reader, taken, order))
        }
        (RowsPlace::InStore(order), Files::Own) => Ok(StoredRows::Own(taken, order)),
        (RowsPlace::InStore(_), Files::None) => Err(StateError::Format {
            at: "the states",
            reason: format!(
                "the rows of state `{state}` of operator `{uid}` lie in the files of a store, and none came with it"
            ),
        }),
    }
}

/// Checks that every snapshot is of this operator, with as many key groups.
fn check_operator(
    uid: &OperatorUid,
    max_parallelism: MaxParallelism,
    snapshots: &[RestoredSnapshot],
) -> Result<(), StateError> {
    for RestoredSnapshot { snapshot, .. } in snapshots {
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
    Ok(())
}

/// Checks that every group of `range` is spoken for by exactly one file.
fn check_coverage(
    uid: &OperatorUid,
    range: KeyGroupRange,
    snapshots: &[RestoredSnapshot],
) -> Result<(), StateError> {
    if snapshots.is_empty() {
        return Ok(());
    }
    for group in range.groups() {
        let holders = snapshots
            .iter()
            .filter(|restored| restored.snapshot.range.contains(group));
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

const fn kind_of(name: StateName, stored: StateKind) -> StateError {
    StateError::Kind {
        name,
        stored,
        declared: StateKind::Raw,
    }
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
