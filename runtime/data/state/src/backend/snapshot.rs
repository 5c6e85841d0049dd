//! How a backend takes a snapshot of all its states: begun at the barrier, saved in portions between chunks, handed over to be
//! frozen and sealed on any thread.
//!
//! Called by the keyed state of an operator. The rule: one snapshot runs at a time, and from the moment at which it is taken
//! until the local store is frozen nothing is written to that.

use highwater_types::{CheckpointId, ProcessingTime};

use super::{KeyedStateBackend, LocalStore};
use crate::error::StateError;
use crate::snapshot::{
    KeyedSnapshot, RawKeyGroupState, StoreView, UnsealedSnapshot, UnsealedState,
};

/// Whether a running snapshot has all it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotProgress {
    /// There are entries to be saved yet.
    Saving,
    /// It can be taken at no further cost.
    Saved,
}

/// A snapshot that is being saved.
pub(super) struct Running {
    checkpoint: CheckpointId,
    /// The state that is being scanned.
    state: usize,
    raw: Vec<RawKeyGroupState>,
}

impl KeyedStateBackend {
    /// Begins a snapshot of all states as they are now: what is done at the barrier. Copies nothing: what may be written is
    /// one batch of timers for each time domain, and the range that a firing window has passed.
    ///
    /// # Errors
    /// `Bug` when one is running.
    pub fn begin_snapshot(
        &mut self,
        checkpoint: CheckpointId,
        now: ProcessingTime,
    ) -> Result<(), StateError> {
        if let Some(running) = &self.running {
            return Err(StateError::SnapshotRunning {
                uid: self.setup.uid.clone(),
                running: running.checkpoint,
                asked: checkpoint,
            });
        }
        debug_assert!(
            !self.is_withheld,
            "a store is frozen, or its snapshot given up, before the next begins"
        );
        for state in &mut self.states {
            state.begin_snapshot(now);
        }
        self.running = Some(Running {
            checkpoint,
            state: 0,
            raw: Vec::new(),
        });
        Ok(())
    }

    /// Adds raw bytes to the running snapshot: those as of the barrier.
    ///
    /// # Errors
    /// `Bug` when none is running.
    pub fn add_raw(&mut self, raw: RawKeyGroupState) -> Result<(), StateError> {
        match &mut self.running {
            Some(running) => {
                running.raw.push(raw);
                Ok(())
            }
            None => Err(self.no_snapshot()),
        }
    }

    /// Goes on with the running snapshot for up to `budget` entries: what is done between chunks.
    ///
    /// # Errors
    /// `Bug` when none is running.
    pub fn advance_snapshot(&mut self, mut budget: usize) -> Result<SnapshotProgress, StateError> {
        let Some(running) = &mut self.running else {
            return Err(self.no_snapshot());
        };
        while let Some(state) = self.states.get_mut(running.state) {
            let Some(left) = state.advance_snapshot(budget) else {
                return Ok(SnapshotProgress::Saving);
            };
            budget = left;
            running.state += 1;
        }
        Ok(SnapshotProgress::Saved)
    }

    /// Saves what is not saved yet and hands the snapshot over, to be sealed on any thread.
    ///
    /// With a local store nothing is written to it until it is frozen ([`UnsealedSnapshot::freeze`]): what would leave memory
    /// waits for [`KeyedStateBackend::resume_writes`].
    ///
    /// # Errors
    /// `Bug` when none is running; else the first error of an access or of the store. The snapshot is over either way.
    pub fn take_snapshot(&mut self) -> Result<UnsealedSnapshot, StateError> {
        let Some(running) = self.running.take() else {
            return Err(self.no_snapshot());
        };
        let mut states = self.restored.carried();
        for at in 0..self.states.len() {
            match self.states[at].take_snapshot() {
                Ok(state) => states.push(state),
                Err(error) => {
                    self.states
                        .iter_mut()
                        .for_each(|state| state.abort_snapshot());
                    return Err(error);
                }
            }
        }
        states.extend(running.raw.into_iter().map(UnsealedState::raw));
        let store = match &mut self.local {
            LocalStore::Open(store) => StoreView::Freezing(store.freeze()),
            LocalStore::Closed(_) => StoreView::None,
        };
        self.withhold_writes(matches!(store, StoreView::Freezing(_)));
        Ok(UnsealedSnapshot {
            uid: self.setup.uid.clone(),
            max_parallelism: self.setup.max_parallelism,
            range: self.setup.range,
            checkpoint: running.checkpoint,
            states,
            store,
        })
    }

    /// The store is frozen, or nobody wants it frozen any more: it may be written again.
    pub fn resume_writes(&mut self) {
        self.withhold_writes(false);
    }

    fn withhold_writes(&mut self, withheld: bool) {
        self.is_withheld = withheld;
        let states = self.states.iter_mut();
        states.for_each(|state| state.withhold_writes(withheld));
    }

    /// Forgets the running snapshot, if there is one, and the one that was taken last: what is being frozen of it is of no
    /// use any more.
    pub fn abort_snapshot(&mut self) {
        self.running = None;
        self.resume_writes();
        self.states
            .iter_mut()
            .for_each(|state| state.abort_snapshot());
    }

    /// Takes a whole snapshot at once: for bounded jobs that end, and for tests.
    ///
    /// # Errors
    /// As [`KeyedStateBackend::begin_snapshot`] and [`KeyedStateBackend::take_snapshot`].
    pub fn snapshot_now(
        &mut self,
        checkpoint: CheckpointId,
        now: ProcessingTime,
        raw: Vec<RawKeyGroupState>,
    ) -> Result<KeyedSnapshot, StateError> {
        self.begin_snapshot(checkpoint, now)?;
        raw.into_iter().try_for_each(|raw| self.add_raw(raw))?;
        let sealed = self.take_snapshot()?.seal();
        self.resume_writes();
        sealed
    }

    fn no_snapshot(&self) -> StateError {
        StateError::NoSnapshot {
            uid: self.setup.uid.clone(),
        }
    }
}
