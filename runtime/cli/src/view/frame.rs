//! What the live view says, as text: a function of two readings and the status.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use highwater_coordinator::{CheckpointStatus, JobPhase, JobStatus};
use highwater_types::{JobIdentity, OperatorUid, ProcessingTime};
use highwater_web::flow::{JobFlow, TaskSummary, culprit, event_time, tasks};
use highwater_web::{JobView, flow};

/// Tasks that are shown; a job with more shows the busiest.
const TASKS_MAX: usize = 12;

/// Everything that was read at one moment.
pub(crate) struct Reading {
    /// Time since some fixed instant.
    pub(crate) elapsed: Duration,
    /// The time of day.
    pub(crate) now: ProcessingTime,
    /// Records that came in and went out since the attempt began.
    pub(crate) flow: JobFlow,
    /// The tasks.
    pub(crate) tasks: Vec<TaskSummary>,
    /// The operator that holds the others back.
    pub(crate) culprit: Option<String>,
    /// The event time of the job, in milliseconds.
    pub(crate) event_time: Option<i64>,
}

impl Reading {
    /// Reads a job.
    pub(crate) fn of(job: &JobView) -> Self {
        let figures = job.figures.read();
        Self {
            elapsed: job.clock.elapsed(),
            now: job.clock.now(),
            flow: flow::flow(&job.current_plan(), &figures),
            tasks: tasks(&figures),
            culprit: culprit(&figures),
            event_time: event_time(&figures),
        }
    }
}

/// What is drawn.
pub(crate) struct Frame<'a> {
    /// The job.
    pub(crate) job: &'a JobIdentity,
    /// Its status.
    pub(crate) status: &'a JobStatus,
    /// The reading before.
    pub(crate) before: &'a Reading,
    /// The reading now.
    pub(crate) now: &'a Reading,
}

impl Frame<'_> {
    /// The lines of the view.
    pub(crate) fn text(&self) -> String {
        let mut page = Page(String::new());
        self.first_line(&mut page);
        if let Some(failure) = self.status.failures.last() {
            let report = &failure.report;
            let first = report.message.lines().next().unwrap_or_default();
            page.line(format_args!("  last failure: {}: {first}", report.task));
        }
        page.line(format_args!(
            "  in {}/s  out {}/s{}",
            count(self.rate(|flow| flow.records_in)),
            count(self.rate(|flow| flow.records_out)),
            self.watermark(),
        ));
        let checkpoint = checkpoint(&self.status.checkpoints, self.now.elapsed);
        page.line(format_args!("  {checkpoint}"));
        self.tasks(&mut page);
        if let Some(culprit) = &self.now.culprit {
            page.line(format_args!("  held back by {culprit}"));
        }
        page.0
    }

    fn first_line(&self, page: &mut Page) {
        let JobStatus {
            phase,
            epoch,
            restarts,
            ..
        } = self.status;
        let mut phase_words = phase.word().to_owned();
        if let JobPhase::Restarting { at_ms } = phase {
            let left = Duration::from_millis(*at_ms).saturating_sub(self.now.elapsed);
            phase_words = format!("restarting in {}", age(left));
        }
        page.line(format_args!(
            "{}  {phase_words}  epoch {epoch}  restarts {restarts}",
            self.job
        ));
    }

    fn rate(&self, of: fn(&JobFlow) -> u64) -> u64 {
        let passed = self.now.elapsed.saturating_sub(self.before.elapsed);
        let records = of(&self.now.flow).saturating_sub(of(&self.before.flow));
        match passed.as_millis() as u64 {
            0 => 0,
            millis => records.saturating_mul(1_000) / millis,
        }
    }

    fn watermark(&self) -> String {
        let lag = self
            .now
            .event_time
            .map(|time| self.now.now.0.saturating_sub(time));
        match lag {
            None => String::new(),
            Some(lag) if lag < 0 => format!(
                "  event time ahead by {}",
                age(Duration::from_millis(lag.unsigned_abs()))
            ),
            Some(lag) => format!("  watermark lag {}", age(Duration::from_millis(lag as u64))),
        }
    }

    fn tasks(&self, page: &mut Page) {
        if self.now.tasks.is_empty() {
            return;
        }
        let before: BTreeMap<&OperatorUid, &TaskSummary> = self
            .before
            .tasks
            .iter()
            .map(|task| (&task.head, task))
            .collect();
        let mut rows: Vec<_> = self
            .now
            .tasks
            .iter()
            .map(|task| (task, shares(before.get(&task.head).copied(), task)))
            .collect();
        let hidden = rows.len().saturating_sub(TASKS_MAX);
        if hidden > 0 {
            rows.sort_by_key(|(_, [busy, _, blocked])| {
                std::cmp::Reverse(busy.max(blocked).to_owned())
            });
            rows.truncate(TASKS_MAX);
        }
        page.line(format_args!(
            "  {:<36} {:>5} {:>5} {:>8}",
            "task", "busy", "idle", "blocked"
        ));
        for (task, [busy, idle, blocked]) in rows {
            let name: String = task.name.chars().take(30).collect();
            let name = format!("{name} x{}", task.subtasks);
            page.line(format_args!(
                "  {name:<36} {busy:>4}% {idle:>4}% {blocked:>7}%"
            ));
        }
        if hidden > 0 {
            page.line(format_args!("  and {hidden} tasks with less to do"));
        }
    }
}

struct Page(String);

impl Page {
    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(arguments)
            .expect("a String takes everything");
        self.0.push('\n');
    }
}

/// Busy, idle and blocked percent since the reading before; since the attempt began where there is none.
fn shares(before: Option<&TaskSummary>, now: &TaskSummary) -> [u64; 3] {
    let old = before.map_or([0; 3], |task| task.shares_ms);
    let fell = old.iter().zip(&now.shares_ms).any(|(old, new)| old > new);
    let old = if fell { [0; 3] } else { old };
    let spent: [u64; 3] = std::array::from_fn(|at| now.shares_ms[at] - old[at]);
    let total: u64 = spent.iter().sum();
    let [busy, _, blocked] = spent.map(|part| (part * 100).checked_div(total).unwrap_or(0));
    let idle = if total == 0 { 0 } else { 100 - busy - blocked };
    [busy, idle, blocked]
}

/// One line about checkpoints.
fn checkpoint(checkpoints: &CheckpointStatus, elapsed: Duration) -> String {
    let mut text = match checkpoints.completed {
        None => "no checkpoint yet in this run".to_owned(),
        Some(id) => {
            let mut text = format!("checkpoint {}", id.number);
            if let Some(at) = checkpoints.completed_at_ms {
                let passed = elapsed.saturating_sub(Duration::from_millis(at));
                text = format!("{text}, {} ago, {}", age(passed), bytes(checkpoints.bytes));
            }
            if let Some(took) = checkpoints.duration_ms {
                text = format!("{text} in {}", age(Duration::from_millis(took)));
            }
            text
        }
    };
    if let Some(id) = checkpoints.pending {
        text = format!("{text}; {} on its way", id.number);
    }
    if checkpoints.failed_count > 0 {
        text = format!("{text}; {} given up", checkpoints.failed_count);
    }
    text
}

/// A number with thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A span of time in the unit that fits.
pub(crate) fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A number of bytes in the unit that fits.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests;
