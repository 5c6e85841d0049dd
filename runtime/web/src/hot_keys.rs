//! Keys that take many of the records of their subtasks, as the samples of the tasks know them.
//!
//! Called by the routes and by the page of metrics, so that both say the same. Pure. The rule: a key is told by rank, hash and group; what
//! it says is data of the job, and no task keeps it.

use std::collections::BTreeMap;

use highwater_graph::Plan;
use highwater_operators::HotKey;
use highwater_protocol::job::TaskId;
use highwater_types::{KeyGroup, KeyHash, MaxParallelism, OperatorUid};
use highwater_web_api as api;
use highwater_worker::TaskFigures;

/// The share that a key has of the records that its sample stands for.
pub(crate) fn share(key: &HotKey) -> f64 {
    key.records as f64 / key.of.max(1) as f64
}

/// The group of a key, of so many.
pub(crate) const fn group(key: &HotKey, groups: MaxParallelism) -> KeyGroup {
    KeyHash(key.hash).group(groups)
}

/// The hot keys of every keyed operator, in the order of the plan. One that has none is told too: it was looked for.
pub(crate) fn told(plan: &Plan, figures: &BTreeMap<TaskId, TaskFigures>) -> Vec<api::HotKeys> {
    let mut samples = BTreeMap::<&OperatorUid, Vec<(u32, &[HotKey])>>::new();
    for (id, task) in figures {
        for report in &task.operators {
            let sample = (id.subtask.0, report.hot_keys.as_slice());
            samples.entry(&report.uid).or_default().push(sample);
        }
    }
    let vertices = plan.job.vertices().iter();
    let nodes = vertices.flat_map(|vertex| vertex.nodes.iter().map(move |id| (vertex, *id)));
    let told = nodes.filter_map(|(vertex, id)| {
        let (uid, node) = (plan.uid(id), plan.graph.node(id));
        let samples = samples.get(uid).into_iter().flatten();
        let keys: Vec<_> = samples
            .flat_map(|(subtask, keys)| of_subtask(*subtask, keys, vertex.max_parallelism))
            .collect();
        let is_keyed = node.key.is_some() || !keys.is_empty();
        is_keyed.then(|| api::HotKeys {
            operator: uid.to_string(),
            name: node.operator.clone(),
            key: node.key.clone(),
            keys,
        })
    });
    told.collect()
}

fn of_subtask(
    subtask: u32,
    keys: &[HotKey],
    groups: MaxParallelism,
) -> impl Iterator<Item = api::HotKey> {
    let ranked = (1..).zip(keys);
    ranked.map(move |(rank, key)| api::HotKey {
        subtask,
        rank,
        hash: format!("{:016x}", key.hash),
        group: u32::from(group(key, groups).0),
        share: share(key),
        sampled_records: key.of,
    })
}
