//! One state of one subtask: how much it holds. One writer: its slot thread, at barriers.

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
    MISSES: Counter<Count> = "highwater_state_misses_total",
        "Entries that were not in memory and had to be fetched.", "";
    SNAPSHOT_BYTES: Gauge<Bytes> = "highwater_state_last_snapshot_bytes",
        "Bytes that the last checkpoint wrote for this state.", "";
}
