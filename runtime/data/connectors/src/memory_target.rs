//! An output target in memory: sessions, markers and a view of what is committed. For tests of jobs and of the engine.
//!
//! One [`MemoryOutput`] stands for an outside system. It outlives the targets that write to it, so a test can lose a
//! target at any point and open the next one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_types::{OperatorUid, SubtaskIndex};

use crate::error::ConnectorError;
use crate::output::OutputBatch;
use crate::sink::{
    ExternalIdentity, KnownMarkers, Marker, MarkerKind, MarkerPosition, MarkerReading,
    OutputTarget, RequiredMarkers, TargetError, WriterContext,
};

const SYSTEM: &str = "memory";

/// One slot of one sink in one lineage.
type SlotName = (u128, OperatorUid, SubtaskIndex);

#[derive(Default)]
struct Slot {
    session: u64,
    committed: BTreeMap<u64, (Marker, OutputBatch)>,
}

/// A place in memory that transactional sinks write to. Cheap to clone; all clones are one place.
#[derive(Clone, Default)]
pub struct MemoryOutput {
    slots: Arc<Mutex<BTreeMap<SlotName, Slot>>>,
    /// How often its markers were lost: names their place.
    losses: Arc<AtomicU64>,
}

impl MemoryOutput {
    /// An empty place.
    pub fn new() -> Self {
        Self::default()
    }

    /// The target of one slot.
    pub fn target(&self, context: &WriterContext) -> MemoryTarget {
        MemoryTarget {
            output: self.clone(),
            slot: (context.lineage.0, context.uid.clone(), context.subtask),
            known: KnownMarkers::default(),
            session: None,
            transaction: None,
        }
    }

    /// Stands for markers that are deleted and made anew: their place has another name from now on.
    pub fn lose_markers(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    fn place(&self) -> String {
        format!("{SYSTEM}-{}", self.losses.load(Ordering::SeqCst))
    }

    /// What a reader of committed data sees: the output of each checkpoint, in order of slot and number.
    pub fn committed(&self) -> Vec<(SubtaskIndex, Marker, OutputBatch)> {
        let slots = self.slots();
        let commits = slots.iter().flat_map(|((.., subtask), slot)| {
            let outputs = slot.committed.values();
            outputs.map(|(marker, batch)| (*subtask, *marker, batch.clone()))
        });
        commits
            .filter(|(_, marker, _)| marker.kind == MarkerKind::Output)
            .collect()
    }

    /// A marker stands at its number; behind the last one of the sink, over all slots, is the end.
    fn end(slots: &BTreeMap<SlotName, Slot>, (lineage, uid, _): &SlotName) -> MarkerPosition {
        let of_sink = slots
            .iter()
            .filter(|((of, sink, _), _)| (of, sink) == (lineage, uid));
        let newest = of_sink
            .filter_map(|(_, slot)| slot.committed.keys().next_back())
            .max();
        MarkerPosition(newest.map_or(0, |newest| newest + 1))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<SlotName, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryOutput({} slots)", self.slots().len())
    }
}

/// The door of one slot to a [`MemoryOutput`].
#[derive(Debug)]
pub struct MemoryTarget {
    output: MemoryOutput,
    slot: SlotName,
    known: KnownMarkers,
    session: Option<u64>,
    transaction: Option<OutputBatch>,
}

impl MemoryTarget {
    fn object(&self) -> String {
        format!("slot {} of memory sink {}", self.slot.2, self.slot.1)
    }

    /// Acts on the slot, if the session of this target is still the newest.
    fn act<R>(&mut self, act: impl FnOnce(&mut Slot) -> R) -> Result<R, TargetError> {
        let mut slots = self.output.slots();
        let slot = slots.entry(self.slot.clone()).or_default();
        if self.session == Some(slot.session) {
            return Ok(act(slot));
        }
        drop(slots);
        self.session = None;
        self.transaction = None;
        Err(TargetError::SessionLost(ConnectorError::Fenced {
            object: self.object(),
        }))
    }

    /// The place of the markers, if it is the one that was named.
    fn place(&self) -> Result<String, TargetError> {
        let place = self.output.place();
        match self.known.required_in(|| Ok(SYSTEM.to_owned()))? {
            RequiredMarkers::This(required) if required != place => {
                Err(TargetError::MarkerLost(ConnectorError::PositionLost {
                    object: self.object(),
                    position: 0,
                    reason: format!("its markers are {place}, and the checkpoint names {required}"),
                }))
            }
            // Its place is there as long as the memory is.
            _ => Ok(place),
        }
    }

    fn no_transaction(&self) -> TargetError {
        TargetError::SessionLost(ConnectorError::Unavailable {
            object: self.object(),
            reason: "no transaction is open".to_owned(),
        })
    }
}

impl OutputTarget for MemoryTarget {
    fn expect_markers(&mut self, known: KnownMarkers) {
        self.known = known;
    }

    fn identity(&mut self) -> Result<ExternalIdentity, TargetError> {
        Ok(ExternalIdentity {
            system: SYSTEM.to_owned(),
            markers: self.place()?,
            output: String::new(),
        })
    }

    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError> {
        let slots = self.output.slots();
        let own = slots
            .get(&self.slot)
            .and_then(|slot| slot.committed.keys().next_back());
        Ok(MarkerPosition(own.map_or(0, |newest| newest + 1)))
    }

    fn open_session(&mut self) -> Result<(), TargetError> {
        self.place()?;
        self.transaction = None;
        let mut slots = self.output.slots();
        let slot = slots.entry(self.slot.clone()).or_default();
        slot.session += 1;
        self.session = Some(slot.session);
        Ok(())
    }

    fn write_sync(&mut self) -> Result<(), TargetError> {
        self.act(|_| ())
    }

    fn read_markers(&mut self, from: MarkerPosition) -> Result<MarkerReading, TargetError> {
        let end = MemoryOutput::end(&self.output.slots(), &self.slot);
        let place = self.output.place();
        self.act(|slot| MarkerReading {
            place,
            start: MarkerPosition(0),
            end,
            markers: slot
                .committed
                .range(from.0..)
                .map(|(&number, (marker, _))| (number, marker.kind))
                .collect(),
        })
    }

    fn begin(&mut self) -> Result<(), TargetError> {
        self.act(|_| ())?;
        self.transaction = Some(OutputBatch::default());
        Ok(())
    }

    fn send(&mut self, batch: &OutputBatch) -> Result<(), TargetError> {
        match &mut self.transaction {
            Some(transaction) => {
                transaction.append(batch);
                Ok(())
            }
            None => Err(self.no_transaction()),
        }
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        self.act(|_| ())
    }

    fn commit(&mut self, marker: Marker) -> Result<MarkerPosition, TargetError> {
        let Some(output) = self.transaction.take() else {
            return Err(self.no_transaction());
        };
        self.act(|slot| {
            slot.committed.insert(marker.number, (marker, output));
            MarkerPosition(marker.number + 1)
        })
    }

    fn abort(&mut self) -> Result<(), TargetError> {
        self.transaction = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Effort, output_target_suite, writer_context};

    #[test]
    fn memory_target_keeps_the_target_contract() {
        let output = MemoryOutput::new();
        let reader = output.clone();
        output_target_suite(
            Effort::FULL,
            &mut |slot| Box::new(output.target(&writer_context(slot.0))),
            &mut || {
                let committed = reader.committed();
                let batches = committed.iter().map(|(.., batch)| batch);
                let values = batches.flat_map(OutputBatch::iter);
                values
                    .filter_map(|record| record.value.map(<[u8]>::to_vec))
                    .collect()
            },
        );
    }
}
