//! The local store of one operator subtask: disk and memory. One writer: its slot thread, at barriers.

use crate::labels::SubtaskLabels;

scope! {
    /// The local store of an operator.
    StoreScope, "local store", SubtaskLabels;
    DISK_BYTES: Gauge<Bytes> = "highwater_store_disk_bytes",
        "Bytes that the local store of an operator takes on disk.", "";
    MEMORY_BYTES: Gauge<Bytes> = "highwater_store_memory_bytes",
        "Bytes of memory that only this local store takes, the shared cache left out.", "";
    PENDING_BYTES: Gauge<Bytes> = "highwater_store_compaction_pending_bytes",
        "Bytes that the local store has to rewrite yet.", "";
}
