//! The drills of state on local disk: a disk that is full for a while, and a change of the backend and back.
//!
//! Called by the drills. The small disk is mounted where only the process of the job sees it, and is filled from outside;
//! it is gone with the process, which is what becomes of the disk of a pod.
//!
//! Source: the drills HD-13 and HC-08 of Harbor Fleet.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::args::Backend;
use super::drill::{PARALLELISM, finish};
use super::feed::Logs;
use super::scene::{Halt, Scene};

/// Room for the state of a run and its compactions.
const DISK_BYTES: u64 = 96 << 20;
/// What a full disk is called by whoever met it.
const FULL: &[&str] = &["no space left", "disk is full", "os error 28"];

/// The disk is full until an attempt has failed of it, and then no more.
///
/// # Errors
/// Where no attempt fails, or none goes on once there is room.
pub(super) fn full(scene: &mut Scene<'_>) -> Result<Logs, Halt> {
    scene.spec.small_disk = Some(DISK_BYTES);
    scene.start(PARALLELISM, None)?;
    scene.wait_checkpoints(2)?;
    let process = scene.process_id().context("nothing runs")?;
    // The disk as the process sees it.
    let local = seen_by(process, &scene.spec.local());
    let ballast = local.join("ballast");
    fill(&ballast)?;
    let failed = scene.wait_any_end("the full disk fails an attempt", |status| {
        status["restarts"].as_u64() > Some(0)
    })?;
    let said = failed.unwrap_or_default() + &scene.spec.log()?;
    if !FULL.iter().any(|word| said.to_lowercase().contains(word)) {
        let tail = scene.spec.tail();
        let reason = anyhow::anyhow!("nobody says that the disk is full:\n{tail}");
        return Err(reason.into());
    }
    if scene.ended()?.is_some() {
        // It gave up; the platform starts it elsewhere, on a disk with room.
        scene.start(PARALLELISM, None)?;
    } else {
        fs::remove_file(&ballast).context("the ballast")?;
    }
    scene.wait_running()?;
    scene.wait_checkpoints(1)?;
    finish(scene)
}

fn seen_by(process: u32, path: &Path) -> PathBuf {
    let below = path.strip_prefix("/").unwrap_or(path);
    Path::new("/proc")
        .join(process.to_string())
        .join("root")
        .join(below)
}

/// Writes until there is no room.
fn fill(ballast: &Path) -> anyhow::Result<()> {
    const PIECE: usize = 64 << 10;
    let mut file = File::create(ballast).context("the ballast on the small disk")?;
    let mut piece = vec![0x5a; PIECE];
    let mut written = 0;
    while !piece.is_empty() {
        match file.write_all(&piece) {
            Ok(()) => written += piece.len() as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                let half = piece.len() / 2;
                piece.truncate(half);
            }
            Err(error) => return Err(error).context("the ballast"),
        }
        if written > DISK_BYTES {
            bail!("the small disk takes more than it can: it is not mounted");
        }
    }
    Ok(())
}

/// From heap to rocksdb and back, each over a canonical savepoint, with a kill behind the first change.
///
/// # Errors
/// Where a backend does not start from what the other one left.
pub(super) fn backends(scene: &mut Scene<'_>) -> Result<Logs, Halt> {
    let (disk, heap) = {
        let backing = &scene.spec.backing;
        (backing.with(Backend::Rocksdb), backing.with(Backend::Heap))
    };
    scene.spec.backing = heap.clone();
    scene.start(PARALLELISM, None)?;
    scene.wait_checkpoints(2)?;
    scene.pass_time(Duration::from_secs(2));
    let first = format!("{}-heap", scene.spec.name);
    scene.suspend(&first)?;
    scene.spec.backing = disk;
    scene.start_from(PARALLELISM, &first)?;
    scene.wait_checkpoints(2)?;
    scene.kill()?;
    scene.start(PARALLELISM, None)?;
    scene.wait_running()?;
    scene.wait_checkpoints(1)?;
    let second = format!("{}-disk", scene.spec.name);
    scene.suspend(&second)?;
    scene.spec.backing = heap;
    scene.start_from(PARALLELISM, &second)?;
    scene.wait_running()?;
    finish(scene)
}
