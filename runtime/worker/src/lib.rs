//! Slot threads and the tasks they run: where data flow and control flow meet.
//!
//! In reading order: the seams (clock, waker), what coordinator and worker say to each other, a task and its turns, a
//! slot thread, the driver of an exactly-once sink slot, how an attempt is built, how its parts are stored and fetched,
//! and the worker itself: one loop over one event enum.

pub mod build;
pub mod clock;
pub mod files;
pub mod local_dirs;
pub mod loop_figures;
pub mod messages;
pub mod pauses;
pub mod shares;
pub mod sink;
pub mod slot;
pub mod task;
pub mod waker;
pub mod worker;

pub use clock::{Clock, ManualClock, SystemClock};
pub use local_dirs::{LocalDirError, LocalDirs};
pub use loop_figures::LoopFigures;
pub use messages::{
    AttemptNews, Deployment, FailureReport, History, MarkerPlace, OperatorSubtask, Peers,
    RestoredBytes, RestoredKeyed, RestoredState, RestoredStore, Standing, WorkerCommand,
    WorkerEvent,
};
pub use pauses::Pauses;
pub use slot::{AttemptFigures, FigureBoard, TaskFigures};
pub use worker::{StopHook, WorkerHandle, WorkerSettings, WorkerSetup, start};
