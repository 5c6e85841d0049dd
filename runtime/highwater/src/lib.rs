//! Highwater: stateful stream jobs in Rust.
//!
//! A job is a program. Its `main` hands a function to [`main`]; the function builds streams from sources over operators
//! to sinks. The same program runs the job, prints its plan and inspects its checkpoints (`--help` lists the commands).
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use highwater::prelude::*;
//!
//! #[derive(Clone, Record, FromJson, ToJson)]
//! struct Purchase {
//!     time: EventTime,
//!     shop: String,
//!     cents: i64,
//! }
//!
//! #[derive(Clone, Record, ToJson)]
//! struct Revenue {
//!     shop: String,
//!     minute: EventTime,
//!     cents: i64,
//! }
//!
//! fn revenue(env: &mut StreamEnvironment) -> Result<(), UserError> {
//!     let purchases = env
//!         .source("purchases", FileLogSource::continuous("in", "purchases", Json::decoder(), clock()?))
//!         .watermarks(WatermarkStrategy::bounded_out_of_orderness(5_000), |p: &Purchase| p.time);
//!     purchases
//!         .key_by(|purchase| purchase.shop.clone())
//!         .window_of(Tumbling::try_new(60_000))
//!         .aggregate("revenue", Sum::of(|p: &Purchase| p.cents), emit_revenue)
//!         .sink("revenue-out", FileSink::new("out/revenue", Json::format()));
//!     Ok(())
//! }
//!
//! /// Called when a window ends, and again when a late purchase corrects it.
//! fn emit_revenue(
//!     cents: i64,
//!     window: &mut WindowContext<'_, String, Revenue>,
//! ) -> Result<(), UserError> {
//!     let minute = EventTime(window.window().start);
//!     window.emit(Revenue { shop: window.key().clone(), minute, cents });
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     highwater::main(revenue)
//! }
//! ```

pub mod json;
pub mod prelude;

pub use highwater_api as api;
pub use highwater_cli::main;
pub use highwater_connectors as connectors;
#[cfg(feature = "kafka")]
pub use highwater_kafka as kafka;
pub use highwater_operators as operators;
pub use highwater_state as state;
pub use highwater_time as time;
pub use highwater_types as types;
pub use highwater_window as window;

pub use highwater_derive::{
    FacadeFromJson as FromJson, FacadeKey as Key, FacadeRecord as Record, FacadeToJson as ToJson,
};

/// The code of the README is compiled as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
