//! The keyed state of one operator subtask with everything around it: restoring, the watermark that belongs to the state,
//! saving in portions and sealing.
//!
//! Owned by every keyed operator. The rule it keeps: at a barrier nothing is copied; the scan that follows takes a
//! portion between chunks, and sorting a large snapshot is done on a thread that gives way.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use highwater_connectors::WakeHandle;
use highwater_state::{
    BackendSetup, KeyedSnapshot, KeyedStateBackend, SnapshotProgress, StateError, Store, Unmatched,
    UnsealedSnapshot,
};
use highwater_types::{CheckpointBarrier, Chunk, ProcessingTime, Record, Watermark};

use crate::context::{OnUnmatched, OperatorContext};
use crate::error::OperatorError;
use crate::operator::{OperatorReport, TaskClock};
use crate::snapshot::{
    KeyedPart, ListStateSnapshot, OperatorSnapshot, Redistribution, RestoredPart, SnapshotStep,
};

/// The list state of the watermark: one item from each subtask, all given to each.
const WATERMARK: &str = "highwater.watermark";

/// Entries that one portion of a snapshot looks at.
const PORTION_ENTRIES: usize = 1_024;

/// Up to this many bytes of state a snapshot is sealed on the slot thread: it takes a few milliseconds at most.
const SEAL_INLINE_BYTES: u64 = 1 << 20;

/// By how much a thread that seals stands behind those that process records, in the steps of `nice`.
const SEAL_NICENESS: i32 = 10;

/// A snapshot that is being sealed on a thread of its own.
struct Sealing(Receiver<Result<Vec<u8>, StateError>>);

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
    sealing: Option<Sealing>,
    unmatched: OnUnmatched,
}

impl KeyedStates {
    /// The state of this subtask, restored where there is something; open the states, then call `finish_restore`.
    pub(crate) fn open(context: &OperatorContext) -> Result<Self, OperatorError> {
        let setup = BackendSetup {
            uid: context.uid.clone(),
            range: context.key_groups(),
            max_parallelism: context.max_parallelism,
            budget: context.budget.clone(),
            store: Store::Heap,
        };
        Ok(Self {
            backend: open_backend(setup, context)?,
            clock: context.clock.clone(),
            wake: context.wake.clone(),
            watermark: read_watermark(context)?,
            saved_watermark: Watermark::MIN,
            sealing: None,
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

    /// Ends a chunk: reports errors of accesses and charges the budget.
    pub(crate) fn after_chunk(&mut self) -> Result<(), OperatorError> {
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
        Ok(())
    }

    /// A portion of the open snapshot.
    pub(crate) fn snapshot_step(&mut self) -> Result<SnapshotStep, OperatorError> {
        if self.sealing.is_none() {
            if self.backend.advance_snapshot(PORTION_ENTRIES)? == SnapshotProgress::Saving {
                return Ok(SnapshotStep::More);
            }
            let is_small = self.backend.used_bytes() <= SEAL_INLINE_BYTES;
            let unsealed = self.backend.take_snapshot()?;
            if is_small {
                return Ok(SnapshotStep::Whole(self.whole(seal(unsealed)?)));
            }
            self.sealing = Some(self.seal_beside(unsealed)?);
        }
        let answer = self
            .sealing
            .as_ref()
            .map(|Sealing(sealed)| sealed.try_recv());
        let sealed = match answer {
            Some(Ok(sealed)) => sealed,
            Some(Err(TryRecvError::Disconnected)) => panic!("sealing a snapshot panicked"),
            Some(Err(TryRecvError::Empty)) | None => return Ok(SnapshotStep::Waits),
        };
        self.sealing = None;
        Ok(SnapshotStep::Whole(self.whole(sealed?)))
    }

    /// Gives the open snapshot up.
    pub(crate) fn snapshot_abort(&mut self) {
        self.sealing = None;
        self.backend.abort_snapshot();
    }

    pub(crate) fn report(&self, report: &mut OperatorReport) {
        report.state_bytes = self.backend.used_bytes();
        let states = self.backend.reports();
        report.state_entries = states.iter().map(|state| state.entries).sum();
    }

    /// Seals on a thread that gives way to those of records: it is busy for long, and nobody waits for it but the next
    /// checkpoint.
    fn seal_beside(&self, unsealed: UnsealedSnapshot) -> Result<Sealing, OperatorError> {
        let (send, sealed) = sync_channel(1);
        let wake = self.wake.clone();
        let seal = move || {
            // Of this thread alone, as Linux has it; where that is refused the snapshot is sealed all the same.
            let _niceness = rustix::process::nice(SEAL_NICENESS);
            // Nobody waits for the bytes of a snapshot that was given up.
            if send.send(seal(unsealed)).is_ok() {
                wake.wake();
            }
        };
        let thread = std::thread::Builder::new().name("seal".to_owned());
        thread.spawn(seal).map_err(OperatorError::NoThread)?;
        Ok(Sealing(sealed))
    }

    /// The snapshot with this file.
    fn whole(&self, file: Vec<u8>) -> OperatorSnapshot {
        let mut item = Vec::new();
        self.saved_watermark.encode(&mut item);
        OperatorSnapshot {
            keyed: vec![KeyedPart::Bytes(file)],
            lists: vec![ListStateSnapshot {
                name: WATERMARK.to_owned(),
                redistribution: Redistribution::Union,
                items: vec![item],
            }],
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
    let mut files = Vec::new();
    for part in &restored.keyed {
        match part {
            RestoredPart::Bytes(bytes) => {
                files.push(KeyedSnapshot::from_bytes(bytes.as_ref().clone())?);
            }
            RestoredPart::File { .. } | RestoredPart::InStore { .. } => {
                unreachable!("no local store is there yet")
            }
        }
    }
    Ok(KeyedStateBackend::restore(
        setup,
        files,
        context.clock.now(),
    )?)
}

fn seal(unsealed: UnsealedSnapshot) -> Result<Vec<u8>, StateError> {
    Ok(unsealed.seal()?.to_bytes())
}
