//! Plan checks: everything that can be known to be wrong before anything starts, in the words of the job's author.
//!
//! All faults are collected, not just the first. A fault refuses the plan; a warning is shown with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use highwater_types::{Classified, ErrorKind, Guarantee, MaxParallelism, Parallelism};

use crate::stream::{Node, NodeId, NodeKind, OutputName, Partitioning, StreamGraph};

/// What holds where the author set nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanDefaults {
    /// The parallelism.
    pub parallelism: Parallelism,
    /// The max parallelism.
    pub max_parallelism: MaxParallelism,
    /// Whether the job takes checkpoints.
    pub checkpoints: Checkpoints,
}

/// Whether a job takes checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// It does.
    On,
    /// It does not: state is lost with the process.
    Off,
}

/// One fault of a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is nothing to read.
    #[error("the job has no source; begin with `env.source(uid, ...)`")]
    NoSource,
    /// Nothing comes out.
    #[error("the job has no sink; end a stream with `.sink(uid, ...)`")]
    NoSink,
    /// State without a stable name.
    #[error(
        "{node} keeps state but has no uid, so a restart could not find it again; add `.uid(\"...\")`"
    )]
    MissingUid {
        /// The operator.
        node: String,
    },
    /// Two operators of one name.
    #[error("the uid `{uid}` names {count} operators; each needs its own")]
    DuplicateUid {
        /// The uid.
        uid: String,
        /// How often it is used.
        count: usize,
    },
    /// A parallelism that cannot be.
    #[error("{node} has parallelism {parallelism}; it may be 1 to {limit} (its max parallelism)")]
    Parallelism {
        /// The operator.
        node: String,
        /// Its parallelism.
        parallelism: u32,
        /// Its max parallelism.
        limit: u32,
    },
    /// A forward edge between unequal numbers of subtasks.
    #[error(
        "{from} has {from_parallelism} subtasks and {to} has {to_parallelism}, but they are joined by forward; use `.rebalance()` between them or equal parallelism"
    )]
    UnequalForward {
        /// The sending operator.
        from: String,
        /// Its parallelism.
        from_parallelism: u32,
        /// The receiving operator.
        to: String,
        /// Its parallelism.
        to_parallelism: u32,
    },
    /// A side output that nobody emits to.
    #[error("{node} has no side output `{tag}`; it has {known}")]
    UnknownSideOutput {
        /// The operator.
        node: String,
        /// The tag that was asked for.
        tag: String,
        /// The tags that exist.
        known: String,
    },
    /// Event time without watermarks.
    #[error(
        "{node} works in event time, but source {from} has no watermarks; add `.watermarks(strategy, |record| time)` to it"
    )]
    NoWatermarks {
        /// The operator.
        node: String,
        /// The source.
        from: String,
    },
    /// A parallelism for an operator that is not there.
    #[error("the job has no operator `{uid}`; it has {known}")]
    UnknownOperator {
        /// The uid that was named.
        uid: String,
        /// The uids that exist.
        known: String,
    },
    /// A setting of an operator or connector that cannot work.
    #[error("{node}: {reason}")]
    Setting {
        /// The operator.
        node: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Classified for PlanError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// All faults of a plan, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanErrors(pub Vec<PlanError>);

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "the plan is refused: {only}"),
            several => {
                write!(f, "the plan is refused for {} reasons:", several.len())?;
                several
                    .iter()
                    .try_for_each(|fault| write!(f, "\n  - {fault}"))
            }
        }
    }
}

impl std::error::Error for PlanErrors {}

impl Classified for PlanErrors {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// Something that works, but not as well as the author may think.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanWarning {
    /// The sink repeats output after a failure.
    WeakSink {
        /// The sink.
        node: String,
        /// What it promises.
        guarantee: Guarantee,
    },
    /// Two sinks write to one target, in no order between them.
    SharedTarget {
        /// One sink.
        first: String,
        /// The other.
        second: String,
        /// What both write.
        target: String,
    },
    /// State is lost with the process.
    NoCheckpoints,
}

impl fmt::Display for PlanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WeakSink { node, guarantee } => {
                write!(
                    f,
                    "{node} is {guarantee}: output may be repeated or lost after a failure"
                )
            }
            Self::SharedTarget {
                first,
                second,
                target,
            } => {
                write!(
                    f,
                    "{first} and {second} both write {target}, in no order between them"
                )
            }
            Self::NoCheckpoints => f.write_str(
                "checkpoints are off: a restart begins anew and may repeat or lose output",
            ),
        }
    }
}

/// The parallelism of a node.
pub fn parallelism_of(node: &Node, defaults: PlanDefaults) -> Parallelism {
    node.parallelism.unwrap_or(defaults.parallelism)
}

/// The max parallelism of a node.
pub fn max_parallelism_of(node: &Node, defaults: PlanDefaults) -> MaxParallelism {
    node.max_parallelism.unwrap_or(defaults.max_parallelism)
}

/// Checks a graph; returns its warnings.
///
/// # Errors
/// Every fault that was found.
pub fn check(graph: &StreamGraph, defaults: PlanDefaults) -> Result<Vec<PlanWarning>, PlanErrors> {
    let mut faults = Vec::new();
    whole(graph, &mut faults);
    uids(graph, defaults, &mut faults);
    parallelisms(graph, defaults, &mut faults);
    edges(graph, defaults, &mut faults);
    event_time(graph, &mut faults);
    if faults.is_empty() {
        Ok(warnings(graph, defaults))
    } else {
        Err(PlanErrors(faults))
    }
}

fn whole(graph: &StreamGraph, faults: &mut Vec<PlanError>) {
    let has = |wanted: fn(&NodeKind) -> bool| graph.nodes().iter().any(|node| wanted(&node.kind));
    if !has(|kind| matches!(kind, NodeKind::Source(_))) {
        faults.push(PlanError::NoSource);
    }
    if !has(|kind| matches!(kind, NodeKind::Sink(_))) {
        faults.push(PlanError::NoSink);
    }
}

fn uids(graph: &StreamGraph, defaults: PlanDefaults, faults: &mut Vec<PlanError>) {
    let mut used = BTreeMap::<String, usize>::new();
    for node in graph.nodes() {
        *used.entry(graph.name(node.id)).or_default() += 1;
        let needed = defaults.checkpoints == Checkpoints::On && node.is_stateful();
        if needed && node.uid.is_none() {
            faults.push(PlanError::MissingUid {
                node: graph.name(node.id),
            });
        }
    }
    for (uid, count) in used.into_iter().filter(|(_, count)| *count > 1) {
        faults.push(PlanError::DuplicateUid { uid, count });
    }
}

fn parallelisms(graph: &StreamGraph, defaults: PlanDefaults, faults: &mut Vec<PlanError>) {
    for node in graph.nodes() {
        let parallelism = parallelism_of(node, defaults).0;
        let limit = max_parallelism_of(node, defaults).get();
        if parallelism == 0 || parallelism > limit {
            let node = graph.name(node.id);
            faults.push(PlanError::Parallelism {
                node,
                parallelism,
                limit,
            });
        }
    }
}

fn edges(graph: &StreamGraph, defaults: PlanDefaults, faults: &mut Vec<PlanError>) {
    for edge in graph.edges() {
        let (from, to) = (graph.node(edge.from), graph.node(edge.to));
        let (here, there) = (parallelism_of(from, defaults), parallelism_of(to, defaults));
        if edge.partitioning == Partitioning::Forward && here != there {
            faults.push(PlanError::UnequalForward {
                from: graph.name(from.id),
                from_parallelism: here.0,
                to: graph.name(to.id),
                to_parallelism: there.0,
            });
        }
        if let OutputName::Side(tag) = &edge.output
            && !from.side_outputs.iter().any(|(known, _)| known == tag)
        {
            faults.push(PlanError::UnknownSideOutput {
                node: graph.name(from.id),
                tag: tag.clone(),
                known: listed(from.side_outputs.iter().map(|(known, _)| known)),
            });
        }
    }
}

/// Names as a refusal lists them.
pub(crate) fn listed<T: fmt::Display>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The sources from which records reach a node.
fn sources_of(graph: &StreamGraph, node: NodeId) -> BTreeSet<NodeId> {
    let mut seen = BTreeSet::from([node]);
    let mut open = vec![node];
    while let Some(at) = open.pop() {
        open.extend(
            graph
                .inputs(at)
                .map(|edge| edge.from)
                .filter(|from| seen.insert(*from)),
        );
    }
    seen.retain(|id| matches!(graph.node(*id).kind, NodeKind::Source(_)));
    seen
}

fn event_time(graph: &StreamGraph, faults: &mut Vec<PlanError>) {
    for node in graph.nodes().iter().filter(|node| node.needs_event_time) {
        for source in sources_of(graph, node.id) {
            if let NodeKind::Source(facts) = &graph.node(source).kind
                && facts.watermarks.is_none()
            {
                let (node, from) = (graph.name(node.id), graph.name(source));
                faults.push(PlanError::NoWatermarks { node, from });
            }
        }
    }
}

fn warnings(graph: &StreamGraph, defaults: PlanDefaults) -> Vec<PlanWarning> {
    let mut warnings = Vec::new();
    if defaults.checkpoints == Checkpoints::Off {
        warnings.push(PlanWarning::NoCheckpoints);
    }
    for node in graph.nodes() {
        if let NodeKind::Sink(facts) = &node.kind
            && facts.guarantee != Guarantee::ExactlyOnce
        {
            let node = graph.name(node.id);
            warnings.push(PlanWarning::WeakSink {
                node,
                guarantee: facts.guarantee,
            });
        }
    }
    let mut writers = BTreeMap::<&str, NodeId>::new();
    for node in graph.nodes() {
        let NodeKind::Sink(facts) = &node.kind else {
            continue;
        };
        if let Some(first) = writers.insert(&facts.writes, node.id) {
            warnings.push(PlanWarning::SharedTarget {
                first: graph.name(first),
                second: graph.name(node.id),
                target: facts.writes.clone(),
            });
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
