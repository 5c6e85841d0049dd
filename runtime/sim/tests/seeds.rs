//! Runs of the simulator as it is used: reproducible, passing, with real progress, and with every old failure.

use highwater_sim::{regression_seeds, run_seed, run_seeds};

#[test]
fn equal_seeds_have_equal_traces_and_different_ones_do_not() {
    for seed in [1, 7, 42, 1_234] {
        let (first, second) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.events, second.events, "seed {seed}");
        assert_ne!(first.trace_hash, run_seed(seed + 1, false).trace_hash);
    }
}

#[test]
fn o9_many_seeds_pass_and_make_progress() {
    let totals = run_seeds(50_000, 150, 2, || {});
    let failures: Vec<_> = totals
        .failures
        .iter()
        .map(|run| (run.seed, &run.violations))
        .collect();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(totals.runs, 150);
    assert!(
        totals.checkpoints_median() >= 5,
        "median {}",
        totals.checkpoints_median()
    );
    assert!(
        totals.restores > totals.runs,
        "faults have to cause recoveries"
    );
    assert!(
        totals.adoptions > 0,
        "some takeovers have to find living workers"
    );
    assert!(
        totals.sharing > totals.runs,
        "checkpoints have to refer to older files: {}",
        totals.sharing
    );
    assert!(totals.requests > 0, "some savepoints have to complete");
    assert!(totals.taken > 0, "some savepoints have to be gone back to");
    assert!(totals.rescales > 0, "some rescales have to complete");
    assert!(
        totals.redeployments > totals.rescales,
        "the tasks of some workers that leave have to move"
    );
    assert!(
        totals.stopped_at.len() >= 12,
        "processes stop at most steps: {:?}",
        totals.stopped_at
    );
}

#[test]
fn every_seed_that_failed_once_passes() {
    let seeds = regression_seeds();
    assert!(seeds.len() >= 8, "the list is not empty");
    for seed in seeds {
        let report = run_seed(seed, false);
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {:?}",
            report.violations
        );
    }
}
