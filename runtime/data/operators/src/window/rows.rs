//! Sorts the rows of a chunk by window, so that each open window is updated in one go; judges which are late.
//!
//! Within a window rows keep their order. All memory is reused from chunk to chunk.

use highwater_types::{Chunk, EventTime, KeyHash, Watermark};
use highwater_window::{AllowedLateness, TimeWindow, WindowAssigner};

use crate::error::OperatorError;

/// The rows of one open window.
pub(super) struct Batch {
    pub(super) window: TimeWindow,
    pub(super) rows: Vec<u32>,
    pub(super) hashes: Vec<KeyHash>,
}

/// The rows of one chunk by what is done with them.
#[derive(Default)]
pub(super) struct SortedRows {
    /// The first `used` are of this chunk; the others are kept for their memory.
    batches: Vec<Batch>,
    used: usize,
    /// The batch that took the last row: the next one is probably of the same or the following.
    last: usize,
    late: Vec<(u32, TimeWindow)>,
    too_late: Vec<u32>,
}

impl SortedRows {
    /// Rows of windows that have not fired.
    pub(super) fn batches(&self) -> &[Batch] {
        &self.batches[..self.used]
    }

    /// Rows of windows that have fired and are not over, in order.
    pub(super) fn late(&self) -> &[(u32, TimeWindow)] {
        &self.late
    }

    /// Rows that are too late for all their windows, in order.
    pub(super) fn too_late(&self) -> &[u32] {
        &self.too_late
    }

    fn clear(&mut self) {
        self.used = 0;
        self.last = 0;
        self.late.clear();
        self.too_late.clear();
    }

    fn push(&mut self, window: TimeWindow, row: u32, hash: KeyHash) {
        let at = self.batch_of(window);
        let batch = &mut self.batches[at];
        batch.rows.push(row);
        batch.hashes.push(hash);
        self.last = at;
    }

    fn batch_of(&mut self, window: TimeWindow) -> usize {
        let near = [self.last, self.last + 1].into_iter();
        let mut likely = near.filter(|&at| at < self.used);
        let found = likely
            .find(|&at| self.batches[at].window == window)
            .or_else(|| {
                self.batches()
                    .iter()
                    .position(|batch| batch.window == window)
            });
        if let Some(at) = found {
            return at;
        }
        match self.batches.get_mut(self.used) {
            Some(free) => {
                free.window = window;
                free.rows.clear();
                free.hashes.clear();
            }
            None => self.batches.push(Batch {
                window,
                rows: Vec::new(),
                hashes: Vec::new(),
            }),
        }
        self.used += 1;
        self.used - 1
    }
}

/// Sorts the rows of a keyed chunk. `fixed_time` is the time of all rows where it is not their event time.
pub(super) fn sort_rows<In>(
    sorted: &mut SortedRows,
    chunk: &Chunk<In>,
    assigner: &impl WindowAssigner,
    (lateness, watermark): (AllowedLateness, Watermark),
    fixed_time: Option<EventTime>,
) -> Result<(), OperatorError> {
    sorted.clear();
    for (row, (&time, &hash)) in chunk.times().iter().zip(chunk.hashes()).enumerate() {
        let (row, time) = (row as u32, fixed_time.unwrap_or(time));
        if !time.is_some() {
            return Err(OperatorError::NoEventTime {
                operator: "an event-time window",
            });
        }
        let mut is_taken = false;
        assigner.assign(time, |window| {
            if window.is_expired(lateness, watermark) {
                return;
            }
            is_taken = true;
            if window.is_complete(watermark) {
                sorted.late.push((row, window));
            } else {
                sorted.push(window, row, hash);
            }
        });
        if !is_taken {
            sorted.too_late.push(row);
        }
    }
    Ok(())
}
