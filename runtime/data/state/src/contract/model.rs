//! The model: what state should hold, in plain ordered maps with times beside the values.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::ProcessingTime;

use crate::ttl::TtlConfig;

/// The time to live of the timed states of the suite, in milliseconds.
pub(super) const TTL_MS: i64 = 50;

type Timed<V> = (V, ProcessingTime);

/// What the eight states of the suite should hold. Keys are (key, namespace), (key, map key), or (key, time).
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) value: BTreeMap<i64, String>,
    pub(super) list: BTreeMap<i64, Vec<Timed<i64>>>,
    pub(super) map: BTreeMap<(i64, i64), Timed<String>>,
    pub(super) reduced: BTreeMap<(i64, i64), Timed<i64>>,
    pub(super) aggregated: BTreeMap<(i64, i64), i64>,
    pub(super) sliced: BTreeMap<(i64, i64), u64>,
    pub(super) counted: BTreeMap<i64, u64>,
    pub(super) timers: BTreeSet<(i64, i64)>,
}

/// The model of a whole run.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) now: ProcessingTime,
    pub(super) live: Contents,
    /// As of the barrier of the running snapshot.
    pub(super) barrier: Option<Contents>,
    /// As of the last snapshot taken.
    pub(super) saved: Contents,
}

impl Model {
    /// Whether a value last accessed at `stamp` is gone by now.
    pub(super) fn is_expired(&self, stamp: ProcessingTime) -> bool {
        TtlConfig::after_write(TTL_MS).is_expired(stamp, self.now)
    }

    /// The list of `key`, less what expired.
    pub(super) fn list(&self, key: i64) -> Vec<i64> {
        let items = self.live.list.get(&key).into_iter().flatten();
        items
            .filter(|(_, stamp)| !self.is_expired(*stamp))
            .map(|&(item, _)| item)
            .collect()
    }

    /// The map entry, unless it expired.
    pub(super) fn map(&self, key: i64, map_key: i64) -> Option<&String> {
        let (value, stamp) = self.live.map.get(&(key, map_key))?;
        (!self.is_expired(*stamp)).then_some(value)
    }

    /// The reduced value, unless it expired.
    pub(super) fn reduced(&self, key: i64, namespace: i64) -> Option<i64> {
        let (value, stamp) = self.live.reduced.get(&(key, namespace))?;
        (!self.is_expired(*stamp)).then_some(*value)
    }
}
