//! Operators, one a file, and the contract they are chained by.
//!
//! In reading order: errors, [`Operator`] (what an operator does), [`Outputs`] (where its records go), [`Push`] (how a
//! chunk enters the next piece of a chain), [`Link`] (one operator joined to its outputs), then the operators.
//!
//! A chain is a tree that is built once per attempt on its slot thread: every link owns the links behind it. Chunks
//! move by call and are lent by `&mut`: the receiver drains, the sender keeps the memory. There is one virtual call per
//! chunk and none per record.

pub mod chain;
pub mod context;
pub mod error;
pub mod operator;
pub mod outputs;
pub mod snapshot;
pub mod source;
pub mod transactional_sink;

pub use chain::{Collected, Downstream, Link, Push};
pub use context::OperatorContext;
pub use error::{OperatorError, UserError};
pub use operator::{Operator, OperatorReport, Progress, TaskClock};
pub use outputs::{OutputTag, Outputs, Port, SidePort};
pub use snapshot::{ListStateSnapshot, OperatorSnapshot, Redistribution};
pub use transactional_sink::{OutputQueue, TransactionalSink};
pub use source::{DEAD_LETTERS, SourceHead, SourceInput, SourcePoll, TimestampAssigner};
