//! Settings of the process that answers: `GET /v1/config`, `PATCH /v1/config`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value as text; `null` = it is not set. That of a secret is `***`.
    pub value: Option<String>,
    /// Where the value stands: a flag, a variable, the settings file, `default`, or `changed` since the process began.
    pub from: String,
    /// Whether it may be changed while the job runs.
    pub live: bool,
}

/// Changes settings that may change while the job runs: all of these or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigRequest {
    /// New values by the name of the setting, written as in a settings file.
    pub settings: BTreeMap<String, String>,
}
