//! A worker of a coordinator: `GET /v1/workers`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its number.
    pub worker: u32,
    /// Its name.
    pub name: String,
    /// Its slots.
    pub slots: u32,
    /// Where it takes records from other workers.
    pub data_address: String,
    /// The subtasks of every operator that run there.
    pub subtasks: Vec<u32>,
    /// Whether it leaves: it gets no more to do, and goes once its tasks run elsewhere.
    #[serde(default)]
    pub leaving: bool,
}
