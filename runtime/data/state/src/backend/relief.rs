//! How a backend over a local store stays inside the memory budget: it asks its states in turn to give back what was not
//! used for longest, until what all backends hold together fits.
//!
//! Called after every chunk and when others wait for memory. The rule: up to an eighth below the cache size the work of one
//! call is bounded, so that a chunk is not held up; above the cache size it is done to the end.

use super::KeyedStateBackend;
use crate::budget::{Relief, Relieved};
use crate::error::StateError;

/// Slots that one call looks at while there is room: about 0.1 ms.
const SLOTS_MAX: usize = 32_768;

/// Rows that one call writes while there is room: about 1.5 ms of a log-structured merge tree.
const ROWS_MAX: usize = 2_048;

/// How many entries are saved at once for a snapshot that holds up eviction.
const PRESSED_ENTRIES: usize = 16_384;

impl KeyedStateBackend {
    /// Says how to wake the owner when others wait for this backend to give memory back: it then calls
    /// [`KeyedStateBackend::relieve_others`].
    pub fn on_pressure(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.share.set_wake(Box::new(wake));
    }

    /// Gives memory back if others wait for it. Costs one read of a flag when nobody does.
    ///
    /// # Errors
    /// As [`KeyedStateBackend::after_chunk`].
    pub fn relieve_others(&mut self) -> Result<(), StateError> {
        if self.share.take_asked() {
            return self.relieve();
        }
        Ok(())
    }

    /// Whether the caches are above their size and this backend cannot give back before the running snapshot is taken and
    /// its store frozen: take no more records than that needs.
    pub fn is_pressed(&self) -> bool {
        (self.is_withheld || self.running.is_some()) && self.setup.budget.is_over()
    }

    /// How many entries of the running snapshot should be saved at once, where `usual` is enough when there is room.
    pub fn portion(&self, usual: usize) -> usize {
        if self.is_pressed() {
            usual.max(PRESSED_ENTRIES)
        } else {
            usual
        }
    }

    /// Brings what is held back to what the caches aim at, in pieces; above the cache size to the end.
    pub(super) fn relieve(&mut self) -> Result<(), StateError> {
        if self.states.iter().all(|state| !state.is_paged()) {
            return Ok(());
        }
        let budget = self.setup.budget.clone();
        let mut relief = Relief {
            tick: budget.tick(),
            stale: budget.stale(),
            wanted: budget.excess(),
            slots: SLOTS_MAX,
            rows: ROWS_MAX,
        };
        if relief.wanted == 0 {
            // The states learn how late it is.
            return self.relieve_states(&mut relief).map(|_| ());
        }
        while self.relieve_states(&mut relief)? == Relieved::All {
            self.share.swept(relief.stale);
            if budget.stale() == relief.stale {
                break;
            }
            relief.stale = budget.stale();
        }
        self.charge()?;
        self.relieve_to_the_end(relief.tick)
    }

    /// Gives back until the caches are inside their size, or nothing is left: first what was not used lately, then what is
    /// in use. Nobody waits for what others may give back.
    fn relieve_to_the_end(&mut self, tick: u64) -> Result<(), StateError> {
        let budget = self.setup.budget.clone();
        let mut stale = tick;
        while budget.is_over() {
            let mut relief = Relief {
                tick,
                stale,
                wanted: budget.used() - budget.cache(),
                slots: usize::MAX,
                rows: usize::MAX,
            };
            let (before, relieved) = (self.share.held(), self.relieve_states(&mut relief)?);
            self.charge()?;
            if relieved == Relieved::All && self.share.held() == before {
                if stale > tick {
                    break;
                }
                stale = tick + 1;
            }
        }
        Ok(())
    }

    /// Asks each state once, beginning with the one that was asked last.
    fn relieve_states(&mut self, relief: &mut Relief) -> Result<Relieved, StateError> {
        let mut relieved = Relieved::All;
        let (first, count) = (self.relieved, self.states.len());
        for turn in 0..count {
            let at = (first + turn) % count;
            if self.states[at].relieve(relief)? == Relieved::Part {
                relieved = Relieved::Part;
                self.relieved = at;
            }
        }
        Ok(relieved)
    }
}
