//! The independent count: what the digest of all output must be, from the definition of the keys and a plain array.

use anyhow::{Result, ensure};
use highwater::connectors::Random;

use crate::job::key_of;
use crate::report::Run;
use crate::tally::digest_of;

/// What a right run leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    records: u64,
    digest: u64,
}

impl Expected {
    /// Counts `records` records over `keys` keys.
    pub(crate) fn count(seed: u64, keys: u64, records: u64) -> Self {
        let mut counts = vec![0u64; keys as usize];
        let mut digest = 0u64;
        for index in 0..records {
            let key = key_of(&mut Random::for_record(seed, index), keys);
            let count = &mut counts[key as usize];
            *count += 1;
            digest = digest.wrapping_add(digest_of(key, *count));
        }
        Self { records, digest }
    }

    /// Refuses a run whose output is other.
    pub(super) fn check(self, who: &str, run: &Run) -> Result<()> {
        self.compare(who, run.records, run.digest)
    }

    /// Refuses output of another number of records or another digest.
    pub(crate) fn compare(self, who: &str, records: u64, digest: u64) -> Result<()> {
        let found = Self { records, digest };
        ensure!(
            found == self,
            "{who} gives {} records with digest {:016x}; right are {} with {:016x}",
            found.records,
            found.digest,
            self.records,
            self.digest
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_count_is_another_digest() {
        let right = Expected::count(42, 100, 1_000);
        assert_eq!(right, Expected::count(42, 100, 1_000));
        assert_ne!(right.digest, Expected::count(42, 100, 999).digest);
        assert_ne!(right.digest, Expected::count(43, 100, 1_000).digest);
        assert_ne!(right.digest, Expected::count(42, 101, 1_000).digest);
    }
}
