//! The report of a job process, read: what both sides write while they run (see the tally).

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// This share of the records is warm-up.
const WARM_UP: f64 = 0.2;

/// One sample of a running job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Records that had come out.
    pub(crate) records: f64,
    /// CPU seconds of the process since its start.
    pub(crate) cpu_seconds: f64,
    /// Seconds since the Unix epoch.
    pub(crate) wall_seconds: f64,
}

/// Latency percentiles in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) most: f64,
    pub(crate) records: u64,
}

/// What one run came to.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) records: u64,
    pub(crate) digest: u64,
    /// Events per CPU-second behind the warm-up.
    pub(crate) cpu_rate: f64,
    /// Events per second behind the warm-up.
    pub(crate) wall_rate: f64,
    pub(crate) peak_mib: f64,
    /// When the first output came, in nanoseconds since the Unix epoch.
    pub(crate) first_unix_nanos: u128,
    pub(crate) latency: Option<Latency>,
    /// Ten a second.
    pub(crate) samples: Vec<Sample>,
}

/// Reads the report of a process that has ended.
pub(crate) fn read(path: &Path) -> Result<Run> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the process left no report in {}", path.display()))?;
    parse(&text).with_context(|| format!("the report in {} is not whole", path.display()))
}

fn parse(text: &str) -> Result<Run> {
    let fields = |name: &str| -> Option<Vec<&str>> {
        let found = text.lines().rev().find_map(|line| line.strip_prefix(name));
        found.map(|rest| rest.split_whitespace().collect())
    };
    let end = fields("end ").context("no `end` line")?;
    ensure!(end.len() == 3, "the `end` line has three fields");
    let records: u64 = end[0].parse()?;
    let samples = text
        .lines()
        .filter_map(|line| line.strip_prefix("at "))
        .map(sample)
        .collect::<Result<Vec<_>>>()?;
    let (cpu_rate, wall_rate) = rates(&samples, records as f64);
    let first = fields("first ").context("no `first` line: there was no output")?;
    let latency = fields("latency ").map(|parts| latency(&parts));
    Ok(Run {
        records,
        digest: u64::from_str_radix(end[1], 16)?,
        cpu_rate,
        wall_rate,
        peak_mib: end[2].parse::<f64>()? / 1_024.0,
        first_unix_nanos: first.first().context("no time")?.parse()?,
        latency: latency.transpose()?,
        samples,
    })
}

fn sample(line: &str) -> Result<Sample> {
    let parts = line.split_whitespace().collect::<Vec<_>>();
    ensure!(parts.len() == 3, "an `at` line has three fields");
    Ok(Sample {
        records: parts[0].parse()?,
        cpu_seconds: parts[1].parse::<f64>()? / 1e3,
        wall_seconds: parts[2].parse::<f64>()? / 1e9,
    })
}

fn latency(parts: &[&str]) -> Result<Latency> {
    ensure!(parts.len() == 5, "a `latency` line has five fields");
    Ok(Latency {
        p50: parts[0].parse()?,
        p99: parts[1].parse()?,
        p999: parts[2].parse()?,
        most: parts[3].parse()?,
        records: parts[4].parse()?,
    })
}

/// Rates between the end of the warm-up and the last sample while records came; 0 for a run too short to have both.
fn rates(samples: &[Sample], records: f64) -> (f64, f64) {
    let warm = samples
        .iter()
        .find(|sample| sample.records >= records * WARM_UP);
    let last = samples
        .iter()
        .rev()
        .find(|sample| sample.records < records)
        .or_else(|| samples.last());
    match (warm, last) {
        (Some(warm), Some(last)) if last.cpu_seconds > warm.cpu_seconds => {
            let done = last.records - warm.records;
            (
                done / (last.cpu_seconds - warm.cpu_seconds),
                done / (last.wall_seconds - warm.wall_seconds),
            )
        }
        _ => (0.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_leave_the_warm_up_and_the_idle_end_out() {
        let text = "first 7\nat 0 0 0\nat 200 1000 1000000000\nat 900 2000 3000000000\n\
                    at 1000 9000 9000000000\nend 1000 00ff 2048\n";
        let run = parse(text).unwrap();
        assert_eq!(
            (run.records, run.digest, run.first_unix_nanos),
            (1_000, 255, 7)
        );
        assert!((run.cpu_rate - 700.0).abs() < 1e-9 && (run.wall_rate - 350.0).abs() < 1e-9);
        assert!((run.peak_mib - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_report_without_an_end_is_refused() {
        let error = parse("first 7\nat 0 0 0\n").unwrap_err();
        assert!(error.to_string().contains("end"), "{error}");
    }
}
