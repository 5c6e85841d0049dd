//! Cells: the numbers of one thing, written by one thread and read by any.
//!
//! A [`Cells`] can be sent to the thread that writes it but neither shared nor cloned, so it has one writer by type. That
//! is what makes a write cheap: load, add, store, all relaxed, with no lock and no locked instruction. A reader may see
//! one metric a chunk ahead of another; it never sees a torn number or a counter that goes back.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::labels::{Label, LabelSet};
use crate::metric::{Kind, Measure, Metric, Scope, cell_of};

/// What a gauge holds until it is set: a bit pattern that no measure writes.
const UNSET: u64 = 0x7ff8_dead_dead_dead;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<S, M> {
            position: usize,
            cell: usize,
            of: PhantomData<fn() -> (S, M)>,
        }

        impl<S: Scope, M: Measure> $name<S, M> {
            /// The handle of the metric at `position` of the table of `S`. Only the tables call it.
            pub(crate) const fn at(position: usize) -> Self {
                Self { position, cell: cell_of(S::METRICS, position), of: PhantomData }
            }

            /// The entry in the table.
            pub const fn metric(self) -> &'static Metric {
                &S::METRICS[self.position]
            }
        }

        impl<S, M> Clone for $name<S, M> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<S, M> Copy for $name<S, M> {}

        impl<S, M> fmt::Debug for $name<S, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("position", &self.position).finish()
            }
        }
    };
}

handle!(
    /// Names a counter of scope `S` with values of measure `M`.
    Counter
);
handle!(
    /// Names a gauge of scope `S` with values of measure `M`.
    Gauge
);
handle!(
    /// Names a histogram of scope `S` with values of measure `M`.
    Histogram
);

/// The cells of one thing with its labels. Aligned so that two writers never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Block {
    pub(crate) labels: Vec<Label>,
    cells: Box<[Line]>,
}

/// Eight cells, on a pair of cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Line([AtomicU64; 8]);

impl Block {
    pub(crate) fn new(metrics: &'static [Metric], labels: Vec<Label>) -> Self {
        let count = cell_of(metrics, metrics.len()).div_ceil(8);
        let lines = (0..count).map(|_| Line([const { AtomicU64::new(0) }; 8]));
        let block = Self {
            labels,
            cells: lines.collect(),
        };
        for (position, metric) in metrics.iter().enumerate() {
            if metric.kind == Kind::Gauge {
                block.store(cell_of(metrics, position), UNSET);
            }
        }
        block
    }

    #[inline]
    fn cell(&self, at: usize) -> &AtomicU64 {
        &self.cells[at / 8].0[at % 8]
    }

    #[inline]
    pub(crate) fn load(&self, at: usize) -> u64 {
        self.cell(at).load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn store(&self, at: usize, bits: u64) {
        self.cell(at).store(bits, Ordering::Relaxed);
    }

    /// Adds by load and store: right because a block has one writer.
    #[inline]
    fn add(&self, at: usize, amount: u64) {
        self.store(at, self.load(at).wrapping_add(amount));
    }

    /// The value of a gauge, if it was set.
    pub(crate) fn gauge(&self, at: usize) -> Option<u64> {
        let bits = self.load(at);
        (bits != UNSET).then_some(bits)
    }
}

/// The metrics of one thing, in the hands of the one thread that writes them.
///
/// ```
/// use highwater_metrics::{Cells, NoLabels, table::checkpoint};
///
/// let cells = Cells::<checkpoint::CheckpointScope>::detached(&NoLabels);
/// cells.add(checkpoint::COMPLETED, 1);
/// cells.set(checkpoint::LAST_BYTES, 4_096);
/// assert_eq!(cells.shown(checkpoint::LAST_BYTES), Some(4_096.0));
/// ```
///
/// A cell has one writer, so cells are not shared between threads:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<highwater_metrics::Cells<highwater_metrics::table::task::TaskScope>>();
/// ```
///
/// A handle fits its own scope only:
///
/// ```compile_fail,E0308
/// use highwater_metrics::{Cells, NoLabels, table::{checkpoint, task}};
///
/// let cells = Cells::<checkpoint::CheckpointScope>::detached(&NoLabels);
/// cells.add(task::LETTERS, 1);
/// ```
///
/// Made by [`crate::MetricsRegistry::cells`]. When it is dropped the last values stay visible, so that a finished subtask
/// can still be read; [`crate::MetricsRegistry::cells`] with the same labels starts it anew from 0.
pub struct Cells<S> {
    block: Arc<Block>,
    /// Not shared between threads: a cell has one writer.
    alone: PhantomData<Cell<()>>,
    of: PhantomData<fn() -> S>,
}

impl<S: Scope> fmt::Debug for Cells<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells")
            .field("scope", &S::NAME)
            .field("labels", &self.block.labels)
            .finish()
    }
}

impl<S: Scope> Cells<S> {
    /// Cells that no registry shows: for tests and for code that runs without metrics.
    pub fn detached(labels: &S::Labels) -> Self {
        Self::over(Arc::new(Block::new(S::METRICS, labels.labels())))
    }

    pub(crate) fn into_block(self) -> Arc<Block> {
        self.block
    }

    pub(crate) fn over(block: Arc<Block>) -> Self {
        Self {
            block,
            alone: PhantomData,
            of: PhantomData,
        }
    }

    /// Adds `amount` to a counter.
    #[inline]
    pub fn add<M: Measure>(&self, counter: Counter<S, M>, amount: M::Value) {
        self.block.add(counter.cell, M::bits(amount));
    }

    /// Raises a counter to `total`, for things that are counted elsewhere. A lower total changes nothing.
    #[inline]
    pub fn raise<M: Measure>(&self, counter: Counter<S, M>, total: M::Value) {
        let bits = M::bits(total);
        if bits > self.block.load(counter.cell) {
            self.block.store(counter.cell, bits);
        }
    }

    /// Sets a gauge.
    #[inline]
    pub fn set<M: Measure>(&self, gauge: Gauge<S, M>, value: M::Value) {
        self.block.store(gauge.cell, M::bits(value));
    }

    /// Makes a gauge absent: there is nothing to say now (no watermark yet, no output waited on).
    #[inline]
    pub fn clear<M: Measure>(&self, gauge: Gauge<S, M>) {
        self.block.store(gauge.cell, UNSET);
    }

    /// Counts an observation.
    pub fn observe<M: Measure>(&self, histogram: Histogram<S, M>, value: M::Value) {
        let Kind::Histogram(bounds) = histogram.metric().kind else {
            unreachable!("the tables make a histogram handle for histograms only");
        };
        let bits = M::bits(value);
        let size = bits.cast_signed();
        let bucket = bounds.partition_point(|&bound| bound.cast_signed() < size);
        self.block.add(histogram.cell + bucket, 1);
        self.block.add(histogram.cell + bounds.len() + 1, bits);
    }

    /// Counts observations that were grouped elsewhere: sizes with how many there are of each, and the sum of all.
    pub fn observe_all<M: Measure>(
        &self,
        histogram: Histogram<S, M>,
        groups: impl IntoIterator<Item = (M::Value, u64)>,
        sum: M::Value,
    ) {
        let Kind::Histogram(bounds) = histogram.metric().kind else {
            unreachable!("the tables make a histogram handle for histograms only");
        };
        for (value, count) in groups {
            let size = M::bits(value).cast_signed();
            let bucket = bounds.partition_point(|&bound| bound.cast_signed() < size);
            self.block.add(histogram.cell + bucket, count);
        }
        self.block
            .add(histogram.cell + bounds.len() + 1, M::bits(sum));
    }

    /// What a counter holds, as it leaves the process (seconds for spans of time).
    pub fn counted<M: Measure>(&self, counter: Counter<S, M>) -> f64 {
        M::UNIT.export(self.block.load(counter.cell))
    }

    /// What a gauge holds, as it leaves the process; `None` where it is absent.
    pub fn shown<M: Measure>(&self, gauge: Gauge<S, M>) -> Option<f64> {
        self.block
            .gauge(gauge.cell)
            .map(|bits| M::UNIT.export(bits))
    }
}
