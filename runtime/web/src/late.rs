//! Late records of each operator that judges event time: how many, how late, and the bound that would have caught them.
//!
//! Called by the status page, the metrics and `status`, so that all three say the same. Pure: the figures of all subtasks
//! are put together, and the bound that they were judged with is that of the sources above the operator in the plan.

use std::collections::{BTreeMap, BTreeSet};

use highwater_graph::{NodeId, NodeKind, OutputName, Plan};
use highwater_operators::OperatorReport;
use highwater_protocol::job::TaskId;
use highwater_time::LatenessSnapshot;
use highwater_types::OperatorUid;
use highwater_web_api as api;
use highwater_worker::TaskFigures;

/// The shares of records for which a bound is suggested, with their names.
pub const SHARES: [(f64, &str); 2] = [(0.99, "0.99"), (0.999, "0.999")];

/// The records that one operator judged since its attempt began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateRecords {
    /// How late they were.
    pub lateness: LatenessSnapshot,
    /// Those that came too late for everything that they belong to.
    pub too_late: u64,
    /// Whether somebody reads those that came too late; otherwise they are dropped.
    pub is_read: bool,
    /// The out-of-orderness bound that they were judged with: the largest of the sources above. `None` without one.
    pub bound_ms: Option<i64>,
}

impl LateRecords {
    /// What one subtask tells; `None` where it does not judge event time.
    pub fn of(plan: &Plan, report: &OperatorReport) -> Option<Self> {
        let lateness = report.lateness.clone()?;
        let nodes = plan.graph.nodes().iter();
        let node = nodes
            .map(|node| node.id)
            .find(|id| *plan.uid(*id) == report.uid)?;
        let is_read = plan.graph.outputs(node).any(|edge| match &edge.output {
            OutputName::Side(tag) => Some(tag) == report.late_output.as_ref(),
            OutputName::Main => false,
        });
        Some(Self {
            lateness,
            too_late: report.records_late,
            is_read,
            bound_ms: bound_above(plan, node),
        })
    }

    /// Behind the watermark, and counted all the same.
    pub fn accepted(&self) -> u64 {
        self.lateness.late().saturating_sub(self.too_late)
    }

    /// Before the watermark.
    pub fn on_time(&self) -> u64 {
        self.lateness.total().saturating_sub(self.lateness.late())
    }

    /// The bound with which a share of at least `share` of the records would have been on time, in milliseconds: the
    /// present one where it is enough. `None` without a bound.
    pub fn suggested_bound_ms(&self, share: f64) -> Option<i64> {
        let bound = self.bound_ms?;
        Some(
            self.lateness
                .suggested_bound_ms(share, bound)
                .unwrap_or(bound),
        )
    }

    fn told(&self, operator: &OperatorUid) -> api::LateRecords {
        let of_too_late = |is_read| {
            if self.is_read == is_read {
                self.too_late
            } else {
                0
            }
        };
        let suggested = SHARES.iter().map(|(share, name)| {
            let bound = self.suggested_bound_ms(*share);
            ((*name).to_owned(), bound)
        });
        let buckets = self.lateness.buckets();
        let buckets = buckets.map(|(up_to_ms, records)| api::LatenessBucket { up_to_ms, records });
        api::LateRecords {
            operator: operator.to_string(),
            on_time: self.on_time(),
            late_accepted: self.accepted(),
            late_dropped: of_too_late(false),
            late_to_side_output: of_too_late(true),
            lateness: buckets.collect(),
            bound_ms: self.bound_ms,
            suggested_bound_ms: suggested.collect(),
        }
    }
}

/// The largest bound of the sources that reach `node`.
fn bound_above(plan: &Plan, node: NodeId) -> Option<i64> {
    let (mut seen, mut open, mut bound) = (BTreeSet::new(), vec![node], None);
    while let Some(node) = open.pop() {
        if !seen.insert(node) {
            continue;
        }
        if let NodeKind::Source(note) = &plan.graph.node(node).kind {
            bound = bound.max(note.bound_ms);
        }
        open.extend(plan.graph.inputs(node).map(|edge| edge.from));
    }
    bound
}

/// The late records of each operator, all its subtasks together.
pub fn late_records(
    plan: &Plan,
    figures: &BTreeMap<TaskId, TaskFigures>,
) -> BTreeMap<OperatorUid, LateRecords> {
    let mut all = BTreeMap::<OperatorUid, LateRecords>::new();
    for report in figures.values().flat_map(|task| &task.operators) {
        let Some(more) = LateRecords::of(plan, report) else {
            continue;
        };
        match all.get_mut(&report.uid) {
            None => {
                all.insert(report.uid.clone(), more);
            }
            Some(sum) => {
                sum.lateness.merge(&more.lateness);
                sum.too_late += more.too_late;
            }
        }
    }
    all
}

/// The same for whoever asks the server, in the order of the uids.
pub(crate) fn told(plan: &Plan, figures: &BTreeMap<TaskId, TaskFigures>) -> Vec<api::LateRecords> {
    let all = late_records(plan, figures);
    all.iter().map(|(uid, late)| late.told(uid)).collect()
}
