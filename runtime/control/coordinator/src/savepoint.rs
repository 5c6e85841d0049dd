//! A savepoint as the source of a start: read, verified to the last byte, copied into the job, and taken.
//!
//! Called by the start of a leader. The order: nothing is written before every length and checksum is right and the job
//! may restore it; a trial restore opens the state once, without a record flowing, before the one head write that takes
//! it, in a job that goes back as where a lineage begins. A refused savepoint leaves the job where it was.

use std::collections::BTreeMap;

use highwater_protocol::gate::first_attempt;
use highwater_protocol::hash::ContentHash;
use highwater_protocol::head::{Head, ManifestRef, Origin};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::{Manifest, SinkState};
use highwater_protocol::nonce::{NonceStream, TrySource};
use highwater_protocol::paths::{ManifestName, RelativePath, SavepointPaths};
use highwater_protocol::recovery::{
    GoingBack, RegionEvent, SavepointFacts, SavepointWord, TakeAgain, Taker, take,
};
use highwater_storage::{FileDigest, ObjectPath, get_verified};
use highwater_types::{AttemptId, CheckpointId, ErrorKind, Nonce};
use highwater_worker::WorkerEvent;
use highwater_worker::slot::error_chain;

use crate::deploy::{DeployInput, LogCheck, deployment};
use crate::going_back::{Broken, Detour, Detoured, GOING_BACK, both};
use crate::housekeeping::delete;
use crate::setup::JobFailure;
use crate::sources::{OpenSources, open_sources};
use crate::start::{Externals, StartInput, failed, failure};
use crate::status::describe;
use crate::store::{JobStore, backoff};
use crate::trial_restore::Trial;

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

/// What a lineage takes that begins with a savepoint.
pub(crate) struct Taking<'a> {
    /// The savepoint.
    pub(crate) savepoint: &'a Savepoint,
    /// The shape of the job that takes it.
    pub(crate) shape: &'a JobShape,
    /// The outside of its sinks.
    pub(crate) externals: &'a Externals,
    /// Its sources at the positions of the savepoint.
    pub(crate) sources: OpenSources,
}

/// The state of a savepoint as that of checkpoint 0, restored once on trial before `head` is touched. Of a refused one no
/// copy is left; of one that is stopped on the way the copies are, for a collection. What its sinks have made for the
/// markers of the new lineage, such as a Kafka topic, stays in both cases: nothing uses it.
pub(crate) async fn take_into(
    input: &mut StartInput<'_, '_>,
    manifest: &mut Manifest,
    taking: Taking<'_>,
    nonces: &mut NonceStream,
) -> Result<(Box<Origin>, AttemptId), Broken> {
    let Taking {
        savepoint,
        shape,
        externals,
        sources,
    } = taking;
    let origin = fill(manifest, savepoint, input.store, nonces.draw()).await?;
    let name = ManifestName {
        epoch: manifest.id.epoch,
        number: 0,
        nonce: nonces.draw(),
    };
    let hash = manifest.encode().1;
    // As `head` would be.
    let head = Head::first(
        manifest.identity.clone(),
        manifest.lineage,
        ManifestRef { name, hash },
        shape.slot_counts(),
        nonces.draw(),
    );
    let head = head.from_savepoint(Some(origin.clone()));
    let mut tries = 1;
    let mut attempt = first_attempt(manifest.id.epoch);
    let refused = loop {
        attempt = attempt.next();
        let deployed = deployment(&DeployInput {
            program: input.program,
            shape,
            head: &head,
            manifest,
            attempt,
            sources: &sources,
            first_markers: &externals.markers,
            logs: LogCheck::Skip,
            unmatched: input.settings.restore.unmatched,
        });
        let opened = match deployed {
            Ok(deployment) => input.stage.restore(deployment, input.stop).await,
            Err(error) => Err(failed(&error).into()),
        };
        match opened {
            Ok(()) => {
                input.waits.goes_on();
                return Ok((origin, attempt));
            }
            Err(Broken::Failed(failure)) if failure.kind == ErrorKind::Transient => {
                input
                    .waits
                    .waits("opening the savepoint", &failure.message, tries);
                tries += 1;
                tokio::time::sleep(backoff(tries)).await;
            }
            Err(Broken::Failed(failure)) => break failure,
            // Its copies may still be read.
            Err(broken) => return Err(broken),
        }
    };
    let copies: Vec<_> = manifest.files.keys().cloned().collect();
    if let Err(error) = delete(input.store, &copies).await {
        let error = error_chain(&error);
        tracing::warn!(error, "copies of the savepoint are left for a collection");
    }
    let message = format!(
        "savepoint {} cannot be taken by this job, which is as it was: {}",
        savepoint.facts.folder, refused.message
    );
    Err(failure(refused.kind, message).into())
}

/// Puts the state of a savepoint into checkpoint 0 of a new lineage, with copies of its files.
async fn fill(
    manifest: &mut Manifest,
    savepoint: &Savepoint,
    store: &JobStore,
    nonce: Nonce,
) -> Result<Box<Origin>, JobFailure> {
    let taker = Taker {
        identity: &manifest.identity,
        lineage: manifest.lineage,
        epoch: manifest.id.epoch,
        attempt: first_attempt(manifest.id.epoch),
        number: 0,
        nonce,
    };
    let (state, copies) = take(&savepoint.manifest, taker);
    savepoint.copy(store, &copies).await?;
    manifest.operators = state.operators;
    manifest.files = state.files;
    let (savepoint, lineage) = (&savepoint.facts, manifest.lineage);
    tracing::info!(savepoint = savepoint.folder, %lineage, "a lineage begins with a savepoint");
    Ok(Box::new(Origin::from((savepoint, 0))))
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
        let (attempt, state) = self.copied(savepoint, &head, tries).await?;
        let opened = self.trial_restore(attempt, &head, current, &state).await;
        let cancelled = self.cancel(attempt).await;
        if both(opened, cancelled)? == Trial::Void {
            return Ok(Detoured::Void);
        }
        self.record_confirmed(&head).await?;
        self.keep_promise(current).await?;
        let head = self.still_leading().await?;
        let (mut machine, effects) =
            GoingBack::voluntary(head.clone(), state, &savepoint.facts, tries.clone());
        let ended = self.drive(&mut machine, effects, (&head, current)).await;
        *tries = machine.into_tries();
        ended.0
    }

    /// Copies the savepoint that `current` owes, before the job does not go on from it. One whose files are damaged can
    /// never be made: the job goes back without it, and the log names it.
    async fn keep_promise(&mut self, current: &Manifest) -> Result<(), Broken> {
        let Some(owed) = &current.savepoint else {
            return Ok(());
        };
        match self.copy_owed(owed, current, GOING_BACK).await {
            Err(Broken::Failed(failure)) if failure.kind == ErrorKind::Corrupt => {
                tracing::warn!(error = failure.message, "a savepoint cannot be made");
                Ok(())
            }
            copied => copied,
        }
    }

    /// Puts a savepoint in the place of `current`, the manifest of `head`, which is being given up: what was chosen to
    /// take its place is not looked at.
    pub(crate) async fn replace(
        &mut self,
        savepoint: &Savepoint,
        current: &Manifest,
        tries: &mut TrySource,
    ) -> Result<Detoured, Broken> {
        let head = self.still_leading().await?;
        let (attempt, state) = self.copied(savepoint, &head, tries).await?;
        self.open_alone(attempt, &head, &state).await?;
        let (mut machine, effects) = GoingBack::replaced(
            (head.clone(), current),
            state,
            &savepoint.facts,
            self.shape,
            tries.clone(),
        );
        let (ended, attempt) = self.drive(&mut machine, effects, (&head, current)).await;
        *tries = machine.into_tries();
        match attempt {
            Some(attempt) => both(ended, self.cancel(attempt).await),
            None => ended,
        }
    }

    /// The state of a savepoint as that of the next number, with copies of its files, and the attempt that owns them.
    async fn copied(
        &mut self,
        savepoint: &Savepoint,
        head: &Head,
        tries: &TrySource,
    ) -> Result<(AttemptId, Manifest), Broken> {
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
        Ok((attempt, state))
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
                WorkerEvent::Verified(of, _) if of == attempt => {
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
