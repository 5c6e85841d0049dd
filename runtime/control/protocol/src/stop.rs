//! Named stops: the ends of a job that keep state and log and wait for a person.
//!
//! Raised by the machines of sinks, recovery and going back. The job never drops output and goes on: where exactness
//! cannot be kept, one of these names says so.

use std::fmt;

use highwater_types::{Classified, ErrorKind, OperatorUid};
use serde::{Deserialize, Serialize};

/// What helps when a marker topic is gone.
pub const MARKERS_LOST_STEP: &str = "restore the topic, or begin a new lineage beside the output that is there: from a savepoint with \
     `--from-savepoint` and `--fork`, or from the beginning with `--fresh`";

/// What helps when a checkpoint is given up for good and the one before it cannot take its place.
pub const GIVEN_UP_STEP: &str = "it is given up for good, so its own repair does not help: mend what stands against the one before it, put a \
     savepoint in its place with `--from-savepoint` and `--go-back`, or begin a new lineage beside the output that is \
     there: from a savepoint with `--from-savepoint` and `--fork`, or from the beginning with `--fresh`";

fn after_visible(number: u64, giving_up: bool) -> String {
    if giving_up {
        "head has given it up and other slots may have no output of it any more, so its repair does not help; begin a new \
         lineage beside the output that is there: from a savepoint with `--from-savepoint` and `--fork`, or from the \
         beginning with `--fresh`"
            .to_owned()
    } else {
        format!("repair checkpoint {number} or accept repeats by name")
    }
}

/// One subtask of one sink: the unit of sink commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotKey {
    /// The sink.
    pub sink: OperatorUid,
    /// Its subtask.
    pub slot: u32,
}

impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sink, self.slot)
    }
}

/// Why a job stopped with state and log kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NamedStop {
    /// A committed marker is newer than the last completed checkpoint.
    #[error(
        "StateBehindOutput: sink slot {slot} has committed checkpoint {marker}, but head is at {head}; restore the \
         head object of this lineage, its output is ahead of its state"
    )]
    StateBehindOutput {
        /// The slot.
        slot: SlotKey,
        /// The number of the marker.
        marker: u64,
        /// The number in head.
        head: u64,
    },
    /// The marker topic cannot answer.
    #[error("MarkerLost: the marker topic of sink slot {slot} {reason}; {MARKERS_LOST_STEP}")]
    MarkerLost {
        /// The slot.
        slot: SlotKey,
        /// What is wrong with the topic.
        reason: MarkerFault,
    },
    /// The log is needed and is missing or damaged.
    #[error(
        "SinkLogDamaged: the log of checkpoint {number} of sink slot {slot} is missing or damaged and its output is \
         not committed; restore the log object or go back by name"
    )]
    SinkLogDamaged {
        /// The slot.
        slot: SlotKey,
        /// The checkpoint.
        number: u64,
    },
    /// The outside will not take what is to be committed.
    #[error(
        "SinkRefused: {part} of checkpoint {number} of sink slot {slot} is refused: {reason}; correct the outside or \
         its limits and start again, the log is kept"
    )]
    SinkRefused {
        /// The slot.
        slot: SlotKey,
        /// The checkpoint.
        number: u64,
        /// What is refused.
        part: RefusedPart,
        /// The answer of the outside.
        reason: String,
    },
    /// The sink will never take a record that is in no completed checkpoint yet.
    #[error(
        "RecordRefused: sink slot {slot} can never take a record: {reason}; it is in no completed checkpoint, so correct \
         the program or the limits of the sink and start again: the job goes on from its last checkpoint"
    )]
    RecordRefused {
        /// The slot.
        slot: SlotKey,
        /// What the sink says of the record.
        reason: String,
    },
    /// The outside will not open a session for good: access is denied, or a setting is wrong.
    #[error(
        "SinkRefused: no session of sink slot {slot} can be opened: {reason}; grant what is missing or correct the \
         sink, then start again"
    )]
    SessionRefused {
        /// The slot.
        slot: SlotKey,
        /// The answer of the outside.
        reason: String,
    },
    /// The state is damaged, and an older one is not there or would repeat visible output.
    #[error(
        "StateDamaged: the state of checkpoint {number} is damaged and no older one can take its place; restore the \
         damaged file or start from a savepoint"
    )]
    StateDamaged {
        /// The checkpoint.
        number: u64,
    },
    /// Going back is impossible because a part of the output is visible.
    #[error(
        "PartlyCommitted: checkpoint {number} cannot be given up, sink slot {slot} has committed its output; {}",
        after_visible(*number, *giving_up)
    )]
    PartlyCommitted {
        /// A slot with visible output.
        slot: SlotKey,
        /// The checkpoint.
        number: u64,
        /// Whether `head` has chosen to give it up: what other slots have of it may be void, so it is never repaired.
        giving_up: bool,
    },
    /// A sink with unconfirmed output is not in the new graph.
    #[error(
        "PendingOutput: checkpoint {number} has unconfirmed output of sink {sink}, which this job {change}; run the \
         former job until it is confirmed, then change the sink"
    )]
    PendingOutput {
        /// The sink.
        sink: OperatorUid,
        /// The checkpoint.
        number: u64,
        /// What the new job does with the sink.
        change: SinkChange,
    },
    /// Manifests exist, `head` does not.
    #[error(
        "HeadMissing: {manifests} manifests exist but no head object, newest number {newest}; restore the head object, \
         or start a new lineage with --fresh"
    )]
    HeadMissing {
        /// How many manifests were found.
        manifests: usize,
        /// The largest number among them.
        newest: u64,
    },
}

/// What the outside refuses to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedPart {
    /// Output of the log.
    Record,
    /// The void marker of output that is given up.
    VoidMarker,
}

impl fmt::Display for RefusedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "a logged record",
            Self::VoidMarker => "the void marker",
        })
    }
}

/// What is wrong with a marker topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkerFault {
    /// The topic was made anew.
    Replaced {
        /// The topic id in the manifest.
        expected: String,
        /// The topic id now.
        found: String,
    },
    /// The topic does not exist any more, or is not the one of the manifest.
    Unusable {
        /// What was found.
        reason: String,
    },
    /// The topic ends before the offset that the manifest has seen.
    Cut {
        /// The offset in the manifest.
        from: u64,
        /// The end of the topic.
        end: u64,
    },
    /// The topic starts after the offset of the manifest without compaction.
    Truncated {
        /// The offset in the manifest.
        from: u64,
        /// The start of the topic.
        start: u64,
    },
}

impl fmt::Display for MarkerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced { expected, found } => {
                write!(f, "was replaced (id {expected} became {found})")
            }
            Self::Unusable { reason } => write!(f, "is lost ({reason})"),
            Self::Cut { from, end } => write!(f, "ends at {end}, before the known offset {from}"),
            Self::Truncated { from, start } => {
                write!(f, "starts at {start}, after the known offset {from}")
            }
        }
    }
}

/// What a new graph does with a sink that has pending output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkChange {
    /// The sink is not in the graph.
    Removes,
    /// The sink writes to another cluster.
    MovesCluster,
    /// The sink writes to another place of the same cluster.
    MovesOutput {
        /// Where the output is to go, by the manifest.
        from: String,
        /// Where this graph would send it.
        to: String,
    },
}

impl fmt::Display for SinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removes => f.write_str("removes or renames"),
            Self::MovesCluster => f.write_str("moves to another cluster"),
            Self::MovesOutput { from, to } => write!(f, "moves from `{from}` to `{to}`"),
        }
    }
}

impl Classified for NamedStop {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::SinkLogDamaged { .. }
            | Self::StateDamaged { .. }
            | Self::MarkerLost { .. }
            | Self::StateBehindOutput { .. }
            | Self::HeadMissing { .. } => ErrorKind::Corrupt,
            Self::SinkRefused { .. }
            | Self::SessionRefused { .. }
            | Self::RecordRefused { .. }
            | Self::PartlyCommitted { .. }
            | Self::PendingOutput { .. } => ErrorKind::Invalid,
        }
    }
}
