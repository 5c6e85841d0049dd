//! The workload: what flows in, what has to come out, and what state has to be at any positions.
//!
//! Splits hold records of keys that no other split has, numbered per key. The job counts and sums per key: sink `x` gets
//! count and sum for each record, sink `y` one record for each timer (every fourth record of a key sets one). Everything
//! is a function of the source positions alone, whatever the interleaving, so the ledger (O1) and the digest of any
//! checkpoint (O7) are computed here and compared there.

use std::collections::BTreeMap;

use highwater_types::key::hash_bytes;
use highwater_types::{KeyGroup, MaxParallelism, Parallelism};

use crate::kafka::Value;
use crate::rng::Rng;

/// Key groups of the job.
pub(crate) const KEY_GROUPS: u32 = 12;
const KEYS_PER_SPLIT: u64 = 6;
/// Event time from one record of a split to the next.
const TIME_STEP: i64 = 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct InRecord {
    pub(crate) split: u32,
    pub(crate) offset: u64,
    pub(crate) key: u32,
    pub(crate) seq: u64,
    pub(crate) amount: i64,
    pub(crate) time: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub(crate) name: String,
    /// 0 or 1.
    pub(crate) source: u32,
    /// When the split exists.
    pub(crate) appears: u64,
    gap: u64,
    pub(crate) records: Vec<InRecord>,
}

#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) splits: Vec<Split>,
}

/// The state of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyState {
    pub(crate) count: u64,
    pub(crate) sum: i64,
    pub(crate) seq: u64,
    pub(crate) split: u32,
    /// Due time and the offset of the record that set it.
    pub(crate) timers: BTreeMap<i64, u64>,
}

pub(crate) fn key_group(key: u32) -> KeyGroup {
    let groups = MaxParallelism::try_new(KEY_GROUPS).expect("a dozen is in range");
    hash_bytes(&u64::from(key).to_le_bytes()).group(groups)
}

/// Which of `parallelism` aggregating tasks owns a key.
pub(crate) fn owner(key: u32, parallelism: u32) -> u32 {
    let groups = MaxParallelism::try_new(KEY_GROUPS).expect("a dozen is in range");
    groups.owner(key_group(key), Parallelism(parallelism)).0
}

impl Workload {
    pub(crate) fn new(rng: &mut Rng, splits: u64, records: u64, late_split: bool) -> Self {
        let split = |at: u64| {
            let mut counts = BTreeMap::<u32, u64>::new();
            let listed = (0..records).map(|offset| {
                let key = (at * KEYS_PER_SPLIT + rng.next() % KEYS_PER_SPLIT) as u32;
                let seq = counts.entry(key).or_default();
                *seq += 1;
                InRecord {
                    split: at as u32,
                    offset,
                    key,
                    seq: *seq,
                    amount: rng.between(1, 1000) as i64,
                    time: offset as i64 * TIME_STEP,
                }
            });
            Split {
                name: format!("split-{at}"),
                source: (at % 2) as u32,
                appears: if late_split && at + 1 == splits {
                    900_000
                } else {
                    0
                },
                gap: 2_600_000 / (records + 1),
                records: listed.collect(),
            }
        };
        Self {
            splits: (0..splits).map(split).collect(),
        }
    }

    pub(crate) fn index(&self, name: &str) -> usize {
        let found = self.splits.iter().position(|split| split.name == name);
        found.expect("only splits of the workload are named")
    }

    /// How many records of a split exist at `now`.
    pub(crate) fn available(&self, split: usize, now: u64) -> u64 {
        let split = &self.splits[split];
        let passed = now.saturating_sub(split.appears) / split.gap;
        passed.min(split.records.len() as u64)
    }

    /// What has to be visible in the end, if each split is read from `start` on.
    pub(crate) fn expected(&self, start: &BTreeMap<u32, u64>) -> Vec<Value> {
        let mut values = Vec::new();
        let mut states = BTreeMap::new();
        for (at, split) in self.splits.iter().enumerate() {
            let from = start.get(&(at as u32)).copied().unwrap_or(0) as usize;
            for record in &split.records[from..] {
                let state: &mut KeyState = states.entry(record.key).or_default();
                values.push(apply(state, record));
            }
        }
        for (key, state) in states {
            for (due, offset) in state.timers {
                values.push(Value::Timer {
                    split: state.split,
                    offset,
                    key,
                    due,
                });
            }
        }
        values.sort();
        values
    }

    /// The state without timers at `positions`, if each split was read from `start` on.
    pub(crate) fn state_at(
        &self,
        start: &BTreeMap<u32, u64>,
        positions: &BTreeMap<u32, u64>,
    ) -> BTreeMap<u32, KeyState> {
        let mut states = BTreeMap::<u32, KeyState>::new();
        for (&at, &upto) in positions {
            let from = start.get(&at).copied().unwrap_or(0) as usize;
            for record in &self.splits[at as usize].records[from..upto as usize] {
                apply(states.entry(record.key).or_default(), record);
            }
        }
        for state in states.values_mut() {
            state.timers.clear();
        }
        states
    }
}

/// Counts one record; sets a timer at every fourth one of a key.
pub(crate) fn apply(state: &mut KeyState, record: &InRecord) -> Value {
    state.count += 1;
    state.sum += record.amount;
    state.seq = record.seq;
    state.split = record.split;
    if state.count.is_multiple_of(4) {
        state.timers.insert(record.time + 35, record.offset);
    }
    Value::Out {
        split: record.split,
        offset: record.offset,
        key: record.key,
        count: state.count,
        sum: state.sum,
    }
}
