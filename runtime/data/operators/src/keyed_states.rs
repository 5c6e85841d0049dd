//! The keyed state of one operator subtask with everything around it: restoring, the watermark that belongs to the state,
//! saving in portions and sealing.
//!
//! Owned by every keyed operator. The rule it keeps: at a barrier nothing is copied; the scan that follows takes a
//! portion between chunks, and freezing a store or sorting a large snapshot is done on a thread that gives way. A snapshot
//! that was given up may hold up the next one, never records while there is memory.

mod sealing;

use std::fs::File;
use std::time::Duration;

use highwater_connectors::WakeHandle;
use highwater_state::{
    BackendSetup, KeyedSnapshot, KeyedStateBackend, RestoredSnapshot, SnapshotProgress, StateError,
    Unmatched,
};
use highwater_types::{CheckpointBarrier, Chunk, ProcessingTime, Record, Watermark};

use self::sealing::{Leaving, SEAL_INLINE_BYTES, SealNews, Sealing, SnapshotForm, seal};
use crate::context::{OnUnmatched, OperatorContext};
use crate::error::OperatorError;
use crate::operator::{OperatorReport, TaskClock};
use crate::snapshot::{
    KeyedPart, ListStateSnapshot, OperatorSnapshot, Redistribution, RestoredPart, SnapshotStep,
};

/// The list state of the watermark: one item from each subtask, all given to each.
const WATERMARK: &str = "highwater.watermark";

/// Entries that one portion of a snapshot looks at.
const PORTION_ENTRIES: usize = 512;

/// Keyed operators need the hash of every record.
///
/// # Panics
/// If the chunk is not keyed: the plan puts a rekey before every keyed operator.
pub(crate) fn assert_keyed<T>(chunk: &Chunk<T>) {
    assert!(chunk.is_keyed(), "a keyed operator gets keyed chunks");
}

/// Keyed state of a subtask.
pub(crate) struct KeyedStates {
    pub(crate) backend: KeyedStateBackend,
    clock: TaskClock,
    wake: WakeHandle,
    /// The largest watermark that is no end of input.
    watermark: Watermark,
    /// The watermark of the open snapshot.
    saved_watermark: Watermark,
    /// The form of the open snapshot.
    form: SnapshotForm,
    sealing: Option<Sealing>,
    /// Of a snapshot that was given up while it was being sealed: the next one is not sealed before.
    leaving: Option<Leaving>,
    /// How long records waited for the store to be frozen, for the open snapshot.
    waited: Duration,
    unmatched: OnUnmatched,
}

impl KeyedStates {
    /// The state of this subtask, restored where there is something; open the states, then call `finish_restore`.
    pub(crate) fn open(context: &OperatorContext) -> Result<Self, OperatorError> {
        let setup = BackendSetup {
            uid: context.uid.clone(),
            subtask: context.subtask,
            range: context.key_groups(),
            max_parallelism: context.max_parallelism,
            budget: context.budget.clone(),
            store: context.store.clone(),
        };
        let backend = open_backend(setup, context)?;
        let wake = context.wake.clone();
        backend.on_pressure(move || wake.wake());
        Ok(Self {
            backend,
            clock: context.clock.clone(),
            wake: context.wake.clone(),
            watermark: read_watermark(context)?,
            saved_watermark: Watermark::MIN,
            form: SnapshotForm::InStore,
            sealing: None,
            leaving: None,
            waited: Duration::ZERO,
            unmatched: context.unmatched.clone(),
        })
    }

    /// All states are open: refuses what is stored and was not opened, or drops it by name.
    pub(crate) fn finish_restore(&mut self) -> Result<(), OperatorError> {
        let rule = match &self.unmatched {
            OnUnmatched::Refuse => Unmatched::refuse(),
            OnUnmatched::Drop(tell) => {
                self.backend
                    .unmatched()
                    .for_each(|(state, rows)| tell(state, rows));
                Unmatched::Drop
            }
        };
        Ok(self.backend.finish_restore(&rule)?)
    }

    /// The processing time of this turn.
    pub(crate) fn now(&self) -> ProcessingTime {
        self.clock.now()
    }

    /// The watermark that the state has seen, also before a restore. What was late stays late.
    ///
    /// After a restore it is the largest of all old subtasks: windows that one has dropped must not come to life again.
    pub(crate) const fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Notes that the state has seen `watermark`. The end of input is not kept: a job that was drained may go on.
    pub(crate) fn note_watermark(&mut self, watermark: Watermark) {
        if watermark != Watermark::MAX {
            self.watermark = self.watermark.max(watermark);
        }
    }

    /// Ends a chunk: reports errors of accesses, charges the budget, evicts what is above it.
    pub(crate) fn after_chunk(&mut self) -> Result<(), OperatorError> {
        let now = self.now();
        self.backend.after_chunk(now)?;
        if self.backend.is_pressed() && (self.sealing.is_some() || self.leaving.is_some()) {
            self.wait_for_room()?;
        }
        Ok(())
    }

    /// Gives memory back if others wait for it: to be called in every turn.
    pub(crate) fn on_turn(&mut self) -> Result<(), OperatorError> {
        Ok(self.backend.relieve_others()?)
    }

    /// Waits until the store is frozen and gives memory back. The caches are above their size, and what was written since the
    /// barrier can go nowhere else: records wait here for some ten milliseconds, so that memory has a bound. They wait as well
    /// for the freeze of a snapshot that was given up, which holds up that of the open one.
    #[cold]
    fn wait_for_room(&mut self) -> Result<(), OperatorError> {
        if self.sealing.is_none() {
            if self.backend.is_local()
                && let Some(leaving) = self.leaving.take()
            {
                let start = self.clock.elapsed();
                leaving.wait();
                self.waited += self.clock.elapsed().saturating_sub(start);
            }
            return Ok(());
        }
        let Some(sealing) = self.sealing.as_mut().filter(|held| !held.is_frozen()) else {
            return Ok(());
        };
        let start = self.clock.elapsed();
        let news = sealing.wait();
        self.waited += self.clock.elapsed().saturating_sub(start);
        match news {
            SealNews::Frozen => {}
            // The store could not be frozen. It is told here, since no other news will come.
            SealNews::Sealed(Err(error)) => {
                self.sealing = None;
                return Err(error.into());
            }
            SealNews::Sealed(Ok(_)) => {
                unreachable!("a store is frozen before its snapshot is sealed")
            }
        }
        self.backend.resume_writes();
        let now = self.now();
        Ok(self.backend.after_chunk(now)?)
    }

    /// A barrier: fixes all states, and the watermark with them.
    pub(crate) fn snapshot_start(
        &mut self,
        barrier: &CheckpointBarrier,
    ) -> Result<(), OperatorError> {
        let now = self.now();
        self.backend.begin_snapshot(barrier.id, now)?;
        self.saved_watermark = self.watermark;
        self.waited = Duration::ZERO;
        self.form = if barrier.kind.is_savepoint() {
            SnapshotForm::Canonical
        } else {
            SnapshotForm::InStore
        };
        Ok(())
    }

    /// A portion of the open snapshot.
    pub(crate) fn snapshot_step(&mut self) -> Result<SnapshotStep, OperatorError> {
        if self.sealing.is_none() {
            let portion = self.backend.portion(PORTION_ENTRIES);
            if self.backend.advance_snapshot(portion)? == SnapshotProgress::Saving {
                return Ok(SnapshotStep::More);
            }
            let is_held_up = |leaving: &Leaving| !leaving.is_gone();
            if self.leaving.as_ref().is_some_and(is_held_up) {
                return Ok(SnapshotStep::Waits);
            }
            self.leaving = None;
            let is_small = self.backend.used_bytes() <= SEAL_INLINE_BYTES;
            let unsealed = self.backend.take_snapshot()?;
            if is_small && !unsealed.is_in_store() {
                return Ok(SnapshotStep::Whole(self.whole(seal(unsealed, self.form)?)));
            }
            self.sealing = Some(Sealing::begin(unsealed, self.form, self.wake.clone())?);
        }
        while let Some(news) = self.sealing.as_mut().and_then(Sealing::listen) {
            match news {
                SealNews::Frozen => self.backend.resume_writes(),
                SealNews::Sealed(sealed) => {
                    self.sealing = None;
                    return Ok(SnapshotStep::Whole(self.whole(sealed?)));
                }
            }
        }
        Ok(SnapshotStep::Waits)
    }

    /// Gives the open snapshot up.
    pub(crate) fn snapshot_abort(&mut self) {
        if let Some(sealing) = self.sealing.take() {
            self.leaving = Some(sealing.give_up()).filter(|leaving| !leaving.is_gone());
        }
        self.backend.abort_snapshot();
    }

    pub(crate) fn report(&self, report: &mut OperatorReport) {
        report.state_bytes = self.backend.used_bytes();
        report.states = self.backend.reports();
        report.state_entries = report.states.iter().map(|state| state.entries).sum();
        report.store = self.backend.store_report();
    }

    /// The snapshot with this part.
    fn whole(&self, part: KeyedPart) -> OperatorSnapshot {
        let mut item = Vec::new();
        self.saved_watermark.encode(&mut item);
        OperatorSnapshot {
            keyed: vec![part],
            lists: vec![ListStateSnapshot {
                name: WATERMARK.to_owned(),
                redistribution: Redistribution::Union,
                items: vec![item],
            }],
            waited: self.waited,
        }
    }
}

/// The largest watermark that an old subtask has seen.
fn read_watermark(context: &OperatorContext) -> Result<Watermark, OperatorError> {
    let restored = context.restored.as_ref();
    let mut largest = Watermark::MIN;
    for item in restored.map_or(&[][..], |state| state.list(WATERMARK)) {
        let read = Watermark::decode(&mut item.as_slice()).map_err(|e| OperatorError::Restore {
            name: WATERMARK.to_owned(),
            reason: e.to_string(),
        })?;
        largest = largest.max(read);
    }
    Ok(largest)
}

fn open_backend(
    setup: BackendSetup,
    context: &OperatorContext,
) -> Result<KeyedStateBackend, OperatorError> {
    let Some(restored) = &context.restored else {
        return Ok(KeyedStateBackend::new(setup));
    };
    let parts = restored.keyed.iter().map(restored_snapshot);
    let snapshots = parts.collect::<Result<Vec<_>, _>>()?;
    Ok(KeyedStateBackend::restore(
        setup,
        snapshots,
        context.clock.now(),
    )?)
}

fn restored_snapshot(part: &RestoredPart) -> Result<RestoredSnapshot, StateError> {
    match part {
        RestoredPart::Bytes(bytes) => KeyedSnapshot::from_shared(bytes).map(RestoredSnapshot::from),
        RestoredPart::File { name, dir } => {
            let file = File::open(dir.path().join(name));
            let file = file.map_err(|source| StateError::LocalFile {
                what: format!("the snapshot file {name}"),
                source,
            })?;
            KeyedSnapshot::from_file(file).map(RestoredSnapshot::from)
        }
        RestoredPart::InStore { head, files } => Ok(RestoredSnapshot {
            snapshot: KeyedSnapshot::from_shared(head)?,
            files: Some(files.clone()),
        }),
    }
}
