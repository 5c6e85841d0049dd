//! The stream graph: one node per operator as the job's function named it, one edge per stream between two of them.
//!
//! Filled by the API in the order of the calls, so equal programs build equal graphs in every process. The API keeps the
//! code of node and edge `i` at place `i` of lists of its own.

use std::fmt;

use highwater_types::{Boundedness, Guarantee, MaxParallelism, OperatorUid, Parallelism};

/// A node, counted from 0 in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// An edge, counted from 0 in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeId(pub usize);

/// What a plan says of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNote {
    /// Connector and object, such as `kafka topic payments.auth`.
    pub reads: String,
    /// Whether it ends.
    pub boundedness: Boundedness,
    /// Whether it assigns event times and watermarks.
    pub watermarks: Option<String>,
    /// What it does with records that it refuses, such as `bad records fail`.
    pub refused: String,
    /// The out-of-orderness bound of its watermarks, in milliseconds.
    pub bound_ms: Option<i64>,
}

/// What a plan says of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkNote {
    /// Connector and object, such as `kafka topic fraud_alerts`.
    pub writes: String,
    /// What the outside sees after failures.
    pub guarantee: Guarantee,
}

/// What a plan says of one named state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateNote {
    /// The name.
    pub name: String,
    /// What it holds, with its schemas.
    pub shape: String,
}

/// The place of a node in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Where records come from.
    Source(SourceNote),
    /// In between.
    Operator,
    /// Where records go.
    Sink(SinkNote),
}

/// One operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which node.
    pub id: NodeId,
    /// The uid that the author gave.
    pub uid: Option<OperatorUid>,
    /// What it does: `map`, `window`, ...
    pub operator: String,
    /// Details for the plan, such as the windows.
    pub detail: String,
    /// Source, operator or sink.
    pub kind: NodeKind,
    /// The parallelism that the author set.
    pub parallelism: Option<Parallelism>,
    /// The max parallelism that the author set.
    pub max_parallelism: Option<MaxParallelism>,
    /// The key schema, if the node works on a keyed stream.
    pub key: Option<String>,
    /// Its states.
    pub states: Vec<StateNote>,
    /// What it does with its state, such as `window, tumbling 60000 ms`: state that was written by another form means
    /// something else. Empty = it has none.
    pub form: String,
    /// Whether records need an event time.
    pub needs_event_time: bool,
    /// Whether it may not be chained to what is before it.
    pub starts_chain: bool,
    /// The type of its main output.
    pub emits: String,
    /// Side outputs that it may emit to: tag and type.
    pub side_outputs: Vec<(String, String)>,
}

impl Node {
    /// Whether the node has state that a checkpoint keeps.
    pub fn is_stateful(&self) -> bool {
        let sink = matches!(
            &self.kind,
            NodeKind::Sink(facts) if facts.guarantee == Guarantee::ExactlyOnce
        );
        sink || !self.states.is_empty() || matches!(self.kind, NodeKind::Source(_))
    }
}

/// Which output of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputName {
    /// The main output.
    Main,
    /// The side output of this tag.
    Side(String),
}

/// How records pick the subtask that they go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Partitioning {
    /// To the subtask of the same index.
    Forward,
    /// By key group; the key schema.
    Hash(String),
    /// In turn.
    Rebalance,
    /// To every subtask.
    Broadcast,
    /// To subtask 0.
    Global,
}

impl fmt::Display for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward => f.write_str("forward"),
            Self::Hash(key) => write!(f, "hash by {key}"),
            Self::Rebalance => f.write_str("rebalance"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Global => f.write_str("global"),
        }
    }
}

/// One stream between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Which edge.
    pub id: EdgeId,
    /// The sending node.
    pub from: NodeId,
    /// Its output.
    pub output: OutputName,
    /// The receiving node.
    pub to: NodeId,
    /// How records pick the receiving subtask.
    pub partitioning: Partitioning,
}

/// What a job's function built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamGraph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

impl StreamGraph {
    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The edges.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// One node, to set what the author says of it after its creation.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }

    /// One edge.
    pub fn edge(&self, id: EdgeId) -> &Edge {
        &self.edges[id.0]
    }

    /// Adds a node without a name and without edges.
    pub fn add_node(&mut self, operator: &str, kind: NodeKind, emits: String) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            id,
            uid: None,
            operator: operator.to_owned(),
            detail: String::new(),
            kind,
            parallelism: None,
            max_parallelism: None,
            key: None,
            states: Vec::new(),
            form: String::new(),
            needs_event_time: false,
            starts_chain: false,
            emits,
            side_outputs: Vec::new(),
        });
        id
    }

    /// Adds an edge.
    pub fn add_edge(
        &mut self,
        from: NodeId,
        output: OutputName,
        to: NodeId,
        partitioning: Partitioning,
    ) -> EdgeId {
        let id = EdgeId(self.edges.len());
        self.edges.push(Edge {
            id,
            from,
            output,
            to,
            partitioning,
        });
        id
    }

    /// Changes how an edge scatters.
    pub fn set_partitioning(&mut self, id: EdgeId, partitioning: Partitioning) {
        self.edges[id.0].partitioning = partitioning;
    }

    /// The edges into a node.
    pub fn inputs(&self, id: NodeId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.to == id)
    }

    /// The edges out of a node.
    pub fn outputs(&self, id: NodeId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from == id)
    }

    /// How messages name a node: its uid, or what it does and its place.
    pub fn name(&self, id: NodeId) -> String {
        let node = self.node(id);
        match &node.uid {
            Some(uid) => uid.to_string(),
            None => format!("{}-{}", node.operator, id.0),
        }
    }
}
