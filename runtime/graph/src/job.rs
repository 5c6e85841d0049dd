//! The job graph: operators chained into tasks, tasks joined by exchanges.
//!
//! Two nodes are one task when they are joined by a forward edge, have equal parallelism and max parallelism, and the
//! second has no other input and may be chained. A task is a tree: its head and what hangs on each output.

use std::collections::BTreeSet;

use highwater_types::{MaxParallelism, OperatorUid, Parallelism, Parallelisms};

use crate::check::{
    PlanDefaults, PlanError, PlanErrors, PlanWarning, check, listed, max_parallelism_of,
    parallelism_of,
};
use crate::fingerprint::GraphFingerprint;
use crate::stream::{EdgeId, NodeId, NodeKind, Partitioning, StreamGraph};

/// A task of the job graph, counted from 0 in the order of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub usize);

/// One task: a chain of operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobVertex {
    /// Which task.
    pub id: VertexId,
    /// Its first operator.
    pub head: NodeId,
    /// Its operators, each behind the one it hangs on.
    pub nodes: Vec<NodeId>,
    /// How many subtasks.
    pub parallelism: Parallelism,
    /// How many key groups.
    pub max_parallelism: MaxParallelism,
    /// Edges that come from other tasks.
    pub inputs: Vec<EdgeId>,
    /// Edges that go to other tasks.
    pub outputs: Vec<EdgeId>,
}

/// Tasks and the edges between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobGraph {
    vertices: Vec<JobVertex>,
    vertex_of: Vec<VertexId>,
    chained: BTreeSet<EdgeId>,
}

impl JobGraph {
    /// The tasks.
    pub fn vertices(&self) -> &[JobVertex] {
        &self.vertices
    }

    /// One task.
    pub fn vertex(&self, id: VertexId) -> &JobVertex {
        &self.vertices[id.0]
    }

    /// The task that a node is in.
    pub fn vertex_of(&self, node: NodeId) -> VertexId {
        self.vertex_of[node.0]
    }

    /// Whether an edge is a call inside a task.
    pub fn is_chained(&self, edge: EdgeId) -> bool {
        self.chained.contains(&edge)
    }
}

/// A checked graph with its chains: what is explained, and what is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stream graph; every node has a uid.
    pub graph: StreamGraph,
    /// Its tasks.
    pub job: JobGraph,
    /// What works, but not as well as the author may think.
    pub warnings: Vec<PlanWarning>,
    /// What must agree between processes.
    pub fingerprint: GraphFingerprint,
    /// What held where the author set nothing.
    pub defaults: PlanDefaults,
}

impl Plan {
    /// Checks a graph, names what has no uid, and chains it.
    ///
    /// # Errors
    /// Every fault of the graph.
    pub fn compile(mut graph: StreamGraph, defaults: PlanDefaults) -> Result<Self, PlanErrors> {
        let warnings = check(&graph, defaults)?;
        for at in 0..graph.nodes().len() {
            let name = graph.name(NodeId(at));
            let node = graph.node_mut(NodeId(at));
            if node.uid.is_none() {
                let named = OperatorUid::parse(&name).map_err(|error| {
                    let (node, reason) = (name.clone(), error.to_string());
                    PlanErrors(vec![PlanError::Setting { node, reason }])
                });
                node.uid = Some(named?);
            }
            node.parallelism = Some(parallelism_of(node, defaults));
            node.max_parallelism = Some(max_parallelism_of(node, defaults));
        }
        let job = chain(&graph, defaults);
        let fingerprint = GraphFingerprint::of(&graph);
        Ok(Self {
            graph,
            job,
            warnings,
            fingerprint,
            defaults,
        })
    }

    /// The uid of a node.
    ///
    /// # Panics
    /// Never: a compiled plan names every node.
    pub fn uid(&self, node: NodeId) -> &OperatorUid {
        self.graph
            .node(node)
            .uid
            .as_ref()
            .expect("a compiled plan names every node")
    }

    /// What each operator runs at.
    pub fn parallelisms(&self) -> Parallelisms {
        let nodes = self.graph.nodes().iter();
        nodes
            .map(|node| {
                let parallelism = parallelism_of(node, self.defaults);
                (self.uid(node.id).clone(), parallelism)
            })
            .collect()
    }

    /// A fault for each operator that `named` names and the job does not have.
    pub fn unknown_operators(&self, named: &Parallelisms) -> Vec<PlanError> {
        let known = self.parallelisms();
        let unknown = named.keys().filter(|uid| !known.contains_key(*uid));
        unknown
            .map(|uid| PlanError::UnknownOperator {
                uid: uid.to_string(),
                known: listed(known.keys()),
            })
            .collect()
    }

    /// The operators of a task, for people.
    pub fn task_name(&self, vertex: VertexId) -> String {
        let names = self
            .job
            .vertex(vertex)
            .nodes
            .iter()
            .map(|node| self.uid(*node).as_str());
        names.collect::<Vec<_>>().join(" → ")
    }

    /// The nodes that are sinks with output to commit.
    pub fn sinks(&self) -> impl Iterator<Item = NodeId> {
        let sinks = self.graph.nodes().iter();
        sinks
            .filter(|node| matches!(node.kind, NodeKind::Sink(_)))
            .map(|node| node.id)
    }

    /// The nodes that are sources.
    pub fn sources(&self) -> impl Iterator<Item = NodeId> {
        let sources = self.graph.nodes().iter();
        sources
            .filter(|node| matches!(node.kind, NodeKind::Source(_)))
            .map(|node| node.id)
    }
}

fn chain(graph: &StreamGraph, defaults: PlanDefaults) -> JobGraph {
    let shape = |id: NodeId| {
        let node = graph.node(id);
        (
            parallelism_of(node, defaults),
            max_parallelism_of(node, defaults),
        )
    };
    let chained: BTreeSet<EdgeId> = graph
        .edges()
        .iter()
        .filter(|edge| {
            edge.partitioning == Partitioning::Forward
                && shape(edge.from) == shape(edge.to)
                && graph.inputs(edge.to).count() == 1
                && !graph.node(edge.to).starts_chain
        })
        .map(|edge| edge.id)
        .collect();
    let is_head = |id: NodeId| !graph.inputs(id).any(|edge| chained.contains(&edge.id));
    let mut vertices = Vec::new();
    let mut vertex_of = vec![VertexId(0); graph.nodes().len()];
    for head in graph
        .nodes()
        .iter()
        .map(|node| node.id)
        .filter(|id| is_head(*id))
    {
        let id = VertexId(vertices.len());
        let nodes = tree(graph, head, &chained);
        for node in &nodes {
            vertex_of[node.0] = id;
        }
        let outward = nodes.iter().flat_map(|node| graph.outputs(*node));
        let (parallelism, max_parallelism) = shape(head);
        vertices.push(JobVertex {
            id,
            head,
            parallelism,
            max_parallelism,
            inputs: graph.inputs(head).map(|edge| edge.id).collect(),
            outputs: outward
                .map(|edge| edge.id)
                .filter(|edge| !chained.contains(edge))
                .collect(),
            nodes,
        });
    }
    JobGraph {
        vertices,
        vertex_of,
        chained,
    }
}

/// The nodes that hang on `head` by chained edges, each behind the one it hangs on.
fn tree(graph: &StreamGraph, head: NodeId, chained: &BTreeSet<EdgeId>) -> Vec<NodeId> {
    let mut nodes = vec![head];
    let mut at = 0;
    while at < nodes.len() {
        let inward = graph
            .outputs(nodes[at])
            .filter(|edge| chained.contains(&edge.id));
        nodes.extend(inward.map(|edge| edge.to).collect::<Vec<_>>());
        at += 1;
    }
    nodes
}
