//! The latency sink: from the time at which a record was due to the time at which its result is here.
//!
//! Each slot thread counts into a histogram of its own; the last words of the process join them in the report, as
//! `latency <p50> <p99> <p99.9> <max> <records>` in microseconds, and as `buckets <max> <bucket>:<records> ...`, which those of
//! several processes are joined from. Buckets are 1/64 wide, so a figure is at most 1.6 % too high. The rule: the clock is
//! read once a chunk, when the chunk has arrived.

use std::sync::{Arc, Mutex, PoisonError};

use highwater::connectors::sink::{
    DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext,
};
use highwater::connectors::{Clock, ConnectorError};
use highwater::types::Chunk;

use crate::open_loop::Probe;
use crate::report::Latency;
use crate::tally;

/// Sub-buckets of each power of two.
const STEPS_BITS: u32 = 6;

/// Counts durations in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    most: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; 64 << STEPS_BITS],
            total: 0,
            most: 0,
        }
    }

    const fn bucket(nanos: u64) -> usize {
        if nanos < 1 << STEPS_BITS {
            return nanos as usize;
        }
        let shift = nanos.ilog2() - STEPS_BITS;
        (((shift as u64) << STEPS_BITS) + (nanos >> shift)) as usize
    }

    /// The largest duration of a bucket.
    const fn upper(bucket: usize) -> u64 {
        if bucket < 1 << STEPS_BITS {
            return bucket as u64;
        }
        let shift = (bucket >> STEPS_BITS) as u32 - 1;
        let step = (bucket as u64 & ((1 << STEPS_BITS) - 1)) + (1 << STEPS_BITS);
        ((step + 1) << shift) - 1
    }

    #[inline]
    pub(crate) fn add(&mut self, nanos: u64) {
        self.counts[Self::bucket(nanos)] += 1;
        self.total += 1;
        self.most = self.most.max(nanos);
    }

    pub(crate) fn join(&mut self, other: &Self) {
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total += other.total;
        self.most = self.most.max(other.most);
    }

    /// The duration that `share` of all do not exceed.
    pub(crate) fn at(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Self::upper(bucket).min(self.most);
            }
        }
        self.most
    }

    fn line(&self) -> String {
        let Latency {
            p50,
            p99,
            p999,
            most,
            records,
        } = self.percentiles();
        format!("latency {p50:.1} {p99:.1} {p999:.1} {most:.1} {records}")
    }

    /// All that was counted, as a line that [`Histogram::parse`] reads behind its first word.
    fn buckets(&self) -> String {
        let counts = self.counts.iter().enumerate();
        let counts = counts.filter(|(_, count)| **count > 0);
        let words = counts.map(|(bucket, count)| format!("{bucket}:{count}"));
        format!(
            "buckets {} {}",
            self.most,
            words.collect::<Vec<_>>().join(" ")
        )
    }

    /// Reads what stands behind `buckets`; `None` = it is of another form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut read = Self::new();
        read.most = words.next()?.parse().ok()?;
        for word in words {
            let (bucket, count) = word.split_once(':')?;
            let (bucket, count): (usize, u64) = (bucket.parse().ok()?, count.parse().ok()?);
            *read.counts.get_mut(bucket)? += count;
            read.total += count;
        }
        Some(read)
    }

    /// Its percentiles, in microseconds.
    pub(crate) fn percentiles(&self) -> Latency {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Latency {
            p50: micros(self.at(0.5)),
            p99: micros(self.at(0.99)),
            p999: micros(self.at(0.999)),
            most: micros(self.most),
            records: self.total,
        }
    }
}

/// The sink.
pub(crate) struct LatencySink {
    clock: Arc<dyn Clock>,
    skip_nanos: u64,
    joined: Arc<Mutex<Histogram>>,
}

impl LatencySink {
    /// Measures by `clock`; what is due before `skip_millis` of it is warm-up and does not count.
    pub(crate) fn new(clock: Arc<dyn Clock>, skip_millis: u64) -> Self {
        Self {
            clock,
            skip_nanos: skip_millis * 1_000_000,
            joined: Arc::new(Mutex::new(Histogram::new())),
        }
    }
}

impl Sink for LatencySink {
    type Record = Probe;

    fn facts(&self) -> SinkFacts {
        tally::facts()
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<Probe>, ConnectorError> {
        Ok(SinkWriter::Direct(Box::new(LatencyWriter {
            clock: Arc::clone(&self.clock),
            skip_nanos: self.skip_nanos,
            own: Histogram::new(),
            joined: Arc::clone(&self.joined),
        })))
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(None)
    }
}

struct LatencyWriter {
    clock: Arc<dyn Clock>,
    skip_nanos: u64,
    own: Histogram,
    joined: Arc<Mutex<Histogram>>,
}

impl DirectWriter<Probe> for LatencyWriter {
    fn write(&mut self, chunk: &mut Chunk<Probe>) -> Result<(), ConnectorError> {
        let now = self.clock.now().as_nanos() as u64;
        for probe in chunk.records() {
            if probe.due_nanos >= self.skip_nanos {
                self.own.add(now.saturating_sub(probe.due_nanos));
            }
        }
        tally::count(chunk.len(), 0)?;
        chunk.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

impl Drop for LatencyWriter {
    fn drop(&mut self) {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.join(&self.own);
        // The last writer to go says it for all: the reader of the report takes the last line.
        if let Err(error) = tally::note(&format!("{}\n{}", joined.line(), joined.buckets())) {
            eprintln!("the report lacks the latency: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_a_bucket_too_high() {
        let mut histogram = Histogram::new();
        (1..=100_000u64).for_each(|nanos| histogram.add(nanos * 7));
        for share in [0.5, 0.99, 0.999, 1.0] {
            let (exact, found) = (700_000.0 * share, histogram.at(share) as f64);
            assert!(
                (exact..=exact * (1.0 + 1.0 / 64.0)).contains(&found),
                "{share}"
            );
        }
    }

    #[test]
    fn joined_histograms_count_together() {
        let (mut one, mut other) = (Histogram::new(), Histogram::new());
        one.add(10);
        other.add(1_000_000);
        one.join(&other);
        assert_eq!((one.at(0.5), one.at(1.0)), (10, 1_000_000));
    }

    #[test]
    fn a_histogram_reads_back_from_its_line() {
        let mut histogram = Histogram::new();
        (0..2_000u64).for_each(|nanos| histogram.add(nanos * nanos));
        let line = histogram.buckets();
        let read = Histogram::parse(line.strip_prefix("buckets ").unwrap()).unwrap();
        for share in [0.01, 0.5, 0.99, 1.0] {
            assert_eq!(read.at(share), histogram.at(share), "{share}");
        }
        assert_eq!(read.percentiles().records, 2_000);
        assert!(Histogram::parse("").is_none() && Histogram::parse("7 1:x").is_none());
        assert!(Histogram::parse("7 99999999:1").is_none());
    }
}
