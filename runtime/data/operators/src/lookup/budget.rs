//! The retry budget of a worker: retries are at most a share of the requests of the last ten seconds.
//!
//! One object for all lookups of a worker, used on the rim. When something outside is slow or down, retries would
//! multiply its load; the budget bounds that. Counted in slots of a second, on the safe side: requests of at most the last ten
//! seconds, retries of at least the last ten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Slots that are kept: ten for requests, one more for retries.
const SLOTS: usize = 11;

/// Limits retries to a share of requests. Clones share one account.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    percent: u64,
    account: Arc<Mutex<Account>>,
}

/// Requests and retries by second, newest first.
#[derive(Debug, Default)]
struct Account {
    origin: Option<Instant>,
    second: u64,
    requests: [u64; SLOTS],
    retries: [u64; SLOTS],
}

impl Account {
    /// Moves on to the second of `now`.
    fn advance(&mut self, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let second = now.saturating_duration_since(origin).as_secs();
        let passed = second.saturating_sub(self.second).min(SLOTS as u64) as usize;
        if passed > 0 {
            self.requests.rotate_right(passed);
            self.retries.rotate_right(passed);
            self.requests[..passed].fill(0);
            self.retries[..passed].fill(0);
            self.second = second;
        }
    }
}

impl RetryBudget {
    /// A budget of `percent` retries for a hundred requests.
    pub fn new(percent: u32) -> Self {
        Self {
            percent: u64::from(percent),
            account: Arc::default(),
        }
    }

    /// Counts a request.
    pub fn note_request(&self, now: Instant) {
        let mut account = self.lock(now);
        account.requests[0] += 1;
    }

    /// Takes one retry out of the budget. False when it is used up.
    pub fn try_retry(&self, now: Instant) -> bool {
        let mut account = self.lock(now);
        let requests: u64 = account.requests[..SLOTS - 1].iter().sum();
        let retries: u64 = account.retries.iter().sum();
        let may = (retries + 1) * 100 <= requests * self.percent;
        if may {
            account.retries[0] += 1;
        }
        may
    }

    fn lock(&self, now: Instant) -> MutexGuard<'_, Account> {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.advance(now);
        account
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_requests_and_come_back_with_time() {
        let budget = RetryBudget::new(10);
        let shared = budget.clone();
        let start = Instant::now();
        assert!(!budget.try_retry(start), "no request, no retry");
        (0..25).for_each(|_| shared.note_request(start));
        let granted = (0..25).filter(|_| budget.try_retry(start)).count();
        assert_eq!(granted, 2);
        let later = start + Duration::from_secs(9);
        assert!(!budget.try_retry(later));
        let much_later = start + Duration::from_secs(12);
        (0..10).for_each(|_| shared.note_request(much_later));
        assert!(budget.try_retry(much_later), "old retries are forgotten");
        assert!(!budget.try_retry(much_later), "old requests too");
    }
}
