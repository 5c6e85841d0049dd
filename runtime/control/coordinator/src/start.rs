//! The start of a leader: reads the store, takes the leadership (R2) or begins a lineage with checkpoint 0.
//!
//! Sequential: nothing runs yet. When this returns, `head` is settled in an epoch of this leader and checkpoint 0 (the
//! resolved source positions) exists before the first record flows.

use std::collections::{BTreeMap, VecDeque};

use highwater_api::JobProgram;
use highwater_connectors::{KnownMarkers, TargetError, WriterContext};
use highwater_protocol::gate::first_attempt;
use highwater_protocol::head::{Head, HeadChange, JobEnd, ManifestRef};
use highwater_protocol::head_write::{HeadKeeper, HeadOutcome, HeadWriteEffect, Versioned};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::{
    ExternalSink, Manifest, ManifestTitle, SinkState, SnapshotKind,
};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::ManifestName;
use highwater_protocol::recovery::{
    LeftBehind, LostClaim, Refusal, RestoreOptions, SavepointStart, StartDecision, StartWish,
    StoreView, check_pending, check_restore, decide_from_savepoint, decide_lost_claim,
    decide_start, unmatched_operators,
};
use highwater_protocol::steps::Step;
use highwater_protocol::stop::MARKERS_LOST_STEP;
use highwater_types::{
    AttemptId, CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, Lineage, OperatorUid,
    Parallelism, SubtaskIndex,
};
use highwater_worker::StopHook;
use highwater_worker::slot::error_chain;
use tokio::task::JoinError;

use crate::going_back::{Broken, tell_damage};
use crate::housekeeping::tell_dropped;
use crate::run::program_for;
use crate::savepoint::{Savepoint, SavepointWish, Taking, confirmed_sinks, take_into};
use crate::settings::CoordinatorSettings;
use crate::setup::{GoesPast, JobFailure, Wish};
use crate::shape::shape_of;
use crate::sources::{OpenSources, open_sources, state_of};
use crate::status::WaitBoard;
use crate::store::{HEAD_GONE, JobStore, backoff};
use crate::trial_restore::Stage;

/// How often `head` is read again because the leader that is to be deposed has moved it on. Each time it completed a
/// checkpoint or confirmed one in the moment between reading and writing.
const CLAIMS_MAX: u32 = 20;

/// What the outside of each sink is, and where its markers begin.
#[derive(Clone, Debug, Default)]
pub struct Externals {
    /// The systems.
    pub systems: BTreeMap<OperatorUid, ExternalSink>,
    /// Marker positions that were seen at the start.
    pub markers: BTreeMap<OperatorUid, u64>,
}

/// What a new leader found under the name in `head`.
pub enum Found {
    /// A manifest that this job may restore.
    Whole(Box<Manifest>),
    /// It is missing or damaged: the leader goes back first.
    Unreadable,
}

/// A leader that may run attempts.
pub struct Leader {
    /// Its hold on `head`.
    pub keeper: HeadKeeper,
    /// The manifest of `head`.
    pub manifest: Found,
    /// The shape of its job.
    pub shape: JobShape,
    /// The outside of its sinks.
    pub externals: Externals,
    /// The savepoint that takes the place of what `head` has.
    pub savepoint: Option<Savepoint>,
    /// The newest attempt of its epoch.
    pub last_attempt: AttemptId,
}

/// How a start that did not fail has ended.
pub(crate) enum Begun {
    /// It leads.
    Leads(Box<Leader>),
    /// The job has ended, and nobody wants it to go on: nothing was changed.
    Over(JobEnd),
}

/// How one try to lead has ended.
enum Claim {
    Decided(Begun),
    /// The leader before has moved `head` on meanwhile, so nothing that was read holds any more.
    ReadAgain,
}

impl From<Leader> for Claim {
    fn from(leader: Leader) -> Self {
        Self::Decided(Begun::Leads(Box::new(leader)))
    }
}

/// What a start works with.
pub struct StartInput<'a, 'w> {
    /// The program.
    pub program: &'a JobProgram,
    /// The job.
    pub identity: &'a JobIdentity,
    /// Settings.
    pub settings: &'a CoordinatorSettings,
    /// The store.
    pub store: &'a JobStore,
    /// How it is to start.
    pub wish: &'a Wish,
    /// Whether it goes on with a job that has ended.
    pub goes_past: GoesPast,
    /// Told of each protocol step right before it is performed.
    pub stop: &'a StopHook,
    /// Told what the start waits for.
    pub waits: &'a WaitBoard,
    /// Opens a state before `head` names it.
    pub stage: &'a mut Stage<'w>,
}

/// A failure of this kind and message.
pub fn failure(kind: ErrorKind, message: impl Into<String>) -> JobFailure {
    JobFailure {
        kind,
        message: message.into(),
    }
}

/// A failure from an error with its causes.
pub fn failed<E: Classified>(error: &E) -> JobFailure {
    JobFailure {
        kind: error.kind(),
        message: error_chain(error),
    }
}

/// Starts a leader, unless the job has ended and nobody wants it to go on.
///
/// # Errors
/// With the reason, when the job may not start. `head` is as it was then, but for a raised epoch. What was made for a
/// lineage that did not begin may be left: files for a collection, places of markers in the systems of sinks for good.
pub(crate) async fn start(
    mut input: StartInput<'_, '_>,
    nonces: &mut NonceStream,
) -> Result<Begun, Broken> {
    for _ in 0..CLAIMS_MAX {
        if let Claim::Decided(begun) = claim(&mut input, nonces).await? {
            return Ok(begun);
        }
        tracing::info!("the running coordinator has moved `head` on meanwhile; it is read again");
    }
    let message = format!(
        "the running coordinator moved `head` on each of {CLAIMS_MAX} times that this one was about to take the job over; \
         stop that one first"
    );
    Err(failure(ErrorKind::Fenced, message).into())
}

/// Reads `head` and becomes the leader after it.
async fn claim(input: &mut StartInput<'_, '_>, nonces: &mut NonceStream) -> Result<Claim, Broken> {
    let view = input.store.view().await.map_err(|error| failed(&error))?;
    let wish = match input.wish {
        Wish::Own(wish) => *wish,
        Wish::Follow if view.head.is_none() => {
            let message = "the coordinator before this one ended before it had begun the job, so that what it was told to begin with is not \
                           known here; begin it with that and --take-over";
            return Err(failure(ErrorKind::Invalid, message).into());
        }
        Wish::Follow => StartWish::Resume,
        Wish::Savepoint(wish) => return from_savepoint(input, view, wish, nonces).await,
    };
    match decide_start(input.identity, view, wish).map_err(|error| failed(&error))? {
        StartDecision::TakeOver(found) => take_over(input, found, None, nonces).await,
        StartDecision::Begin { epoch } => {
            let begun = begin(input, Beginning::of(epoch), nonces).await;
            begun.map(Claim::from)
        }
        StartDecision::BeginAgain { head, leaves } => {
            tell_left(input, &head.head, leaves).await;
            let again = Beginning {
                epoch: head.head.epoch.next(),
                before: Some(head),
                savepoint: None,
            };
            begin(input, again, nonces).await.map(Claim::from)
        }
    }
}

async fn tell_left(input: &StartInput<'_, '_>, head: &Head, leaves: LeftBehind) {
    tracing::warn!(
        number = leaves.number,
        confirmed = leaves.confirmed,
        "a new lineage begins; the state of the old one is left behind, and what it wrote stays beside the new output"
    );
    match input.store.manifest(&head.manifest).await {
        Ok(manifest) => tell_dropped(input.store, &input.settings.savepoints, &manifest).await,
        Err(error) => tell_damage("the checkpoint that is left behind", &error),
    }
}

/// Starts from a savepoint. It is verified to the last byte before anything is written.
async fn from_savepoint(
    input: &mut StartInput<'_, '_>,
    view: StoreView,
    wish: &SavepointWish,
    nonces: &mut NonceStream,
) -> Result<Claim, Broken> {
    let savepoint = Savepoint::read(input.store, &wish.place).await?;
    let words = (wish.word, wish.again);
    let decided = decide_from_savepoint(input.identity, view, &savepoint.facts, words);
    let decided = decided.map_err(|error| failed(&error))?;
    let folder = savepoint.facts.folder.clone();
    if let SavepointStart::Resume(found) = decided {
        let (savepoint, number) = (folder, found.head.number);
        tracing::info!(
            savepoint,
            number,
            "the savepoint is in this job already; going on from its last checkpoint"
        );
        return take_over(input, found, None, nonces).await;
    }
    savepoint.verify(input.store).await?;
    let begun = |epoch, before| Beginning {
        epoch,
        before,
        savepoint: Some(savepoint.clone()),
    };
    match decided {
        SavepointStart::Resume(_) => unreachable!("gone on from above"),
        SavepointStart::GoBack(found) => take_over(input, found, Some(savepoint), nonces).await,
        SavepointStart::Begin { epoch } => {
            let begun = begin(input, begun(epoch, None), nonces).await;
            begun.map(Claim::from)
        }
        SavepointStart::Fork { head, leaves } => {
            tell_left(input, &head.head, leaves).await;
            let fork = begun(head.head.epoch.next(), Some(head));
            begin(input, fork, nonces).await.map(Claim::from)
        }
    }
}

/// A lineage that begins.
struct Beginning {
    epoch: Epoch,
    before: Option<Versioned>,
    savepoint: Option<Savepoint>,
}

impl Beginning {
    const fn of(epoch: Epoch) -> Self {
        Self {
            epoch,
            before: None,
            savepoint: None,
        }
    }
}

/// Raises the epoch of `head`. A job that has ended is gone on with where somebody wants it; to go back to a savepoint is such a wish until
/// the savepoint is taken.
async fn take_over(
    input: &StartInput<'_, '_>,
    found: Versioned,
    savepoint: Option<Savepoint>,
    nonces: &mut NonceStream,
) -> Result<Claim, Broken> {
    if let Some(end) = found.head.ended
        && savepoint.is_none()
        && !input.goes_past.covers(found.head.epoch)
    {
        return Ok(Claim::Decided(Begun::Over(end)));
    }
    let read = match input.store.manifest(&found.head.manifest).await {
        Err(error) if error.kind() != ErrorKind::Corrupt => return Err(failed(&error).into()),
        read => read,
    };
    let known = known_markers(&found.head, read.as_ref().ok());
    let externals = externals(input, found.head.lineage, &known).await?;
    let shape = shape_of(input.program, input.identity, &externals.systems);
    let options = &input.settings.restore;
    if let Some(savepoint) = &savepoint {
        let number = savepoint.facts.id.number;
        may_restore(&savepoint.manifest, number, &shape, options)?;
    }
    let manifest = match read {
        Ok(manifest) => {
            let confirmed = found.head.confirmed;
            if savepoint.is_some() || found.head.giving_up.is_some() {
                // Nothing of it is restored, but its output has to be confirmed or given up.
                refused(&manifest, check_pending(&manifest, confirmed, &shape))?;
            } else {
                may_restore(&manifest, confirmed, &shape, options)?;
            }
            Found::Whole(Box::new(manifest))
        }
        // That the write below lands shows that `head` still names it: nobody has collected it.
        Err(error) => {
            tell_damage("the newest checkpoint", &error);
            Found::Unreadable
        }
    };
    let mut slots = shape.slot_counts();
    if let (Found::Whole(manifest), None) = (&manifest, &savepoint) {
        // It goes on at the parallelism that the manifest says, which has to be possible before the job is taken.
        let running = program_for(input.program, manifest)?;
        let rescaled = shape_of(&running, input.identity, &externals.systems);
        for (sink, count) in rescaled.slot_counts() {
            let held = slots.entry(sink).or_default();
            *held = count.max(*held);
        }
    }
    let change = HeadChange::TakeOver { slots };
    let claimed = found.head.epoch.next();
    let mut keeper = HeadKeeper::new(Some(found));
    let first = keeper.begin(&change, nonces.draw());
    (input.stop)(Step::R2);
    if let Some(other) = settle(input.store, &mut keeper, first, input.waits).await? {
        return match decide_lost_claim(claimed, &other.head) {
            LostClaim::ReadAgain => Ok(Claim::ReadAgain),
            LostClaim::Deposed => Err(superseded(&other.head).into()),
        };
    }
    let settled = keeper.settled().expect("a decided write settles head");
    let last_attempt = first_attempt(settled.head.epoch);
    Ok(Claim::from(Leader {
        keeper,
        manifest,
        shape,
        externals,
        savepoint,
        last_attempt,
    }))
}

/// Whether this job may restore the manifest.
///
/// # Errors
/// With every reason, each naming the operator and the next step.
pub fn may_restore(
    manifest: &Manifest,
    confirmed: u64,
    shape: &JobShape,
    options: &RestoreOptions,
) -> Result<(), JobFailure> {
    refused(manifest, check_restore(manifest, confirmed, shape, options))?;
    // It was allowed by name.
    for (operator, bytes) in unmatched_operators(manifest, shape) {
        tracing::warn!(
            %operator, bytes,
            "stored state is dropped: its operator is not in the job, and `allow-unmatched-state` says so"
        );
    }
    Ok(())
}

/// Every refusal in one message.
fn refused(manifest: &Manifest, checked: Result<(), Vec<Refusal>>) -> Result<(), JobFailure> {
    let Err(refusals) = checked else {
        return Ok(());
    };
    let kind = refusals
        .first()
        .map_or(ErrorKind::Invalid, Classified::kind);
    let lines: Vec<_> = refusals
        .iter()
        .map(|refusal| format!("\n  - {refusal}"))
        .collect();
    let number = manifest.id.number;
    let message = format!(
        "checkpoint {number} cannot be restored by this job:{}",
        lines.concat()
    );
    Err(failure(kind, message))
}

async fn begin(
    input: &mut StartInput<'_, '_>,
    beginning: Beginning,
    nonces: &mut NonceStream,
) -> Result<Leader, Broken> {
    let Beginning {
        epoch,
        before,
        savepoint,
    } = beginning;
    let lineage = nonces.draw_lineage();
    let externals = externals(input, lineage, &BTreeMap::new()).await?;
    let shape = shape_of(input.program, input.identity, &externals.systems);
    let sources = resolve(input, savepoint.as_ref(), &shape).await?;
    let title = ManifestTitle {
        identity: input.identity.clone(),
        lineage,
        id: CheckpointId { number: 0, epoch },
        kind: SnapshotKind::Checkpoint,
        parent: None,
        graph: shape.graph,
    };
    let mut manifest = checkpoint_zero(title, &sources, &externals);
    let mut last_attempt = first_attempt(epoch);
    let mut origin = None;
    if let Some(savepoint) = &savepoint {
        let taking = Taking {
            savepoint,
            shape: &shape,
            externals: &externals,
            sources,
        };
        let taken = take_into(input, &mut manifest, taking, nonces).await?;
        (origin, last_attempt) = (Some(taken.0), taken.1);
    }
    let reference = write_zero(input.store, &manifest, nonces).await?;
    let slots = shape.slot_counts();
    let mut keeper = HeadKeeper::new(before.clone());
    let first = match before {
        None => {
            let first = Head::first(
                input.identity.clone(),
                lineage,
                reference,
                slots,
                nonces.draw(),
            );
            keeper.create(first.from_savepoint(origin))
        }
        Some(_) => keeper.begin(
            &HeadChange::Restart {
                lineage,
                manifest: reference,
                slots,
                origin,
            },
            nonces.draw(),
        ),
    };
    (input.stop)(Step::R2);
    decide(input.store, &mut keeper, first, input.waits).await?;
    Ok(Leader {
        keeper,
        manifest: Found::Whole(Box::new(manifest)),
        shape,
        externals,
        savepoint: None,
        last_attempt,
    })
}

/// The sources at the positions of a savepoint, or where they begin.
async fn resolve(
    input: &StartInput<'_, '_>,
    savepoint: Option<&Savepoint>,
    shape: &JobShape,
) -> Result<OpenSources, JobFailure> {
    if let Some(savepoint) = savepoint {
        let (number, options) = (savepoint.facts.id.number, &input.settings.restore);
        may_restore(&savepoint.manifest, number, shape, options)?;
    }
    let states = savepoint.map(|savepoint| savepoint.manifest.sources.clone());
    let mut tries = 1;
    loop {
        let (program, states) = (input.program.clone(), states.clone());
        let opened = tokio::task::spawn_blocking(move || open_sources(&program, states.as_ref()));
        let bug = |error: JoinError| failure(ErrorKind::Bug, error.to_string());
        match opened.await.map_err(bug)? {
            Err(error) if error.kind() == ErrorKind::Transient => {
                let what = format!("source {}", error.uid);
                input.waits.waits(&what, &error_chain(&error.source), tries);
                tries += 1;
                tokio::time::sleep(backoff(tries)).await;
            }
            opened => {
                input.waits.goes_on();
                return opened.map_err(|error| failed(&error));
            }
        }
    }
}

/// Checkpoint 0: the resolved start positions, and where the markers of each sink begin.
fn checkpoint_zero(title: ManifestTitle, sources: &OpenSources, externals: &Externals) -> Manifest {
    let mut manifest = Manifest::new(title);
    for (uid, (source, splits)) in sources {
        manifest
            .sources
            .insert(uid.clone(), state_of(source, splits));
    }
    manifest.sinks = confirmed_sinks(externals);
    manifest
}

async fn write_zero(
    store: &JobStore,
    manifest: &Manifest,
    nonces: &mut NonceStream,
) -> Result<ManifestRef, JobFailure> {
    let (bytes, hash) = manifest.encode();
    let name = ManifestName {
        epoch: manifest.id.epoch,
        number: 0,
        nonce: nonces.draw(),
    };
    let written = store.write_manifest(&name, bytes).await;
    written.map_err(|error| failed(&error))?;
    Ok(ManifestRef { name, hash })
}

/// Performs a head write to its decision, which must be that it landed.
pub(crate) async fn decide(
    store: &JobStore,
    keeper: &mut HeadKeeper,
    first: Vec<HeadWriteEffect>,
    waits: &WaitBoard,
) -> Result<(), JobFailure> {
    match settle(store, keeper, first, waits).await? {
        None => Ok(()),
        Some(other) => Err(superseded(&other.head)),
    }
}

fn superseded(by: &Head) -> JobFailure {
    let message = format!(
        "another coordinator took the job in epoch {}; this one ends",
        by.epoch
    );
    failure(ErrorKind::Fenced, message)
}

/// Performs a head write to its decision: nothing where it landed, else what stands in its place.
async fn settle(
    store: &JobStore,
    keeper: &mut HeadKeeper,
    first: Vec<HeadWriteEffect>,
    waits: &WaitBoard,
) -> Result<Option<Box<Versioned>>, JobFailure> {
    let mut effects = VecDeque::from(first);
    let troubles = waits.troubles();
    while let Some(effect) = effects.pop_front() {
        if let HeadWriteEffect::Put { tries, .. } | HeadWriteEffect::Read { tries } = &effect
            && *tries > 1
        {
            let reason = "a write of head is not decided yet";
            waits.waits("the checkpoint store", reason, *tries - 1);
        }
        match effect {
            HeadWriteEffect::Decided(HeadOutcome::Won(_)) => {
                waits.goes_on();
                return Ok(None);
            }
            HeadWriteEffect::Decided(HeadOutcome::Superseded(other)) => {
                waits.goes_on();
                return Ok(Some(other));
            }
            HeadWriteEffect::Decided(HeadOutcome::Refused(refusal)) => {
                let message = format!("head cannot be written: {refusal}; correct the store");
                return Err(failure(refusal.kind, message));
            }
            HeadWriteEffect::Decided(HeadOutcome::Corrupt(reason)) => {
                return Err(failure(ErrorKind::Corrupt, reason));
            }
            HeadWriteEffect::Decided(HeadOutcome::Vanished) => {
                return Err(failure(ErrorKind::Corrupt, HEAD_GONE));
            }
            HeadWriteEffect::Decided(HeadOutcome::Declined(_)) => {
                let message = "a head write was given up that nobody contests";
                return Err(failure(ErrorKind::Bug, message));
            }
            effect => effects.extend(keeper.step(store.perform(effect, &troubles).await)),
        }
    }
    Err(failure(
        ErrorKind::Bug,
        "a head write ended without a decision",
    ))
}

/// The places of markers that this lineage has made. A sink that is not among them has committed nothing in it.
fn known_markers(head: &Head, manifest: Option<&Manifest>) -> BTreeMap<OperatorUid, KnownMarkers> {
    let Some(manifest) = manifest else {
        // Sinks are in `head` before they are used; which place each of them has is in the manifest only.
        let sinks = head.slots.keys().cloned();
        return sinks.map(|uid| (uid, KnownMarkers::Made(None))).collect();
    };
    let known = |(uid, sink): (&OperatorUid, &SinkState)| {
        let (system, place) = (&sink.external.cluster, &sink.external.marker_topic);
        let known = KnownMarkers::In {
            system: system.clone(),
            place: place.clone(),
        };
        (uid.clone(), known)
    };
    manifest.sinks.iter().map(known).collect()
}

/// Asks every exactly-once sink what it writes to. Waits for systems that do not answer.
///
/// Sinks whose place of markers is known come first: one place may serve several sinks, and it is missed by them only.
async fn externals(
    input: &StartInput<'_, '_>,
    lineage: Lineage,
    known: &BTreeMap<OperatorUid, KnownMarkers>,
) -> Result<Externals, JobFailure> {
    let plan = input.program.plan();
    let mut externals = Externals::default();
    let mut sinks: Vec<_> = plan.sinks().collect();
    sinks.sort_by_key(|node| !known.contains_key(plan.uid(*node)));
    for node in sinks {
        let Some(code) = input.program.sink(node).cloned() else {
            continue;
        };
        let context = WriterContext {
            job: input.identity.clone(),
            lineage,
            uid: plan.uid(node).clone(),
            subtask: SubtaskIndex(0),
            parallelism: plan.graph.node(node).parallelism.unwrap_or(Parallelism(1)),
        };
        let mut tries = 1;
        loop {
            let (code, of) = (std::sync::Arc::clone(&code), context.clone());
            let known = known.get(&context.uid).cloned().unwrap_or_default();
            let asked = tokio::task::spawn_blocking(move || ask(code.as_ref(), &of, known)).await;
            match asked.map_err(|error| failure(ErrorKind::Bug, error.to_string()))? {
                Ok(None) => break,
                Ok(Some((system, from))) => {
                    externals.markers.insert(context.uid.clone(), from);
                    externals.systems.insert(context.uid.clone(), system);
                    break;
                }
                Err(error) if error.kind == ErrorKind::Transient => {
                    let what = format!("sink {}", context.uid);
                    input.waits.waits(&what, &error.message, tries);
                    tries += 1;
                    tokio::time::sleep(backoff(tries)).await;
                }
                Err(error) => return Err(sink_failure(&context, &error)),
            }
        }
    }
    input.waits.goes_on();
    Ok(externals)
}

fn sink_failure(context: &WriterContext, error: &JobFailure) -> JobFailure {
    let message = format!("sink {}: {}", context.uid, error.message);
    failure(error.kind, message)
}

fn ask(
    code: &dyn highwater_api::code::SinkCode,
    context: &WriterContext,
    known: KnownMarkers,
) -> Result<Option<(ExternalSink, u64)>, JobFailure> {
    let Some(mut target) = code.target(context).map_err(|error| failed(&error))? else {
        return Ok(None);
    };
    target.expect_markers(known);
    let identity = target.identity().map_err(|error| target_failed(&error))?;
    let from = target
        .marker_position()
        .map_err(|error| target_failed(&error))?;
    let system = ExternalSink {
        cluster: identity.system,
        marker_topic: identity.markers,
        output: identity.output,
    };
    Ok(Some((system, from.0)))
}

/// A failure from what a target answered. Lost markers come with the next step.
pub(crate) fn target_failed(error: &TargetError) -> JobFailure {
    let message = match error {
        TargetError::MarkerLost(cause) => {
            format!("MarkerLost: {}; {MARKERS_LOST_STEP}", error_chain(cause))
        }
        _ => error_chain(error),
    };
    failure(error.kind(), message)
}
