//! The byte budget of a slot: what all its heap state together may hold.
//!
//! Tables count their own bytes without sharing anything; once per chunk the difference is charged here. So the
//! budget may be passed by at most one chunk of growth before it is refused, and no record pays for an atomic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that the states of one slot may hold. Clones share one account.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    limit: u64,
    used: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            used: Arc::new(AtomicU64::new(0)),
        }
    }

    /// A budget that is never reached: for tests and tools.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// The limit in bytes.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes charged now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Replaces a charge of `old` bytes by one of `new`. Returns the bytes charged now.
    pub(crate) fn recharge(&self, old: u64, new: u64) -> u64 {
        if new >= old {
            self.used.fetch_add(new - old, Ordering::Relaxed) + (new - old)
        } else {
            self.used.fetch_sub(old - new, Ordering::Relaxed) - (old - new)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_account() {
        let budget = MemoryBudget::new(100);
        let other = budget.clone();
        assert_eq!(budget.recharge(0, 60), 60);
        assert_eq!(other.recharge(0, 30), 90);
        assert_eq!(budget.recharge(60, 10), 40);
        assert_eq!((other.used(), other.limit()), (40, 100));
    }
}
