//! The draft of a job: the graph and the code that the builder calls leave behind.
//!
//! Shared by the environment and every stream handle until it is compiled, and from then on, unchanged, by the programs of
//! the job at whatever parallelism. A mistake of the author is noted here and comes out of `compile` with all others; a
//! builder call never panics.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use highwater_connectors::BadRecords;
use highwater_graph::check::parallelism_of;
use highwater_graph::{
    EdgeId, NodeId, NodeKind, OutputName, Partitioning, Plan, PlanDefaults, PlanError, PlanErrors,
    StateNote, StreamGraph,
};
use highwater_operators::{DEAD_LETTERS, Link, Operator, OperatorContext, OperatorError};
use highwater_types::{OperatorUid, Record};

use crate::code::{
    EdgeCode, EdgeOf, ErasedOutputs, ErasedPush, NodeCode, Scatter, SharedRekey, StreamType, TypeOf,
};
use crate::misuse::Misuse;

/// A draft that handles share.
pub(crate) type SharedDraft = Rc<RefCell<Draft>>;

/// The draft.
#[derive(Default)]
pub(crate) struct Draft {
    /// As the author drew it: every forward edge is forward, and a node has the parallelism that was set on it, if any.
    pub(crate) graph: StreamGraph,
    pub(crate) nodes: Vec<NodeCode>,
    pub(crate) edges: Vec<EdgeDraft>,
    pub(crate) types: BTreeMap<(NodeId, OutputName), Arc<dyn StreamType>>,
    pub(crate) faults: Vec<PlanError>,
    /// The types of side outputs that are known.
    sides: BTreeMap<(NodeId, String), SideType>,
    /// Nodes whose function may emit to any side output.
    with_any_side: BTreeSet<NodeId>,
    /// Nodes whose uid was refused.
    refused_uids: BTreeSet<NodeId>,
}

/// What a side output carries.
struct SideType {
    of: TypeId,
    name: String,
}

/// The code of an edge, and what takes its place when a forward edge joins unequal numbers of subtasks.
pub(crate) struct EdgeDraft {
    code: Box<dyn EdgeCode>,
    rebalanced: Option<Box<dyn EdgeCode>>,
}

impl EdgeDraft {
    /// The code of the edge where it scatters like this in a plan.
    pub(crate) fn code(&self, partitioning: &Partitioning) -> &dyn EdgeCode {
        match (&self.rebalanced, partitioning) {
            (Some(rebalanced), Partitioning::Rebalance) => rebalanced.as_ref(),
            _ => self.code.as_ref(),
        }
    }
}

/// Where a stream comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) node: NodeId,
    pub(crate) output: OutputName,
}

/// How the next edge of a stream scatters.
pub(crate) enum Route<T> {
    Forward,
    Rebalance,
    Broadcast,
    Global,
    Hash { key: String, rekey: SharedRekey<T> },
}

impl<T> Clone for Route<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Forward => Self::Forward,
            Self::Rebalance => Self::Rebalance,
            Self::Broadcast => Self::Broadcast,
            Self::Global => Self::Global,
            Self::Hash { key, rekey } => Self::Hash {
                key: key.clone(),
                rekey: Arc::clone(rekey),
            },
        }
    }
}

/// Facts of a new operator.
pub(crate) struct NodeFacts {
    pub(crate) operator: &'static str,
    pub(crate) uid: Option<String>,
    pub(crate) detail: String,
    pub(crate) key: Option<String>,
    pub(crate) states: Vec<StateNote>,
    /// What it does with its state.
    pub(crate) form: String,
    pub(crate) needs_event_time: bool,
    pub(crate) starts_chain: bool,
    /// Whether a function of the author may emit to any side output.
    pub(crate) has_any_side: bool,
}

impl NodeFacts {
    /// Facts of an operator without state.
    pub(crate) const fn stateless(operator: &'static str) -> Self {
        Self {
            operator,
            uid: None,
            detail: String::new(),
            key: None,
            states: Vec::new(),
            form: String::new(),
            needs_event_time: false,
            starts_chain: false,
            has_any_side: false,
        }
    }
}

/// The name of a type as a plan shows it: without its path.
pub(crate) fn type_name<T>() -> String {
    let full = std::any::type_name::<T>();
    full.rsplit("::").next().unwrap_or(full).to_owned()
}

impl Draft {
    /// Adds a node that emits `T` on its main output.
    pub(crate) fn add_node<T: Record>(
        &mut self,
        facts: NodeFacts,
        kind: NodeKind,
        code: NodeCode,
    ) -> NodeId {
        let id = self.graph.add_node(facts.operator, kind, type_name::<T>());
        self.nodes.push(code);
        self.types
            .insert((id, OutputName::Main), TypeOf::<T>::shared());
        if let Some(uid) = &facts.uid {
            self.set_uid(id, uid);
        }
        if facts.has_any_side {
            self.with_any_side.insert(id);
        }
        let node = self.graph.node_mut(id);
        node.detail = facts.detail;
        node.key = facts.key;
        node.states = facts.states;
        node.form = facts.form;
        node.needs_event_time = facts.needs_event_time;
        node.starts_chain = facts.starts_chain;
        id
    }

    /// Names a node.
    pub(crate) fn set_uid(&mut self, id: NodeId, uid: &str) {
        match OperatorUid::parse(uid) {
            Ok(uid) => self.graph.node_mut(id).uid = Some(uid),
            Err(error) => {
                self.refused_uids.insert(id);
                self.fault(id, &error);
            }
        }
    }

    /// Notes a setting that cannot work.
    pub(crate) fn fault(&mut self, id: NodeId, error: &dyn std::error::Error) {
        let node = self.graph.name(id);
        self.faults.push(PlanError::Setting {
            node,
            reason: error.to_string(),
        });
    }

    /// Notes each source whose bad records go to dead letters that nobody reads: they would be lost without a word.
    pub(crate) fn fault_unread_dead_letters(&mut self) {
        let unread = |id: NodeId| {
            let mut outputs = self.graph.outputs(id);
            outputs.all(|edge| edge.output != OutputName::Side(DEAD_LETTERS.to_owned()))
        };
        let sources = self.graph.nodes().iter().zip(&self.nodes);
        let losing: Vec<_> = sources
            .filter(|(node, code)| match code {
                NodeCode::Source(code) => {
                    code.bad_input().policy == BadRecords::DeadLetter && unread(node.id)
                }
                NodeCode::Operator(_) | NodeCode::Sink(_) => false,
            })
            .map(|(node, _)| node.id)
            .collect();
        for id in losing {
            self.fault(id, &Misuse::UnreadDeadLetters);
        }
    }

    /// Whether a fault of the graph only repeats that a uid was refused.
    pub(crate) fn repeats(&self, fault: &PlanError) -> bool {
        let PlanError::MissingUid { node } = fault else {
            return false;
        };
        let mut refused = self.refused_uids.iter();
        refused.any(|id| self.graph.name(*id) == *node)
    }

    /// Declares a side output.
    pub(crate) fn add_side<U: Record>(&mut self, id: NodeId, tag: &str) {
        let (of, name) = (TypeId::of::<U>(), type_name::<U>());
        let side = (tag.to_owned(), name.clone());
        self.graph.node_mut(id).side_outputs.push(side);
        self.sides
            .insert((id, tag.to_owned()), SideType { of, name });
        let output = OutputName::Side(tag.to_owned());
        self.types.insert((id, output), TypeOf::<U>::shared());
    }

    /// Adds a receiver of a side output: declares it where a function may emit to any, and checks its type.
    pub(crate) fn read_side<U: Record>(&mut self, id: NodeId, tag: &str) {
        match self.sides.get(&(id, tag.to_owned())) {
            Some(known) if known.of != TypeId::of::<U>() => {
                let (known, wanted) = (known.name.clone(), type_name::<U>());
                let tag = tag.to_owned();
                self.fault(id, &Misuse::SideType { tag, known, wanted });
            }
            None if self.with_any_side.contains(&id) => self.add_side::<U>(id, tag),
            // Without a declaration the graph refuses the edge by the name of its operator.
            Some(_) | None => {}
        }
    }

    /// Joins every origin of a stream to a node.
    pub(crate) fn connect<T: Record>(&mut self, origins: &[Origin], route: &Route<T>, to: NodeId) {
        for origin in origins {
            let (partitioning, scatter) = match route {
                Route::Forward => (Partitioning::Forward, Scatter::Forward),
                Route::Rebalance => (Partitioning::Rebalance, Scatter::Rebalance),
                Route::Broadcast => (Partitioning::Broadcast, Scatter::Broadcast),
                Route::Global => (Partitioning::Global, Scatter::Global),
                Route::Hash { key, rekey } => (
                    Partitioning::Hash(key.clone()),
                    Scatter::Hash(Arc::clone(rekey)),
                ),
            };
            let rebalanced: Option<Box<dyn EdgeCode>> = match &partitioning {
                Partitioning::Forward => Some(Box::new(EdgeOf::<T>(Scatter::Rebalance))),
                _ => None,
            };
            self.graph
                .add_edge(origin.node, origin.output.clone(), to, partitioning);
            self.edges.push(EdgeDraft {
                code: Box::new(EdgeOf::<T>(scatter)),
                rebalanced,
            });
        }
    }
}

/// The plan of a draft's graph. Forward edges between unequal numbers of subtasks become rebalancing ones, as in Flink.
pub(crate) fn settled(mut graph: StreamGraph, defaults: PlanDefaults) -> Result<Plan, PlanErrors> {
    let subtasks = |graph: &StreamGraph, id| parallelism_of(graph.node(id), defaults);
    for id in (0..graph.edges().len()).map(EdgeId) {
        let edge = graph.edge(id);
        let unequal = subtasks(&graph, edge.from) != subtasks(&graph, edge.to);
        if unequal && edge.partitioning == Partitioning::Forward {
            graph.set_partitioning(id, Partitioning::Rebalance);
        }
    }
    Plan::compile(graph, defaults)
}

/// The code of an operator: `open` makes one subtask of it.
pub(crate) fn operator_code<In, Out, O>(
    open: impl Fn(&OperatorContext) -> Result<O, OperatorError> + Send + Sync + 'static,
) -> NodeCode
where
    In: Record,
    Out: Record,
    O: Operator<In, Out> + 'static,
{
    NodeCode::Operator(Arc::new(
        move |context: &OperatorContext, outputs: ErasedOutputs| {
            let operator = open(context)?;
            let link = Link::new(context.uid.clone(), operator, outputs.typed::<Out>());
            Ok(ErasedPush::new::<In>(Box::new(link)))
        },
    ))
}
