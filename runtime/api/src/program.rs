//! A compiled job: the plan and the code of every node and edge of it. What coordinator and workers are started with.
//!
//! One job is compiled for other parallelisms as often as it is rescaled: always from the draft as its function left it, so
//! that the way there leaves no trace. The code is the same in all of them.

use std::sync::Arc;

use highwater_graph::check::parallelism_of;
use highwater_graph::{EdgeId, NodeId, Plan, PlanErrors};
use highwater_types::{Parallelism, Parallelisms};

use crate::code::{EdgeCode, NodeCode, SinkCode, SourceCode, StreamType};
use crate::draft::{Draft, settled};

/// A compiled job. Cheap to clone.
#[derive(Clone)]
pub struct JobProgram(Arc<Parts>);

struct Parts {
    plan: Plan,
    draft: Arc<Draft>,
}

impl JobProgram {
    /// Joins a plan with the draft that it is of, which has the code.
    ///
    /// # Panics
    /// If plan and code are not of one graph.
    pub(crate) fn new(plan: Plan, draft: Arc<Draft>) -> Self {
        let (nodes, edges) = (draft.nodes.len(), draft.edges.len());
        assert_eq!(plan.graph.nodes().len(), nodes, "each node has code");
        assert_eq!(plan.graph.edges().len(), edges, "each edge has code");
        Self(Arc::new(Parts { plan, draft }))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// What each operator runs at.
    pub fn parallelisms(&self) -> Parallelisms {
        self.plan().parallelisms()
    }

    /// What each operator runs at by the word of the job's function and of the settings that it was compiled with: the same
    /// at whatever parallelism the program is now.
    pub fn configured(&self) -> Parallelisms {
        let plan = self.plan();
        let nodes = self.0.draft.graph.nodes().iter();
        nodes
            .map(|node| {
                let parallelism = parallelism_of(node, plan.defaults);
                (plan.uid(node.id).clone(), parallelism)
            })
            .collect()
    }

    /// The same job at these parallelisms. An operator that is not named is as configured, whatever it runs at now.
    ///
    /// Equal parallelisms give equal plans. An edge that is forward by the job's function rebalances between unequal numbers
    /// of subtasks and is forward again between equal ones, and the chains follow. At what it runs at already, it is this program.
    ///
    /// # Errors
    /// Every fault of the plan at these, and of every uid that no operator has.
    pub fn at(&self, parallelisms: &Parallelisms) -> Result<Self, PlanErrors> {
        let plan = self.plan();
        let mut faults = plan.unknown_operators(parallelisms);
        let mut each = self.configured();
        each.extend(parallelisms.clone());
        if faults.is_empty() && each == self.parallelisms() {
            return Ok(self.clone());
        }
        let mut graph = self.0.draft.graph.clone();
        for node in plan.graph.nodes() {
            graph.node_mut(node.id).parallelism = each.get(plan.uid(node.id)).copied();
        }
        match settled(graph, plan.defaults) {
            Ok(plan) if faults.is_empty() => Ok(Self::new(plan, Arc::clone(&self.0.draft))),
            Ok(_) => Err(PlanErrors(faults)),
            Err(PlanErrors(found)) => {
                faults.extend(found);
                Err(PlanErrors(faults))
            }
        }
    }

    /// What each operator would run at if all whose author set no parallelism on them took this one. `operators` go before
    /// that, also where the author set one and where there is no such operator, which is refused by [`JobProgram::at`]. What
    /// neither speaks of keeps what it runs at now.
    pub fn spread(
        &self,
        parallelism: Option<Parallelism>,
        operators: &Parallelisms,
    ) -> Parallelisms {
        let mut each = self.parallelisms();
        if let Some(parallelism) = parallelism {
            let nodes = self.0.draft.graph.nodes().iter();
            let open = nodes.filter(|node| node.parallelism.is_none());
            each.extend(open.map(|node| (self.plan().uid(node.id).clone(), parallelism)));
        }
        each.extend(operators.clone());
        each
    }

    /// The code of a node.
    pub fn node(&self, id: NodeId) -> &NodeCode {
        &self.0.draft.nodes[id.0]
    }

    /// The code of an edge.
    pub fn edge(&self, id: EdgeId) -> &dyn EdgeCode {
        let partitioning = &self.plan().graph.edge(id).partitioning;
        self.0.draft.edges[id.0].code(partitioning)
    }

    /// The type that an edge carries.
    ///
    /// # Panics
    /// Never: the builder notes the type of every output that it gives out.
    pub fn edge_type(&self, id: EdgeId) -> &Arc<dyn StreamType> {
        let edge = self.plan().graph.edge(id);
        let of = self.0.draft.types.get(&(edge.from, edge.output.clone()));
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
