//! Recovery of an attempt, in the order of the protocol: verify, confirm, open, run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_connectors::{KnownMarkers, WriterContext};
use highwater_network::Compression;
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::recovery::{Fault, SlotDuty};
use highwater_protocol::stop::SlotKey;
use highwater_state::MemoryBudget;
use highwater_types::{AttemptId, Classified, ErrorKind, Parallelism, SlotIndex, SubtaskIndex};

use crate::build::{SliceContext, SubtaskParts, build, operators_of, wire};
use crate::files::{AttemptFiles, BlockingLogs, LocalPlace, Restored, restore};
use crate::local_dirs::LocalIndex;
use crate::messages::{Deployment, FailureReport, History, RestoredBytes, WorkerEvent};
use crate::sink::driver::{DriverParts, SlotStart};
use crate::sink::{SinkControl, SinkMailbox, spawn};
use crate::slot::{SlotLetter, error_chain};

use super::witness::Witness;
use super::{Attempt, Stage, Worker, WorkerInput, sink_failure, slot_failure};

impl Worker {
    /// Takes an attempt, at the parallelism that it is deployed at, and fetches its state (R5).
    pub(super) fn prepare(&mut self, deployment: Box<Deployment>) {
        let attempt = deployment.attempt;
        if let Some(held) = &self.current {
            let of = held.deployment.attempt;
            if of == attempt {
                tracing::warn!(
                    attempt = attempt.0,
                    "told again to prepare what it prepares"
                );
                return;
            }
            let message = format!(
                "attempt {} was sent while attempt {} is held",
                attempt.0, of.0
            );
            let report = FailureReport::of("the worker", ErrorKind::Bug, message);
            return self.tell(WorkerEvent::Failed(attempt, Box::new(report)));
        }
        let program = match self.setup.program.at(&deployment.parallelism) {
            Ok(program) => program,
            Err(error) => {
                let message = format!(
                    "attempt {attempt} is to run at a parallelism that the program cannot run at: {error}"
                );
                let report = FailureReport::of("the worker", ErrorKind::Bug, message);
                return self.tell(WorkerEvent::Failed(attempt, Box::new(report)));
            }
        };
        self.board.begin(attempt);
        let files = AttemptFiles::start(deployment.restored, BTreeMap::new());
        self.current = Some(Attempt {
            witness: Witness::of(&deployment),
            deployment,
            program,
            states: BTreeMap::new(),
            mailboxes: Arc::default(),
            drivers: Vec::new(),
            unopened: BTreeSet::new(),
            undropped: BTreeSet::new(),
            unlinked: BTreeSet::new(),
            links: Vec::new(),
            drivers_ended: false,
            stage: Stage::Active,
            parts: BTreeMap::new(),
            files,
        });
        self.fetch(attempt);
    }

    /// Opens the sink slots and begins their duties (R4).
    pub(super) fn confirm(&mut self, attempt: AttemptId, duties: &[SlotDuty]) {
        let Some(mut held) = self
            .current
            .take_if(|held| held.deployment.attempt == attempt)
        else {
            return;
        };
        let opened = self.open_slots(&mut held, duties);
        self.current = Some(held);
        if let Err(report) = opened {
            self.fail(attempt, report);
        }
    }

    fn open_slots(&mut self, held: &mut Attempt, duties: &[SlotDuty]) -> Result<(), FailureReport> {
        let mut mailboxes = BTreeMap::new();
        let opened = self.open_each(held, duties, &mut mailboxes);
        // Also after a failure: the drivers that run already end only if they are told to.
        held.mailboxes = Arc::new(mailboxes);
        opened
    }

    fn open_each(
        &mut self,
        held: &mut Attempt,
        duties: &[SlotDuty],
        mailboxes: &mut BTreeMap<SlotKey, SinkMailbox>,
    ) -> Result<(), FailureReport> {
        let program = held.program.clone();
        let plan = program.plan();
        for node in plan.sinks() {
            let uid = plan.uid(node).clone();
            let Some(markers) = held.deployment.markers.get(&uid).cloned() else {
                continue;
            };
            let parallelism = plan.graph.node(node).parallelism.unwrap_or(Parallelism(1));
            let of_sink = duties.iter().filter(|duty| duty.slot.sink == uid);
            let last = of_sink.map(|duty| duty.slot.slot + 1).max().unwrap_or(0);
            for slot in 0..parallelism.0.max(last) {
                let key = SlotKey {
                    sink: uid.clone(),
                    slot,
                };
                let duty = duties.iter().find(|duty| duty.slot == key);
                let is_here = slot < parallelism.0
                    && held
                        .deployment
                        .standing
                        .other_of(SubtaskIndex(slot))
                        .is_none();
                // Duties are told to the worker that has them; a slot that is not used any more has nothing else.
                if !is_here && duty.is_none() {
                    continue;
                }
                let code = program.sink(node);
                let code = code.unwrap_or_else(|| unreachable!("{uid} is a sink"));
                let context = WriterContext {
                    job: self.setup.job.clone(),
                    lineage: held.deployment.lineage,
                    uid: uid.clone(),
                    subtask: SubtaskIndex(slot),
                    parallelism,
                };
                let target = code
                    .target(&context)
                    .map_err(|error| slot_failure(&key, error.kind(), error_chain(&error)))?;
                let Some(mut target) = target else { continue };
                // The leader has asked for it: a place that is not there any more is not made again.
                target.expect_markers(KnownMarkers::Made(Some(markers.place.clone())));
                let mailbox = SinkMailbox::new();
                let parts = DriverParts {
                    config: highwater_protocol::sink_slot::SlotConfig {
                        key: key.clone(),
                        markers: highwater_protocol::sink_slot::MarkerTopic {
                            id: markers.place.clone(),
                            from: markers.from,
                        },
                        spool_bytes_max: self.setup.settings.spool_bytes_max,
                    },
                    start: SlotStart::of(duty, held.deployment.restored.number),
                    target,
                    log: Box::new(BlockingLogs::new(
                        self.setup.files.clone(),
                        self.setup.rim.clone(),
                    )),
                    nonces: NonceStream::new(self.setup.nonces.draw()),
                    owner: (held.deployment.epoch, held.deployment.attempt),
                    mailbox: mailbox.clone(),
                    events: self.inputs.clone(),
                    clock: Arc::clone(&self.setup.clock),
                    stop: Arc::clone(&self.setup.stop),
                };
                held.drivers
                    .push(spawn(parts).map_err(|error| sink_failure(&key, &error))?);
                mailboxes.insert(key, mailbox);
            }
        }
        Ok(())
    }

    /// Fetches and verifies the state of the attempt, off the loop (R5).
    pub(super) fn fetch(&mut self, attempt: AttemptId) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        let states = std::mem::take(&mut held.deployment.states);
        let logs = std::mem::take(&mut held.deployment.logs);
        let (files, rim) = (self.setup.files.clone(), self.setup.rim.clone());
        let (dirs, mut index) = (self.setup.local.clone(), LocalIndex::default());
        self.kept.offer(&mut index);
        let job = move || {
            let local = dirs.map(|dirs| LocalPlace::new(dirs, index));
            let restored = rim.block_on(restore(&files, local.as_ref(), states));
            let restored = restored.map_err(|(subtask, error)| {
                let task = format!("restoring {}", subtask.uid);
                (Fault::State, restoring(task, subtask.subtask, &error))
            })?;
            for (slot, log) in logs {
                let whole = rim.block_on(files.fetch(&log.path, log.file));
                whole.map_err(|error| {
                    let task = format!("verifying the log of sink {}", slot.sink);
                    (Fault::Log, restoring(task, SubtaskIndex(slot.slot), &error))
                })?;
            }
            Ok(Box::new(restored))
        };
        let lost = |message| {
            let report = FailureReport::of("restoring", ErrorKind::Transient, message);
            Err((Fault::State, report))
        };
        self.off_loop(job, lost, move |states| {
            WorkerInput::Fetched(attempt, states)
        });
    }

    pub(super) fn fetched(
        &mut self,
        attempt: AttemptId,
        restored: Result<Box<Restored>, (Fault, FailureReport)>,
    ) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        match restored {
            Ok(restored) => {
                let Restored {
                    operators,
                    held: of_stores,
                    bytes: RestoredBytes { fetched, local },
                } = *restored;
                tracing::info!(
                    attempt = attempt.0,
                    fetched,
                    local,
                    "bytes of state restored"
                );
                held.states = operators;
                held.files = AttemptFiles::start(held.deployment.restored, of_stores);
                self.tell(WorkerEvent::Verified(
                    attempt,
                    RestoredBytes { fetched, local },
                ));
            }
            Err((fault, report)) if report.kind == ErrorKind::Corrupt => {
                self.damaged(attempt, fault, report);
            }
            Err((_, report)) => self.fail(attempt, report),
        }
    }

    /// Builds the slices (R6).
    pub(super) fn build(&mut self, attempt: AttemptId) {
        let Some(held) = self.active(attempt) else {
            return;
        };
        let mut states = std::mem::take(&mut held.states);
        let standing = held.deployment.standing.clone();
        let program = held.program.clone();
        let slots = self.slots.len() as u32;
        let wakers: Vec<_> = self
            .slots
            .iter()
            .map(|slot| Arc::clone(&slot.waker))
            .collect();
        let slot_of = |subtask| {
            let slot = standing.slot_of(subtask, slots);
            slot.unwrap_or_else(|| unreachable!("only what runs here is built"))
        };
        let plane = self.setup.plane.as_ref();
        let compression = plane.map_or(Compression::Off, |plane| plane.compression());
        let (parts, links) = wire(&program, (&standing, compression), |subtask| {
            wakers[slot_of(subtask).0 as usize].handle()
        });
        let budget = MemoryBudget::new(self.setup.settings.state_bytes_max);
        let mut slices: BTreeMap<SlotIndex, Vec<SubtaskParts>> = (0..slots)
            .map(|slot| (SlotIndex(slot), Vec::new()))
            .collect();
        if let Err(report) = self.connect(attempt, links) {
            return self.fail(attempt, report);
        }
        let Some(held) = self.current.as_mut() else {
            return;
        };
        for (_, mut part) in parts {
            for operator in operators_of(&part, &program) {
                if let Some(state) = states.remove(&operator) {
                    part.states.insert(operator.uid.clone(), state);
                }
                if let Some(splits) = held.deployment.splits.remove(&operator) {
                    part.complete = held.deployment.complete.contains(&operator.uid);
                    part.splits = splits;
                }
            }
            slices.entry(slot_of(part.subtask)).or_default().push(part);
        }
        held.unopened = slices.keys().copied().collect();
        held.undropped = held.unopened.clone();
        for (slot, parts) in slices {
            let context = SliceContext {
                program: program.clone(),
                job: self.setup.job.clone(),
                lineage: held.deployment.lineage,
                rim: self.setup.rim.clone(),
                wake: self.slots[slot.0 as usize].waker.handle(),
                budget: budget.clone(),
                store: self.setup.store.clone(),
                is_restored: held.deployment.history == History::Restored,
                unmatched: held.deployment.unmatched,
                sinks: Arc::clone(&held.mailboxes),
                stop: Arc::clone(&self.setup.stop),
            };
            let builder = Box::new(move |clock: &highwater_operators::TaskClock| {
                parts
                    .into_iter()
                    .map(|part| build(&context, part, clock))
                    .collect()
            });
            self.slots[slot.0 as usize].send(SlotLetter::Build(attempt, builder));
        }
    }

    /// Lets records flow: sink slots first, then the tasks (R7).
    pub(super) fn release(&mut self, attempt: AttemptId) {
        self.tell_all_sinks(attempt, &SinkControl::Released);
        if let Some(held) = self.active(attempt) {
            held.witness.released();
            self.slots
                .iter()
                .for_each(|slot| slot.send(SlotLetter::Run(attempt)));
            // Whatever could be reused of it is.
            if let Some(local) = self.setup.local.clone() {
                self.setup
                    .rim
                    .spawn_blocking(move || local.remove_leftovers());
            }
        }
    }
}

fn restoring<E: Classified + std::error::Error>(
    task: String,
    subtask: SubtaskIndex,
    error: &E,
) -> FailureReport {
    FailureReport::of(task, error.kind(), error_chain(error)).in_subtask(subtask)
}
