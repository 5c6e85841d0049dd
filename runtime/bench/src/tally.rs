//! The tally: a sink that counts records and folds them into a digest, and the report that the process leaves.
//!
//! The digest is a sum over all records, so it does not depend on their order: equal digests of `(key, running count)`
//! mean equal multisets of output. The Java job folds the same way. The report is a file of lines that the benchmark
//! reads: `first <unix nanoseconds>`, `at <records> <cpu milliseconds> <unix nanoseconds>` ten times a second, and at
//! the end `end <records> <digest> <peak KiB>`. The rule: records pay two multiplications, chunks one locked addition.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater::connectors::sink::{
    DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext,
};
use highwater::connectors::{ConnectorError, Guarantee};
use highwater::types::Chunk;

use crate::job::Counted;
use crate::process_figures::ProcessFigures;

const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What one record adds to the digest.
#[inline]
pub(crate) const fn digest_of(key: u64, count: u64) -> u64 {
    let mixed = key
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(count)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

/// What all sinks of the process have seen.
struct Totals {
    records: AtomicU64,
    digest: AtomicU64,
    started: AtomicBool,
}

static TOTALS: Totals = Totals {
    records: AtomicU64::new(0),
    digest: AtomicU64::new(0),
    started: AtomicBool::new(false),
};

/// Where the report goes.
static REPORT: OnceLock<Mutex<File>> = OnceLock::new();

fn unix_nanos() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_nanos()
}

/// Adds a line to the report, if there is one.
pub(crate) fn note(line: &str) -> io::Result<()> {
    let Some(report) = REPORT.get() else {
        return Ok(());
    };
    let mut file = report.lock().unwrap_or_else(PoisonError::into_inner);
    file.write_all(format!("{line}\n").as_bytes())
}

/// Opens the report and samples into it until the process ends.
pub(crate) fn start(path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    if REPORT.set(Mutex::new(file)).is_err() {
        return Err(io::Error::other("a process has one report"));
    }
    let sampler = std::thread::Builder::new().name("report".to_owned());
    sampler.spawn(sample).map(drop)
}

fn sample() {
    loop {
        std::thread::sleep(SAMPLE_EVERY);
        let written = ProcessFigures::own().and_then(|figures| {
            let records = records();
            let cpu = figures.cpu.as_millis();
            note(&format!("at {records} {cpu} {}", unix_nanos()))
        });
        if let Err(error) = written {
            eprintln!("the report ends: {error}");
            return;
        }
    }
}

/// Writes the last line of the report and passes the exit code on.
pub(crate) fn finish(code: ExitCode) -> ExitCode {
    let written = ProcessFigures::own().and_then(|figures| {
        let records = records();
        let digest = TOTALS.digest.load(Ordering::Relaxed);
        note(&format!("end {records} {digest:016x} {}", figures.peak_kib))
    });
    match written {
        Ok(()) => code,
        Err(error) => {
            eprintln!("the report has no end: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts a chunk; the first one of the process is noted with its time.
pub(crate) fn count(records: usize, digest: u64) -> Result<(), ConnectorError> {
    TOTALS.records.fetch_add(records as u64, Ordering::Relaxed);
    TOTALS.digest.fetch_add(digest, Ordering::Relaxed);
    if records > 0
        && !TOTALS.started.load(Ordering::Relaxed)
        && !TOTALS.started.swap(true, Ordering::Relaxed)
    {
        note(&format!("first {}", unix_nanos()))
            .map_err(ConnectorError::io("the report", "write"))?;
    }
    Ok(())
}

/// Records that all sinks of the process have seen.
pub(crate) fn records() -> u64 {
    TOTALS.records.load(Ordering::Relaxed)
}

/// Facts of a sink of this program.
pub(crate) fn facts() -> SinkFacts {
    SinkFacts {
        connector: "tally",
        object: "nothing".to_owned(),
        guarantee: Guarantee::AtLeastOnce,
    }
}

/// What a sink adds to the digest for a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    /// The digest of key and count.
    Counted,
    /// The second field as it is: a difference of digests already.
    Delta,
}

/// Counts and folds what arrives.
#[derive(Clone, Copy)]
pub(crate) struct TallySink(pub(crate) Fold);

impl Sink for TallySink {
    type Record = Counted;

    fn facts(&self) -> SinkFacts {
        facts()
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<Counted>, ConnectorError> {
        Ok(SinkWriter::Direct(Box::new(*self)))
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(None)
    }
}

impl DirectWriter<Counted> for TallySink {
    fn write(&mut self, chunk: &mut Chunk<Counted>) -> Result<(), ConnectorError> {
        let records = chunk.records().iter();
        let digest = records.fold(0u64, |sum, &(key, count)| {
            sum.wrapping_add(match self.0 {
                Fold::Counted => digest_of(key, count),
                Fold::Delta => count,
            })
        });
        count(chunk.len(), digest)?;
        chunk.clear();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_key_and_count_apart() {
        let digests = [(0, 1), (1, 0), (1, 1), (2, 1), (1, 2)].map(|(k, c)| digest_of(k, c));
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[at + 1..].contains(digest));
        }
    }

    #[test]
    fn the_digest_that_the_java_job_must_repeat_is_pinned() {
        assert_eq!(digest_of(999_999, 100), 8_945_070_049_026_484_358);
    }
}
