//! The keyed state of one operator subtask with everything around it: restoring, the watermark that belongs to the state,
//! saving in portions and sealing.
//!
//! Owned by every keyed operator. The rule it keeps: at a barrier nothing is copied; the scan that follows takes a
//! portion between chunks, and freezing a store or sorting a large snapshot is done on a thread that gives way.

use std::fs::File;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use highwater_connectors::WakeHandle;
use highwater_state::{
    BackendSetup, KeyedSnapshot, KeyedStateBackend, RestoredSnapshot, SealedPieces,
    SnapshotProgress, StateError, Unmatched, UnsealedSnapshot,
};
use highwater_types::{CheckpointBarrier, Chunk, KeyGroupRange, ProcessingTime, Record, Watermark};

use crate::context::{OnUnmatched, OperatorContext};
use crate::error::OperatorError;
use crate::operator::{OperatorReport, TaskClock};
use crate::snapshot::{
    KeyedPart, ListStateSnapshot, OperatorSnapshot, Redistribution, RestoredPart, SnapshotPieces,
    SnapshotStep,
};

/// The list state of the watermark: one item from each subtask, all given to each.
const WATERMARK: &str = "highwater.watermark";

/// Entries that one portion of a snapshot looks at.
const PORTION_ENTRIES: usize = 512;

/// Up to this many bytes of state a snapshot is sealed on the slot thread: it takes a few milliseconds at most.
const SEAL_INLINE_BYTES: u64 = 1 << 20;

/// About how many bytes a file of a canonical snapshot has that is made piece by piece.
const PIECE_BYTES: u64 = 32 << 20;

/// By how much a thread that seals stands behind those that process records, in the steps of `nice`.
const SEAL_NICENESS: i32 = 10;

/// What the thread that seals a snapshot tells.
enum SealNews {
    /// The local store is frozen, and may be written again.
    Frozen,
    /// The end.
    Sealed(Result<KeyedPart, StateError>),
}

/// A snapshot that is being sealed on a thread of its own.
struct Sealing {
    news: Receiver<SealNews>,
    is_frozen: bool,
    sealed: Option<Result<KeyedPart, StateError>>,
}

impl Sealing {
    fn heard(&mut self, news: SealNews) {
        match news {
            SealNews::Frozen => self.is_frozen = true,
            SealNews::Sealed(sealed) => self.sealed = Some(sealed),
        }
    }

    /// Whether the store may be written again.
    const fn is_frozen(&self) -> bool {
        self.is_frozen
    }
}

/// Which form a snapshot takes where a local store holds the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotForm {
    /// The files of the store: a checkpoint keeps those that it has already.
    InStore,
    /// The same bytes with every backend: what a savepoint is.
    Canonical,
}

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
        if self.backend.is_pressed() && self.sealing.is_some() {
            self.wait_for_frozen()?;
        }
        Ok(())
    }

    /// Gives memory back if others wait for it: to be called in every turn.
    pub(crate) fn on_turn(&mut self) -> Result<(), OperatorError> {
        Ok(self.backend.relieve_others()?)
    }

    /// Waits until the store is frozen and gives memory back. The caches are above their size, and what was written since the
    /// barrier can go nowhere else: records wait here for some ten milliseconds, so that memory has a bound.
    #[cold]
    fn wait_for_frozen(&mut self) -> Result<(), OperatorError> {
        let Some(sealing) = self.sealing.as_mut().filter(|held| !held.is_frozen()) else {
            return Ok(());
        };
        let start = self.clock.elapsed();
        let Ok(news) = sealing.news.recv() else {
            panic!("sealing a snapshot panicked");
        };
        self.waited += self.clock.elapsed().saturating_sub(start);
        match news {
            SealNews::Frozen => sealing.heard(SealNews::Frozen),
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
            let is_small = self.backend.used_bytes() <= SEAL_INLINE_BYTES;
            let unsealed = self.backend.take_snapshot()?;
            if is_small && !unsealed.is_in_store() {
                return Ok(SnapshotStep::Whole(self.whole(seal(unsealed, self.form)?)));
            }
            self.sealing = Some(self.seal_beside(unsealed)?);
        }
        while let Some(sealing) = &mut self.sealing {
            if let Some(sealed) = sealing.sealed.take() {
                self.sealing = None;
                return Ok(SnapshotStep::Whole(self.whole(sealed?)));
            }
            match sealing.news.try_recv() {
                Ok(news) => {
                    sealing.heard(news);
                    if sealing.is_frozen() {
                        self.backend.resume_writes();
                    }
                }
                Err(TryRecvError::Disconnected) => panic!("sealing a snapshot panicked"),
                Err(TryRecvError::Empty) => break,
            }
        }
        Ok(SnapshotStep::Waits)
    }

    /// Gives the open snapshot up.
    pub(crate) fn snapshot_abort(&mut self) {
        self.sealing = None;
        self.backend.abort_snapshot();
    }

    pub(crate) fn report(&self, report: &mut OperatorReport) {
        report.state_bytes = self.backend.used_bytes();
        report.states = self.backend.reports();
        report.state_entries = report.states.iter().map(|state| state.entries).sum();
        report.store = self.backend.store_report();
    }

    /// Seals on a thread that gives way to those of records: it is busy for long, and nobody waits for it but the next
    /// checkpoint.
    fn seal_beside(&self, mut unsealed: UnsealedSnapshot) -> Result<Sealing, OperatorError> {
        let (send, news) = sync_channel(2);
        let (wake, form) = (self.wake.clone(), self.form);
        // Nobody waits for the news of a snapshot that was given up.
        let tell = move |news| {
            let heard = send.send(news).is_ok();
            if heard {
                wake.wake();
            }
            heard
        };
        let seal = move || {
            if let Err(error) = unsealed.freeze() {
                tell(SealNews::Sealed(Err(error)));
                return;
            }
            if unsealed.is_in_store() && !tell(SealNews::Frozen) {
                return;
            }
            // Of this thread alone, as Linux has it; where that is refused the snapshot is sealed all the same. Not sooner,
            // because the table may have to hold more than its cache until the store is frozen.
            let _niceness = rustix::process::nice(SEAL_NICENESS);
            tell(SealNews::Sealed(seal(unsealed, form)));
        };
        let thread = std::thread::Builder::new().name("seal".to_owned());
        thread.spawn(seal).map_err(OperatorError::NoThread)?;
        Ok(Sealing {
            news,
            is_frozen: false,
            sealed: None,
        })
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

/// Seals a snapshot whose store, if it has one, is frozen.
fn seal(mut unsealed: UnsealedSnapshot, form: SnapshotForm) -> Result<KeyedPart, StateError> {
    if !unsealed.is_in_store() {
        return Ok(KeyedPart::Bytes(unsealed.seal()?.to_bytes()));
    }
    match form {
        SnapshotForm::InStore => {
            let sealed = unsealed.seal_in_store()?;
            Ok(KeyedPart::InStore {
                head: sealed.head.to_bytes(),
                files: sealed.files,
            })
        }
        SnapshotForm::Canonical => {
            let pieces = unsealed.into_pieces(PIECE_BYTES)?;
            Ok(KeyedPart::Pieces(Box::new(StatePieces(pieces))))
        }
    }
}

/// The canonical files of a subtask, one after another.
struct StatePieces(SealedPieces);

impl SnapshotPieces for StatePieces {
    fn next_piece(&mut self) -> Result<Option<(KeyGroupRange, Vec<u8>)>, OperatorError> {
        let piece = self.0.next_piece()?;
        Ok(piece.map(|piece| (piece.range, piece.to_bytes())))
    }
}
