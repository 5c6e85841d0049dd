//! Status REST and metrics of a running job.
//!
//! One server per process that leads or may lead a job, and a page of metrics per worker. In reading order: what it answers from, who may ask,
//! where it listens, the routes, what they tell, requests to the coordinator and refusals, the metrics, and the page of a worker.

pub mod access;
mod ask;
mod checkpoints;
pub mod config;
mod fields;
pub mod flow;
pub mod graph;
mod hot_keys;
pub mod late;
pub mod listening;
pub mod open_metrics;
pub mod page;
mod problem;
mod process;
pub mod rates;
mod refusals;
mod report;
mod rescale;
pub mod routes;
pub mod view;
pub mod worker_page;

pub use config::{Changes, Config};
pub use listening::{ConnectionLimits, ListenSettings, Listening, ServeError};
pub use rates::RateBoard;
pub use routes::{document, routes};
pub use view::{JobView, OperationIds, TasksRun, room_to_wait};
pub use worker_page::WorkerView;

#[cfg(test)]
mod tests;
