//! Writes generated payments to the input topic, and makes them again for the oracle: a profile says every byte.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use harbor_fleet::generator::{AtOnce, Pace, Paced, PaymentPlan, Profile};
use harbor_fleet::oracle::Expected;
use highwater::json::clock;
use highwater_connectors::generator::RecordsPerSecond;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::cluster::Cluster;

const PATIENCE: Duration = Duration::from_mins(1);

/// How fast payments are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    /// As fast as the broker takes them.
    AtOnce,
    /// So many a second.
    PerSecond(f64),
}

impl Rate {
    /// That of the CI profile.
    pub(super) const CI: Self = Self::PerSecond(10_000.0);
}

/// What was written: the number of a line of a partition is its offset.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    profile: Profile,
    /// How many lines each partition has.
    lines: Vec<i64>,
}

impl Logs {
    /// How many lines each partition has.
    pub(super) fn ends(&self) -> BTreeMap<i32, i64> {
        (0..).zip(self.lines.iter().copied()).collect()
    }

    /// Adds the lines before these positions to what is expected.
    pub(super) fn expect(&self, read: &BTreeMap<i32, i64>, expected: &mut Expected) {
        let mut logs: Vec<_> = self
            .lines
            .iter()
            .map(|_| (0, expected.partition()))
            .collect();
        let each = PaymentPlan::new(&self.profile).lines(|_, partition, line| {
            let (lines, log) = &mut logs[partition as usize];
            if *lines < read.get(&(partition as i32)).copied().unwrap_or(0) {
                log.line(line);
            }
            *lines += 1;
            Ok::<_, Infallible>(())
        });
        let Ok(()) = each;
        for (_, log) in logs {
            expected.add(log);
        }
    }
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
    /// Starts to write the payments of `profile` to `topic`.
    pub(super) fn start(
        cluster: &Cluster,
        topic: &str,
        profile: Profile,
        rate: Rate,
    ) -> anyhow::Result<Self> {
        let producer = cluster.producer()?;
        let (topic, stop) = (topic.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("payments".to_owned())
            .spawn(move || match rate {
                Rate::AtOnce => write(&producer, (&topic, &profile), &mut AtOnce, &stopped),
                Rate::PerSecond(rate) => {
                    let rate = RecordsPerSecond::try_new(rate)?;
                    let mut pace = Paced::new(rate, clock()?);
                    write(&producer, (&topic, &profile), &mut pace, &stopped)
                }
            })?;
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

/// Every so many lines the client is asked what became of earlier ones.
const POLL_EVERY: u64 = 256;

fn write(
    producer: &BaseProducer,
    (topic, profile): (&str, &Profile),
    pace: &mut impl Pace,
    stop: &AtomicBool,
) -> anyhow::Result<Logs> {
    let mut lines = vec![0; profile.partitions as usize];
    let plan = PaymentPlan::new(profile);
    let mut released = 0;
    plan.lines(|number, partition, line| {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if number >= released {
            producer.poll(Duration::ZERO);
            released = pace.release(number);
        }
        if number.is_multiple_of(POLL_EVERY) {
            producer.poll(Duration::ZERO);
        }
        send(producer, topic, partition as i32, line)?;
        lines[partition as usize] += 1;
        Ok::<_, anyhow::Error>(())
    })?;
    producer.flush(PATIENCE).context("the last payments")?;
    Ok(Logs {
        profile: *profile,
        lines,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_the_log_is_expected_and_nothing_behind_it() {
        let profile = Profile {
            payments: 1_000,
            ..Profile::ci()
        };
        let logs = Logs {
            profile,
            lines: vec![0; 4],
        };
        let payments = |read: &[(i32, i64)]| {
            let mut expected = Expected::default();
            logs.expect(&read.iter().copied().collect(), &mut expected);
            expected.payments + expected.malformed
        };
        assert_eq!(payments(&[]), 0);
        assert_eq!(payments(&[(0, 3), (2, 5)]), 8);
        let all = (0..4).map(|partition| (partition, i64::MAX));
        assert_eq!(payments(&all.collect::<Vec<_>>()), 1_050);
    }
}
