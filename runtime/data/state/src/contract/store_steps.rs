//! Random runs of a local store: writes, drops, freezes, reopening and rescales in any order, against sorted maps.

use std::collections::BTreeMap;

use highwater_types::KeyGroupRange;

use super::slow_miss::copied;
use super::steps::Numbers;
use super::stores::{
    RANGE, assert_rows, freeze, frozen_rows, good, key, place, place_of, scanned, state,
};
use crate::backing::{Backing, RowKey, RowWrite};
use crate::store::{FrozenStore, StateStore, StoreFactory, StorePlace};

/// What a state of the model holds.
pub(super) type Rows = BTreeMap<RowKey, Vec<u8>>;

/// States of a run.
const STATES: [&str; 3] = ["a", "b", "state with spaces"];

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreStep {
    /// Writes rows of one state: key, and value or deletion.
    Write(u8, Vec<(u8, Option<u8>)>),
    /// Drops the rows of one state between two keys.
    DropRange(u8, u8, u8),
    /// Reads keys of one state.
    Fetch(u8, Vec<u8>),
    /// Reads a range of one state, some rows of it.
    Scan(u8, u8, u8, u8),
    /// Freezes the store and keeps what is frozen to the end.
    Freeze,
    /// Freezes the store, loses it, and goes on from the files.
    Reopen,
    /// Goes on from the files with the key groups from that of one key to that of the other, and from the files of that with
    /// all of them: the rows of the others are gone.
    Rescale(u8, u8),
}

/// Row keys of a run: 256 of them, over the groups of the store, in the order of the numbers.
fn key_of(number: u8) -> RowKey {
    let groups = RANGE.end - RANGE.start;
    let group = RANGE.start + u16::from(number) * groups / 256;
    // Some keys are a prefix of others.
    let bytes = [number - number % 2, number];
    key(group, &bytes[..=usize::from(number % 2)])
}

/// A value whose length tells it apart too.
fn value_of(value: u8) -> Vec<u8> {
    vec![value; usize::from(value)]
}

struct Run<'a> {
    factory: &'a dyn StoreFactory,
    store: Box<dyn StateStore>,
    rows: Vec<Box<dyn Backing>>,
    model: Vec<Rows>,
    frozen: Vec<(Box<dyn FrozenStore>, Vec<Rows>)>,
}

/// Runs `steps` on a new store and on the model.
///
/// # Panics
/// At the first step where the two differ.
pub fn check_store_steps(factory: &dyn StoreFactory, steps: &[StoreStep]) {
    let store = good(factory.create(&place()));
    let mut run = Run {
        factory,
        store,
        rows: Vec::new(),
        model: vec![Rows::new(); STATES.len()],
        frozen: Vec::new(),
    };
    run.open();
    for (at, step) in steps.iter().enumerate() {
        run.step(step, &format!("step {at}, {step:?}"));
    }
    run.step(&StoreStep::Reopen, "at the end");
    for (frozen, model) in &mut run.frozen {
        for (state, model) in STATES.iter().zip(model) {
            let found = frozen_rows(&mut **frozen, state, RANGE);
            let expected = model
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()));
            assert_eq!(
                found,
                expected.collect::<Vec<_>>(),
                "frozen rows of `{state}`"
            );
        }
    }
}

impl Run<'_> {
    fn open(&mut self) {
        self.rows = STATES
            .iter()
            .map(|name| good(self.store.open(&state(name))))
            .collect();
    }

    fn step(&mut self, step: &StoreStep, at: &str) {
        match step {
            StoreStep::Write(state, rows) => self.write(usize::from(*state) % STATES.len(), rows),
            StoreStep::DropRange(state, from, until) => {
                let state = usize::from(*state) % STATES.len();
                let (from, until) = (key_of(*from), key_of(*until));
                good(self.rows[state].drop_range(&from, &until));
                self.model[state].retain(|key, _| *key < from || *key >= until);
            }
            StoreStep::Fetch(state, keys) => {
                self.fetch(usize::from(*state) % STATES.len(), keys, at);
            }
            StoreStep::Scan(state, from, until, limit) => {
                let state = usize::from(*state) % STATES.len();
                let (from, until) = (key_of(*from), key_of(*until));
                let limit = usize::from(*limit);
                let found = scanned(&mut *self.rows[state], (&from, &until), limit);
                let held = self.model[state].iter();
                let expected = held.filter(|(key, _)| from <= **key && **key < until);
                let expected = expected.map(|(key, value)| (key.clone(), value.clone()));
                assert_eq!(found, expected.take(limit).collect::<Vec<_>>(), "{at}");
            }
            StoreStep::Freeze => {
                let frozen = freeze(&mut *self.store);
                self.frozen.push((frozen, self.model.clone()));
            }
            StoreStep::Reopen => self.reopen(&place(), at),
            StoreStep::Rescale(a, b) => {
                let (a, b) = (key_of(*a).group.0, key_of(*b).group.0);
                let own = KeyGroupRange {
                    start: a.min(b),
                    end: a.max(b) + 1,
                };
                for model in &mut self.model {
                    model.retain(|key, _| own.contains(key.group));
                }
                self.reopen(&place_of(own, RANGE), at);
                self.reopen(&place_of(RANGE, own), at);
            }
        }
    }

    /// Loses the store and goes on from its files.
    fn reopen(&mut self, place: &StorePlace, at: &str) {
        let files = copied(&good(freeze(&mut *self.store).files()));
        self.rows.clear();
        self.store = good(self.factory.reopen(place, files));
        self.open();
        for (rows, model) in self.rows.iter_mut().zip(&self.model) {
            assert_rows(&mut **rows, model, at);
        }
    }

    fn write(&mut self, state: usize, rows: &[(u8, Option<u8>)]) {
        let batch = rows
            .iter()
            .map(|(key, value)| (key_of(*key), value.map(value_of)))
            .collect::<BTreeMap<_, _>>();
        if batch.is_empty() {
            return;
        }
        for (key, value) in &batch {
            match value {
                Some(value) => self.model[state].insert(key.clone(), value.clone()),
                None => self.model[state].remove(key),
            };
        }
        let batch = batch
            .into_iter()
            .map(|(key, value)| RowWrite { key, value })
            .collect::<Vec<_>>();
        good(self.rows[state].write(&batch));
    }

    fn fetch(&mut self, state: usize, keys: &[u8], at: &str) {
        let mut keys = keys.iter().map(|key| key_of(*key)).collect::<Vec<_>>();
        keys.sort();
        keys.dedup();
        if keys.is_empty() {
            return;
        }
        let mut found = Vec::new();
        good(self.rows[state].fetch(&keys, &mut found));
        let expected = keys.iter().map(|key| self.model[state].get(key).cloned());
        assert_eq!(found, expected.collect::<Vec<_>>(), "{at}");
    }
}

/// A run of `steps` steps that `seed` decides.
pub fn seeded_store_steps(seed: u64, steps: usize) -> Vec<StoreStep> {
    let mut numbers = Numbers(seed);
    let mut draw = || numbers.next();
    let mut step = || {
        let state = draw();
        match draw() % 16 {
            0..=7 => {
                let count = draw() % 40;
                let rows = (0..count).map(|_| (draw(), (draw() % 5 > 0).then(&mut draw)));
                StoreStep::Write(state, rows.collect())
            }
            8 => StoreStep::DropRange(state, draw(), draw()),
            9..=11 => {
                let count = draw() % 40;
                StoreStep::Fetch(state, (0..count).map(|_| draw()).collect())
            }
            12 | 13 => StoreStep::Scan(state, draw(), draw(), draw()),
            14 => StoreStep::Freeze,
            _ => match draw() % 2 {
                0 => StoreStep::Reopen,
                _ => StoreStep::Rescale(draw(), draw()),
            },
        }
    };
    (0..steps).map(|_| step()).collect()
}
