//! Workers that leave: what they run moves to others first.
//!
//! Part of the fleet's machine. The rule: a worker that leaves gets no share of a later attempt, and is told to end as soon as nothing of
//! an attempt runs on it, neither of the one that is held here nor of one that it holds for an older leader. When the attempt ends for its
//! sake is decided by the coordinator, which looks at who leaves.

use highwater_types::WorkerIndex;
use highwater_worker::WorkerCommand;

use super::{Fleet, FleetOutput, Held};

/// How far a worker is that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It has tasks.
    Works,
    /// It was told to end.
    Dismissed,
}

impl Fleet {
    /// Whether the end of this worker is no loss: it was told to end, since it left.
    pub(super) fn is_dismissed(&self, worker: WorkerIndex) -> bool {
        self.leaving.get(&worker) == Some(&Leave::Dismissed)
    }

    /// A worker wants to go.
    pub(super) fn leaves(&mut self, worker: WorkerIndex) -> Vec<FleetOutput> {
        if !self.members.contains_key(&worker) || self.leaving.contains_key(&worker) {
            return Vec::new();
        }
        self.leaving.insert(worker, Leave::Works);
        self.all_free().into_iter().collect()
    }

    /// Tells those to end that leave and run nothing any more, each once.
    pub(super) fn dismiss(&mut self) -> Vec<FleetOutput> {
        let on = match &self.held {
            Some(Held::Placed(placed)) => Some(&placed.on),
            Some(Held::Waiting(_)) | None => None,
        };
        let members = &self.members;
        let runs = |worker: &WorkerIndex| {
            let holds = members.get(worker).is_some_and(|of| of.holds.is_some());
            holds || on.is_some_and(|on| on.contains(worker))
        };
        let mut outputs = Vec::new();
        for (worker, leave) in &mut self.leaving {
            if *leave == Leave::Works && !runs(worker) {
                *leave = Leave::Dismissed;
                outputs.push(FleetOutput::Send(*worker, WorkerCommand::Shutdown));
            }
        }
        outputs
    }
}
