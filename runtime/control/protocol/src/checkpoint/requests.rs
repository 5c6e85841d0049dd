//! What waits for a checkpoint: requests of people in the order of their weight, and the wish of the engine itself.
//!
//! Called by [`super::CheckpointCoordinator`]. The rules: a wish of the engine is a flag that any checkpoint satisfies, so
//! it never stands in anybody's way; a stop goes before a savepoint, a savepoint before a checkpoint; a stop that was
//! given up waits again, because whoever asked for it has nobody else to ask.

use super::SnapshotRequest;

/// Requests that may wait beside a stop.
const WAITING_MAX: usize = 8;

/// What waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    stop: Option<SnapshotRequest>,
    others: Vec<SnapshotRequest>,
    /// A sink's spool is half full.
    pub(super) wanted: bool,
}

impl Requests {
    pub(super) const fn is_empty(&self) -> bool {
        self.stop.is_none() && self.others.is_empty()
    }

    pub(super) const fn stop(&self) -> Option<&SnapshotRequest> {
        self.stop.as_ref()
    }

    /// Whether there is no room for a request. There always is for a stop.
    pub(super) const fn is_full_for(&self, request: &SnapshotRequest) -> bool {
        !request.stops() && self.others.len() >= WAITING_MAX
    }

    pub(super) fn add(&mut self, request: SnapshotRequest) {
        if request.stops() {
            self.stop = Some(request);
        } else {
            self.others.push(request);
        }
    }

    /// Takes the weightiest one, the oldest of those.
    pub(super) fn next(&mut self) -> Option<SnapshotRequest> {
        if self.stop.is_some() {
            return self.stop.take();
        }
        let savepoint = self
            .others
            .iter()
            .position(|waiting| waiting.savepoint.is_some());
        let at = savepoint.unwrap_or(0);
        (at < self.others.len()).then(|| self.others.remove(at))
    }
}
