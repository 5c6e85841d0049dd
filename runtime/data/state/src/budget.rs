//! The byte budget of keyed state: one account, shared by all tables of a worker.
//!
//! Called by the backend of each operator subtask, once per chunk: tables count their own bytes without sharing
//! anything, and the difference is charged here. So the budget may be passed by at most one chunk of growth, and no record
//! pays for an atomic.
//!
//! Where a local store lies behind the tables the account also says who gives back. Recency is measured in ticks: one for
//! each sixteenth of the cache that came into memory, whoever brought it. Entries that were last used before the tick `stale`
//! are given back by all alike; `stale` moves on when nobody has any, to half a turnover ago or else by one. So an idle
//! table empties, and a small hot one keeps what it uses. The rule: an account that is above its cache size never waits for another member to give back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Ticks in which a cache turns over.
const TICKS: u64 = 16;

/// What was used within so many ticks is left alone while something older is there. A pass over the tables then finds half
/// of them to give back; one for each tick would look at every entry sixteen times before it goes.
const RECENT_TICKS: u64 = TICKS / 2;

/// Bytes that keyed state may hold in memory. Clones share one account.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Account>);

struct Account {
    limit: u64,
    cache: u64,
    used: AtomicU64,
    /// The part of `used` that cannot leave memory.
    fixed: AtomicU64,
    /// Bytes that came into memory, ever.
    admitted: AtomicU64,
    /// What was last used before this tick is given back.
    stale: AtomicU64,
    members: Mutex<Vec<Weak<Member>>>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("limit", &self.limit)
            .field("cache", &self.cache)
            .field("used", &self.used)
            .field("fixed", &self.fixed)
            .finish_non_exhaustive()
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes. Tables over a local store evict above it, and refuse only what cannot be evicted.
    pub fn new(limit: u64) -> Self {
        Self::with_cache(limit, limit)
    }

    /// A budget of `limit` bytes whose tables evict above `cache` bytes already.
    pub fn with_cache(limit: u64, cache: u64) -> Self {
        Self(Arc::new(Account {
            limit,
            cache: cache.min(limit),
            used: AtomicU64::new(0),
            fixed: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            members: Mutex::new(Vec::new()),
        }))
    }

    /// A budget that is never reached: for tests and tools.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// The bytes charged now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The bytes charged now that cannot leave memory.
    pub fn fixed(&self) -> u64 {
        self.0.fixed.load(Ordering::Relaxed)
    }

    /// Bytes up to which tables over a local store fill memory.
    pub fn cache(&self) -> u64 {
        self.0.cache
    }

    /// Now, in ticks.
    pub(crate) fn tick(&self) -> u64 {
        let each = (self.0.cache / TICKS).max(1);
        self.0.admitted.load(Ordering::Relaxed) / each
    }

    /// What was last used before this tick is given back.
    pub(crate) fn stale(&self) -> u64 {
        self.0.stale.load(Ordering::Relaxed)
    }

    /// Bytes above those that the caches aim at: an eighth is kept free, for what cannot be written while a store is
    /// being frozen.
    pub(crate) fn excess(&self) -> u64 {
        let aim = self.0.cache - self.0.cache / 8;
        self.used().saturating_sub(aim)
    }

    /// Whether the caches are above their size.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.0.cache
    }

    /// A share of a new member.
    pub(crate) fn join(&self) -> Share {
        let member = Arc::new(Member::default());
        let mut members = self.members();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&member));
        drop(members);
        Share {
            budget: self.clone(),
            member,
            held: 0,
            fixed: 0,
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Member>>> {
        // A list of weak references is whole whatever panicked beside it.
        self.0
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the members of an account know of each other.
#[derive(Default)]
struct Member {
    /// Bytes that could leave memory.
    evictable: AtomicU64,
    /// It has nothing that was last used before this tick.
    swept: AtomicU64,
    /// Others wait for it to give back.
    is_asked: AtomicBool,
    wake: OnceLock<Wake>,
}

/// Wakes the thread of a member.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

/// What one backend holds of a budget. Given back when it is dropped.
pub(crate) struct Share {
    budget: MemoryBudget,
    member: Arc<Member>,
    held: u64,
    fixed: u64,
}

impl Share {
    /// Bytes charged now.
    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    /// Says how to wake the owner when others wait for it to give back. The first stays: a backend has one owner.
    pub(crate) fn set_wake(&self, wake: Wake) {
        self.member.wake.get_or_init(|| wake);
    }

    /// Charges `held` bytes, of which `fixed` cannot leave memory, in the place of what was charged before.
    pub(crate) fn charge(&mut self, held: u64, fixed: u64) {
        let account = &self.budget.0;
        if held > self.held {
            account
                .admitted
                .fetch_add(held - self.held, Ordering::Relaxed);
        }
        replace(&account.used, self.held, held);
        replace(&account.fixed, self.fixed, fixed);
        self.member.evictable.store(held - fixed, Ordering::Relaxed);
        (self.held, self.fixed) = (held, fixed);
    }

    /// Whether others wait for this member to give back. Asked once.
    pub(crate) fn take_asked(&self) -> bool {
        self.member.is_asked.load(Ordering::Relaxed)
            && self.member.is_asked.swap(false, Ordering::Relaxed)
    }

    /// Notes that this member has nothing that was last used before the tick `stale`. Moves the account on when nobody
    /// has, else asks the others.
    pub(crate) fn swept(&self, stale: u64) {
        self.member.swept.store(stale + 1, Ordering::Relaxed);
        if stale >= self.budget.tick() {
            return;
        }
        let mut is_last = true;
        for member in self.budget.members().iter().filter_map(Weak::upgrade) {
            let is_behind = member.swept.load(Ordering::Relaxed) <= stale;
            if is_behind && member.evictable.load(Ordering::Relaxed) > 0 {
                is_last = false;
                if !member.is_asked.swap(true, Ordering::Relaxed)
                    && let Some(wake) = member.wake.get()
                {
                    wake();
                }
            }
        }
        if is_last {
            let old = self.budget.tick().saturating_sub(RECENT_TICKS);
            let next = old.max(stale + 1);
            self.budget.0.stale.fetch_max(next, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.charge(0, 0);
    }
}

fn replace(counter: &AtomicU64, old: u64, new: u64) {
    if new >= old {
        counter.fetch_add(new - old, Ordering::Relaxed);
    } else {
        counter.fetch_sub(old - new, Ordering::Relaxed);
    }
}

/// What one backend is to give back, and how much work it may take: handed from state to state.
#[derive(Debug)]
pub struct Relief {
    /// Now, in ticks of the account.
    pub(crate) tick: u64,
    /// What was last used before this tick may go.
    pub(crate) stale: u64,
    /// Bytes that are wanted yet.
    pub(crate) wanted: u64,
    /// Slots that may be looked at yet.
    pub(crate) slots: usize,
    /// Rows that may be written to the store yet.
    pub(crate) rows: usize,
}

/// What a state has come to in giving back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relieved {
    /// Nothing is left that may go.
    All,
    /// It stopped where what was wanted or what was allowed ended.
    Part,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_one_account_and_a_share_is_given_back() {
        let budget = MemoryBudget::new(100);
        let (mut one, mut other) = (budget.join(), budget.join());
        one.charge(60, 60);
        other.charge(30, 10);
        assert_eq!((budget.used(), budget.fixed()), (90, 70));
        one.charge(10, 0);
        assert_eq!((budget.used(), budget.fixed()), (40, 10));
        drop(one);
        drop(other);
        assert_eq!((budget.used(), budget.fixed(), budget.limit()), (0, 0, 100));
    }

    #[test]
    fn what_comes_into_memory_makes_time_pass() {
        let budget = MemoryBudget::new(1_600);
        let mut share = budget.join();
        share.charge(99, 0);
        assert_eq!(budget.tick(), 0);
        share.charge(0, 0);
        share.charge(101, 0);
        assert_eq!(budget.tick(), 2, "what went does not turn it back");
    }

    #[test]
    fn stale_moves_on_when_nobody_has_anything_older() {
        let budget = MemoryBudget::new(160);
        let (mut one, mut other) = (budget.join(), budget.join());
        let woken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&woken);
        other.set_wake(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        one.charge(25, 0);
        other.charge(25, 0);
        one.swept(0);
        one.swept(0);
        assert_eq!(budget.stale(), 0, "the other may have something older");
        assert_eq!(woken.load(Ordering::Relaxed), 1, "asked once");
        assert!(other.take_asked() && !other.take_asked());
        other.swept(0);
        assert_eq!(budget.stale(), 1);
        other.charge(0, 0);
        for tick in 1..20 {
            one.swept(tick);
        }
        assert_eq!(budget.stale(), budget.tick(), "never beyond now");
    }

    #[test]
    fn a_pass_takes_everything_that_is_not_recent() {
        let budget = MemoryBudget::new(160);
        let mut share = budget.join();
        for _ in 0..20 {
            share.charge(10, 0);
            share.charge(0, 0);
        }
        share.swept(0);
        assert_eq!(budget.stale(), 20 - RECENT_TICKS);
        share.swept(budget.stale());
        assert_eq!(budget.stale(), 20 - RECENT_TICKS + 1, "then by one");
    }

    #[test]
    fn an_eighth_of_the_cache_is_kept_free() {
        let budget = MemoryBudget::with_cache(1_000, 800);
        let mut share = budget.join();
        share.charge(700, 0);
        assert_eq!((budget.excess(), budget.is_over()), (0, false));
        share.charge(801, 0);
        assert_eq!((budget.excess(), budget.is_over()), (101, true));
    }
}
