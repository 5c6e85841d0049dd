//! Hot keys: which keys had a large share of the last records of a subtask, by a sample.
//!
//! Kept by the link of each operator that gets keyed chunks. A few records of each chunk are looked at, and the keys that were seen most are
//! counted in a table of fixed size: what a chunk costs does not depend on its size, and nothing is allocated. The rule: only hashes are
//! kept. What a key says is data of the job.
//!
//! Source: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (Space-Saving).

use std::cmp::Reverse;

use highwater_types::KeyHash;
use serde::{Deserialize, Serialize};

/// Keys that are counted at once. A key with a larger share than one of so many is always among them.
const KEYS: usize = 32;
/// Records of a chunk that are looked at.
const LOOKS_MAX: usize = 4;
/// After so many looks all counts are halved, so that what was long ago weighs little.
const LOOKS_KEPT: u64 = 4_096;
/// Fewer looks say nothing.
const LOOKS_MIN: u64 = 512;
/// Keys that are told.
const TOLD_MAX: usize = 5;
/// The least share that is told, in percent.
const PERCENT_MIN: u64 = 1;

/// A key with many records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKey {
    /// The hash of the key.
    pub hash: u64,
    /// Its records, at least.
    pub records: u64,
    /// Of so many.
    pub of: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    hash: u64,
    count: u64,
    /// By how much `count` may be too large: what the key had whose place it took.
    error: u64,
}

/// The keys of one subtask.
#[derive(Clone, Debug)]
pub(crate) struct HotKeys {
    keys: [Counted; KEYS],
    used: usize,
    total: u64,
    /// Looks since the counts were halved.
    looks: u64,
    /// Whether there were looks enough to say anything.
    has_looked: bool,
    chance: u64,
}

impl HotKeys {
    pub(crate) const fn new() -> Self {
        let none = Counted {
            hash: 0,
            count: 0,
            error: 0,
        };
        Self {
            keys: [none; KEYS],
            used: 0,
            total: 0,
            looks: 0,
            has_looked: false,
            chance: 0,
        }
    }

    /// Looks at some records of a chunk, each out of its own part of it, for which it stands.
    pub(crate) fn on_chunk(&mut self, hashes: &[KeyHash]) {
        let (count, looks) = (hashes.len(), hashes.len().min(LOOKS_MAX));
        for look in 0..looks {
            let (start, end) = (count * look / looks, count * (look + 1) / looks);
            let at = start + self.below(end - start);
            self.see(hashes[at].0, (end - start) as u64);
        }
        self.looks += looks as u64;
        self.has_looked |= self.looks >= LOOKS_MIN;
        if self.looks >= LOOKS_KEPT {
            self.halve();
        }
    }

    /// A number below `limit`, so that nothing which repeats in a stream falls in step with the looks.
    const fn below(&mut self, limit: usize) -> usize {
        // Knuth's linear congruential generator; its upper bits are good.
        let next = self.chance.wrapping_mul(6_364_136_223_846_793_005);
        self.chance = next.wrapping_add(1_442_695_040_888_963_407);
        (((self.chance >> 32) * limit as u64) >> 32) as usize
    }

    fn see(&mut self, hash: u64, records: u64) {
        self.total += records;
        let held = self.keys[..self.used]
            .iter_mut()
            .find(|key| key.hash == hash);
        if let Some(held) = held {
            held.count += records;
            return;
        }
        if self.used < KEYS {
            self.keys[self.used] = Counted {
                hash,
                count: records,
                error: 0,
            };
            self.used += 1;
            return;
        }
        if let Some(least) = self.keys.iter_mut().min_by_key(|key| key.count) {
            *least = Counted {
                hash,
                count: least.count + records,
                error: least.count,
            };
        }
    }

    fn halve(&mut self) {
        for key in &mut self.keys {
            key.count /= 2;
            key.error /= 2;
        }
        self.total /= 2;
        self.looks = 0;
    }

    /// The keys that have a share worth telling, the largest first.
    pub(crate) fn report(&self) -> Vec<HotKey> {
        if !self.has_looked {
            return Vec::new();
        }
        let counted = self.keys[..self.used].iter().map(|key| HotKey {
            hash: key.hash,
            records: key.count.saturating_sub(key.error),
            of: self.total,
        });
        let mut hot: Vec<_> = counted
            .filter(|key| key.records > 0 && key.records * 100 >= key.of * PERCENT_MIN)
            .collect();
        hot.sort_unstable_by_key(|key| (Reverse(key.records), key.hash));
        hot.truncate(TOLD_MAX);
        hot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of 1,000 records: of each hundred so many are of key 7, the others of keys that are there once.
    fn feed(keys: &mut HotKeys, chunks: u64, hot_percent: u64) {
        for chunk in 0..chunks {
            let hashes = (0..1_000).map(|at| {
                let own = 1_000 + chunk * 1_000 + at;
                KeyHash(if at % 100 < hot_percent { 7 } else { own })
            });
            keys.on_chunk(&hashes.collect::<Vec<_>>());
        }
    }

    fn share(key: &HotKey) -> f64 {
        key.records as f64 / key.of as f64
    }

    #[test]
    fn a_key_with_a_third_of_the_records_is_first_and_its_share_is_about_right() {
        let mut keys = HotKeys::new();
        feed(&mut keys, 5_000, 33);
        let hot = keys.report();
        assert_eq!(hot[0].hash, 7);
        assert!((0.28..0.38).contains(&share(&hot[0])), "{hot:?}");
    }

    #[test]
    fn where_all_keys_are_alike_none_is_hot() {
        let mut keys = HotKeys::new();
        feed(&mut keys, 5_000, 0);
        assert_eq!(keys.report(), []);
    }

    #[test]
    fn a_key_that_is_not_hot_any_more_is_forgotten() {
        let mut keys = HotKeys::new();
        feed(&mut keys, 2_000, 50);
        assert_eq!(keys.report()[0].hash, 7);
        feed(&mut keys, 20_000, 0);
        assert_eq!(keys.report(), []);
    }

    #[test]
    fn a_few_looks_say_nothing() {
        let mut keys = HotKeys::new();
        feed(&mut keys, LOOKS_MIN / LOOKS_MAX as u64 - 1, 100);
        assert_eq!(keys.report(), []);
        feed(&mut keys, 1, 100);
        assert_eq!(keys.report().len(), 1);
    }

    #[test]
    fn small_chunks_count_as_much_as_their_records() {
        let mut keys = HotKeys::new();
        for _ in 0..LOOKS_MIN {
            keys.on_chunk(&[KeyHash(1)]);
            keys.on_chunk(&[KeyHash(2), KeyHash(2), KeyHash(2)]);
            keys.on_chunk(&[]);
        }
        let hot = keys.report();
        let told: Vec<_> = hot.iter().map(|key| (key.hash, share(key))).collect();
        assert_eq!(told, [(2, 0.75), (1, 0.25)]);
    }
}
