//! A savepoint as the source of a start: read, verified to the last byte, copied into the job, and taken.
//!
//! Called by the start of a leader. The order: nothing is written before every length and checksum is right and the job
//! may restore it; the state is opened once, without a record flowing, before the one head write that takes it: here in a
//! job that goes back, whose pending output is confirmed on the way, by a rehearsal where a lineage begins. A refused
//! savepoint leaves the job where it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use highwater_protocol::hash::ContentHash;
use highwater_protocol::head::Head;
use highwater_protocol::manifest::{Manifest, SinkState};
use highwater_protocol::nonce::TrySource;
use highwater_protocol::paths::{RelativePath, SavepointPaths};
use highwater_protocol::recovery::{
    GoingBack, RegionEffect, RegionEvent, RegionRecovery, SavepointFacts, SavepointWord, SlotDuty,
    TakeAgain, Taker, take,
};
use highwater_protocol::steps::Step;
use highwater_storage::{FileDigest, ObjectPath, get_verified};
use highwater_types::{AttemptId, CheckpointId, ErrorKind};
use highwater_worker::slot::error_chain;
use highwater_worker::{WorkerCommand, WorkerEvent};

use crate::deploy::{DeployInput, LogCheck, deployment};
use crate::going_back::{Broken, Detour, Detoured, both};
use crate::setup::JobFailure;
use crate::sources::{OpenSources, open_sources};
use crate::start::{Externals, failed, failure};
use crate::status::describe;
use crate::store::JobStore;

/// The wish to start from a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointWish {
    /// Where it lies.
    pub place: SavepointPaths,
    /// What is said about the state that the job has.
    pub word: SavepointWord,
    /// Whether it is taken anew if it was taken before.
    pub again: TakeAgain,
}

/// A savepoint that was read.
#[derive(Clone, Debug)]
pub struct Savepoint {
    place: SavepointPaths,
    /// What identifies it.
    pub facts: SavepointFacts,
    /// What it holds.
    pub manifest: Manifest,
}

impl Savepoint {
    /// Reads the manifest of the savepoint at `place`.
    ///
    /// # Errors
    /// `Invalid` when there is none or it is not complete, `Corrupt` when its manifest is damaged.
    pub async fn read(store: &JobStore, place: &SavepointPaths) -> Result<Self, JobFailure> {
        let folder = place.folder();
        let path = ObjectPath::parse(&place.manifest()).map_err(|error| failed(&error))?;
        let found = store.storage().get(&path).await;
        let Some(object) = found.map_err(|error| failed(&error))? else {
            let message = format!(
                "there is no complete savepoint at {folder} in {}: its manifest, which is written last, is not there; \
                 name one of the store, such as one that `savepoint` made",
                store.storage().location()
            );
            return Err(failure(ErrorKind::Invalid, message));
        };
        let manifest = Manifest::decode(&object.bytes).map_err(|error| {
            let message = format!("savepoint {folder}: {}", error_chain(&error));
            failure(failed(&error).kind, message)
        })?;
        let facts = SavepointFacts {
            folder: folder.to_owned(),
            hash: ContentHash::of(&object.bytes),
            lineage: manifest.lineage,
            id: manifest.id,
        };
        Ok(Self {
            place: place.clone(),
            facts,
            manifest,
        })
    }

    /// Reads every file and compares length and checksum.
    ///
    /// # Errors
    /// `Corrupt`, naming the file, when one is missing or damaged.
    pub async fn verify(&self, store: &JobStore) -> Result<(), JobFailure> {
        for path in self.manifest.files.keys() {
            self.fetch(store, path).await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        store: &JobStore,
        path: &RelativePath,
    ) -> Result<bytes::Bytes, JobFailure> {
        let entry = self.manifest.files[path];
        let digest = FileDigest {
            length: entry.length,
            checksum: entry.checksum.0,
        };
        let object = ObjectPath::parse(&self.place.object(path)).map_err(|error| failed(&error))?;
        let bytes = get_verified(store.storage(), &object, digest).await;
        bytes.map_err(|error| {
            let message = format!("savepoint {}: {}", self.facts.folder, error_chain(&error));
            failure(failed(&error).kind, message)
        })
    }

    /// Copies files of the savepoint to paths of the job.
    ///
    /// # Errors
    /// As [`Savepoint::verify`], and when the store does not answer.
    pub async fn copy(
        &self,
        store: &JobStore,
        copies: &[(RelativePath, RelativePath)],
    ) -> Result<(), JobFailure> {
        for (from, to) in copies {
            let bytes = self.fetch(store, from).await?;
            let to = store.object(to).map_err(|error| failed(&error))?;
            let written = store.storage().put(&to, bytes).await;
            written.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Sinks that have confirmed everything, with the place of their markers as it is now.
pub fn confirmed_sinks(externals: &Externals) -> BTreeMap<highwater_types::OperatorUid, SinkState> {
    let systems = externals.systems.iter();
    let sinks = systems.map(|(uid, external)| {
        let state = SinkState {
            external: external.clone(),
            from: externals.markers.get(uid).copied().unwrap_or(0),
            slots: BTreeMap::new(),
        };
        (uid.clone(), state)
    });
    sinks.collect()
}

impl Detour<'_> {
    /// Takes a savepoint under a new number; what `current`, the manifest of `head`, has pending is confirmed before.
    pub(crate) async fn take(
        &mut self,
        savepoint: &Savepoint,
        current: &Manifest,
        tries: &mut TrySource,
    ) -> Result<Detoured, Broken> {
        let head = self.still_leading().await?;
        if head.has_pending_output() && !self.logs_are_whole(current).await? {
            return Ok(Detoured::LogDamaged);
        }
        *self.last_attempt = self.last_attempt.next();
        let attempt = *self.last_attempt;
        let id = CheckpointId {
            number: tries.peek(head.number),
            epoch: head.epoch,
        };
        let (mut state, copies) = take(
            &savepoint.manifest,
            Taker {
                identity: &head.identity,
                lineage: head.lineage,
                epoch: head.epoch,
                attempt,
                number: id.number,
                nonce: self.nonces.draw(),
            },
        );
        state.id = id;
        state.sinks = confirmed_sinks(self.externals);
        savepoint.copy(self.store, &copies).await?;
        let sinks: Vec<_> = state.sinks.keys().map(ToString::to_string).collect();
        tracing::warn!(
            savepoint = savepoint.facts.folder,
            after = savepoint.facts.id.number,
            upto = head.number,
            sinks = sinks.join(", "),
            "going back to a savepoint: output of the checkpoints after it will appear again"
        );
        let rehearsed = self.rehearse(attempt, &head, current, &state).await;
        let cancelled = self.cancel(attempt).await;
        if both(rehearsed, cancelled)? == Rehearsed::Void {
            return Ok(Detoured::Void);
        }
        self.record_confirmed(&head).await?;
        let head = self.still_leading().await?;
        let (mut machine, effects) =
            GoingBack::voluntary(head.clone(), state, &savepoint.facts, tries.clone());
        let ended = self.drive(&mut machine, effects, (&head, current)).await;
        *tries = machine.into_tries();
        ended.0
    }

    /// Confirms what `head` has pending and opens the state of the savepoint, in the order of a recovery; no record flows.
    async fn rehearse(
        &mut self,
        attempt: AttemptId,
        head: &Head,
        current: &Manifest,
        state: &Manifest,
    ) -> Result<Rehearsed, Broken> {
        let sources = self.open_sources(state).await?;
        let (mut region, effects) =
            RegionRecovery::start(head, current, self.shape, &BTreeSet::new());
        let mut effects = VecDeque::from(effects);
        let mut duties = Some(Vec::new());
        loop {
            while let Some(effect) = effects.pop_front() {
                match effect {
                    // Sessions are opened where something is pending; the recovery that follows frees the others.
                    RegionEffect::Free(slot) => {
                        effects.extend(region.step(RegionEvent::Freed(slot)));
                    }
                    RegionEffect::VerifyAll => {
                        (self.setup.stop)(Step::R5);
                        let input = DeployInput {
                            program: &self.setup.program,
                            shape: self.shape,
                            head,
                            manifest: state,
                            attempt,
                            sources: &sources,
                            first_markers: &self.externals.markers,
                            logs: LogCheck::Skip,
                            unmatched: self.setup.settings.restore.unmatched,
                        };
                        let deployment = deployment(&input).map_err(|error| failed(&error))?;
                        self.send(WorkerCommand::Prepare(Box::new(deployment)));
                    }
                    RegionEffect::StartSession(duty) => {
                        duties.get_or_insert_default().push(duty);
                    }
                    RegionEffect::OpenAll => {
                        self.confirm(attempt, duties.take());
                        (self.setup.stop)(Step::R6);
                        self.send(WorkerCommand::Open(attempt));
                    }
                    RegionEffect::Release => return Ok(Rehearsed::Whole),
                    RegionEffect::GoBack => return Ok(Rehearsed::Void),
                }
            }
            if duties.as_ref().is_some_and(|duties| !duties.is_empty()) {
                self.confirm(attempt, duties.take());
            }
            for event in self.told(attempt).await? {
                effects.extend(region.step(event));
            }
        }
    }

    fn confirm(&mut self, attempt: AttemptId, duties: Option<Vec<SlotDuty>>) {
        if let Some(duties) = duties {
            (self.setup.stop)(Step::R4);
            self.order(attempt, duties);
        }
    }

    /// The sources at the positions of `state`, which the outside still has.
    pub(crate) async fn open_sources(&self, state: &Manifest) -> Result<OpenSources, Broken> {
        let (program, states) = (self.setup.program.clone(), state.sources.clone());
        let opened = tokio::task::spawn_blocking(move || open_sources(&program, Some(&states)));
        match opened.await {
            Ok(Ok(sources)) => Ok(sources),
            Ok(Err(error)) => Err(failed(&error).into()),
            Err(error) => Err(failure(ErrorKind::Bug, error.to_string()).into()),
        }
    }

    /// The next news of the worker, as the region understands it.
    pub(crate) async fn told(&mut self, attempt: AttemptId) -> Result<Vec<RegionEvent>, Broken> {
        let tasks: Vec<_> = self.shape.tasks.keys().cloned().collect();
        loop {
            match self.event().await? {
                WorkerEvent::Verified(of) if of == attempt => {
                    return Ok(tasks.into_iter().map(RegionEvent::Verified).collect());
                }
                WorkerEvent::Opened(of) if of == attempt => {
                    return Ok(tasks.into_iter().map(RegionEvent::Opened).collect());
                }
                WorkerEvent::SlotConfirmed(of, slot, id) if of == attempt => {
                    self.unanswered.remove(&slot);
                    let number = id.number;
                    return Ok(vec![RegionEvent::Confirmed { slot, number }]);
                }
                WorkerEvent::SlotVoided(of, slot, _) if of == attempt => {
                    self.unanswered.remove(&slot);
                    return Ok(vec![RegionEvent::Void(slot)]);
                }
                WorkerEvent::Damaged(of, _, report) if of == attempt => {
                    return Err(failure(report.kind, describe(&report)).into());
                }
                other => self.other_news(other, attempt).await?,
            }
        }
    }
}

/// How a rehearsal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rehearsed {
    /// All is confirmed and the state opens.
    Whole,
    /// What is pending was being given up: that is finished first.
    Void,
}
