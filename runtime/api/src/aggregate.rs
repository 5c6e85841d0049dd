//! An aggregate function that all subtasks of a process share, so that its author need not make it cloneable.

use std::sync::Arc;

use highwater_operators::AggregateFunction;

/// A shared aggregate function.
pub(crate) struct SharedAggregate<A>(Arc<A>);

impl<A> SharedAggregate<A> {
    pub(crate) fn new(function: A) -> Self {
        Self(Arc::new(function))
    }
}

impl<A> Clone for SharedAggregate<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<In, A: AggregateFunction<In>> AggregateFunction<In> for SharedAggregate<A> {
    type Accumulator = A::Accumulator;
    type Output = A::Output;

    fn create(&self) -> A::Accumulator {
        self.0.create()
    }

    #[inline]
    fn add(&self, accumulator: &mut A::Accumulator, record: &In) {
        self.0.add(accumulator, record);
    }

    fn merge(&self, into: &mut A::Accumulator, from: A::Accumulator) {
        self.0.merge(into, from);
    }

    #[inline]
    fn result(&self, accumulator: &A::Accumulator) -> A::Output {
        self.0.result(accumulator)
    }
}
