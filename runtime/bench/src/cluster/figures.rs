//! The figures of all parts, and the bars over them.
//!
//! The rule: a bar is judged by the worst of all rounds; a part that was not measured has none.

use std::fmt;

use super::deployment::Deployed;
use super::latency::Loaded;
use super::load::PARALLELISM;
use super::memory::{Held, Memory};
use super::recovery::{Recovered, Recovery};
use super::rescale::{RESCALED, Rescaled};
use super::takeover::{LEASE_SECONDS, TakenOver};
use super::throughput::Round;
use crate::bars::{Bar, Bound};
use crate::spread::Spread;

/// p99 across two workers at a tenth of their rate, in milliseconds.
const LATENCY_MILLIS: f64 = 5.0;
/// Recovery from local files, in seconds.
const KEPT_SECONDS: f64 = 3.0;
/// Recovery without them, beside the restore of state.
const GONE_SECONDS: f64 = 10.0;
/// A longer gap says that records have stopped, in milliseconds: ten looks.
const GAP_MILLIS: f64 = 200.0;
/// So long behind the lease the next checkpoint is complete, in seconds.
const BEHIND_LEASE_SECONDS: f64 = 5.0;
/// The pause of a rescale, in seconds.
const PAUSE_SECONDS: f64 = 1.0;
/// An idle coordinator and an idle worker together, MiB.
const MEMORY_MIB: f64 = 100.0;

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) throughput: Vec<Round>,
    pub(super) latency: Vec<Loaded>,
    pub(super) recovery: Recovery,
    pub(super) takeovers: Vec<TakenOver>,
    pub(super) rescales: Vec<Rescaled>,
    pub(super) memory: Option<Memory>,
    pub(super) deployment: Option<Deployed>,
}

/// A figure of several rounds; `None` where there was none.
fn over<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> Option<Spread> {
    (!rounds.is_empty()).then(|| Spread::of(rounds.iter().map(value)))
}

/// The worst of several rounds.
fn worst<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> Option<f64> {
    // What is no number is worse than any.
    rounds.iter().map(value).reduce(|worst, next| {
        if worst.is_nan() || next <= worst {
            worst
        } else {
            next
        }
    })
}

fn at_most(name: &'static str, most: f64, unit: &'static str) -> impl Fn(f64) -> Bar {
    move |value| Bar {
        name,
        bound: Bound::AtMost(most),
        unit,
        value,
    }
}

impl Figures {
    /// Records a second of two workers, as far as that was measured.
    pub(super) fn rate_of_two_workers(&self) -> Option<f64> {
        over(&self.throughput, |round| round.two_workers.rate).map(|spread| spread.median)
    }

    /// The promises that these figures can show.
    pub(super) fn bars(&self) -> impl Iterator<Item = Bar> {
        let least_loaded = self.latency.first();
        let latency = least_loaded.map(|loaded| loaded.latency.p99 / 1e3);
        let kept = worst(&self.recovery.kept, |one| one.flow);
        let gone = worst(&self.recovery.gone, |one| one.flow - one.restore);
        let takeovers = &self.takeovers;
        let up: Vec<_> = self.rescales_to(RESCALED).collect();
        let memory = self
            .memory
            .map(|memory| together(memory, |held| held.resident_mib));
        let bars = [
            latency.map(at_most(
                "p99 across two workers at a tenth",
                LATENCY_MILLIS,
                " ms",
            )),
            kept.map(at_most("recovery from local files", KEPT_SECONDS, " s")),
            gone.map(at_most(
                "recovery without, less the restore",
                GONE_SECONDS,
                " s",
            )),
            worst(takeovers, |one| one.gap * 1e3).map(at_most(
                "gap of records while the leader changes",
                GAP_MILLIS,
                " ms",
            )),
            worst(takeovers, |one| one.begun_anew as f64).map(at_most(
                "subtasks that began anew then",
                0.0,
                "",
            )),
            worst(takeovers, |one| one.checkpoint).map(at_most(
                "next checkpoint after the leader was killed",
                LEASE_SECONDS + BEHIND_LEASE_SECONDS,
                " s",
            )),
            worst(&up, |one| one.pause).map(at_most(
                "pause of a rescale from 2 to 4",
                PAUSE_SECONDS,
                " s",
            )),
            memory.map(at_most(
                "memory of an idle coordinator and worker",
                MEMORY_MIB,
                " MiB",
            )),
        ];
        bars.into_iter().flatten()
    }

    /// The rescales to this parallelism.
    fn rescales_to(&self, parallelism: u32) -> impl Iterator<Item = Rescaled> {
        let all = self.rescales.iter().copied();
        all.filter(move |one| one.to == parallelism)
    }

    /// The figures as lines: name and value.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let mut lines = self.throughput_lines();
        lines.extend(self.latency.iter().flat_map(latency_lines));
        lines.extend(recovery_lines("from local files", &self.recovery.kept));
        lines.extend(recovery_lines("without local files", &self.recovery.gone));
        lines.extend(self.takeover_lines());
        lines.extend(self.rescale_lines());
        lines.extend(self.memory.map(memory_line));
        lines.extend(self.deployment.iter().flat_map(deployment_lines));
        lines
    }

    fn throughput_lines(&self) -> Vec<(String, String)> {
        let of = |value: fn(&Round) -> f64| over(&self.throughput, value);
        let lines = [
            (
                "one process, records a second",
                of(|round| round.one_process.rate / 1e6),
                " M",
            ),
            (
                "two workers, records a second",
                of(|round| round.two_workers.rate / 1e6),
                " M",
            ),
            (
                "one process, CPU of a record",
                of(|round| round.one_process.cpu_nanos),
                " ns",
            ),
            (
                "two workers, CPU of a record",
                of(|round| round.two_workers.cpu_nanos),
                " ns",
            ),
            (
                "two workers to one process, records a second",
                of(rate_ratio),
                "",
            ),
            (
                "two workers to one process, CPU of a record",
                of(cpu_ratio),
                "",
            ),
        ];
        shown(lines)
    }

    fn takeover_lines(&self) -> Vec<(String, String)> {
        let of = |value: fn(&TakenOver) -> f64| over(&self.takeovers, value);
        let lines = [
            (
                "takeover, longest gap of a worker",
                of(|one| one.gap * 1e3),
                " ms",
            ),
            (
                "... in the seconds before",
                of(|one| one.gap_before * 1e3),
                " ms",
            ),
            (
                "... from the kill to the next checkpoint",
                of(|one| one.checkpoint),
                " s",
            ),
        ];
        shown(lines)
    }

    fn rescale_lines(&self) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for (from, to) in [(PARALLELISM, RESCALED), (RESCALED, PARALLELISM)] {
            let rounds: Vec<_> = self.rescales_to(to).collect();
            let of = |value: fn(&Rescaled) -> f64| over(&rounds, value);
            let head = of(|one| one.pause * 1e3).map(|spread| {
                (
                    format!("rescale from {from} to {to}, longest gap of a worker"),
                    format!("{} ms", spread.shown(1.0)),
                )
            });
            lines.extend(head);
            lines.extend(shown([
                (
                    "... of all workers at once",
                    of(|one| one.pause_of_all * 1e3),
                    " ms",
                ),
                (
                    "... as the coordinator tells it",
                    of(|one| one.told * 1e3),
                    " ms",
                ),
                (
                    "... from the request to its answer",
                    of(|one| one.answered),
                    " s",
                ),
            ]));
        }
        lines
    }
}

/// Those figures that are there, with their units.
fn shown<const N: usize>(
    lines: [(&'static str, Option<Spread>, &'static str); N],
) -> Vec<(String, String)> {
    let there = lines.into_iter().filter_map(|(name, spread, unit)| {
        let value = format!("{}{unit}", spread?.shown(1.0));
        Some((name.to_owned(), value))
    });
    there.collect()
}

/// How many times the records a second of one process two workers have.
fn rate_ratio(round: &Round) -> f64 {
    round.two_workers.rate / round.one_process.rate
}

/// How many times the CPU time of one process two workers take for a record: what the wire costs.
fn cpu_ratio(round: &Round) -> f64 {
    round.two_workers.cpu_nanos / round.one_process.cpu_nanos
}

fn latency_lines(loaded: &Loaded) -> [(String, String); 2] {
    let found = loaded.latency;
    let [p50, p99, p999, most] =
        [found.p50, found.p99, found.p999, found.most].map(|micros| micros / 1e3);
    [
        (
            format!(
                "latency across two workers at {:.0} %: p50, p99, p99.9, most",
                loaded.share * 100.0
            ),
            format!(
                "{p50:.2}, {p99:.2}, {p999:.2}, {most:.2} ms at {:.3} M records/s, {} records that crossed",
                loaded.rate / 1e6,
                found.records
            ),
        ),
        (
            "... slot threads waited for a processor".to_owned(),
            format!("{:.1} % of the time", loaded.waited * 100.0),
        ),
    ]
}

fn recovery_lines(how: &str, rounds: &[Recovered]) -> Vec<(String, String)> {
    let of = |value: fn(&Recovered) -> f64| over(rounds, value);
    let head = of(|one| one.flow).map(|spread| {
        (
            format!("recovery {how}, until records flow in every subtask"),
            format!("{} s", spread.shown(1.0)),
        )
    });
    let mut lines: Vec<_> = head.into_iter().collect();
    lines.extend(shown([
        (
            "... of this the restore of state",
            of(|one| one.restore),
            " s",
        ),
        (
            "... until new output is visible",
            of(|one| one.visible),
            " s",
        ),
        (
            "... state from the store",
            of(|one| one.fetched as f64 / 1e6),
            " MB",
        ),
        (
            "... state from local disk",
            of(|one| one.local as f64 / 1e6),
            " MB",
        ),
    ]));
    lines
}

/// A figure of coordinator and worker together.
fn together(memory: Memory, value: impl Fn(Held) -> f64) -> f64 {
    value(memory.coordinator) + value(memory.worker)
}

fn memory_line(memory: Memory) -> (String, String) {
    let (coordinator, worker) = (memory.coordinator, memory.worker);
    (
        "idle, coordinator and worker".to_owned(),
        format!(
            "{:.1} and {:.1} MiB in use, {:.1} and {:.1} MiB at most, {:.1} MiB of these together",
            coordinator.resident_mib,
            worker.resident_mib,
            coordinator.peak_mib,
            worker.peak_mib,
            together(memory, |held| held.peak_mib)
        ),
    )
}

fn deployment_lines(deployed: &Deployed) -> [(String, String); 2] {
    [
        (
            format!(
                "deployment of {} subtasks, until every one has a record",
                deployed.subtasks
            ),
            format!(
                "{:.2} s from the order, the first after {:.2} s",
                deployed.last, deployed.first
            ),
        ),
        (
            "... from the start of the last worker; memory".to_owned(),
            format!(
                "{:.2} s; {:.0} MiB of all processes at most",
                deployed.from_start, deployed.peak_mib
            ),
        ),
    ]
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.lines() {
            writeln!(f, "{name:<60} {value}")?;
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
    use super::super::throughput::Cost;
    use super::*;

    fn rescaled(to: u32, pause: f64) -> Rescaled {
        Rescaled {
            to,
            pause,
            pause_of_all: pause,
            told: pause,
            answered: pause,
        }
    }

    fn missed(figures: &Figures) -> Vec<String> {
        figures.bars().filter_map(|bar| bar.missed()).collect()
    }

    #[test]
    fn what_was_not_measured_has_neither_bar_nor_line() {
        let figures = Figures::default();
        assert_eq!(figures.bars().count(), 0);
        assert!(figures.lines().is_empty());
        assert_eq!(figures.rate_of_two_workers(), None);
    }

    #[test]
    fn the_worst_round_meets_the_bar_or_none_does() {
        let mut figures = Figures {
            rescales: vec![rescaled(4, 0.5), rescaled(2, 1.5), rescaled(4, 0.9)],
            ..Figures::default()
        };
        assert!(missed(&figures).is_empty(), "only the way up has a bar");
        figures.rescales.push(rescaled(4, 1.25));
        assert_eq!(missed(&figures), ["pause of a rescale from 2 to 4 1.25 s"]);
        figures.rescales[0].pause = f64::NAN;
        assert_eq!(missed(&figures), ["pause of a rescale from 2 to 4 NaN s"]);
    }

    #[test]
    fn the_download_does_not_count_where_local_files_are_gone() {
        let recovered = |flow, restore| Recovered {
            flow,
            visible: flow,
            restore,
            fetched: 1_000_000,
            local: 0,
        };
        let mut figures = Figures::default();
        figures.recovery.kept = vec![recovered(2.0, 1.0)];
        figures.recovery.gone = vec![recovered(30.0, 25.0)];
        assert!(missed(&figures).is_empty());
        figures.recovery.kept.push(recovered(3.5, 3.0));
        figures.recovery.gone.push(recovered(30.0, f64::NAN));
        assert_eq!(missed(&figures).len(), 2);
        let shown = figures.to_string();
        assert!(shown.contains("... state from the store"), "{shown}");
    }

    #[test]
    fn the_wire_costs_what_two_workers_take_more() {
        let cost = |rate, cpu_nanos| Cost { rate, cpu_nanos };
        let round = Round {
            one_process: cost(60e6, 30.0),
            two_workers: cost(20e6, 90.0),
        };
        assert!((cpu_ratio(&round) - 3.0).abs() < 1e-9);
        assert!((rate_ratio(&round) * 3.0 - 1.0).abs() < 1e-9);
        let figures = Figures {
            throughput: vec![round],
            ..Figures::default()
        };
        assert_eq!(figures.rate_of_two_workers(), Some(20e6));
        assert_eq!(figures.lines().len(), 6);
    }
}
