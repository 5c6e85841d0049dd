//! The job as its coordinator sees it. One writer: the coordinator's loop.

use crate::labels::NoLabels;

scope! {
    /// The job.
    JobScope, "job", NoLabels;
    LEADS: Gauge<Count> = "highwater_job_leads",
        "Whether this process leads the job (1) or stands by (0).", "";
    RUNNING: Counter<Nanos> = "highwater_job_running_seconds_total",
        "Time in which every subtask was running, since the coordinator started.", "runningTime";
    RESTARTING: Counter<Nanos> = "highwater_job_restarting_seconds_total",
        "Time between failures and the moments at which every subtask ran again, since the coordinator started.", "restartingTime";
    RESTARTS: Counter<Count> = "highwater_job_restarts_total",
        "Restarts of a failover region since the coordinator started.", "numRestarts";
    EPOCH: Gauge<Count> = "highwater_job_epoch",
        "The leadership epoch of this coordinator.", "";
    WORKERS: Gauge<Count> = "highwater_job_workers",
        "Workers that are registered.", "numRegisteredTaskManagers";
    SLOTS: Gauge<Count> = "highwater_job_slots",
        "Slots of the registered workers.", "taskSlotsTotal";
    SLOTS_NEEDED: Gauge<Count> = "highwater_job_slots_needed",
        "Slots that the job needs: its largest parallelism.", "";
    SLOTS_FREE: Gauge<Count> = "highwater_job_slots_free",
        "Slots that hold no subtask.", "taskSlotsAvailable";
    SUBTASKS: Gauge<Count> = "highwater_job_subtasks",
        "Subtasks of the execution graph.", "";
    SUBTASKS_RUNNING: Gauge<Count> = "highwater_job_subtasks_running",
        "Subtasks that are running now.", "";
}
