//! The history of checkpoints: the last of them with their tasks, what they stored, how long they took, why they were given up.
//!
//! Kept by the coordinator in its status. Pure. The rule: it says what happened and decides nothing; what an older leader did is not in it.
//!
//! Source: Flink's `CheckpointStatsTracker`.

use std::collections::{BTreeMap, VecDeque};

use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::manifest::StateBytes;
use highwater_protocol::paths::ObjectName;
use highwater_types::{BarrierKind, CheckpointId, OperatorUid, SubtaskIndex};

/// Checkpoints that are kept.
const KEPT: usize = 20;

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastCheckpoint {
    /// Its number and epoch.
    pub id: CheckpointId,
    /// What the barrier asked for; `None` = none was sent.
    pub kind: Option<BarrierKind>,
    /// When it began, in milliseconds of the coordinator's clock.
    pub began_ms: u64,
    /// What became of it.
    pub outcome: CheckpointOutcome,
    /// Its tasks by their first operator.
    pub tasks: BTreeMap<OperatorUid, TaskPart>,
}

/// What became of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// It is under way.
    Pending,
    /// It is complete.
    Completed {
        /// When, in milliseconds of the coordinator's clock.
        at_ms: u64,
        /// What it stored.
        bytes: StateBytes,
        /// When all of its output was confirmed; `None` = not yet, or by a recovery.
        confirmed_ms: Option<u64>,
    },
    /// It was given up.
    GivenUp {
        /// When, in milliseconds of the coordinator's clock.
        at_ms: u64,
        /// Why.
        reason: String,
    },
}

/// What all subtasks of one task did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskPart {
    /// How many there are.
    pub subtasks: u32,
    /// How many have answered.
    pub answered: u32,
    /// Milliseconds from the beginning to the first answer.
    pub first_ms: Option<u64>,
    /// The same to the last answer so far, and whose it was.
    pub last: Option<(u64, SubtaskIndex)>,
    /// What they stored.
    pub bytes: StateBytes,
}

/// The last checkpoints, the oldest first, up to 20 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointHistory(VecDeque<PastCheckpoint>);

impl CheckpointHistory {
    /// A checkpoint of these tasks has begun.
    pub fn begin<'a>(
        &mut self,
        id: CheckpointId,
        now_ms: u64,
        tasks: impl Iterator<Item = &'a TaskId>,
    ) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        let mut parts = BTreeMap::<OperatorUid, TaskPart>::new();
        for task in tasks {
            parts.entry(task.vertex.clone()).or_default().subtasks += 1;
        }
        self.0.push_back(PastCheckpoint {
            id,
            kind: None,
            began_ms: now_ms,
            outcome: CheckpointOutcome::Pending,
            tasks: parts,
        });
    }

    /// A barrier was sent for it.
    pub fn sent(&mut self, id: CheckpointId, kind: BarrierKind) {
        if let Some(held) = self.pending(id) {
            held.kind = Some(kind);
        }
    }

    /// A subtask has answered with this part. Told once for each.
    pub fn answered(
        &mut self,
        id: CheckpointId,
        task: &TaskId,
        snapshot: &TaskSnapshot,
        now_ms: u64,
    ) {
        let Some(held) = self.pending(id) else { return };
        let after_ms = now_ms.saturating_sub(held.began_ms);
        let Some(part) = held.tasks.get_mut(&task.vertex) else {
            return;
        };
        part.answered += 1;
        part.first_ms.get_or_insert(after_ms);
        part.last = Some((after_ms, task.subtask));
        for (path, file) in &snapshot.files {
            let is_new = ObjectName::parse(path).and_then(|name| name.id()) == Some(id);
            let sum = if is_new {
                &mut part.bytes.new
            } else {
                &mut part.bytes.referenced
            };
            *sum += file.length;
        }
    }

    /// It is complete. Gives how many milliseconds it took; `None` = it was not under way.
    pub fn completed(&mut self, id: CheckpointId, bytes: StateBytes, now_ms: u64) -> Option<u64> {
        let held = self.pending(id)?;
        held.outcome = CheckpointOutcome::Completed {
            at_ms: now_ms,
            bytes,
            confirmed_ms: None,
        };
        Some(now_ms.saturating_sub(held.began_ms))
    }

    /// All of its output is confirmed.
    pub fn confirmed(&mut self, id: CheckpointId, now_ms: u64) {
        let held = self.0.iter_mut().rev().find(|held| held.id == id);
        if let Some(CheckpointOutcome::Completed { confirmed_ms, .. }) =
            held.map(|held| &mut held.outcome)
        {
            confirmed_ms.get_or_insert(now_ms);
        }
    }

    /// The one that is under way was given up.
    pub fn given_up(&mut self, reason: &str, now_ms: u64) {
        for held in &mut self.0 {
            if held.outcome == CheckpointOutcome::Pending {
                held.outcome = CheckpointOutcome::GivenUp {
                    at_ms: now_ms,
                    reason: reason.to_owned(),
                };
            }
        }
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &PastCheckpoint> {
        self.0.iter()
    }

    fn pending(&mut self, id: CheckpointId) -> Option<&mut PastCheckpoint> {
        let held = self.0.iter_mut().rev().find(|held| held.id == id);
        held.filter(|held| held.outcome == CheckpointOutcome::Pending)
    }
}

#[cfg(test)]
mod tests {
    use highwater_protocol::hash::ContentHash;
    use highwater_protocol::manifest::FileEntry;
    use highwater_protocol::paths::DataWriter;
    use highwater_types::{AttemptId, Epoch};

    use super::*;

    const fn id(number: u64) -> CheckpointId {
        CheckpointId {
            number,
            epoch: Epoch(2),
        }
    }

    fn task(uid: &str, subtask: u32) -> TaskId {
        TaskId {
            vertex: OperatorUid::parse(uid).unwrap(),
            subtask: SubtaskIndex(subtask),
        }
    }

    /// A part with a file of this checkpoint and one of the checkpoint before it.
    fn part(task: &TaskId, number: u64) -> TaskSnapshot {
        let writer = DataWriter {
            epoch: Epoch(2),
            attempt: AttemptId(1),
            uid: task.vertex.clone(),
            subtask: task.subtask,
        };
        let file = |number, length| {
            let entry = FileEntry {
                length,
                checksum: ContentHash(1),
            };
            (writer.file(number, "keyed.0"), entry)
        };
        TaskSnapshot {
            files: [file(number, 10), file(number - 1, 500)].into(),
            ..TaskSnapshot::default()
        }
    }

    #[test]
    fn the_parts_of_a_task_are_summed_and_its_slowest_subtask_is_named() {
        let mut history = CheckpointHistory::default();
        let tasks = [task("read", 0), task("count", 0), task("count", 1)];
        history.begin(id(3), 1_000, tasks.iter());
        history.sent(id(3), BarrierKind::Savepoint);
        for (at, task) in [(1_010, &tasks[2]), (1_250, &tasks[1])] {
            history.answered(id(3), task, &part(task, 3), at);
        }
        // Of another checkpoint: it does not count.
        history.answered(id(2), &tasks[0], &part(&tasks[0], 2), 1_300);
        let held = history.all().next().unwrap();
        assert_eq!(held.kind, Some(BarrierKind::Savepoint));
        let bytes = StateBytes {
            new: 20,
            referenced: 1_000,
        };
        let expected = TaskPart {
            subtasks: 2,
            answered: 2,
            first_ms: Some(10),
            last: Some((250, SubtaskIndex(0))),
            bytes,
        };
        assert_eq!(held.tasks[&tasks[1].vertex], expected);
        assert_eq!(held.tasks[&tasks[0].vertex].answered, 0);
    }

    #[test]
    fn a_checkpoint_ends_once() {
        let mut history = CheckpointHistory::default();
        let bytes = StateBytes::default();
        history.begin(id(1), 2, [].iter());
        assert_eq!(history.completed(id(1), bytes, 7), Some(5));
        history.given_up("late", 8);
        history.confirmed(id(1), 9);
        history.confirmed(id(1), 12);
        let completed = CheckpointOutcome::Completed {
            at_ms: 7,
            bytes,
            confirmed_ms: Some(9),
        };
        history.begin(id(2), 10, [].iter());
        history.given_up("timeout", 20);
        assert_eq!(history.completed(id(2), bytes, 21), None);
        let given_up = CheckpointOutcome::GivenUp {
            at_ms: 20,
            reason: "timeout".to_owned(),
        };
        let outcomes: Vec<_> = history.all().map(|held| held.outcome.clone()).collect();
        assert_eq!(outcomes, [completed, given_up]);
    }

    #[test]
    fn the_last_twenty_are_kept() {
        let mut history = CheckpointHistory::default();
        for number in 1..=25 {
            history.begin(id(number), 0, [].iter());
        }
        let numbers: Vec<_> = history.all().map(|held| held.id.number).collect();
        assert_eq!(numbers, (6..=25).collect::<Vec<_>>());
    }
}
