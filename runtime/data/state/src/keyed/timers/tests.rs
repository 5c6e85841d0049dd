//! Timers over a store beside a sorted set.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_types::{CheckpointId, Epoch, Parallelism, SubtaskIndex};
use proptest::prelude::*;

use super::*;
use crate::backend::{BackendSetup, KeyedStateBackend, StateHandle};
use crate::budget::MemoryBudget;
use crate::contract::{SlowMissFactory, copied};
use crate::restore::RestoredSnapshot;
use crate::snapshot::{KeyedSnapshot, canonical_digest};
use crate::store::Store;
use crate::store::StoreFiles;
use crate::table::StateTable;

type Places = BTreeSet<(i64, KeyHash, i64)>;

fn groups() -> MaxParallelism {
    MaxParallelism::try_new(4).unwrap()
}

fn setup(index: u32, parallelism: u32, store: Store) -> BackendSetup {
    BackendSetup {
        uid: OperatorUid::parse("timers").unwrap(),
        subtask: SubtaskIndex(index),
        range: groups().range(SubtaskIndex(index), Parallelism(parallelism)),
        max_parallelism: groups(),
        budget: MemoryBudget::unlimited(),
        store,
    }
}

fn checkpoint(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: Epoch(1),
    }
}

/// One subtask over a store that counts its calls.
struct Subtask {
    backend: KeyedStateBackend,
    timers: StateHandle<TimerState<i64>>,
    factory: SlowMissFactory,
}

impl Subtask {
    fn start(snapshots: Vec<RestoredSnapshot>, index: u32, parallelism: u32) -> Self {
        let factory = SlowMissFactory::default();
        let store = Store::Local {
            factory: Arc::new(factory.clone()),
        };
        let setup = setup(index, parallelism, store);
        let meets = |held: &RestoredSnapshot| held.snapshot.range.intersects(setup.range);
        let snapshots = snapshots.into_iter().filter(meets).collect();
        let mut backend = KeyedStateBackend::restore(setup, snapshots, ProcessingTime(0)).unwrap();
        let described = TimerState::<i64>::describe("timers");
        let timers = backend.open(described).unwrap();
        Self {
            backend,
            timers,
            factory,
        }
    }

    fn timers(&mut self) -> &mut TimerState<i64> {
        self.backend.get(self.timers)
    }

    fn pop(&mut self, upto: i64) -> Option<(i64, KeyHash, i64)> {
        let (time, hash, key) = self.timers().pop_due(upto)?;
        Some((time, hash, key))
    }

    /// A checkpoint of it, in the files of its store.
    fn saved(&mut self) -> (KeyedSnapshot, StoreFiles) {
        let begun = self
            .backend
            .begin_snapshot(checkpoint(1_000), ProcessingTime(0));
        begun.unwrap();
        let sealed = self.backend.take_snapshot().unwrap().seal_in_store();
        self.backend.resume_writes();
        let sealed = sealed.unwrap();
        let head = KeyedSnapshot::from_bytes(sealed.head.to_bytes()).unwrap();
        (head, sealed.files)
    }
}

/// Fires all timers: each once, those of a subtask in order.
fn fire_all(subtasks: Vec<Subtask>) -> Places {
    let mut fired = Places::new();
    for mut subtask in subtasks {
        let mut last = None;
        while let Some(timer) = subtask.pop(i64::MAX) {
            assert!(last < Some(timer), "out of order");
            last = Some(timer);
            assert!(fired.insert(timer), "fired twice");
        }
    }
    fired
}

/// The digest of these timers as a table on the heap has them.
fn digest_of(places: &Places) -> u64 {
    type Table = StateTable<i64, i64, ()>;
    let mut backend = KeyedStateBackend::new(setup(0, 1, Store::heap()));
    let table = backend.open::<Table>(Table::describe("timers")).unwrap();
    for (time, hash, key) in places {
        backend.get(table).insert(*hash, key, time, ());
    }
    let saved = backend.snapshot_now(checkpoint(1), ProcessingTime(0), Vec::new());
    canonical_digest(&[saved.unwrap()])
}

#[derive(Clone, Debug)]
enum Step {
    Register(i64, i64),
    /// Many timers of one key, one millisecond apart.
    Many(i64, i64),
    Delete(i64, i64),
    /// Deletes one that is set: which of them.
    DeleteSet(usize),
    Fire(i64, usize),
    AfterChunk,
    Barrier,
    Cut,
    Freeze,
    Abort,
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0..30i64, -50..1_000i64);
    prop_oneof![
        6 => place.prop_map(|(key, time)| Step::Register(key, time)),
        3 => (0..30i64, 0..900i64).prop_map(|(key, time)| Step::Many(key, time)),
        2 => (0..30i64, -50..1_000i64).prop_map(|(key, time)| Step::Delete(key, time)),
        4 => any::<usize>().prop_map(Step::DeleteSet),
        5 => (-50..1_100i64, 0..400usize).prop_map(|(upto, count)| Step::Fire(upto, count)),
        2 => Just(Step::AfterChunk),
        2 => Just(Step::Barrier),
        2 => Just(Step::Cut),
        2 => Just(Step::Freeze),
        1 => Just(Step::Abort),
        1 => any::<bool>().prop_map(Step::Crash),
    ]
}

struct Run {
    subtask: Subtask,
    live: Places,
    /// As of the barrier of the snapshot that runs, and of the one that is being frozen.
    barrier: Option<Places>,
    cut: Option<(Places, crate::UnsealedSnapshot)>,
    saved: Option<(Places, KeyedSnapshot, (KeyedSnapshot, StoreFiles))>,
    number: u64,
}

impl Run {
    fn fire(&mut self, upto: i64, count: usize) {
        for _ in 0..count {
            let first = self.live.first().copied().filter(|first| first.0 <= upto);
            let next = self.live.first().map(|first| first.0);
            assert_eq!(self.subtask.timers().peek_time(), next);
            assert_eq!(self.subtask.pop(upto), first);
            if first.is_none() {
                return;
            }
            self.live.pop_first();
        }
    }

    fn freeze(&mut self) {
        let Some((places, mut cut)) = self.cut.take() else {
            return;
        };
        cut.freeze().unwrap();
        self.subtask.backend.resume_writes();
        let sealed = cut.seal_in_store().unwrap();
        let canonical = KeyedSnapshot::from_bytes(cut.seal().unwrap().to_bytes()).unwrap();
        assert_eq!(
            canonical_digest(std::slice::from_ref(&canonical)),
            digest_of(&places)
        );
        let head = KeyedSnapshot::from_bytes(sealed.head.to_bytes()).unwrap();
        self.saved = Some((places, canonical, (head, sealed.files)));
    }

    fn restored(&self, from_files: bool) -> Vec<RestoredSnapshot> {
        let saved = self.saved.as_ref();
        let restored = saved.map(|(_, canonical, (head, files))| {
            if from_files {
                RestoredSnapshot {
                    snapshot: head.clone(),
                    files: Some(copied(files)),
                }
            } else {
                canonical.clone().into()
            }
        });
        restored.into_iter().collect()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Register(key, time) => {
                let hash = key.key_hash();
                self.subtask.timers().register(hash, &key, time);
                self.live.insert((time, hash, key));
            }
            Step::Many(key, time) => {
                (time..time + 200).for_each(|time| self.step(&Step::Register(key, time)));
            }
            Step::Delete(key, time) => {
                let hash = key.key_hash();
                self.subtask.timers().delete(hash, &key, time);
                self.live.remove(&(time, hash, key));
            }
            Step::DeleteSet(which) => {
                if let Some(at) = which.checked_rem(self.live.len()) {
                    let &(time, _, key) = self.live.iter().nth(at).unwrap();
                    self.step(&Step::Delete(key, time));
                }
            }
            Step::Fire(upto, count) => self.fire(upto, count),
            Step::AfterChunk => self.subtask.backend.after_chunk(ProcessingTime(0)).unwrap(),
            Step::Barrier if self.barrier.is_none() && self.cut.is_none() => {
                self.number += 1;
                let id = checkpoint(self.number);
                let begun = self.subtask.backend.begin_snapshot(id, ProcessingTime(0));
                begun.unwrap();
                self.barrier = Some(self.live.clone());
            }
            Step::Barrier => {}
            Step::Cut => {
                if let Some(places) = self.barrier.take() {
                    let taken = self.subtask.backend.take_snapshot().unwrap();
                    self.cut = Some((places, taken));
                }
            }
            Step::Freeze => self.freeze(),
            Step::Abort => {
                (self.barrier, self.cut) = (None, None);
                self.subtask.backend.abort_snapshot();
            }
            Step::Crash(from_files) => {
                (self.barrier, self.cut) = (None, None);
                self.live = self
                    .saved
                    .as_ref()
                    .map_or_else(Places::new, |s| s.0.clone());
                self.subtask = Subtask::start(self.restored(from_files), 0, 1);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn timers_over_a_store_are_a_sorted_set(steps in proptest::collection::vec(step(), 0..80)) {
        let mut run = Run {
            subtask: Subtask::start(Vec::new(), 0, 1),
            live: Places::new(),
            barrier: None,
            cut: None,
            saved: None,
            number: 0,
        };
        for step in &steps {
            run.step(step);
        }
        for last in [Step::Cut, Step::Freeze, Step::Barrier, Step::Cut, Step::Freeze] {
            run.step(&last);
        }
        for from_files in [true, false] {
            let start = |index| Subtask::start(run.restored(from_files), index, 3);
            let mut three: Vec<_> = (0..3).map(start).collect();
            let saved: Vec<_> = three.iter_mut().map(Subtask::saved).collect();
            prop_assert_eq!(&fire_all(three), &run.live);
            for parallelism in [1, 2] {
                // The largest store comes last: timers of others are there before its own.
                let again = || saved.iter().rev().map(|(head, files)| RestoredSnapshot {
                    snapshot: head.clone(),
                    files: Some(copied(files)),
                });
                let start = |index| Subtask::start(again().collect(), index, parallelism);
                let fewer = (0..parallelism).map(start).collect();
                prop_assert_eq!(&fire_all(fewer), &run.live);
            }
        }
        run.fire(i64::MAX, usize::MAX);
    }
}

#[test]
fn st23_many_timers_are_not_in_memory_and_the_far_ones_are_not_read() {
    let mut subtask = Subtask::start(Vec::new(), 0, 1);
    let far = 250_000i64;
    for key in 0..far {
        subtask.timers().register(key.key_hash(), &key, 1_000 + key);
        if key % 1_000 == 0 {
            subtask.backend.after_chunk(ProcessingTime(0)).unwrap();
        }
    }
    for key in far / 2..far {
        subtask.timers().delete(key.key_hash(), &key, 1_000 + key);
        if key % 1_000 == 0 {
            subtask.backend.after_chunk(ProcessingTime(0)).unwrap();
        }
    }
    subtask.backend.after_chunk(ProcessingTime(0)).unwrap();
    assert_eq!(subtask.factory.calls().fetches(), 0);
    assert_eq!(subtask.timers().report().misses, 0);
    let used = subtask.timers().used_bytes();
    assert!(used < 4 * NEAR_MAX * 200 + BATCH_ROWS * 200, "{used}");
    assert!(subtask.timers().len() <= 4 * NEAR_MAX);
    for key in 0..far / 2 {
        assert_eq!(subtask.pop(i64::MAX).unwrap().2, key);
    }
    assert_eq!(subtask.pop(i64::MAX), None);
}

#[test]
fn short_timers_never_come_to_the_store() {
    let mut subtask = Subtask::start(Vec::new(), 0, 1);
    for key in 0..50_000i64 {
        subtask.timers().register(key.key_hash(), &key, key);
        assert_eq!(subtask.pop(key).unwrap().2, key);
        subtask.backend.after_chunk(ProcessingTime(0)).unwrap();
    }
    assert_eq!(subtask.factory.calls().writes(), 0);
}
