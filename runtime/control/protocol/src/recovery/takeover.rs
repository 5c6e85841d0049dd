//! Takeover with living workers (rule L4): a new leader goes on with running attempts, or starts the region again.
//!
//! Called by the driver after R2. No transactional id is initialised; a task that reports refuses older leaders from then
//! on. The enumerators are those of `head`, nothing is assigned before the decision, and splits that were reported are never assigned again. An attempt is
//! adopted only if its history holds the checkpoint in `head`: an attempt that was replaced before that checkpoint is a
//! zombie, however alive it looks. An adopted attempt must also run what this leader would deploy: the tasks of another
//! parallelism are not all known here. On a checkpoint that is being given up nothing is adopted: it would confirm what
//! may not be published.
//!
//! Where workers live in the process of their coordinator they die with it, and every leader restarts.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{AttemptId, CheckpointId, Epoch, OperatorUid};
use serde::{Deserialize, Serialize};

use crate::checkpoint::commits_of;
use crate::hash::ContentHash;
use crate::head::Head;
use crate::job::{JobShape, TaskId};
use crate::manifest::Manifest;
use crate::mutant::{Mutant, planted};
use crate::sink_slot::SlotReport;
use crate::stop::SlotKey;

/// What a running task tells a new leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The task.
    pub task: TaskId,
    /// Its attempt.
    pub attempt: AttemptId,
    /// The newest leader that the task obeys. A report counts for that leader only: from then on the task refuses what
    /// older leaders still send, so that nothing can be assigned behind the back of a report. A leader that sees a newer
    /// epoch here reads `head` again: nobody listens to it any more, and it may never write `head` to find out.
    pub epoch: Epoch,
    /// The fingerprint of the execution that it was deployed with.
    pub shape: ContentHash,
    /// Whether records flow: a task in the middle of a recovery, or one that a savepoint has stopped, is not adopted.
    pub running: bool,
    /// The checkpoint that it was restored from and those that it acknowledged since the last known completion.
    pub history: BTreeSet<CheckpointId>,
    /// Its sink slots.
    pub slots: BTreeMap<SlotKey, SlotReport>,
    /// Its splits.
    pub splits: BTreeMap<OperatorUid, BTreeSet<String>>,
    /// Whether it has emitted everything that it ever will.
    pub ended: bool,
}

/// What a new leader goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// The attempts.
    pub attempts: BTreeMap<TaskId, AttemptId>,
    /// Slots whose held checkpoint can never complete.
    pub declines: Vec<(SlotKey, CheckpointId)>,
    /// Slots that have to commit the checkpoint in `head`.
    pub unconfirmed: BTreeSet<SlotKey>,
    /// The splits that are assigned, by source.
    pub splits: BTreeMap<OperatorUid, BTreeMap<String, TaskId>>,
    /// Tasks that have emitted everything that they ever will.
    pub ended: BTreeSet<TaskId>,
}

/// How a takeover ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeoverDecision {
    /// Goes on with the running attempts.
    Adopt(Box<Adoption>),
    /// Starts the region again from `head`.
    Restart,
}

/// A takeover that collects reports.
#[derive(Clone, Debug)]
pub struct Takeover {
    id: CheckpointId,
    epoch: Epoch,
    commits: BTreeSet<SlotKey>,
    tasks: BTreeSet<TaskId>,
    shape: ContentHash,
    gives_up: bool,
    attempt: Option<AttemptId>,
    reports: BTreeMap<TaskId, AttemptReport>,
    decided: bool,
}

impl Takeover {
    /// Starts from the settled `head` and its manifest.
    pub fn start(head: &Head, manifest: &Manifest, shape: &JobShape) -> Self {
        assert_eq!(
            manifest.id,
            head.checkpoint(),
            "the manifest is the one of head"
        );
        Self {
            id: manifest.id,
            epoch: head.epoch,
            commits: commits_of(manifest),
            tasks: shape.tasks.keys().cloned().collect(),
            shape: shape.fingerprint(),
            gives_up: head.giving_up.is_some(),
            attempt: None,
            reports: BTreeMap::new(),
            decided: false,
        }
    }

    /// Takes one report; `Some` = decided.
    pub fn report(&mut self, report: AttemptReport) -> Option<TakeoverDecision> {
        let heard = report.epoch == self.epoch || planted(Mutant::ReportUnfenced);
        if self.decided || !heard || !self.tasks.contains(&report.task) {
            return None;
        }
        if self.attempt.is_some_and(|known| report.attempt < known) {
            return None;
        }
        if self.attempt < Some(report.attempt) {
            self.reports.clear();
            self.attempt = Some(report.attempt);
        }
        self.reports.insert(report.task.clone(), report);
        if self.reports.len() < self.tasks.len() {
            return None;
        }
        self.decided = true;
        let continuous = |report: &AttemptReport| {
            report.running && report.shape == self.shape && report.history.contains(&self.id)
        };
        if self.gives_up || !self.reports.values().all(continuous) {
            return Some(TakeoverDecision::Restart);
        }
        Some(self.adopt())
    }

    /// The newest attempt that was reported.
    pub const fn attempt(&self) -> Option<AttemptId> {
        self.attempt
    }

    /// Not all attempts have reported in time.
    pub fn deadline(&mut self) -> Option<TakeoverDecision> {
        (!std::mem::replace(&mut self.decided, true)).then_some(TakeoverDecision::Restart)
    }

    fn adopt(&self) -> TakeoverDecision {
        let mut adoption = Adoption {
            attempts: BTreeMap::new(),
            declines: Vec::new(),
            unconfirmed: BTreeSet::new(),
            splits: BTreeMap::new(),
            ended: BTreeSet::new(),
        };
        for report in self.reports.values() {
            adoption
                .attempts
                .insert(report.task.clone(), report.attempt);
            if report.ended {
                adoption.ended.insert(report.task.clone());
            }
            for (slot, found) in &report.slots {
                if self.commits.contains(slot) && found.confirmed < self.id.number {
                    adoption.unconfirmed.insert(slot.clone());
                }
                if let Some(held) = found.acked.filter(|held| *held != self.id) {
                    adoption.declines.push((slot.clone(), held));
                }
            }
            if planted(Mutant::SplitsAssignedTwice) {
                continue;
            }
            for (source, splits) in &report.splits {
                let assigned = adoption.splits.entry(source.clone()).or_default();
                for split in splits {
                    if assigned
                        .insert(split.clone(), report.task.clone())
                        .is_some()
                    {
                        // Two subtasks read it: only a recovery gives it to one.
                        return TakeoverDecision::Restart;
                    }
                }
            }
        }
        TakeoverDecision::Adopt(Box::new(adoption))
    }
}
