//! R1 and R2 of a coordinator: what the store shows, checkpoint 0 of a first start, the takeover write, the manifest.

use std::collections::BTreeMap;

use highwater_protocol::head::{Head, HeadChange, ManifestRef};
use highwater_protocol::head_write::HeadKeeper;
use highwater_protocol::manifest::{
    HexBytes, Manifest, ManifestTitle, SinkState, SlotOutput, SnapshotKind, SourceState,
};
use highwater_protocol::paths::{ManifestName, manifest as manifest_path};
use highwater_protocol::recovery::{StartDecision, StartWish, StoreView, Takeover, decide_start};
use highwater_protocol::steps::Step;
use highwater_types::{CheckpointId, Epoch};

use super::{Coordinator, Phase, Purpose, Question, versioned};
use crate::codec::encode_position;
use crate::job::{SOURCES, identity, object, paths, uid};
use crate::node::{Ctx, JobState, What};
use crate::store::{Condition, StoreAnswer, StoreOp};

impl Coordinator {
    pub(super) fn head_found(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        match answer {
            StoreAnswer::Found(bytes, tag) => {
                let head = versioned(&bytes, tag);
                let epoch = head.head.epoch;
                if let Some(end) = head.head.ended
                    && ctx.shared.desired.goes_past != Some(epoch)
                {
                    // Nobody has started the job again since.
                    return self.over(epoch, end, ctx);
                }
                leader.keeper = HeadKeeper::new(Some(head.clone()));
                self.decide(
                    StoreView {
                        head: Some(head),
                        manifests: Vec::new(),
                    },
                    ctx,
                );
            }
            StoreAnswer::Absent => {
                leader.phase = Phase::Listing;
                let prefix = format!("{}/", paths().manifests());
                self.request(What::List, StoreOp::List { prefix }, ctx);
            }
            _ => {
                self.request(
                    What::Head,
                    StoreOp::Get {
                        path: paths().head(),
                    },
                    ctx,
                );
            }
        }
    }

    pub(super) fn listed(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let StoreAnswer::Listed(found) = answer else {
            let prefix = format!("{}/", paths().manifests());
            self.request(What::List, StoreOp::List { prefix }, ctx);
            return;
        };
        let names = found.iter().filter_map(|path| path.rsplit('/').next());
        let manifests = names.filter_map(ManifestName::parse).collect();
        self.decide(
            StoreView {
                head: None,
                manifests,
            },
            ctx,
        );
    }

    fn decide(&mut self, view: StoreView, ctx: &mut Ctx<'_>) {
        if let Some(folder) = ctx.shared.desired.savepoint.clone() {
            return self.read_savepoint(&folder, view, ctx);
        }
        match decide_start(&identity(), view, StartWish::Resume) {
            Ok(StartDecision::Begin { epoch }) => self.first_start(epoch, ctx),
            Ok(StartDecision::TakeOver(_)) => self.take_over(ctx),
            Ok(StartDecision::BeginAgain { .. }) => unreachable!("nobody asked for a new lineage"),
            Err(error) => {
                // A head that another candidate created between the read and the listing is read now.
                ctx.trace(|| format!("cannot start: {error}"));
                self.step_down(ctx);
            }
        }
    }

    pub(super) fn take_over(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        leader.phase = Phase::Writing;
        let slots = leader.shape.slot_counts();
        if ctx.reached(Step::R2) {
            self.begin(Purpose::TakeOver, &HeadChange::TakeOver { slots }, ctx);
        }
    }

    /// Checkpoint 0: the resolved source positions, before any record flows (schedule 17).
    fn first_start(&mut self, epoch: Epoch, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let id = CheckpointId { number: 0, epoch };
        let mut manifest = Manifest::new(ManifestTitle {
            identity: identity(),
            lineage: leader.nonces.draw_lineage(),
            id,
            kind: SnapshotKind::Checkpoint,
            parent: None,
            graph: leader.shape.graph,
        });
        for (at, source) in SOURCES.iter().enumerate() {
            let mut state = SourceState::default();
            for (index, split) in ctx.shared.workload.splits.iter().enumerate() {
                if split.source == at as u32 && split.appears <= ctx.now {
                    let position = ctx.shared.workload.available(index, ctx.now);
                    let bytes = HexBytes(encode_position(position));
                    state.splits.insert(split.name.clone(), bytes);
                }
            }
            manifest.sources.insert(uid(source), state);
        }
        for (sink, shape) in &leader.shape.sinks {
            let slots: BTreeMap<u32, SlotOutput> = (0..shape.slots)
                .map(|slot| (slot, SlotOutput::Empty))
                .collect();
            let state = SinkState {
                external: shape.external.clone(),
                from: 0,
                slots,
            };
            manifest.sinks.insert(sink.clone(), state);
        }
        leader.phase = Phase::StoringFirst;
        let name = ManifestName {
            epoch,
            number: 0,
            nonce: leader.nonces.draw(),
        };
        let (bytes, _) = manifest.encode();
        leader.written = Some(manifest);
        let path = object(&manifest_path(&name));
        leader.manifest_bytes = Some((0, path, bytes.into(), 0));
        self.put_manifest(ctx);
    }

    pub(super) fn put_manifest(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some((number, path, bytes, tries)) = &mut leader.manifest_bytes else {
            return;
        };
        *tries += 1;
        let (number, path, bytes) = (*number, path.clone(), std::rc::Rc::clone(bytes));
        let op = StoreOp::Put {
            path,
            bytes,
            condition: Condition::IfAbsent,
        };
        self.request(What::ManifestPut(number), op, ctx);
    }

    pub(super) fn first_stored(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(manifest) = &leader.written else {
            return;
        };
        let Some((_, path, ..)) = &leader.manifest_bytes else {
            return;
        };
        let name = path.rsplit('/').next().and_then(ManifestName::parse);
        let name = name.expect("the path was built from a name");
        let reference = ManifestRef {
            name,
            hash: manifest.encode().1,
        };
        let (lineage, slots) = (manifest.lineage, leader.shape.slot_counts());
        let nonce = leader.nonces.draw();
        let head = Head::first(identity(), lineage, reference, slots, nonce);
        leader.phase = Phase::Writing;
        if ctx.reached(Step::R2) {
            self.create(head, ctx);
        }
    }

    pub(super) fn load_manifest(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        leader.take_tries_back();
        leader.phase = Phase::Loading;
        let Some(head) = leader.keeper.settled() else {
            return;
        };
        let path = object(&manifest_path(&head.head.manifest.name));
        self.request(What::Manifest, StoreOp::Get { path }, ctx);
    }

    pub(super) fn manifest_found(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        let bytes = match answer {
            StoreAnswer::Found(bytes, _) => bytes,
            StoreAnswer::Absent => return self.ask(Question::Missing, ctx),
            _ => return self.load_manifest(ctx),
        };
        match Manifest::decode_named(&bytes, head.manifest.hash) {
            Ok(manifest) => {
                let manifest = leader.manifest.insert(manifest).clone();
                leader.take_shape(ctx.shared.desired.configured);
                // What is pending is confirmed by a recovery; the next leader goes back then.
                let takes = leader.taking.is_some() && !head.has_pending_output();
                if leader.purpose == Purpose::TakeOver && takes {
                    self.take_savepoint(ctx);
                } else if leader.purpose == Purpose::TakeOver {
                    let takeover = Takeover::start(&head, &manifest, &leader.shape);
                    let deadline = ctx.now + 300_000;
                    leader.phase = Phase::Adopting(Box::new(takeover), deadline);
                } else {
                    self.start_region(ctx);
                }
            }
            Err(error) => {
                ctx.violations
                    .push(format!("O7: the manifest in head cannot be read: {error}"));
                ctx.shared.job = JobState::Finished;
                self.step_down(ctx);
            }
        }
    }
}
