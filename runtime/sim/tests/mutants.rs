//! The oracles count only because they catch planted bugs: each one, by name, within a few seeds.
//!
//! Needs the feature `mutants`. The hunt of a bug begins at a seed that once caught it, so the test is quick; if the
//! schedule of that seed changed, the following seeds are tried.

#![cfg(feature = "mutants")]

use highwater_protocol::mutant::Mutant;
use highwater_sim::{hunt, run_seed};

/// Where each hunt begins, for bugs that need a rare schedule.
const fn first_seed(mutant: Mutant) -> u64 {
    match mutant {
        Mutant::StaleEpochAccepted => 3_034,
        Mutant::RefusalDecides => 2_877,
        Mutant::SlotsForgotten => 505,
        Mutant::PublishInNewSession => 2_126,
        Mutant::NoncePerRetry => 41,
        Mutant::ReportUnfenced => 75,
        Mutant::NoVoidMarkers => 108,
        Mutant::GiveUpNotDurable => 67,
        Mutant::ReadBeforeSession => 1_205,
        Mutant::OldValueDecides => 1_540,
        Mutant::SavepointTakenTwice => 658,
        _ => 1,
    }
}

#[test]
fn every_planted_bug_is_caught_by_a_named_oracle() {
    let mut missed = Vec::new();
    for &mutant in Mutant::ALL {
        match hunt(mutant, first_seed(mutant), 600) {
            Some(found) => {
                let oracle = found.text.split(':').next().unwrap_or_default();
                let named = ["O1", "O4", "O5", "O6", "O7", "O8", "O9", "O14"].contains(&oracle);
                assert!(named, "{mutant} was caught by {}", found.text);
            }
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn a_planted_bug_is_gone_after_its_hunt() {
    assert!(hunt(Mutant::CommitBeforeHead, 1, 10).is_some());
    assert!(run_seed(1, false).violations.is_empty());
}
