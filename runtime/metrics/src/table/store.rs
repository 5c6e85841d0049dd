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
    WRITE_WAITS: Counter<Count> = "highwater_store_write_waits_total",
        "Times that an operator waited, up to 10 ms each, because its local store could not rewrite as fast as it is written to.",
        "The local disk or the cores of the worker are too slow for the rate. More slots do not help, more workers do.";
}
