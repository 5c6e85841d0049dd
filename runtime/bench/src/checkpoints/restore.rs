//! Restores: from local files after a kill, and from the store after the local files are gone.

use std::fs;

use anyhow::{Result, ensure};

use super::figures::Restore;
use super::job::{ONLY_WHEN_ASKED, Running, Setup};
use crate::state_job::digest_of_sweeps;

/// Kills the job, has it come back from what lies around, and then from the store alone.
///
/// Each of the two goes on over a hundredth of the keys, and what they add is compared with an independent count.
pub(super) fn measure(setup: &Setup, running: Running<'_>) -> Result<Vec<(&'static str, Restore)>> {
    let mut goal = running.goal();
    running.kill()?;
    let mut found = Vec::new();
    for (number, from) in [(1, "local files"), (2, "the store")] {
        let local = setup.local();
        if from == "the store" && local.exists() {
            fs::remove_dir_all(&local)?;
        }
        let mut running = Running::start(setup, number, goal, ONLY_WHEN_ASKED)?;
        let seconds_to_run = running.age().as_secs_f64();
        let more = setup.keys / 100;
        running.advance(more)?;
        let metrics = running.metrics()?;
        let run = running.stop()?;
        let grown = digest(setup, goal + more).wrapping_sub(digest(setup, goal));
        ensure!(
            run.digest == grown,
            "behind a restore from {from} {} records gave {:016x}; right is {grown:016x}",
            run.records,
            run.digest
        );
        goal += more;
        found.push((
            from,
            Restore {
                seconds_to_run,
                seconds_of_state: metrics.most("highwater_task_restore_seconds"),
                bytes: metrics.sum("highwater_checkpoint_last_full_bytes"),
                local_bytes: metrics.sum("highwater_checkpoint_restored_local_bytes"),
                gigabytes: setup.keys as f64 * crate::state_job::ROW_BYTES as f64 / 1e9,
            },
        ));
    }
    Ok(found)
}

/// The digest of all accounts after so many records of sweeps.
fn digest(setup: &Setup, records: u64) -> u64 {
    digest_of_sweeps(setup.keys, setup.seed, records, |_| true)
}
