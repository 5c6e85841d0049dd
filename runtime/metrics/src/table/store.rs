//! The local store of one operator subtask: disk and memory. One writer: its slot thread, at barriers.

use crate::labels::SubtaskLabels;

scope! {
    /// The local store of an operator.
    StoreScope, "local store", SubtaskLabels;
    DISK_BYTES: Gauge<Bytes> = "highwater_store_disk_bytes",
        "Bytes that the local store of an operator takes on disk.", "";
    MEMORY_BYTES: Gauge<Bytes> = "highwater_store_memory_bytes",
        "Bytes of write buffers of this local store, and what its readers hold outside of the cache that all stores share. The \
         write buffers are part of highwater_process_store_used_bytes too.", "";
    COMPACTIONS: Gauge<Count> = "highwater_store_compactions",
        "Compactions of the local store that run, and states that wait for one. A checkpoint stores what they rewrote.", "";
    WRITE_WAITS: Counter<Count> = "highwater_store_write_waits_total",
        "Times that an operator waited, up to 10 ms each, because its local store could not rewrite as fast as it was written \
         to: the disk or the cores are too slow for the rate. All stores of a process share a thread for every two slots, two or three at least.",
        "";
}
