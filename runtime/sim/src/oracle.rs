//! The oracles: what must be true from outside, whatever the machines believe.
//!
//! Fed by the world with every change of `head`, every decided commit and what processes say that they have done, and asked at the end.
//! O1 ledger, O5 visibility, O6 single writer, O7 restorable digest, O8 hygiene, O14 width; O4 lives in the job, O9 in the run.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::gc::{Gc, GcEffect, GcEvent, Reach, Retention};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::head::{Head, JobEnd, ManifestRef};
use highwater_protocol::manifest::{Manifest, SlotOutput, SnapshotKind};
use highwater_protocol::paths::{ObjectName, RelativePath, manifest as manifest_path};
use highwater_protocol::sink_slot::MarkerKind;

use highwater_types::{CheckpointId, Epoch};

use crate::codec::{decode_group, decode_position};
use crate::coordinator::export::target_of;
use crate::job::{object, paths, uid};
use crate::kafka::{SimKafka, Value};
use crate::node::{Fact, Restored};
use crate::store::{SimStore, StoreAnswer, StoreOp};
use crate::task::local::file_of;
use crate::workload::{KeyState, Workload, key_group, owner};

mod rescale;

use rescale::Rescales;

type Positions = BTreeMap<u32, u64>;

#[derive(Default)]
pub(crate) struct Oracle {
    start: Option<Positions>,
    head: Option<Head>,
    /// The ends of the job that `head` has said.
    ended: BTreeMap<Epoch, JobEnd>,
    completed: Positions,
    /// What the positions of each checkpoint mean.
    states: BTreeMap<CheckpointId, BTreeMap<u32, KeyState>>,
    rescales: Rescales,
    visible: BTreeSet<Value>,
    /// Objects that rotted: a checkpoint may name them again before anybody reads them.
    pub(crate) rotten: BTreeSet<String>,
    pub(crate) checkpoints: u64,
    /// Completed checkpoints that refer to files of older ones.
    pub(crate) sharing: u64,
    /// How many checkpoints are kept.
    retained: u32,
    /// What was visible whenever the job had stopped with everything confirmed.
    stops: BTreeMap<CheckpointId, BTreeSet<Value>>,
    /// Savepoints that were not there when `head` went on from the checkpoint that was taken for them.
    owed_missing: BTreeSet<String>,
    /// The return to a savepoint: what was visible when it was taken first, and where the partitions ended at the return.
    back: Option<(BTreeSet<Value>, Vec<u64>)>,
    pub(crate) violations: Vec<String>,
}

impl Oracle {
    pub(crate) fn new(retained: u32) -> Self {
        Self {
            retained,
            ..Self::default()
        }
    }

    fn violate(&mut self, text: String) {
        if self.violations.len() < 8 {
            self.violations.push(text);
        }
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// `head` has changed in the store (O6), perhaps to another checkpoint (O7).
    pub(crate) fn head_landed(
        &mut self,
        bytes: &[u8],
        (store, ends): (&SimStore, Vec<u64>),
        workload: &Workload,
    ) {
        let Ok(head) = Head::decode(bytes) else {
            return self.violate("O6: head cannot be read".to_owned());
        };
        let before = self.head.replace(head.clone());
        if let Some(before) = &before
            && let Err(fault) = head.follows(before)
        {
            self.violate(format!(
                "O6: head {} to {}: {fault}",
                before.number, head.number
            ));
        }
        if let Some(end) = head.ended {
            self.ended.insert(head.epoch, end);
        }
        if before.as_ref().map(|before| &before.origin) != Some(&head.origin) {
            self.went_back(&head, ends);
        }
        self.kept_files(&head, store);
        let left = before.as_ref().map(|before| before.manifest);
        if left != Some(head.manifest) {
            self.checkpoints += 1;
            self.says(&head, left, store);
            match restorable(&head, store) {
                Ok((manifest, states)) => {
                    let is_sharing = manifest.kind != SnapshotKind::Rebased
                        && manifest.state_bytes().referenced > 0;
                    self.sharing += u64::from(is_sharing);
                    // Going back gives up what it leaves.
                    if manifest.kind != SnapshotKind::Rebased {
                        self.owed_missing
                            .extend(left.and_then(|left| owed(left, store)));
                    }
                    self.compare(&manifest, &states, workload);
                }
                Err(fault) if self.is_rot(&head, store) => drop(fault),
                Err(fault) => self.violate(format!("O7: checkpoint {}: {fault}", head.number)),
            }
        }
    }

    /// What a checkpoint that has come into `head` says of how wide the job runs (O14).
    fn says(&mut self, head: &Head, left: Option<ManifestRef>, store: &SimStore) {
        let Some(manifest) = manifest_of(head.manifest, store) else {
            return;
        };
        let left = left.map(|left| left.name.id());
        if let Err(fault) = self.rescales.landed(&manifest, left) {
            self.violate(fault);
        }
    }

    /// A process has done something that concerns how wide the job runs (O14), or goes on with what a checkpoint has (O7).
    pub(crate) fn hears(&mut self, fact: Fact) {
        let heard = match fact {
            Fact::Leader(epoch, act) => self.rescales.hears(epoch, act, self.head.as_ref()),
            Fact::Restored(restored) => self.restored(*restored),
        };
        if let Err(fault) = heard {
            self.violate(fault);
        }
    }

    /// A task has the keys that it owns at its parallelism, each as the checkpoint means it.
    fn restored(&self, restored: Restored) -> Result<(), String> {
        let Restored {
            from,
            subtask,
            parallelism,
            states: mut found,
        } = restored;
        let Some(known) = self.states.get(&from) else {
            return Ok(());
        };
        clear_timers(&mut found);
        let is_own = |key: u32| owner(key, parallelism) == subtask;
        let wanted = known.iter().filter(|(key, _)| is_own(**key));
        if found.iter().eq(wanted) {
            return Ok(());
        }
        let (keys, all) = (found.len(), known.len());
        Err(format!(
            "O7: task {subtask} of {parallelism} goes on from checkpoint {from} with {keys} of {all} \
             keys, and they are not those that it owns, as they were"
        ))
    }

    /// A worker opens a session in a slot: `head` knows the slot, so every recovery ends what is open there (O14).
    pub(crate) fn session(&mut self, tid: &str) {
        let mut parts = tid.rsplitn(3, '.');
        let slot: Option<u32> = parts.next().and_then(|slot| slot.parse().ok());
        let (Some(slot), Some(sink), Some(head)) = (slot, parts.next(), &self.head) else {
            return;
        };
        let known = head.slots.get(&uid(sink)).copied().unwrap_or(0);
        if slot >= known {
            self.violate(format!(
                "O14: a session is opened in slot {sink}/{slot}, and head knows {known} slots"
            ));
        }
    }

    /// Whoever leads, or finds the job ended, tells that it has ended in this epoch: `head` has said so before (O6). A leader that were to
    /// die now would leave a job that another goes on with.
    pub(crate) fn job_ended(&mut self, epoch: Epoch, end: JobEnd) {
        if self.ended.get(&epoch) != Some(&end) {
            self.violate(format!(
                "O6: the job has ended in epoch {epoch} ({end:?}), and head does not say so"
            ));
        }
    }

    /// The job has stopped: everything of the checkpoint in `head` is visible and nothing else. Gives back the stops
    /// before this one.
    pub(crate) fn mark_stopped(&mut self) -> Vec<CheckpointId> {
        let earlier = self.stops.keys().copied().collect();
        if let Some(head) = self.head.as_ref().filter(|head| !head.has_pending_output()) {
            let (id, visible) = (head.checkpoint(), self.visible.clone());
            self.stops.entry(id).or_insert(visible);
        }
        earlier
    }

    /// How often a savepoint was taken.
    pub(crate) fn taken(&self) -> u64 {
        u64::from(self.back.is_some())
    }

    /// A savepoint was taken by the user's will: output after it may appear once more. A second time nobody asked for.
    fn went_back(&mut self, head: &Head, ends: Vec<u64>) {
        let Some(origin) = &head.origin else { return };
        let known = self.stops.iter().find(|(id, _)| {
            let suffix = format!("-{}-{}", id.epoch, id.number);
            origin.savepoint.ends_with(&suffix)
        });
        match known {
            Some((_, visible)) if self.back.is_none() => {
                self.visible.clone_from(visible);
                self.back = Some((visible.clone(), ends));
            }
            _ => self.violate(format!(
                "O1: {} was taken again as checkpoint {}",
                origin.savepoint, origin.taken_as
            )),
        }
    }

    /// What a reader sees of a partition, without what a return to a savepoint has taken back.
    fn seen<'a>(&'a self, at: usize, kafka: &'a SimKafka) -> impl Iterator<Item = &'a Value> {
        let (kept, end) = match &self.back {
            Some((visible, ends)) => (Some(visible), ends[at]),
            None => (None, 0),
        };
        let partition = &kafka.partitions[at];
        let before = partition
            .read(0)
            .take(partition.read(0).count() - partition.read(end).count());
        before
            .filter(move |value| kept.is_some_and(|kept| kept.contains(*value)))
            .chain(partition.read(end))
    }

    /// Each checkpoint that is still there has all its files, whatever was collected (O7).
    fn kept_files(&mut self, head: &Head, store: &SimStore) {
        let mut next = Some(head.manifest);
        // A manifest behind them may be back: the late copy of a write lands after it was collected.
        for _ in 0..self.retained.max(2) {
            let Some(wanted) = next else { return };
            let Some(manifest) = manifest_of(wanted, store) else {
                return;
            };
            let lost = manifest
                .files
                .keys()
                .map(object)
                .find(|path| store.bytes(path).is_none() && !self.rotten.contains(path));
            if let Some(lost) = lost {
                let number = manifest.id.number;
                self.violate(format!(
                    "O7: checkpoint {number} is retained and {lost} is gone"
                ));
            }
            next = manifest.parent;
        }
    }

    /// Whether a checkpoint names something that rotted; its positions count all the same.
    fn is_rot(&mut self, head: &Head, store: &SimStore) -> bool {
        let Some(manifest) = manifest_of(head.manifest, store) else {
            return false;
        };
        let rotten = manifest
            .files
            .keys()
            .any(|path| self.rotten.contains(&object(path)));
        if rotten {
            self.completed = positions_of(&manifest);
        }
        rotten
    }

    fn compare(
        &mut self,
        manifest: &Manifest,
        found: &BTreeMap<u32, KeyState>,
        workload: &Workload,
    ) {
        let positions = positions_of(manifest);
        let start = self.start.get_or_insert_with(|| positions.clone()).clone();
        let mut found = found.clone();
        clear_timers(&mut found);
        let wanted = workload.state_at(&start, &positions);
        if found != wanted {
            let number = manifest.id.number;
            let differs = |key: &&u32| found.get(key) != wanted.get(key);
            let key = wanted
                .keys()
                .chain(found.keys())
                .find(differs)
                .copied()
                .unwrap_or_default();
            self.violate(format!(
                "O7: checkpoint {number} has {:?} for key {key}, its positions mean {:?}",
                found.get(&key),
                wanted.get(&key)
            ));
        }
        self.states.insert(manifest.id, wanted);
        self.completed = positions;
    }

    /// Transactions whose commit was just decided (O1, O5).
    pub(crate) fn committed(&mut self, kafka: &mut SimKafka) {
        for ended in std::mem::take(&mut kafka.committed) {
            for value in ended.values {
                if let Value::Marker { number, kind, .. } = &value {
                    self.gave_up(*number, *kind);
                }
                let (Value::Out { split, offset, .. } | Value::Timer { split, offset, .. }) =
                    &value
                else {
                    continue;
                };
                if self.completed.get(split).is_none_or(|upto| offset >= upto) {
                    self.violate(format!(
                        "O5: {value:?} of {} before its checkpoint",
                        ended.tid
                    ));
                }
                if !self.visible.insert(value.clone()) {
                    self.violate(format!("O1: {value:?} of {} twice", ended.tid));
                }
            }
        }
    }

    /// A void marker stands only where `head` says that the number is given up: another leader that reads the checkpoint
    /// well would publish what its other slots have (O6).
    fn gave_up(&mut self, number: u64, kind: MarkerKind) {
        let Some(head) = &self.head else { return };
        let undecided = head.number == number && head.giving_up.is_none();
        if kind == MarkerKind::Void && undecided {
            self.violate(format!(
                "O6: a slot gave checkpoint {number} up, and head does not say so"
            ));
        }
    }

    /// Whether everything that has to come out is visible.
    pub(crate) fn is_complete(&self, kafka: &SimKafka, workload: &Workload) -> bool {
        let expected = workload.expected(&self.start.clone().unwrap_or_default());
        let seen: usize = (1..kafka.partitions.len())
            .map(|at| self.seen(at, kafka).count())
            .sum();
        seen >= expected.len()
    }

    /// What the outside reads in the end; `stopped` = the job stopped by name, so a part may be missing.
    pub(crate) fn ledger(&mut self, kafka: &SimKafka, workload: &Workload, stopped: bool) {
        let start = self.start.clone().unwrap_or_default();
        let expected = workload.expected(&start);
        let mut found = Vec::new();
        let mut last = BTreeMap::new();
        let mut faults = Vec::new();
        for at in 1..kafka.partitions.len() {
            for value in self.seen(at, kafka) {
                found.push(value.clone());
                if let Value::Out { key, count, .. } = value {
                    let before = last.insert(*key, *count).unwrap_or(0);
                    if *count != before + 1 {
                        faults.push(format!("O1: key {key} shows count {count} after {before}"));
                    }
                }
            }
        }
        for fault in faults {
            self.violate(fault);
        }
        found.sort();
        if stopped {
            let wrong = found
                .iter()
                .find(|value| expected.binary_search(value).is_err());
            if let Some(value) = wrong.cloned() {
                self.violate(format!("O1: {value:?} was never to come out"));
            }
        } else if found != expected {
            let missing = expected
                .iter()
                .find(|value| found.binary_search(value).is_err())
                .cloned();
            let (more, of) = (found.len(), expected.len());
            self.violate(format!(
                "O1: {more} of {of} records are visible, first missing {missing:?}"
            ));
        }
    }

    /// No lingering transaction: readers reach the end of every partition (O5).
    pub(crate) fn stable(&mut self, kafka: &SimKafka) {
        for (at, partition) in kafka.partitions.iter().enumerate() {
            if partition.stable() != partition.log.len() as u64 {
                let (stable, end) = (partition.stable(), partition.log.len());
                self.violate(format!(
                    "O5: partition {at} is stable up to {stable} of {end}"
                ));
            }
        }
    }

    /// After a last collection, what is left is the closure of the retained manifests (O8).
    pub(crate) fn hygiene(&mut self, store: &mut SimStore, retained: u32) {
        let Some(head) = self.head.clone() else {
            return;
        };
        let retention = Retention::try_new(retained).expect("at least one is retained");
        let (mut gc, mut effects) = Gc::start(&head, retention, head.number + 1);
        while let Some(effect) = effects.pop() {
            let event = match effect {
                GcEffect::List => GcEvent::Listed(listing(store)),
                GcEffect::ReadManifest(wanted) => {
                    let bytes = store.bytes(&object(&manifest_path(&wanted.name)));
                    let manifest = bytes.and_then(|b| Manifest::decode_named(b, wanted.hash).ok());
                    let reach = manifest.map(|manifest| Box::new(Reach::of(&manifest)));
                    GcEvent::ManifestRead(wanted.name, reach)
                }
                GcEffect::ReadHead => GcEvent::HeadRead(Some(Box::new(head.clone()))),
                GcEffect::Delete(batch) => {
                    store.apply(&StoreOp::Delete {
                        paths: batch.iter().map(object).collect(),
                    });
                    GcEvent::Deleted
                }
                GcEffect::Done(_) => break,
            };
            effects = gc.step(event);
        }
        let kept = gc.kept();
        let in_flight = |path: &RelativePath| {
            let id = ObjectName::parse(path).and_then(|name| name.id());
            // A late checkpoint 0 of a first start that lost is left for the next epoch to collect.
            id.is_none_or(|id| {
                id.epoch > head.epoch || id.epoch == head.epoch && id.number > head.number
            })
        };
        let left: BTreeSet<RelativePath> = listing(store).into_iter().collect();
        if let Some(leak) = left
            .iter()
            .find(|path| !kept.contains(*path) && !in_flight(path))
        {
            self.violate(format!("O8: {leak} is reachable from nothing"));
        }
        if let Some(missing) = kept.iter().find(|path| !left.contains(*path)) {
            self.violate(format!("O8: {missing} is referenced and gone"));
        }
    }

    /// No savepoint that a checkpoint was taken for is missing, but for those that were refused by name (L7).
    pub(crate) fn kept_word(&mut self, refused: &BTreeSet<String>) {
        let missing = self.owed_missing.difference(refused).next().cloned();
        if let Some(folder) = missing {
            self.violate(format!(
                "O7: the job went on and {folder}, which it was asked for, was never made"
            ));
        }
    }

    /// Each savepoint is complete and restores to the state of its positions (O7).
    pub(crate) fn savepoints(
        &mut self,
        folders: &BTreeSet<String>,
        store: &SimStore,
        workload: &Workload,
    ) {
        let Some(start) = self.start.clone() else {
            return;
        };
        for folder in folders {
            let read = |path: &str| store.bytes(&format!("{folder}/{path}"));
            let manifest = read("manifest").and_then(|bytes| Manifest::decode(bytes).ok());
            let Some(manifest) = manifest else {
                self.violate(format!("O7: {folder} has no manifest"));
                continue;
            };
            let states = state(&manifest, |path| {
                read(path.as_str()).map(|bytes| bytes.to_vec())
            });
            let wanted = workload.state_at(&start, &positions_of(&manifest));
            match states {
                Ok(mut found) => {
                    clear_timers(&mut found);
                    if found != wanted {
                        self.violate(format!("O7: {folder} restores to another state"));
                    }
                }
                Err(fault) => self.violate(format!("O7: {folder}: {fault}")),
            }
        }
    }
}

fn clear_timers(states: &mut BTreeMap<u32, KeyState>) {
    for state in states.values_mut() {
        state.timers.clear();
    }
}

fn listing(store: &mut SimStore) -> Vec<RelativePath> {
    let prefix = format!("{}/", paths().prefix());
    match store.apply(&StoreOp::List { prefix }) {
        StoreAnswer::Listed(found) => found
            .iter()
            .filter_map(|path| paths().relative(path))
            .collect(),
        _ => unreachable!("a listing is answered by a listing"),
    }
}

fn positions_of(manifest: &Manifest) -> Positions {
    let splits = manifest.sources.values().flat_map(|source| &source.splits);
    let index = |name: &str| {
        name.trim_start_matches("split-")
            .parse()
            .expect("splits are numbered")
    };
    splits
        .map(|(name, bytes)| (index(name), decode_position(&bytes.0)))
        .collect()
}

fn manifest_of(named: ManifestRef, store: &SimStore) -> Option<Manifest> {
    let bytes = store.bytes(&object(&manifest_path(&named.name)))?;
    Manifest::decode_named(bytes, named.hash).ok()
}

/// The savepoint that a checkpoint was taken for, if it is not there.
fn owed(left: ManifestRef, store: &SimStore) -> Option<String> {
    let manifest = manifest_of(left, store)?;
    let place = target_of(manifest.savepoint.as_deref()?, manifest.id);
    let is_there = store.bytes(&place.manifest()).is_some();
    (!is_there).then(|| place.folder().to_owned())
}

fn restorable(
    head: &Head,
    store: &SimStore,
) -> Result<(Manifest, BTreeMap<u32, KeyState>), String> {
    let path = object(&manifest_path(&head.manifest.name));
    let bytes = store.bytes(&path).ok_or("its manifest is not there")?;
    let manifest = Manifest::decode_named(bytes, head.manifest.hash).map_err(|e| e.to_string())?;
    let states = state(&manifest, |path| {
        store.bytes(&object(path)).map(|bytes| bytes.to_vec())
    })?;
    for sink in manifest.sinks.values() {
        for output in sink.slots.values() {
            let SlotOutput::Log(parts) = output else {
                continue;
            };
            for part in parts {
                let bytes = store.bytes(&object(&part.path));
                if bytes.map(|bytes| ContentHash::of(bytes)) != Some(part.file.checksum) {
                    return Err(format!("log {} is missing or damaged", part.path));
                }
            }
        }
    }
    Ok((manifest, states))
}

/// The state of all key groups, each from exactly one file.
fn state(
    manifest: &Manifest,
    read: impl Fn(&RelativePath) -> Option<Vec<u8>>,
) -> Result<BTreeMap<u32, KeyState>, String> {
    let mut states = BTreeMap::new();
    let mut groups = BTreeSet::new();
    let Some(operator) = manifest.operators.get(&uid("agg")) else {
        return Ok(states);
    };
    for file in &operator.keyed {
        whole(manifest, &file.path, &read)?;
        let store = file.store.as_ref().ok_or("a file without a store")?;
        for slice in &file.groups {
            if !groups.insert(slice.group) {
                return Err(format!("key group {} is in two files", slice.group));
            }
            let part = file_of(store, slice.group).ok_or("a key group has no file")?;
            let object = whole(manifest, &part.path, &read)?;
            let bytes = &object[part.offset as usize..(part.offset + part.length) as usize];
            if ContentHash::of(bytes) != part.checksum {
                return Err(format!("{} in {} is damaged", part.name, part.path));
            }
            let part = decode_group(bytes).ok_or("a key group cannot be read")?;
            if part.keys().any(|key| key_group(*key) != slice.group) {
                return Err(format!("key group {} holds keys of another", slice.group));
            }
            states.extend(part);
        }
    }
    Ok(states)
}

/// An object of a checkpoint, if it is there and sound.
fn whole(
    manifest: &Manifest,
    path: &RelativePath,
    read: impl Fn(&RelativePath) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, String> {
    let entry = &manifest.files[path];
    let bytes = read(path).ok_or_else(|| format!("file {path} is missing"))?;
    if ContentHash::of(&bytes) != entry.checksum || bytes.len() as u64 != entry.length {
        return Err(format!("file {path} is damaged"));
    }
    Ok(bytes)
}
