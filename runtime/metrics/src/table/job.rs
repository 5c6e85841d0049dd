//! The job as its coordinator sees it. One writer: the coordinator's loop.

use crate::labels::NoLabels;

scope! {
    /// The job.
    JobScope, "job", NoLabels;
    RUNNING: Counter<Nanos> = "highwater_job_running_seconds_total",
        "Time in which every subtask was running.", "runningTime";
    RESTARTING: Counter<Nanos> = "highwater_job_restarting_seconds_total",
        "Time between a failure and the moment at which every subtask ran again.", "restartingTime";
    RESTARTS: Counter<Count> = "highwater_job_restarts_total",
        "Restarts of a failover region since the coordinator started.", "numRestarts";
    RESCALES: Counter<Count> = "highwater_job_rescales_total",
        "Changes of parallelism since the coordinator started.", "numRescales";
    EPOCH: Gauge<Count> = "highwater_job_epoch",
        "The leadership epoch of this coordinator.", "";
    WORKERS: Gauge<Count> = "highwater_job_workers",
        "Workers that are registered.", "numRegisteredTaskManagers";
    SLOTS: Gauge<Count> = "highwater_job_slots",
        "Slots of the registered workers.", "taskSlotsTotal";
    SLOTS_FREE: Gauge<Count> = "highwater_job_slots_free",
        "Slots that hold no subtask.", "taskSlotsAvailable";
    SUBTASKS: Gauge<Count> = "highwater_job_subtasks",
        "Subtasks of the execution graph.", "";
    SUBTASKS_RUNNING: Gauge<Count> = "highwater_job_subtasks_running",
        "Subtasks that are running now.", "";
}
