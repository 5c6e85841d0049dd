//! Snapshot and restore of an aggregating task: one file with a slice for each key group.
//!
//! Called by [`super::Task`]. A file whose state did not change since the last completed checkpoint is named again, not
//! uploaded, so that garbage collection has shared files to get wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::TaskSnapshot;
use highwater_protocol::manifest::{GroupSlice, KeyedFile, SlotOutput};
use highwater_protocol::mutant::{Mutant, planted};
use highwater_protocol::paths::DataWriter;
use highwater_protocol::sink_slot::SinkSlot;
use highwater_protocol::steps::Step;
use highwater_protocol::stop::SlotKey;
use highwater_types::{CheckpointId, MaxParallelism, Parallelism};

use super::{Life, Task, entry};
use crate::codec::{decode_group, encode_group};
use crate::job::{object, source_of, uid};
use crate::node::{Ctx, FromTask, Tag, What};
use crate::store::{Condition, StoreAnswer, StoreOp};
use crate::workload::KEY_GROUPS;

const STORE_TIMEOUT: u64 = 150_000;

/// A snapshot on its way.
#[derive(Clone)]
pub(super) struct Snap {
    id: CheckpointId,
    snapshot: TaskSnapshot,
    file: Option<Upload>,
    slots: BTreeSet<SlotKey>,
}

impl Snap {
    pub(super) const fn id(&self) -> CheckpointId {
        self.id
    }
}

#[derive(Clone)]
struct Upload {
    path: String,
    bytes: Rc<[u8]>,
    token: u64,
    tries: u32,
}

/// A restore on its way.
#[derive(Clone)]
pub(super) struct Restore {
    files: VecDeque<KeyedFile>,
    token: u64,
}

impl Task {
    pub(super) fn start_snapshot(&mut self, id: CheckpointId, ctx: &mut Ctx<'_>) {
        let slots = self.deployment.slots.keys().cloned().collect();
        let mut snap = Snap {
            id,
            snapshot: TaskSnapshot::default(),
            file: None,
            slots,
        };
        let clean = self
            .last_files
            .as_ref()
            .filter(|(at, ..)| !self.dirty && self.completed == Some(*at));
        if let Some((_, files, keyed)) = clean {
            snap.snapshot.files = files.clone();
            snap.snapshot.keyed.insert(uid("agg"), keyed.clone());
            self.last_files = Some((id, files.clone(), keyed.clone()));
        } else if let Some(upload) = self.build(id, &mut snap.snapshot) {
            snap.file = Some(upload);
            let files = snap.snapshot.files.clone();
            let keyed = snap
                .snapshot
                .keyed
                .get(&uid("agg"))
                .cloned()
                .unwrap_or_default();
            self.last_files = Some((id, files, keyed));
        }
        self.dirty = false;
        self.snap = Some(snap);
        if ctx.reached(Step::P5) {
            self.upload(ctx);
        }
    }

    fn build(&mut self, id: CheckpointId, snapshot: &mut TaskSnapshot) -> Option<Upload> {
        let mut bytes = Vec::new();
        let mut groups = Vec::new();
        for (&group, states) in &self.state {
            let mut states = states.clone();
            if planted(Mutant::TimersNotSnapshotted) {
                for state in states.values_mut() {
                    state.timers.clear();
                }
            }
            let part = encode_group(states.iter());
            let (offset, length) = (bytes.len() as u64, part.len() as u64);
            groups.push(GroupSlice {
                group,
                offset,
                length,
            });
            bytes.extend(part);
        }
        if groups.is_empty() {
            return None;
        }
        let writer = DataWriter {
            epoch: id.epoch,
            attempt: self.attempt(),
            uid: uid("agg"),
            subtask: self.id.subtask,
        };
        let path = writer.file(id.number, "state");
        let max = MaxParallelism::try_new(KEY_GROUPS).expect("a dozen is in range");
        let count = self.agg_count();
        let range = max.range(self.id.subtask, Parallelism(count));
        let keyed = KeyedFile {
            path: path.clone(),
            range,
            groups,
            store: None,
        };
        snapshot.files.insert(path.clone(), entry(&bytes));
        snapshot.keyed.insert(uid("agg"), vec![keyed]);
        Some(Upload {
            path: object(&path),
            bytes: bytes.into(),
            token: 0,
            tries: 0,
        })
    }

    fn agg_count(&self) -> u32 {
        let others = self.deployment.placements.keys();
        others.filter(|task| source_of(task).is_none()).count() as u32
    }

    fn upload(&mut self, ctx: &mut Ctx<'_>) {
        self.tokens += 1;
        let token = self.serial << 32 | self.tokens;
        let Some(upload) = self.snap.as_mut().and_then(|snap| snap.file.as_mut()) else {
            return;
        };
        upload.tries += 1;
        upload.token = token;
        let tag = Tag {
            token,
            what: What::StateFile(self.id.clone()),
        };
        let (path, bytes) = (upload.path.clone(), Rc::clone(&upload.bytes));
        ctx.store(
            tag.clone(),
            StoreOp::Put {
                path,
                bytes,
                condition: Condition::IfAbsent,
            },
        );
        ctx.timer(STORE_TIMEOUT, tag);
    }

    /// An answer of the store; `None` = a timeout, also the timer that drains the inputs.
    pub(crate) fn store_answer(
        &mut self,
        tag: &Tag,
        answer: Option<StoreAnswer>,
        ctx: &mut Ctx<'_>,
    ) {
        if tag.token == 0 {
            self.drain(ctx);
            return;
        }
        if let What::StateRead(_) = tag.what {
            self.fetched(tag.token, answer, ctx);
            return;
        }
        let Some(snap) = &mut self.snap else { return };
        let Some(upload) = &snap.file else { return };
        if upload.token != tag.token {
            return;
        }
        let stored = match answer {
            Some(StoreAnswer::Applied(_)) => true,
            Some(StoreAnswer::Precondition) => upload.tries > 1,
            _ => false,
        };
        if stored {
            snap.file = None;
            self.finish_snapshot(ctx);
        } else if upload.tries < 4 {
            self.upload(ctx);
        } else {
            let id = snap.id;
            self.snap = None;
            self.dirty = true;
            self.tell(
                FromTask::Refused(id, "the state cannot be stored".to_owned()),
                ctx,
            );
        }
    }

    pub(super) fn slot_acked(
        &mut self,
        key: &SlotKey,
        id: CheckpointId,
        output: (SlotOutput, u64),
        ctx: &mut Ctx<'_>,
    ) {
        let (output, seen) = output;
        let Some(snap) = &mut self.snap else { return };
        if snap.id != id || !snap.slots.remove(key) {
            return;
        }
        snap.snapshot.outputs.insert(key.clone(), output);
        let offset = snap
            .snapshot
            .marker_offsets
            .entry(key.sink.clone())
            .or_default();
        *offset = seen.max(*offset);
        self.finish_snapshot(ctx);
    }

    pub(super) fn finish_snapshot(&mut self, ctx: &mut Ctx<'_>) {
        let done = self
            .snap
            .as_ref()
            .is_some_and(|s| s.file.is_none() && s.slots.is_empty());
        if !done || !ctx.reached(Step::P6) {
            return;
        }
        let Some(snap) = self.snap.take() else { return };
        self.history.insert(snap.id);
        self.tell(FromTask::Acked(snap.id, Box::new(snap.snapshot)), ctx);
    }

    /// Fetches and verifies the state (R5).
    pub(super) fn verify(&mut self, ctx: &mut Ctx<'_>) {
        match self.life {
            Life::Deployed => {}
            Life::Fetching | Life::Failed { .. } => return,
            _ => return self.tell(FromTask::Verified, ctx),
        }
        if !ctx.reached(Step::R5) {
            return;
        }
        self.life = Life::Fetching;
        let files = self.deployment.keyed.iter().cloned().collect();
        self.restore = Some(Restore { files, token: 0 });
        self.fetch(ctx);
    }

    /// Opens what was fetched (R6).
    pub(super) fn open(&mut self, ctx: &mut Ctx<'_>) {
        match self.life {
            Life::Verified => {}
            Life::Opened | Life::Running => return self.tell(FromTask::Opened, ctx),
            _ => return,
        }
        if !ctx.reached(Step::R6) {
            return;
        }
        let confirmed = self.deployment.restored.number;
        let slots: Vec<(SlotKey, u64)> = self
            .deployment
            .slots
            .iter()
            .map(|(key, from)| (key.clone(), *from))
            .collect();
        for (key, from) in slots {
            if !self.slots.contains_key(&key) {
                let machine = SinkSlot::start(Self::config(key.clone(), from, ctx), confirmed);
                self.add_slot(&key, machine, Vec::new(), ctx);
            }
        }
        self.life = Life::Opened;
        self.tell(FromTask::Opened, ctx);
    }

    fn fetch(&mut self, ctx: &mut Ctx<'_>) {
        self.tokens += 1;
        let token = self.serial << 32 | self.tokens;
        let Some(restore) = &mut self.restore else {
            return;
        };
        restore.token = token;
        let Some(next) = restore.files.front() else {
            self.restore = None;
            self.life = Life::Verified;
            return self.tell(FromTask::Verified, ctx);
        };
        let tag = Tag {
            token,
            what: What::StateRead(self.id.clone()),
        };
        ctx.store(
            tag.clone(),
            StoreOp::Get {
                path: object(&next.path),
            },
        );
        ctx.timer(STORE_TIMEOUT, tag);
    }

    fn fetched(&mut self, token: u64, answer: Option<StoreAnswer>, ctx: &mut Ctx<'_>) {
        let Some(restore) = &mut self.restore else {
            return;
        };
        if restore.token != token {
            return;
        }
        let bytes = match answer {
            Some(StoreAnswer::Found(bytes, _)) => Some(bytes),
            Some(StoreAnswer::Absent) => None,
            _ => return self.fetch(ctx),
        };
        let Some(file) = restore.files.pop_front() else {
            return;
        };
        let wanted = self.deployment.files.get(&file.path);
        let sound = bytes.as_ref().is_some_and(|bytes| {
            wanted.is_some_and(|entry| ContentHash::of(bytes) == entry.checksum)
        });
        let Some(bytes) = bytes.filter(|_| sound) else {
            self.fail(true, ctx);
            return;
        };
        let mut restored = BTreeMap::new();
        for slice in &file.groups {
            let range = slice.offset as usize..(slice.offset + slice.length) as usize;
            let states = decode_group(&bytes[range]).expect("the checksum holds");
            restored.insert(slice.group, states);
        }
        self.state.extend(restored);
        self.fetch(ctx);
    }
}
