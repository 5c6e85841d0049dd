//! Operators, one a file, and the contract they are chained by.
//!
//! In reading order: errors, [`Operator`] (what an operator does), [`Outputs`] (where its records go), [`Push`] (how a
//! chunk enters the next piece of a chain), [`Link`] (one operator joined to its outputs), then the operators.
//!
//! A chain is a tree that is built once per attempt on its slot thread: every link owns the links behind it. Chunks
//! move by call and are lent by `&mut`: the receiver drains, the sender keeps the memory. There is one virtual call per
//! chunk and none per record.

pub mod aggregate;
pub mod aggregate_function;
pub mod bound;
pub mod chain;
pub mod collector;
pub mod context;
pub mod error;
pub mod filter;
pub mod flat_map;
pub mod hot_keys;
pub mod keyed_process;
mod keyed_states;
pub mod lookup;
pub mod map;
pub mod operator;
pub mod outputs;
pub mod process;
pub mod reduce;
pub mod rekey;
pub mod session_window;
pub mod sink;
pub mod snapshot;
pub mod source;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
mod timer_service;
pub mod timestamps;
pub mod transactional_sink;
pub mod user_metrics;
pub mod window;

pub use aggregate::RollingAggregate;
pub use aggregate_function::{AggregateFunction, Count, Max, Min, Sum, Summand};
pub use bound::Bound;
pub use chain::{Collected, Downstream, Link, Push};
pub use collector::Collector;
pub use context::{OnUnmatched, OperatorContext, TellDropped};
pub use error::{OperatorError, UserError};
pub use filter::{Filter, filter};
pub use flat_map::FlatMap;
pub use hot_keys::HotKey;
pub use keyed_process::{
    FIRINGS_MAX, FiredTimer, KeyedContext, KeyedProcess, KeyedProcessFunction, OpenContext,
};
pub use lookup::{
    AsyncLookup, Lookup, LookupError, LookupOptions, LookupOrder, LookupReport, RetryBudget,
};
pub use map::{Map, map};
pub use operator::{Operator, OperatorReport, Progress, TaskClock};
pub use outputs::{OutputTag, Outputs, Port, SidePort};
pub use process::{FunctionPlace, Process, ProcessContext, ProcessFunction};
pub use reduce::RollingReduce;
pub use rekey::Rekey;
pub use session_window::{SessionGap, SessionWindow, fixed_gap};
pub use sink::DirectSink;
pub use snapshot::{
    KeyedPart, ListStateSnapshot, OperatorSnapshot, Redistribution, RestoredOperator, RestoredPart,
    SnapshotPieces, SnapshotStep,
};
pub use source::{
    DEAD_LETTERS, SourceHead, SourceInput, SourcePoll, SourceReport, SourceRules, TimestampAssigner,
};
pub use timestamps::AssignTimestamps;
pub use transactional_sink::{OutputQueue, SinkReport, TransactionalSink};
pub use user_metrics::{UserCounter, UserDurations, UserGauge, UserMetric, UserValue};
pub use window::{
    Aggregated, AllRecords, Reduced, TimeDomain, Window, WindowContents, WindowContext,
    WindowFunction, WindowOptions, WindowParts, WithUpdates, emit_result,
};
