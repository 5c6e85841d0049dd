//! From a manifest to a deployment: which subtask gets which state, which splits, which duties (R5).

use std::collections::BTreeMap;

use highwater_api::JobProgram;
use highwater_connectors::Split;
use highwater_protocol::head::Head;
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::{Blob, HexBytes, KeyedFile, LogObject, Manifest, SlotOutput};
use highwater_protocol::paths::RelativePath;
use highwater_protocol::recovery::{UnmatchedState, assign};
use highwater_protocol::stop::SlotKey;
use highwater_types::{
    AttemptId, CheckpointId, Classified, ErrorKind, OperatorUid, Parallelism, SubtaskIndex,
};
use highwater_worker::files::list_snapshot;
use highwater_worker::{
    Deployment, History, MarkerPlace, OperatorSubtask, RestoredKeyed, RestoredState, RestoredStore,
    Standing,
};

use crate::sources::OpenSources;

/// What a deployment is made from.
pub struct DeployInput<'a> {
    /// The program.
    pub program: &'a JobProgram,
    /// Its shape.
    pub shape: &'a JobShape,
    /// The settled head.
    pub head: &'a Head,
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// The attempt.
    pub attempt: AttemptId,
    /// The sources with their splits.
    pub sources: &'a OpenSources,
    /// Where each sink's markers begin that the manifest does not know.
    pub first_markers: &'a BTreeMap<OperatorUid, u64>,
    /// Whether logs that may be needed are verified before anything is published.
    pub logs: LogCheck,
    /// What happens to state that its operator does not open any more.
    pub unmatched: UnmatchedState,
}

/// Whether the logs of unconfirmed output are verified with the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogCheck {
    /// They are: a damaged one gives the checkpoint up, if none of its output is visible.
    Verify,
    /// Output is visible beside a damaged log: each slot finds out whether it needs its own.
    Skip,
}

/// A manifest that cannot be deployed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// State of an operator lies in a file that the manifest does not list.
    #[error(
        "the manifest of checkpoint {id} names file {path} of operator {uid} without its checksum; it is damaged, \
         restore it from a copy of the store"
    )]
    Unlisted {
        /// The checkpoint.
        id: CheckpointId,
        /// The operator.
        uid: OperatorUid,
        /// The file.
        path: String,
    },
    /// List state lies in files.
    #[error(
        "checkpoint {id} holds list state of operator {uid} in a file, which this version cannot read; start the newer \
         version that wrote it"
    )]
    Newer {
        /// The checkpoint.
        id: CheckpointId,
        /// The operator.
        uid: OperatorUid,
    },
}

impl Classified for DeployError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unlisted { .. } => ErrorKind::Corrupt,
            Self::Newer { .. } => ErrorKind::Invalid,
        }
    }
}

/// The deployment of an attempt.
///
/// # Errors
/// `Corrupt` when the manifest does not list a file that it names, `Invalid` when a newer version wrote it.
pub fn deployment(input: &DeployInput<'_>) -> Result<Deployment, DeployError> {
    let DeployInput {
        shape,
        head,
        manifest,
        ..
    } = input;
    let is_first = manifest.id.number == 0 && head.origin.is_none();
    let verified = head.has_pending_output() && input.logs == LogCheck::Verify;
    let logs = if verified { logs(manifest) } else { Vec::new() };
    let sources = input.sources.iter();
    Ok(Deployment {
        epoch: head.epoch,
        attempt: input.attempt,
        shape: shape.fingerprint(),
        parallelism: input.program.parallelisms(),
        lineage: head.lineage,
        restored: manifest.id,
        history: if is_first {
            History::FirstStart
        } else {
            History::Restored
        },
        unmatched: input.unmatched,
        states: states(shape, manifest)?,
        splits: splits(input.program, input.sources),
        complete: sources
            .filter(|(_, (source, _))| source.complete)
            .map(|(uid, _)| uid.clone())
            .collect(),
        markers: markers(shape, manifest, input.first_markers),
        logs,
        standing: Standing::Alone,
    })
}

/// Where the markers of each sink are read from.
pub fn markers(
    shape: &JobShape,
    manifest: &Manifest,
    first: &BTreeMap<OperatorUid, u64>,
) -> BTreeMap<OperatorUid, MarkerPlace> {
    let markers = shape.sinks.iter().map(|(uid, sink)| {
        let known = manifest
            .sinks
            .get(uid)
            .filter(|state| state.external.has_markers_of(&sink.external));
        let first = first.get(uid).copied().unwrap_or(0);
        let from = known.map_or(first, |state| state.from);
        (
            uid.clone(),
            MarkerPlace {
                place: sink.external.marker_topic.clone(),
                from,
            },
        )
    });
    markers.collect()
}

/// Every part of every log of a checkpoint.
pub fn logs(manifest: &Manifest) -> Vec<(SlotKey, LogObject)> {
    let mut logs = Vec::new();
    for (sink, state) in &manifest.sinks {
        for (&slot, output) in &state.slots {
            let SlotOutput::Log(parts) = output else {
                continue;
            };
            let slot = SlotKey {
                sink: sink.clone(),
                slot,
            };
            logs.extend(parts.iter().map(|part| (slot.clone(), part.clone())));
        }
    }
    logs
}

fn states(
    shape: &JobShape,
    manifest: &Manifest,
) -> Result<BTreeMap<OperatorSubtask, RestoredState>, DeployError> {
    let mut states: BTreeMap<OperatorSubtask, RestoredState> = BTreeMap::new();
    let with_state = manifest
        .operators
        .iter()
        .filter(|(_, state)| state.has_state());
    for (uid, state) in with_state {
        let Some(operator) = shape.operators.get(uid) else {
            continue;
        };
        let modes: BTreeMap<_, _> = state
            .lists
            .iter()
            .map(|list| (list.name.as_str(), list.mode))
            .collect();
        let keyed = assign::keyed(state, operator.parallelism);
        let lists = assign::lists(state, operator.parallelism);
        for (index, (share, lists)) in keyed.into_iter().zip(lists).enumerate() {
            let subtask = SubtaskIndex(index as u32);
            let restored = states
                .entry(OperatorSubtask {
                    uid: uid.clone(),
                    subtask,
                })
                .or_default();
            for file in share.files {
                restored.keyed.push(restored_keyed(manifest, uid, file)?);
            }
            for (name, blobs) in lists {
                let mode = modes[name.as_str()];
                let items = blobs.into_iter().map(|blob| match blob {
                    Blob::Inline(HexBytes(bytes)) => Ok(bytes),
                    Blob::File { .. } => Err(DeployError::Newer {
                        id: manifest.id,
                        uid: uid.clone(),
                    }),
                });
                let items = items.collect::<Result<Vec<_>, _>>()?;
                restored.lists.push(list_snapshot(name, mode, items));
            }
        }
    }
    Ok(states)
}

/// A keyed file with what the manifest says of its bytes, and of the objects that hold the files of its store.
fn restored_keyed(
    manifest: &Manifest,
    uid: &OperatorUid,
    file: KeyedFile,
) -> Result<RestoredKeyed, DeployError> {
    let entry_of = |path: &RelativePath| {
        let entry = manifest.files.get(path).copied();
        entry.ok_or_else(|| DeployError::Unlisted {
            id: manifest.id,
            uid: uid.clone(),
            path: path.to_string(),
        })
    };
    let mut objects = BTreeMap::new();
    for part in file.parts() {
        objects.insert(part.path.clone(), entry_of(&part.path)?);
    }
    Ok(RestoredKeyed {
        entry: entry_of(&file.path)?,
        path: file.path,
        store: file.store.map(|parts| RestoredStore { parts, objects }),
    })
}

/// Deals out the splits of every source.
fn splits(program: &JobProgram, sources: &OpenSources) -> BTreeMap<OperatorSubtask, Vec<Split>> {
    let plan = program.plan();
    let mut dealt = BTreeMap::new();
    for node in plan.sources() {
        let uid = plan.uid(node);
        let Some((_, splits)) = sources.get(uid) else {
            continue;
        };
        let parallelism = plan.graph.node(node).parallelism.unwrap_or(Parallelism(1));
        let positions: BTreeMap<_, _> = splits
            .iter()
            .map(|split| (split.id.to_string(), HexBytes(split.position.clone())))
            .collect();
        for (index, share) in assign::splits(&positions, parallelism)
            .into_iter()
            .enumerate()
        {
            let subtask = SubtaskIndex(index as u32);
            let share = share
                .into_iter()
                .map(|(id, position)| Split {
                    id: id.into(),
                    position: position.0,
                })
                .collect();
            dealt.insert(
                OperatorSubtask {
                    uid: uid.clone(),
                    subtask,
                },
                share,
            );
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use highwater_protocol::hash::ContentHash;
    use highwater_protocol::job::OperatorShape;
    use highwater_protocol::manifest::{
        FileEntry, FilePart, ManifestTitle, OperatorState, SnapshotKind, StoreParts,
    };
    use highwater_protocol::paths::DataWriter;
    use highwater_types::{Epoch, JobIdentity, KeyGroupRange, Lineage, MaxParallelism};

    use super::*;

    #[test]
    fn a_file_that_the_manifest_does_not_list_is_damage_and_not_a_state_to_start_without() {
        let job = || JobIdentity::parse("job").unwrap();
        let (uid, groups) = (
            OperatorUid::parse("agg").unwrap(),
            MaxParallelism::try_new(8).unwrap(),
        );
        let id = CheckpointId {
            number: 1,
            epoch: Epoch(1),
        };
        let mut manifest = Manifest::new(ManifestTitle {
            identity: job(),
            lineage: Lineage(1),
            id,
            kind: SnapshotKind::Checkpoint,
            parent: None,
            graph: ContentHash(1),
        });
        let writer = DataWriter {
            epoch: id.epoch,
            attempt: AttemptId(1),
            uid: uid.clone(),
            subtask: SubtaskIndex(0),
        };
        let file = KeyedFile {
            path: writer.file(1, "state"),
            range: groups.range(SubtaskIndex(0), Parallelism(1)),
            groups: Vec::new(),
            store: None,
        };
        let state = OperatorState {
            parallelism: Parallelism(1),
            max_parallelism: groups,
            key: None,
            states: Vec::new(),
            form: "aggregate".to_owned(),
            keyed: vec![file],
            lists: Vec::new(),
        };
        manifest.operators.insert(uid.clone(), state);
        let operator = OperatorShape {
            parallelism: Parallelism(1),
            max_parallelism: groups,
            key: None,
            states: Vec::new(),
            form: "aggregate".to_owned(),
        };
        let shape = JobShape {
            identity: job(),
            graph: ContentHash(1),
            tasks: BTreeMap::new(),
            operators: BTreeMap::from([(uid, operator)]),
            sources: BTreeSet::new(),
            sinks: BTreeMap::new(),
        };
        let refused = states(&shape, &manifest).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.to_string().contains("operator agg"), "{refused}");
    }

    #[test]
    fn the_files_of_a_local_store_are_handed_out_with_the_objects_that_they_lie_in() {
        let id = CheckpointId {
            number: 1,
            epoch: Epoch(1),
        };
        let mut manifest = Manifest::new(ManifestTitle {
            identity: JobIdentity::parse("job").unwrap(),
            lineage: Lineage(1),
            id,
            kind: SnapshotKind::Checkpoint,
            parent: None,
            graph: ContentHash(1),
        });
        let [head, object] = ["data/1-1/agg.0/1-keyed.0", "data/1-1/agg.0/1-keyed.0.0"]
            .map(|path| RelativePath::parse(path).unwrap());
        let entry = |length| FileEntry {
            length,
            checksum: ContentHash(length),
        };
        manifest.files.insert(head.clone(), entry(1));
        let part = |name: &str| FilePart {
            name: name.to_owned(),
            is_immutable: true,
            path: object.clone(),
            offset: 0,
            length: 2,
            checksum: ContentHash(3),
        };
        let parts = StoreParts {
            store: "rocksdb".to_owned(),
            parts: vec![part("1.sst"), part("2.sst")],
        };
        let file = KeyedFile {
            path: head.clone(),
            range: KeyGroupRange { start: 0, end: 8 },
            groups: Vec::new(),
            store: Some(parts.clone()),
        };
        let uid = OperatorUid::parse("agg").unwrap();
        let refused = restored_keyed(&manifest, &uid, file.clone()).unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::Corrupt,
            "the object is not listed"
        );
        manifest.files.insert(object.clone(), entry(4));
        let handed = restored_keyed(&manifest, &uid, file).unwrap();
        let objects = BTreeMap::from([(object, entry(4))]);
        let store = Some(RestoredStore { parts, objects });
        let entry = entry(1);
        assert_eq!(
            handed,
            RestoredKeyed {
                path: head,
                entry,
                store
            }
        );
    }
}
