//! The laws of the source and sink contracts as suites that every connector runs.
//!
//! A suite panics with the law that does not hold. It is for tests: the crate of a connector calls it from one, with
//! the feature `test-util`.

mod bad_input;
mod chance;
mod faulty;
mod source;
mod target;

use highwater_types::{JobIdentity, Lineage, OperatorUid, Parallelism, SubtaskIndex};

pub use self::bad_input::{Planted, bad_input_suite};
pub use self::faulty::{FaultyTarget, TargetCall, TargetFault};
pub use self::source::{read_all, source_suite};
pub use self::target::{Effort, output_target_suite};
use crate::sink::WriterContext;
use crate::source::{ReaderContext, WakeHandle};

/// A reader of subtask 0 of 1 that wakes nobody.
pub fn reader_context() -> ReaderContext {
    ReaderContext {
        job: JobIdentity::parse("contract").expect("the name is valid"),
        uid: OperatorUid::parse("source").expect("the name is valid"),
        subtask: SubtaskIndex(0),
        parallelism: Parallelism(1),
        wake: WakeHandle::new(|| {}),
    }
}

/// A writer of this subtask, of a sink with one subtask more.
pub fn writer_context(subtask: u32) -> WriterContext {
    WriterContext {
        job: JobIdentity::parse("contract").expect("the name is valid"),
        lineage: Lineage(0xc0),
        uid: OperatorUid::parse("sink").expect("the name is valid"),
        subtask: SubtaskIndex(subtask),
        parallelism: Parallelism(subtask + 1),
    }
}
