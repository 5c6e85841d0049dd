//! The enumerators of a job: where splits come from, and what a checkpoint keeps of them.
//!
//! A split is in the state of an enumerator as "reported" and in the state of a reader as "position": assignments and
//! barrier triggers travel to the worker through one ordered channel, so a reader that was given a split before barrier
//! n holds it in its state of n (T-14). A reader may hold it one checkpoint earlier; then its position counts. Discovery
//! blocks and runs at the rim; while it runs, the snapshot is the one from before, which agrees with what was assigned.
//! A source begins once: in checkpoint 0, or, added to a job later, in an object of its own until it is in a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_connectors::{ConnectorError, Split, SplitEnumerator};
use highwater_protocol::manifest::{HexBytes, Manifest, SourceState};
use highwater_protocol::paths::ManifestName;
use highwater_protocol::source_start::{SourceStart, base};
use highwater_types::{Classified, ErrorKind, OperatorUid};

use crate::setup::JobFailure;
use crate::start::{failed, failure};
use crate::store::JobStore;

/// An enumerator that cannot find splits.
#[derive(Debug, thiserror::Error)]
#[error("source {uid} cannot find its splits")]
pub struct DiscoverError {
    /// The source.
    pub uid: OperatorUid,
    /// Why.
    #[source]
    pub source: ConnectorError,
}

impl Classified for DiscoverError {
    fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// One source's enumerator.
pub struct SourceSplits {
    enumerator: Option<Box<dyn SplitEnumerator>>,
    /// What was reported, as of the last finished discovery.
    snapshot: Vec<u8>,
    /// Whether no further split will come.
    pub complete: bool,
    /// How often to look again.
    pub interval: Option<Duration>,
}

/// What a finished discovery brings back.
pub struct Discovered {
    /// The source.
    pub uid: OperatorUid,
    enumerator: Box<dyn SplitEnumerator>,
    result: Result<highwater_connectors::Discovery, ConnectorError>,
}

impl SourceSplits {
    /// The enumerator state for a checkpoint.
    pub fn snapshot(&self) -> HexBytes {
        HexBytes(self.snapshot.clone())
    }

    /// Takes the enumerator out to look again at the rim; `None` = it is looking already, or has no need to.
    pub fn take(&mut self) -> Option<Box<dyn SplitEnumerator>> {
        if self.complete {
            None
        } else {
            self.enumerator.take()
        }
    }

    /// Puts the enumerator back and returns new splits.
    pub fn put_back(&mut self, found: Discovered) -> Result<Vec<Split>, ConnectorError> {
        let Discovered {
            enumerator, result, ..
        } = found;
        let discovery = match result {
            Ok(discovery) => discovery,
            Err(error) => {
                self.enumerator = Some(enumerator);
                return Err(error);
            }
        };
        self.snapshot = enumerator.snapshot();
        self.complete = discovery.complete;
        self.enumerator = Some(enumerator);
        Ok(discovery.splits)
    }
}

/// Looks for splits once. Blocks.
pub fn discover(uid: OperatorUid, mut enumerator: Box<dyn SplitEnumerator>) -> Discovered {
    let result = enumerator.discover();
    Discovered {
        uid,
        enumerator,
        result,
    }
}

/// What every source of a job starts with.
pub type OpenSources = BTreeMap<OperatorUid, (SourceSplits, Vec<Split>)>;

/// Opens every enumerator at the state of a checkpoint (`None` = none), and looks for splits. Blocks.
///
/// # Errors
/// When a source cannot be reached or its state cannot be read.
pub fn open_sources(
    program: &JobProgram,
    states: Option<&BTreeMap<OperatorUid, SourceState>>,
) -> Result<OpenSources, DiscoverError> {
    let plan = program.plan();
    let mut sources = BTreeMap::new();
    for node in plan.sources() {
        let uid = plan.uid(node).clone();
        let failed = |source| DiscoverError {
            uid: uid.clone(),
            source,
        };
        let Some(code) = program.source(node) else {
            continue;
        };
        let mut enumerator = code.enumerator().map_err(failed)?;
        let mut splits = Vec::new();
        if let Some(state) = states.and_then(|states| states.get(&uid)) {
            enumerator.restore(&state.enumerator.0).map_err(failed)?;
            splits.extend(state.splits.iter().map(|(id, position)| Split {
                id: id.as_str().into(),
                position: position.0.clone(),
            }));
            enumerator.check(&splits).map_err(failed)?;
        }
        let discovery = enumerator.discover().map_err(failed)?;
        add_new(&mut splits, discovery.splits);
        let opened = SourceSplits {
            snapshot: enumerator.snapshot(),
            interval: enumerator.interval(),
            enumerator: Some(enumerator),
            complete: discovery.complete,
        };
        sources.insert(uid, (opened, splits));
    }
    Ok(sources)
}

/// Opens every enumerator for an attempt that goes on from `manifest`, found under `name`. A source that it does not know
/// begins where the first such attempt resolved it to begin, and that is durable when this returns (schedule 17).
///
/// # Errors
/// As [`open_sources`], and when the store does not answer.
pub async fn open_from(
    store: &JobStore,
    program: &JobProgram,
    manifest: &Manifest,
    name: ManifestName,
) -> Result<OpenSources, JobFailure> {
    let base = base(manifest, name);
    let mut states = manifest.sources.clone();
    let plan = program.plan();
    let uids = plan.sources().map(|node| plan.uid(node).clone());
    let added: Vec<_> = uids.filter(|uid| !states.contains_key(uid)).collect();
    for uid in &added {
        let start = store.source_start(&base, uid).await;
        if let Some(start) = start.map_err(|error| failed(&error))? {
            states.insert(uid.clone(), start);
        }
    }
    let opened = open_at(program, states.clone()).await?;
    let mut is_first = true;
    for uid in added.iter().filter(|uid| !states.contains_key(*uid)) {
        let Some((source, splits)) = opened.get(uid) else {
            continue;
        };
        let start = SourceStart::new(uid.clone(), state_of(source, splits));
        let kept = store.keep_source_start(&base, &start).await;
        is_first &= kept.map_err(|error| failed(&error))?;
        tracing::info!(source = %uid, after = %base, "an added source begins");
    }
    if is_first {
        return Ok(opened);
    }
    let message = "another attempt has resolved the start of an added source; it counts";
    Err(failure(ErrorKind::Transient, message))
}

/// [`open_sources`], off the event loop.
async fn open_at(
    program: &JobProgram,
    states: BTreeMap<OperatorUid, SourceState>,
) -> Result<OpenSources, JobFailure> {
    let program = program.clone();
    let opened = tokio::task::spawn_blocking(move || open_sources(&program, Some(&states)));
    match opened.await {
        Ok(opened) => opened.map_err(|error| failed(&error)),
        Err(error) => Err(failure(ErrorKind::Bug, error.to_string())),
    }
}

/// What a checkpoint keeps of a source that is open at these splits.
pub fn state_of(source: &SourceSplits, splits: &[Split]) -> SourceState {
    let positions = splits.iter().map(|split| {
        let position = HexBytes(split.position.clone());
        (split.id.to_string(), position)
    });
    SourceState {
        enumerator: source.snapshot(),
        splits: positions.collect(),
    }
}

/// Adds the splits that were found to those that a checkpoint holds. A split that it holds keeps its position: readers may
/// know of it earlier than the enumerator's state does, and its beginning would be read twice.
fn add_new(saved: &mut Vec<Split>, found: Vec<Split>) {
    let known: BTreeSet<_> = saved.iter().map(|split| split.id.clone()).collect();
    saved.extend(found.into_iter().filter(|split| !known.contains(&split.id)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t14_a_split_that_a_checkpoint_holds_keeps_its_position() {
        let split = |id: &str, position: u8| Split {
            id: id.into(),
            position: vec![position],
        };
        let mut splits = vec![split("a", 9)];
        add_new(&mut splits, vec![split("a", 0), split("b", 0)]);
        assert_eq!(splits, [split("a", 9), split("b", 0)]);
    }
}
