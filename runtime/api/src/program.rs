//! A compiled job: the plan and the code of every node and edge of it. What coordinator and workers are started with.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_graph::{EdgeId, NodeId, OutputName, Plan};

use crate::code::{EdgeCode, NodeCode, SinkCode, SourceCode, StreamType};

/// A compiled job. Cheap to clone.
#[derive(Clone)]
pub struct JobProgram(Arc<Parts>);

struct Parts {
    plan: Plan,
    nodes: Vec<NodeCode>,
    edges: Vec<Arc<dyn EdgeCode>>,
    types: BTreeMap<(NodeId, OutputName), Arc<dyn StreamType>>,
}

impl JobProgram {
    /// Joins a plan with its code.
    ///
    /// # Panics
    /// If plan and code are not of one graph.
    pub(crate) fn new(
        plan: Plan,
        nodes: Vec<NodeCode>,
        edges: Vec<Arc<dyn EdgeCode>>,
        types: BTreeMap<(NodeId, OutputName), Arc<dyn StreamType>>,
    ) -> Self {
        assert_eq!(plan.graph.nodes().len(), nodes.len(), "each node has code");
        assert_eq!(plan.graph.edges().len(), edges.len(), "each edge has code");
        Self(Arc::new(Parts {
            plan,
            nodes,
            edges,
            types,
        }))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// The code of a node.
    pub fn node(&self, id: NodeId) -> &NodeCode {
        &self.0.nodes[id.0]
    }

    /// The code of an edge.
    pub fn edge(&self, id: EdgeId) -> &dyn EdgeCode {
        self.0.edges[id.0].as_ref()
    }

    /// The type that an edge carries.
    ///
    /// # Panics
    /// Never: the builder notes the type of every output that it gives out.
    pub fn edge_type(&self, id: EdgeId) -> &Arc<dyn StreamType> {
        let edge = self.plan().graph.edge(id);
        let of = self.0.types.get(&(edge.from, edge.output.clone()));
        of.expect("every output has a type")
    }

    /// The code of a source.
    pub fn source(&self, id: NodeId) -> Option<&Arc<dyn SourceCode>> {
        match self.node(id) {
            NodeCode::Source(code) => Some(code),
            _ => None,
        }
    }

    /// The code of a sink.
    pub fn sink(&self, id: NodeId) -> Option<&Arc<dyn SinkCode>> {
        match self.node(id) {
            NodeCode::Sink(code) => Some(code),
            _ => None,
        }
    }
}
