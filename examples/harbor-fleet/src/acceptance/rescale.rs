//! The drills of another parallelism: over savepoints, and while records flow.
//!
//! Called by the drills. The rule: a rescale holds for every process that comes after it, whatever that is started with, and one that
//! is ended on its way leaves the job at the old parallelism or at the new one.
//!
//! Source: the drills HC-01 and HC-02 of Harbor Fleet.

use std::time::Duration;

use super::drill::finish;
use super::feed::Logs;
use super::scene::{Halt, MustPend, Scene};

/// 32, 16 and 48 of the full profile, scaled to 4 partitions.
const OVER_SAVEPOINTS: [u32; 3] = [4, 2, 6];
/// 32, 48 and 16 of the full profile.
const LIVE: [u32; 3] = [4, 6, 2];
/// Where the first rescale of a run is ended, in turns. All output is confirmed then, and the new parallelism decided.
const ENDED_AT: [Option<&str>; 4] = [None, Some("R3"), Some("R5"), Some("R7")];

/// Stops the job with a savepoint and has it go on at another parallelism, twice, with a kill at each.
///
/// # Errors
/// Where it does not go on.
pub(super) fn stopped(scene: &mut Scene<'_>) -> Result<Logs, Halt> {
    for (savepoint, parallelism) in OVER_SAVEPOINTS.into_iter().enumerate() {
        scene.start(parallelism, None)?;
        scene.wait_checkpoints(1)?;
        scene.pass_time(Duration::from_millis(1_500));
        // The last one may come behind the input, where nothing is pending any more.
        if savepoint < 2 || scene.is_fed() {
            scene.kill()?;
            scene.start(parallelism, None)?;
            scene.wait_running()?;
        }
        if savepoint < 2 {
            let name = format!("{}-{savepoint}", scene.spec.name);
            scene.suspend(&name)?;
        }
    }
    finish(scene)
}

/// Rescales the job while records flow. The process is killed somewhere on the way to the last parallelism, or soon after; in three of
/// four runs it has ended itself on the way to the one before, too. Every process is started at the first parallelism.
///
/// # Errors
/// Where the job does not go on, or at none of the parallelisms that it may go on at.
pub(super) fn live(scene: &mut Scene<'_>, index: u32) -> Result<Logs, Halt> {
    let [first, second, third] = LIVE;
    scene.spec.parallelism_max = second;
    let ends_at = ENDED_AT[index as usize % ENDED_AT.len()];
    // The first R7 lets the first attempt go; the next recovery is that of the rescale.
    let stop_at = ends_at.map(|step| format!("R7,{step}"));
    scene.start(first, stop_at.as_deref())?;
    scene.wait_checkpoints(2)?;
    scene.pass_time(Duration::from_secs(2));
    match ends_at {
        None => scene.rescale(second)?,
        Some(step) => {
            scene.ask_rescale(second)?;
            scene.wait_stop(step, MustPend::No)?;
            scene.start(first, None)?;
            scene.wait_running()?;
            scene.expect_parallelism(&[second])?;
        }
    }
    scene.wait_more_checkpoints(2)?;
    scene.pass_time(Duration::from_secs(2));
    scene.ask_rescale(third)?;
    scene.pass_time(Duration::from_secs(1));
    scene.kill()?;
    scene.start(first, None)?;
    scene.wait_running()?;
    scene.expect_parallelism(&[second, third])?;
    scene.wait_more_checkpoints(1)?;
    scene.rescale(third)?;
    scene.wait_more_checkpoints(1)?;
    finish(scene)
}
