//! What a worker has seen of its attempt: what it tells a new leader that wants to go on with it (L4).
//!
//! Kept by the worker's loop beside what passes through it. The rule: it may know less than happened, never more. A slot that is
//! said to be unconfirmed is ordered to commit once more, and one that is said to hold nothing is told of every checkpoint that was begun.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::TaskId;
use highwater_protocol::recovery::AttemptReport;
use highwater_protocol::sink_slot::SlotReport;
use highwater_protocol::stop::SlotKey;
use highwater_types::{AttemptId, CheckpointBarrier, CheckpointId, Epoch};

use crate::messages::Deployment;

/// What was seen of one attempt.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    attempt: AttemptId,
    shape: ContentHash,
    /// The checkpoint that it was restored from, until a newer one is complete.
    restored: Option<CheckpointId>,
    /// The newest leader that asked, and that the attempt obeys.
    leader: Epoch,
    /// Records flow.
    released: bool,
    /// A stop has ended the reading of sources.
    suspended: bool,
    /// A sink slot has stopped by name.
    stopped: bool,
    /// Checkpoints that each task has acknowledged and of which no newer one is complete.
    acked: BTreeMap<TaskId, BTreeSet<CheckpointId>>,
    /// Checkpoints of which a barrier or a part was seen here, and no end.
    begun: BTreeSet<CheckpointId>,
    ended: BTreeSet<TaskId>,
    slots: BTreeMap<SlotKey, SlotReport>,
    splits: BTreeMap<TaskId, BTreeSet<String>>,
}

impl Witness {
    /// Of an attempt that has just been taken.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let splits = deployment.splits.iter().map(|(of, splits)| {
            let task = TaskId {
                vertex: of.uid.clone(),
                subtask: of.subtask,
            };
            let names = splits.iter().map(|split| split.id.to_string());
            (task, names.collect())
        });
        Self {
            attempt: deployment.attempt,
            shape: deployment.shape,
            restored: Some(deployment.restored),
            leader: deployment.epoch,
            released: false,
            suspended: false,
            stopped: false,
            acked: BTreeMap::new(),
            begun: BTreeSet::new(),
            ended: BTreeSet::new(),
            slots: BTreeMap::new(),
            splits: splits.collect(),
        }
    }

    /// Records flow.
    pub(super) const fn released(&mut self) {
        self.released = true;
    }

    /// A source was told to emit a barrier.
    pub(super) fn triggered(&mut self, barrier: &CheckpointBarrier) {
        self.begun.insert(barrier.id);
        self.suspended |= barrier.kind.stop_mode().is_some();
    }

    /// A stop was given up.
    pub(super) const fn resumed(&mut self) {
        self.suspended = false;
    }

    /// A sink slot has stopped by name: the attempt cannot go on, whoever leads it.
    pub(super) const fn stopped(&mut self) {
        self.stopped = true;
    }

    /// A source was given splits.
    pub(super) fn assigned(&mut self, task: &TaskId, names: impl Iterator<Item = String>) {
        self.splits.entry(task.clone()).or_default().extend(names);
    }

    /// A task has acknowledged a checkpoint.
    pub(super) fn acked(&mut self, task: &TaskId, id: CheckpointId) {
        self.begun.insert(id);
        self.acked.entry(task.clone()).or_default().insert(id);
    }

    /// A slot holds the output of a checkpoint.
    pub(super) fn held(&mut self, slot: &SlotKey, id: CheckpointId) {
        self.begun.insert(id);
        self.slots.entry(slot.clone()).or_default().acked = Some(id);
    }

    /// The output of a slot up to this checkpoint is visible.
    pub(super) fn confirmed(&mut self, slot: &SlotKey, id: CheckpointId) {
        let slot = self.slots.entry(slot.clone()).or_default();
        slot.confirmed = slot.confirmed.max(id.number);
        slot.acked = slot.acked.filter(|held| held.number > id.number);
    }

    /// The leader said that a checkpoint is complete.
    pub(super) fn completed(&mut self, id: CheckpointId) {
        self.begun.retain(|begun| begun.number > id.number);
        self.restored = self
            .restored
            .filter(|restored| restored.number >= id.number);
        for acked in self.acked.values_mut() {
            acked.retain(|acked| acked.number >= id.number);
        }
    }

    /// The leader said that a checkpoint is given up.
    pub(super) fn declined(&mut self, id: CheckpointId) {
        self.begun.remove(&id);
        for acked in self.acked.values_mut() {
            acked.remove(&id);
        }
        for slot in self.slots.values_mut() {
            slot.acked = slot.acked.filter(|held| *held != id);
        }
    }

    /// A task has emitted everything.
    pub(super) fn ended(&mut self, task: &TaskId) {
        self.ended.insert(task.clone());
    }

    /// Checkpoints that were begun and of which no end is known.
    pub(super) fn begun(&self) -> BTreeSet<CheckpointId> {
        self.begun.clone()
    }

    /// Whether a leader of this epoch is obeyed: from the first word of a newer one on, no older one is (L2).
    pub(super) fn admits(&mut self, epoch: Epoch) -> bool {
        self.leader = self.leader.max(epoch);
        self.leader == epoch
    }

    /// What `task`, which holds `slots`, tells whoever asked: the epoch in it is that of the leader that is obeyed.
    pub(super) fn report(
        &self,
        task: TaskId,
        slots: impl Iterator<Item = SlotKey>,
    ) -> AttemptReport {
        let mut history = self.acked.get(&task).cloned().unwrap_or_default();
        history.extend(self.restored);
        let slots = slots.map(|slot| {
            let seen = self.slots.get(&slot).copied().unwrap_or_default();
            (slot, seen)
        });
        let splits = self.splits.get(&task).cloned();
        AttemptReport {
            attempt: self.attempt,
            epoch: self.leader,
            shape: self.shape,
            running: self.released && !self.suspended && !self.stopped,
            history,
            slots: slots.collect(),
            splits: splits
                .map(|names| (task.vertex.clone(), names))
                .into_iter()
                .collect(),
            ended: self.ended.contains(&task),
            task,
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_connectors::Split;
    use highwater_protocol::recovery::UnmatchedState;
    use highwater_types::{BarrierKind, Lineage, OperatorUid, StopMode, SubtaskIndex};

    use super::*;
    use crate::messages::{History, OperatorSubtask, Standing};

    fn uid(name: &str) -> OperatorUid {
        OperatorUid::parse(name).unwrap()
    }

    fn id(number: u64) -> CheckpointId {
        CheckpointId {
            number,
            epoch: Epoch(2),
        }
    }

    fn task() -> TaskId {
        TaskId {
            vertex: uid("in"),
            subtask: SubtaskIndex(1),
        }
    }

    fn slot() -> SlotKey {
        SlotKey {
            sink: uid("out"),
            slot: 1,
        }
    }

    fn barrier(number: u64, kind: BarrierKind) -> CheckpointBarrier {
        CheckpointBarrier {
            id: id(number),
            kind,
        }
    }

    fn witness() -> Witness {
        let of = OperatorSubtask {
            uid: uid("in"),
            subtask: SubtaskIndex(1),
        };
        let split = Split {
            id: "a".into(),
            position: Vec::new(),
        };
        let mut witness = Witness::of(&Deployment {
            epoch: Epoch(2),
            attempt: AttemptId(5),
            shape: ContentHash(9),
            parallelism: BTreeMap::new(),
            lineage: Lineage(1),
            restored: id(3),
            history: History::Restored,
            unmatched: UnmatchedState::Refuse,
            states: BTreeMap::new(),
            splits: BTreeMap::from([(of, vec![split])]),
            complete: Vec::new(),
            markers: BTreeMap::new(),
            logs: Vec::new(),
            standing: Standing::Alone,
        });
        witness.released();
        witness
    }

    fn told(witness: &Witness) -> AttemptReport {
        witness.report(task(), [slot()].into_iter())
    }

    #[test]
    fn an_attempt_that_was_just_released_tells_what_it_began_with() {
        let mut witness = witness();
        assert!(witness.admits(Epoch(3)));
        let report = told(&witness);
        assert!(report.running && !report.ended);
        assert_eq!((report.attempt, report.epoch), (AttemptId(5), Epoch(3)));
        assert_eq!(report.shape, ContentHash(9));
        assert_eq!(report.history, BTreeSet::from([id(3)]));
        assert_eq!(report.splits[&uid("in")], BTreeSet::from(["a".to_owned()]));
        assert_eq!(report.slots[&slot()], SlotReport::default());
    }

    #[test]
    fn an_older_leader_is_not_obeyed_behind_a_newer_one() {
        let mut witness = witness();
        assert!(witness.admits(Epoch(4)));
        assert!(!witness.admits(Epoch(3)));
        assert_eq!(told(&witness).epoch, Epoch(4), "and hears of the newer one");
        assert!(witness.admits(Epoch(4)));
    }

    #[test]
    fn splits_that_came_later_and_the_end_of_input_are_told() {
        let mut witness = witness();
        witness.assigned(&task(), ["b".to_owned()].into_iter());
        witness.ended(&task());
        let report = told(&witness);
        assert!(report.ended);
        assert_eq!(report.splits[&uid("in")].len(), 2);
    }

    #[test]
    fn a_checkpoint_that_head_may_have_is_in_the_history_until_a_newer_one_is_complete() {
        let mut witness = witness();
        witness.triggered(&barrier(4, BarrierKind::Checkpoint));
        witness.acked(&task(), id(4));
        assert!(told(&witness).history.contains(&id(4)));
        assert_eq!(witness.begun(), BTreeSet::from([id(4)]));
        witness.completed(id(4));
        assert!(witness.begun().is_empty());
        assert!(
            !told(&witness).history.contains(&id(3)),
            "it is older than what is complete"
        );
        witness.acked(&task(), id(5));
        witness.completed(id(5));
        assert!(!told(&witness).history.contains(&id(4)));
        witness.acked(&task(), id(6));
        witness.declined(id(6));
        assert!(!told(&witness).history.contains(&id(6)));
    }

    #[test]
    fn a_slot_holds_what_it_acknowledged_until_it_is_confirmed_or_declined() {
        let mut witness = witness();
        witness.held(&slot(), id(4));
        assert_eq!(told(&witness).slots[&slot()].acked, Some(id(4)));
        witness.declined(id(4));
        assert_eq!(told(&witness).slots[&slot()].acked, None);
        assert!(witness.begun().is_empty());
        witness.held(&slot(), id(5));
        witness.confirmed(&slot(), id(5));
        let seen = told(&witness).slots[&slot()];
        assert_eq!((seen.acked, seen.confirmed), (None, 5));
    }

    #[test]
    fn a_stop_is_not_gone_on_from_unless_it_was_given_up() {
        for mode in [StopMode::Suspend, StopMode::Drain] {
            let is_savepoint = mode == StopMode::Suspend;
            let kind = BarrierKind::Stop { mode, is_savepoint };
            let mut witness = witness();
            witness.triggered(&barrier(4, kind));
            assert!(!told(&witness).running);
            witness.resumed();
            assert!(told(&witness).running);
        }
        let mut witness = witness();
        witness.triggered(&barrier(4, BarrierKind::Savepoint));
        assert!(told(&witness).running);
        witness.stopped();
        assert!(!told(&witness).running, "a slot has stopped by name");
    }
}
