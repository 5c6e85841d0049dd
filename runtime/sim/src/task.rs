//! A task: the production alignment and sink slots around a small piece of dataflow.
//!
//! Called by the worker. A source reads its splits and cuts the stream with barriers; an aggregating task aligns them,
//! counts and sums per key, and feeds its sink slots. The driver does what a real worker does, in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use highwater_protocol::alignment::{Alignment, AlignmentEffect, AlignmentEvent, ChannelIndex};
use highwater_protocol::gate::Gate;
use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::{TaskId, TaskSnapshot};
use highwater_protocol::manifest::{FileEntry, HexBytes};
use highwater_protocol::mutant::{Mutant, planted};
use highwater_protocol::recovery::{AttemptReport, SlotDuty};
use highwater_protocol::sink_slot::{
    Claim, LogSource, MarkerKind, MarkerTopic, Position, SessionStep, SinkSlot, SlotConfig,
    SlotEffect, SlotEvent, SlotState,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::SlotKey;
use highwater_types::{AttemptId, CheckpointBarrier, CheckpointId, Epoch, KeyGroup, StopMode};

use crate::codec::encode_position;
use crate::job::{source_of, uid};
use crate::kafka::{KafkaAnswer, MARKER_TOPIC, Value};
use crate::node::{
    Ctx, Deployment, Element, FromTask, Message, NodeId, Tag, TaskReport, ToTask, What,
};
use crate::slot::{SlotDriver, SlotNews};
use crate::store::StoreAnswer;
use crate::workload::{InRecord, KeyState, apply, key_group, owner};

pub(crate) mod local;
mod snapshot;

use local::LocalStore;
use snapshot::{Restore, Snap};

const CHUNK: u64 = 4;

#[derive(Clone, Default)]
struct Input {
    queue: VecDeque<Element>,
    sequence: u64,
    watermark: i64,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Slots decide, nothing is open.
    Deployed,
    /// State is being fetched.
    Fetching,
    /// State is here and sound.
    Verified,
    /// State is open, records wait for the release.
    Opened,
    Running,
    /// Waits to be replaced.
    Failed {
        damaged: bool,
    },
}

#[derive(Clone)]
pub(crate) struct Task {
    id: TaskId,
    gate: Gate,
    leader: NodeId,
    deployment: Deployment,
    serial: u64,
    tokens: u64,
    life: Life,
    alignment: Alignment,
    history: BTreeSet<CheckpointId>,
    // A source.
    splits: BTreeMap<u32, u64>,
    suspended: bool,
    finished: Option<Box<TaskSnapshot>>,
    passed: Option<CheckpointId>,
    sent: BTreeMap<TaskId, u64>,
    // An aggregating task.
    inputs: BTreeMap<TaskId, Input>,
    state: BTreeMap<KeyGroup, BTreeMap<u32, KeyState>>,
    watermark: i64,
    slots: BTreeMap<SlotKey, SlotDriver>,
    extra: BTreeSet<SlotKey>,
    snap: Option<Snap>,
    restore: Option<Restore>,
    local: LocalStore,
    stalled: bool,
}

impl Task {
    pub(crate) fn deploy(
        id: TaskId,
        leader: (NodeId, Epoch, AttemptId),
        deployment: Deployment,
        serial: u64,
    ) -> Self {
        let (leader, epoch, attempt) = leader;
        let inputs = deployment.inputs.iter().cloned();
        let fresh = || Input {
            watermark: i64::MIN,
            ..Input::default()
        };
        Self {
            gate: Gate::new(epoch, attempt),
            leader,
            serial,
            tokens: 0,
            life: Life::Deployed,
            alignment: Alignment::new(deployment.inputs.len() as u32),
            history: BTreeSet::from([deployment.restored]),
            splits: deployment.splits.clone(),
            suspended: false,
            finished: None,
            passed: None,
            sent: BTreeMap::new(),
            inputs: inputs.map(|input| (input, fresh())).collect(),
            state: BTreeMap::new(),
            watermark: i64::MIN,
            slots: BTreeMap::new(),
            extra: BTreeSet::new(),
            snap: None,
            restore: None,
            local: LocalStore::new(deployment.restored),
            stalled: false,
            id,
            deployment,
        }
    }

    pub(crate) fn attempt(&self) -> AttemptId {
        self.gate.attempt()
    }

    pub(crate) fn admit(&mut self, from: NodeId, epoch: Epoch, attempt: AttemptId) -> bool {
        let admitted = self.gate.admit(epoch, attempt).is_admitted();
        if admitted {
            self.leader = from;
        }
        admitted
    }

    pub(crate) fn report(&self) -> TaskReport {
        let own = self
            .slots
            .iter()
            .filter(|(key, _)| !self.extra.contains(*key));
        let slots = own.map(|(key, slot)| (key.clone(), slot.machine().report()));
        let source = source_of(&self.id);
        let names = self
            .splits
            .keys()
            .map(|split| format!("split-{split}"))
            .collect();
        let report = AttemptReport {
            task: self.id.clone(),
            attempt: self.attempt(),
            epoch: self.gate.epoch(),
            shape: self.deployment.shape,
            running: self.life == Life::Running && !self.suspended,
            history: self.history.clone(),
            slots: slots.collect(),
            splits: source
                .map(|_| (self.id.vertex.clone(), names))
                .into_iter()
                .collect(),
            // Told apart, with what a task that has ended left.
            ended: false,
        };
        let voided = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot.machine().state(), SlotState::Voided { .. }));
        TaskReport {
            report,
            failed: match self.life {
                Life::Failed { damaged } => Some(damaged),
                _ => None,
            },
            verified: !matches!(
                self.life,
                Life::Deployed | Life::Fetching | Life::Failed { .. }
            ),
            opened: matches!(self.life, Life::Opened | Life::Running),
            ended: source.is_none() && self.inputs.values().all(|input| input.ended),
            stands_behind: self.passed.filter(|_| self.suspended),
            finished: self.finished.clone(),
            passed: self.passed,
            voided: voided.map(|(key, _)| key.clone()).collect(),
        }
    }

    fn tell(&self, body: FromTask, ctx: &mut Ctx<'_>) {
        let (task, attempt) = (self.id.clone(), self.attempt());
        ctx.send(
            self.leader,
            Message::FromTask {
                task,
                attempt,
                body,
            },
        );
    }

    fn fail(&mut self, damaged: bool, ctx: &mut Ctx<'_>) {
        if !matches!(self.life, Life::Failed { .. }) {
            ctx.trace(|| format!("{} fails, damaged {damaged}", self.id));
            self.life = Life::Failed { damaged };
            self.restore = None;
            self.tell(FromTask::Failed { damaged }, ctx);
        }
    }

    /// Ends the task; what its slots have open is given up, so that no reader waits for it.
    pub(crate) fn cancel(&mut self, ctx: &mut Ctx<'_>) {
        for slot in self.slots.values_mut() {
            slot.abort(ctx);
        }
    }

    pub(crate) fn broken(&mut self, ctx: &mut Ctx<'_>) {
        self.fail(false, ctx);
    }

    pub(crate) fn order(&mut self, body: ToTask, ctx: &mut Ctx<'_>) {
        match body {
            ToTask::StartSession(duty) => self.start_session(*duty, ctx),
            ToTask::VerifyAll => self.verify(ctx),
            ToTask::OpenAll => self.open(ctx),
            ToTask::Release => self.release(ctx),
            ToTask::Expect => self.expect(ctx),
            ToTask::Barrier(barrier) => self.triggered(barrier, ctx),
            ToTask::Decline(id) => self.declined(id, ctx),
            ToTask::Commit(slot, id) => self.slot_event(&slot, SlotEvent::Commit { id }, ctx),
            ToTask::Completed(id) => {
                self.local.completed(id);
                self.history.retain(|known| known.number >= id.number);
            }
            ToTask::Says(slot, authority) => {
                self.slot_event(&slot, SlotEvent::LeaderSays(authority), ctx);
            }
            ToTask::WriteVoid(slot, id) => self.slot_event(&slot, SlotEvent::WriteVoid { id }, ctx),
            ToTask::Assign { split, position } => {
                if self.finished.is_none() {
                    self.splits.entry(split).or_insert(position);
                }
            }
            ToTask::ResumeSources => self.suspended = false,
            ToTask::Hello => {}
            ToTask::Deploy(_) | ToTask::Cancel => unreachable!("the worker handles these"),
        }
    }

    fn start_session(&mut self, duty: SlotDuty, ctx: &mut Ctx<'_>) {
        if let Some(slot) = self.slots.get(&duty.slot) {
            let confirmed = slot.machine().report().confirmed >= duty.id.number;
            let again = match slot.machine().state() {
                SlotState::Session {
                    step: SessionStep::Missing,
                    ..
                } => FromTask::Examined(duty.slot, None),
                SlotState::Session {
                    step: SessionStep::Visible,
                    ..
                } => FromTask::Examined(duty.slot, Some(MarkerKind::Output)),
                SlotState::Voided { .. } => FromTask::Void(duty.slot),
                _ if confirmed => FromTask::Confirmed(duty.slot, duty.id.number),
                _ => return,
            };
            return self.tell(again, ctx);
        }
        if !self.deployment.slots.contains_key(&duty.slot) {
            self.extra.insert(duty.slot.clone());
        }
        if !ctx.enters_session() {
            return;
        }
        let claim = Claim {
            id: duty.id,
            upto: Position::default(),
            from: duty.from,
            source: LogSource::Stored(duty.log),
            purpose: duty.purpose,
        };
        let config = Self::config(duty.slot.clone(), duty.from, ctx);
        let (machine, effects) = SinkSlot::recover(config, claim);
        self.add_slot(&duty.slot, machine, effects, ctx);
    }

    fn config(key: SlotKey, from: u64, ctx: &Ctx<'_>) -> SlotConfig {
        let markers = MarkerTopic {
            id: MARKER_TOPIC.to_owned(),
            from,
        };
        SlotConfig {
            key,
            markers,
            spool_bytes_max: ctx.shared.spool_bytes,
        }
    }

    fn add_slot(
        &mut self,
        key: &SlotKey,
        machine: SinkSlot,
        effects: Vec<SlotEffect>,
        ctx: &mut Ctx<'_>,
    ) {
        self.tokens += 1;
        let owner = (self.id.clone(), self.serial << 12 | self.tokens);
        let lineage = self.deployment.lineage;
        let (driver, news) = SlotDriver::new(lineage, owner, machine, effects, ctx);
        self.slots.insert(key.clone(), driver);
        self.news(key, news, ctx);
    }

    fn release(&mut self, ctx: &mut Ctx<'_>) {
        if self.life != Life::Opened {
            return;
        }
        if !ctx.reached(Step::R7) {
            return;
        }
        self.life = Life::Running;
        let own: Vec<SlotKey> = self.deployment.slots.keys().cloned().collect();
        for key in own {
            self.slot_event(&key, SlotEvent::Released, ctx);
        }
        self.drain(ctx);
    }

    fn declined(&mut self, id: CheckpointId, ctx: &mut Ctx<'_>) {
        let effects = self.alignment.step(AlignmentEvent::Cancelled { id });
        if self.snap.as_ref().is_some_and(|snap| snap.id() == id) {
            self.snap = None;
        }
        self.local.declined(id);
        let keys: Vec<SlotKey> = self.slots.keys().cloned().collect();
        for key in keys {
            self.slot_event(&key, SlotEvent::Declined { id }, ctx);
        }
        self.aligned(effects, ctx);
        self.drain(ctx);
    }

    /// Barriers are on their way: full spools let pass what stands before them.
    fn expect(&mut self, ctx: &mut Ctx<'_>) {
        let keys: Vec<SlotKey> = self.deployment.slots.keys().cloned().collect();
        for key in keys {
            self.slot_event(&key, SlotEvent::Expected, ctx);
        }
        self.drain(ctx);
    }

    fn triggered(&mut self, barrier: CheckpointBarrier, ctx: &mut Ctx<'_>) {
        if self.life != Life::Running {
            return;
        }
        if self.finished.is_some() {
            return;
        }
        if !ctx.reached(Step::P3) {
            return;
        }
        let effects = self.alignment.step(AlignmentEvent::Triggered { barrier });
        self.aligned(effects, ctx);
        self.drain(ctx);
    }

    fn aligned(&mut self, effects: Vec<AlignmentEffect>, ctx: &mut Ctx<'_>) {
        for effect in effects {
            if let AlignmentEffect::Snapshot(barrier) = effect {
                if !ctx.reached(Step::P4) {
                    return;
                }
                self.take_snapshot(barrier, ctx);
            }
        }
    }

    fn take_snapshot(&mut self, barrier: CheckpointBarrier, ctx: &mut Ctx<'_>) {
        ctx.trace(|| format!("{} snapshots {} at {:?}", self.id, barrier.id, self.splits));
        if source_of(&self.id).is_some() {
            if barrier.kind.stop_mode() == Some(StopMode::Drain) {
                self.emit_all(&Element::Watermark(i64::MAX), ctx);
            }
            if barrier.kind.stop_mode().is_some() {
                self.suspended = true;
            }
            let snapshot = self.positions();
            self.history.insert(barrier.id);
            self.passed = Some(barrier.id);
            self.emit_all(&Element::Barrier(barrier), ctx);
            if ctx.reached(Step::P6) {
                self.tell(FromTask::Acked(barrier.id, Box::new(snapshot)), ctx);
            }
            return;
        }
        self.start_snapshot(barrier.id, ctx);
        let keys: Vec<SlotKey> = self.deployment.slots.keys().cloned().collect();
        for key in keys {
            self.slot_event(&key, SlotEvent::Barrier(barrier.id), ctx);
        }
        self.finish_snapshot(ctx);
    }

    fn positions(&self) -> TaskSnapshot {
        let splits = self
            .splits
            .iter()
            .map(|(split, &offset)| (format!("split-{split}"), HexBytes(encode_position(offset))));
        TaskSnapshot {
            splits: BTreeMap::from([(self.id.vertex.clone(), splits.collect())]),
            ..TaskSnapshot::default()
        }
    }

    pub(crate) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        let keys: Vec<SlotKey> = self.slots.keys().cloned().collect();
        for key in keys {
            let news = self
                .slots
                .get_mut(&key)
                .map(|slot| slot.tick(ctx))
                .unwrap_or_default();
            self.news(&key, news, ctx);
        }
        if self.life == Life::Running && source_of(&self.id).is_some() && self.finished.is_none() {
            self.read(ctx);
        }
    }

    /// Reads what is there, a chunk from each split.
    fn read(&mut self, ctx: &mut Ctx<'_>) {
        if self.suspended {
            return;
        }
        let mut watermark = i64::MAX;
        let mut batches: BTreeMap<TaskId, Vec<InRecord>> = BTreeMap::new();
        let outputs = self.deployment.outputs.clone();
        for (&split, position) in &mut self.splits {
            let workload = &ctx.shared.workload;
            let records = &workload.splits[split as usize].records;
            let end = workload
                .available(split as usize, ctx.now)
                .min(*position + CHUNK);
            for record in &records[*position as usize..end as usize] {
                let owner = owner(record.key, outputs.len() as u32);
                batches
                    .entry(outputs[owner as usize].clone())
                    .or_default()
                    .push(*record);
            }
            *position = end.max(*position);
            if *position < records.len() as u64 {
                let passed = *position as usize;
                watermark = watermark.min(if passed == 0 {
                    i64::MIN
                } else {
                    records[passed - 1].time
                });
            }
        }
        for (to, records) in batches {
            self.emit(&to, Element::Records(records), ctx);
        }
        if watermark > i64::MIN {
            self.emit_all(&Element::Watermark(watermark), ctx);
        }
        if watermark == i64::MAX && ctx.shared.bounded {
            self.emit_all(&Element::End, ctx);
            self.finished = Some(Box::new(self.positions()));
        }
    }

    fn emit_all(&mut self, element: &Element, ctx: &mut Ctx<'_>) {
        for to in self.deployment.outputs.clone() {
            self.emit(&to, element.clone(), ctx);
        }
    }

    fn emit(&mut self, to: &TaskId, element: Element, ctx: &mut Ctx<'_>) {
        let sequence = self.sent.entry(to.clone()).or_default();
        *sequence += 1;
        let message = Message::Data {
            from: self.id.clone(),
            to: to.clone(),
            attempt: self.gate.attempt(),
            sequence: *sequence,
            element,
        };
        ctx.send(self.deployment.placements[to], message);
    }

    pub(crate) fn data(
        &mut self,
        from: &TaskId,
        sequence: u64,
        element: Element,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(input) = self.inputs.get_mut(from) else {
            return;
        };
        if sequence <= input.sequence {
            return;
        }
        if sequence > input.sequence + 1 {
            // A connection broke: what it carried is lost, so is the attempt.
            self.fail(false, ctx);
            return;
        }
        ctx.trace(|| format!("{} gets {sequence} of {from}: {element:?}", self.id));
        input.sequence = sequence;
        input.queue.push_back(element);
        self.drain(ctx);
    }

    /// Takes elements from channels that are not held, while the slots take output.
    fn drain(&mut self, ctx: &mut Ctx<'_>) {
        if self.life != Life::Running {
            return;
        }
        loop {
            if self.slots.values().any(|slot| slot.holding) {
                self.stalled = true;
                return;
            }
            let alignment = &self.alignment;
            let mut channels = self.inputs.iter_mut().enumerate();
            let next = channels.find_map(|(at, (from, input))| {
                let channel = ChannelIndex(at as u32);
                let held = alignment.is_held(channel) && !planted(Mutant::AlignmentDropsHold);
                if held {
                    return None;
                }
                input
                    .queue
                    .pop_front()
                    .map(|element| (channel, from.clone(), element))
            });
            let Some((channel, from, element)) = next else {
                return;
            };
            self.take(channel, &from, element, ctx);
            if ctx.stopped.is_some() || self.life != Life::Running {
                return;
            }
        }
    }

    fn take(&mut self, channel: ChannelIndex, from: &TaskId, element: Element, ctx: &mut Ctx<'_>) {
        match element {
            Element::Records(records) => {
                for record in records {
                    self.count(&record, ctx);
                }
            }
            Element::Watermark(watermark) => {
                let input = self.inputs.get_mut(from).expect("only inputs deliver");
                input.watermark = input.watermark.max(watermark);
                self.advance(ctx);
            }
            Element::Barrier(barrier) => {
                if planted(Mutant::AlignmentDropsHold) && self.alignment.is_held(channel) {
                    return;
                }
                let effects = self
                    .alignment
                    .step(AlignmentEvent::Barrier { channel, barrier });
                self.aligned(effects, ctx);
            }
            Element::End => {
                let input = self.inputs.get_mut(from).expect("only inputs deliver");
                input.ended = true;
                input.watermark = i64::MAX;
                let effects = self.alignment.step(AlignmentEvent::Ended { channel });
                self.advance(ctx);
                self.aligned(effects, ctx);
            }
        }
    }

    fn count(&mut self, record: &InRecord, ctx: &mut Ctx<'_>) {
        let group = key_group(record.key);
        let state = self
            .state
            .entry(group)
            .or_default()
            .entry(record.key)
            .or_default();
        if state.count > 0 && record.seq != state.seq + 1 {
            let (key, seq, last) = (record.key, record.seq, state.seq);
            ctx.violations
                .push(format!("O4: key {key} got record {seq} after {last}"));
        }
        let value = apply(state, record);
        self.output("x", value, ctx);
    }

    fn advance(&mut self, ctx: &mut Ctx<'_>) {
        let lowest = self.inputs.values().map(|input| input.watermark).min();
        self.watermark = self.watermark.max(lowest.unwrap_or(i64::MIN));
        let mut fired = Vec::new();
        for states in self.state.values_mut() {
            for (&key, state) in states {
                while let Some(timer) = state.timers.first_entry()
                    && *timer.key() <= self.watermark
                {
                    let (due, offset) = timer.remove_entry();
                    fired.push(Value::Timer {
                        split: state.split,
                        offset,
                        key,
                        due,
                    });
                }
            }
        }
        for value in fired {
            self.output("y", value, ctx);
        }
    }

    fn output(&mut self, sink: &str, value: Value, ctx: &mut Ctx<'_>) {
        let key = SlotKey {
            sink: uid(sink),
            slot: self.id.subtask.0,
        };
        let news = match self.slots.get_mut(&key) {
            Some(slot) => slot.emit(value, ctx),
            None => unreachable!("the slots of a running task exist"),
        };
        self.news(&key, news, ctx);
    }

    fn slot_event(&mut self, key: &SlotKey, event: SlotEvent, ctx: &mut Ctx<'_>) {
        let news = self
            .slots
            .get_mut(key)
            .map(|slot| slot.event(event, ctx))
            .unwrap_or_default();
        self.news(key, news, ctx);
    }

    pub(crate) fn slot_kafka(
        &mut self,
        key: &SlotKey,
        token: u64,
        answer: KafkaAnswer,
        ctx: &mut Ctx<'_>,
    ) {
        let slot = self.slots.get_mut(key);
        let news = slot
            .map(|slot| slot.kafka_answer(token, Some(answer), ctx))
            .unwrap_or_default();
        self.news(key, news, ctx);
    }

    pub(crate) fn slot_timeout(&mut self, key: &SlotKey, token: u64, ctx: &mut Ctx<'_>) {
        let slot = self.slots.get_mut(key);
        let news = slot
            .map(|slot| slot.timed_out(token, ctx))
            .unwrap_or_default();
        self.news(key, news, ctx);
    }

    pub(crate) fn slot_log(
        &mut self,
        key: &SlotKey,
        token: u64,
        answer: Option<StoreAnswer>,
        ctx: &mut Ctx<'_>,
    ) {
        let slot = self.slots.get_mut(key);
        let news = slot
            .map(|slot| slot.log_answer(token, answer, ctx))
            .unwrap_or_default();
        self.news(key, news, ctx);
    }

    fn news(&mut self, key: &SlotKey, news: Vec<SlotNews>, ctx: &mut Ctx<'_>) {
        for item in news {
            match item {
                SlotNews::Acked(id, output, seen) => {
                    self.slot_acked(key, id, (output, seen), ctx);
                }
                SlotNews::Declined(id) => {
                    self.tell(
                        FromTask::Refused(id, "the log cannot be stored".to_owned()),
                        ctx,
                    );
                }
                SlotNews::Ask => self.tell(FromTask::Ask(key.clone()), ctx),
                SlotNews::Confirmed(id) => {
                    self.tell(FromTask::Confirmed(key.clone(), id.number), ctx);
                }
                SlotNews::Void => self.tell(FromTask::Void(key.clone()), ctx),
                SlotNews::Examined(found) => self.tell(FromTask::Examined(key.clone(), found), ctx),
                SlotNews::EndAttempt => self.fail(false, ctx),
                SlotNews::Stopped(stop) => {
                    ctx.trace(|| format!("{key} stops: {stop}"));
                    self.tell(FromTask::Stopped(stop), ctx);
                }
            }
        }
        if self.stalled && self.slots.values().all(|slot| !slot.holding) {
            // Room again: drained by a timer of its own, since this may run inside of a drain.
            self.stalled = false;
            ctx.timer(
                500,
                Tag {
                    token: 0,
                    what: What::StateFile(self.id.clone()),
                },
            );
        }
    }
}

/// The entry of bytes in a manifest.
fn entry(bytes: &[u8]) -> FileEntry {
    FileEntry {
        length: bytes.len() as u64,
        checksum: ContentHash::of(bytes),
    }
}
