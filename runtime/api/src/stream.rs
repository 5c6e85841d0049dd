//! Data streams: handles on what an operator emits, and the calls that add the next operator.
//!
//! A handle is cheap to clone; using it twice sends every record both ways. `uid`, `parallelism` and the like speak of
//! the operator that the handle was returned by.

use std::marker::PhantomData;
use std::mem::discriminant;
use std::rc::Rc;
use std::sync::Arc;

use highwater_connectors::{
    ConnectorError, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext,
};
use highwater_graph::{NodeId, NodeKind, OutputName, SinkNote, StateNote};
use highwater_operators::{
    AssignTimestamps, AsyncLookup, DirectSink, FlatMap, Link, Lookup, LookupOptions, Map,
    OperatorContext, OperatorError, OutputQueue, OutputTag, Process, ProcessFunction,
    TransactionalSink, UserError,
};
use highwater_types::{EventTime, Key, MaxParallelism, Parallelism, Record};

use crate::code::{ErasedPush, NodeCode, SinkCode};
use crate::draft::{Draft, NodeFacts, Origin, Route, SharedDraft, operator_code};
use crate::keyed::KeyedStream;
use crate::misuse::Misuse;

/// A stream of records.
///
/// Source: Flink `DataStream`.
pub struct DataStream<T> {
    draft: SharedDraft,
    origins: Vec<Origin>,
    route: Route<T>,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for DataStream<T> {
    fn clone(&self) -> Self {
        Self {
            draft: SharedDraft::clone(&self.draft),
            origins: self.origins.clone(),
            route: self.route.clone(),
            of: PhantomData,
        }
    }
}

impl<T: Record> DataStream<T> {
    pub(crate) fn of(draft: SharedDraft, origins: Vec<Origin>) -> Self {
        Self {
            draft,
            origins,
            route: Route::Forward,
            of: PhantomData,
        }
    }

    /// Adds the operator that `code` makes behind this stream.
    pub(crate) fn then<Out: Record>(&self, facts: NodeFacts, code: NodeCode) -> DataStream<Out> {
        self.then_by(facts, code, &self.route)
    }

    pub(crate) fn then_by<Out: Record>(
        &self,
        facts: NodeFacts,
        code: NodeCode,
        route: &Route<T>,
    ) -> DataStream<Out> {
        let mut draft = self.draft.borrow_mut();
        let id = draft.add_node::<Out>(facts, NodeKind::Operator, code);
        draft.connect(&self.origins, route, id);
        drop(draft);
        let origin = Origin {
            node: id,
            output: OutputName::Main,
        };
        DataStream::of(SharedDraft::clone(&self.draft), vec![origin])
    }

    pub(crate) fn with_node(&self, change: impl FnOnce(&mut Draft, NodeId)) {
        if let Some(origin) = self.origins.last() {
            change(&mut self.draft.borrow_mut(), origin.node);
        }
    }

    /// Changes the operator whose main output this is; anywhere else the call is noted as a mistake.
    fn set(&self, call: &'static str, change: impl FnOnce(&mut Draft, NodeId)) {
        let of_one = matches!(
            self.origins.as_slice(),
            [Origin {
                output: OutputName::Main,
                ..
            }]
        );
        if of_one && matches!(self.route, Route::Forward) {
            self.with_node(change);
        } else {
            self.with_node(|draft, id| draft.fault(id, &Misuse::Misplaced { call }));
        }
    }

    pub(crate) fn side<U: Record>(&self, output: &OutputName) -> DataStream<U> {
        let origins = self.origins.iter();
        let origins = origins
            .map(|origin| Origin {
                node: origin.node,
                output: output.clone(),
            })
            .collect();
        DataStream::of(SharedDraft::clone(&self.draft), origins)
    }

    pub(crate) fn set_parallelism(&self, parallelism: u32) {
        self.set("parallelism", |draft, id| {
            draft.graph.node_mut(id).parallelism = Some(Parallelism(parallelism));
        });
    }

    /// Names the operator: its state is found again by this name.
    #[must_use]
    pub fn uid(self, uid: &str) -> Self {
        self.set("uid", |draft, id| draft.set_uid(id, uid));
        self
    }

    /// The number of subtasks of the operator.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        self.set_parallelism(parallelism);
        self
    }

    /// The number of key groups of the operator, 1 to 32,768; fixed once it has state.
    #[must_use]
    pub fn max_parallelism(self, groups: u32) -> Self {
        self.set(
            "max_parallelism",
            |draft, id| match MaxParallelism::try_new(groups) {
                Ok(groups) => draft.graph.node_mut(id).max_parallelism = Some(groups),
                Err(error) => draft.fault(id, &error),
            },
        );
        self
    }

    /// The operator begins a task of its own.
    #[must_use]
    pub fn start_new_chain(self) -> Self {
        self.set("start_new_chain", |draft, id| {
            draft.graph.node_mut(id).starts_chain = true;
        });
        self
    }

    /// One record out for each record in.
    pub fn map<Out, F>(&self, function: F) -> DataStream<Out>
    where
        Out: Record,
        F: Fn(T) -> Out + Clone + Send + Sync + 'static,
    {
        let code =
            operator_code::<T, Out, _>(move |_| Ok(highwater_operators::map(function.clone())));
        self.then(NodeFacts::stateless("map"), code)
    }

    /// One record out for each record in; an error fails the attempt.
    pub fn try_map<Out, F>(&self, function: F) -> DataStream<Out>
    where
        Out: Record,
        F: Fn(T) -> Result<Out, UserError> + Clone + Send + Sync + 'static,
    {
        let code =
            operator_code::<T, Out, _>(move |_| Ok(Map::fallible::<T, Out>(function.clone())));
        self.then(NodeFacts::stateless("map"), code)
    }

    /// Keeps the records for which `keep` holds.
    pub fn filter<F>(&self, keep: F) -> Self
    where
        F: Fn(&T) -> bool + Clone + Send + Sync + 'static,
    {
        let code = operator_code::<T, T, _>(move |_| Ok(highwater_operators::filter(keep.clone())));
        self.then(NodeFacts::stateless("filter"), code)
    }

    /// Any number of records out for each record in.
    pub fn flat_map<Out, F>(&self, function: F) -> DataStream<Out>
    where
        Out: Record,
        F: Fn(T, &mut highwater_operators::Collector<'_, Out>) -> Result<(), UserError>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let code = operator_code::<T, Out, _>(move |_| Ok(FlatMap::new(function.clone())));
        let mut facts = NodeFacts::stateless("flat-map");
        facts.has_any_side = true;
        self.then(facts, code)
    }

    /// Runs a function with side outputs and lifecycle.
    pub fn process<Out, F>(&self, function: F) -> DataStream<Out>
    where
        Out: Record,
        F: ProcessFunction<T, Out> + Clone + Send + Sync + 'static,
    {
        let code =
            operator_code::<T, Out, _>(move |context| Process::open(context, function.clone()));
        let mut facts = NodeFacts::stateless("process");
        facts.has_any_side = true;
        self.then(facts, code)
    }

    /// Gives every record another event time. Watermarks stay those of the source.
    pub fn assign_timestamps<F>(&self, time_of: F) -> Self
    where
        F: Fn(&T, EventTime) -> EventTime + Clone + Send + Sync + 'static,
    {
        let code =
            operator_code::<T, T, _>(move |_| Ok(AssignTimestamps::new::<T>(time_of.clone())));
        self.then(NodeFacts::stateless("timestamps"), code)
    }

    /// Asks something outside for each record: a bounded number at once, nothing overtakes a watermark.
    pub fn lookup<Out, L>(&self, uid: &str, lookup: L, options: LookupOptions) -> DataStream<Out>
    where
        Out: Record,
        L: AsyncLookup<T, Out> + Clone,
    {
        let fault = lookup_fault(&options);
        let mut facts = NodeFacts::stateless("lookup");
        facts.uid = Some(uid.to_owned());
        facts.detail =
            format!("{:?}, {} in flight", options.order, options.capacity).to_lowercase();
        "lookup".clone_into(&mut facts.form);
        facts.states = vec![StateNote {
            name: "open-inputs".to_owned(),
            shape: format!("list {}", T::schema()),
        }];
        facts.starts_chain = true;
        let code = operator_code::<T, Out, _>(move |context| {
            Lookup::open(context, lookup.clone(), options.clone())
        });
        let stream: DataStream<Out> = self.then(facts, code);
        if let Some(fault) = fault {
            stream.with_node(|draft, id| draft.fault(id, &fault));
        }
        stream
    }

    /// The side output of this tag of the operator.
    pub fn side_output<U: Record>(&self, tag: &OutputTag<U>) -> DataStream<U> {
        self.set("side_output", |draft, id| {
            draft.read_side::<U>(id, tag.name());
        });
        self.side(&OutputName::Side(tag.name().to_owned()))
    }

    /// The records of both streams, in no order between them.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut both = self.clone();
        let fault = if !Rc::ptr_eq(&self.draft, &other.draft) {
            Some(Misuse::Stranger)
        } else if discriminant(&self.route) != discriminant(&other.route) {
            Some(Misuse::Routes)
        } else {
            None
        };
        if let Some(fault) = fault {
            self.with_node(|draft, id| draft.fault(id, &fault));
            return both;
        }
        both.origins.extend(other.origins.iter().cloned());
        both
    }

    /// Spreads records evenly over the next operator.
    #[must_use]
    pub fn rebalance(&self) -> Self {
        Self {
            route: Route::Rebalance,
            ..self.clone()
        }
    }

    /// Sends every record to every subtask of the next operator.
    #[must_use]
    pub fn broadcast(&self) -> Self {
        Self {
            route: Route::Broadcast,
            ..self.clone()
        }
    }

    /// Sends every record to the first subtask of the next operator.
    #[must_use]
    pub fn global(&self) -> Self {
        Self {
            route: Route::Global,
            ..self.clone()
        }
    }

    /// Brings records of one key together.
    pub fn key_by<K, F>(&self, key_of: F) -> KeyedStream<K, T, F>
    where
        K: Key,
        F: Fn(&T) -> K + Clone + Send + Sync + 'static,
    {
        KeyedStream::new(self.clone(), key_of)
    }

    /// Ends the stream in a sink. The uid names its output slots, outside and in every checkpoint.
    pub fn sink<S: Sink<Record = T>>(&self, uid: &str, sink: S) -> SinkHandle {
        let facts = sink.facts();
        let kind = NodeKind::Sink(SinkNote {
            writes: format!("{} {}", facts.connector, facts.object),
            guarantee: facts.guarantee,
        });
        let mut node = NodeFacts::stateless("sink");
        node.uid = Some(uid.to_owned());
        let mut draft = self.draft.borrow_mut();
        let id = draft.add_node::<()>(node, kind, NodeCode::Sink(Arc::new(TypedSink { sink })));
        draft.connect(&self.origins, &self.route, id);
        drop(draft);
        SinkHandle {
            draft: SharedDraft::clone(&self.draft),
            id,
        }
    }
}

/// What is wrong with the settings of a lookup.
fn lookup_fault(options: &LookupOptions) -> Option<Misuse> {
    if options.capacity == 0 {
        return Some(Misuse::NoCapacity);
    }
    if options.attempt_timeout.is_zero() {
        return Some(Misuse::NoTime);
    }
    (options.total_timeout < options.attempt_timeout).then_some(Misuse::TotalTimeout {
        total_ms: options.total_timeout.as_millis(),
        attempt_ms: options.attempt_timeout.as_millis(),
    })
}

/// A sink that was added, to set what the plan allows.
pub struct SinkHandle {
    draft: SharedDraft,
    id: NodeId,
}

impl SinkHandle {
    /// The number of subtasks that write.
    pub fn parallelism(self, parallelism: u32) -> Self {
        let mut draft = self.draft.borrow_mut();
        draft.graph.node_mut(self.id).parallelism = Some(Parallelism(parallelism));
        drop(draft);
        self
    }
}

/// The code of a sink.
struct TypedSink<S> {
    sink: S,
}

impl<S: Sink> SinkCode for TypedSink<S> {
    fn facts(&self) -> SinkFacts {
        self.sink.facts()
    }

    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        self.sink.target(context)
    }

    fn operator(
        &self,
        context: &OperatorContext,
        writer: &WriterContext,
        queue: Option<Box<dyn OutputQueue>>,
    ) -> Result<ErasedPush, OperatorError> {
        let outputs = crate::code::ErasedOutputs::default().typed::<()>();
        let uid = context.uid.clone();
        match (self.sink.writer(writer)?, queue) {
            (SinkWriter::Direct(direct), _) => {
                let link = Link::new(uid, DirectSink::new(direct), outputs);
                Ok(ErasedPush::new::<S::Record>(Box::new(link)))
            }
            (SinkWriter::Transactional(encoder), Some(queue)) => {
                let operator = TransactionalSink::new(uid.as_str(), encoder, queue);
                let link = Link::new(uid, operator, outputs);
                Ok(ErasedPush::new::<S::Record>(Box::new(link)))
            }
            (SinkWriter::Transactional(_), None) => Err(ConnectorError::Configuration {
                connector: format!("sink {uid}"),
                reason: "its writer needs an output target, but it has none".to_owned(),
            }
            .into()),
        }
    }
}
