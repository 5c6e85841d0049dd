//! The start of a leader: reads the store, takes the leadership (R2) or begins a lineage with checkpoint 0.
//!
//! Sequential: nothing runs yet. When this returns, `head` is settled in an epoch of this leader and checkpoint 0 (the
//! resolved source positions) exists before the first record flows.

use std::collections::BTreeMap;

use highwater_api::JobProgram;
use highwater_connectors::{TargetError, WriterContext};
use highwater_protocol::head::{Head, HeadChange, ManifestRef};
use highwater_protocol::head_write::{HeadKeeper, HeadOutcome, HeadWriteEffect, Versioned};
use highwater_protocol::job::JobShape;
use highwater_protocol::manifest::{
    ExternalSink, Manifest, ManifestTitle, SinkState, SnapshotKind, SourceState,
};
use highwater_protocol::nonce::NonceStream;
use highwater_protocol::paths::ManifestName;
use highwater_protocol::recovery::{
    RestoreOptions, StartDecision, StartWish, check_restore, decide_start,
};
use highwater_protocol::steps::Step;
use highwater_types::{
    CheckpointId, Classified, Epoch, ErrorKind, JobIdentity, Lineage, OperatorUid, Parallelism,
    SubtaskIndex,
};
use highwater_worker::StopHook;
use highwater_worker::slot::error_chain;

use crate::going_back::tell_damage;
use crate::settings::CoordinatorSettings;
use crate::setup::JobFailure;
use crate::shape::shape_of;
use crate::sources::{OpenSources, open_sources};
use crate::store::{JobStore, backoff};

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
}

/// What a start works with.
pub struct StartInput<'a> {
    /// The program.
    pub program: &'a JobProgram,
    /// The job.
    pub identity: &'a JobIdentity,
    /// Settings.
    pub settings: &'a CoordinatorSettings,
    /// The store.
    pub store: &'a JobStore,
    /// Go on or begin anew.
    pub wish: StartWish,
    /// Told of each protocol step right before it is performed.
    pub stop: &'a StopHook,
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

/// Starts a leader.
///
/// # Errors
/// With the reason, when the job may not start; the store is unchanged then, but for a raised epoch.
pub async fn start(input: StartInput<'_>, nonces: &mut NonceStream) -> Result<Leader, JobFailure> {
    let view = input.store.view().await.map_err(|error| failed(&error))?;
    let lineage = view.head.as_ref().map(|found| found.head.lineage);
    let decision =
        decide_start(input.identity, view, input.wish).map_err(|error| failed(&error))?;
    match decision {
        StartDecision::TakeOver(found) => {
            let lineage = lineage.unwrap_or(found.head.lineage);
            let externals = externals(&input, lineage).await?;
            take_over(input, found, externals, nonces).await
        }
        StartDecision::Begin { epoch } => begin(input, None, epoch, nonces).await,
        StartDecision::BeginAgain { head, leaves } => {
            tracing::warn!(
                number = leaves.number,
                confirmed = leaves.confirmed,
                "a new lineage begins; the state of the old one is left behind, and what it wrote stays beside the new output"
            );
            let epoch = head.head.epoch.next();
            begin(input, Some(head), epoch, nonces).await
        }
    }
}

async fn take_over(
    input: StartInput<'_>,
    found: Versioned,
    externals: Externals,
    nonces: &mut NonceStream,
) -> Result<Leader, JobFailure> {
    let shape = shape_of(input.program, input.identity, &externals.systems);
    let manifest = match input.store.manifest(&found.head.manifest).await {
        Ok(manifest) => {
            let (confirmed, options) = (found.head.confirmed, &input.settings.restore);
            may_restore(&manifest, confirmed, &shape, options)?;
            Found::Whole(Box::new(manifest))
        }
        // That the write below lands shows that `head` still names it: nobody has collected it.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tell_damage("the newest checkpoint", &error);
            Found::Unreadable
        }
        Err(error) => return Err(failed(&error)),
    };
    let change = HeadChange::TakeOver {
        slots: shape.slot_counts(),
    };
    let mut keeper = HeadKeeper::new(Some(found));
    let first = keeper.begin(&change, nonces.draw());
    (input.stop)(Step::R2);
    decide(input.store, &mut keeper, first).await?;
    Ok(Leader {
        keeper,
        manifest,
        shape,
        externals,
    })
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
    let Err(refusals) = check_restore(manifest, confirmed, shape, options) else {
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
    input: StartInput<'_>,
    before: Option<Versioned>,
    epoch: Epoch,
    nonces: &mut NonceStream,
) -> Result<Leader, JobFailure> {
    let lineage = nonces.draw_lineage();
    let externals = externals(&input, lineage).await?;
    let shape = shape_of(input.program, input.identity, &externals.systems);
    let program = input.program.clone();
    let sources = tokio::task::spawn_blocking(move || open_sources(&program, None)).await;
    let sources = sources.map_err(|error| failure(ErrorKind::Bug, error.to_string()))?;
    let sources = sources.map_err(|error| failure(error.source.kind(), error_chain(&error)))?;
    let title = ManifestTitle {
        identity: input.identity.clone(),
        lineage,
        id: CheckpointId { number: 0, epoch },
        kind: SnapshotKind::Checkpoint,
        parent: None,
        graph: shape.graph,
    };
    let manifest = checkpoint_zero(title, &sources, &externals);
    let (bytes, hash) = manifest.encode();
    let name = ManifestName {
        epoch,
        number: 0,
        nonce: nonces.draw(),
    };
    let written = input.store.write_manifest(&name, bytes).await;
    written.map_err(|error| failed(&error))?;
    let (slots, reference) = (shape.slot_counts(), ManifestRef { name, hash });
    let mut keeper = HeadKeeper::new(before.clone());
    let first = match before {
        None => keeper.create(Head::first(
            input.identity.clone(),
            lineage,
            reference,
            slots,
            nonces.draw(),
        )),
        Some(_) => keeper.begin(
            &HeadChange::Restart {
                lineage,
                manifest: reference,
                slots,
                origin: None,
            },
            nonces.draw(),
        ),
    };
    (input.stop)(Step::R2);
    decide(input.store, &mut keeper, first).await?;
    Ok(Leader {
        keeper,
        manifest: Found::Whole(Box::new(manifest)),
        shape,
        externals,
    })
}

/// Checkpoint 0: the resolved start positions, and where the markers of each sink begin.
fn checkpoint_zero(title: ManifestTitle, sources: &OpenSources, externals: &Externals) -> Manifest {
    let mut manifest = Manifest::new(title);
    for (uid, (source, splits)) in sources {
        let positions = splits.iter().map(|split| {
            let position = highwater_protocol::manifest::HexBytes(split.position.clone());
            (split.id.to_string(), position)
        });
        let state = SourceState {
            enumerator: source.snapshot(),
            splits: positions.collect(),
        };
        manifest.sources.insert(uid.clone(), state);
    }
    for (uid, external) in &externals.systems {
        let from = externals.markers.get(uid).copied().unwrap_or(0);
        let state = SinkState {
            external: external.clone(),
            from,
            slots: BTreeMap::new(),
        };
        manifest.sinks.insert(uid.clone(), state);
    }
    manifest
}

/// Performs a head write to its decision.
pub(crate) async fn decide(
    store: &JobStore,
    keeper: &mut HeadKeeper,
    first: Vec<HeadWriteEffect>,
) -> Result<(), JobFailure> {
    let mut effects = first;
    loop {
        let Some(effect) = effects.pop() else {
            return Err(failure(
                ErrorKind::Bug,
                "a head write ended without a decision",
            ));
        };
        match effect {
            HeadWriteEffect::Decided(HeadOutcome::Won(_)) => return Ok(()),
            HeadWriteEffect::Decided(HeadOutcome::Superseded(other)) => {
                let message = format!(
                    "another coordinator took the job in epoch {}; this one ends",
                    other.head.epoch
                );
                return Err(failure(ErrorKind::Fenced, message));
            }
            HeadWriteEffect::Decided(outcome) => {
                let message = format!("the leadership could not be taken: {outcome:?}");
                return Err(failure(ErrorKind::Corrupt, message));
            }
            effect => effects = keeper.step(store.perform(effect).await),
        }
    }
}

/// Asks every exactly-once sink what it writes to. Waits for systems that do not answer.
async fn externals(input: &StartInput<'_>, lineage: Lineage) -> Result<Externals, JobFailure> {
    let plan = input.program.plan();
    let mut externals = Externals::default();
    for node in plan.sinks() {
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
            let asked = tokio::task::spawn_blocking(move || ask(code.as_ref(), &of)).await;
            match asked.map_err(|error| failure(ErrorKind::Bug, error.to_string()))? {
                Ok(None) => break,
                Ok(Some((system, from))) => {
                    externals.markers.insert(context.uid.clone(), from);
                    externals.systems.insert(context.uid.clone(), system);
                    break;
                }
                Err(error) if error.kind == ErrorKind::Transient => {
                    tries += 1;
                    tracing::warn!(sink = %context.uid, error = error.message, "waiting for the sink");
                    tokio::time::sleep(backoff(tries)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(externals)
}

fn ask(
    code: &dyn highwater_api::code::SinkCode,
    context: &WriterContext,
) -> Result<Option<(ExternalSink, u64)>, JobFailure> {
    let Some(mut target) = code.target(context).map_err(|error| failed(&error))? else {
        return Ok(None);
    };
    let told = |error: TargetError| {
        let cause = match &error {
            TargetError::SessionLost(cause)
            | TargetError::Unclear(cause)
            | TargetError::Refused(cause)
            | TargetError::MarkerLost(cause) => cause.kind(),
        };
        JobFailure {
            kind: cause,
            message: format!("sink {}: {}", context.uid, error_chain(&error)),
        }
    };
    let identity = target.identity().map_err(told)?;
    let from = target.marker_position().map_err(told)?;
    let system = ExternalSink {
        cluster: identity.system,
        marker_topic: identity.markers,
    };
    Ok(Some((system, from.0)))
}
