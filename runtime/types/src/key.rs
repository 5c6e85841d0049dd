//! Keys and key groups: which subtask owns a key, now and after a rescale.
//!
//! `group = hash(key) mod max parallelism`; subtask `i` of `p` owns groups `ceil(i·g/p) .. ceil((i+1)·g/p)`; the inverse
//! is `floor(group·p / g)`. The hash is XXH3-64 over canonical key bytes with seed 0: the same on every machine and in
//! every version, so it may be stored. Rust's seeded hasher never decides where a key lives.
//!
//! Source: Flink `KeyGroupRangeAssignment`.

use std::fmt;
use std::hash::Hash;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use twox_hash::XxHash3_64;

use crate::error::{Classified, ErrorKind};
use crate::id::{Parallelism, SubtaskIndex};
use crate::record::Record;

/// The stable 64-bit hash of a key, computed once and reused by exchange, key group and hash table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The key group of this hash.
    #[inline]
    pub const fn group(self, max_parallelism: MaxParallelism) -> KeyGroup {
        KeyGroup((self.0 % max_parallelism.0 as u64) as u16)
    }
}

/// The number of key groups: the upper bound of the parallelism of keyed operators, fixed once state exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaxParallelism(u16);

/// A parallelism or maximum out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("max parallelism {0} is out of range; it may be 1 to {limit}", limit = MaxParallelism::LIMIT)]
pub struct MaxParallelismError(pub u32);

impl Classified for MaxParallelismError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl MaxParallelism {
    /// The largest number of key groups.
    pub const LIMIT: u32 = 32_768;
    /// The default, divisible by most small numbers.
    pub const DEFAULT: Self = Self(720);

    /// Checks and takes a number of key groups, 1 to 32,768.
    pub const fn try_new(groups: u32) -> Result<Self, MaxParallelismError> {
        if groups == 0 || groups > Self::LIMIT {
            return Err(MaxParallelismError(groups));
        }
        Ok(Self(groups as u16))
    }

    /// The number of key groups.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The key groups of subtask `index` of `parallelism`.
    pub const fn range(self, index: SubtaskIndex, parallelism: Parallelism) -> KeyGroupRange {
        let (groups, count, at) = (self.0 as u64, parallelism.0 as u64, index.0 as u64);
        KeyGroupRange {
            start: (at * groups).div_ceil(count) as u16,
            end: ((at + 1) * groups).div_ceil(count) as u16,
        }
    }

    /// The subtask of `parallelism` that owns `group`: the inverse of [`MaxParallelism::range`].
    #[inline]
    pub const fn owner(self, group: KeyGroup, parallelism: Parallelism) -> SubtaskIndex {
        SubtaskIndex((group.0 as u64 * parallelism.0 as u64 / self.0 as u64) as u32)
    }
}

/// Computes the key groups of many hashes without a division: the same groups as [`KeyHash::group`].
///
/// A reciprocal gives a quotient that is right or one too small, which one comparison mends.
#[derive(Clone, Copy, Debug)]
pub struct Grouping {
    groups: u64,
    reciprocal: u64,
}

impl Grouping {
    /// For this number of key groups.
    pub const fn of(max_parallelism: MaxParallelism) -> Self {
        let groups = max_parallelism.0 as u64;
        Self {
            groups,
            // 2^64 / groups, rounded down; of one group the largest number serves.
            reciprocal: if groups == 1 {
                u64::MAX
            } else {
                ((1u128 << 64) / groups as u128) as u64
            },
        }
    }

    /// The key group of `hash`.
    #[inline]
    pub const fn group(self, hash: KeyHash) -> KeyGroup {
        let quotient = ((hash.0 as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = hash.0 - quotient * self.groups;
        KeyGroup(if rest >= self.groups {
            rest - self.groups
        } else {
            rest
        } as u16)
    }
}

impl fmt::Display for MaxParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A unit of keyed-state distribution and rescaling, counted from 0.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct KeyGroup(pub u16);

impl fmt::Display for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Key groups `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// The first group.
    pub start: u16,
    /// One past the last group.
    pub end: u16,
}

impl KeyGroupRange {
    /// How many groups.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `group` is one of them.
    pub const fn contains(self, group: KeyGroup) -> bool {
        self.start <= group.0 && group.0 < self.end
    }

    /// Whether any group is in both.
    pub const fn intersects(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The groups of both; empty, with an unspecified start, when they share none.
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self {
            start,
            end: self.end.min(other.end).max(start),
        }
    }

    /// The groups in order.
    pub fn groups(self) -> impl Iterator<Item = KeyGroup> {
        (self.start..self.end).map(KeyGroup)
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// Receives the canonical bytes of a key.
pub type KeyBytes = SmallVec<[u8; 64]>;

/// A record that may key a stream: equality and a hash that is the same on every machine and in every version.
///
/// Law: `a == b` implies equal canonical bytes, and the bytes of a key never change between versions. Integers of every
/// width are widened to 8 little-endian bytes, text is its UTF-8 bytes, parts of a tuple are preceded by their length.
/// Floats, maps and lists are no keys: the compiler refuses them.
pub trait Key: Record + Eq + Hash {
    /// Appends the canonical bytes.
    fn write_key(&self, out: &mut KeyBytes);

    /// The stable hash.
    #[inline]
    fn key_hash(&self) -> KeyHash {
        let mut bytes = KeyBytes::new();
        self.write_key(&mut bytes);
        hash_bytes(&bytes)
    }
}

/// XXH3-64 with seed 0 over `bytes`.
#[inline]
pub fn hash_bytes(bytes: &[u8]) -> KeyHash {
    KeyHash(XxHash3_64::oneshot(bytes))
}

macro_rules! integer_key {
    ($($ty:ty as $wide:ty),*) => {$(
        impl Key for $ty {
            fn write_key(&self, out: &mut KeyBytes) {
                out.extend_from_slice(&<$wide>::from(*self).to_le_bytes());
            }

            #[inline]
            fn key_hash(&self) -> KeyHash {
                hash_bytes(&<$wide>::from(*self).to_le_bytes())
            }
        }
    )*};
}
integer_key!(
    i8 as i64,
    i16 as i64,
    i32 as i64,
    i64 as i64,
    u8 as i64,
    u16 as i64,
    u32 as i64,
    u64 as u64,
    bool as i64
);

macro_rules! text_key {
    ($($ty:ty),*) => {$(
        impl Key for $ty {
            fn write_key(&self, out: &mut KeyBytes) {
                out.extend_from_slice(self.as_bytes());
            }

            #[inline]
            fn key_hash(&self) -> KeyHash {
                hash_bytes(self.as_bytes())
            }
        }
    )*};
}
text_key!(String, CompactString);

impl Key for () {
    fn write_key(&self, _: &mut KeyBytes) {}
}

/// Appends one part of a composite key: its length, then its canonical bytes.
pub fn write_key_part<K: Key>(part: &K, out: &mut KeyBytes) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    part.write_key(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

macro_rules! tuple_key {
    ($($name:ident),+) => {
        impl<$($name: Key),+> Key for ($($name,)+) {
            #[allow(non_snake_case, reason = "the type parameters name the parts")]
            fn write_key(&self, out: &mut KeyBytes) {
                let ($($name,)+) = self;
                $(write_key_part($name, out);)+
            }
        }
    };
}
tuple_key!(A, B);
tuple_key!(A, B, C);
tuple_key!(A, B, C, D);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn t11_ranges_and_owner_agree_both_ways(groups in 1u32..2_000, count in 1u32..300) {
            let max = MaxParallelism::try_new(groups).unwrap();
            let parallelism = Parallelism(count.min(groups));
            let mut next = 0;
            for index in 0..parallelism.0 {
                let range = max.range(SubtaskIndex(index), parallelism);
                prop_assert_eq!(range.start, next);
                next = range.end;
                for group in range.groups() {
                    prop_assert_eq!(max.owner(group, parallelism), SubtaskIndex(index));
                }
            }
            prop_assert_eq!(u32::from(next), groups);
        }
    }

    proptest! {
        #[test]
        fn t11_a_reciprocal_gives_the_same_groups(groups in 1u32..=MaxParallelism::LIMIT, hash: u64, near in 0u64..4) {
            let max = MaxParallelism::try_new(groups).unwrap();
            let multiple = hash / u64::from(groups) * u64::from(groups);
            for hash in [hash, multiple.saturating_sub(near), multiple.saturating_add(near), u64::MAX - near] {
                prop_assert_eq!(Grouping::of(max).group(KeyHash(hash)), KeyHash(hash).group(max));
            }
        }
    }

    #[test]
    fn t11_hashes_are_pinned_for_ever() {
        assert_eq!(7i32.key_hash(), 7i64.key_hash());
        assert_eq!(7u32.key_hash(), 7u64.key_hash());
        assert_eq!(
            String::from("u1").key_hash(),
            CompactString::from("u1").key_hash()
        );
        assert_eq!(hash_bytes(b"").0, 0x2d06_8005_38d3_94c2);
        assert_ne!(
            ("ab".to_owned(), "c".to_owned()).key_hash(),
            ("a".to_owned(), "bc".to_owned()).key_hash()
        );
    }

    #[test]
    fn max_parallelism_is_checked() {
        assert!(MaxParallelism::try_new(0).is_err());
        assert!(MaxParallelism::try_new(32_768).is_ok());
        assert!(
            MaxParallelism::try_new(32_769)
                .unwrap_err()
                .to_string()
                .contains("32769")
        );
    }
}
