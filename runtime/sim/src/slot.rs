//! The driver of one sink slot: performs the effects of the production machine against the simulated broker and store.
//!
//! Called by the worker. Holds the spool's values and one queue of requests, one of them on its way, as a transactional
//! producer does. It decides nothing: it reports every result with the session that it belongs to.

use std::collections::VecDeque;

use highwater_protocol::hash::ContentHash;
use highwater_protocol::head_write::Authority;
use highwater_protocol::job::TaskId;
use highwater_protocol::manifest::{FileEntry, LogObject, SlotOutput};
use highwater_protocol::mutant::{Mutant, planted};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::sink_log;
use highwater_protocol::sink_slot::{
    EndAnswer, LogSource, MarkerKind, RecordRange, SessionNumber, SinkSlot, SlotEffect, SlotEvent,
    SlotState,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{CheckpointId, Lineage};

use crate::codec::{decode_log, encode_log};
use crate::job::object;
use crate::kafka::{KafkaAnswer, KafkaOp, MARKERS, Producer, Value};
use crate::node::{Ctx, Micros, Tag, What};
use crate::store::{Condition, StoreAnswer, StoreOp};

const REQUEST_TIMEOUT: Micros = 150_000;
const RETRY: Micros = 20_000;
const VALUE_BYTES: u64 = 48;

#[derive(Clone, Debug)]
enum Op {
    Init,
    Produce(Vec<(usize, Value)>),
    Flush,
    Fetch(Vec<LogObject>, Vec<Value>),
    PlainMarker(Value),
    End,
    Sync,
    Read(u64),
}

/// What a slot tells its task.
pub(crate) enum SlotNews {
    Acked(CheckpointId, SlotOutput, u64),
    Declined(CheckpointId),
    Ask,
    Confirmed(CheckpointId),
    Void,
    Examined(Option<MarkerKind>),
    EndAttempt,
    Stopped(NamedStop),
}

#[derive(Clone)]
struct StoringLog {
    id: CheckpointId,
    object: LogObject,
    bytes: std::rc::Rc<[u8]>,
    tries: u32,
    token: u64,
}

#[derive(Clone)]
pub(crate) struct SlotDriver {
    machine: SinkSlot,
    task: TaskId,
    serial: u64,
    tid: String,
    spool: VecDeque<Value>,
    spool_base: u64,
    session: SessionNumber,
    producer: Option<Producer>,
    queue: VecDeque<Op>,
    busy: Option<u64>,
    began: Option<Micros>,
    sync_offset: u64,
    storing: Option<StoringLog>,
    tokens: u64,
    retry: Option<u64>,
    asked: Micros,
    pub(crate) holding: bool,
}

impl SlotDriver {
    pub(crate) fn new(
        lineage: Lineage,
        owner: (TaskId, u64),
        machine: SinkSlot,
        effects: Vec<SlotEffect>,
        ctx: &mut Ctx<'_>,
    ) -> (Self, Vec<SlotNews>) {
        let key = machine.key();
        let tid = format!("hw.{lineage}.{}.{}", key.sink, key.slot);
        let mut driver = Self {
            machine,
            task: owner.0,
            serial: owner.1,
            tid,
            spool: VecDeque::new(),
            spool_base: 0,
            session: SessionNumber(0),
            producer: None,
            queue: VecDeque::new(),
            busy: None,
            began: None,
            sync_offset: 0,
            storing: None,
            tokens: 0,
            retry: None,
            asked: 0,
            holding: false,
        };
        let mut news = Vec::new();
        driver.perform(effects, ctx, &mut news);
        (driver, news)
    }

    pub(crate) fn machine(&self) -> &SinkSlot {
        &self.machine
    }

    pub(crate) fn emit(&mut self, value: Value, ctx: &mut Ctx<'_>) -> Vec<SlotNews> {
        self.spool.push_back(value);
        self.event(
            SlotEvent::Output {
                records: 1,
                bytes: VALUE_BYTES,
            },
            ctx,
        )
    }

    pub(crate) fn event(&mut self, event: SlotEvent, ctx: &mut Ctx<'_>) -> Vec<SlotNews> {
        let mut news = Vec::new();
        if let SlotEvent::LeaderSays(Authority::Current) = event
            && !ctx.enters_session()
        {
            return news;
        }
        let effects = self.machine.step(event);
        self.perform(effects, ctx, &mut news);
        news
    }

    /// Repeats an unanswered question and gives an old transaction up.
    pub(crate) fn tick(&mut self, ctx: &mut Ctx<'_>) -> Vec<SlotNews> {
        if let SlotState::Asking { .. } = self.machine.state()
            && ctx.now >= self.asked + 150_000
        {
            self.asked = ctx.now;
            return vec![SlotNews::Ask];
        }
        let old = self
            .began
            .is_some_and(|began| ctx.now >= began + ctx.shared.txn_timeout / 2);
        let waits = matches!(
            self.machine.state(),
            SlotState::Open { .. } | SlotState::Preparing { .. } | SlotState::Held { .. }
        );
        if old && waits {
            self.began = None;
            return self.event(
                SlotEvent::TxnLost {
                    session: self.session,
                },
                ctx,
            );
        }
        Vec::new()
    }

    fn perform(&mut self, effects: Vec<SlotEffect>, ctx: &mut Ctx<'_>, news: &mut Vec<SlotNews>) {
        for effect in effects {
            if ctx.is_dead() {
                return;
            }
            self.perform_one(effect, ctx, news);
        }
        self.pump(ctx, news);
    }

    fn perform_one(&mut self, effect: SlotEffect, ctx: &mut Ctx<'_>, news: &mut Vec<SlotNews>) {
        match effect {
            SlotEffect::OpenSession { session } => {
                self.session = session;
                self.producer = None;
                self.began = None;
                self.queue.clear();
                self.busy = None;
                self.queue.push_back(Op::Init);
            }
            SlotEffect::Begin { .. } => self.began = Some(ctx.now),
            SlotEffect::Flush { .. } => self.queue.push_back(Op::Flush),
            SlotEffect::StoreLog { id, range } => self.store_log(id, range, ctx),
            SlotEffect::Ack {
                id,
                output,
                marker_offset,
            } => {
                news.push(SlotNews::Acked(id, output, marker_offset));
            }
            SlotEffect::Decline { id } => news.push(SlotNews::Declined(id)),
            SlotEffect::WriteMarker { number, kind } => self.write_marker(number, kind),
            SlotEffect::EndTxn { .. } => self.queue.push_back(Op::End),
            SlotEffect::Abort { .. } => self.abort(ctx),
            SlotEffect::AskLeader { .. } => {
                self.asked = ctx.now;
                news.push(SlotNews::Ask);
            }
            SlotEffect::WriteSync { session } => {
                self.session = session;
                self.queue.push_back(Op::Sync);
            }
            SlotEffect::ReadMarkers { from, .. } => {
                self.queue.push_back(Op::Read(from));
            }
            SlotEffect::Send(range) | SlotEffect::Publish(LogSource::Spool(range)) => {
                let values = self.routed(self.values(range));
                self.queue.push_back(Op::Produce(values));
            }
            SlotEffect::Publish(LogSource::Stored(log)) => {
                self.queue.push_back(Op::Fetch(log, Vec::new()));
            }
            SlotEffect::ReportConfirmed { id } => news.push(SlotNews::Confirmed(id)),
            SlotEffect::ReportVoid { .. } => news.push(SlotNews::Void),
            SlotEffect::ReportExamined { found, .. } => news.push(SlotNews::Examined(found)),
            SlotEffect::ReleaseSpool { upto } => {
                let freed = (upto.record - self.spool_base) as usize;
                self.spool.drain(..freed);
                self.spool_base = upto.record;
                self.began = None;
            }
            SlotEffect::HoldInput => self.holding = true,
            SlotEffect::ResumeInput => self.holding = false,
            SlotEffect::RequestCheckpoint => {}
            SlotEffect::EndAttempt => news.push(SlotNews::EndAttempt),
            SlotEffect::Stop(stop) => news.push(SlotNews::Stopped(stop)),
        }
    }

    fn write_marker(&mut self, number: u64, kind: MarkerKind) {
        let slot = self.machine.key().clone();
        let marker = Value::Marker { slot, number, kind };
        self.queue.push_back(if planted(Mutant::MarkerOutside) {
            Op::PlainMarker(marker)
        } else {
            Op::Produce(vec![(MARKERS, marker)])
        });
    }

    fn values(&self, range: RecordRange) -> Vec<Value> {
        let from = (range.start.record - self.spool_base) as usize;
        self.spool
            .range(from..from + range.records() as usize)
            .cloned()
            .collect()
    }

    fn routed(&self, values: Vec<Value>) -> Vec<(usize, Value)> {
        let first = if self.machine.key().sink.as_str() == "x" {
            1
        } else {
            3
        };
        let route = |value: Value| match &value {
            Value::Out { key, .. } | Value::Timer { key, .. } => (first + *key as usize % 2, value),
            _ => unreachable!("only output is routed"),
        };
        values.into_iter().map(route).collect()
    }

    fn tag(&mut self, what: fn(TaskId, SlotKey) -> What) -> Tag {
        self.tokens += 1;
        let token = self.serial << 32 | self.tokens;
        Tag {
            token,
            what: what(self.task.clone(), self.machine.key().clone()),
        }
    }

    fn store_log(&mut self, id: CheckpointId, range: RecordRange, ctx: &mut Ctx<'_>) {
        if !ctx.reached(Step::P5) {
            return;
        }
        let bytes = encode_log(self.values(range).iter());
        let mut nonces = NonceStream::new(highwater_types::Nonce(ctx.rng.nonce()));
        let object = LogObject {
            path: sink_log(id, nonces.draw(), self.machine.key(), 0),
            file: FileEntry {
                length: bytes.len() as u64,
                checksum: ContentHash::of(&bytes),
            },
            records: range.records(),
        };
        let tag = self.tag(What::SlotLog);
        let token = tag.token;
        self.storing = Some(StoringLog {
            id,
            object,
            bytes: bytes.into(),
            tries: 0,
            token,
        });
        self.put_log(tag, ctx);
    }

    fn put_log(&mut self, tag: Tag, ctx: &mut Ctx<'_>) {
        let Some(storing) = &mut self.storing else {
            return;
        };
        storing.tries += 1;
        storing.token = tag.token;
        let op = StoreOp::Put {
            path: object(&storing.object.path),
            bytes: std::rc::Rc::clone(&storing.bytes),
            condition: Condition::IfAbsent,
        };
        ctx.store(tag.clone(), op);
        ctx.timer(REQUEST_TIMEOUT, tag);
    }

    pub(crate) fn log_answer(
        &mut self,
        token: u64,
        answer: Option<StoreAnswer>,
        ctx: &mut Ctx<'_>,
    ) -> Vec<SlotNews> {
        let mut storing = self.storing.iter();
        if storing.all(|storing| storing.token != token) {
            return self.fetched(token, answer, ctx);
        }
        let Some(storing) = &self.storing else {
            return Vec::new();
        };
        let (id, tries) = (storing.id, storing.tries);
        match answer {
            Some(StoreAnswer::Applied(_)) => {}
            Some(StoreAnswer::Precondition) if tries > 1 => {}
            _ if tries < 4 => {
                let tag = self.tag(What::SlotLog);
                self.put_log(tag, ctx);
                return Vec::new();
            }
            _ => {
                self.storing = None;
                return self.event(SlotEvent::LogFailed { id }, ctx);
            }
        }
        let log = self
            .storing
            .take()
            .map(|storing| vec![storing.object])
            .unwrap_or_default();
        self.event(SlotEvent::LogStored { id, log }, ctx)
    }

    fn pumped(&mut self, ctx: &mut Ctx<'_>) -> Vec<SlotNews> {
        let mut news = Vec::new();
        self.pump(ctx, &mut news);
        news
    }

    /// The next request, if none is on its way.
    fn pump(&mut self, ctx: &mut Ctx<'_>, news: &mut Vec<SlotNews>) {
        while self.busy.is_none() {
            let Some(op) = self.queue.front().cloned() else {
                return;
            };
            let request = match (op, self.producer) {
                (Op::Init, _) => KafkaOp::Init {
                    tid: self.tid.clone(),
                },
                (Op::Sync, _) => KafkaOp::Plain { value: Value::Sync },
                (Op::PlainMarker(value), _) => KafkaOp::Plain { value },
                (Op::Read(from), _) => {
                    let slot = self.machine.key().clone();
                    KafkaOp::Read {
                        slot,
                        from,
                        upto: self.sync_offset,
                    }
                }
                (Op::Produce(values), Some(producer)) => KafkaOp::Produce {
                    tid: self.tid.clone(),
                    producer,
                    values,
                },
                (Op::End, Some(producer)) => {
                    if !ctx.reached(Step::P10) {
                        return;
                    }
                    KafkaOp::End {
                        tid: self.tid.clone(),
                        producer,
                        commit: true,
                    }
                }
                (Op::Flush, _) => {
                    self.queue.pop_front();
                    let flushed = SlotEvent::Flushed {
                        session: self.session,
                    };
                    for effect in self.machine.step(flushed) {
                        self.perform_one(effect, ctx, news);
                    }
                    continue;
                }
                (Op::Fetch(log, _), _) => {
                    let tag = self.tag(What::SlotLog);
                    self.busy = Some(tag.token);
                    let path = object(&log[0].path);
                    ctx.store(tag.clone(), StoreOp::Get { path });
                    ctx.timer(REQUEST_TIMEOUT, tag);
                    return;
                }
                (Op::Produce(_) | Op::End, None) => unreachable!("a session comes first"),
            };
            let tag = self.tag(What::Slot);
            self.busy = Some(tag.token);
            ctx.kafka(tag.clone(), request);
            ctx.timer(REQUEST_TIMEOUT, tag);
        }
    }

    pub(crate) fn abort(&mut self, ctx: &mut Ctx<'_>) {
        self.queue.clear();
        self.busy = None;
        self.began = None;
        if let Some(producer) = self.producer {
            let tag = self.tag(What::Slot);
            ctx.kafka(
                tag,
                KafkaOp::End {
                    tid: self.tid.clone(),
                    producer,
                    commit: false,
                },
            );
        }
    }

    /// The answer to the request on its way; `None` = it timed out.
    pub(crate) fn kafka_answer(
        &mut self,
        token: u64,
        answer: Option<KafkaAnswer>,
        ctx: &mut Ctx<'_>,
    ) -> Vec<SlotNews> {
        if self.busy != Some(token) {
            return Vec::new();
        }
        self.busy = None;
        let op = self
            .queue
            .front()
            .cloned()
            .expect("the request on its way is the first");
        let answer = answer.unwrap_or(KafkaAnswer::Lost);
        let session = self.session;
        let event = match (op, answer) {
            (_, KafkaAnswer::NotYet) => {
                // A retry is a timeout of a request that was never sent.
                let tag = self.tag(What::Slot);
                self.busy = Some(tag.token);
                self.retry = Some(tag.token);
                ctx.timer(RETRY, tag);
                return Vec::new();
            }
            (Op::Init, KafkaAnswer::Opened(producer)) => {
                self.producer = Some(producer);
                Some(SlotEvent::Opened { session })
            }
            (Op::Produce(_), KafkaAnswer::Produced)
            | (Op::PlainMarker(_), KafkaAnswer::Written(_)) => None,
            (Op::Sync, KafkaAnswer::Written(offset)) => {
                self.sync_offset = offset;
                Some(SlotEvent::SyncWritten { session })
            }
            (Op::Read(_), KafkaAnswer::Read(reading)) => {
                if !ctx.reached(Step::R4) {
                    return Vec::new();
                }
                Some(SlotEvent::MarkersRead { session, reading })
            }
            (Op::End, KafkaAnswer::Ended { marker_offset }) => {
                if !ctx.reached(Step::P11) {
                    return Vec::new();
                }
                let answer = EndAnswer::Committed { marker_offset };
                Some(SlotEvent::EndTxn { session, answer })
            }
            (Op::End, _) => {
                self.queue.clear();
                let answer = EndAnswer::Unclear;
                return self.event(SlotEvent::EndTxn { session, answer }, ctx);
            }
            _ => {
                self.queue.clear();
                return self.event(SlotEvent::TxnLost { session }, ctx);
            }
        };
        self.queue.pop_front();
        match event {
            Some(event) => self.event(event, ctx),
            None => self.pumped(ctx),
        }
    }

    /// A timeout: of the request on its way, or the moment of a retry.
    pub(crate) fn timed_out(&mut self, token: u64, ctx: &mut Ctx<'_>) -> Vec<SlotNews> {
        if self.retry == Some(token) && self.busy == Some(token) {
            self.retry = None;
            self.busy = None;
            return self.pumped(ctx);
        }
        self.kafka_answer(token, None, ctx)
    }

    fn fetched(
        &mut self,
        token: u64,
        answer: Option<StoreAnswer>,
        ctx: &mut Ctx<'_>,
    ) -> Vec<SlotNews> {
        if self.busy != Some(token) {
            return Vec::new();
        }
        let Some(Op::Fetch(log, mut values)) = self.queue.front().cloned() else {
            return Vec::new();
        };
        self.busy = None;
        let part = match answer {
            Some(StoreAnswer::Found(bytes, _)) => {
                let sound = ContentHash::of(&bytes) == log[0].file.checksum;
                decode_log(&bytes).filter(|_| sound)
            }
            Some(StoreAnswer::Absent) => None,
            _ => return self.pumped(ctx),
        };
        let Some(part) = part else {
            return self.event(SlotEvent::LogUnreadable, ctx);
        };
        values.extend(part);
        self.queue.pop_front();
        let rest = log[1..].to_vec();
        let next = if rest.is_empty() {
            Op::Produce(self.routed(values))
        } else {
            Op::Fetch(rest, values)
        };
        self.queue.push_front(next);
        self.pumped(ctx)
    }
}
