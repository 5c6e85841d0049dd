//! Status REST and metrics of a running job.
//!
//! One server per job process. In reading order: what it answers from, who may ask, where it listens, the routes, what they tell, requests
//! to the coordinator and refusals, and the metrics.

pub mod access;
mod ask;
mod checkpoints;
pub mod config;
mod fields;
pub mod flow;
mod graph;
pub mod late;
pub mod listening;
pub mod open_metrics;
pub mod page;
mod problem;
mod process;
pub mod rates;
mod refusals;
mod report;
pub mod routes;
pub mod view;

pub use config::{Changes, Config};
pub use listening::{ConnectionLimits, ListenSettings, Listening, ServeError};
pub use rates::RateBoard;
pub use routes::{document, routes};
pub use view::{JobView, OperationIds, room_to_wait};

#[cfg(test)]
mod tests;
