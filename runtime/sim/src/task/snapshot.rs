//! Snapshot and restore of an aggregating task, whose state lies in a local store.
//!
//! Called by [`super::Task`]. Files that did not change since the last completed checkpoint are referred to, not stored, so
//! that garbage collection has shared objects to get wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::TaskSnapshot;
use highwater_protocol::manifest::{GroupSlice, KeyedFile, SlotOutput};
use highwater_protocol::mutant::{Mutant, planted};
use highwater_protocol::paths::{DataWriter, RelativePath};
use highwater_protocol::shared_files::HeldFiles;
use highwater_protocol::sink_slot::SinkSlot;
use highwater_protocol::steps::Step;
use highwater_protocol::stop::SlotKey;
use highwater_types::{CheckpointId, MaxParallelism, Parallelism};

use super::local::file_of;
use super::{Life, Task, entry};
use crate::codec::{decode_group, encode_position};
use crate::job::{object, source_of, uid};
use crate::node::{Ctx, Fact, FromTask, Restored, Tag, What};
use crate::store::{Condition, StoreAnswer, StoreOp};
use crate::workload::KEY_GROUPS;

const STORE_TIMEOUT: u64 = 150_000;

/// A snapshot on its way.
#[derive(Clone)]
pub(super) struct Snap {
    id: CheckpointId,
    snapshot: TaskSnapshot,
    files: VecDeque<Upload>,
    held: Option<HeldFiles>,
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

impl Upload {
    fn new(path: &RelativePath, bytes: Vec<u8>) -> Self {
        Self {
            path: object(path),
            bytes: bytes.into(),
            token: 0,
            tries: 0,
        }
    }
}

/// A restore on its way: objects that are read, then what lies in them.
#[derive(Clone)]
pub(super) struct Restore {
    objects: VecDeque<RelativePath>,
    read: BTreeMap<RelativePath, Rc<[u8]>>,
    token: u64,
}

impl Task {
    pub(super) fn start_snapshot(&mut self, id: CheckpointId, ctx: &mut Ctx<'_>) {
        let slots = self.deployment.slots.keys().cloned().collect();
        let mut snap = Snap {
            id,
            snapshot: TaskSnapshot::default(),
            files: VecDeque::new(),
            held: None,
            slots,
        };
        if !self.state.is_empty() {
            self.build(&mut snap);
        }
        self.snap = Some(snap);
        if ctx.reached(Step::P5) {
            self.upload(ctx);
        }
    }

    fn build(&mut self, snap: &mut Snap) {
        let id = snap.id;
        let mut state = self.state.clone();
        if planted(Mutant::TimersNotSnapshotted) {
            let states = state.values_mut().flat_map(BTreeMap::values_mut);
            states.for_each(|state| state.timers.clear());
        }
        let writer = DataWriter {
            epoch: id.epoch,
            attempt: self.attempt(),
            uid: uid("agg"),
            subtask: self.id.subtask,
        };
        let path = |at: usize| writer.file(id.number, &format!("state.{at}"));
        let frozen = self.local.freeze(id, &state, path);
        let max = MaxParallelism::try_new(KEY_GROUPS).expect("a dozen is in range");
        let range = max.range(self.id.subtask, Parallelism(self.agg_count()));
        let (head, bytes) = (writer.file(id.number, "state"), encode_position(id.number));
        // Which groups the files hold; where they lie, the files say.
        let groups = frozen.groups.into_iter().map(|group| GroupSlice {
            group,
            offset: 0,
            length: 0,
        });
        let keyed = KeyedFile {
            path: head.clone(),
            range,
            groups: groups.collect(),
            store: Some(frozen.store),
        };
        snap.held = Some(frozen.held);
        snap.snapshot.keyed.insert(uid("agg"), vec![keyed]);
        snap.snapshot.files = frozen.named;
        snap.snapshot.files.insert(head.clone(), entry(&bytes));
        let objects = frozen.objects.into_iter().chain([(head, bytes)]);
        snap.files = objects
            .map(|(path, bytes)| Upload::new(&path, bytes))
            .collect();
    }

    fn agg_count(&self) -> u32 {
        let others = self.deployment.placements.keys();
        others.filter(|task| source_of(task).is_none()).count() as u32
    }

    fn upload(&mut self, ctx: &mut Ctx<'_>) {
        self.tokens += 1;
        let token = self.serial << 32 | self.tokens;
        let Some(upload) = self.snap.as_mut().and_then(|snap| snap.files.front_mut()) else {
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
        let Some(upload) = snap.files.front() else {
            return;
        };
        if upload.token != tag.token {
            return;
        }
        let stored = match answer {
            Some(StoreAnswer::Applied(_)) => true,
            Some(StoreAnswer::Precondition) => upload.tries > 1,
            _ => false,
        };
        if stored {
            snap.files.pop_front();
            self.upload(ctx);
            self.finish_snapshot(ctx);
        } else if upload.tries < 4 {
            self.upload(ctx);
        } else {
            let id = snap.id;
            self.snap = None;
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
            .is_some_and(|s| s.files.is_empty() && s.slots.is_empty());
        if !done || !ctx.reached(Step::P6) {
            return;
        }
        let Some(snap) = self.snap.take() else { return };
        if let Some(held) = snap.held
            && !self.local.stored(snap.id, held)
        {
            let violation = format!("O7: {} stored checkpoint {} that is over", self.id, snap.id);
            ctx.violations.push(violation);
            return;
        }
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
        let keyed = self.deployment.keyed.iter();
        let objects = keyed.flat_map(|file| {
            let parts = file.parts().iter().map(|part| &part.path);
            parts.chain([&file.path]).cloned()
        });
        let objects: BTreeSet<_> = objects.collect();
        self.restore = Some(Restore {
            objects: objects.into_iter().collect(),
            read: BTreeMap::new(),
            token: 0,
        });
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
        let Some(next) = restore.objects.front() else {
            return self.fetched_all(ctx);
        };
        let tag = Tag {
            token,
            what: What::StateRead(self.id.clone()),
        };
        ctx.store(tag.clone(), StoreOp::Get { path: object(next) });
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
        let Some(path) = restore.objects.pop_front() else {
            return;
        };
        let wanted = self.deployment.files.get(&path);
        let sound = bytes
            .filter(|bytes| wanted.is_some_and(|entry| ContentHash::of(bytes) == entry.checksum));
        let Some(bytes) = sound else {
            self.fail(true, ctx);
            return;
        };
        restore.read.insert(path, bytes);
        self.fetch(ctx);
    }

    /// Opens the files of the owned groups. A task with the same groups as before goes on with the store that wrote them.
    fn fetched_all(&mut self, ctx: &mut Ctx<'_>) {
        let Some(restore) = self.restore.take() else {
            return;
        };
        let mut files = BTreeMap::new();
        for file in &self.deployment.keyed {
            let Some(store) = &file.store else { continue };
            for slice in &file.groups {
                let part = file_of(store, slice.group).expect("each group has a file");
                let range = part.offset as usize..(part.offset + part.length) as usize;
                let bytes = restore.read[&part.path][range].to_vec();
                assert_eq!(
                    ContentHash::of(&bytes),
                    part.checksum,
                    "the object is sound"
                );
                let states = decode_group(&bytes).expect("the checksum holds");
                self.state.insert(slice.group, states);
                files.insert(slice.group, (part.name.clone(), bytes));
            }
        }
        let max = MaxParallelism::try_new(KEY_GROUPS).expect("a dozen is in range");
        let range = max.range(self.id.subtask, Parallelism(self.agg_count()));
        let restored = self.deployment.restored;
        if let [only] = &self.deployment.keyed[..]
            && let Some(store) = &only.store
        {
            let named = store.parts.iter().map(|part| part.path.clone());
            let objects = named.map(|path| (path.clone(), self.deployment.files[&path]));
            let held = HeldFiles::new(store, objects.collect());
            if only.range != range {
                files.clear();
            }
            self.local.restored(restored, held, files);
        }
        self.life = Life::Verified;
        if source_of(&self.id).is_none() {
            ctx.fact(Fact::Restored(Box::new(self.restored())));
        }
        self.tell(FromTask::Verified, ctx);
    }

    /// What the task goes on with, for the oracles.
    fn restored(&self) -> Restored {
        let states = self.state.values().flatten();
        Restored {
            from: self.deployment.restored,
            subtask: self.id.subtask.0,
            parallelism: self.agg_count(),
            states: states.map(|(&key, state)| (key, state.clone())).collect(),
        }
    }
}
