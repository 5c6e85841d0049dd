//! The job that runs in the simulator: two sources, one keyed aggregation, two exactly-once sinks chained behind it.
//!
//! Called by leader, worker and oracles, so that all agree on names and shape.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::{JobShape, OperatorShape, SinkShape, TaskId, TaskShape};
use highwater_protocol::manifest::{ExternalSink, StateSchema};
use highwater_protocol::paths::{JobPaths, RelativePath};
use highwater_protocol::stop::SlotKey;
use highwater_types::{JobIdentity, MaxParallelism, OperatorUid, Parallelism, SubtaskIndex};

use crate::kafka::MARKER_TOPIC;
use crate::workload::KEY_GROUPS;

/// The sources.
pub(crate) const SOURCES: [&str; 2] = ["src-a", "src-b"];

pub(crate) fn uid(name: &str) -> OperatorUid {
    OperatorUid::parse(name).expect("names of the simulated job are sound")
}

pub(crate) fn identity() -> JobIdentity {
    JobIdentity::parse("sim").expect("names of the simulated job are sound")
}

pub(crate) fn paths() -> JobPaths {
    JobPaths::new(identity())
}

pub(crate) fn object(path: &RelativePath) -> String {
    paths().object(path)
}

pub(crate) fn source_task(source: u32, subtask: u32) -> TaskId {
    TaskId {
        vertex: uid(SOURCES[source as usize]),
        subtask: SubtaskIndex(subtask),
    }
}

pub(crate) fn agg_task(subtask: u32) -> TaskId {
    TaskId {
        vertex: uid("agg"),
        subtask: SubtaskIndex(subtask),
    }
}

/// Which source a task is; `None` = an aggregating task.
pub(crate) fn source_of(task: &TaskId) -> Option<u32> {
    SOURCES
        .iter()
        .position(|name| *name == task.vertex.as_str())
        .map(|at| at as u32)
}

fn schema(name: &str, kind: &str, text: &str) -> StateSchema {
    StateSchema {
        name: name.to_owned(),
        kind: kind.to_owned(),
        fingerprint: ContentHash::of(text.as_bytes()),
        text: text.to_owned(),
    }
}

/// The tasks of all sources, `readers` of each.
pub(crate) fn source_tasks(readers: u32) -> impl Iterator<Item = TaskId> {
    let sources = 0..SOURCES.len() as u32;
    sources.flat_map(move |source| (0..readers).map(move |at| source_task(source, at)))
}

/// The shape with `parallelism` aggregating tasks and `readers` tasks of each source.
pub(crate) fn shape(parallelism: u32, readers: u32) -> JobShape {
    let mut tasks = BTreeMap::new();
    for task in source_tasks(readers) {
        tasks.insert(task, TaskShape::default());
    }
    let upstream: BTreeSet<TaskId> = tasks.keys().cloned().collect();
    for slot in 0..parallelism {
        let slots = ["x", "y"]
            .map(|sink| SlotKey {
                sink: uid(sink),
                slot,
            })
            .to_vec();
        tasks.insert(
            agg_task(slot),
            TaskShape {
                upstream: upstream.clone(),
                slots,
            },
        );
    }
    let external = ExternalSink {
        cluster: "cluster-1".to_owned(),
        marker_topic: MARKER_TOPIC.to_owned(),
        output: "output".to_owned(),
    };
    let sink = SinkShape {
        slots: parallelism,
        external,
    };
    let agg = OperatorShape {
        parallelism: Parallelism(parallelism),
        max_parallelism: MaxParallelism::try_new(KEY_GROUPS).expect("a dozen is in range"),
        key: Some(schema("key", "key", "u32")),
        states: vec![
            schema("totals", "value", "(count, sum, seq)"),
            schema("timers", "timers", "i64"),
        ],
        form: "aggregate".to_owned(),
    };
    JobShape {
        identity: identity(),
        graph: ContentHash(1),
        tasks,
        operators: BTreeMap::from([(uid("agg"), agg)]),
        sources: SOURCES.iter().map(|name| uid(name)).collect(),
        sinks: BTreeMap::from([(uid("x"), sink.clone()), (uid("y"), sink)]),
    }
}
