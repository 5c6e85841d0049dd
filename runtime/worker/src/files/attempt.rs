//! What an attempt remembers of the checkpoints of its local stores: which files are stored, and where they lie on disk.
//!
//! Owned by the worker's loop, which hands every completion and decline on. One machine for each operator subtask
//! ([`SharedFiles`]) decides what may be referred to; the local files of the last completed checkpoint are kept, so that the
//! next attempt need not fetch them.
//!
//! A subtask that got the files of several stores back, because the parallelism has changed, goes on from those of one, and only
//! its state knows which. Until a checkpoint is complete it has a machine for each of them: the bytes tell which one counts.

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
    /// All of one subtask are told the same. There is one at least.
    machines: BTreeMap<OperatorSubtask, Vec<SharedFiles>>,
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
    /// An attempt that was restored from a checkpoint, which holds the files of these stores for each operator subtask.
    pub fn start(restored: CheckpointId, held: BTreeMap<OperatorSubtask, Vec<HeldFiles>>) -> Self {
        let machines = held.into_iter().map(|(of, stores)| {
            let stores = stores.into_iter();
            let machines = stores.map(|held| SharedFiles::start(restored, held));
            (of, machines.collect::<Vec<_>>())
        });
        Self {
            restored,
            machines: machines.collect(),
            frozen: BTreeMap::new(),
        }
    }

    /// A task begins to store its part: what the files of each local store in it may refer to.
    pub fn begin(
        &mut self,
        id: CheckpointId,
        subtask: SubtaskIndex,
        operators: &Collected,
    ) -> BTreeMap<OperatorUid, Vec<Referable>> {
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
            let fresh = || vec![SharedFiles::start(restored, HeldFiles::none())];
            let machines = self.machines.entry(of).or_insert_with(fresh);
            let referable = machines.iter_mut().map(|machine| machine.begin(id));
            (uid.clone(), referable.collect::<Vec<_>>())
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
            let machines = self.machines.get_mut(&of);
            let waits = machines.is_some_and(|machines| {
                let machines = machines.iter_mut();
                let told = machines.map(|machine| machine.stored(id, held.clone()));
                told.fold(true, |all, waits| all & waits)
            });
            if waits {
                self.frozen.insert((id, of), files);
            } else {
                may_acknowledge = false;
            }
        }
        may_acknowledge
    }

    /// A checkpoint is complete: its local files take the place of those of an older one.
    pub fn completed(&mut self, id: CheckpointId, kept: &mut KeptFiles) {
        for machines in self.machines.values_mut() {
            for machine in machines.iter_mut() {
                machine.completed(id);
            }
            if id.number > self.restored.number {
                // What was restored does not count any more, so that they are all the same.
                machines.truncate(1);
            }
        }
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
            .flatten()
            .for_each(|machine| machine.declined(id));
        self.frozen.retain(|(of, _), _| *of != id);
    }
}
