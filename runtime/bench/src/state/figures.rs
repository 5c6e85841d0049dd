//! The figures: one run, one round, the table of all cases, and the bars over it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};

use super::cases::{Case, Keys, Size};
use super::{MIB, Plan, Work};
use crate::bars::{Bar, Bound};
use crate::report::{Run, Sample};
use crate::spread::Spread;
use crate::watch::Seen;

/// Counts records whose account had to be fetched from disk.
const MISSES: &str = "highwater_state_misses_total";
/// Memory in use against the budget, in percent, is promised to stay below this.
const MEMORY_PERCENT: f64 = 110.0;

/// What one run came to, behind its warm-up.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) run: Run,
    /// How long the records took that the rates are of, in seconds.
    pub(super) seconds: f64,
    /// Records for a CPU-second of all processes.
    pub(super) cpu_rate: f64,
    /// Records a second.
    pub(super) wall_rate: f64,
    /// The same while keys get their account.
    pub(super) fill_rate: f64,
    /// The share of records that found their account in memory, also because one before them in their chunk brought it
    /// there; `None` = not told.
    pub(super) hit_rate: Option<f64>,
    pub(super) seen: Seen,
}

/// The first sample with so many records, and the last one while records still came, so many seconds later or more.
fn stretch(run: &Run, from: f64, shortest: f64) -> Result<(Sample, Sample)> {
    let reached = |sample: &&Sample| sample.records >= from;
    let first = run.samples.iter().find(reached);
    let mut until = run.samples.iter().rev();
    let last = until.find(|sample| sample.records < run.records as f64);
    let (first, last) = first.zip(last).context("the run left no samples")?;
    let seconds = last.wall_seconds - first.wall_seconds;
    anyhow::ensure!(
        last.records > first.records && seconds > 0.0 && seconds >= shortest,
        "the run was too short to have a rate: {seconds:.0} s of {shortest:.0}, give more records with --scale"
    );
    Ok((*first, *last))
}

impl Measured {
    /// Of a run in which each key got its account first, and caches warmed up.
    pub(super) fn of(run: Run, seen: Seen, work: &Work, plan: &Plan) -> Result<Self> {
        let filled = work.payments.keys as f64;
        let (first, last) = stretch(&run, work.unmeasured as f64, plan.stretch_least)?;
        let cpu = |at: &Sample| {
            let cpu = seen.cpu_at(at.wall_seconds);
            cpu.context("nobody looked at the CPU time of the group in time")
        };
        let records = last.records - first.records;
        let misses = |at: &Sample| seen.metrics_at(at.wall_seconds)?.sum(MISSES);
        let fetched = misses(&last).zip(misses(&first));
        let begin = run.samples.iter().find(|sample| sample.records > 0.0);
        let end = run.samples.iter().find(|sample| sample.records >= filled);
        let fill_rate = begin.zip(end).map_or(f64::NAN, |(begin, end)| {
            (end.records - begin.records) / (end.wall_seconds - begin.wall_seconds)
        });
        Ok(Self {
            seconds: last.wall_seconds - first.wall_seconds,
            cpu_rate: records / (cpu(&last)? - cpu(&first)?),
            wall_rate: records / (last.wall_seconds - first.wall_seconds),
            fill_rate,
            hit_rate: fetched.map(|(last, first)| 1.0 - (last - first) / records),
            run,
            seen,
        })
    }

    /// So many bytes of the whole run, for each of its records.
    fn each(&self, bytes: u64) -> f64 {
        bytes as f64 / self.run.records as f64
    }

    fn shown(&self) -> String {
        let hits = match self.hit_rate {
            Some(rate) => format!(", {:.1} % from memory", rate * 100.0),
            None => String::new(),
        };
        format!(
            "{:.0} K events/CPU-s, {:.0} K/s, {} MiB{hits}",
            self.cpu_rate / 1e3,
            self.wall_rate / 1e3,
            self.seen.anonymous / MIB
        )
    }
}

/// Both sides once.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// `None` where the peer runs alone.
    pub(super) ours: Option<Measured>,
    pub(super) peer: Option<Measured>,
}

impl Row {
    /// Ours over the peer's, in events per CPU-second.
    fn ratio(&self) -> Option<f64> {
        Some(self.ours.as_ref()?.cpu_rate / self.peer.as_ref()?.cpu_rate)
    }

    pub(super) fn shown(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(
            self.ours
                .as_ref()
                .map(|one| format!("Highwater {}", one.shown())),
        );
        parts.extend(
            self.peer
                .as_ref()
                .map(|one| format!("Flink {}", one.shown())),
        );
        parts.extend(self.ratio().map(|ratio| format!("ratio {ratio:.1}")));
        parts.join("; ")
    }
}

/// All rounds of all cases.
#[derive(Clone, Debug)]
pub(super) struct Table {
    rows: BTreeMap<Case, Vec<Row>>,
    budget: u64,
}

type Side = fn(&Row) -> Option<&Measured>;
const OURS: Side = |row| row.ours.as_ref();
const PEER: Side = |row| row.peer.as_ref();

impl Table {
    pub(super) const fn new(budget: u64) -> Self {
        Self {
            rows: BTreeMap::new(),
            budget,
        }
    }

    pub(super) fn add(&mut self, case: Case, row: Row) {
        self.rows.entry(case).or_default().push(row);
    }

    /// The promises that these runs can show.
    pub(super) fn bars(&self) -> impl Iterator<Item = Bar> + '_ {
        let ratios = self.rows.iter().filter_map(|(case, rows)| {
            let ratios: Vec<_> = rows.iter().filter_map(Row::ratio).collect();
            let bound = Bound::AtLeast(case.promised()?);
            (!ratios.is_empty()).then(|| Bar {
                name: case.name(),
                bound,
                unit: " times",
                value: Spread::of(ratios.into_iter()).median,
            })
        });
        let memory = self.rows.iter().filter_map(|(case, rows)| {
            let most = rows.iter().filter_map(OURS).map(|one| one.seen.anonymous);
            let percent = most.max()? as f64 / self.budget as f64 * 100.0;
            Some(Bar {
                name: memory_bar(*case)?,
                bound: Bound::AtMost(MEMORY_PERCENT),
                unit: " % of the budget",
                value: percent,
            })
        });
        ratios.chain(memory)
    }

    /// Lines of the table: case, figure, ours, the peer's.
    pub(super) fn lines(&self) -> Vec<[String; 4]> {
        let mut lines = Vec::new();
        for (case, rows) in &self.rows {
            let mut line = |figure: &str, shown: &dyn Fn(Side) -> Option<String>| {
                let of = |side: Side| shown(side).unwrap_or_else(|| "-".to_owned());
                lines.push([
                    case.name().to_owned(),
                    figure.to_owned(),
                    of(OURS),
                    of(PEER),
                ]);
            };
            let spread = |side: Side, value: &dyn Fn(&Measured) -> Option<f64>, unit: f64| {
                let values: Vec<_> = rows.iter().filter_map(side).filter_map(value).collect();
                (!values.is_empty()).then(|| Spread::of(values.into_iter()).shown(unit))
            };
            line("events per CPU-second, thousands", &|side| {
                spread(side, &|one| Some(one.cpu_rate), 1e3)
            });
            line("events per second, thousands", &|side| {
                spread(side, &|one| Some(one.wall_rate), 1e3)
            });
            line("new keys per second, thousands", &|side| {
                spread(side, &|one| Some(one.fill_rate), 1e3)
            });
            line("measured for, s", &|side| {
                spread(side, &|one| Some(one.seconds), 1.0)
            });
            line("from memory, %", &|side| {
                spread(side, &|one| one.hit_rate, 0.01)
            });
            line("memory of their own, most, MiB", &|side| {
                spread(side, &|one| Some(one.seen.anonymous as f64), MIB as f64)
            });
            line("page cache, most, MiB", &|side| {
                spread(side, &|one| Some(one.seen.cache as f64), MIB as f64)
            });
            line("on disk with checkpoints, most, MiB", &|side| {
                spread(side, &|one| Some(one.seen.disk as f64), MIB as f64)
            });
            line("read from disk, whole run, bytes a record", &|side| {
                spread(side, &|one| Some(one.each(one.seen.disk_read)), 1.0)
            });
            line("written to disk, whole run, bytes a record", &|side| {
                spread(side, &|one| Some(one.each(one.seen.disk_written)), 1.0)
            });
            let ratios: Vec<_> = rows.iter().filter_map(Row::ratio).collect();
            if !ratios.is_empty() {
                let shown = Spread::of(ratios.into_iter()).shown(1.0);
                lines.push([
                    case.name().to_owned(),
                    "ratio".to_owned(),
                    shown,
                    String::new(),
                ]);
            }
        }
        lines
    }
}

const fn memory_bar(case: Case) -> Option<&'static str> {
    match (case.size, case.keys) {
        (Size::Cached, _) => None,
        (Size::Four, Keys::Uniform) => Some("memory at 4 x the budget, uniform keys"),
        (Size::Four, Keys::Zipf) => Some("memory at 4 x the budget, Zipf keys"),
        (Size::Ten, Keys::Uniform) => Some("memory at 10 x the budget, uniform keys"),
        (Size::Ten, Keys::Zipf) => Some("memory at 10 x the budget, Zipf keys"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for [case, figure, ours, peer] in self.lines() {
            writeln!(f, "{case:<36} {figure:<38} {ours:>28} {peer:>28}")?;
        }
        writeln!(f)?;
        for bar in self.bars() {
            writeln!(f, "{bar}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(cpu_rate: f64) -> Measured {
        let run = Run {
            records: 10,
            digest: 0,
            cpu_rate,
            wall_rate: 1.0,
            peak_mib: 0.0,
            first_unix_nanos: 0,
            latency: None,
            samples: Vec::new(),
        };
        Measured {
            run,
            seconds: 1.0,
            cpu_rate,
            wall_rate: 1.0,
            fill_rate: 1.0,
            hit_rate: None,
            seen: Seen::default(),
        }
    }

    #[test]
    fn a_ratio_is_shown_only_where_both_sides_ran() {
        let case = Case {
            size: Size::Four,
            keys: Keys::Zipf,
        };
        let ratios = |ours: Option<Measured>| {
            let mut table = Table::new(1);
            let peer = Some(measured(2.0));
            table.add(case, Row { ours, peer });
            let lines = table.lines().into_iter();
            let ratios = lines.filter(|[_, figure, _, _]| figure == "ratio");
            ratios.map(|[_, _, shown, _]| shown).collect::<Vec<_>>()
        };
        assert_eq!(ratios(Some(measured(5.0))), ["2.50 (2.50 to 2.50)"]);
        assert_eq!(ratios(None), Vec::<String>::new());
    }
}
