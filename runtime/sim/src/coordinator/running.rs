//! A running job of a coordinator: checkpoint effects, what tasks say, silence, wishes of the user, garbage.

use highwater_protocol::checkpoint::{
    CheckpointEffect, CheckpointEvent, CheckpointFailure, Resolution, SnapshotRequest,
};
use highwater_protocol::gc::{Gc, GcEffect, GcEvent, Reach, Retention};
use highwater_protocol::head::JobEnd;
use highwater_protocol::head_write::HeadOutcome;
use highwater_protocol::job::TaskId;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::{ManifestName, manifest as manifest_path};
use highwater_protocol::recovery::{GoingBackEvent, RegionEvent};
use highwater_protocol::steps::Step;
use highwater_types::{AttemptId, BarrierKind, CheckpointId, Epoch, StopMode};

use super::{Coordinator, Phase, Purpose, Question, SILENCE, versioned};
use crate::job::{object, paths, source_task};
use crate::node::{Ctx, FromTask, JobState, Message, NodeId, TaskReport, ToTask, What};
use crate::store::{StoreAnswer, StoreOp};

const RECOVERY_MAX: u64 = 2_500_000;

impl Coordinator {
    pub(super) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let alive = self.alive(ctx);
        let Some(leader) = self.leader() else { return };
        match &mut leader.phase {
            Phase::Adopting(takeover, deadline) if now >= *deadline => {
                if let Some(decision) = takeover.deadline() {
                    self.takeover_decided(decision, ctx);
                }
            }
            Phase::WaitingForWorkers if !leader.restart => self.start_region(ctx),
            Phase::Recovering(_, since) | Phase::GoingBack(_, _, since) => {
                let silent = leader.placements.values().any(|node| !alive.contains(node));
                let slow = now >= *since + RECOVERY_MAX;
                if (silent || slow) && leader.keeper.settled().is_some() {
                    self.ask_once(Question::Restart, ctx);
                }
            }
            Phase::Running => self.tick_running(ctx),
            _ => {}
        }
    }

    fn tick_running(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let heard = self.heard.clone();
        let Some(leader) = self.leader() else { return };
        let silent = |node: &NodeId| heard.get(node).is_none_or(|at| *at + SILENCE <= now);
        let is_changed = leader.configured != ctx.shared.desired.configured;
        if leader.placements.values().any(silent) || is_changed {
            self.tasks_lost(ctx);
            return;
        }
        if let Some((request, stop, drain)) = ctx.shared.desired.request
            && leader.asked.insert(request)
        {
            let stopping = |mode| BarrierKind::Stop {
                mode,
                is_savepoint: true,
            };
            let kind = match (stop, drain) {
                (false, _) => BarrierKind::Savepoint,
                (true, false) => stopping(StopMode::Suspend),
                (true, true) => stopping(StopMode::Drain),
            };
            let savepoint = Some(format!("savepoint-{request}"));
            let wish = SnapshotRequest {
                request,
                savepoint,
                kind,
                redeploy: None,
            };
            self.checkpoint_event(CheckpointEvent::Request(wish), ctx);
        }
        self.ask_redeployments(ctx);
        self.assign(ctx);
        if ctx.reached(Step::P1) {
            self.checkpoint_event(CheckpointEvent::Tick, ctx);
        }
        self.collect(ctx);
    }

    /// Splits that exist and that nobody reads are read from their start.
    fn assign(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let mut new = Vec::new();
        for (at, split) in ctx.shared.workload.splits.iter().enumerate() {
            let at = at as u32;
            if split.appears <= ctx.now && !leader.assigned.contains_key(&at) {
                let reader = (leader.epoch.0 as u32 + at) % leader.scale.readers;
                let task = source_task(split.source, reader);
                leader.assigned.insert(at, task.clone());
                new.push((task, at));
            }
        }
        for (task, split) in new {
            self.tell(&task, ToTask::Assign { split, position: 0 }, ctx);
        }
    }

    pub(super) fn tasks_lost(&mut self, ctx: &mut Ctx<'_>) {
        ctx.trace(|| "tasks lost".to_owned());
        self.checkpoint_event(CheckpointEvent::TasksLost, ctx);
        if let Some(leader) = self.leader() {
            leader.restart = true;
            leader.phase = Phase::WaitingForWorkers;
        }
    }

    pub(super) fn checkpoint_event(&mut self, event: CheckpointEvent, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(machine) = &mut leader.checkpoints else {
            return;
        };
        let effects = machine.step(ctx.now / 1000, event);
        for effect in effects {
            if ctx.is_dead() {
                return;
            }
            self.checkpoint_effect(effect, ctx);
        }
    }

    pub(super) fn checkpoint_decided(&mut self, outcome: HeadOutcome, ctx: &mut Ctx<'_>) {
        if let HeadOutcome::Superseded(newer) = &outcome {
            return self.superseded(&newer.clone(), ctx);
        }
        self.checkpoint_event(CheckpointEvent::HeadDecided(outcome), ctx);
    }

    fn checkpoint_effect(&mut self, effect: CheckpointEffect, ctx: &mut Ctx<'_>) {
        match effect {
            CheckpointEffect::SnapshotEnumerators { id } => {
                let states = std::collections::BTreeMap::new();
                self.checkpoint_event(CheckpointEvent::Enumerators { id, states }, ctx);
            }
            CheckpointEffect::Announce { .. } => self.tell_all(&ToTask::Expect, ctx),
            CheckpointEffect::SendBarrier { task, barrier } => {
                if let Some(leader) = self.leader() {
                    leader.suspends |= barrier.kind.stop_mode().is_some();
                }
                if ctx.reached(Step::P2) {
                    self.tell(&task, ToTask::Barrier(barrier), ctx);
                }
            }
            CheckpointEffect::Decline { id } => self.tell_all(&ToTask::Decline(id), ctx),
            CheckpointEffect::WriteManifest { name, bytes, .. } => {
                self.write_manifest(name, bytes, ctx);
            }
            CheckpointEffect::WriteHead(change) => {
                if ctx.reached(Step::P8) {
                    self.begin(Purpose::Checkpoint, &change, ctx);
                }
            }
            CheckpointEffect::ContestHead => self.contest(ctx),
            CheckpointEffect::Completed { id } => {
                self.completed(id, ctx);
            }
            CheckpointEffect::OrderCommit { slot, id } => {
                let task = self
                    .leader()
                    .and_then(|leader| leader.shape.holder(&slot).cloned());
                if let Some(task) = task
                    && ctx.reached(Step::P9)
                {
                    self.tell(&task, ToTask::Commit(slot, id), ctx);
                }
            }
            CheckpointEffect::DeleteOrphans { paths } => {
                let paths = paths.iter().map(object).collect();
                self.request(What::Orphans, StoreOp::Delete { paths }, ctx);
            }
            CheckpointEffect::Export { savepoint, .. } => self.start_export(&savepoint, ctx),
            other => self.effect_for_people(other, ctx),
        }
    }

    /// Effects that answer somebody, or that end the attempt, the leadership or the job.
    fn effect_for_people(&mut self, effect: CheckpointEffect, ctx: &mut Ctx<'_>) {
        match effect {
            CheckpointEffect::RequestDone { request, .. } => {
                ctx.trace(|| format!("request {request} done"));
                if let Some(leader) = self.leader() {
                    leader.asked.remove(&request);
                }
                ctx.shared.requests_done += 1;
                ctx.shared
                    .desired
                    .request
                    .take_if(|(open, ..)| *open == request);
            }
            CheckpointEffect::RequestFailed { request, failure } => {
                self.request_failed(request, &failure, ctx);
            }
            CheckpointEffect::ResumeSources => {
                if let Some(leader) = self.leader() {
                    leader.suspends = false;
                }
                self.tell_all(&ToTask::ResumeSources, ctx);
            }
            CheckpointEffect::RestartRegion => self.tasks_lost(ctx),
            CheckpointEffect::Redeploy { id } => self.redeploy(id, ctx),
            CheckpointEffect::EndJob(end) => self.end_job(end, ctx),
            CheckpointEffect::StepDown => self.step_down(ctx),
            CheckpointEffect::HeadVanished => {
                ctx.violations.push("O6: head is gone".to_owned());
                self.step_down(ctx);
            }
            CheckpointEffect::HeadDamaged { reason } => {
                ctx.violations
                    .push(format!("O6: head is damaged: {reason}"));
                self.step_down(ctx);
            }
            CheckpointEffect::Failed { failure, .. } => given_up(failure, ctx),
            CheckpointEffect::AllConfirmed { .. } | CheckpointEffect::FailJob { .. } => {}
            performed => unreachable!("{performed:?} is performed above"),
        }
    }

    fn completed(&mut self, id: CheckpointId, ctx: &mut Ctx<'_>) {
        if let Some(leader) = self.leader()
            && let Some(written) = leader.written.take_if(|written| written.id == id)
        {
            leader.manifest = Some(written);
        }
        self.tell_all(&ToTask::Completed(id), ctx);
    }

    fn write_manifest(&mut self, name: ManifestName, bytes: Vec<u8>, ctx: &mut Ctx<'_>) {
        if !ctx.reached(Step::P7) {
            return;
        }
        let Some(leader) = self.leader() else { return };
        leader.written =
            Some(Manifest::decode(&bytes).expect("the machine encodes sound manifests"));
        let path = object(&manifest_path(&name));
        leader.manifest_bytes = Some((name.number, path, bytes.into(), 0));
        self.put_manifest(ctx);
    }

    pub(super) fn manifest_put(&mut self, number: u64, answer: &StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some((current, path, _, tries)) = &leader.manifest_bytes else {
            return;
        };
        if *current != number {
            return;
        }
        let stored = match answer {
            StoreAnswer::Applied(_) => true,
            StoreAnswer::Precondition => *tries > 1,
            _ => false,
        };
        let name = path.rsplit('/').next().and_then(ManifestName::parse);
        let name = name.expect("the path was built from a name");
        let (tries, first) = (*tries, matches!(leader.phase, Phase::StoringFirst));
        if stored && first {
            return self.first_stored(ctx);
        }
        if stored {
            self.checkpoint_event(CheckpointEvent::ManifestWritten { id: name.id() }, ctx);
            return self.going_back_event(&GoingBackEvent::ManifestWritten(name), ctx);
        }
        let wanted = matches!(leader.phase, Phase::GoingBack(..)) || first || tries < 4;
        if wanted {
            self.put_manifest(ctx);
        } else {
            self.checkpoint_event(CheckpointEvent::ManifestFailed { id: name.id() }, ctx);
        }
    }

    fn end_job(&mut self, end: JobEnd, ctx: &mut Ctx<'_>) {
        self.tell_all(&ToTask::Cancel, ctx);
        let Some(leader) = self.leader() else { return };
        let epoch = leader.epoch;
        self.over(epoch, end, ctx);
    }

    /// The job has ended in this epoch, under this leader or one before it.
    pub(super) fn over(&mut self, epoch: Epoch, end: JobEnd, ctx: &mut Ctx<'_>) {
        ctx.trace(|| format!("job has ended in epoch {epoch}: {end:?}"));
        ctx.ended = Some((epoch, end));
        match end {
            JobEnd::Finished => ctx.shared.job = JobState::Finished,
            JobEnd::Stopped => ctx.shared.desired.running = false,
        }
        self.step_down(ctx);
    }

    // What workers say.

    pub(super) fn message(&mut self, from: NodeId, message: Message, ctx: &mut Ctx<'_>) {
        match message {
            Message::Heartbeat { tasks } => self.heartbeat(from, tasks, ctx),
            Message::FromTask {
                task,
                attempt,
                body,
            } => self.task_says(task, attempt, body, ctx),
            Message::ToTask { .. } | Message::Data { .. } | Message::Broken { .. } => {}
        }
    }

    fn task_says(&mut self, task: TaskId, attempt: AttemptId, body: FromTask, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        if let FromTask::Acked(id, snapshot) = body {
            let acked = CheckpointEvent::Acked {
                task,
                attempt,
                id,
                snapshot,
            };
            return self.checkpoint_event(acked, ctx);
        }
        if leader.attempt != Some(attempt) {
            return;
        }
        match body {
            FromTask::Acked(..) => unreachable!("handled above"),
            FromTask::Refused(id, reason) => {
                let refused = CheckpointEvent::Refused {
                    task,
                    attempt,
                    id,
                    reason,
                };
                self.checkpoint_event(refused, ctx);
            }
            FromTask::Confirmed(slot, number) => {
                let event = RegionEvent::Confirmed {
                    slot: slot.clone(),
                    number,
                };
                self.region_event(event, ctx);
                let confirmed = CheckpointEvent::Confirmed {
                    slot,
                    attempt,
                    number,
                };
                self.checkpoint_event(confirmed, ctx);
            }
            FromTask::Void(slot) => {
                self.going_back_event(&GoingBackEvent::Voided(slot.clone()), ctx);
                self.region_event(RegionEvent::Void(slot.clone()), ctx);
                self.checkpoint_event(CheckpointEvent::Voided { slot, attempt }, ctx);
            }
            FromTask::Examined(slot, found) => {
                self.going_back_event(&GoingBackEvent::Examined { slot, found }, ctx);
            }
            FromTask::Ask(slot) => self.ask(Question::Slot(task, slot, attempt), ctx),
            FromTask::Verified => self.region_event(RegionEvent::Verified(task), ctx),
            FromTask::Opened => self.region_event(RegionEvent::Opened(task), ctx),
            FromTask::Failed { damaged: true } => {
                self.region_event(RegionEvent::Damaged(task), ctx);
            }
            FromTask::Failed { damaged: false } => match leader.phase {
                Phase::Running => self.tasks_lost(ctx),
                Phase::Recovering(..) => self.ask_once(Question::Restart, ctx),
                _ => {}
            },
            FromTask::Stopped(stop) => self.stop_asked(stop, ctx),
        }
    }

    fn heartbeat(&mut self, from: NodeId, tasks: Vec<TaskReport>, ctx: &mut Ctx<'_>) {
        self.heard.insert(from, ctx.now);
        let Some(leader) = self.leader() else { return };
        let attempt = leader.attempt;
        if matches!(leader.phase, Phase::Adopting(..)) {
            for report in tasks {
                self.adopting(from, report, ctx);
            }
            return;
        }
        let newest = tasks.iter().map(|report| report.report.epoch).max();
        if newest > Some(leader.epoch) && leader.attempt.is_some() {
            self.ask_once(Question::Check, ctx);
        }
        let Some(leader) = self.leader() else { return };
        let placed = leader.placements.iter().filter(|(_, node)| **node == from);
        let mut missing: Vec<TaskId> = placed.map(|(task, _)| task.clone()).collect();
        for report in tasks {
            let task = report.report.task.clone();
            let found = report.report.attempt;
            if Some(found) == attempt {
                missing.retain(|other| *other != task);
                self.reported(&task, report, ctx);
            } else if Some(found) < attempt {
                let Some(leader) = self.leader() else { return };
                let epoch = leader.epoch;
                let cancel = Message::ToTask {
                    epoch,
                    attempt: found,
                    task,
                    body: ToTask::Cancel,
                };
                ctx.send(from, cancel);
            }
        }
        self.missing(missing, ctx);
    }

    fn adopting(&mut self, from: NodeId, report: TaskReport, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Phase::Adopting(takeover, _) = &mut leader.phase else {
            return;
        };
        let (epoch, attempt) = (leader.epoch, report.report.attempt);
        let task = report.report.task.clone();
        leader.placements.insert(task.clone(), from);
        if report.report.epoch != epoch {
            let body = ToTask::Hello;
            ctx.send(
                from,
                Message::ToTask {
                    epoch,
                    attempt,
                    task,
                    body,
                },
            );
        }
        if let Some(decision) = takeover.report(report.report) {
            self.takeover_decided(decision, ctx);
        }
    }

    /// Tasks that their worker does not know: never arrived, or the worker is a new process.
    fn missing(&mut self, missing: Vec<TaskId>, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        match leader.phase {
            Phase::Recovering(..) | Phase::GoingBack(..)
                if missing.iter().any(|task| leader.seen.contains(task)) =>
            {
                self.ask_once(Question::Restart, ctx);
            }
            Phase::Recovering(..) | Phase::GoingBack(..) => {
                for task in missing {
                    self.deploy(&task, ctx);
                }
            }
            Phase::Running if !missing.is_empty() => self.tasks_lost(ctx),
            _ => {}
        }
    }

    /// Repeats to a task what it seems to have missed, and takes from its report what got lost.
    fn reported(&mut self, task: &TaskId, report: TaskReport, ctx: &mut Ctx<'_>) {
        if let Some(leader) = self.leader() {
            leader.seen.insert(task.clone());
        }
        if let Some(damaged) = report.failed {
            let attempt = report.report.attempt;
            return self.task_says(task.clone(), attempt, FromTask::Failed { damaged }, ctx);
        }
        if report.verified {
            self.region_event(RegionEvent::Verified(task.clone()), ctx);
        }
        if report.opened {
            self.region_event(RegionEvent::Opened(task.clone()), ctx);
        }
        for slot in &report.voided {
            let (slot, attempt) = (slot.clone(), report.report.attempt);
            self.region_event(RegionEvent::Void(slot.clone()), ctx);
            self.checkpoint_event(CheckpointEvent::Voided { slot, attempt }, ctx);
        }
        let Some(leader) = self.leader() else { return };
        let mut again = Vec::new();
        match &leader.phase {
            Phase::Recovering(region, _) => {
                if region.is_verifying() && !report.verified {
                    again.push(ToTask::VerifyAll);
                }
                if region.is_opening() && !report.opened {
                    again.push(ToTask::OpenAll);
                }
                let duties = region.open_duties().filter(|duty| duty.task == *task);
                again.extend(duties.map(|duty| ToTask::StartSession(Box::new(duty.clone()))));
            }
            Phase::GoingBack(_, duties, _) => {
                let duties = duties.iter().filter(|duty| duty.task == *task);
                again.extend(duties.map(|duty| ToTask::StartSession(Box::new(duty.clone()))));
            }
            Phase::Running => return self.reported_running(task, report, ctx),
            _ => {}
        }
        for body in again {
            self.tell(task, body, ctx);
        }
    }

    fn reported_running(&mut self, task: &TaskId, report: TaskReport, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let attempt = report.report.attempt;
        if report.stands_behind.is_some() && !leader.suspends {
            // The word that it may read on got lost.
            return self.tell(task, ToTask::ResumeSources, ctx);
        }
        if !report.report.running {
            return self.tell(task, ToTask::Release, ctx);
        }
        let names = report.report.splits.values().flatten();
        let known: Vec<u32> = names
            .map(|name| ctx.shared.workload.index(name) as u32)
            .collect();
        let lost = leader
            .assigned
            .iter()
            .filter(|(split, to)| *to == task && !known.contains(split));
        let lost: Vec<u32> = lost.map(|(split, _)| *split).collect();
        for split in lost {
            self.tell(task, ToTask::Assign { split, position: 0 }, ctx);
        }
        if let Some(snapshot) = report.finished {
            let task = task.clone();
            self.checkpoint_event(
                CheckpointEvent::Finished {
                    task,
                    attempt,
                    snapshot,
                    passed: report.passed,
                },
                ctx,
            );
        }
        if report.ended {
            let task = task.clone();
            self.checkpoint_event(CheckpointEvent::InputEnded { task, attempt }, ctx);
        }
        for (slot, found) in report.report.slots {
            let number = found.confirmed;
            self.checkpoint_event(
                CheckpointEvent::Confirmed {
                    slot,
                    attempt,
                    number,
                },
                ctx,
            );
            let machine = self.leader().and_then(|leader| leader.checkpoints.as_ref());
            if let (Some(acked), Some(machine)) = (found.acked, machine)
                && machine.resolve(acked) == Resolution::Decline
            {
                self.tell(task, ToTask::Decline(acked), ctx);
            }
        }
    }

    // Garbage (P12).

    fn collect(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let retained = Retention::try_new(ctx.shared.retained).expect("at least one is retained");
        let Some(leader) = self.leader() else { return };
        let Some(machine) = &leader.checkpoints else {
            return;
        };
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        if now < leader.last_gc + 300_000 || leader.gc.is_some() || leader.export.is_some() {
            return;
        }
        leader.last_gc = now;
        let (gc, effects) = Gc::start(&head, retained, machine.protected_from());
        leader.gc = Some(gc);
        if ctx.reached(Step::P12) {
            self.gc_effects(effects, ctx);
        }
    }

    fn gc_effects(&mut self, effects: Vec<GcEffect>, ctx: &mut Ctx<'_>) {
        for effect in effects {
            match effect {
                GcEffect::List => {
                    let prefix = format!("{}/", paths().prefix());
                    self.request(What::Gc, StoreOp::List { prefix }, ctx);
                }
                GcEffect::ReadManifest(wanted) => {
                    if let Some(leader) = self.leader() {
                        leader.gc_reading = Some(wanted);
                    }
                    let path = object(&manifest_path(&wanted.name));
                    self.request(What::GcManifest, StoreOp::Get { path }, ctx);
                }
                GcEffect::ReadHead => {
                    let path = paths().head();
                    self.request(What::GcHead, StoreOp::Get { path }, ctx);
                }
                GcEffect::Delete(batch) => {
                    if ctx.reached(Step::P12) {
                        let paths = batch.iter().map(object).collect();
                        self.request(What::Gc, StoreOp::Delete { paths }, ctx);
                    }
                }
                GcEffect::Done(_) => {
                    if let Some(leader) = self.leader() {
                        leader.gc = None;
                    }
                }
            }
        }
    }

    pub(super) fn gc_answer(&mut self, what: &What, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(gc) = &mut leader.gc else { return };
        let event = match (what, answer) {
            (What::Gc, StoreAnswer::Listed(found)) => GcEvent::Listed(
                found
                    .iter()
                    .filter_map(|path| paths().relative(path))
                    .collect(),
            ),
            (What::Gc, StoreAnswer::Deleted) => GcEvent::Deleted,
            (What::GcHead, StoreAnswer::Found(bytes, tag)) => {
                GcEvent::HeadRead(Some(Box::new(versioned(&bytes, tag).head)))
            }
            (What::GcManifest, StoreAnswer::Found(bytes, _)) => match leader.gc_reading {
                Some(wanted) => {
                    let read = Manifest::decode_named(&bytes, wanted.hash).ok();
                    let reach = read.map(|manifest| Box::new(Reach::of(&manifest)));
                    GcEvent::ManifestRead(wanted.name, reach)
                }
                None => GcEvent::Failed,
            },
            _ => GcEvent::Failed,
        };
        let effects = gc.step(event);
        self.gc_effects(effects, ctx);
    }
}

/// A checkpoint was given up. No task that keeps the rules is refused for what it names.
fn given_up(failure: CheckpointFailure, ctx: &mut Ctx<'_>) {
    ctx.trace(|| format!("failed: {failure}"));
    if let CheckpointFailure::WrongSnapshot { task, id, fault } = failure {
        let violation = format!("O7: {task} breaks a rule in checkpoint {id}: {fault}");
        ctx.violations.push(violation);
    }
}
