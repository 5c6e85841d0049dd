//! What most jobs need: `use highwater::prelude::*`.

pub use highwater_api::{DataStream, KeyedStream, StreamEnvironment};
pub use highwater_connectors::{
    BadRecords, BlackholeSink, ElementsSource, FileLogSource, FileSink, PrintSink,
};
pub use highwater_operators::{
    AggregateFunction, AsyncLookup, Count, FiredTimer, FunctionPlace, KeyedContext,
    KeyedProcessFunction, LookupOptions, LookupOrder, Max, Min, OpenContext, OutputTag,
    ProcessContext, ProcessFunction, RetryBudget, Sum, UserCounter, UserDurations, UserError,
    UserGauge, WindowContext, WindowFunction,
};
pub use highwater_state::{ListState, MapState, ReducingState, StateHandle, TtlConfig, ValueState};
pub use highwater_time::WatermarkStrategy;
pub use highwater_types::{EventTime, ProcessingTime};
pub use highwater_window::{Sliding, Tumbling};

pub use crate::json::{Cents, Json, clock};
pub use crate::{FromJson, Key, Record, ToJson};
