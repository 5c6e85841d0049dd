//! Source streams: a source with its watermark strategy and dead letters.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_connectors::{
    BadInput, ConnectorError, DeadLetter, ReaderContext, Source, SourceFacts, SplitEnumerator,
};
use highwater_graph::{NodeKind, OutputName};
use highwater_operators::{
    DEAD_LETTERS, OperatorContext, OperatorError, SourceHead, SourceInput, SourceRules,
    TimestampAssigner,
};
use highwater_time::{SplitWatermarks, WatermarkStrategy};
use highwater_types::{EventTime, Record};

use crate::code::{ErasedOutputs, SourceCode};
use crate::draft::{Origin, SharedDraft};
use crate::stream::DataStream;

/// What the author sets on a source after its creation.
pub(crate) struct SourceSettings<T> {
    strategy: WatermarkStrategy,
    assign: Option<TimestampAssigner<T>>,
}

type SharedSettings<T> = Arc<Mutex<SourceSettings<T>>>;

/// The code of a source.
pub(crate) struct TypedSource<S: Source> {
    source: S,
    settings: SharedSettings<S::Record>,
}

impl<S: Source> TypedSource<S> {
    pub(crate) fn new(source: S) -> Self {
        let settings = SourceSettings {
            strategy: WatermarkStrategy::none(),
            assign: None,
        };
        Self {
            source,
            settings: Arc::new(Mutex::new(settings)),
        }
    }

    pub(crate) fn settings(&self) -> SharedSettings<S::Record> {
        Arc::clone(&self.settings)
    }
}

impl<S: Source> SourceCode for TypedSource<S> {
    fn facts(&self) -> SourceFacts {
        self.source.facts()
    }

    fn bad_input(&self) -> BadInput {
        self.source.bad_input()
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        self.source.enumerator()
    }

    fn input(
        &self,
        context: &OperatorContext,
        outputs: ErasedOutputs,
    ) -> Result<Box<dyn SourceInput>, OperatorError> {
        let reader = self.source.reader(&ReaderContext {
            job: context.job.clone(),
            uid: context.uid.clone(),
            subtask: context.subtask,
            parallelism: context.parallelism,
            wake: context.wake.clone(),
        })?;
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = SourceRules {
            assign: settings.assign.clone(),
            watermarks: SplitWatermarks::new(settings.strategy),
            bad_input: self.source.bad_input(),
        };
        let outputs = outputs.typed::<S::Record>();
        Ok(Box::new(SourceHead::new(
            reader,
            rules,
            outputs,
            context.clock.clone(),
        )))
    }
}

/// The stream of a source.
pub struct SourceStream<T> {
    stream: DataStream<T>,
    settings: SharedSettings<T>,
}

impl<T: Record> SourceStream<T> {
    pub(crate) fn new(draft: SharedDraft, origin: Origin, settings: SharedSettings<T>) -> Self {
        Self {
            stream: DataStream::of(draft, vec![origin]),
            settings,
        }
    }

    /// Gives every record its event time, and the source its watermarks: per split, the minimum of all.
    #[must_use]
    pub fn watermarks<F>(self, strategy: WatermarkStrategy, time_of: F) -> Self
    where
        F: Fn(&T) -> EventTime + Send + Sync + 'static,
    {
        let described = strategy
            .bound_ms()
            .map(|bound| match strategy.idle_after_ms() {
                None => format!("watermarks {bound} ms behind"),
                Some(idle) => format!("watermarks {bound} ms behind, idle after {idle} ms"),
            });
        self.stream.with_node(|draft, id| {
            if let NodeKind::Source(note) = &mut draft.graph.node_mut(id).kind {
                note.watermarks = described;
                note.bound_ms = strategy.bound_ms();
            }
            if let Err(error) = strategy.check() {
                draft.fault(id, &error);
            }
        });
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.strategy = strategy;
        settings.assign = Some(Arc::new(move |records: &[T], times: &mut [EventTime]| {
            for (record, time) in records.iter().zip(times) {
                *time = time_of(record);
            }
        }));
        drop(settings);
        self
    }

    /// The records that could not be decoded, when the source's policy sends them here.
    pub fn dead_letters(&self) -> DataStream<DeadLetter> {
        self.stream.side(&OutputName::Side(DEAD_LETTERS.to_owned()))
    }

    /// The number of subtasks that read.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        self.stream.set_parallelism(parallelism);
        self
    }

    /// The stream, for what takes one.
    pub fn stream(&self) -> DataStream<T> {
        self.stream.clone()
    }
}

impl<T> Deref for SourceStream<T> {
    type Target = DataStream<T>;

    fn deref(&self) -> &DataStream<T> {
        &self.stream
    }
}
