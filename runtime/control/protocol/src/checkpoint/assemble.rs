//! Assembles the manifest of a checkpoint from the parts of its tasks, and checks rule L2 on the way.
//!
//! Called by the checkpoint machine at P7. A manifest names only files of this try or of the manifest in `head`: files
//! of a declined try may be gone already.

use std::collections::BTreeMap;

use highwater_types::{CheckpointId, OperatorUid};

use crate::job::{JobShape, TaskId, TaskSnapshot};
use crate::manifest::{
    FileEntry, HexBytes, Manifest, ManifestTitle, OperatorState, SinkState, SlotOutput, SourceState,
};
use crate::mutant::{Mutant, planted};
use crate::paths::{ObjectName, RelativePath};
use crate::stop::SlotKey;

/// The files of the manifest in `head`.
pub type BaseFiles = BTreeMap<RelativePath, FileEntry>;

/// Checks one part when it arrives; the error names the broken rule.
pub(super) fn check_part(
    shape: &JobShape,
    task: &TaskId,
    id: CheckpointId,
    snapshot: &TaskSnapshot,
    base: &BaseFiles,
) -> Result<(), String> {
    let slots = &shape.tasks[task].slots;
    let answered = slots.len() == snapshot.outputs.len()
        && slots.iter().all(|slot| snapshot.outputs.contains_key(slot));
    if !answered {
        return Err(format!(
            "it answers for {} of {} sink slots",
            snapshot.outputs.len(),
            slots.len()
        ));
    }
    for (path, entry) in &snapshot.files {
        let own = ObjectName::parse(path).and_then(|name| name.id()) == Some(id);
        let is_shared = base.get(path) == Some(entry) || planted(Mutant::DeclinedFilesShared);
        if !own && !is_shared {
            return Err(format!(
                "file {path} is neither of this try nor of the last checkpoint"
            ));
        }
    }
    let logs = snapshot
        .outputs
        .iter()
        .filter(|(_, output)| output.is_log());
    for (slot, output) in logs {
        let SlotOutput::Log(parts) = output else {
            continue;
        };
        let own = |path: &RelativePath| {
            ObjectName::parse(path).is_some_and(|name| {
                matches!(name, ObjectName::SinkLog { .. }) && name.id() == Some(id)
            })
        };
        if parts.is_empty() || !parts.iter().all(|part| own(&part.path)) {
            return Err(format!("the log of slot {slot} is not of this try"));
        }
    }
    let known = snapshot.keyed.keys().chain(snapshot.lists.keys());
    match known
        .into_iter()
        .find(|uid| !shape.operators.contains_key(uid))
    {
        Some(uid) => Err(format!("operator {uid} is not in the graph")),
        None => Ok(()),
    }
}

/// Puts the parts together. The order of parts is the order of tasks, so equal parts give equal bytes. Parts that
/// contradict each other are refused: the error names the task of the second one and the broken rule.
pub(super) fn assemble<'a>(
    shape: &JobShape,
    title: ManifestTitle,
    parts: impl Iterator<Item = (&'a TaskId, &'a TaskSnapshot)> + Clone,
    enumerators: &BTreeMap<OperatorUid, HexBytes>,
) -> Result<Manifest, (TaskId, String)> {
    let mut manifest = Manifest::new(title);
    for (uid, operator) in &shape.operators {
        manifest.operators.insert(
            uid.clone(),
            OperatorState {
                parallelism: operator.parallelism,
                max_parallelism: operator.max_parallelism,
                key: operator.key.clone(),
                states: operator.states.clone(),
                form: operator.form.clone(),
                keyed: Vec::new(),
                lists: Vec::new(),
            },
        );
    }
    for uid in &shape.sources {
        let enumerator = enumerators.get(uid).cloned().unwrap_or_default();
        manifest.sources.insert(
            uid.clone(),
            SourceState {
                enumerator,
                ..SourceState::default()
            },
        );
    }
    for (sink, of) in &shape.sinks {
        let offsets = parts
            .clone()
            .filter_map(|(_, part)| part.marker_offsets.get(sink));
        let from = offsets.max().copied().unwrap_or(0);
        let state = SinkState {
            external: of.external.clone(),
            from,
            slots: BTreeMap::new(),
        };
        manifest.sinks.insert(sink.clone(), state);
    }
    for (task, part) in parts {
        take_part(&mut manifest, part).map_err(|fault| (task.clone(), fault))?;
    }
    Ok(manifest)
}

fn take_part(manifest: &mut Manifest, part: &TaskSnapshot) -> Result<(), String> {
    manifest.files.extend(
        part.files
            .iter()
            .map(|(path, entry)| (path.clone(), *entry)),
    );
    for (uid, keyed) in &part.keyed {
        let operator = manifest
            .operators
            .get_mut(uid)
            .expect("parts are checked as they arrive");
        operator.keyed.extend(keyed.iter().cloned());
    }
    for (uid, lists) in &part.lists {
        let operator = manifest
            .operators
            .get_mut(uid)
            .expect("parts are checked as they arrive");
        operator.lists.extend(lists.iter().cloned());
    }
    for (uid, splits) in &part.splits {
        let source = manifest.sources.entry(uid.clone()).or_default();
        for (split, position) in splits {
            let double = source.splits.insert(split.clone(), position.clone());
            if double.is_some() {
                return Err(format!(
                    "split {split} of source {uid} is read by two subtasks"
                ));
            }
        }
    }
    for (SlotKey { sink, slot }, output) in &part.outputs {
        let sink = manifest
            .sinks
            .get_mut(sink)
            .expect("parts are checked as they arrive");
        let double = sink.slots.insert(*slot, output.clone());
        if double.is_some() {
            return Err(format!("slot {slot} is held by two subtasks"));
        }
    }
    Ok(())
}
