//! The start of a leader with everything that follows from it, and *Going back* on its way: both happen while no attempt
//! runs, and both leave `head` settled with a manifest that can be gone on from.

use std::collections::BTreeMap;

use highwater_protocol::checkpoint::{CheckpointCoordinator, CheckpointEvent};
use highwater_protocol::head::JobEnd;
use highwater_protocol::head_write::HeadKeeper;
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::nonce::{NonceStream, TrySource};
use highwater_protocol::recovery::Fault;
use highwater_protocol::steps::Step;
use highwater_types::AttemptId;
use highwater_worker::WorkerEvent;
use tokio::sync::mpsc;

use crate::deploy::LogCheck;
use crate::going_back::{Broken, Damage, Detour, Detoured, Work};
use crate::request::{JobRequest, RequestRefused, until_ended};
use crate::savepoint::Savepoint;
use crate::setup::{CoordinatorSetup, JobFailure, JobOutcome};
use crate::start::{Begun, Externals, Found, StartInput, start as start_leader};
use crate::status::{JobPhase, WaitBoard};
use crate::store::JobStore;
use crate::trial_restore::Stage;

use super::redeploy::take_up;
use super::{Collecting, Coordinator};

/// What a start works with.
pub(super) struct StartParts<'a> {
    pub(super) setup: &'a mut CoordinatorSetup,
    pub(super) store: &'a JobStore,
    pub(super) events: &'a mut mpsc::Receiver<WorkerEvent>,
    pub(super) requests: &'a mut mpsc::Receiver<JobRequest>,
    pub(super) waits: &'a WaitBoard,
}

/// A leader whose `head` can be gone on from.
pub(super) struct Lead {
    pub(super) keeper: HeadKeeper,
    pub(super) manifest: Manifest,
    pub(super) shape: JobShape,
    pub(super) externals: Externals,
    pub(super) nonces: NonceStream,
    pub(super) tries: TrySource,
    pub(super) last_attempt: AttemptId,
}

/// How a start ended before an attempt could run.
pub(super) enum NotBegun {
    /// The job ends.
    Ended(Result<JobOutcome, JobFailure>),
    /// An attempt does not end: nobody waits for the threads of the worker.
    Stuck(JobFailure),
    /// `head` says that the job has ended, and nobody wants it to go on: nothing was changed.
    Over(JobEnd),
}

impl From<JobFailure> for NotBegun {
    fn from(failure: JobFailure) -> Self {
        Self::Ended(Err(failure))
    }
}

impl From<Broken> for NotBegun {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Cancelled => Self::Ended(Ok(JobOutcome::Cancelled)),
            Broken::Failed(failure) => Self::Ended(Err(failure)),
            Broken::Stuck(failure) => Self::Stuck(failure),
        }
    }
}

/// Takes the leadership; a checkpoint whose manifest cannot be read is given up first.
pub(super) async fn lead(parts: StartParts<'_>) -> Result<Lead, NotBegun> {
    let StartParts {
        setup,
        store,
        events,
        requests,
        waits,
    } = parts;
    let mut nonces = NonceStream::new(setup.seed);
    let limit = setup.settings.cancellation_timeout;
    let mut stage = Stage::new(&setup.worker, &mut *events, limit);
    let input = StartInput {
        program: &setup.program,
        identity: &setup.job,
        settings: &setup.settings,
        store,
        wish: &setup.wish,
        goes_past: setup.goes_past,
        stop: &setup.stop,
        waits,
        stage: &mut stage,
    };
    // In one process nobody else stands for election: a candidate is the one that starts.
    (setup.stop)(Step::R1);
    // No record flows yet, so a start that is left where it is stands as one that was killed there: the next one goes on.
    // What may run is user code that opens a state: nobody joins its thread before it has returned.
    let leader = tokio::select! {
        biased;
        begun = start_leader(input, &mut nonces) => match begun? {
            Begun::Leads(leader) => *leader,
            Begun::Over(end) => return Err(NotBegun::Over(end)),
        },
        () = until_ended(requests, waits) => {
            stage.clear().await?;
            return Err(NotBegun::Ended(Ok(JobOutcome::Cancelled)));
        }
    };
    let (mut shape, externals, mut keeper) = (leader.shape, leader.externals, leader.keeper);
    let mut last_attempt = leader.last_attempt;
    let tries = TrySource::new(NonceStream::new(nonces.draw()));
    let mut found = match leader.manifest {
        Found::Whole(manifest) => Some(*manifest),
        Found::Unreadable => None,
    };
    // What is to be done first for the checkpoint in `head` is done at its parallelism, for which there are slots.
    if let Some(manifest) = found.as_mut().filter(|_| leader.savepoint.is_none()) {
        shape = take_up(setup, manifest, &externals)?.unwrap_or(shape);
    }
    let mut detour = Detour {
        setup,
        store,
        shape: &shape,
        externals: &externals,
        logs: LogCheck::Verify,
        keeper: &mut keeper,
        nonces: &mut nonces,
        last_attempt: &mut last_attempt,
        events,
        requests,
        waits,
        unanswered: BTreeMap::new(),
    };
    let (mut manifest, tries) = usable(&mut detour, found, leader.savepoint, tries).await?;
    let shape = take_up(setup, &mut manifest, &externals)?.unwrap_or(shape);
    Ok(Lead {
        keeper,
        manifest,
        shape,
        externals,
        nonces,
        tries,
        last_attempt,
    })
}

/// A manifest that can be gone on from: the one that was found, after it was given up if it cannot be read or `head` says
/// that an older leader chose so, and after the savepoint was taken if there is one to take.
async fn usable(
    detour: &mut Detour<'_>,
    mut manifest: Option<Manifest>,
    mut savepoint: Option<Savepoint>,
    mut tries: TrySource,
) -> Result<(Manifest, TrySource), NotBegun> {
    let settled = detour.keeper.settled();
    let mut chosen = settled.is_some_and(|settled| settled.head.giving_up.is_some());
    let (mut is_void, mut fault) = (chosen, Fault::State);
    loop {
        let damage = Damage {
            fault,
            manifest: manifest.clone(),
        };
        let work = match (manifest, &savepoint) {
            (Some(_), Some(savepoint)) if chosen => Work::Replace(savepoint),
            (Some(manifest), None) if !is_void && manifest.drained => Work::End,
            (Some(manifest), None) if !is_void => return Ok((manifest, tries)),
            (Some(_), Some(savepoint)) if !is_void => Work::Take(savepoint),
            _ => Work::GoBack,
        };
        let is_taking = matches!(work, Work::Take(_) | Work::Replace(_));
        let (detoured, left) = detour.run(work, &damage, tries).await;
        tries = left;
        // What was chosen is carried out, or the job ends.
        (chosen, is_void, fault) = (false, false, Fault::State);
        manifest = match detoured {
            Detoured::Back(older) => Some(*older),
            // What is pending was being given up: that is finished, then the savepoint is taken.
            Detoured::Void => {
                is_void = true;
                damage.manifest
            }
            Detoured::LogDamaged => {
                (is_void, fault) = (true, Fault::Log);
                damage.manifest
            }
            Detoured::Ended(end) => return Err(NotBegun::Ended(end)),
            Detoured::Stuck(failure) => return Err(NotBegun::Stuck(failure)),
            // Output is visible: each slot finds out whether it needs its own log.
            Detoured::Recover => {
                detour.logs = LogCheck::Skip;
                damage.manifest
            }
        };
        if is_taking && !is_void {
            savepoint = None;
        }
    }
}

impl Coordinator {
    /// Whether the checkpoint in `head` is to be given up now: a collection that still runs may delete what is to take
    /// its place.
    pub(super) fn may_go_back(&self) -> bool {
        self.detour.is_some()
            && self.collecting == Collecting::No
            && self.keeper.settled().is_some()
    }

    /// Gives the checkpoint in `head` up, then begins the next attempt.
    pub(super) async fn go_back(
        &mut self,
        events: &mut mpsc::Receiver<WorkerEvent>,
        requests: &mut mpsc::Receiver<JobRequest>,
    ) {
        let Some(fault) = self.detour.take() else {
            return;
        };
        self.phase(JobPhase::Recovering);
        // Nobody works on what was asked for before: the machine that knew of it ends here.
        // A stop alone is held: the next machine is asked for it again.
        let stop = self.machine.held_stop().cloned();
        let asked: Vec<_> = self.answers.keys().copied().collect();
        for request in asked {
            if stop.as_ref().is_some_and(|stop| stop.request == request) {
                continue;
            }
            let reason = "the job goes back to an older checkpoint".to_owned();
            self.answer(request, &Err(RequestRefused::NotRunning(reason)));
        }
        self.stopping = stop.as_ref().map(|stop| stop.request);
        self.forget_redeployments();
        let damage = Damage {
            fault,
            manifest: Some(self.manifest.clone()),
        };
        let mut detour = Detour {
            setup: &self.setup,
            store: &self.store,
            shape: &self.shape,
            externals: &self.externals,
            // The fault that led here may be a log.
            logs: LogCheck::Skip,
            keeper: &mut self.keeper,
            nonces: &mut self.nonces,
            last_attempt: &mut self.last_attempt,
            events,
            requests,
            waits: &WaitBoard::new(self.status.clone()),
            unanswered: BTreeMap::new(),
        };
        let tries = self.machine.clone().into_tries();
        let (mut detoured, mut tries) = detour.run(Work::GoBack, &damage, tries).await;
        if matches!(detoured, Detoured::Recover) && self.manifest.drained {
            // Every window has fired: what is pending is confirmed or stops by name, and no record is read again.
            (detoured, tries) = detour.run(Work::End, &damage, tries).await;
        }
        match detoured {
            Detoured::Back(manifest) => {
                self.manifest = *manifest;
                self.logs = LogCheck::Verify;
            }
            Detoured::Recover | Detoured::Void | Detoured::LogDamaged => self.logs = LogCheck::Skip,
            Detoured::Ended(end) => {
                self.end = Some(end);
                return;
            }
            Detoured::Stuck(failure) => {
                (self.is_stuck, self.end) = (true, Some(Err(failure)));
                return;
            }
        }
        if let Err(failure) = self.reshape() {
            self.end = Some(Err(failure));
            return;
        }
        let settled = self.keeper.settled().expect("a detour settles head");
        let (settings, head) = (self.setup.settings.checkpoint, settled.head.clone());
        let shape = self.shape.clone();
        self.machine = CheckpointCoordinator::new(settings, shape, head, &self.manifest, tries);
        if let Some(stop) = stop {
            self.step(self.now_ms(), CheckpointEvent::Request(stop));
        }
        self.begin_attempt();
    }
}
