//! The runs of the suite: subtasks with eight states each, driven beside the model.

mod timers;

use highwater_types::{
    CheckpointId, Epoch, Key, KeyGroup, MaxParallelism, OperatorUid, Parallelism, SubtaskIndex,
};

use self::timers::Timers;
use super::MakeStore;
use super::model::{Model, TTL_MS};
use super::slow_miss::copied;
use super::steps::Access;
use crate::backend::{BackendSetup, KeyedStateBackend, StateHandle, Unmatched};
use crate::context::KeyContext;
use crate::keyed::{
    AggregatingState, Aggregation, Drained, ListState, MapState, OpenState, ReducingState,
    SlicedState, ValueState,
};
use crate::restore::RestoredSnapshot;
use crate::snapshot::{KeyedSnapshot, RawKeyGroupState, canonical_digest};
use crate::store::StoreFiles;
use crate::table::StateTable;
use crate::ttl::{TtlConfig, TtlUpdate};

const KEYS: i64 = 24;
const NAMESPACES: i64 = 4;
const STATES: u8 = 8;
const RAW: &str = "raw";

/// Adds up; returns the negated sum, so that input, accumulator and output differ.
struct NegatedSum;

impl Aggregation for NegatedSum {
    type Input = u8;
    type Accumulator = i64;
    type Output = i64;

    fn create(&self) -> i64 {
        0
    }

    fn add(&self, accumulator: &mut i64, input: &u8) {
        *accumulator += i64::from(*input);
    }

    fn output(&self, accumulator: &i64) -> i64 {
        -accumulator
    }
}

type Adder = fn(&mut i64, i64);

#[derive(Clone, Copy)]
struct Handles {
    value: StateHandle<ValueState<i64, (), String>>,
    list: StateHandle<ListState<i64, (), i64>>,
    map: StateHandle<MapState<i64, (), i64, String>>,
    reduced: StateHandle<ReducingState<i64, i64, i64, Adder>>,
    aggregated: StateHandle<AggregatingState<i64, i64, NegatedSum>>,
    sliced: StateHandle<SlicedState<i64, i64, u64>>,
    counted: StateHandle<StateTable<i64, (), u64>>,
    timers: Timers,
}

impl Handles {
    fn open(backend: &mut KeyedStateBackend) -> Self {
        let ttl = TtlConfig::after_write(TTL_MS);
        let list = ListState::<i64, (), i64>::describe("list").with_ttl(ttl);
        let map = MapState::<i64, (), i64, String>::describe("map")
            .with_ttl(ttl.with_update(TtlUpdate::OnReadAndWrite));
        let reduced = ReducingState::<i64, i64, i64, Adder>::describe("reduced").with_ttl(ttl);
        let aggregated = AggregatingState::<i64, i64, NegatedSum>::describe("aggregated");
        let add: Adder = |into, value| *into += value;
        let opened = "a state of the suite opens";
        Self {
            value: backend
                .open(ValueState::<i64, (), String>::describe("value"))
                .expect(opened),
            list: backend.open(list).expect(opened),
            map: backend.open(map).expect(opened),
            reduced: backend.open_reducing(reduced, add).expect(opened),
            aggregated: backend
                .open_aggregating(aggregated, NegatedSum)
                .expect(opened),
            sliced: backend
                .open(SlicedState::<i64, i64, u64>::describe("sliced"))
                .expect(opened),
            counted: backend
                .open(StateTable::<i64, (), u64>::describe("counted"))
                .expect(opened),
            timers: Timers::open(backend),
        }
    }
}

struct Subtask {
    backend: KeyedStateBackend,
    handles: Handles,
}

/// All subtasks of the operator under test.
pub(super) struct Cluster {
    subtasks: Vec<Subtask>,
    parallelism: Parallelism,
    max_parallelism: MaxParallelism,
    checkpoint: CheckpointId,
    saved: Vec<Saved>,
}

/// What one subtask saved last.
struct Saved {
    canonical: KeyedSnapshot,
    /// The same, with rows left in the files of its store.
    in_store: Option<(Vec<u8>, StoreFiles)>,
}

/// Which form of a snapshot is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestoreFrom {
    /// The canonical one.
    Canonical,
    /// The files of the store, where there is one.
    Files,
}

/// How the subtasks come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    pub(super) parallelism: u32,
    pub(super) from: RestoreFrom,
}

impl Crash {
    /// By a number: how many there are then, and what they come back from.
    pub(super) fn of(how: u8) -> Self {
        let from = if (how / 5).is_multiple_of(3) {
            RestoreFrom::Canonical
        } else {
            RestoreFrom::Files
        };
        Self {
            parallelism: u32::from(how % 5) + 1,
            from,
        }
    }
}

impl Saved {
    fn restored(&self, from: RestoreFrom) -> RestoredSnapshot {
        match &self.in_store {
            Some((head, files)) if from == RestoreFrom::Files => RestoredSnapshot {
                snapshot: KeyedSnapshot::from_bytes(head.clone()).expect("the head is read back"),
                files: Some(copied(files)),
            },
            _ => self.canonical.clone().into(),
        }
    }
}

fn text(value: u8) -> String {
    "x".repeat(usize::from(value % 40))
}

impl Cluster {
    pub(super) fn start(make_store: MakeStore<'_>, parallelism: u32) -> Self {
        let mut cluster = Self {
            subtasks: Vec::new(),
            parallelism: Parallelism(parallelism),
            max_parallelism: MaxParallelism::try_new(12).expect("12 is in range"),
            checkpoint: CheckpointId {
                number: 0,
                epoch: Epoch(1),
            },
            saved: Vec::new(),
        };
        cluster.deploy(&Model::default(), make_store, RestoreFrom::Canonical);
        cluster
    }

    fn deploy(&mut self, model: &Model, make_store: MakeStore<'_>, from: RestoreFrom) {
        self.subtasks.clear();
        for index in 0..self.parallelism.0 {
            let (store, budget) = make_store();
            let setup = BackendSetup {
                uid: OperatorUid::parse("suite").expect("the uid is well formed"),
                subtask: SubtaskIndex(index),
                range: self
                    .max_parallelism
                    .range(SubtaskIndex(index), self.parallelism),
                max_parallelism: self.max_parallelism,
                budget,
                store,
            };
            let saved = self.saved.iter();
            let meets = saved.filter(|saved| saved.canonical.range.intersects(setup.range));
            let snapshots = meets.map(|saved| saved.restored(from)).collect();
            let mut backend = KeyedStateBackend::restore(setup, snapshots, model.now)
                .expect("the snapshots of the suite restore");
            let handles = Handles::open(&mut backend);
            let raw = backend.take_raw(RAW).expect("raw bytes restore");
            if !self.saved.is_empty() {
                assert_eq!(raw, own_raw(&backend), "raw bytes follow their key groups");
            }
            backend
                .finish_restore(&Unmatched::refuse())
                .expect("every state was opened");
            self.subtasks.push(Subtask { backend, handles });
        }
    }

    /// Runs one chunk on the subtasks that own its keys, and on the model.
    pub(super) fn chunk(&mut self, model: &mut Model, accesses: &[Access]) {
        for index in 0..self.subtasks.len() {
            let owned: Vec<_> = accesses
                .iter()
                .copied()
                .filter(|access| self.owner(i64::from(access.key) % KEYS) == index)
                .collect();
            let subtask = &mut self.subtasks[index];
            subtask.prepare(&owned);
            for access in &owned {
                subtask.access(model, *access);
            }
            assert_eq!(
                subtask.unprepared_reads(),
                0,
                "every key was prepared in bulk"
            );
            subtask
                .backend
                .after_chunk(model.now)
                .expect("a chunk of the suite ends well");
        }
    }

    fn owner(&self, key: i64) -> usize {
        let group = key.key_hash().group(self.max_parallelism);
        self.max_parallelism.owner(group, self.parallelism).0 as usize
    }

    /// Begins a snapshot everywhere, unless one is running.
    pub(super) fn barrier(&mut self, model: &mut Model) {
        if model.barrier.is_some() {
            return;
        }
        model.barrier = Some(model.live.clone());
        self.checkpoint.number += 1;
        for subtask in &mut self.subtasks {
            let begun = subtask.backend.begin_snapshot(self.checkpoint, model.now);
            begun.expect("no other snapshot is running");
            let raw = RawKeyGroupState {
                name: RAW.to_owned(),
                groups: own_raw(&subtask.backend),
            };
            subtask.backend.add_raw(raw).expect("a snapshot is running");
        }
    }

    /// Goes on with the running snapshot; refused where none is running.
    pub(super) fn advance(&mut self, model: &Model, entries: usize) {
        for subtask in &mut self.subtasks {
            let advanced = subtask.backend.advance_snapshot(entries);
            assert_eq!(advanced.is_ok(), model.barrier.is_some(), "{advanced:?}");
        }
    }

    /// Takes the running snapshot everywhere. Returns its digest, if one was running.
    pub(super) fn take(&mut self, model: &mut Model) -> Option<u64> {
        model.saved = model.barrier.take()?;
        let mut saved = Vec::new();
        for subtask in &mut self.subtasks {
            let taken = subtask.backend.take_snapshot();
            let mut taken = taken.expect("a snapshot of the suite is taken");
            taken.freeze().expect("the store freezes");
            subtask.backend.resume_writes();
            let in_store = taken.is_in_store().then(|| {
                let sealed = taken.seal_in_store().expect("the store has its files");
                (sealed.head.to_bytes(), sealed.files)
            });
            let whole = taken.seal().expect("a snapshot of the suite is sealed");
            let canonical = KeyedSnapshot::from_bytes(whole.to_bytes());
            saved.push(Saved {
                canonical: canonical.expect("its bytes are read back"),
                in_store,
            });
        }
        self.saved = saved;
        let saved = self.saved.iter();
        let canonical: Vec<_> = saved.map(|saved| saved.canonical.clone()).collect();
        Some(canonical_digest(&canonical))
    }

    pub(super) fn abort(&mut self, model: &mut Model) {
        model.barrier = None;
        self.subtasks
            .iter_mut()
            .for_each(|subtask| subtask.backend.abort_snapshot());
    }

    /// Loses all subtasks and starts again from the last snapshot at another parallelism.
    pub(super) fn crash(&mut self, model: &mut Model, make_store: MakeStore<'_>, how: Crash) {
        model.barrier = None;
        model.live = model.saved.clone();
        self.parallelism = Parallelism(how.parallelism);
        self.deploy(model, make_store, how.from);
    }

    /// Compares every state of every key with the model, and fires all timers.
    pub(super) fn check_everything(&mut self, model: &Model) {
        let mut model = model.clone();
        for access in every_read() {
            let owner = self.owner(i64::from(access.key));
            self.subtasks[owner].access(&mut model, access);
        }
        for subtask in &mut self.subtasks {
            subtask.fire(&mut model, i64::MAX);
        }
        assert!(model.live.timers.is_empty(), "every timer has an owner");
    }
}

/// Reads every state of every key.
pub(super) fn every_read() -> Vec<Access> {
    let mut reads = Vec::new();
    for key in 0..KEYS {
        for state in 0..STATES {
            reads.extend((0..NAMESPACES).map(|namespace| Access {
                state,
                action: 0,
                key: key as u8,
                namespace: namespace as u8,
                value: 0,
            }));
        }
    }
    reads
}

/// Bytes of each owned key group that name it.
fn own_raw(backend: &KeyedStateBackend) -> Vec<(KeyGroup, Vec<u8>)> {
    let named = |group: KeyGroup| (group, group.0.to_le_bytes().to_vec());
    backend.range().groups().map(named).collect()
}

impl Subtask {
    fn prepare(&mut self, accesses: &[Access]) {
        let prepared = "the keys of a chunk are prepared";
        let handles = self.handles;
        let keys: Vec<_> = accesses
            .iter()
            .map(|access| {
                (
                    i64::from(access.key) % KEYS,
                    i64::from(access.namespace) % NAMESPACES,
                )
            })
            .map(|(key, namespace)| (key.key_hash(), key, namespace))
            .collect();
        let plain = || keys.iter().map(|(hash, key, _)| (*hash, key, &()));
        let windowed = || {
            keys.iter()
                .map(|(hash, key, namespace)| (*hash, key, namespace))
        };
        self.backend
            .get(handles.value)
            .prepare(plain())
            .expect(prepared);
        self.backend
            .get(handles.list)
            .prepare(plain())
            .expect(prepared);
        self.backend
            .get(handles.map)
            .prepare(plain())
            .expect(prepared);
        self.backend
            .get(handles.counted)
            .prepare(plain())
            .expect(prepared);
        self.backend
            .get(handles.reduced)
            .prepare(windowed())
            .expect(prepared);
        self.backend
            .get(handles.aggregated)
            .prepare(windowed())
            .expect(prepared);
        for &(hash, key, namespace) in &keys {
            let sliced = self.backend.get(handles.sliced);
            if sliced.namespaces().any(|held| *held == namespace) {
                let slice = sliced.slice(&namespace);
                slice.prepare([(hash, &key, &())]).expect(prepared);
            }
        }
    }

    fn unprepared_reads(&self) -> u64 {
        let reports = self.backend.reports();
        reports.iter().map(|state| state.unprepared).sum()
    }

    /// Does one access on the state and on the model, and compares what both return. Action 0 only reads.
    fn access(&mut self, model: &mut Model, access: Access) {
        let key = i64::from(access.key) % KEYS;
        let at = KeyContext::new(key.key_hash(), &key, model.now);
        match access.state % STATES {
            0 => self.access_value(model, at, access),
            1 => self.access_list(model, at, access),
            2 => self.access_map(model, at, access),
            3 => self.access_reduced(model, at, access),
            4 => self.access_aggregated(model, at, access),
            5 => self.access_sliced(model, at, access),
            6 => self.access_counted(model, at, access),
            _ => self.access_timers(model, at, access),
        }
    }

    fn access_value(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let state = self.backend.get(self.handles.value);
        assert_eq!(
            state.get(at),
            model.live.value.get(at.key),
            "value of {}",
            at.key
        );
        match access.action % 4 {
            1 => {
                state.set(at, text(access.value));
                model.live.value.insert(*at.key, text(access.value));
            }
            2 => {
                state.update(at, String::new, |held| held.push('y'));
                model.live.value.entry(*at.key).or_default().push('y');
            }
            3 => assert_eq!(state.take(at), model.live.value.remove(at.key)),
            _ => {}
        }
    }

    fn access_list(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let state = self.backend.get(self.handles.list);
        assert_eq!(state.get(at), model.list(*at.key), "list of {}", at.key);
        let item = i64::from(access.value);
        match access.action % 5 {
            1 => {
                state.add(at, item);
                model
                    .live
                    .list
                    .entry(*at.key)
                    .or_default()
                    .push((item, at.now));
            }
            2 => {
                state.add_all(at, [item, -item]);
                let list = model.live.list.entry(*at.key).or_default();
                list.extend([(item, at.now), (-item, at.now)]);
            }
            3 => {
                state.update(at, [item]);
                model.live.list.insert(*at.key, vec![(item, at.now)]);
            }
            4 => {
                assert_eq!(state.take(at), model.list(*at.key));
                model.live.list.remove(at.key);
            }
            _ => {}
        }
    }

    fn access_map(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let state = self.backend.get(self.handles.map);
        let map_key = i64::from(access.namespace) % NAMESPACES;
        let place = (*at.key, map_key);
        let expected = model.map(*at.key, map_key).cloned();
        assert_eq!(
            state.get(at, &map_key),
            expected.as_ref(),
            "map entry {place:?}"
        );
        if expected.is_some() {
            model
                .live
                .map
                .entry(place)
                .and_modify(|(_, stamp)| *stamp = at.now);
        }
        match access.action % 5 {
            1 => {
                state.put(at, map_key, text(access.value));
                model.live.map.insert(place, (text(access.value), at.now));
            }
            2 => {
                assert_eq!(state.remove(at, &map_key), expected);
                model.live.map.remove(&place);
            }
            3 => {
                let held: Vec<_> = model
                    .live
                    .map
                    .range((*at.key, i64::MIN)..=(*at.key, i64::MAX))
                    .filter(|(_, (_, stamp))| !model.is_expired(*stamp))
                    .map(|((_, map_key), (value, _))| (*map_key, value.clone()))
                    .collect();
                assert_eq!(state.is_empty(at), held.is_empty());
                let mut found: Vec<_> = state.iter(at).map(|(k, v)| (*k, v.clone())).collect();
                found.sort_unstable();
                assert_eq!(found, held, "map of {}", at.key);
                for (map_key, _) in held {
                    let place = (*at.key, map_key);
                    model
                        .live
                        .map
                        .entry(place)
                        .and_modify(|(_, stamp)| *stamp = at.now);
                }
            }
            4 => {
                state.clear(at);
                model.live.map.retain(|(key, _), _| key != at.key);
            }
            _ => {}
        }
    }

    fn access_reduced(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let namespace = i64::from(access.namespace) % NAMESPACES;
        let at = at.in_namespace(&namespace);
        let state = self.backend.get(self.handles.reduced);
        let expected = model.reduced(*at.key, namespace);
        assert_eq!(
            state.get(at).copied(),
            expected,
            "reduced {} in {namespace}",
            at.key
        );
        match access.action % 3 {
            1 => {
                let value = i64::from(access.value);
                let merged = expected.unwrap_or(0) + value;
                assert_eq!(*state.add(at, value), merged);
                model
                    .live
                    .reduced
                    .insert((*at.key, namespace), (merged, at.now));
            }
            2 => {
                state.clear(at);
                model.live.reduced.remove(&(*at.key, namespace));
            }
            _ => {}
        }
    }

    fn access_aggregated(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let namespace = i64::from(access.namespace) % NAMESPACES;
        let at = at.in_namespace(&namespace);
        let place = (*at.key, namespace);
        let state = self.backend.get(self.handles.aggregated);
        let expected = model.live.aggregated.get(&place).map(|sum| -sum);
        assert_eq!(state.get(at), expected, "aggregated {place:?}");
        match access.action % 4 {
            1 | 2 => {
                state.add(at, &access.value);
                *model.live.aggregated.entry(place).or_default() += i64::from(access.value);
            }
            3 => {
                state.clear(at);
                model.live.aggregated.remove(&place);
            }
            _ => {}
        }
    }

    fn access_sliced(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let namespace = i64::from(access.namespace) % NAMESPACES;
        let place = (*at.key, namespace);
        let range = self.backend.range();
        let max_parallelism = self.backend.max_parallelism();
        let state = self.backend.get(self.handles.sliced);
        let held = state.get(at.hash, at.key, &namespace).copied();
        assert_eq!(
            held,
            model.live.sliced.get(&place).copied(),
            "sliced {place:?}"
        );
        match access.action % 6 {
            1 | 2 => {
                let place_in_slice = (at.hash, at.key, &());
                state
                    .slice(&namespace)
                    .upsert(place_in_slice, || 0, |count| *count += 1);
                *model.live.sliced.entry(place).or_default() += 1;
            }
            3 => {
                state.slice(&namespace).take(at.hash, at.key, &());
                model.live.sliced.remove(&place);
            }
            4 if access.value.is_multiple_of(4) => {
                state.drop_slice(&namespace);
                model.live.sliced.retain(|(key, held), _| {
                    *held != namespace || !range.contains(key.key_hash().group(max_parallelism))
                });
            }
            5 if access.value.is_multiple_of(4) => {
                // To the end, because which entries come first is not the same with every backend.
                let limit = usize::from(access.value % 8) + 1;
                let mut end = Drained::Part;
                while end == Drained::Part {
                    let mut drained = Vec::new();
                    let portion = state.drain(&namespace, limit, |_, key, count| {
                        drained.push((key, count));
                    });
                    end = portion.expect("a slice of the suite is drained");
                    assert!(drained.len() <= limit, "a portion has its limit");
                    for (key, count) in drained {
                        assert_eq!(model.live.sliced.remove(&(key, namespace)), Some(count));
                    }
                }
                assert!(state.namespaces().all(|held| *held != namespace));
            }
            _ => {}
        }
    }

    fn access_counted(&mut self, model: &mut Model, at: KeyContext<'_, i64>, access: Access) {
        let state = self.backend.get(self.handles.counted);
        let held = state.get(at.hash, at.key, &()).copied();
        assert_eq!(
            held,
            model.live.counted.get(at.key).copied(),
            "count of {}",
            at.key
        );
        match access.action % 3 {
            1 => {
                // The same key twice in one chunk: the second row must see the first.
                let keys = [*at.key; 2];
                let hashes = [at.hash; 2];
                state.update_chunk(
                    &hashes,
                    &(),
                    |row| keys[row],
                    || 0,
                    |row, count| {
                        *count += row as u64 + 1;
                    },
                );
                *model.live.counted.entry(*at.key).or_default() += 3;
            }
            2 => {
                assert_eq!(
                    state.take(at.hash, at.key, &()),
                    model.live.counted.remove(at.key)
                );
            }
            _ => {}
        }
    }
}
