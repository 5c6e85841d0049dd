//! What a refusal says.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Why, and the next step.
    pub error: String,
    /// What helps, where it is known: `transient` (ask again), `invalid` (ask for something else), `fenced`, `corrupt`, `exhausted` or `bug`
    /// (look at the job first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The id of the operation that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The status server of the coordinator that leads, where another is to be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The number of the checkpoint that lies where a savepoint was to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// The lineage of that checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
}

impl Problem {
    /// A refusal for this reason.
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            ..Self::default()
        }
    }
}
