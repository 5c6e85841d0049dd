//! What the outside sees of a job: one value, replaced as a whole, true when it is shown.

use std::collections::{BTreeMap, VecDeque};

use highwater_metrics::Spans;
use highwater_types::{AttemptId, CheckpointId, Epoch, Lineage};
use highwater_worker::{FailureReport, RestoredBytes};
use tokio::sync::watch;

use crate::history::CheckpointHistory;
use crate::operation::Operations;
use crate::phase_times::PhaseTimes;
use crate::store::Troubles;

/// Where a job is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobPhase {
    /// Another coordinator leads, or nobody does yet; this one waits for its turn.
    Standby,
    /// The store is read and the leadership taken.
    Starting,
    /// Output of the last checkpoint is confirmed, state is fetched and opened.
    Recovering,
    /// Records flow.
    Running,
    /// An attempt has failed; the next one starts at this time of the coordinator's clock, in milliseconds.
    Restarting {
        /// When.
        at_ms: u64,
    },
    /// A stop is under way.
    Stopping,
    /// All input was processed and all output confirmed.
    Finished,
    /// Stopped with its state.
    Stopped,
    /// Failed; state is kept.
    Failed {
        /// Why.
        reason: String,
    },
}

impl JobPhase {
    /// One word for people and programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Running => "running",
            Self::Restarting { .. } => "restarting",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Figures of checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// The last completed checkpoint.
    pub completed: Option<CheckpointId>,
    /// When it completed, in milliseconds of the coordinator's clock.
    pub completed_at_ms: Option<u64>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Bytes of state that it added to the store.
    pub bytes: u64,
    /// Bytes of state that a restore of it needs, with those that older checkpoints had added already.
    pub full_bytes: u64,
    /// Whether all of its output is confirmed.
    pub is_confirmed: bool,
    /// The checkpoint on its way.
    pub pending: Option<CheckpointId>,
    /// How many were completed by this process.
    pub completed_count: u64,
    /// How many were given up.
    pub failed_count: u64,
    /// How many were given up since the last one that completed.
    pub failed_in_a_row: u64,
    /// How long those took that this process completed.
    pub durations: Spans,
    /// The newest number whose output is known to be visible in every sink.
    pub confirmed: Option<u64>,
    /// How many savepoints this process copied.
    pub savepoints_count: u64,
    /// How often a write of `head` had no clear answer, or was refused, and it had to be read.
    pub head_conflicts: u64,
    /// From the start of one to the start of the next, in milliseconds.
    pub interval_ms: u64,
    /// Why the last one was given up, or what stands in the way of the one that is on its way.
    pub last_failure: Option<String>,
    /// Why the last collection of what no checkpoint needs any more was left unfinished.
    pub cleanup_failure: Option<String>,
}

/// A failure in one line.
pub(crate) fn describe(report: &FailureReport) -> String {
    let FailureReport {
        task,
        subtask,
        worker,
        position,
        message,
        ..
    } = report;
    let mut at = format!("subtask {subtask}");
    if let Some(worker) = worker {
        at = format!("{at}, worker {worker}");
    }
    if let Some(position) = position {
        at = format!("{at}, {position}");
    }
    format!("{task} ({at}): {message}")
}

/// Failures that are kept.
const FAILURES_MAX: usize = 16;

/// A failure that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastFailure {
    /// When, in milliseconds of the coordinator's clock.
    pub at_ms: u64,
    /// The attempt that it ended.
    pub attempt: AttemptId,
    /// The last checkpoint that was complete.
    pub completed: CheckpointId,
    /// What failed.
    pub report: FailureReport,
}

/// The last failures, the oldest first, up to 16 of them.
///
/// Source: Flink's exception history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureHistory(VecDeque<PastFailure>);

impl FailureHistory {
    /// Takes one in; the oldest may go.
    pub fn push(&mut self, failure: PastFailure) {
        if self.0.len() == FAILURES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(failure);
    }

    /// The last one.
    pub fn last(&self) -> Option<&PastFailure> {
        self.0.back()
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &PastFailure> {
        self.0.iter()
    }
}

/// Attempts that were followed by the next one behind a checkpoint, without a failure: rescales, and workers that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redeployments {
    /// How many since the process began.
    pub count: u64,
    /// The last one.
    pub last: Option<LastRedeployment>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRedeployment {
    /// The checkpoint behind which it went on.
    pub id: CheckpointId,
    /// From the barrier of that checkpoint until records flowed again, in milliseconds.
    pub pause_ms: u64,
}

/// The status of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Where it is in its life.
    pub phase: JobPhase,
    /// Where its time went.
    pub times: PhaseTimes,
    /// The lineage, once known.
    pub lineage: Option<Lineage>,
    /// The leadership.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// Figures of checkpoints.
    pub checkpoints: CheckpointStatus,
    /// The last checkpoints.
    pub history: CheckpointHistory,
    /// What was asked for under an id, and what came of it.
    pub operations: Operations,
    /// Settings that were changed since the process began, by name and as text.
    pub changes: BTreeMap<String, String>,
    /// What it waits for, why, and how often that was tried; `None` = for nothing outside of the job.
    pub waits_for: Option<String>,
    /// How many attempts failed since the process began.
    pub restarts: u32,
    /// The last failures.
    pub failures: FailureHistory,
    /// Attempts that went on behind a checkpoint.
    pub redeployments: Redeployments,
    /// Where the state of the attempt came from, once it is there.
    pub restored: Option<RestoredBytes>,
    /// Milliseconds from the order to fetch the state until every task had opened it; `None` = not yet.
    pub restore_ms: Option<u64>,
    /// When every task had opened its state, in milliseconds of the coordinator's clock; `None` = not yet, or there was none to restore.
    pub restored_at_ms: Option<u64>,
}

impl JobStatus {
    /// The status of a job that has just been started.
    pub fn starting() -> Self {
        Self {
            phase: JobPhase::Starting,
            times: PhaseTimes::default(),
            lineage: None,
            epoch: Epoch::default(),
            attempt: AttemptId::default(),
            checkpoints: CheckpointStatus::default(),
            history: CheckpointHistory::default(),
            operations: Operations::default(),
            changes: BTreeMap::new(),
            waits_for: None,
            restarts: 0,
            failures: FailureHistory::default(),
            redeployments: Redeployments::default(),
            restored: None,
            restore_ms: None,
            restored_at_ms: None,
        }
    }
}

/// Where whoever waits for something outside of the job says so.
#[derive(Clone, Debug)]
pub struct WaitBoard(watch::Sender<JobStatus>);

impl WaitBoard {
    /// A board that shows in this status.
    pub const fn new(status: watch::Sender<JobStatus>) -> Self {
        Self(status)
    }

    /// It waits for `what`, because of `reason`, after that many tries.
    pub fn waits(&self, what: &str, reason: &str, tries: u32) {
        tracing::warn!(tries, reason, "waiting for {what}");
        let text = format!("{what}: {reason} (tried {tries} times)");
        self.0.send_modify(|status| status.waits_for = Some(text));
    }

    /// Where the troubles of a head write are told in the same status.
    pub(crate) fn troubles(&self) -> Troubles {
        Troubles::new(self.0.clone())
    }

    /// It waits for nothing any more.
    pub fn goes_on(&self) {
        self.0
            .send_if_modified(|status| status.waits_for.take().is_some());
    }

    /// In words, what is waited for.
    pub fn read(&self) -> String {
        let status = self.0.borrow();
        let phase = status.phase.word();
        match &status.waits_for {
            Some(waits) => format!("the job is {phase}, waiting for {waits}"),
            None => format!("the job is {phase}"),
        }
    }
}
