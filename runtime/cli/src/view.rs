//! The live view on a terminal: one line that is drawn anew twice a second. Quiet in a pipe.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use highwater_coordinator::{CoordinatorHandle, JobStatus};
use highwater_types::{JobIdentity, Watermark};
use highwater_worker::{FigureBoard, TaskFigures};
use tokio::task::JoinSet;

use crate::inspect::append;

const REDRAW: Duration = Duration::from_millis(500);

/// Starts the view, if stderr is a terminal.
pub(crate) fn start(
    job: &JobIdentity,
    handle: &CoordinatorHandle,
    figures: &FigureBoard,
    tasks: &mut JoinSet<()>,
) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let (job, status, figures) = (job.clone(), handle.status.clone(), figures.clone());
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(REDRAW);
        let mut before = 0;
        loop {
            ticks.tick().await;
            let tasks: Vec<_> = figures.read().into_values().collect();
            let read = records_read(&tasks);
            let rate = read.saturating_sub(before) * 1_000 / REDRAW.as_millis() as u64;
            before = read;
            draw(&line(&job, &status.borrow(), &tasks, rate));
        }
    });
}

/// Records that sources have emitted.
fn records_read(tasks: &[TaskFigures]) -> u64 {
    let heads = tasks.iter().filter(|task| task.is_source);
    heads
        .filter_map(|task| task.operators.first())
        .map(|operator| operator.records_in)
        .sum()
}

fn line(job: &JobIdentity, status: &JobStatus, tasks: &[TaskFigures], rate: u64) -> String {
    let checkpoint = status.checkpoints.completed.map_or(0, |id| id.number);
    let watermark = tasks.iter().map(|task| task.watermark).min();
    let watermark = watermark.filter(|watermark| *watermark != Watermark::MIN);
    let culprit = tasks.iter().find_map(|task| task.blocked_on.as_deref());
    let mut text = format!(
        "{job} {} | {rate} records/s | checkpoint {checkpoint} | restarts {}",
        status.phase.word(),
        status.restarts,
    );
    if let Some(watermark) = watermark {
        append(&mut text, format_args!(" | event time {watermark}"));
    }
    if let Some(culprit) = culprit {
        append(&mut text, format_args!(" | held back by {culprit}"));
    }
    text
}

fn draw(line: &str) {
    let mut err = std::io::stderr().lock();
    if write!(err, "\r\x1b[2K{line}")
        .and_then(|()| err.flush())
        .is_err()
    {
        // The terminal is gone: the view is for people and has none left.
    }
}
