//! The shape of a job for the protocol's machines, from its compiled program.

use std::collections::{BTreeMap, BTreeSet};

use highwater_api::JobProgram;
use highwater_graph::{JobVertex, NodeKind};
use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::{JobShape, OperatorShape, SinkShape, TaskId, TaskShape};
use highwater_protocol::manifest::{ExternalSink, StateSchema};
use highwater_protocol::stop::SlotKey;
use highwater_types::{JobIdentity, OperatorUid, SubtaskIndex};
use highwater_worker::build::task_id;

use crate::fleet::FleetShape;

/// The shape of `program` whose exactly-once sinks write to these systems.
pub fn shape_of(
    program: &JobProgram,
    identity: &JobIdentity,
    externals: &BTreeMap<OperatorUid, ExternalSink>,
) -> JobShape {
    let plan = program.plan();
    let mut shape = JobShape {
        identity: identity.clone(),
        graph: ContentHash(plan.fingerprint.0),
        tasks: BTreeMap::new(),
        operators: BTreeMap::new(),
        sources: plan.sources().map(|node| plan.uid(node).clone()).collect(),
        sinks: BTreeMap::new(),
    };
    for vertex in plan.job.vertices() {
        for subtask in (0..vertex.parallelism.0).map(SubtaskIndex) {
            let task = task_shape(program, vertex, subtask, externals);
            shape.tasks.insert(task_id(program, vertex, subtask), task);
        }
        for node in &vertex.nodes {
            let (uid, node) = (plan.uid(*node).clone(), plan.graph.node(*node));
            if let Some(external) = externals.get(&uid) {
                let sink = SinkShape {
                    slots: vertex.parallelism.0,
                    external: external.clone(),
                };
                shape.sinks.insert(uid.clone(), sink);
            }
            if !matches!(node.kind, NodeKind::Source(_)) {
                let operator = OperatorShape {
                    parallelism: vertex.parallelism,
                    max_parallelism: vertex.max_parallelism,
                    key: node.key.as_deref().map(key_schema),
                    // The backend compares the schemas of each state, since it can read older ones.
                    states: Vec::new(),
                    form: node.form.clone(),
                };
                shape.operators.insert(uid, operator);
            }
        }
    }
    shape
}

/// The fingerprint of graph and subtasks: equal where coordinator and workers build the same tasks.
pub fn execution_fingerprint(program: &JobProgram) -> u64 {
    let plan = program.plan();
    let tasks = plan.job.vertices().iter().map(|vertex| {
        let (uid, groups) = (plan.uid(vertex.head), vertex.max_parallelism.get());
        format!("{uid} {} {groups}", vertex.parallelism)
    });
    let text: Vec<_> = [plan.fingerprint.to_string()]
        .into_iter()
        .chain(tasks)
        .collect();
    ContentHash::of(text.join("\n").as_bytes()).0
}

/// What the fleet must know of `program`.
pub fn fleet_shape(program: &JobProgram) -> FleetShape {
    let plan = program.plan();
    let vertices = plan.job.vertices().iter();
    let shares = vertices
        .map(|vertex| vertex.parallelism.0)
        .max()
        .unwrap_or(1);
    let sinks = plan.sinks().map(|node| {
        let vertex = plan.job.vertex(plan.job.vertex_of(node));
        (plan.uid(node).clone(), vertex.parallelism)
    });
    FleetShape {
        shares,
        sinks: sinks.collect(),
    }
}

fn key_schema(text: &str) -> StateSchema {
    StateSchema {
        name: "key".to_owned(),
        kind: "key".to_owned(),
        fingerprint: ContentHash::of(text.as_bytes()),
        text: text.to_owned(),
    }
}

fn task_shape(
    program: &JobProgram,
    vertex: &JobVertex,
    subtask: SubtaskIndex,
    externals: &BTreeMap<OperatorUid, ExternalSink>,
) -> TaskShape {
    let plan = program.plan();
    let sinks = vertex.nodes.iter().map(|node| plan.uid(*node));
    let slots = sinks.filter(|uid| externals.contains_key(uid));
    TaskShape {
        upstream: upstream(program, vertex),
        slots: slots
            .map(|uid| SlotKey {
                sink: uid.clone(),
                slot: subtask.0,
            })
            .collect(),
    }
}

fn upstream(program: &JobProgram, vertex: &JobVertex) -> BTreeSet<TaskId> {
    let plan = program.plan();
    let feeding = vertex.inputs.iter().map(|edge| {
        let from = plan.graph.edge(*edge).from;
        plan.job.vertex(plan.job.vertex_of(from))
    });
    feeding
        .flat_map(|from| {
            let subtasks = (0..from.parallelism.0).map(SubtaskIndex);
            subtasks
                .map(|subtask| task_id(program, from, subtask))
                .collect::<Vec<_>>()
        })
        .collect()
}
