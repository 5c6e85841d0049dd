//! The last words of a run about its records: how many came in and out, and what was kept from the result.
//!
//! Called by `run` when a job has ended well: input that was processed to its end may still have been refused to the last
//! record. The figures are those that status and metrics tell; they count from the start of the attempt.

use std::collections::BTreeMap;

use highwater_graph::Plan;
use highwater_protocol::job::TaskId;
use highwater_web::{flow, late};
use highwater_worker::TaskFigures;

/// What became of the records of the last attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Records that the sources read, the refused ones included.
    read: u64,
    /// Records that sinks took, dead letters included.
    written: u64,
    /// Refused records that went to dead letters.
    dead_letters: u64,
    /// Refused records that were dropped.
    dropped: u64,
    /// Records that came too late and were dropped.
    late_dropped: u64,
    /// Records that came too late and went to a side output.
    late_side: u64,
}

impl Summary {
    /// What the figures of all tasks say.
    pub(crate) fn of(plan: &Plan, figures: &BTreeMap<TaskId, TaskFigures>) -> Self {
        let flow = flow::flow(plan, figures);
        let mut summary = Self {
            read: flow.records_in,
            written: flow.records_out,
            ..Self::default()
        };
        for source in figures.values().filter_map(|task| task.source) {
            summary.dead_letters += source.dead_letters;
            summary.dropped += source.dropped;
            summary.read += source.dead_letters + source.dropped;
        }
        for late in late::late_records(plan, figures).into_values() {
            if late.is_read {
                summary.late_side += late.too_late;
            } else {
                summary.late_dropped += late.too_late;
            }
        }
        summary
    }

    /// Writes it into the log, and warns where records were kept from the result.
    pub(crate) fn tell(self) {
        tracing::info!("{}", self.words());
        if let Some(warning) = self.warning() {
            tracing::warn!("{warning}");
        }
    }

    fn words(self) -> String {
        let Self {
            read,
            written,
            dead_letters,
            dropped,
            late_dropped,
            late_side,
        } = self;
        let late = match late_dropped + late_side {
            0 => "0 late".to_owned(),
            late => format!("{late} late ({late_dropped} dropped, {late_side} to a side output)"),
        };
        format!(
            "records: {read} read, {written} written, {dead_letters} to dead letters, {dropped} dropped, {late}; \
             since the attempt began"
        )
    }

    fn warning(self) -> Option<String> {
        let parts = [
            (self.dead_letters, "refused and handed to dead letters"),
            (self.dropped, "refused and dropped"),
            (self.late_dropped, "too late and dropped"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<_> = parts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!parts.is_empty()).then(|| {
            format!(
                "not all records were taken: of {} read, {}; `.dead_letters()` of a source and the late side output of a \
                 window show which",
                self.read,
                parts.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_took_every_record_warns_of_nothing() {
        let summary = Summary {
            read: 7,
            written: 7,
            late_side: 2,
            ..Summary::default()
        };
        assert_eq!(
            summary.words(),
            "records: 7 read, 7 written, 0 to dead letters, 0 dropped, 2 late (0 dropped, 2 to a side output); \
             since the attempt began"
        );
        assert_eq!(summary.warning(), None);
    }

    #[test]
    fn records_that_were_refused_or_dropped_are_warned_of() {
        let summary = Summary {
            read: 9,
            dead_letters: 4,
            dropped: 3,
            late_dropped: 2,
            ..Summary::default()
        };
        let warning = summary.warning().unwrap();
        let expected = "not all records were taken: of 9 read, 4 refused and handed to dead letters, \
                        3 refused and dropped, 2 too late and dropped; ";
        assert!(warning.starts_with(expected), "{warning}");
    }
}
