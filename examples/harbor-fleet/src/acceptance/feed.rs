//! Writes generated payments to the input topic, and keeps what it wrote for the oracle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use harbor_fleet::generator::{Pace as _, Paced, PaymentPlan, Profile};
use highwater::json::clock;
use highwater_connectors::generator::RecordsPerSecond;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::cluster::Cluster;

const PATIENCE: Duration = Duration::from_mins(1);
/// Payments a second, by the CI profile.
const RATE: f64 = 10_000.0;

/// What was written to each partition.
pub(super) type Logs = Vec<Log>;

/// The log of one partition. The number of a line is its offset.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// Lines, each with its newline.
    pub(super) bytes: Vec<u8>,
    /// How many.
    pub(super) lines: i64,
}

/// A writer at work.
pub(super) struct Feed {
    thread: Option<JoinHandle<anyhow::Result<Logs>>>,
    stop: Arc<AtomicBool>,
}

/// Sends one record, waiting for room in the queue of the client.
pub(super) fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    line: &[u8],
) -> anyhow::Result<()> {
    let mut record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(topic).partition(partition).payload(line);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(error).context("writing a payment"),
        }
    }
}

impl Feed {
    /// Starts to write the payments of `profile` to `topic`, at the pace of the profile.
    pub(super) fn start(cluster: &Cluster, topic: &str, profile: Profile) -> anyhow::Result<Self> {
        let producer = cluster.producer()?;
        let (topic, stop) = (topic.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("payments".to_owned())
            .spawn(move || write(&producer, &topic, &profile, &stopped))?;
        Ok(Self {
            thread: Some(thread),
            stop,
        })
    }

    /// Whether everything is written.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the writing at the next line, wherever it is.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end and returns what was written.
    pub(super) fn logs(&mut self) -> anyhow::Result<Logs> {
        let thread = self.thread.take().context("the payments were taken")?;
        match thread.join() {
            Ok(written) => written,
            Err(_) => bail!("the writer of payments panicked"),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A run that was given up needs no payments any more, whatever became of them.
            drop(thread.join());
        }
    }
}

fn write(
    producer: &BaseProducer,
    topic: &str,
    profile: &Profile,
    stop: &AtomicBool,
) -> anyhow::Result<Logs> {
    let mut logs = vec![Log::default(); profile.partitions as usize];
    let plan = PaymentPlan::new(profile);
    let mut pace = Paced::new(RecordsPerSecond::try_new(RATE)?, clock()?);
    let mut released = 0;
    plan.lines(|number, partition, line| {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if number >= released {
            producer.poll(Duration::ZERO);
            released = pace.release(number);
        }
        send(producer, topic, partition as i32, line)?;
        let log = &mut logs[partition as usize];
        log.bytes.extend_from_slice(line);
        log.bytes.push(b'\n');
        log.lines += 1;
        Ok::<_, anyhow::Error>(())
    })?;
    producer.flush(PATIENCE).context("the last payments")?;
    Ok(logs)
}

/// The first `lines` lines of a log.
pub(super) fn prefix(log: &[u8], lines: i64) -> &[u8] {
    let ends = log.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let end = match usize::try_from(lines) {
        Ok(0) | Err(_) => 0,
        Ok(lines) => ends
            .map(|(at, _)| at + 1)
            .nth(lines - 1)
            .unwrap_or(log.len()),
    };
    &log[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_its_last_line() {
        let log = b"a\n\nbc\n";
        let of = |lines| prefix(log, lines);
        assert_eq!(
            (of(0), of(1), of(2)),
            (&b""[..], &b"a\n"[..], &b"a\n\n"[..])
        );
        assert_eq!((of(3), of(9)), (&log[..], &log[..]));
    }
}
