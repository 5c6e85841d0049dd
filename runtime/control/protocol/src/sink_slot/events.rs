//! What a sink slot hears and what it asks for: events, effects, markers, sessions.
//!
//! Read by the worker's sink driver. Effects of one step are performed in order; a driver may report their results in
//! any order and late, since every result names the session or the checkpoint that it belongs to.

use highwater_types::{CheckpointId, Epoch};
use serde::{Deserialize, Serialize};

use super::session::LogSource;
use super::spool::{Position, RecordRange};
use crate::head_write::Authority;
use crate::manifest::{LogObject, SlotOutput};
use crate::stop::NamedStop;

/// One `init_transactions` of this attempt, counted from 1: stands for (producer id, epoch).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNumber(pub u64);

/// What a marker says about the output of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MarkerKind {
    /// The output is in the transaction of the marker.
    Output,
    /// The output was given up and may never be published.
    Void,
}

/// A committed marker of this slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Marker {
    /// The checkpoint.
    pub number: u64,
    /// What it says.
    pub kind: MarkerKind,
}

/// What a reader of the marker topic found between `from` and the sync record of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerReading {
    /// The id of the topic.
    pub topic: String,
    /// The first offset that the topic still has.
    pub start: u64,
    /// The offset of the sync record.
    pub end: u64,
    /// The committed markers of this slot.
    pub markers: Vec<Marker>,
}

/// The answer to the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndAnswer {
    /// A clear success; the marker lies at this offset or before it.
    Committed {
        /// The offset.
        marker_offset: u64,
    },
    /// Anything else, also "fenced".
    Unclear,
}

/// What wakes a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotEvent {
    /// Records were emitted and are in the spool.
    Output {
        /// How many.
        records: u32,
        /// Their bytes in the spool.
        bytes: u64,
    },
    /// The leader has triggered a checkpoint, newer than all before: its barrier is on the way, behind records that must
    /// pass a full spool.
    Expected,
    /// The barrier has come.
    Barrier(CheckpointId),
    /// The leader has given the checkpoint up: a barrier of it that comes later is ignored.
    Declined {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// A new leader goes on with the attempt of this slot (L4): what was begun under older leaders and is not in `head` is given up.
    Adopted {
        /// The epoch of the leader.
        epoch: Epoch,
        /// The checkpoint in `head`.
        head: CheckpointId,
    },
    /// Nobody leads: no barrier comes before a new leader does.
    Unled,
    /// A leader that read this checkpoint in `head` orders its commit (L3). May be repeated.
    Commit {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Everything that was sent is delivered.
    Flushed {
        /// The session.
        session: SessionNumber,
    },
    /// The log is durable.
    LogStored {
        /// The checkpoint.
        id: CheckpointId,
        /// Its objects, in order, at least one.
        log: Vec<LogObject>,
    },
    /// The log cannot be stored now.
    LogFailed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// The session is open: older transactions of the id are decided, older producers are fenced.
    Opened {
        /// The session.
        session: SessionNumber,
    },
    /// Session or transaction are lost, could not be opened, or the transaction is older than half its timeout.
    TxnLost {
        /// The session.
        session: SessionNumber,
    },
    /// The sync record is in the marker topic, acknowledged by all in-sync replicas.
    SyncWritten {
        /// The session.
        session: SessionNumber,
    },
    /// The markers up to the sync record were read.
    MarkersRead {
        /// The session.
        session: SessionNumber,
        /// What was found.
        reading: MarkerReading,
    },
    /// The marker topic is gone or is another one, and no further try can help. Told before the loss of the session that it
    /// brings, at any step.
    MarkersLost {
        /// The session.
        session: SessionNumber,
        /// What was found.
        reason: String,
    },
    /// The answer to the end of the transaction.
    EndTxn {
        /// The session.
        session: SessionNumber,
        /// The answer.
        answer: EndAnswer,
    },
    /// The session cannot be opened, and no further try can help.
    SessionRefused {
        /// The session.
        session: SessionNumber,
        /// The answer of the outside.
        reason: String,
    },
    /// The log to publish is missing or damaged.
    LogUnreadable,
    /// The broker rejects what is being sent or published for good. Told before the loss of the session that it brings.
    RecordRefused {
        /// Its answer.
        reason: String,
    },
    /// The leader's word on this attempt.
    LeaderSays(Authority),
    /// Going back: the leader gives the checkpoint up; only for a slot that examines.
    WriteVoid {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// All slots have confirmed: records may be sent.
    Released,
}

/// What the driver does for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotEffect {
    /// `init_transactions` on the slot's id.
    OpenSession {
        /// The session.
        session: SessionNumber,
    },
    /// Begins a transaction in the session.
    Begin {
        /// The session.
        session: SessionNumber,
    },
    /// Sends records of the spool in the transaction.
    Send(RecordRange),
    /// Waits until everything is delivered; answers [`SlotEvent::Flushed`] or [`SlotEvent::TxnLost`].
    Flush {
        /// The session.
        session: SessionNumber,
    },
    /// Stores the bytes of the range as log; answers [`SlotEvent::LogStored`] or [`SlotEvent::LogFailed`].
    StoreLog {
        /// The checkpoint.
        id: CheckpointId,
        /// The records.
        range: RecordRange,
    },
    /// Acknowledges the barrier for this slot.
    Ack {
        /// The checkpoint.
        id: CheckpointId,
        /// Its output.
        output: SlotOutput,
        /// A marker offset seen before.
        marker_offset: u64,
    },
    /// Refuses the checkpoint for this slot.
    Decline {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Sends the marker in the transaction.
    WriteMarker {
        /// The checkpoint.
        number: u64,
        /// What it says.
        kind: MarkerKind,
    },
    /// Asks for the end of the transaction: commit. Answers [`SlotEvent::EndTxn`].
    EndTxn {
        /// The session.
        session: SessionNumber,
    },
    /// Aborts if it can; no answer is needed.
    Abort {
        /// The session.
        session: SessionNumber,
    },
    /// Asks the leader whether this attempt is current; repeats until answered.
    AskLeader {
        /// The checkpoint at stake.
        id: CheckpointId,
    },
    /// Writes a sync record to the marker partition with a plain producer, acks = all.
    WriteSync {
        /// The session.
        session: SessionNumber,
    },
    /// Reads the marker partition `read_committed` from this offset up to the sync record.
    ReadMarkers {
        /// The session.
        session: SessionNumber,
        /// The offset.
        from: u64,
    },
    /// Sends the log in the transaction: the same bytes, in order.
    Publish(LogSource),
    /// Tells the leader that the output is visible.
    ReportConfirmed {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Tells the leader that the output was given up: *Going back* is to be finished.
    ReportVoid {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// Tells the leader what an examination found.
    ReportExamined {
        /// The checkpoint.
        id: CheckpointId,
        /// The marker, if there is one.
        found: Option<MarkerKind>,
    },
    /// Frees the spool up to here.
    ReleaseSpool {
        /// The first record to keep.
        upto: Position,
    },
    /// The spool is full: takes no more input.
    HoldInput,
    /// The spool has room again.
    ResumeInput,
    /// The spool is half full: asks for a checkpoint before its time.
    RequestCheckpoint,
    /// A newer attempt owns the slot: ends, touches nothing.
    EndAttempt,
    /// Stops the job by name.
    Stop(NamedStop),
}

/// What a slot tells a new leader (L4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotReport {
    /// The checkpoint with output that was acknowledged and is not confirmed.
    pub acked: Option<CheckpointId>,
    /// The newest number that is confirmed here.
    pub confirmed: u64,
}
