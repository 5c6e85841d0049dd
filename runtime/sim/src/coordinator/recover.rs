//! Regions and going back of a coordinator: R3 to R7, and what happens when the newest checkpoint cannot be used.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::checkpoint::{CheckpointCoordinator, CheckpointEvent, CheckpointSettings};
use highwater_protocol::head::{Head, HeadChange};
use highwater_protocol::job::TaskId;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::mutant::{Mutant, planted};
use highwater_protocol::paths::manifest as manifest_path;
use highwater_protocol::recovery::{
    Adoption, Fault, GoingBack, GoingBackEffect, GoingBackEvent, GoingBackPlan, RegionEffect,
    RegionEvent, RegionRecovery, RestoreOptions, TakeoverDecision, UnmatchedState, assign,
    check_restore, return_of,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, Parallelism, SubtaskIndex};

use super::{Coordinator, Leadership, Phase, Purpose, Question, REQUEST_TIMEOUT, SILENCE};
use crate::codec::decode_position;
use crate::job::{Scale, agg_task, object, source_of, source_tasks, uid};
use crate::kafka::{KafkaAnswer, KafkaOp};
use crate::node::{Act, Ctx, Deployment, Fact, Message, NodeId, Tag, ToTask, What};
use crate::store::{StoreAnswer, StoreOp};

pub(super) const SETTINGS: CheckpointSettings = CheckpointSettings {
    interval_ms: 120,
    min_pause_ms: 30,
    timeout_ms: 500,
    commit_retry_ms: 100,
    failures_max: None,
};

impl Leadership {
    /// Ends the machine that has the tries of this leadership.
    pub(super) fn take_tries_back(&mut self) {
        if let Some(machine) = self.checkpoints.take() {
            self.tries = Some(machine.into_tries());
        }
        self.end_detour();
    }

    /// The same if that machine goes back.
    fn end_detour(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Loading) {
            Phase::GoingBack(machine, ..) => self.tries = Some(machine.into_tries()),
            phase => self.phase = phase,
        }
    }
}

impl Coordinator {
    pub(super) fn takeover_decided(&mut self, decision: TakeoverDecision, ctx: &mut Ctx<'_>) {
        match decision {
            TakeoverDecision::Restart => self.start_region(ctx),
            TakeoverDecision::Adopt(adoption) => self.adopt(*adoption, ctx),
        }
    }

    fn adopt(&mut self, adoption: Adoption, ctx: &mut Ctx<'_>) {
        ctx.trace(|| format!("adopts {:?}", adoption.attempts.values().next()));
        ctx.shared.adoptions += 1;
        let Some(leader) = self.leader() else { return };
        leader.attempt = adoption.attempts.values().next().copied();
        let newest = leader.attempt.map_or(leader.next_attempt, AttemptId::next);
        leader.next_attempt = leader.next_attempt.max(newest);
        let assigned = adoption.splits.values().flatten();
        let assigned =
            assigned.map(|(name, task)| (ctx.shared.workload.index(name) as u32, task.clone()));
        leader.assigned = assigned.collect();
        self.begins(ctx);
        self.run(adoption.unconfirmed, ctx);
        for (slot, held) in adoption.declines {
            let holder = self
                .leader()
                .and_then(|leader| leader.shape.holder(&slot).cloned());
            if let Some(task) = holder {
                self.tell(&task, ToTask::Decline(held), ctx);
            }
        }
    }

    /// All tasks run: checkpoints begin.
    fn run(&mut self, unconfirmed: BTreeSet<SlotKey>, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        let (Some(manifest), Some(attempt)) = (&leader.manifest, leader.attempt) else {
            return;
        };
        let shape = leader.shape.clone();
        let attempts = shape
            .tasks
            .keys()
            .map(|task| (task.clone(), attempt))
            .collect();
        if let Some(machine) = &mut leader.checkpoints {
            machine.recovered();
        } else {
            let current = leader.current(manifest);
            let tries = leader
                .tries
                .take()
                .expect("one machine at a time has the tries");
            let machine = CheckpointCoordinator::new(SETTINGS, shape, head, &current, tries);
            leader.checkpoints = Some(machine.with_unconfirmed(unconfirmed));
        }
        leader.phase = Phase::Running;
        leader.suspends = false;
        for waiting in std::mem::take(&mut leader.held) {
            self.checkpoint_event(CheckpointEvent::Request(waiting), ctx);
        }
        self.checkpoint_event(CheckpointEvent::TasksRunning { attempts }, ctx);
        self.redeployed(ctx);
    }

    /// Starts all tasks again from `head` as a new attempt, as wide as its manifest and the settings say.
    pub(super) fn start_region(&mut self, ctx: &mut Ctx<'_>) {
        let alive: Vec<NodeId> = self.alive(ctx);
        let Some(leader) = self.leader() else { return };
        leader.end_detour();
        leader.phase = Phase::WaitingForWorkers;
        leader.restart = false;
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        leader.take_shape(ctx.shared.desired.configured);
        leader.export = None;
        let slots = leader.shape.slot_counts();
        let raised = slots
            .iter()
            .all(|(sink, count)| head.slots.get(sink) >= Some(count));
        // Those of a rescale were raised by the write that completed it.
        let is_configured = leader.scale == leader.configured;
        if is_configured && !raised && !planted(Mutant::SlotsForgotten) {
            leader.phase = Phase::Writing;
            self.begin(Purpose::Raise, &HeadChange::RaiseSlots { slots }, ctx);
            return;
        }
        if alive.is_empty() {
            return;
        }
        self.cancel_all(&alive, ctx);
        let leaving = &ctx.shared.desired.leaving;
        let staying = alive.into_iter().filter(|node| !leaving.contains_key(node));
        let staying: Vec<NodeId> = staying.collect();
        if !staying.is_empty() {
            self.begin_attempt(&head, &staying, ctx);
        }
    }

    fn begin_attempt(&mut self, head: &Head, nodes: &[NodeId], ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(manifest) = leader.manifest.clone() else {
            return;
        };
        let options = RestoreOptions {
            unmatched: UnmatchedState::Refuse,
            readable: BTreeSet::new(),
        };
        if let Err(refusals) = check_restore(&manifest, head.confirmed, &leader.shape, &options) {
            ctx.violations
                .push(format!("O7: restore refused: {}", refusals[0]));
        }
        leader.attempt = Some(leader.next_attempt);
        leader.next_attempt = leader.next_attempt.next();
        let first = ctx.rng.next() as usize;
        let tasks = leader.shape.tasks.keys().cloned().enumerate();
        leader.placements = tasks
            .map(|(at, task)| (task, nodes[(first + at) % nodes.len()]))
            .collect();
        ctx.trace(|| {
            format!(
                "starts attempt {:?} from {} at {:?}",
                leader.attempt, manifest.id, leader.scale
            )
        });
        ctx.shared.restores += 1;
        let (region, effects) =
            RegionRecovery::start(head, &manifest, &leader.shape, &BTreeSet::new());
        leader.phase = Phase::Recovering(Box::new(region), ctx.now);
        leader.assigned.clear();
        leader.seen.clear();
        for (source, state) in &manifest.sources {
            let shares = assign::splits(&state.splits, Parallelism(leader.scale.readers));
            for (subtask, share) in (0..).map(SubtaskIndex).zip(shares) {
                for name in share.keys() {
                    let split = ctx.shared.workload.index(name) as u32;
                    let vertex = source.clone();
                    leader.assigned.insert(split, TaskId { vertex, subtask });
                }
            }
        }
        let tasks: Vec<TaskId> = leader.placements.keys().cloned().collect();
        self.begins(ctx);
        for task in tasks {
            self.deploy(&task, ctx);
        }
        self.region_effects(effects, ctx);
    }

    /// Tells the oracles of an attempt that begins, or is gone on with.
    fn begins(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let act = Act::Begins {
            configured: leader.configured,
            scale: leader.scale,
        };
        ctx.fact(Fact::Leader(leader.epoch, act));
    }

    fn cancel_all(&mut self, alive: &[NodeId], ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let (epoch, old) = (leader.epoch, std::mem::take(&mut leader.placements));
        let Some(attempt) = leader.attempt else {
            return;
        };
        for (task, to) in old {
            if alive.contains(&to) {
                ctx.send(
                    to,
                    Message::ToTask {
                        epoch,
                        attempt,
                        task,
                        body: ToTask::Cancel,
                    },
                );
            }
        }
    }

    pub(super) fn alive(&self, ctx: &Ctx<'_>) -> Vec<NodeId> {
        let heard = self.heard.iter().filter(|(_, at)| **at + SILENCE > ctx.now);
        heard.map(|(node, _)| *node).collect()
    }

    pub(super) fn deploy(&mut self, task: &TaskId, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(manifest) = &leader.manifest else {
            return;
        };
        let Scale {
            parallelism,
            readers,
        } = leader.scale;
        let sources: Vec<TaskId> = source_tasks(readers).collect();
        let workers: Vec<TaskId> = (0..parallelism).map(agg_task).collect();
        let mut deployment = Deployment {
            lineage: manifest.lineage,
            shape: leader.shape.fingerprint(),
            restored: manifest.id,
            placements: leader.placements.clone(),
            splits: BTreeMap::new(),
            keyed: Vec::new(),
            files: manifest.files.clone(),
            slots: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        if source_of(task).is_some() {
            deployment.outputs = workers;
            if let Some(state) = manifest.sources.get(&task.vertex) {
                let shares = assign::splits(&state.splits, Parallelism(readers));
                let at = task.subtask.0 as usize;
                for (name, position) in &shares[at] {
                    let split = ctx.shared.workload.index(name);
                    let again = planted(Mutant::PositionsResolvedAgain) && manifest.id.number == 0;
                    let position = decode_position(&position.0);
                    let resolved = ctx.shared.workload.available(split, ctx.now);
                    deployment
                        .splits
                        .insert(split as u32, if again { resolved } else { position });
                }
            }
        } else {
            deployment.inputs = sources;
            let at = task.subtask.0 as usize;
            if let Some(state) = manifest.operators.get(&uid("agg")) {
                deployment.keyed = assign::keyed(state, Parallelism(parallelism))
                    .swap_remove(at)
                    .files;
            }
            for slot in leader.shape.tasks[task].slots.clone() {
                let from = manifest.sinks.get(&slot.sink).map_or(0, |sink| sink.from);
                deployment.slots.insert(slot, from);
            }
        }
        self.tell(task, ToTask::Deploy(Box::new(deployment)), ctx);
    }

    pub(super) fn region_event(&mut self, event: RegionEvent, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Phase::Recovering(region, _) = &mut leader.phase else {
            return;
        };
        let effects = region.step(event);
        self.region_effects(effects, ctx);
    }

    fn region_effects(&mut self, effects: Vec<RegionEffect>, ctx: &mut Ctx<'_>) {
        for effect in effects {
            match effect {
                RegionEffect::Free(slot) => self.free(slot, ctx),
                RegionEffect::VerifyAll => self.tell_all(&ToTask::VerifyAll, ctx),
                RegionEffect::StartSession(duty) => {
                    let task = duty.task.clone();
                    self.tell(&task, ToTask::StartSession(Box::new(duty)), ctx);
                }
                RegionEffect::OpenAll => self.tell_all(&ToTask::OpenAll, ctx),
                RegionEffect::Release => {
                    if ctx.reached(Step::R7) {
                        self.tell_all(&ToTask::Release, ctx);
                        self.run(BTreeSet::new(), ctx);
                    }
                }
                RegionEffect::GoBack => self.ask(Question::GoBack, ctx),
            }
        }
    }

    /// Opens a session on a slot's id, only to decide what is open there.
    pub(super) fn free(&mut self, slot: SlotKey, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leadership.as_deref() else {
            return;
        };
        let Some(manifest) = &leader.manifest else {
            return;
        };
        if !matches!(leader.phase, Phase::Recovering(..)) || !ctx.reached(Step::R3) {
            return;
        }
        let tid = format!("hw.{}.{}.{}", manifest.lineage, slot.sink, slot.slot);
        self.tokens += 1;
        let tag = Tag {
            token: self.tokens,
            what: What::Free(slot),
        };
        self.outstanding.insert(tag.token);
        ctx.kafka(tag.clone(), KafkaOp::Init { tid });
        ctx.timer(REQUEST_TIMEOUT, tag);
    }

    pub(super) fn freed(&mut self, tag: &Tag, answer: &KafkaAnswer, ctx: &mut Ctx<'_>) {
        let What::Free(slot) = &tag.what else { return };
        if let KafkaAnswer::Opened(_) = answer {
            self.region_event(RegionEvent::Freed(slot.clone()), ctx);
            return;
        }
        // Asked again by the timeout, a little later.
        self.outstanding.insert(tag.token);
        ctx.timer(10_000, tag.clone());
    }

    pub(super) fn go_back(&mut self, ctx: &mut Ctx<'_>) {
        self.drop_requests(ctx);
        let Some(leader) = self.leader() else { return };
        leader.phase = Phase::LoadingTarget;
        let settled = leader.keeper.settled();
        let parent = settled.and_then(|value| return_of(&value.head, leader.manifest.as_ref()));
        let Some(parent) = parent else {
            let number = leader
                .manifest
                .as_ref()
                .map_or(0, |manifest| manifest.id.number);
            return self.stop_asked(NamedStop::StateDamaged { number }, ctx);
        };
        let path = object(&manifest_path(&parent.name));
        self.request(What::TargetManifest, StoreOp::Get { path }, ctx);
    }

    pub(super) fn target_found(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(current) = leader.manifest.clone() else {
            return;
        };
        let settled = leader.keeper.settled();
        let parent = settled.and_then(|value| return_of(&value.head, Some(&current)));
        let Some(parent) = parent else { return };
        let found = match answer {
            StoreAnswer::Found(bytes, _) => Manifest::decode_named(&bytes, parent.hash).ok(),
            StoreAnswer::Absent => None,
            _ => return self.go_back(ctx),
        };
        let Some(target) = found else {
            let number = current.id.number;
            return self.stop_asked(NamedStop::StateDamaged { number }, ctx);
        };
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        ctx.trace(|| format!("goes back from {} to {}", head.number, target.id));
        let plan = GoingBackPlan {
            head,
            target: (parent, target),
            given_up: Some(current),
            fault: Fault::State,
        };
        let tries = leader
            .tries
            .take()
            .expect("one machine at a time has the tries");
        let (machine, effects) = GoingBack::forced(plan, &leader.shape, tries);
        leader.phase = Phase::GoingBack(Box::new(machine), Vec::new(), ctx.now);
        self.going_back_effects(effects, ctx);
    }

    pub(super) fn going_back_event(&mut self, event: &GoingBackEvent, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Phase::GoingBack(machine, ..) = &mut leader.phase else {
            return;
        };
        let effects = machine.step(event);
        self.going_back_effects(effects, ctx);
    }

    pub(super) fn going_back_effects(&mut self, effects: Vec<GoingBackEffect>, ctx: &mut Ctx<'_>) {
        for effect in effects {
            match effect {
                GoingBackEffect::Examine(duty) => {
                    let Some(leader) = self.leader() else { return };
                    if let Phase::GoingBack(_, duties, _) = &mut leader.phase {
                        duties.push(duty.clone());
                    }
                    let task = duty.task.clone();
                    self.tell(&task, ToTask::StartSession(Box::new(duty)), ctx);
                }
                GoingBackEffect::MakeChoice(change) => self.begin(Purpose::GiveUp, &change, ctx),
                GoingBackEffect::WriteVoid { slot, id } => {
                    let Some(leader) = self.leader() else { return };
                    let Phase::GoingBack(_, duties, _) = &leader.phase else {
                        return;
                    };
                    let task = duties.iter().find(|duty| duty.slot == slot);
                    if let Some(task) = task.map(|duty| duty.task.clone()) {
                        self.tell(&task, ToTask::WriteVoid(slot, id), ctx);
                    }
                }
                GoingBackEffect::WriteManifest { name, bytes, .. } => {
                    let Some(leader) = self.leader() else { return };
                    let path = object(&manifest_path(&name));
                    leader.manifest_bytes = Some((name.number, path, bytes.into(), 0));
                    self.put_manifest(ctx);
                }
                GoingBackEffect::WriteHead(change) => {
                    ctx.shared.rebased += 1;
                    self.begin(Purpose::Rebase, &change, ctx);
                }
                GoingBackEffect::Recover => unreachable!("state is damaged here, never only a log"),
                GoingBackEffect::Stop(stop) => self.stop_asked(stop, ctx),
            }
        }
    }

    /// A stop counts only if this leader still owns the epoch.
    pub(super) fn stop_asked(&mut self, stop: NamedStop, ctx: &mut Ctx<'_>) {
        self.ask(Question::Stop(stop), ctx);
    }
}
