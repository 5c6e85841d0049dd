//! Keyed streams: what an operator with state per key can be made of.

use std::marker::PhantomData;
use std::sync::Arc;

use highwater_graph::StateNote;
use highwater_operators::{
    AggregateFunction, Aggregated, AllRecords, KeyedProcess, KeyedProcessFunction, OutputTag,
    Reduced, RollingAggregate, RollingReduce, TimeDomain, Window, WindowContents, WindowFunction,
    WindowOptions, WindowParts,
};
use highwater_state::TtlConfig;
use highwater_types::{Key, Record};
use highwater_window::{AllowedLateness, WindowAssigner, WindowError};

use crate::aggregate::SharedAggregate;
use crate::draft::{NodeFacts, Route, operator_code};
use crate::misuse::Misuse;
use crate::stream::DataStream;

/// A stream whose records of one key go to one subtask.
///
/// Source: Flink `KeyedStream`.
pub struct KeyedStream<K, T, F> {
    stream: DataStream<T>,
    key_of: F,
    key: PhantomData<fn() -> K>,
}

impl<K, T, F> KeyedStream<K, T, F>
where
    K: Key,
    T: Record,
    F: Fn(&T) -> K + Clone + Send + Sync + 'static,
{
    pub(crate) const fn new(stream: DataStream<T>, key_of: F) -> Self {
        Self {
            stream,
            key_of,
            key: PhantomData,
        }
    }

    fn route(&self) -> Route<T> {
        let key_of = self.key_of.clone();
        Route::Hash {
            key: K::schema().to_string(),
            rekey: Arc::new(move |chunk| chunk.rekey(|record| key_of(record).key_hash())),
        }
    }

    fn facts(operator: &'static str, uid: &str, states: Vec<StateNote>) -> NodeFacts {
        let mut facts = NodeFacts::stateless(operator);
        facts.uid = Some(uid.to_owned());
        facts.key = Some(K::schema().to_string());
        facts.states = states;
        operator.clone_into(&mut facts.form);
        facts
    }

    /// Merges every record into the value of its key and emits the value.
    pub fn reduce<R>(&self, uid: &str, reduce: R) -> DataStream<T>
    where
        R: Fn(&mut T, &T) + Clone + Send + Sync + 'static,
    {
        self.reduce_for(uid, reduce, None)
    }

    /// The same; a value goes when its time is over.
    pub fn reduce_for<R>(&self, uid: &str, reduce: R, ttl: Option<TtlConfig>) -> DataStream<T>
    where
        R: Fn(&mut T, &T) + Clone + Send + Sync + 'static,
    {
        let key_of = self.key_of.clone();
        let facts = Self::facts("reduce", uid, vec![note("value", &T::schema().to_string())]);
        let code = operator_code::<T, T, _>(move |context| {
            let reduce = reduce.clone();
            let merge = move |into: &mut T, record: T| reduce(into, &record);
            RollingReduce::open(context, key_of.clone(), merge, ttl)
        });
        let stream: DataStream<T> = self.stream.then_by(facts, code, &self.route());
        if let Some(ttl) = ttl.filter(|ttl| ttl.duration_ms < 1) {
            let ms = ttl.duration_ms;
            stream.with_node(|draft, id| draft.fault(id, &Misuse::TimeToLive { ms }));
        }
        stream
    }

    /// Folds every record into the accumulator of its key and emits what it comes to.
    pub fn aggregate<A>(&self, uid: &str, function: A) -> DataStream<A::Output>
    where
        A: AggregateFunction<T>,
    {
        let function = SharedAggregate::new(function);
        let key_of = self.key_of.clone();
        let shape = A::Accumulator::schema().to_string();
        let facts = Self::facts("aggregate", uid, vec![note("accumulator", &shape)]);
        let code = operator_code::<T, A::Output, _>(move |context| {
            RollingAggregate::open(context, key_of.clone(), function.clone(), None)
        });
        self.stream.then_by(facts, code, &self.route())
    }

    /// Runs a function with state and timers per key.
    pub fn process<Out, P>(&self, uid: &str, function: P) -> DataStream<Out>
    where
        Out: Record,
        P: KeyedProcessFunction<K, T, Out> + Clone + Send + Sync + 'static,
    {
        let key_of = self.key_of.clone();
        let states = vec![note("states", "of the function, and timers")];
        let mut facts = Self::facts("process", uid, states);
        facts.has_any_side = true;
        let code = operator_code::<T, Out, _>(move |context| {
            KeyedProcess::open(context, key_of.clone(), function.clone())
        });
        self.stream.then_by(facts, code, &self.route())
    }

    /// Gathers the records of a key in windows of event time.
    pub fn window<A: WindowAssigner>(self, assigner: A) -> WindowedStream<K, T, F, A> {
        WindowedStream {
            keyed: self,
            assigner: Ok(assigner),
            domain: TimeDomain::Event,
            lateness_ms: 0,
            late: None,
        }
    }

    /// The same from settings that may be wrong: the mistake comes out when the job is compiled.
    pub fn window_of<A: WindowAssigner>(
        self,
        assigner: Result<A, WindowError>,
    ) -> WindowedStream<K, T, F, A> {
        WindowedStream {
            keyed: self,
            assigner,
            domain: TimeDomain::Event,
            lateness_ms: 0,
            late: None,
        }
    }
}

fn note(name: &str, shape: &str) -> StateNote {
    StateNote {
        name: name.to_owned(),
        shape: shape.to_owned(),
    }
}

/// A keyed stream in windows.
///
/// Source: Flink `WindowedStream`.
pub struct WindowedStream<K, T, F, A> {
    keyed: KeyedStream<K, T, F>,
    assigner: Result<A, WindowError>,
    domain: TimeDomain,
    lateness_ms: i64,
    late: Option<OutputTag<T>>,
}

impl<K, T, F, A> WindowedStream<K, T, F, A>
where
    K: Key,
    T: Record,
    F: Fn(&T) -> K + Clone + Send + Sync + 'static,
    A: WindowAssigner,
{
    /// Windows of the time on the machine instead of event time.
    #[must_use]
    pub fn in_processing_time(mut self) -> Self {
        self.domain = TimeDomain::Processing;
        self
    }

    /// For how many milliseconds after its end a window takes late records and fires again.
    #[must_use]
    pub fn allowed_lateness(mut self, ms: i64) -> Self {
        self.lateness_ms = ms;
        self
    }

    /// Where records go, unchanged, that come too late even for that.
    #[must_use]
    pub fn late_to(mut self, tag: &OutputTag<T>) -> Self {
        self.late = Some(tag.clone());
        self
    }

    /// Emits what the accumulator comes to, with key and window.
    pub fn aggregate<G, Out, W>(self, uid: &str, function: G, emit: W) -> DataStream<Out>
    where
        G: AggregateFunction<T>,
        Out: Record,
        W: WindowFunction<K, G::Output, Out> + Clone + Send + Sync + 'static,
    {
        let shape = G::Accumulator::schema().to_string();
        self.fire(
            uid,
            &shape,
            Aggregated(SharedAggregate::new(function)),
            emit,
        )
    }

    /// Merges the records of a window into one and hands it to `emit`.
    pub fn reduce<R, Out, W>(self, uid: &str, reduce: R, emit: W) -> DataStream<Out>
    where
        R: Fn(&mut T, &T) + Clone + Send + Sync + 'static,
        Out: Record,
        W: WindowFunction<K, T, Out> + Clone + Send + Sync + 'static,
    {
        self.fire(uid, &T::schema().to_string(), Reduced(reduce), emit)
    }

    /// Keeps all records of a window and hands them to `emit`.
    pub fn process<Out, W>(self, uid: &str, emit: W) -> DataStream<Out>
    where
        Out: Record,
        AllRecords: WindowContents<T> + Clone,
        W: WindowFunction<K, <AllRecords as WindowContents<T>>::Result, Out>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.fire(uid, &format!("list {}", T::schema()), AllRecords, emit)
    }

    fn fire<C, Out, W>(self, uid: &str, shape: &str, contents: C, emit: W) -> DataStream<Out>
    where
        C: WindowContents<T> + Clone + Send + Sync + 'static,
        Out: Record,
        W: WindowFunction<K, C::Result, Out> + Clone + Send + Sync + 'static,
    {
        let Self {
            keyed,
            assigner,
            domain,
            lateness_ms,
            late,
        } = self;
        let mut facts = KeyedStream::<K, T, F>::facts("window", uid, vec![note("window", shape)]);
        facts.needs_event_time = domain == TimeDomain::Event;
        facts.has_any_side = true;
        let mut fault = (lateness_ms < 0).then_some(WindowError::Lateness(lateness_ms));
        match &assigner {
            Ok(assigner) => facts.detail = assigner.describe(),
            Err(error) => fault = Some(error.clone()),
        }
        // Lateness is not part of it: when a window is dropped is decided anew at each watermark.
        let time = match domain {
            TimeDomain::Event => "event time",
            TimeDomain::Processing => "processing time",
        };
        facts.form = format!("window, {}, {time}", facts.detail);
        if lateness_ms > 0 {
            facts.detail = format!("{}, lateness {lateness_ms} ms", facts.detail);
        }
        let options = WindowOptions {
            domain,
            lateness: AllowedLateness(lateness_ms.max(0)),
            late_output: late.clone(),
        };
        let key_of = keyed.key_of.clone();
        let code = operator_code::<T, Out, _>(move |context| {
            let Ok(assigner) = &assigner else {
                unreachable!("a plan with a wrong window is refused")
            };
            let parts = WindowParts {
                assigner: assigner.clone(),
                contents: contents.clone(),
                function: emit.clone(),
                key_of: key_of.clone(),
            };
            Window::open(context, parts, options.clone())
        });
        let stream: DataStream<Out> = keyed.stream.then_by(facts, code, &keyed.route());
        stream.with_node(|draft, id| {
            if let Some(tag) = &late {
                draft.add_side::<T>(id, tag.name());
            }
            if let Some(fault) = fault {
                draft.fault(id, &fault);
            }
        });
        stream
    }
}
