//! The figures of a whole benchmark: rounds with their medians, and the bars over them.

use super::ours::LatencyRun;
use crate::bars::{Bar, Bound};
use crate::report::Run;
use crate::spread::Spread;

/// Both sides once.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) count: Run,
    pub(super) generate: Run,
    /// The peer's count and its generator alone.
    pub(super) peer: Option<(Run, Run)>,
}

impl Pair {
    /// Ours over the peer's, in events per CPU-second.
    pub(super) fn ratio(&self) -> Option<f64> {
        let (count, _) = self.peer.as_ref()?;
        Some(self.count.cpu_rate / count.cpu_rate)
    }

    /// The same without the cost of either generator.
    pub(super) fn net_ratio(&self) -> Option<f64> {
        let (count, generate) = self.peer.as_ref()?;
        Some(nanos_without(count, generate) / nanos_without(&self.count, &self.generate))
    }

    pub(super) fn shown(&self) -> String {
        let ours = format!("{:.2} M events/CPU-s", self.count.cpu_rate / 1e6);
        match (&self.peer, self.ratio()) {
            (Some((count, _)), Some(ratio)) => {
                let theirs = count.cpu_rate / 1e6;
                format!("{ours}, Flink {theirs:.2} M, ratio {ratio:.1}")
            }
            _ => ours,
        }
    }
}

/// CPU nanoseconds of an event of `count`, less those of `generate`.
pub(super) fn nanos_without(count: &Run, generate: &Run) -> f64 {
    1e9 / count.cpu_rate - 1e9 / generate.cpu_rate
}

/// A job with nothing to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    pub(super) resident_mib: f64,
    /// Cores in use, on average.
    pub(super) cores: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) has_peer: bool,
    pub(super) rounds: Vec<Pair>,
    pub(super) latency: Option<LatencyRun>,
    pub(super) first_output: Option<Spread>,
    pub(super) first_output_kafka: Option<Spread>,
    pub(super) idle: Option<Idle>,
}

impl Figures {
    pub(super) const fn new(has_peer: bool) -> Self {
        Self {
            has_peer,
            rounds: Vec::new(),
            latency: None,
            first_output: None,
            first_output_kafka: None,
            idle: None,
        }
    }

    /// A value of every round.
    pub(super) fn over(&self, value: impl Fn(&Pair) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(value))
    }

    /// A value of the peer in every round; `None` without a peer.
    pub(super) fn over_peer(&self, value: impl Fn(&Run, &Run) -> f64) -> Option<Spread> {
        let pairs = self.rounds.iter().filter_map(|pair| pair.peer.as_ref());
        let of_pairs = || Spread::of(pairs.map(|(count, generate)| value(count, generate)));
        self.has_peer.then(of_pairs)
    }

    /// Every bar for which there is a value.
    pub(super) fn bars(&self) -> impl Iterator<Item = Bar> {
        let bar = |name, bound, unit| {
            move |value| Bar {
                name,
                bound,
                unit,
                value,
            }
        };
        let rate = self.over(|pair| pair.count.cpu_rate / 1e6).median;
        let ratio = self
            .has_peer
            .then(|| self.over(|pair| pair.ratio().unwrap_or(f64::NAN)).median);
        let latency = self.latency.map(|run| run.latency.p99 / 1e3);
        let first = self.first_output.map(|spread| spread.median);
        let kafka = self.first_output_kafka.map(|spread| spread.median);
        let memory = self.idle.map(|idle| idle.resident_mib);
        let at_least = Bound::AtLeast;
        let at_most = Bound::AtMost;
        [
            Some(rate).map(bar("events per CPU-second", at_least(22.0), " M")),
            ratio.map(bar(
                "against Flink DataStream tuned",
                at_least(10.0),
                " times",
            )),
            latency.map(bar(
                "p99 latency at a tenth of the rate",
                at_most(1.0),
                " ms",
            )),
            first.map(bar("first output, generator", at_most(1.0), " s")),
            kafka.map(bar("first output, from Kafka", at_most(1.0), " s")),
            memory.map(bar("memory of an idle job", at_most(100.0), " MiB")),
        ]
        .into_iter()
        .flatten()
    }

    /// The figures as lines: name and value.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = self.own_lines();
        lines.extend(self.peer_lines());
        lines.extend(self.other_lines());
        lines
    }

    fn own_lines(&self) -> Vec<(&'static str, String)> {
        let cpu = self.over(|pair| pair.count.cpu_rate);
        let wall = self.over(|pair| pair.count.wall_rate);
        let generator = self.over(|pair| 1e9 / pair.generate.cpu_rate);
        let without = self.over(|pair| nanos_without(&pair.count, &pair.generate));
        let peak = self.over(|pair| pair.count.peak_mib);
        vec![
            ("Highwater, events per CPU-second", millions(cpu)),
            ("Highwater, events per second", millions(wall)),
            (
                "Highwater, generator alone, CPU per event",
                nanos(generator),
            ),
            ("Highwater, CPU per event without it", nanos(without)),
            ("Highwater, peak memory", mib(peak)),
        ]
    }

    fn peer_lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        let cpu = self.over_peer(|count, _| count.cpu_rate);
        let wall = self.over_peer(|count, _| count.wall_rate);
        let generator = self.over_peer(|_, generate| 1e9 / generate.cpu_rate);
        let without = self.over_peer(nanos_without);
        let peak = self.over_peer(|count, _| count.peak_mib);
        let lines = [
            ("Flink, events per CPU-second", cpu.map(millions)),
            ("Flink, events per second", wall.map(millions)),
            (
                "Flink, generator alone, CPU per event",
                generator.map(nanos),
            ),
            ("Flink, CPU per event without it", without.map(nanos)),
            ("Flink, peak memory", peak.map(mib)),
            ("ratio, whole", self.ratio(Pair::ratio)),
            ("ratio without the generators", self.ratio(Pair::net_ratio)),
        ];
        lines
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }

    fn other_lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        let latency = self.latency.map(|run| {
            let (found, rate) = (run.latency, run.rate / 1e6);
            let [p50, p99, p999, most] =
                [found.p50, found.p99, found.p999, found.most].map(|micros| micros / 1e3);
            let records = found.records;
            format!(
                "{p50:.2}, {p99:.2}, {p999:.2}, {most:.2} ms at {rate:.2} M events/s, {records} records"
            )
        });
        let waited = |run: LatencyRun| format!("{:.1} % of the time", run.waited * 100.0);
        let memory = |idle: Idle| format!("{:.1} MiB", idle.resident_mib);
        let cores = |idle: Idle| format!("{:.2} % of a core", idle.cores * 100.0);
        let seconds = |spread: Spread| format!("{} s", spread.shown(1.0));
        let lines = [
            ("latency in process: p50, p99, p99.9, most", latency),
            (
                "... slot threads waited for a processor",
                self.latency.map(waited),
            ),
            ("first output, generator", self.first_output.map(seconds)),
            (
                "first output, from Kafka",
                self.first_output_kafka.map(seconds),
            ),
            ("idle: memory", self.idle.map(memory)),
            ("idle: CPU", self.idle.map(cores)),
        ];
        lines
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }

    fn ratio(&self, of: impl Fn(&Pair) -> Option<f64>) -> Option<String> {
        let spread = || self.over(|pair| of(pair).unwrap_or(f64::NAN)).shown(1.0);
        self.has_peer.then(spread)
    }

    /// Figures and bars for a terminal.
    pub(super) fn shown(&self) -> String {
        let lines = self.lines().into_iter();
        let lines = lines.map(|(name, value)| format!("{name:<44} {value}"));
        let bars = self.bars().map(|bar| bar.to_string());
        let all = lines.chain([String::new()]).chain(bars);
        all.collect::<Vec<_>>().join("\n")
    }
}

fn millions(spread: Spread) -> String {
    format!("{} M", spread.shown(1e6))
}

fn nanos(spread: Spread) -> String {
    format!("{} ns", spread.shown(1.0))
}

fn mib(spread: Spread) -> String {
    format!("{} MiB", spread.shown(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_of_odd_and_even_counts() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!((odd.median, odd.least, odd.most), (2.0, 1.0, 3.0));
        assert!((Spread::of([4.0, 1.0].into_iter()).median - 2.5).abs() < 1e-9);
    }
}
