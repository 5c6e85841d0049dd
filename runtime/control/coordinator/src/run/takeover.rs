//! A new leader and the attempt that workers still hold for an older one (L4): it goes on with it, or the region starts again.
//!
//! Entered once, before the first attempt of a leader whose workers outlive it. The decision is that of [`Takeover`]; this asks for the
//! reports, hears what happens meanwhile, and carries the decision out. The rule: whatever is unclear restarts the region, which is always
//! safe; and nothing is told to a worker before the decision except the question.

use std::collections::{BTreeMap, BTreeSet};

use highwater_connectors::Split;
use highwater_protocol::checkpoint::CheckpointEvent;
use highwater_protocol::job::TaskId;
use highwater_protocol::recovery::{Adoption, Fault, RegionRecovery, Takeover, TakeoverDecision};
use highwater_types::{AttemptId, CheckpointId, Epoch, ErrorKind};
use highwater_worker::{AttemptNews, WorkerCommand, WorkerEvent};

use crate::attempt::{After, Attempt, AttemptRim, AttemptStage, Confirming};
use crate::setup::JobFailure;
use crate::sources::{OpenSources, open_from};
use crate::start::failure;
use crate::status::{JobPhase, WaitBoard};

use super::{Coordinator, Done, Opening};

/// How long a leader waits for workers that may hold an attempt, where those that are there hold none and have slots enough.
const OTHERS_MAX_MS: u64 = 1_500;

/// The first leadership of a job: no worker can hold an attempt for an older one.
const FIRST: Epoch = Epoch(1);

/// A takeover on its way.
pub(super) struct TakingOver {
    machine: Takeover,
    began_ms: u64,
    /// Workers are there with slots enough, and none of them holds an attempt.
    all_free: bool,
    /// What has ended since it was reported, of every attempt.
    ended: BTreeSet<(AttemptId, TaskId)>,
    /// Checkpoints that were begun under an older leader, by attempt.
    begun: BTreeMap<AttemptId, BTreeSet<CheckpointId>>,
    /// Decided: the enumerators are being opened.
    adoption: Option<Box<Adoption>>,
}

impl TakingOver {
    /// Whether this attempt is decided to be adopted.
    fn adopts(&self, attempt: AttemptId) -> bool {
        let adoption = self.adoption.as_ref();
        adoption.is_some_and(|adoption| adoption.attempts.values().any(|of| *of == attempt))
    }
}

impl Coordinator {
    /// Goes on with what workers hold, or begins the first attempt.
    pub(super) fn take_over(&mut self) {
        let settled = self.keeper.settled().map(|settled| settled.head.clone());
        let head = settled.filter(|head| head.epoch > FIRST);
        let (Some(head), Some(_)) = (head, self.setup.outlived_max) else {
            return self.begin_attempt();
        };
        self.taking_over = Some(TakingOver {
            machine: Takeover::start(&head, &self.manifest, &self.shape),
            began_ms: self.now_ms(),
            all_free: false,
            ended: BTreeSet::new(),
            begun: BTreeMap::new(),
            adoption: None,
        });
        self.phase(JobPhase::Recovering);
        let what = "waits for workers that may hold the attempt of the coordinator before this one";
        self.status
            .send_modify(|status| status.waits_for = Some(what.to_owned()));
        self.send(WorkerCommand::Report(head.epoch));
    }

    /// What workers tell before the decision.
    pub(super) fn told_before(&mut self, event: WorkerEvent) {
        let Some(taking) = &mut self.taking_over else {
            return;
        };
        let mut decision = None;
        match event {
            WorkerEvent::AllFree(all_free) => taking.all_free = all_free,
            WorkerEvent::Reported(attempt, news) => {
                tracing::info!(attempt = attempt.0, "a worker holds an attempt");
                taking.begun.entry(attempt).or_default().extend(news.begun);
                for report in news.tasks {
                    if report.ended {
                        taking.ended.insert((attempt, report.task.clone()));
                    }
                    // A worker that comes again before the adoption reports again.
                    if taking.adopts(attempt) && !report.running {
                        decision = Some(TakeoverDecision::Restart);
                    }
                    if let Some(made) = taking.machine.report(report) {
                        decision = Some(made);
                    }
                }
            }
            WorkerEvent::InputEnded(attempt, task) => {
                taking.ended.insert((attempt, task));
            }
            // The newest attempt is over, whatever was decided. That of a zombie concerns nobody.
            WorkerEvent::Failed(attempt, report) | WorkerEvent::Damaged(attempt, _, report)
                if taking.machine.attempt() <= Some(attempt) =>
            {
                tracing::warn!(
                    attempt = attempt.0,
                    reason = report.message,
                    "the attempt has failed meanwhile"
                );
                decision = Some(TakeoverDecision::Restart);
            }
            // The recovery meets the same, and stops the job by name.
            WorkerEvent::Stop(attempt, _) if taking.machine.attempt() <= Some(attempt) => {
                decision = Some(TakeoverDecision::Restart);
            }
            // Late news of what was begun under an older leader; what still matters is asked or told again.
            _ => {}
        }
        if let Some(decision) = decision {
            self.takeover_decided(decision);
        }
    }

    /// Gives up waiting for reports.
    pub(super) fn look_at_takeover(&mut self) {
        let (now, max) = (self.now_ms(), self.setup.outlived_max);
        let Some(taking) = &mut self.taking_over else {
            return;
        };
        let waited = now.saturating_sub(taking.began_ms);
        let max = max.map_or(0, |max| max.as_millis() as u64);
        let is_over = waited >= max || (taking.all_free && waited >= OTHERS_MAX_MS);
        if is_over && let Some(decision) = taking.machine.deadline() {
            self.takeover_decided(decision);
        }
    }

    fn takeover_decided(&mut self, decision: TakeoverDecision) {
        let Some(taking) = &mut self.taking_over else {
            return;
        };
        WaitBoard::new(self.status.clone()).goes_on();
        let adoption = match decision {
            TakeoverDecision::Adopt(adoption) => adoption,
            TakeoverDecision::Restart => {
                self.taking_over = None;
                return self.begin_attempt();
            }
        };
        taking.adoption = Some(adoption);
        let name = self
            .keeper
            .settled()
            .map(|settled| settled.head.manifest.name);
        let Some(name) = name else {
            self.taking_over = None;
            return self.begin_attempt();
        };
        let (program, manifest) = (self.setup.program.clone(), self.manifest.clone());
        let store = self.store.clone();
        self.at_rim(async move {
            let opened = open_from(&store, &program, &manifest, name).await;
            Done::ToAdopt(Box::new(opened))
        });
    }

    /// The enumerators of an attempt that is adopted are open.
    pub(super) fn adopt(&mut self, opened: Result<OpenSources, JobFailure>) {
        let Some(taking) = self.taking_over.take() else {
            // It failed meanwhile, and the region starts again.
            return;
        };
        let settled = self.keeper.settled().map(|settled| settled.head.clone());
        let (Ok(sources), Some(adoption), Some(head)) = (opened, taking.adoption, settled) else {
            // The recovery meets the same failure, and says it.
            return self.begin_attempt();
        };
        let Some(&attempt) = adoption.attempts.values().next() else {
            return self.begin_attempt();
        };
        debug_assert!(self.opening == Opening::No && self.attempt.is_none());
        tracing::info!(
            attempt = attempt.0,
            "goes on with the attempt that workers hold"
        );
        self.last_attempt = attempt;
        let id = head.checkpoint();
        self.send(WorkerCommand::Adopt(attempt, head.epoch, id));
        let begun = taking.begun.get(&attempt).into_iter().flatten().copied();
        let given_up = begun.chain(adoption.declines.iter().map(|of| of.1));
        for begun in given_up
            .filter(|begun| *begun != id)
            .collect::<BTreeSet<_>>()
        {
            self.send(WorkerCommand::Declined(attempt, begun));
        }
        if id.number > 0 {
            self.send(WorkerCommand::Completed(attempt, id));
        }
        let read = adoption.splits.iter();
        let read = read.map(|(uid, splits)| (uid.clone(), splits.keys().cloned().collect()));
        let found = sources.iter().map(|(uid, (source, splits))| {
            let splits: Vec<Split> = splits.clone();
            (uid.clone(), splits, source.complete)
        });
        let found: Vec<_> = found.collect();
        self.attempt = Some(Attempt {
            id: attempt,
            stage: AttemptStage::Running,
            region: RegionRecovery::adopted(&head),
            sources,
            read: read.collect(),
            duties: Vec::new(),
            confirming: Confirming::Yes,
            waits_for_head: false,
            fault: Fault::State,
            after: After::Restart,
            cancelled_ms: None,
            rim: AttemptRim::default(),
        });
        for (uid, splits, complete) in found {
            self.assign(attempt, &uid, splits, complete);
        }
        let unconfirmed = adoption.unconfirmed;
        self.machine = self.machine.clone().with_unconfirmed(unconfirmed);
        self.tasks_run(attempt);
        let later = taking.ended.into_iter();
        let later = later.filter(|(of, _)| *of == attempt).map(|(_, task)| task);
        for task in adoption
            .ended
            .into_iter()
            .chain(later)
            .collect::<BTreeSet<_>>()
        {
            self.step(self.now_ms(), CheckpointEvent::InputEnded { task, attempt });
        }
        // There was none for a while, and a slot that asked for one does not ask again.
        self.step(self.now_ms(), CheckpointEvent::Wanted);
    }

    /// A worker of the attempt that was adopted reports again: it had come twice before.
    pub(super) fn reported_again(&mut self, attempt: AttemptId, news: AttemptNews) {
        for report in news.tasks {
            if !report.running {
                let message = "a worker reports that its part of the attempt does not run";
                self.note_failure("a takeover", &failure(ErrorKind::Transient, message));
                return self.cancel(After::Restart);
            }
            if report.ended {
                let task = report.task;
                self.step(self.now_ms(), CheckpointEvent::InputEnded { task, attempt });
            }
        }
    }

    /// The number of the next attempt: above that of the last one, also of one that was adopted, and above those of older leaders.
    pub(super) fn next_attempt(&self) -> AttemptId {
        self.last_attempt.max(self.first_attempt).next()
    }
}
