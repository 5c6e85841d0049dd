//! The generator source: records computed from a seed and an index.
//!
//! Record `i` depends on (seed, i) and nothing else, so a split is a set of indices and its position the next of them.
//! The indices are dealt out like cards: split `k` of `s` makes `k`, `k + s`, `k + 2s` and so on. Event time that grows
//! with the index then grows at the same pace in every split, and an unbounded generator has as many splits as a
//! bounded one.

mod pace;
mod random;
mod reader;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use highwater_types::{Boundedness, EventTime, Record};

pub use self::pace::{RateError, RecordsPerSecond};
pub use self::random::Random;
use self::reader::{DealtSplit, GeneratorReader};
use crate::clock::Clock;
use crate::error::ConnectorError;
use crate::intake::{BadInput, BadRecords, whole_millis};
use crate::source::{Discovery, ReaderContext, Source, SourceFacts, SourceReader, SplitEnumerator};

/// Makes records.
///
/// Law: the result depends on `index` and `random` only.
pub trait Generate<T>: Send + Sync + 'static {
    /// Makes record `index` and its event time (`EventTime::NONE` for none).
    fn generate(&self, index: u64, random: &mut Random) -> (T, EventTime);
}

impl<T, F> Generate<T> for F
where
    F: Fn(u64, &mut Random) -> (T, EventTime) + Send + Sync + 'static,
{
    #[inline]
    fn generate(&self, index: u64, random: &mut Random) -> (T, EventTime) {
        self(index, random)
    }
}

/// How many splits a generator has unless told otherwise: a parallelism above it leaves subtasks without work.
pub const SPLITS_DEFAULT: u32 = 32;

/// What every reader of one generator shares.
struct Plan<G> {
    generate: G,
    seed: u64,
    count: Option<u64>,
    splits: u32,
    pace: Option<(RecordsPerSecond, Arc<dyn Clock>)>,
    bad_input: BadInput,
}

/// A source that computes its records.
pub struct GeneratorSource<T, G> {
    name: String,
    plan: Arc<Plan<G>>,
    records: PhantomData<fn() -> T>,
}

impl<T, G> Clone for GeneratorSource<T, G> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            plan: Arc::clone(&self.plan),
            records: PhantomData,
        }
    }
}

/// Describes a generator before it is a source.
#[must_use]
pub struct GeneratorBuilder<T, G> {
    name: String,
    plan: Plan<G>,
    records: PhantomData<fn() -> T>,
}

impl<T: Record, G: Generate<T>> GeneratorSource<T, G> {
    /// An unbounded generator without a limit of rate, with [`SPLITS_DEFAULT`] splits.
    pub fn builder(name: impl Into<String>, seed: u64, generate: G) -> GeneratorBuilder<T, G> {
        GeneratorBuilder {
            name: name.into(),
            plan: Plan {
                generate,
                seed,
                count: None,
                splits: SPLITS_DEFAULT,
                pace: None,
                bad_input: BadInput::FAIL,
            },
            records: PhantomData,
        }
    }
}

impl<T: Record, G: Generate<T>> GeneratorBuilder<T, G> {
    /// Ends after records `0..count`.
    pub const fn count(mut self, count: u64) -> Self {
        self.plan.count = Some(count);
        self
    }

    /// Divides the indices among `splits` splits.
    pub const fn splits(mut self, splits: u32) -> Self {
        self.plan.splits = splits;
        self
    }

    /// Limits the rate of the whole job.
    pub fn paced(mut self, rate: RecordsPerSecond, clock: Arc<dyn Clock>) -> Self {
        self.plan.pace = Some((rate, clock));
        self
    }

    /// What becomes of records that are refused; a generator makes them without bytes, so a dead letter holds the record
    /// in the engine's own encoding.
    pub const fn bad_records(mut self, policy: BadRecords) -> Self {
        self.plan.bad_input.policy = policy;
        self
    }

    /// Refuses records whose event time is further ahead of processing time than `limit`. Without it none is refused.
    pub fn future_limit(mut self, limit: Duration) -> Self {
        self.plan.bad_input.future_limit_ms = Some(whole_millis(limit));
        self
    }

    /// Checks the description.
    ///
    /// # Errors
    /// `Invalid` without a split.
    pub fn build(self) -> Result<GeneratorSource<T, G>, ConnectorError> {
        if self.plan.splits == 0 {
            return Err(ConnectorError::Configuration {
                connector: format!("generator {}", self.name),
                reason: "it has 0 splits; give it at least one for each subtask".to_owned(),
            });
        }
        Ok(GeneratorSource {
            name: self.name,
            plan: Arc::new(self.plan),
            records: PhantomData,
        })
    }
}

impl<T: Record, G: Generate<T>> Source for GeneratorSource<T, G> {
    type Record = T;

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "generator",
            object: self.name.clone(),
            boundedness: match self.plan.count {
                Some(_) => Boundedness::Bounded,
                None => Boundedness::Unbounded,
            },
        }
    }

    fn bad_input(&self) -> BadInput {
        self.plan.bad_input
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        Ok(Box::new(GeneratorEnumerator {
            splits: self.plan.splits,
            reported: false,
        }))
    }

    fn reader(&self, context: &ReaderContext) -> Result<Box<dyn SourceReader<T>>, ConnectorError> {
        let plan = Arc::clone(&self.plan);
        Ok(Box::new(GeneratorReader::new(
            self.name.clone(),
            plan,
            context.wake.clone(),
        )))
    }
}

/// Reports every split at once.
struct GeneratorEnumerator {
    splits: u32,
    reported: bool,
}

impl SplitEnumerator for GeneratorEnumerator {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        self.reported = !state.is_empty();
        Ok(())
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        let count = if self.reported { 0 } else { self.splits };
        self.reported = true;
        Ok(Discovery {
            splits: (0..count)
                .map(|at| DealtSplit::first(at, count).to_split())
                .collect(),
            complete: true,
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        if self.reported { vec![1] } else { Vec::new() }
    }

    fn interval(&self) -> Option<Duration> {
        None
    }
}
