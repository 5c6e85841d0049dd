//! The copy of a savepoint: every state file, then its own manifest, which says that the savepoint is complete (L7).

use std::collections::VecDeque;

use highwater_protocol::checkpoint::CheckpointEvent;
use highwater_protocol::export::exported;
use highwater_protocol::hash::ContentHash;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::{RelativePath, SavepointPaths};
use highwater_protocol::steps::Step;
use highwater_types::CheckpointId;

use super::Coordinator;
use crate::job::object;
use crate::node::{Ctx, What};
use crate::store::{Condition, StoreAnswer, StoreOp};

/// A copy on its way.
#[derive(Clone)]
pub(super) struct Export {
    id: CheckpointId,
    target: SavepointPaths,
    manifest: Manifest,
    files: VecDeque<RelativePath>,
    bytes: Option<std::rc::Rc<[u8]>>,
    tries: u32,
}

impl Export {
    fn is_sound(&self, bytes: &[u8]) -> bool {
        let entry = self
            .files
            .front()
            .and_then(|path| self.manifest.files.get(path));
        entry.is_some_and(|entry| entry.checksum == ContentHash::of(bytes))
    }
}

/// Another try of the same request takes another folder: a zombie may still be writing into the first.
pub(crate) fn target_of(savepoint: &str, id: CheckpointId) -> SavepointPaths {
    let name = format!("{savepoint}-{}-{}", id.epoch, id.number);
    SavepointPaths::parse("savepoints", &name).expect("the name is plain")
}

impl Coordinator {
    pub(super) fn start_export(&mut self, savepoint: &str, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(checkpoint) = leader.manifest.clone() else {
            return;
        };
        let (id, manifest) = (checkpoint.id, exported(&checkpoint));
        let target = target_of(savepoint, id);
        let files = manifest.files.keys().cloned().collect();
        leader.export = Some(Export {
            id,
            target,
            manifest,
            files,
            bytes: None,
            tries: 0,
        });
        self.export_next(ctx);
    }

    fn export_next(&mut self, ctx: &mut Ctx<'_>) {
        let Some(export) = self.leader().and_then(|leader| leader.export.as_mut()) else {
            return;
        };
        export.tries += 1;
        let step = match (export.files.front(), &export.bytes) {
            (Some(_), None) => None,
            (Some(_), Some(_)) => Some(Step::X1),
            (None, _) => Some(Step::X2),
        };
        if step.is_some_and(|step| !ctx.reached(step)) {
            return;
        }
        let put = |path, bytes| StoreOp::Put {
            path,
            bytes,
            condition: Condition::IfAbsent,
        };
        let op = match (export.files.front(), &export.bytes) {
            (Some(path), None) => StoreOp::Get { path: object(path) },
            (Some(path), Some(bytes)) => put(export.target.object(path), std::rc::Rc::clone(bytes)),
            (None, _) => put(export.target.manifest(), export.manifest.encode().0.into()),
        };
        self.request(What::Export, op, ctx);
    }

    pub(super) fn export_answer(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(export) = leader.export.as_mut() else {
            return;
        };
        match answer {
            StoreAnswer::Found(bytes, _) => {
                if !export.is_sound(&bytes) {
                    // Nothing rotten is copied out: the recovery ends this copy, finds the damage and goes back.
                    return self.tasks_lost(ctx);
                }
                export.bytes = Some(bytes);
            }
            StoreAnswer::Applied(_) | StoreAnswer::Precondition => {
                if export.files.pop_front().is_none() {
                    let (id, folder) = (export.id, export.target.folder().to_owned());
                    leader.export = None;
                    ctx.shared.savepoints.insert(folder);
                    return self.checkpoint_event(CheckpointEvent::Exported { id }, ctx);
                }
                export.bytes = None;
            }
            _ if export.tries < 20 => {}
            _ => {
                let (id, folder) = (export.id, export.target.folder().to_owned());
                leader.export = None;
                ctx.shared.not_copied.insert(folder);
                return self.checkpoint_event(CheckpointEvent::ExportFailed { id }, ctx);
            }
        }
        self.export_next(ctx);
    }
}
