//! Aggregate functions: how an accumulator is made, fed, merged and read. Used by rolling aggregation and by windows.

use std::marker::PhantomData;

use highwater_types::Record;

/// Folds records into an accumulator.
///
/// Law: `merge` of two accumulators is the accumulator of the records of both, in that order.
///
/// Source: Flink `AggregateFunction`.
pub trait AggregateFunction<In>: Send + Sync + 'static {
    /// What is kept in state.
    type Accumulator: Record;
    /// What is emitted.
    type Output: Record;

    /// The accumulator of no record.
    fn create(&self) -> Self::Accumulator;

    /// Adds a record.
    fn add(&self, accumulator: &mut Self::Accumulator, record: &In);

    /// Adds all records of `from`.
    fn merge(&self, into: &mut Self::Accumulator, from: Self::Accumulator);

    /// What the accumulator comes to. Called after at least one record was added.
    fn result(&self, accumulator: &Self::Accumulator) -> Self::Output;
}

/// Counts records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count;

impl<In> AggregateFunction<In> for Count {
    type Accumulator = u64;
    type Output = u64;

    fn create(&self) -> u64 {
        0
    }

    #[inline]
    fn add(&self, count: &mut u64, _record: &In) {
        *count += 1;
    }

    fn merge(&self, into: &mut u64, from: u64) {
        *into += from;
    }

    #[inline]
    fn result(&self, count: &u64) -> u64 {
        *count
    }
}

/// A number that can be summed. Integers stop at the ends of their range.
pub trait Summand: Record + Copy + Default {
    /// The sum of both.
    #[must_use]
    fn plus(self, other: Self) -> Self;
}

macro_rules! integer_summand {
    ($($ty:ty),*) => {$(
        impl Summand for $ty {
            #[inline]
            fn plus(self, other: Self) -> Self {
                self.saturating_add(other)
            }
        }
    )*};
}
integer_summand!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! float_summand {
    ($($ty:ty),*) => {$(
        impl Summand for $ty {
            #[inline]
            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    )*};
}
float_summand!(f32, f64);

/// A function of the records that one value is taken from.
struct Extracted<F, V> {
    value_of: F,
    of: PhantomData<fn() -> V>,
}

/// Sums a number of each record.
pub struct Sum<F, V>(Extracted<F, V>);

impl<F, V> Sum<F, V> {
    /// Sums what `value_of` returns.
    pub const fn of<In>(value_of: F) -> Self
    where
        F: Fn(&In) -> V,
    {
        let of = PhantomData;
        Self(Extracted { value_of, of })
    }
}

impl<In, V, F> AggregateFunction<In> for Sum<F, V>
where
    V: Summand,
    F: Fn(&In) -> V + Send + Sync + 'static,
{
    type Accumulator = V;
    type Output = V;

    fn create(&self) -> V {
        V::default()
    }

    #[inline]
    fn add(&self, sum: &mut V, record: &In) {
        *sum = sum.plus((self.0.value_of)(record));
    }

    fn merge(&self, into: &mut V, from: V) {
        *into = into.plus(from);
    }

    #[inline]
    fn result(&self, sum: &V) -> V {
        *sum
    }
}

/// Replaces the held value by one that is better than it.
#[inline]
fn keep_better<V>(held: &mut Option<V>, value: V, is_better: impl FnOnce(&V, &V) -> bool) {
    if held.as_ref().is_none_or(|held| is_better(&value, held)) {
        *held = Some(value);
    }
}

macro_rules! extreme {
    ($(#[$doc:meta])* $name:ident, $is_better:expr) => {
        $(#[$doc])*
        ///
        /// Of equal values the first is kept. A value that compares with nothing (NaN) never replaces another.
        pub struct $name<F, V>(Extracted<F, V>);

        impl<F, V> $name<F, V> {
            /// Compares what `value_of` returns.
            pub const fn of<In>(value_of: F) -> Self
            where
                F: Fn(&In) -> V,
            {
                let of = PhantomData;
                Self(Extracted { value_of, of })
            }
        }

        impl<In, V, F> AggregateFunction<In> for $name<F, V>
        where
            V: Record + PartialOrd,
            F: Fn(&In) -> V + Send + Sync + 'static,
        {
            type Accumulator = Option<V>;
            type Output = V;

            fn create(&self) -> Option<V> {
                None
            }

            #[inline]
            fn add(&self, held: &mut Option<V>, record: &In) {
                keep_better(held, (self.0.value_of)(record), $is_better);
            }

            fn merge(&self, into: &mut Option<V>, from: Option<V>) {
                if let Some(value) = from {
                    keep_better(into, value, $is_better);
                }
            }

            #[inline]
            fn result(&self, held: &Option<V>) -> V {
                held.clone().expect("a result is asked for after a record was added")
            }
        }
    };
}

extreme! {
    /// The smallest value that a record gave.
    Min, |value, held| value < held
}
extreme! {
    /// The largest value that a record gave.
    Max, |value, held| value > held
}

macro_rules! side_by_side {
    ($($function:ident $at:tt),+) => {
        /// Several aggregates of the same records: the result is the tuple of their results.
        impl<In, $($function: AggregateFunction<In>),+> AggregateFunction<In> for ($($function,)+) {
            type Accumulator = ($($function::Accumulator,)+);
            type Output = ($($function::Output,)+);

            fn create(&self) -> Self::Accumulator {
                ($(self.$at.create(),)+)
            }

            #[inline]
            fn add(&self, accumulators: &mut Self::Accumulator, record: &In) {
                $(self.$at.add(&mut accumulators.$at, record);)+
            }

            fn merge(&self, into: &mut Self::Accumulator, from: Self::Accumulator) {
                $(self.$at.merge(&mut into.$at, from.$at);)+
            }

            #[inline]
            fn result(&self, accumulators: &Self::Accumulator) -> Self::Output {
                ($(self.$at.result(&accumulators.$at),)+)
            }
        }
    };
}
side_by_side!(A 0, B 1);
side_by_side!(A 0, B 1, C 2);
side_by_side!(A 0, B 1, C 2, D 3);

#[cfg(test)]
mod tests {
    use super::*;

    fn fold<A: AggregateFunction<i64>>(function: &A, values: &[i64]) -> A::Accumulator {
        let mut accumulator = function.create();
        for value in values {
            function.add(&mut accumulator, value);
        }
        accumulator
    }

    fn check<A>(function: &A, values: &[i64], expected: &A::Output)
    where
        A: AggregateFunction<i64>,
        A::Output: PartialEq + std::fmt::Debug,
    {
        assert_eq!(function.result(&fold(function, values)), *expected);
        for at in 1..values.len() {
            let mut merged = fold(function, &values[..at]);
            function.merge(&mut merged, fold(function, &values[at..]));
            assert_eq!(function.result(&merged), *expected, "split at {at}");
        }
    }

    #[test]
    fn merged_parts_give_the_result_of_the_whole() {
        let values = [3, -7, 12, 12, 0, -7];
        check(&Count, &values, &6);
        check(&Sum::of(|value: &i64| *value), &values, &13);
        check(&Min::of(|value: &i64| *value), &values, &-7);
        check(&Max::of(|value: &i64| *value), &values, &12);
    }

    #[test]
    fn integer_sums_stop_at_the_end_of_their_range() {
        check(&Sum::of(|value: &i64| *value as i8), &[100, 100], &i8::MAX);
    }

    #[test]
    fn aggregates_side_by_side_give_the_tuple_of_their_results() {
        let value = |value: &i64| *value;
        let function = (Count, Sum::of(value), Max::of(value));
        check(&function, &[3, -1, 7, 2], &(4, 11, 7));
    }

    #[test]
    fn nan_replaces_nothing() {
        let max = Max::of(|value: &f64| *value);
        let mut held = max.create();
        for value in [1.0, f64::NAN, 2.0] {
            max.add(&mut held, &value);
        }
        assert_eq!(held, Some(2.0));
    }
}
