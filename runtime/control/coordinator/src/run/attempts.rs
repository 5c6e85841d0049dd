//! Attempts: begun once `head` is settled, recovered in the order of L5, cancelled as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_connectors::{KnownMarkers, WriterContext};
use highwater_protocol::checkpoint::CheckpointEvent;
use highwater_protocol::recovery::{Fault, RegionEffect, RegionEvent, RegionRecovery};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::SlotKey;
use highwater_types::{AttemptId, ErrorKind, Parallelism, SubtaskIndex};
use highwater_worker::{FailureReport, WorkerCommand};
use tokio::task::JoinError;

use crate::attempt::{After, Attempt, AttemptRim, AttemptStage, Confirming};
use crate::deploy::{DeployInput, deployment};
use crate::setup::{JobFailure, JobOutcome};
use crate::sources::{OpenSources, open_from};
use crate::start::{failed, failure, target_failed};
use crate::status::{JobPhase, WaitBoard, describe};
use crate::store::backoff;

use super::{Coordinator, Done, Opening};

impl Coordinator {
    /// Begins the next attempt once `head` is settled (L1): opens the enumerators first.
    pub(super) fn begin_attempt(&mut self) {
        let is_free = self.attempt.is_none() && self.opening == Opening::No;
        let settled = self.keeper.settled();
        let name = settled.map(|settled| settled.head.manifest.name);
        let Some(name) = name.filter(|_| is_free && self.end.is_none()) else {
            self.restart_at_ms = Some(self.now_ms());
            return;
        };
        self.restart_at_ms = None;
        if let Err(failure) = self.take_shape() {
            return self.fail(failure);
        }
        self.opening = Opening::Yes;
        self.phase(JobPhase::Recovering);
        let (program, manifest) = (self.setup.program.clone(), self.manifest.clone());
        let store = self.store.clone();
        self.at_rim(async move {
            let opened = open_from(&store, &program, &manifest, name).await;
            Done::SourcesOpen(Box::new(opened))
        });
    }

    pub(super) fn sources_open(&mut self, opened: Result<OpenSources, JobFailure>) {
        self.opening = Opening::No;
        let sources = match opened {
            Ok(sources) => sources,
            Err(failure) => {
                self.note_failure("opening the sources", &failure);
                return self.follow(After::of(failure));
            }
        };
        let Some(settled) = self.keeper.settled().cloned() else {
            self.restart_at_ms = Some(self.now_ms());
            return;
        };
        let is_read = sources
            .values()
            .all(|(source, splits)| source.complete && splits.is_empty());
        if is_read && self.manifest.id.number > 0 {
            tracing::warn!(
                checkpoint = %self.manifest.id,
                "all input was read before and nothing is left: what is bounded ends where it ended when the job first began; `--fresh` begins again"
            );
        }
        self.last_attempt = self.next_attempt();
        let alive = BTreeSet::new();
        let (region, effects) =
            RegionRecovery::start(&settled.head, &self.manifest, &self.shape, &alive);
        self.attempt = Some(Attempt {
            id: self.last_attempt,
            stage: AttemptStage::Recovering,
            region,
            sources,
            read: BTreeMap::new(),
            duties: Vec::new(),
            confirming: Confirming::No,
            waits_for_head: false,
            fault: Fault::State,
            after: After::Restart,
            cancelled_ms: None,
            rim: AttemptRim::default(),
        });
        self.region_effects(effects);
    }

    pub(super) fn region(&mut self, event: RegionEvent) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let effects = attempt.region.step(event);
        self.region_effects(effects);
    }

    pub(super) fn region_effects(&mut self, effects: Vec<RegionEffect>) {
        for effect in effects {
            match effect {
                RegionEffect::Free(slot) => self.free(slot),
                RegionEffect::StartSession(duty) => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.duties.push(duty);
                    }
                }
                RegionEffect::VerifyAll => {
                    (self.setup.stop)(Step::R5);
                    self.prepare();
                }
                RegionEffect::OpenAll => {
                    self.confirm();
                    (self.setup.stop)(Step::R6);
                    self.send(WorkerCommand::Open(self.last_attempt));
                }
                RegionEffect::Release => self.release(),
                RegionEffect::GoBack => {
                    let fault = self.attempt.as_ref().map(|attempt| attempt.fault);
                    self.cancel(After::GoBack(fault.unwrap_or(Fault::State)));
                }
            }
        }
        let has_duties = self
            .attempt
            .as_ref()
            .is_some_and(|held| !held.duties.is_empty());
        if has_duties {
            self.confirm();
        }
    }

    /// Ends whatever an older attempt has open in this slot, so that no reader waits for it (R3).
    pub(super) fn free(&mut self, slot: SlotKey) {
        (self.setup.stop)(Step::R3);
        let plan = self.setup.program.plan();
        let node = plan.sinks().find(|node| *plan.uid(*node) == slot.sink);
        let code = node.and_then(|node| self.setup.program.sink(node).cloned());
        let attempt = self.last_attempt;
        let Some(code) = code else {
            // The sink is not in this job any more; the restore was allowed because nothing of it is pending.
            return self.region(RegionEvent::Freed(slot));
        };
        let sink = self.shape.sinks.get(&slot.sink);
        let markers = sink.map(|sink| sink.external.marker_topic.clone());
        let context = WriterContext {
            job: self.setup.job.clone(),
            lineage: self.lineage(),
            uid: slot.sink.clone(),
            subtask: SubtaskIndex(slot.slot),
            parallelism: Parallelism(sink.map_or(1, |sink| sink.slots)),
        };
        let waits = WaitBoard::new(self.status.clone());
        let freeing = self.at_rim(async move {
            let mut tries = 1;
            loop {
                let (code, context) = (Arc::clone(&code), context.clone());
                let known = KnownMarkers::Made(markers.clone());
                let opened = tokio::task::spawn_blocking(move || {
                    match code.target(&context).map_err(|error| failed(&error))? {
                        Some(mut target) => {
                            target.expect_markers(known);
                            let opened = target.open_session();
                            opened.map_err(|error| target_failed(&error))
                        }
                        None => Ok(()),
                    }
                });
                let bug = |error: JoinError| Err(failure(ErrorKind::Bug, error.to_string()));
                match opened.await.unwrap_or_else(bug) {
                    Ok(()) => {
                        waits.goes_on();
                        return Done::Freed(attempt, slot);
                    }
                    // Another process may hold the slot for a moment: its session ends or this leader does.
                    Err(refused)
                        if matches!(refused.kind, ErrorKind::Transient | ErrorKind::Fenced) =>
                    {
                        waits.waits(&format!("sink slot {slot}"), &refused.message, tries);
                        tries += 1;
                        tokio::time::sleep(backoff(tries)).await;
                    }
                    Err(refused) => {
                        let message = format!("sink slot {slot}: {}", refused.message);
                        return Done::Lost(attempt, failure(refused.kind, message));
                    }
                }
            }
        });
        if let Some(attempt) = &mut self.attempt {
            attempt.rim.hold(freeing);
        }
    }

    pub(super) fn lineage(&self) -> highwater_types::Lineage {
        self.manifest.lineage
    }

    /// The preparation that has waited for the decision of a write of `head`: the end of the job that was written meanwhile was refused.
    pub(super) fn prepare_late(&mut self) {
        let waits = |held: &Attempt| held.waits_for_head && held.stage == AttemptStage::Recovering;
        if self.attempt.as_ref().is_some_and(waits) {
            self.prepare();
        }
    }

    /// Tells the worker what the attempt is, once `head` is settled (L1).
    pub(super) fn prepare(&mut self) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let settled = self.keeper.settled();
        attempt.waits_for_head = settled.is_none();
        let Some(settled) = settled else { return };
        let input = DeployInput {
            program: &self.setup.program,
            shape: &self.shape,
            head: &settled.head,
            manifest: &self.manifest,
            attempt: attempt.id,
            sources: &attempt.sources,
            first_markers: &self.externals.markers,
            logs: self.logs,
            unmatched: self.setup.settings.restore.unmatched,
        };
        match deployment(&input) {
            Ok(deployment) => {
                self.prepared_ms = self.now_ms();
                self.send(WorkerCommand::Prepare(Box::new(deployment)));
            }
            Err(error) => {
                let failure = failed(&error);
                self.note_failure("restoring", &failure);
                self.cancel(After::of(failure));
            }
        }
    }

    /// Tells the worker its duties, once.
    pub(super) fn confirm(&mut self) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        if attempt.confirming == Confirming::Yes {
            return;
        }
        attempt.confirming = Confirming::Yes;
        let (id, duties) = (attempt.id, std::mem::take(&mut attempt.duties));
        (self.setup.stop)(Step::R4);
        self.send(WorkerCommand::Confirm(id, duties));
    }

    /// Lets records flow (R7).
    pub(super) fn release(&mut self) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.stage = AttemptStage::Running;
        let id = attempt.id;
        (self.setup.stop)(Step::R7);
        self.send(WorkerCommand::Run(id));
        self.tasks_run(id);
    }

    /// The tasks of the attempt run: checkpoints may begin.
    pub(super) fn tasks_run(&mut self, id: AttemptId) {
        let attempts = self
            .shape
            .tasks
            .keys()
            .map(|task| (task.clone(), id))
            .collect();
        let now = self.now_ms();
        self.discovery_at_ms = now;
        self.restart.running(now);
        let effects = self
            .machine
            .step(now, CheckpointEvent::TasksRunning { attempts });
        self.phase(if self.stopping.is_some() {
            JobPhase::Stopping
        } else {
            JobPhase::Running
        });
        // Before what waits begins another checkpoint.
        self.redeployed();
        self.perform(effects);
    }

    /// Has the worker end the attempt; `after` says what follows, where what was to follow already gives way to it.
    pub(super) fn cancel(&mut self, after: After) {
        let now = self.now_ms();
        let Some(attempt) = &mut self.attempt else {
            return self.follow(after);
        };
        if attempt.after.gives_way_to(&after) {
            attempt.after = after;
        }
        if attempt.stage == AttemptStage::Cancelling {
            return;
        }
        if matches!(attempt.after, After::Restart | After::GoBack(_)) {
            self.status.send_modify(|status| status.times.lost(now));
        }
        attempt.stage = AttemptStage::Cancelling;
        attempt.cancelled_ms = Some(now);
        attempt.rim.abort();
        let id = attempt.id;
        let effects = self.machine.step(now, CheckpointEvent::TasksLost);
        self.send(WorkerCommand::Cancel(id));
        self.perform(effects);
    }

    /// Ends this leadership and leaves the attempt to the next leader, where workers outlive their coordinator; else ends it too. A job
    /// that has ended, as `head` says under this leader, is not left to anybody.
    pub(super) fn leave(&mut self, end: Result<JobOutcome, JobFailure>) {
        let over = self.attempt.as_ref().and_then(|held| held.after.over());
        let end = match (end, over) {
            (Err(fenced), _) if fenced.kind == ErrorKind::Fenced => Err(fenced),
            (_, Some(outcome)) => Ok(outcome),
            (end, None) => end,
        };
        if self.setup.outlived_max.is_some() {
            self.end = Some(end);
            return;
        }
        self.cancel(match end {
            Ok(outcome) => After::End(outcome),
            Err(failure) => After::Fail(failure),
        });
    }

    pub(super) fn follow(&mut self, after: After) {
        match after {
            After::End(outcome) => self.end = Some(Ok(outcome)),
            After::Fail(failure) => self.fail(failure),
            After::GoBack(fault) => self.detour = Some(fault),
            After::Redeploy => self.begin_attempt(),
            After::Restart => {
                let now = self.now_ms();
                if let Some(delay) = self.restart.next(now) {
                    let at_ms = now + delay.as_millis() as u64;
                    self.restart_at_ms = Some(at_ms);
                    self.phase(JobPhase::Restarting { at_ms });
                } else {
                    let failure = self.no_restart_left();
                    self.fail(failure);
                }
            }
        }
    }

    /// The job fails, unless `head` says that it has ended: while that is not decided the failure waits. One that is fenced does not, which
    /// is of another leader's `head`. An end that stands while it is noted is not taken back.
    fn fail(&mut self, failure: JobFailure) {
        if failure.kind == ErrorKind::Fenced {
            self.end = Some(Err(failure));
        } else if self.machine.is_ending() {
            self.failed_meanwhile.get_or_insert(failure);
        } else {
            self.end.get_or_insert(Err(failure));
        }
    }

    /// The failure that came while the end of the job was written, once that turned out not to be.
    pub(super) fn fail_late(&mut self) {
        if self.machine.is_ending() || self.end.is_some() {
            return;
        }
        if let Some(failure) = self.failed_meanwhile.take() {
            self.end = Some(Err(failure));
        }
    }

    /// The last failure, and that the strategy gives no further attempt.
    fn no_restart_left(&self) -> JobFailure {
        let spent = self.restart.spent();
        let status = self.status.borrow();
        match status.failures.last() {
            None => failure(ErrorKind::Exhausted, format!("the attempt failed; {spent}")),
            Some(last) => {
                let message = format!("{}; {spent}", describe(&last.report));
                failure(last.report.kind, message)
            }
        }
    }

    pub(super) fn note_failure(&self, task: &str, failure: &JobFailure) {
        tracing::error!(task, error = failure.message, "attempt failed");
        let report = FailureReport::of(task, failure.kind, failure.message.as_str());
        self.keep_failure(report);
        self.count_restart();
    }
}
