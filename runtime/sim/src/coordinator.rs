//! A coordinator process: stands for the lease, leads while `head` says so, and performs what the machines decide.
//!
//! Called by the world. The lease only makes a candidate (the simulated API server may take it away from a living
//! leader); the epoch in `head` makes a leader. Everything that matters is decided by the production machines; this
//! driver carries requests and answers, repeats what may be lost, and waits where L1 says so.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::checkpoint::{CheckpointCoordinator, SnapshotRequest};
use highwater_protocol::gc::Gc;
use highwater_protocol::head::{Head, HeadChange, ManifestRef};
use highwater_protocol::head_write::{
    HeadKeeper, HeadOutcome, HeadWriteEffect, HeadWriteEvent, PutOutcome, ReadOutcome, Refusal,
    VersionTag, Versioned,
};
use highwater_protocol::job::{JobShape, TaskId};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::{NonceStream, TrySource};
use highwater_protocol::recovery::{
    GoingBack, GoingBackEvent, RegionRecovery, SlotDuty, StoreView, Takeover,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::{NamedStop, SlotKey};
use highwater_types::{AttemptId, Epoch, ErrorKind, Nonce};

use crate::job::{Scale, paths, shape};
use crate::node::{Ctx, JobState, Message, Micros, NodeId, Tag, ToTask, Wake, What};
use crate::store::{Condition, StoreAnswer, StoreOp};

pub(crate) mod export;
mod recover;
mod rescale;
mod running;
mod start;
mod taking;

use export::Export;
use taking::Taking;

pub(crate) const REQUEST_TIMEOUT: Micros = 150_000;
const LEASE: Micros = 300_000;
/// A worker that was silent for this long is taken for dead.
const SILENCE: Micros = 250_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    First,
    TakeOver,
    Checkpoint,
    Raise,
    GiveUp,
    Rebase,
}

#[derive(Clone)]
enum Phase {
    Reading,
    Listing,
    StoringFirst,
    Writing,
    Loading,
    Adopting(Box<Takeover>, Micros),
    WaitingForWorkers,
    Recovering(Box<RegionRecovery>, Micros),
    LoadingTarget,
    GoingBack(Box<GoingBack>, Vec<SlotDuty>, Micros),
    Running,
}

/// Who asks about an attempt's authority.
#[derive(Clone)]
enum Question {
    Slot(TaskId, SlotKey, AttemptId),
    Stop(NamedStop),
    /// Before a region starts anew for a reason that a deposed leader would see too.
    Restart,
    /// Before a checkpoint is given up.
    GoBack,
    /// Before a missing manifest is taken for a loss.
    Missing,
    /// Tasks obey a newer leader: finds out whether there is one.
    Check,
}

#[derive(Clone)]
struct Leadership {
    phase: Phase,
    epoch: Epoch,
    keeper: HeadKeeper,
    purpose: Purpose,
    head_token: u64,
    nonces: NonceStream,
    tries: Option<TrySource>,
    /// What program and settings said when the manifest was last asked how wide the job runs.
    configured: Scale,
    scale: Scale,
    shape: JobShape,
    manifest: Option<Manifest>,
    written: Option<Manifest>,
    manifest_bytes: Option<(u64, String, std::rc::Rc<[u8]>, u32)>,
    checkpoints: Option<CheckpointCoordinator>,
    gc: Option<Gc>,
    gc_reading: Option<ManifestRef>,
    export: Option<Export>,
    /// What the store showed at the start, while a savepoint is read.
    view: Option<StoreView>,
    taking: Option<Taking>,
    attempt: Option<AttemptId>,
    next_attempt: AttemptId,
    placements: BTreeMap<TaskId, NodeId>,
    /// Tasks that were heard in this attempt: one that is not there any more died, and its attempt with it.
    seen: BTreeSet<TaskId>,
    assigned: BTreeMap<u32, TaskId>,
    questions: BTreeMap<u64, Question>,
    restart: bool,
    /// Sources stand still behind the barrier of a stop or a redeployment.
    suspends: bool,
    /// The requests that the machine has heard of and that are not answered.
    asked: BTreeSet<u64>,
    /// The rescales among them: what was configured then, and how wide the job is to run.
    rescales: BTreeMap<u64, (Scale, Scale)>,
    /// What waited in a machine that was replaced.
    held: Vec<SnapshotRequest>,
    /// The redeployment that is answered when tasks run.
    redeployed: Option<u64>,
    last_gc: Micros,
}

/// A coordinator process.
#[derive(Clone, Default)]
pub(crate) struct Coordinator {
    leadership: Option<Box<Leadership>>,
    heard: BTreeMap<NodeId, Micros>,
    outstanding: BTreeSet<u64>,
    tokens: u64,
}

impl Coordinator {
    pub(crate) fn is_leading(&self) -> bool {
        self.leadership
            .as_ref()
            .is_some_and(|leader| matches!(leader.phase, Phase::Running))
    }

    pub(crate) fn wake(&mut self, wake: Wake, ctx: &mut Ctx<'_>) {
        match wake {
            Wake::Start => {}
            Wake::Tick => {
                self.lease(ctx);
                self.tick(ctx);
            }
            Wake::Message { from, message } => self.message(from, *message, ctx),
            Wake::Store { tag, answer } => {
                if self.outstanding.remove(&tag.token) {
                    self.store_answer(&tag, answer, ctx);
                }
            }
            Wake::Kafka { tag, answer } => {
                if self.outstanding.remove(&tag.token) {
                    self.freed(&tag, &answer, ctx);
                }
            }
            Wake::Timeout { tag } => {
                if self.outstanding.remove(&tag.token) {
                    match &tag.what {
                        What::Free(slot) => self.free(slot.clone(), ctx),
                        _ => self.store_answer(&tag, StoreAnswer::Failed, ctx),
                    }
                }
            }
        }
        self.settle(ctx);
    }

    fn leader(&mut self) -> Option<&mut Leadership> {
        self.leadership.as_deref_mut()
    }

    /// A lease is a hint: whoever holds it tries to lead.
    fn lease(&mut self, ctx: &mut Ctx<'_>) {
        let wanted = ctx.shared.desired.running && ctx.shared.job == JobState::Running;
        let (now, me) = (ctx.now, ctx.node);
        match ctx.shared.lease {
            Some((holder, until)) if holder == me && until > now => {
                if self.leadership.is_some() {
                    ctx.shared.lease = Some((me, now + LEASE));
                } else if wanted {
                    self.lead(ctx);
                }
            }
            Some((_, until)) if until > now => {}
            _ if self.leadership.is_none() && wanted => self.stand(ctx),
            _ => {}
        }
    }

    fn stand(&mut self, ctx: &mut Ctx<'_>) {
        if ctx.reached(Step::R1) {
            ctx.shared.lease = Some((ctx.node, ctx.now + LEASE));
            self.lead(ctx);
        }
    }

    fn lead(&mut self, ctx: &mut Ctx<'_>) {
        ctx.trace(|| "leads".to_owned());
        let configured = ctx.shared.desired.configured;
        self.leadership = Some(Box::new(Leadership {
            phase: Phase::Reading,
            epoch: Epoch(0),
            keeper: HeadKeeper::new(None),
            purpose: Purpose::TakeOver,
            head_token: 0,
            nonces: NonceStream::new(Nonce(ctx.rng.nonce())),
            tries: Some(TrySource::new(NonceStream::new(Nonce(ctx.rng.nonce())))),
            configured,
            scale: configured,
            shape: shape(configured),
            manifest: None,
            written: None,
            manifest_bytes: None,
            checkpoints: None,
            gc: None,
            gc_reading: None,
            export: None,
            view: None,
            taking: None,
            attempt: None,
            next_attempt: AttemptId(0),
            placements: BTreeMap::new(),
            seen: BTreeSet::new(),
            assigned: BTreeMap::new(),
            questions: BTreeMap::new(),
            restart: false,
            suspends: false,
            asked: BTreeSet::new(),
            rescales: BTreeMap::new(),
            held: Vec::new(),
            redeployed: None,
            last_gc: 0,
        }));
        self.request(
            What::Head,
            StoreOp::Get {
                path: paths().head(),
            },
            ctx,
        );
    }

    fn step_down(&mut self, ctx: &mut Ctx<'_>) {
        ctx.trace(|| "steps down".to_owned());
        self.leadership = None;
        self.outstanding.clear();
        if ctx
            .shared
            .lease
            .is_some_and(|(holder, _)| holder == ctx.node)
        {
            ctx.shared.lease = None;
        }
    }

    fn request(&mut self, what: What, op: StoreOp, ctx: &mut Ctx<'_>) -> u64 {
        self.tokens += 1;
        let tag = Tag {
            token: self.tokens,
            what,
        };
        self.outstanding.insert(tag.token);
        ctx.store(tag.clone(), op);
        ctx.timer(REQUEST_TIMEOUT, tag);
        self.tokens
    }

    fn store_answer(&mut self, tag: &Tag, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        if self.leadership.is_none() {
            return;
        }
        match &tag.what {
            What::Head => self.head_found(answer, ctx),
            What::List => self.listed(answer, ctx),
            What::HeadPut | What::HeadRead => self.head_answer(tag, answer, ctx),
            What::Manifest => self.manifest_found(answer, ctx),
            What::ManifestPut(number) => self.manifest_put(*number, &answer, ctx),
            What::TargetManifest => self.target_found(answer, ctx),
            What::Authority(question) => self.answer(*question, answer, ctx),
            What::Gc | What::GcHead | What::GcManifest => self.gc_answer(&tag.what, answer, ctx),
            What::Export => self.export_answer(answer, ctx),
            What::Savepoint => self.savepoint_found(answer, ctx),
            What::Take => self.take_answer(answer, ctx),
            _ => {}
        }
    }

    // Head writes.

    fn begin(&mut self, purpose: Purpose, change: &HeadChange, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        leader.purpose = purpose;
        let nonce = leader.nonces.draw();
        let effects = leader.keeper.begin(change, nonce);
        self.head_effects(effects, ctx);
    }

    fn create(&mut self, first: Head, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        leader.purpose = Purpose::First;
        let effects = leader.keeper.create(first);
        self.head_effects(effects, ctx);
    }

    fn contest(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let nonce = leader.nonces.draw();
        let effects = leader.keeper.step(HeadWriteEvent::Contest { nonce });
        self.head_effects(effects, ctx);
    }

    fn head_effects(&mut self, effects: Vec<HeadWriteEffect>, ctx: &mut Ctx<'_>) {
        for effect in effects {
            let path = paths().head();
            let token = match effect {
                HeadWriteEffect::Put { body, if_match, .. } => {
                    let condition = if_match.map_or(Condition::IfAbsent, Condition::IfMatch);
                    let bytes = body.encode().into();
                    self.request(
                        What::HeadPut,
                        StoreOp::Put {
                            path,
                            bytes,
                            condition,
                        },
                        ctx,
                    )
                }
                HeadWriteEffect::Read { .. } => {
                    self.request(What::HeadRead, StoreOp::Get { path }, ctx)
                }
                HeadWriteEffect::Decided(outcome) => {
                    self.decided(outcome, ctx);
                    continue;
                }
            };
            if let Some(leader) = self.leader() {
                leader.head_token = token;
            }
        }
    }

    fn head_answer(&mut self, tag: &Tag, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        if leader.head_token != tag.token {
            return;
        }
        let event = if tag.what == What::HeadPut {
            HeadWriteEvent::Put(match answer {
                StoreAnswer::Applied(found) => PutOutcome::Applied(found),
                StoreAnswer::Precondition => PutOutcome::Precondition,
                StoreAnswer::Refused => PutOutcome::Refused(Refusal {
                    kind: ErrorKind::Invalid,
                    reason: "403".to_owned(),
                }),
                _ => PutOutcome::Ambiguous,
            })
        } else {
            HeadWriteEvent::Read(match answer {
                StoreAnswer::Found(bytes, found) => {
                    ReadOutcome::Value(Box::new(versioned(&bytes, found)))
                }
                StoreAnswer::Absent => ReadOutcome::Absent,
                _ => ReadOutcome::Failed,
            })
        };
        let effects = leader.keeper.step(event);
        self.head_effects(effects, ctx);
    }

    fn decided(&mut self, outcome: HeadOutcome, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let purpose = leader.purpose;
        ctx.trace(|| {
            let text = format!("{outcome:?}");
            format!(
                "{purpose:?} decided: {}",
                text.split('(').next().unwrap_or_default()
            )
        });
        if purpose == Purpose::Checkpoint {
            self.checkpoint_decided(outcome, ctx);
            return;
        }
        match outcome {
            HeadOutcome::Superseded(newer) => self.superseded(&newer, ctx),
            HeadOutcome::Vanished => {
                ctx.violations.push("O6: head is gone".to_owned());
                self.step_down(ctx);
            }
            // What a leader cannot begin it leaves to the next one.
            HeadOutcome::Refused(_) => self.step_down(ctx),
            HeadOutcome::Corrupt(reason) => {
                ctx.violations
                    .push(format!("O6: head is damaged: {reason}"));
                self.step_down(ctx);
            }
            HeadOutcome::Declined(_) => unreachable!("only checkpoints are contested"),
            HeadOutcome::Won(value) => {
                leader.epoch = value.head.epoch;
                if matches!(purpose, Purpose::First | Purpose::TakeOver) {
                    leader.next_attempt = highwater_protocol::gate::first_attempt(leader.epoch);
                }
                match purpose {
                    Purpose::First => {
                        leader.manifest = leader.written.take();
                        self.start_region(ctx);
                    }
                    Purpose::Raise => self.start_region(ctx),
                    Purpose::GiveUp => self.going_back_event(&GoingBackEvent::ChoiceDurable, ctx),
                    Purpose::TakeOver | Purpose::Rebase => self.load_manifest(ctx),
                    Purpose::Checkpoint => unreachable!("handled above"),
                }
            }
        }
    }

    /// Only a newer epoch supersedes: an epoch belongs to one leader (O6).
    fn superseded(&mut self, newer: &Versioned, ctx: &mut Ctx<'_>) {
        let own = self.leader().map(|leader| leader.epoch);
        if own == Some(newer.head.epoch) {
            let epoch = newer.head.epoch;
            ctx.violations.push(format!(
                "O6: leader of epoch {epoch} steps down before its own value"
            ));
        }
        self.step_down(ctx);
    }

    // Questions of authority (S5).

    fn ask(&mut self, question: Question, ctx: &mut Ctx<'_>) {
        self.tokens += 1;
        let token = self.tokens;
        if let Some(leader) = self.leader() {
            leader.questions.insert(token, question);
        }
        self.request(
            What::Authority(token),
            StoreOp::Get {
                path: paths().head(),
            },
            ctx,
        );
    }

    /// Asks unless the same kind of question is open.
    fn ask_once(&mut self, question: Question, ctx: &mut Ctx<'_>) {
        let kind = std::mem::discriminant(&question);
        let Some(leader) = self.leader() else { return };
        if leader
            .questions
            .values()
            .all(|open| std::mem::discriminant(open) != kind)
        {
            self.ask(question, ctx);
        }
    }

    fn answer(&mut self, question: u64, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(question) = leader.questions.remove(&question) else {
            return;
        };
        let StoreAnswer::Found(bytes, tag) = answer else {
            if matches!(question, Question::GoBack | Question::Missing) {
                self.ask(question, ctx);
            }
            return;
        };
        let found = versioned(&bytes, tag).head;
        match question {
            Question::Slot(task, slot, attempt) => {
                let current = leader.attempt == Some(attempt);
                let said = highwater_protocol::head_write::authority(&found, leader.epoch, current);
                if let Some(authority) = said {
                    self.tell(&task, ToTask::Says(slot, authority), ctx);
                }
            }
            _ if found.epoch != leader.epoch => self.step_down(ctx),
            Question::Check => {}
            Question::Restart => self.restart_again(ctx),
            Question::GoBack => self.go_back(ctx),
            Question::Missing => {
                ctx.violations
                    .push("O7: a manifest that head needs is not there".to_owned());
                self.step_down(ctx);
            }
            Question::Stop(stop) => {
                ctx.trace(|| format!("job stops: {stop}"));
                ctx.shared.job = JobState::Stopped(stop);
                self.step_down(ctx);
            }
        }
    }

    /// Head may have moved on since the question was asked.
    fn restart_again(&mut self, ctx: &mut Ctx<'_>) {
        let recovering = |leader: &Leadership| {
            matches!(leader.phase, Phase::Recovering(..) | Phase::GoingBack(..))
                && leader.keeper.settled().is_some()
        };
        if self.leadership.as_deref().is_some_and(recovering) {
            self.start_region(ctx);
        }
    }

    fn tell(&mut self, task: &TaskId, body: ToTask, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leadership.as_deref() else {
            return;
        };
        let (Some(attempt), Some(&to)) = (leader.attempt, leader.placements.get(task)) else {
            return;
        };
        let (epoch, task) = (leader.epoch, task.clone());
        ctx.send(
            to,
            Message::ToTask {
                epoch,
                attempt,
                task,
                body,
            },
        );
    }

    fn tell_all(&mut self, body: &ToTask, ctx: &mut Ctx<'_>) {
        let tasks: Vec<TaskId> = self
            .leader()
            .map(|leader| leader.placements.keys().cloned().collect())
            .unwrap_or_default();
        for task in tasks {
            self.tell(&task, body.clone(), ctx);
        }
    }

    /// Starts the region again once head is settled (L1).
    fn settle(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let undecided = leader
            .checkpoints
            .as_ref()
            .is_some_and(CheckpointCoordinator::is_undecided);
        if leader.restart && !undecided && leader.keeper.settled().is_some() {
            leader.restart = false;
            self.start_region(ctx);
        }
    }
}

/// Reads the head object.
pub(crate) fn versioned(bytes: &[u8], tag: VersionTag) -> Versioned {
    let head = Head::decode(bytes).expect("the simulated store never damages head");
    Versioned { head, tag }
}
