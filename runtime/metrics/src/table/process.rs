//! The process as the operating system sees it, and the metrics themselves. One writer: the edge of the process.

use crate::labels::NoLabels;

scope! {
    /// The process.
    ProcessScope, "process", NoLabels;
    CPU: Counter<Nanos> = "highwater_process_cpu_seconds_total",
        "CPU time, user and system.", "Status.JVM.CPU.Time";
    RESIDENT: Gauge<Bytes> = "highwater_process_resident_bytes",
        "Memory that is resident.", "Status.JVM.Memory.Heap.Used";
    THREADS: Gauge<Count> = "highwater_process_threads",
        "Threads of the process.", "Status.JVM.Threads.Count";
    OPEN_FILES: Gauge<Count> = "highwater_process_open_files",
        "File descriptors that are open.", "";
    STARTED: Gauge<Millis> = "highwater_process_start_timestamp_seconds",
        "When the process started, in seconds since the Unix epoch.", "";
    STATE_BUDGET: Gauge<Bytes> = "highwater_process_state_budget_bytes",
        "Memory that state may take in this process.", "Status.Flink.Memory.Managed.Total";
    STATE_USED: Gauge<Bytes> = "highwater_process_state_used_bytes",
        "Memory that state takes in this process.", "Status.Flink.Memory.Managed.Used";
    STORE_BUDGET: Gauge<Bytes> = "highwater_process_store_budget_bytes",
        "Memory that the local stores of this process may take together.", "";
    STORE_USED: Gauge<Bytes> = "highwater_process_store_used_bytes",
        "Memory that the local stores of this process take together: blocks, indexes, filters and write buffers.", "";
}
