//! Decisions of recovery, steps R1 to R7: start or take over, what to restore, who confirms, when records flow.
//!
//! Called by the coordinator's driver. In the order a leader meets them: [`decide_start`] on what the store shows (L1
//! first: the head is settled before anything here runs) or
//! [`decide_from_savepoint`], [`check_restore`] on the manifest and the new graph,
//! [`Takeover`] while workers live (L4), [`RegionRecovery`] when a region starts again (L5), [`GoingBack`] when the
//! newest checkpoint cannot be used. [`assign`] spreads splits, key groups and list state over any parallelism.

pub mod assign;
mod compat;
mod going_back;
mod region;
mod savepoint;
mod start;
mod takeover;

pub use compat::{
    Refusal, RestoreOptions, UnmatchedState, check_pending, check_restore, unmatched_operators,
};
pub use going_back::{Fault, GoingBack, GoingBackEffect, GoingBackEvent, GoingBackPlan, return_of};
pub use region::{RegionEffect, RegionEvent, RegionRecovery, SlotDuty};
pub use savepoint::{
    SavepointFacts, SavepointStart, SavepointWord, TakeAgain, Taker, decide_from_savepoint, take,
};
pub use start::{
    LeftBehind, LostClaim, StartDecision, StartError, StartWish, StoreView, decide_lost_claim,
    decide_start,
};
pub use takeover::{Adoption, AttemptReport, Takeover, TakeoverDecision};

#[cfg(test)]
mod tests;
