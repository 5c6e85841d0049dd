//! Whether a graph may restore a manifest: every reason at once, each naming the operator and the next step.
//!
//! Called before the old job is stopped and again before the first byte is restored. Bytes are never reinterpreted: a
//! state is restored under the schema that wrote it, under one that the driver has proven to read it, or not at all.

use std::collections::BTreeSet;

use highwater_types::{Classified, ErrorKind, OperatorUid};
use serde::{Deserialize, Serialize};

use crate::job::{JobShape, OperatorShape};
use crate::manifest::{Blob, Manifest, OperatorState, SinkState, StateSchema};
use crate::stop::{MarkerFault, NamedStop, SinkChange, SlotKey};

/// What happens to state that no operator of the graph takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnmatchedState {
    /// The restore is refused.
    Refuse,
    /// It is dropped: the user said so by name.
    Drop,
}

/// What a restore may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// What happens to unmatched state.
    pub unmatched: UnmatchedState,
    /// States whose new schema is known to read the old bytes: operator and name.
    pub readable: BTreeSet<(OperatorUid, String)>,
}

/// One reason against a restore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The operator has state and is not in the graph.
    #[error(
        "operator {uid} has state in checkpoint {number} and is not in the job; restore its uid, or drop its state by \
         --allow-unmatched-state"
    )]
    MissingOperator {
        /// The operator.
        uid: OperatorUid,
        /// The checkpoint.
        number: u64,
    },
    /// The state is not in its operator any more.
    #[error(
        "state `{state}` of operator {uid} is not in the job; restore it, or drop it by --allow-unmatched-state"
    )]
    MissingState {
        /// The operator.
        uid: OperatorUid,
        /// The state.
        state: String,
    },
    /// The key has another schema.
    #[error(
        "operator {uid} is keyed by {new}, its state by {old}; keep the key type, or give the operator a new uid and drop \
         the old state by --allow-unmatched-state"
    )]
    KeyChanged {
        /// The operator.
        uid: OperatorUid,
        /// The schema in the manifest.
        old: String,
        /// The schema in the graph.
        new: String,
    },
    /// The state has another kind or an unreadable schema.
    #[error(
        "state `{state}` of operator {uid} is {new}, it was written as {old}; keep the type, or give it a new name and \
         drop the old state by --allow-unmatched-state"
    )]
    StateChanged {
        /// The operator.
        uid: OperatorUid,
        /// The state.
        state: String,
        /// Kind and schema in the manifest.
        old: String,
        /// Kind and schema in the graph.
        new: String,
    },
    /// The operator gives its state another meaning.
    #[error(
        "operator {uid} is `{new}`, its state was written by `{old}` and would be read wrongly; set it back, or give the \
         operator a new uid and drop the old state by --allow-unmatched-state"
    )]
    FormChanged {
        /// The operator.
        uid: OperatorUid,
        /// In the manifest.
        old: String,
        /// In the graph.
        new: String,
    },
    /// The number of key groups is another one.
    #[error("operator {uid} has max parallelism {new}, its state has {old}; set it back to {old}")]
    MaxParallelismChanged {
        /// The operator.
        uid: OperatorUid,
        /// In the manifest.
        old: u32,
        /// In the graph.
        new: u32,
    },
    /// More subtasks than key groups.
    #[error(
        "operator {uid} has parallelism {parallelism}, its state has {max} key groups; use at most {max}"
    )]
    TooParallel {
        /// The operator.
        uid: OperatorUid,
        /// In the graph.
        parallelism: u32,
        /// In the manifest.
        max: u32,
    },
    /// A named stop.
    #[error(transparent)]
    Stop(#[from] NamedStop),
}

impl Classified for Refusal {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Stop(stop) => stop.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

/// Checks whether `shape` may restore `manifest`. `confirmed` is the number in `head`; for a savepoint it is the
/// savepoint's own number, since a savepoint never has pending output.
pub fn check_restore(
    manifest: &Manifest,
    confirmed: u64,
    shape: &JobShape,
    options: &RestoreOptions,
) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    let number = manifest.id.number;
    for (uid, old) in manifest.operators.iter().filter(|(_, old)| old.has_state()) {
        if let Some(new) = shape.operators.get(uid) {
            operator(uid, old, new, options, &mut refusals);
        }
    }
    let missing = unmatched_operators(manifest, shape);
    let missing = missing.into_iter();
    refusals.extend(missing.map(|(uid, _)| Refusal::MissingOperator { uid, number }));
    if options.unmatched == UnmatchedState::Drop {
        refusals.retain(|refusal| {
            !matches!(
                refusal,
                Refusal::MissingOperator { .. } | Refusal::MissingState { .. }
            )
        });
    }
    if confirmed < number {
        pending_output(manifest, shape, &mut refusals);
    }
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals)
    }
}

/// The operators and sources of `manifest` whose state nothing in the graph takes, with the bytes of it.
pub fn unmatched_operators(manifest: &Manifest, shape: &JobShape) -> Vec<(OperatorUid, u64)> {
    let operators = manifest.operators.iter();
    let operators =
        operators.filter(|(uid, old)| old.has_state() && !shape.operators.contains_key(uid));
    let operators = operators.map(|(uid, old)| {
        let files = old.keyed.iter();
        let files = files.filter_map(|keyed| manifest.files.get(&keyed.path));
        let keyed: u64 = files.map(|file| file.length).sum();
        let elements = old.lists.iter().flat_map(|list| &list.elements);
        (uid.clone(), keyed + elements.map(Blob::length).sum::<u64>())
    });
    let sources = manifest.sources.iter();
    let sources =
        sources.filter(|(uid, old)| !old.splits.is_empty() && !shape.sources.contains(*uid));
    let sources = sources.map(|(uid, old)| {
        let positions = old.splits.values();
        let bytes: usize = positions.map(|position| position.0.len()).sum();
        (uid.clone(), bytes as u64)
    });
    operators.chain(sources).collect()
}

/// Checks only what must be confirmed of `manifest`: nothing of it is restored.
pub fn check_pending(
    manifest: &Manifest,
    confirmed: u64,
    shape: &JobShape,
) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if confirmed < manifest.id.number {
        pending_output(manifest, shape, &mut refusals);
    }
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals)
    }
}

fn operator(
    uid: &OperatorUid,
    old: &OperatorState,
    new: &OperatorShape,
    options: &RestoreOptions,
    refusals: &mut Vec<Refusal>,
) {
    let fingerprint = |key: &Option<StateSchema>| key.as_ref().map(|key| key.fingerprint);
    if fingerprint(&old.key) != fingerprint(&new.key) {
        let text = |key: &Option<StateSchema>| {
            key.as_ref()
                .map_or_else(|| "nothing".to_owned(), |key| key.text.clone())
        };
        refusals.push(Refusal::KeyChanged {
            uid: uid.clone(),
            old: text(&old.key),
            new: text(&new.key),
        });
    }
    if !old.form.is_empty() && old.form != new.form {
        let has_none = || "without state".to_owned();
        refusals.push(Refusal::FormChanged {
            uid: uid.clone(),
            old: old.form.clone(),
            new: Some(new.form.clone())
                .filter(|form| !form.is_empty())
                .unwrap_or_else(has_none),
        });
    }
    let (old_max, new_max) = (old.max_parallelism.get(), new.max_parallelism.get());
    if old_max != new_max {
        let (old, new) = (old_max, new_max);
        refusals.push(Refusal::MaxParallelismChanged {
            uid: uid.clone(),
            old,
            new,
        });
    }
    if new.parallelism.0 > old_max {
        let (parallelism, max) = (new.parallelism.0, old_max);
        refusals.push(Refusal::TooParallel {
            uid: uid.clone(),
            parallelism,
            max,
        });
    }
    for state in &old.states {
        match new.states.iter().find(|other| other.name == state.name) {
            None => {
                let state = state.name.clone();
                refusals.push(Refusal::MissingState {
                    uid: uid.clone(),
                    state,
                });
            }
            Some(other) => {
                let readable = options
                    .readable
                    .contains(&(uid.clone(), state.name.clone()));
                let same = other.fingerprint == state.fingerprint;
                if other.kind != state.kind || !(same || readable) {
                    refusals.push(Refusal::StateChanged {
                        uid: uid.clone(),
                        state: state.name.clone(),
                        old: format!("{} of {}", state.kind, state.text),
                        new: format!("{} of {}", other.kind, other.text),
                    });
                }
            }
        }
    }
}

/// Rule L8: a sink with unconfirmed output may not be removed, renamed or moved, and its markers must be where they
/// were: a new place knows nothing of what is committed, and each session would write into it until it looked whole.
fn pending_output(manifest: &Manifest, shape: &JobShape, refusals: &mut Vec<Refusal>) {
    let number = manifest.id.number;
    for (sink, state) in &manifest.sinks {
        let first = state.slots.iter().find(|(_, output)| output.is_log());
        let Some((&slot, _)) = first else {
            continue;
        };
        let slot = SlotKey {
            sink: sink.clone(),
            slot,
        };
        let stop = unreachable_markers(&slot, number, Some(state), shape);
        refusals.extend(stop.map(Refusal::from));
    }
}

/// Why nobody in this graph can read what a slot has committed. `known` = where it wrote, if a manifest says so.
pub(super) fn unreachable_markers(
    slot: &SlotKey,
    number: u64,
    known: Option<&SinkState>,
    shape: &JobShape,
) -> Option<NamedStop> {
    let pending = |change| NamedStop::PendingOutput {
        sink: slot.sink.clone(),
        number,
        change,
    };
    let Some(new) = shape.sinks.get(&slot.sink) else {
        return Some(pending(SinkChange::Removes));
    };
    let known = known?;
    if new.external.cluster != known.external.cluster {
        return Some(pending(SinkChange::MovesCluster));
    }
    let (output, old) = (&new.external.output, &known.external.output);
    if output != old && !old.is_empty() {
        return Some(pending(SinkChange::MovesOutput {
            from: old.clone(),
            to: output.clone(),
        }));
    }
    (new.external.marker_topic != known.external.marker_topic).then(|| NamedStop::MarkerLost {
        slot: slot.clone(),
        reason: MarkerFault::Replaced {
            expected: known.external.marker_topic.clone(),
            found: new.external.marker_topic.clone(),
        },
    })
}
