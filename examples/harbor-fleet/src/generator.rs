//! Makes the input of the payment fraud scorer: the same bytes for the same profile, on every run.
//!
//! Payments happen at random in a span of event time and arrive later by a random delay; the log of a partition is in
//! order of arrival. Everything is drawn from one seed before the first line is written.

mod draw;
mod pace;
mod plan;
#[cfg(test)]
mod tests;

use std::path::Path;

use highwater_connectors::{ConnectorError, FileLogWriter};

pub use self::draw::Delays;
pub use self::pace::{AtOnce, Pace, Paced};
pub use self::plan::PaymentPlan;
use crate::payments::PAYMENTS_TOPIC;

/// How one partition falls silent: no payment of its users happens or arrives in this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The partition.
    pub partition: u32,
    /// When it begins, in milliseconds after the start of the span.
    pub after_ms: i64,
    /// How long it lasts, in milliseconds.
    pub length_ms: i64,
}

/// Payments that are much larger than others: their status is an unknown text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// Each so-manieth payment in order of arrival is one.
    pub every: u64,
    /// The length of its status, in bytes.
    pub bytes: usize,
}

/// What the input looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Decides every random number.
    pub seed: u64,
    /// The number of payments.
    pub payments: u64,
    /// The number of lines that are no payments.
    pub malformed: u64,
    /// The number of users; their popularity is Zipf with exponent 1.1.
    pub users: u32,
    /// How many of 100 payments outside of bursts are of the first user whatever its popularity.
    pub hot_percent: u64,
    /// Payments that are much larger than others.
    pub wide: Option<Wide>,
    /// The number of partitions; a user's payments are all in one.
    pub partitions: u32,
    /// The first event time, in milliseconds since the epoch.
    pub start_ms: i64,
    /// The length of the span of event time, in milliseconds.
    pub span_ms: i64,
    /// How much later than it happens a payment arrives.
    pub delays: Delays,
    /// The partition that falls silent.
    pub silence: Option<Silence>,
}

const MINUTE_MS: i64 = 60_000;

impl Profile {
    /// 200,000 payments of 5,000 users in three hours, some of them late: for tests.
    pub const fn ci() -> Self {
        Self {
            seed: 42,
            payments: 200_000,
            malformed: 50,
            users: 5_000,
            hot_percent: 0,
            wide: None,
            partitions: 4,
            // 2026-03-02, 10:00 UTC.
            start_ms: 1_772_445_600_000,
            span_ms: 180 * MINUTE_MS,
            delays: Delays::WithLate,
            silence: Some(Silence {
                partition: 3,
                after_ms: 80 * MINUTE_MS,
                length_ms: 20 * MINUTE_MS,
            }),
        }
    }

    /// As [`Profile::ci`], but no payment is late: the set of alerts does not depend on the reader's pace.
    pub const fn demo() -> Self {
        Self {
            delays: Delays::InTime,
            ..Self::ci()
        }
    }

    /// With a silent partition that exists: the last one, when there is more than one.
    #[must_use]
    pub fn with_partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self.silence = match self.silence {
            Some(silence) if partitions > 1 => Some(Silence {
                partition: partitions - 1,
                ..silence
            }),
            _ => None,
        };
        self
    }
}

/// Writes the whole log to `<root>/payments.auth` at `pace`, and the end marker behind it.
///
/// # Errors
/// As the writer's.
pub fn write_log(
    profile: &Profile,
    root: &Path,
    pace: &mut impl Pace,
) -> Result<(), ConnectorError> {
    let mut writer = FileLogWriter::open(root, PAYMENTS_TOPIC, profile.partitions)?;
    let plan = PaymentPlan::new(profile);
    let mut released = 0;
    plan.lines(|number, partition, line| {
        if number >= released {
            writer.flush()?;
            released = pace.release(number);
        }
        writer.append(partition, line)
    })?;
    writer.finish()
}
