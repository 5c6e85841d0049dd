//! Sliced state over a local store beside a plain model: random runs with barriers at any portion of a drain, drops while
//! the store is being frozen, crashes, rescales, and both forms of a restore.

#![allow(clippy::unwrap_used, reason = "helpers of a test unwrap as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_state::contract::{SlowMissFactory, copied};
use highwater_state::keyed::OpenState;
use highwater_state::{
    BackendSetup, Drained, KeyedSnapshot, KeyedStateBackend, MemoryBudget, RestoredSnapshot,
    SlicedState, StateHandle, StateReport, Store, UnsealedSnapshot, ValueState, canonical_digest,
};
use highwater_types::{
    CheckpointId, Epoch, Key, MaxParallelism, OperatorUid, Parallelism, ProcessingTime,
    SubtaskIndex,
};
use proptest::prelude::*;

type Counts = SlicedState<i64, i64, u64>;
type Flat = ValueState<i64, i64, u64>;
/// By namespace and key.
type Contents = BTreeMap<(i64, i64), u64>;

#[derive(Clone, Debug)]
enum Step {
    /// Counts these keys of a namespace.
    Add(i64, Vec<i64>),
    /// Removes a key.
    Take(i64, i64),
    Drop(i64),
    /// Drains at most so many entries.
    Drain(i64, usize),
    AfterChunk,
    Barrier,
    Advance(usize),
    /// Takes the snapshot; the store is frozen at the next `Freeze`.
    Cut,
    Freeze,
    Abort,
    /// Comes back from the last snapshot: at this parallelism, from files or canonical, on the heap or over a store.
    Crash(u32, bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (namespace, key) = (0..3i64, 0..40i64);
    prop_oneof![
        6 => (0..3i64, proptest::collection::vec(0..40i64, 0..24)).prop_map(|(n, keys)| Step::Add(n, keys)),
        1 => (namespace, key).prop_map(|(n, key)| Step::Take(n, key)),
        1 => (0..3i64).prop_map(Step::Drop),
        6 => (0..3i64, 1..9usize).prop_map(|(n, limit)| Step::Drain(n, limit)),
        3 => Just(Step::AfterChunk),
        3 => Just(Step::Barrier),
        1 => (0..12usize).prop_map(Step::Advance),
        3 => Just(Step::Cut),
        3 => Just(Step::Freeze),
        1 => Just(Step::Abort),
        1 => (1..4u32, any::<bool>(), any::<bool>()).prop_map(|(n, files, local)| Step::Crash(n, files, local)),
    ]
}

struct Subtask {
    backend: KeyedStateBackend,
    counts: StateHandle<Counts>,
    cut: Option<UnsealedSnapshot>,
}

struct Saved {
    canonical: KeyedSnapshot,
    again: Option<(KeyedSnapshot, highwater_state::StoreFiles)>,
}

struct Run {
    subtasks: Vec<Subtask>,
    checkpoint: u64,
    live: Contents,
    barrier: Option<Contents>,
    /// The contents of the snapshot that is being frozen.
    cut: Option<Contents>,
    saved_contents: Contents,
    saved: Vec<Saved>,
}

fn groups() -> MaxParallelism {
    MaxParallelism::try_new(8).unwrap()
}

fn store(is_local: bool) -> Store {
    let factory = Arc::new(SlowMissFactory::default());
    if is_local {
        Store::Local { factory }
    } else {
        Store::Heap {
            reads: Some(factory),
        }
    }
}

impl Saved {
    fn restored(&self, from_files: bool) -> RestoredSnapshot {
        match &self.again {
            Some((head, files)) if from_files => RestoredSnapshot {
                snapshot: head.clone(),
                files: Some(copied(files)),
            },
            _ => self.canonical.clone().into(),
        }
    }
}

impl Run {
    fn start(parallelism: u32, cache: u64) -> Self {
        let mut run = Self {
            subtasks: Vec::new(),
            checkpoint: 0,
            live: Contents::new(),
            barrier: None,
            cut: None,
            saved_contents: Contents::new(),
            saved: Vec::new(),
        };
        run.deploy(parallelism, false, true, cache);
        run
    }

    fn deploy(&mut self, parallelism: u32, from_files: bool, is_local: bool, cache: u64) {
        self.subtasks.clear();
        for index in 0..parallelism {
            let range = groups().range(SubtaskIndex(index), Parallelism(parallelism));
            let setup = BackendSetup {
                uid: OperatorUid::parse("windows").unwrap(),
                subtask: SubtaskIndex(index),
                range,
                max_parallelism: groups(),
                budget: MemoryBudget::with_cache(u64::MAX, cache),
                store: store(is_local),
            };
            let meets = self
                .saved
                .iter()
                .filter(|saved| saved.canonical.range.intersects(range));
            let snapshots = meets.map(|saved| saved.restored(from_files)).collect();
            let mut backend =
                KeyedStateBackend::restore(setup, snapshots, ProcessingTime(0)).unwrap();
            let counts = backend.open::<Counts>(Counts::describe("counts")).unwrap();
            self.subtasks.push(Subtask {
                backend,
                counts,
                cut: None,
            });
        }
    }

    fn owner(&self, key: i64) -> usize {
        let group = key.key_hash().group(groups());
        let parallelism = Parallelism(self.subtasks.len() as u32);
        groups().owner(group, parallelism).0 as usize
    }

    fn add(&mut self, namespace: i64, keys: &[i64]) {
        for &key in keys {
            let owner = self.owner(key);
            let Subtask {
                backend, counts, ..
            } = &mut self.subtasks[owner];
            let slice = backend.get(*counts).slice(&namespace);
            slice.prepare([(key.key_hash(), &key, &())]).unwrap();
            let place = (key.key_hash(), &key, &());
            let count = slice.upsert(
                place,
                || 0,
                |count| {
                    *count += 1;
                    *count
                },
            );
            let expected = self.live.entry((namespace, key)).or_default();
            *expected += 1;
            assert_eq!(count, *expected, "count of {key} in {namespace}");
        }
    }

    fn take(&mut self, namespace: i64, key: i64) {
        let owner = self.owner(key);
        let Subtask {
            backend, counts, ..
        } = &mut self.subtasks[owner];
        let state = backend.get(*counts);
        let taken = if state.namespaces().any(|held| *held == namespace) {
            state.slice(&namespace).take(key.key_hash(), &key, &())
        } else {
            None
        };
        assert_eq!(taken, self.live.remove(&(namespace, key)));
    }

    fn drain(&mut self, namespace: i64, limit: usize) {
        for Subtask {
            backend, counts, ..
        } in &mut self.subtasks
        {
            let mut portion = Vec::new();
            let drained = backend
                .get(*counts)
                .drain(&namespace, limit, |hash, key, count| {
                    assert_eq!(hash, key.key_hash());
                    portion.push((key, count));
                });
            assert!(portion.len() <= limit);
            for (key, count) in portion {
                let expected = self.live.remove(&(namespace, key));
                assert_eq!(Some(count), expected, "{key} in {namespace}");
            }
            if drained.unwrap() == Drained::All {
                let own: BTreeSet<_> = backend.range().groups().collect();
                let is_left = |&&(n, key): &&(i64, i64)| {
                    n == namespace && own.contains(&key.key_hash().group(groups()))
                };
                assert_eq!(self.live.keys().find(is_left), None, "an entry was left");
            }
        }
    }

    fn barrier(&mut self) {
        if self.barrier.is_some() || self.cut.is_some() {
            return;
        }
        self.checkpoint += 1;
        let id = CheckpointId {
            number: self.checkpoint,
            epoch: Epoch(1),
        };
        self.barrier = Some(self.live.clone());
        for subtask in &mut self.subtasks {
            subtask
                .backend
                .begin_snapshot(id, ProcessingTime(0))
                .unwrap();
        }
    }

    fn cut(&mut self) {
        let Some(contents) = self.barrier.take() else {
            return;
        };
        self.cut = Some(contents);
        for subtask in &mut self.subtasks {
            subtask.cut = Some(subtask.backend.take_snapshot().unwrap());
        }
    }

    fn freeze(&mut self) {
        let Some(contents) = self.cut.take() else {
            return;
        };
        self.saved_contents = contents;
        self.saved.clear();
        for subtask in &mut self.subtasks {
            let mut cut = subtask.cut.take().unwrap();
            cut.freeze().unwrap();
            subtask.backend.resume_writes();
            let again = cut.is_in_store().then(|| {
                let sealed = cut.seal_in_store().unwrap();
                let head = KeyedSnapshot::from_bytes(sealed.head.to_bytes()).unwrap();
                (head, sealed.files)
            });
            self.saved.push(Saved {
                canonical: KeyedSnapshot::from_bytes(cut.seal().unwrap().to_bytes()).unwrap(),
                again,
            });
        }
        let saved: Vec<_> = self
            .saved
            .iter()
            .map(|saved| saved.canonical.clone())
            .collect();
        let expected = digest_of(&self.saved_contents);
        assert_eq!(
            canonical_digest(&saved),
            expected,
            "of {:?}",
            self.saved_contents
        );
    }

    fn abort(&mut self) {
        self.barrier = None;
        self.cut = None;
        for subtask in &mut self.subtasks {
            subtask.cut = None;
            subtask.backend.abort_snapshot();
        }
    }

    fn step(&mut self, step: &Step, cache: u64) {
        match step {
            Step::Add(namespace, keys) => self.add(*namespace, keys),
            Step::Take(namespace, key) => self.take(*namespace, *key),
            Step::Drop(namespace) => {
                for Subtask {
                    backend, counts, ..
                } in &mut self.subtasks
                {
                    backend.get(*counts).drop_slice(namespace);
                }
                self.live.retain(|(held, _), _| held != namespace);
            }
            Step::Drain(namespace, limit) => self.drain(*namespace, *limit),
            Step::AfterChunk => {
                for subtask in &mut self.subtasks {
                    subtask.backend.after_chunk(ProcessingTime(0)).unwrap();
                }
            }
            Step::Barrier => self.barrier(),
            Step::Advance(entries) => {
                if self.barrier.is_some() {
                    for subtask in &mut self.subtasks {
                        subtask.backend.advance_snapshot(*entries).unwrap();
                    }
                }
            }
            Step::Cut => self.cut(),
            Step::Freeze => self.freeze(),
            Step::Abort => self.abort(),
            Step::Crash(parallelism, from_files, is_local) => {
                (self.barrier, self.cut) = (None, None);
                self.live = self.saved_contents.clone();
                self.deploy(*parallelism, *from_files, *is_local, cache);
            }
        }
    }

    /// What the state of the first subtask holds and did.
    fn report(&self) -> StateReport {
        self.subtasks[0].backend.reports().remove(0)
    }

    fn drain_all(&mut self) {
        for namespace in 0..3 {
            let mut portions = 0;
            while self.live.keys().any(|&(held, _)| held == namespace) && portions < 200 {
                self.drain(namespace, 7);
                portions += 1;
            }
        }
        assert_eq!(self.live, Contents::new(), "everything is drained");
    }
}

/// The digest of these contents on the heap.
fn digest_of(contents: &Contents) -> u64 {
    let mut backend = KeyedStateBackend::new(BackendSetup {
        uid: OperatorUid::parse("windows").unwrap(),
        subtask: SubtaskIndex(0),
        range: groups().range(SubtaskIndex(0), Parallelism(1)),
        max_parallelism: groups(),
        budget: MemoryBudget::unlimited(),
        store: Store::heap(),
    });
    let flat = backend.open::<Flat>(Flat::describe("counts")).unwrap();
    for ((namespace, key), count) in contents {
        let at = highwater_state::KeyContext::new(key.key_hash(), key, ProcessingTime(0));
        backend.get(flat).set(at.in_namespace(namespace), *count);
    }
    let id = CheckpointId {
        number: 1,
        epoch: Epoch(1),
    };
    let saved = backend.snapshot_now(id, ProcessingTime(0), Vec::new());
    canonical_digest(&[saved.unwrap()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn slices_over_a_store_are_those_of_the_model(
        steps in proptest::collection::vec(step(), 0..60),
        cache in prop_oneof![Just(1u64), Just(2_000), Just(u64::MAX)],
    ) {
        let mut run = Run::start(2, cache);
        for step in &steps {
            run.step(step, cache);
        }
        run.cut();
        run.freeze();
        run.drain_all();
        run.barrier();
        run.cut();
        run.freeze();
        run.deploy(3, true, true, cache);
        run.drain_all();
    }
}

#[test]
fn a_barrier_at_every_portion_of_a_drain_holds_what_was_not_drained() {
    for cache in [1, 3_000, u64::MAX] {
        let mut run = Run::start(1, cache);
        let keys: Vec<_> = (0..200).collect();
        run.add(0, &keys[..120]);
        run.barrier();
        run.cut();
        run.freeze();
        run.step(&Step::AfterChunk, cache);
        run.add(0, &keys[60..]);
        run.step(&Step::AfterChunk, cache);
        let mut barriers = 0;
        while !run.live.is_empty() {
            run.barrier();
            run.drain(0, 3);
            run.step(&Step::Advance(5), cache);
            run.drain(0, 3);
            run.cut();
            run.drain(0, 3);
            run.freeze();
            run.step(&Step::AfterChunk, cache);
            barriers += 1;
        }
        assert!(barriers > 15, "{barriers}");
        run.deploy(2, true, true, cache);
        run.live = run.saved_contents.clone();
        run.drain_all();
    }
}

#[test]
fn a_window_that_came_again_while_the_store_was_frozen_can_go_again() {
    let mut run = Run::start(2, 1);
    run.add(2, &[0]);
    run.barrier();
    run.drain(2, 2);
    run.cut();
    run.add(2, &[2]);
    run.freeze();
    run.barrier();
    run.step(&Step::Drop(2), 1);
    run.cut();
    run.freeze();
    run.drain_all();
}

#[test]
fn what_a_state_has_counted_stays_when_a_window_goes() {
    let mut run = Run::start(1, u64::MAX);
    let keys: Vec<_> = (0..100).collect();
    run.add(0, &keys);
    run.add(1, &keys);
    run.barrier();
    // Owed to the snapshot, and gone with it.
    run.step(&Step::Drop(1), u64::MAX);
    run.cut();
    run.freeze();
    assert_eq!(run.report().rows_written, 200);
    run.drain(0, 1_000);
    assert_eq!(run.report().rows_written, 200, "of windows that fired");
    let before = run.report();
    let Subtask {
        backend, counts, ..
    } = &mut run.subtasks[0];
    let slice = backend.get(*counts).slice(&2);
    slice.prepare([(7i64.key_hash(), &7, &())]).unwrap();
    run.step(&Step::AfterChunk, u64::MAX);
    let expected = StateReport {
        known_absent: before.known_absent + 1,
        ..before
    };
    assert_eq!(run.report(), expected, "of a window that got nothing");
}
