//! The job that runs in the simulator: two sources, one keyed aggregation, two exactly-once sinks chained behind it.
//!
//! Called by leader, worker and oracles, so that all agree on names and shape.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::{JobShape, OperatorShape, SinkShape, TaskId, TaskShape};
use highwater_protocol::manifest::{ExternalSink, StateSchema};
use highwater_protocol::paths::{JobPaths, RelativePath};
use highwater_protocol::rescale::Rescaled;
use highwater_protocol::stop::SlotKey;
use highwater_types::{
    JobIdentity, MaxParallelism, OperatorUid, Parallelism, Parallelisms, SubtaskIndex,
};

use crate::kafka::MARKER_TOPIC;
use crate::workload::KEY_GROUPS;

/// The sources.
pub(crate) const SOURCES: [&str; 2] = ["src-a", "src-b"];
/// The aggregation and the sinks that are chained behind it.
const CHAIN: [&str; 3] = ["agg", "x", "y"];

/// How wide the job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Aggregating tasks, each with a slot of both sinks.
    pub(crate) parallelism: u32,
    /// Tasks of each source.
    pub(crate) readers: u32,
}

impl Scale {
    /// The same, operator by operator.
    pub(crate) fn operators(self) -> Parallelisms {
        let sources = SOURCES.map(|name| (name, self.readers));
        let chain = CHAIN.map(|name| (name, self.parallelism));
        let named = sources.into_iter().chain(chain);
        named
            .map(|(name, count)| (uid(name), Parallelism(count)))
            .collect()
    }

    /// Reads what [`Scale::operators`] says.
    fn read(operators: &Parallelisms) -> Self {
        let count = |name: &str| operators[&uid(name)].0;
        Self {
            parallelism: count(CHAIN[0]),
            readers: count(SOURCES[0]),
        }
    }

    /// How wide a job that is configured like this goes on from a checkpoint that says `rescaled`.
    pub(crate) fn after(self, rescaled: Option<&Rescaled>) -> Self {
        let to = rescaled.and_then(|rescaled| rescaled.for_configured(&self.operators()));
        to.map_or(self, Self::read)
    }
}

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

/// The shape of the job that runs so wide.
pub(crate) fn shape(scale: Scale) -> JobShape {
    let Scale {
        parallelism,
        readers,
    } = scale;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(parallelism: u32, readers: u32) -> Scale {
        Scale {
            parallelism,
            readers,
        }
    }

    #[test]
    fn a_rescale_holds_for_the_configuration_that_it_was_asked_under() {
        let (configured, to) = (scale(1, 2), scale(3, 1));
        let rescaled = Rescaled {
            configured: configured.operators(),
            to: to.operators(),
        };
        assert_eq!(configured.after(Some(&rescaled)), to);
        assert_eq!(scale(2, 2).after(Some(&rescaled)), scale(2, 2));
        assert_eq!(configured.after(None), configured);
    }
}
