//! Metrics of the job author: counters, gauges and spans of time that a function makes when it is opened.
//!
//! Handed out by [`FunctionPlace`](crate::FunctionPlace); what they hold is told with the report of the operator. The rules: one name is one
//! metric of a subtask, however often it is asked for; how many a subtask has is bounded, and one above the bound works and is told nowhere,
//! since metrics must never be the reason that a job fails. They are no state: each attempt begins anew.
//!
//! Source: Flink `MetricGroup`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_metrics::{SharedSpans, Spans};
use serde::{Deserialize, Serialize};

/// Metrics that one subtask of an operator may have.
const METRICS_MAX: usize = 64;
/// Characters of a name; what is longer is cut.
const NAME_CHARS_MAX: usize = 64;

/// Counts what the job author wants to count.
#[derive(Clone, Debug, Default)]
pub struct UserCounter(Arc<AtomicU64>);

impl UserCounter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct UserGauge(Arc<AtomicU64>);

impl Default for UserGauge {
    /// One that was not set: nothing is told of it.
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(f64::NAN.to_bits())))
    }
}

impl UserGauge {
    /// Sets it. What is no number is told nowhere.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// Spans of time, counted by size.
#[derive(Clone, Debug, Default)]
pub struct UserDurations(Arc<SharedSpans>);

impl UserDurations {
    /// Counts one.
    pub fn observe(&self, span: Duration) {
        self.0.observe(span);
    }
}

/// What one of them holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserValue {
    /// What a counter counted.
    Count(u64),
    /// What a gauge was set to, as the bits of the number.
    Level(u64),
    /// Spans of time.
    Durations(Spans),
}

/// One of them, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMetric {
    /// The name that the author gave it.
    pub name: String,
    /// What it holds.
    pub value: UserValue,
}

#[derive(Clone, Debug)]
enum Held {
    Counter(UserCounter),
    Gauge(UserGauge),
    Durations(UserDurations),
}

impl Held {
    const fn as_counter(&self) -> Option<&UserCounter> {
        match self {
            Self::Counter(counter) => Some(counter),
            _ => None,
        }
    }

    const fn as_gauge(&self) -> Option<&UserGauge> {
        match self {
            Self::Gauge(gauge) => Some(gauge),
            _ => None,
        }
    }

    const fn as_durations(&self) -> Option<&UserDurations> {
        match self {
            Self::Durations(durations) => Some(durations),
            _ => None,
        }
    }

    /// What it holds; `None` = nothing yet.
    fn value(&self) -> Option<UserValue> {
        Some(match self {
            Self::Counter(counter) => UserValue::Count(counter.0.load(Ordering::Relaxed)),
            Self::Gauge(gauge) => {
                let bits = gauge.0.load(Ordering::Relaxed);
                if f64::from_bits(bits).is_nan() {
                    return None;
                }
                UserValue::Level(bits)
            }
            Self::Durations(durations) => UserValue::Durations(durations.0.read()),
        })
    }
}

/// The metrics of one subtask. Clones are the same. Its lock is taken to make one and to tell of all, never to write.
#[derive(Clone, Debug, Default)]
pub(crate) struct UserMetrics(Arc<Mutex<Vec<(String, Held)>>>);

impl UserMetrics {
    fn lock(&self) -> MutexGuard<'_, Vec<(String, Held)>> {
        // A list is whole whatever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of this name, which is made if there is none of its kind.
    fn find<T: Clone + Default>(
        &self,
        name: &str,
        of: fn(&Held) -> Option<&T>,
        held: fn(T) -> Held,
    ) -> T {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let mut all = self.lock();
        let mut known = all.iter().filter(|(known, _)| *known == name);
        if let Some(found) = known.find_map(|(_, held)| of(held)) {
            return found.clone();
        }
        let made = T::default();
        if all.len() < METRICS_MAX {
            all.push((name, held(made.clone())));
        }
        made
    }

    pub(crate) fn counter(&self, name: &str) -> UserCounter {
        self.find(name, Held::as_counter, Held::Counter)
    }

    pub(crate) fn gauge(&self, name: &str) -> UserGauge {
        self.find(name, Held::as_gauge, Held::Gauge)
    }

    pub(crate) fn durations(&self, name: &str) -> UserDurations {
        self.find(name, Held::as_durations, Held::Durations)
    }

    /// All that hold something.
    pub(crate) fn report(&self) -> Vec<UserMetric> {
        let all = self.lock();
        let told = all.iter().filter_map(|(name, held)| {
            Some(UserMetric {
                name: name.clone(),
                value: held.value()?,
            })
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_metric_of_its_kind() {
        let metrics = UserMetrics::default();
        metrics.counter("declined").add(2);
        metrics.counter("declined").add(3);
        metrics.gauge("declined").set(-0.5);
        metrics.durations("call").observe(Duration::from_millis(7));
        let silent = metrics.gauge("never-set");
        let mut spans = Spans::default();
        spans.observe(Duration::from_millis(7));
        let told = metrics.report();
        let expected = [
            ("declined", UserValue::Count(5)),
            ("declined", UserValue::Level((-0.5_f64).to_bits())),
            ("call", UserValue::Durations(spans)),
        ];
        let expected = expected.map(|(name, value)| UserMetric {
            name: name.to_owned(),
            value,
        });
        assert_eq!(told, expected);
        silent.set(1.0);
        assert_eq!(metrics.report().len(), 4);
    }

    #[test]
    fn one_above_the_bound_works_and_is_told_nowhere() {
        let metrics = UserMetrics::default();
        for number in 0..=METRICS_MAX {
            metrics.counter(&format!("number-{number}")).add(1);
        }
        assert_eq!(metrics.report().len(), METRICS_MAX);
        let long = UserMetrics::default();
        let name = "ü".repeat(NAME_CHARS_MAX + 1);
        long.counter(&name).add(1);
        long.counter(&name).add(1);
        let told = long.report();
        assert_eq!(told[0].value, UserValue::Count(2));
        assert_eq!(told[0].name.chars().count(), NAME_CHARS_MAX);
    }
}
