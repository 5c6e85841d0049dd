//! The list of rules, in the order they are reported.
//!
//! A new rule is a new file here and a line in [`ALL`]; the self-test then demands a planted violation for it.

use super::Rule;

mod allow_reason;
mod changelog;
pub(super) mod file_budget;
mod file_names;
mod function_length;
pub(super) mod generated;
mod issue_ids;
pub(super) mod layers;
mod machine_paths;
mod markdown;
mod module_doc;
mod planes;
mod public_words;
mod purity;
mod stubs;
mod unreferenced;

/// Every rule of the house.
pub(super) const ALL: &[Rule] = &[
    layers::RULE,
    planes::RULE,
    purity::RULE,
    module_doc::RULE,
    file_names::RULE,
    file_budget::RULE,
    function_length::RULE,
    public_words::RULE,
    unreferenced::RULE,
    issue_ids::RULE,
    stubs::RULE,
    allow_reason::RULE,
    machine_paths::RULE,
    markdown::RULE,
    changelog::RULE,
    generated::RULE,
];
