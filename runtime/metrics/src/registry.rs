//! The registry: hands out cells, and reads all of them for the scraper, the terminal view and the status pages.
//!
//! Cheap to clone and safe to share. Its lock is taken to register and to read, never to write a value. Label sets of one
//! scope are bounded; beyond the bound a writer still gets cells, which count for nobody, and the metric
//! `highwater_metrics_hidden` says how many are out of sight: metrics must never be the reason that a job fails.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_types::JobIdentity;

use crate::cells::{Block, Cells, Counter, Gauge};
use crate::encode;
use crate::labels::{Label, LabelSet, NoLabels};
use crate::metric::{Kind, Measure, Metric, Scope};
use crate::table::exposition::{self, ExpositionScope};

/// How many label sets of one scope are shown. A job of 50 operators at parallelism 64 has 3,200.
const LABEL_SETS_MAX: usize = 8_192;

/// All metrics of one process.
#[derive(Clone)]
pub struct MetricsRegistry {
    job: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    scopes: BTreeMap<&'static str, BTreeMap<Vec<String>, Arc<Block>>>,
    hidden: u64,
}

/// The value of a metric at the moment it was read, as it leaves the process.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    /// A counter or gauge of whole numbers.
    Whole(u64),
    /// A counter or gauge that may have a fraction: seconds, shares.
    Real(f64),
    /// A histogram.
    Histogram {
        /// Upper bound and number of observations of each bucket, not added up. The last bound is infinite.
        buckets: Vec<(f64, u64)>,
        /// The sum of all observations.
        sum: f64,
    },
}

/// One metric of one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The entry in the table.
    pub metric: &'static Metric,
    /// What it is about.
    pub labels: Vec<Label>,
    /// Its value.
    pub value: SampleValue,
}

impl SampleValue {
    /// The number of a counter or gauge, the number of observations of a histogram.
    pub fn number(&self) -> f64 {
        match self {
            Self::Whole(value) => *value as f64,
            Self::Real(value) => *value,
            Self::Histogram { buckets, .. } => {
                buckets.iter().map(|(_, count)| count).sum::<u64>() as f64
            }
        }
    }
}

impl fmt::Debug for MetricsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsRegistry")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

impl MetricsRegistry {
    /// An empty registry. Every sample carries the label `identity` with the identity of the job.
    pub fn new(job: &JobIdentity) -> Self {
        Self {
            job: Arc::from(job.as_str()),
            state: Arc::default(),
        }
    }

    /// The identity of the job.
    pub(crate) fn job(&self) -> &str {
        &self.job
    }

    /// Cells for the thing that `labels` name, all counters at 0 and all gauges absent.
    ///
    /// Cells that were handed out before for the same labels are taken out of sight: they belong to an attempt that is
    /// over. Beyond the bound of a scope the cells work and are not shown.
    pub fn cells<S: Scope>(&self, labels: &S::Labels) -> Cells<S> {
        let labels = labels.labels();
        let key = labels
            .iter()
            .map(|(_, value)| value.clone())
            .collect::<Vec<_>>();
        let block = Arc::new(Block::new(S::METRICS, labels));
        let mut state = self.lock();
        let blocks = state.scopes.entry(S::NAME).or_default();
        if blocks.len() < LABEL_SETS_MAX || blocks.contains_key(&key) {
            blocks.insert(key, Arc::clone(&block));
        } else {
            state.hidden += 1;
        }
        Cells::over(block)
    }

    /// Takes the thing that `labels` name out of sight: it is gone for good, as after a rescale.
    pub fn retire<S: Scope>(&self, labels: &S::Labels) {
        let key = labels
            .labels()
            .into_iter()
            .map(|(_, value)| value)
            .collect::<Vec<_>>();
        if let Some(blocks) = self.lock().scopes.get_mut(S::NAME) {
            blocks.remove(&key);
        }
    }

    /// Reads everything that is there, in the order of the tables and then of the labels.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for table in crate::table::ALL {
            let blocks = self.blocks(table.scope);
            let mut cell = 0;
            for metric in table.metrics {
                samples.extend(blocks.iter().filter_map(|block| {
                    let value = read(block, metric, cell)?;
                    Some(Sample {
                        metric,
                        labels: block.labels.clone(),
                        value,
                    })
                }));
                cell += metric.kind.width();
            }
        }
        samples
    }

    /// The sum of a counter over all things of its scope, as it leaves the process.
    pub fn total<S: Scope, M: Measure>(&self, counter: Counter<S, M>) -> f64 {
        let cells = self.blocks(S::NAME).into_iter().map(Cells::<S>::over);
        cells.map(|cells| cells.counted(counter)).sum()
    }

    /// A gauge of every thing of its scope that has one, with the labels, as it leaves the process.
    pub fn each<S: Scope, M: Measure>(&self, gauge: Gauge<S, M>) -> Vec<(Vec<Label>, f64)> {
        let blocks = self.blocks(S::NAME).into_iter();
        blocks
            .filter_map(|block| {
                let labels = block.labels.clone();
                Some((labels, Cells::<S>::over(block).shown(gauge)?))
            })
            .collect()
    }

    /// Everything as OpenMetrics text, media type `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub fn open_metrics(&self) -> String {
        encode::text(self)
    }

    fn blocks(&self, scope: &'static str) -> Vec<Arc<Block>> {
        let state = self.lock();
        if scope == ExpositionScope::NAME {
            let own = Cells::<ExpositionScope>::detached(&NoLabels);
            own.set(exposition::HIDDEN, state.hidden);
            return vec![own.into_block()];
        }
        state
            .scopes
            .get(scope)
            .map(|blocks| blocks.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Takes the lock; a reader that panicked has changed nothing, so its lock is good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value at `cell`, unless it is a gauge that was not set.
fn read(block: &Block, metric: &Metric, cell: usize) -> Option<SampleValue> {
    match metric.kind {
        Kind::Counter => Some(number(metric, block.load(cell))),
        Kind::Gauge => Some(number(metric, block.gauge(cell)?)),
        Kind::Histogram(bounds) => {
            let limits = bounds.iter().map(|&bound| metric.unit.export(bound));
            let limits = limits.chain(std::iter::once(f64::INFINITY)).enumerate();
            let buckets = limits
                .map(|(at, limit)| (limit, block.load(cell + at)))
                .collect();
            let sum = metric.unit.export(block.load(cell + bounds.len() + 1));
            Some(SampleValue::Histogram { buckets, sum })
        }
    }
}

fn number(metric: &Metric, bits: u64) -> SampleValue {
    if metric.unit.is_whole() {
        SampleValue::Whole(bits)
    } else {
        SampleValue::Real(metric.unit.export(bits))
    }
}

#[cfg(test)]
mod tests;
