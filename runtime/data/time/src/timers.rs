//! Timers: unique per (key, namespace, time), ordered by time, kept per key group in a snapshot.
//!
//! Called by keyed operators, once with event time and once with processing time. The caller takes due timers one by one
//! and so may stop after a bounded number (HB-52); a timer that a callback registers at a time that is already due is
//! taken in the same pass (T-06). Order is time, then hash, then encoded key and namespace: the same in every run.

use std::collections::BTreeMap;

use highwater_types::record::{DecodeError, decode_length, encode_length};
use highwater_types::{
    Classified, ErrorKind, Key, KeyGroup, KeyGroupRange, KeyHash, MaxParallelism, Record,
};

/// Stored timers that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the timers of key group {group} cannot be read")]
pub struct TimerRestoreError {
    /// The key group.
    pub group: KeyGroup,
    /// What is wrong.
    #[source]
    pub source: DecodeError,
}

impl Classified for TimerRestoreError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// A timer that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer<K, N> {
    /// The time it was set for, in milliseconds since the Unix epoch.
    pub time: i64,
    /// The hash of its key.
    pub hash: KeyHash,
    /// Its key.
    pub key: K,
    /// Its namespace: the window, or `()`.
    pub namespace: N,
}

/// What orders timers of one time: the hash, then the encoded key and namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    time: i64,
    hash: KeyHash,
    encoded: Vec<u8>,
}

impl Place {
    fn of<K: Key, N: Record>(time: i64, hash: KeyHash, key: &K, namespace: &N) -> Self {
        let mut encoded = Vec::new();
        key.encode(&mut encoded);
        namespace.encode(&mut encoded);
        Self {
            time,
            hash,
            encoded,
        }
    }
}

/// The timers of one time domain of one operator subtask.
///
/// Source: Flink `InternalTimerService`.
#[derive(Clone, Debug)]
pub struct Timers<K, N> {
    waiting: BTreeMap<Place, (K, N)>,
}

impl<K, N> Default for Timers<K, N> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
        }
    }
}

impl<K: Key, N: Record> Timers<K, N> {
    /// No timers.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many timers wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sets a timer; `false` = it was set already.
    pub fn register(&mut self, hash: KeyHash, key: &K, namespace: &N, time: i64) -> bool {
        let place = Place::of(time, hash, key, namespace);
        let value = (key.clone(), namespace.clone());
        self.waiting.insert(place, value).is_none()
    }

    /// Takes a timer back; `false` = there was none.
    pub fn delete(&mut self, hash: KeyHash, key: &K, namespace: &N, time: i64) -> bool {
        self.waiting
            .remove(&Place::of(time, hash, key, namespace))
            .is_some()
    }

    /// The time of the first timer.
    pub fn peek_time(&self) -> Option<i64> {
        self.waiting.first_key_value().map(|(place, _)| place.time)
    }

    /// Takes the first timer whose time is `<= upto`.
    pub fn pop_due(&mut self, upto: i64) -> Option<Timer<K, N>> {
        let first = self
            .waiting
            .first_entry()
            .filter(|entry| entry.key().time <= upto)?;
        let (place, (key, namespace)) = first.remove_entry();
        Some(Timer {
            time: place.time,
            hash: place.hash,
            key,
            namespace,
        })
    }

    /// The timers of each key group that has any, encoded in order.
    pub fn snapshot(&self, max_parallelism: MaxParallelism) -> BTreeMap<KeyGroup, Vec<u8>> {
        let mut groups: BTreeMap<KeyGroup, (u64, Vec<u8>)> = BTreeMap::new();
        for place in self.waiting.keys() {
            let (count, bytes) = groups.entry(place.hash.group(max_parallelism)).or_default();
            *count += 1;
            place.time.encode(bytes);
            place.hash.0.encode(bytes);
            bytes.extend_from_slice(&place.encoded);
        }
        let framed = |(count, body): (u64, Vec<u8>)| {
            let mut bytes = Vec::with_capacity(body.len() + 4);
            encode_length(count, &mut bytes);
            bytes.extend_from_slice(&body);
            bytes
        };
        groups
            .into_iter()
            .map(|(group, timers)| (group, framed(timers)))
            .collect()
    }

    /// Adds the timers of one key group; those of groups outside of `range` are left out.
    pub fn restore(
        &mut self,
        range: KeyGroupRange,
        group: KeyGroup,
        mut bytes: &[u8],
    ) -> Result<(), TimerRestoreError> {
        if !range.contains(group) {
            return Ok(());
        }
        let damaged = |source| TimerRestoreError { group, source };
        let count = decode_length(&mut bytes).map_err(damaged)?;
        for _ in 0..count {
            let time = i64::decode(&mut bytes).map_err(damaged)?;
            let hash = KeyHash(u64::decode(&mut bytes).map_err(damaged)?);
            let key = K::decode(&mut bytes).map_err(damaged)?;
            let namespace = N::decode(&mut bytes).map_err(damaged)?;
            if key.key_hash() != hash {
                let value = hash.0;
                return Err(damaged(DecodeError::Value {
                    what: "timer hash",
                    value,
                }));
            }
            self.register(hash, &key, &namespace, time);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        Err(damaged(DecodeError::Value {
            what: "timer count",
            value: count,
        }))
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{Parallelism, SubtaskIndex};
    use proptest::prelude::*;

    use super::*;

    fn register(timers: &mut Timers<u32, i64>, key: u32, namespace: i64, time: i64) -> bool {
        timers.register(key.key_hash(), &key, &namespace, time)
    }

    fn fire(timers: &mut Timers<u32, i64>, upto: i64) -> Vec<(i64, u32, i64)> {
        std::iter::from_fn(|| timers.pop_due(upto))
            .map(|timer| (timer.time, timer.key, timer.namespace))
            .collect()
    }

    #[test]
    fn t06_a_thousand_registrations_fire_once() {
        let mut timers = Timers::new();
        assert!(register(&mut timers, 1, 0, 10));
        assert!((0..999).all(|_| !register(&mut timers, 1, 0, 10)));
        assert!(
            register(&mut timers, 1, 5, 10),
            "another namespace is another timer"
        );
        assert_eq!(fire(&mut timers, 10).len(), 2);
        assert!(timers.is_empty());
    }

    #[test]
    fn t06_a_timer_registered_while_firing_fires_in_the_same_pass() {
        let mut timers = Timers::new();
        register(&mut timers, 1, 0, 10);
        let mut fired = Vec::new();
        while let Some(timer) = timers.pop_due(20) {
            fired.push(timer.time);
            register(&mut timers, 1, 0, timer.time + 6);
        }
        assert_eq!(fired, [10, 16]);
        assert_eq!(timers.peek_time(), Some(22));
    }

    #[test]
    fn t07_overdue_timers_fire_once_in_time_order_after_a_restore() {
        let mut timers = Timers::new();
        for time in [30, 10, 20, -5] {
            register(&mut timers, 7, 0, time);
        }
        let max = MaxParallelism::DEFAULT;
        let mut restored = Timers::new();
        let all = max.range(SubtaskIndex(0), Parallelism(1));
        for (group, bytes) in timers.snapshot(max) {
            restored.restore(all, group, &bytes).unwrap();
        }
        let due: Vec<_> = fire(&mut restored, 25)
            .into_iter()
            .map(|fired| fired.0)
            .collect();
        assert_eq!(due, [-5, 10, 20]);
    }

    proptest! {
        #[test]
        fn timers_behave_like_a_sorted_set_and_survive_any_rescale(
            operations in prop::collection::vec((0u32..20, 0i64..3, -50i64..50, any::<bool>()), 0..200),
            parallelism in 1u32..9,
        ) {
            let max = MaxParallelism::DEFAULT;
            let mut model = std::collections::BTreeSet::new();
            let mut timers = Timers::new();
            for (key, namespace, time, add) in operations {
                if add {
                    let added = register(&mut timers, key, namespace, time);
                    prop_assert_eq!(added, model.insert((time, key, namespace)));
                } else {
                    let deleted = timers.delete(key.key_hash(), &key, &namespace, time);
                    prop_assert_eq!(deleted, model.remove(&(time, key, namespace)));
                }
            }
            let snapshot = timers.snapshot(max);
            let mut fired = Vec::new();
            for index in 0..parallelism {
                let range = max.range(SubtaskIndex(index), Parallelism(parallelism));
                let mut part = Timers::new();
                for (group, bytes) in &snapshot {
                    part.restore(range, *group, bytes).unwrap();
                }
                fired.extend(fire(&mut part, i64::MAX));
            }
            fired.sort_unstable();
            prop_assert_eq!(fired, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn damaged_bytes_are_refused_with_the_key_group() {
        let mut timers: Timers<u32, i64> = Timers::new();
        let all = KeyGroupRange { start: 0, end: 720 };
        let error = timers.restore(all, KeyGroup(5), &[2, 0, 0]).unwrap_err();
        assert!(error.to_string().contains("key group 5"));
        assert!(
            timers.restore(all, KeyGroup(5), &[0, 7]).is_err(),
            "bytes are left over"
        );
    }
}
