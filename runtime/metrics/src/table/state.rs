//! One state of one subtask: how much it holds, and what its cache over a local store did. One writer: its slot thread, at
//! barriers.

use crate::labels::StateLabels;

scope! {
    /// A keyed or operator state.
    StateScope, "state", StateLabels;
    ENTRIES: Gauge<Count> = "highwater_state_entries",
        "Entries that are held, expired ones that are not yet removed included.", "";
    BYTES: Gauge<Bytes> = "highwater_state_bytes",
        "Bytes that the entries take, as the backend accounts for them.", "";
    EXPIRED: Counter<Count> = "highwater_state_expired_total",
        "Entries that time to live removed.", "";
    HITS: Counter<Count> = "highwater_state_hits_total",
        "Keys of records that were in memory, with a local store behind the state.", "";
    MISSES: Counter<Count> = "highwater_state_misses_total",
        "Keys that were not in memory and had to be asked of the local store.", "";
    KNOWN_ABSENT: Counter<Count> = "highwater_state_known_absent_total",
        "Keys that were new, as was known without asking the local store.", "";
    UNPREPARED: Counter<Count> = "highwater_state_unprepared_reads_total",
        "Keys that were asked of the local store one by one, which is slow.", "";
    EVICTIONS: Counter<Count> = "highwater_state_evictions_total",
        "Entries that left memory.", "";
    DIRTY_EVICTIONS: Counter<Count> = "highwater_state_dirty_evictions_total",
        "Entries that were written to the local store because they had to leave memory.", "";
    ROWS_WRITTEN: Counter<Count> = "highwater_state_rows_written_total",
        "Rows that were written to the local store, for a checkpoint or to leave memory.", "";
}
