//! The independent count: the digest of all accounts at the end, from the definition of the payments and plain arrays.

use anyhow::{Result, ensure};
use highwater::connectors::Random;

use crate::report::Run;
use crate::state_job::{Account, Payments};

/// Accounts that are counted at once: 512 MiB.
const AT_ONCE: u64 = 1 << 23;

/// What a right run leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    records: u64,
    digest: u64,
}

impl Expected {
    /// Books all payments; keys in turn, so that memory is bounded.
    pub(crate) fn count(seed: u64, payments: &Payments, records: u64) -> Self {
        let parts = (0..payments.keys).step_by(AT_ONCE as usize);
        let digests = parts.map(|first| {
            let length = AT_ONCE.min(payments.keys - first);
            let mut accounts = vec![Account::EMPTY; length as usize];
            for index in 0..records {
                let (key, amount) = payments.make(index, &mut Random::for_record(seed, index));
                if let Some(account) = accounts.get_mut(key.wrapping_sub(first) as usize) {
                    account.add(amount);
                }
            }
            let keyed = (first..).zip(&accounts);
            keyed.fold(0u64, |sum, (key, account)| {
                sum.wrapping_add(account.digest(key))
            })
        });
        let digest = digests.fold(0u64, u64::wrapping_add);
        Self { records, digest }
    }

    /// Refuses a run whose state at the end is other.
    pub(crate) fn check(self, who: &str, run: &Run) -> Result<()> {
        let found = Self {
            records: run.records,
            digest: run.digest,
        };
        ensure!(
            found == self,
            "{who} gives {} records and accounts with digest {:016x}; right are {} with {:016x}",
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
    fn one_wrong_payment_is_another_digest() {
        let payments = |keys| Payments { keys, ranks: None };
        let right = Expected::count(42, &payments(100), 1_000);
        assert_eq!(right, Expected::count(42, &payments(100), 1_000));
        for other in [
            Expected::count(42, &payments(100), 999),
            Expected::count(43, &payments(100), 1_000),
            Expected::count(42, &payments(101), 1_000),
        ] {
            assert_ne!(right.digest, other.digest);
        }
    }
}
