//! What an attempt remembers of the checkpoints of its local stores: which files are stored, and where they lie on disk.
//!
//! Owned by the worker's loop, which hands every completion and decline on. One machine for each operator subtask
//! ([`SharedFiles`]) decides what may be referred to; the local files of the last completed checkpoint are kept, so that the
//! next attempt need not fetch them.

use std::collections::BTreeMap;

use highwater_operators::{Collected, KeyedPart};
use highwater_protocol::shared_files::{HeldFiles, Referable, SharedFiles};
use highwater_state::StoreFiles;
use highwater_types::{CheckpointId, OperatorUid, SubtaskIndex};

use crate::local_dirs::LocalIndex;
use crate::messages::OperatorSubtask;

/// The stores of an attempt, by operator subtask.
#[derive(Debug)]
pub struct AttemptFiles {
    restored: CheckpointId,
    machines: BTreeMap<OperatorSubtask, SharedFiles>,
    frozen: BTreeMap<(CheckpointId, OperatorSubtask), StoreFiles>,
}

/// The local files of the last completed checkpoint. They outlive the attempt that wrote them.
#[derive(Debug, Default)]
pub struct KeptFiles(BTreeMap<OperatorSubtask, StoreFiles>);

impl KeptFiles {
    /// Adds them to what a restore looks through.
    pub fn offer(&self, index: &mut LocalIndex) {
        self.0.values().for_each(|files| index.add(files));
    }
}

impl AttemptFiles {
    /// An attempt that was restored from a checkpoint, which holds these files of each operator subtask.
    pub fn start(restored: CheckpointId, held: BTreeMap<OperatorSubtask, HeldFiles>) -> Self {
        let machine = |held| SharedFiles::start(restored, held);
        let machines = held.into_iter();
        Self {
            restored,
            machines: machines.map(|(of, held)| (of, machine(held))).collect(),
            frozen: BTreeMap::new(),
        }
    }

    /// A task begins to store its part: what the files of each local store in it may refer to.
    pub fn begin(
        &mut self,
        id: CheckpointId,
        subtask: SubtaskIndex,
        operators: &Collected,
    ) -> BTreeMap<OperatorUid, Referable> {
        let in_store = operators.iter().filter(|(_, state)| {
            let mut parts = state.keyed.iter();
            parts.any(|part| matches!(part, KeyedPart::InStore { .. }))
        });
        let restored = self.restored;
        let begun = in_store.map(|(uid, _)| {
            let of = OperatorSubtask {
                uid: uid.clone(),
                subtask,
            };
            let fresh = || SharedFiles::start(restored, HeldFiles::none());
            let machine = self.machines.entry(of).or_insert_with(fresh);
            (uid.clone(), machine.begin(id))
        });
        begun.collect()
    }

    /// A task's part is stored. Whether it may be acknowledged.
    #[must_use]
    pub fn stored(
        &mut self,
        id: CheckpointId,
        subtask: SubtaskIndex,
        stores: BTreeMap<OperatorUid, (HeldFiles, StoreFiles)>,
    ) -> bool {
        let mut may_acknowledge = true;
        for (uid, (held, files)) in stores {
            let of = OperatorSubtask { uid, subtask };
            let machine = self.machines.get_mut(&of);
            if machine.is_some_and(|machine| machine.stored(id, held)) {
                self.frozen.insert((id, of), files);
            } else {
                may_acknowledge = false;
            }
        }
        may_acknowledge
    }

    /// A checkpoint is complete: its local files take the place of those of an older one.
    pub fn completed(&mut self, id: CheckpointId, kept: &mut KeptFiles) {
        self.machines
            .values_mut()
            .for_each(|machine| machine.completed(id));
        let frozen = std::mem::take(&mut self.frozen).into_iter();
        let (over, later): (BTreeMap<_, _>, _) =
            frozen.partition(|((of, _), _)| of.number <= id.number);
        self.frozen = later;
        let of_this = over.into_iter().filter(|((of, _), _)| *of == id);
        let now: BTreeMap<_, _> = of_this.map(|((_, of), files)| (of, files)).collect();
        if !now.is_empty() {
            kept.0 = now;
        }
    }

    /// A checkpoint was given up.
    pub fn declined(&mut self, id: CheckpointId) {
        self.machines
            .values_mut()
            .for_each(|machine| machine.declined(id));
        self.frozen.retain(|(of, _), _| *of != id);
    }
}
