//! What a window keeps of its records: an accumulator, one merged record, or all of them.

use highwater_types::record::{DecodeError, Record};
use highwater_types::schema::DataType;

use crate::aggregate_function::AggregateFunction;

/// Keeps the records of one key and window.
pub trait WindowContents<In>: Send + Sync + 'static {
    /// What is kept in state.
    type Kept: Record;
    /// What the window function gets.
    type Result;

    /// What is kept of no record.
    fn create(&self) -> Self::Kept;

    /// Adds a record.
    fn add(&self, kept: &mut Self::Kept, record: &In);

    /// Adds the records of `from`, which are behind those of `into`. Only windows that merge call it.
    fn merge(&self, into: &mut Self::Kept, from: Self::Kept);

    /// What the records come to. Called after at least one was added.
    fn result(&self, kept: &Self::Kept) -> Self::Result;

    /// The same when nothing more can be added.
    fn last_result(&self, kept: Self::Kept) -> Self::Result {
        self.result(&kept)
    }
}

/// Keeps the accumulator of an aggregate function.
#[derive(Clone, Copy, Debug)]
pub struct Aggregated<A>(pub A);

impl<In, A: AggregateFunction<In>> WindowContents<In> for Aggregated<A> {
    type Kept = A::Accumulator;
    type Result = A::Output;

    fn create(&self) -> A::Accumulator {
        self.0.create()
    }

    #[inline]
    fn add(&self, kept: &mut A::Accumulator, record: &In) {
        self.0.add(kept, record);
    }

    fn merge(&self, into: &mut A::Accumulator, from: A::Accumulator) {
        self.0.merge(into, from);
    }

    fn result(&self, kept: &A::Accumulator) -> A::Output {
        self.0.result(kept)
    }
}

/// Keeps one record, into which the others are merged.
#[derive(Clone, Copy, Debug)]
pub struct Reduced<F>(pub F);

impl<In, F> WindowContents<In> for Reduced<F>
where
    In: Record,
    F: Fn(&mut In, &In) + Send + Sync + 'static,
{
    type Kept = Option<In>;
    type Result = In;

    fn create(&self) -> Option<In> {
        None
    }

    fn add(&self, kept: &mut Option<In>, record: &In) {
        match kept {
            Some(merged) => (self.0)(merged, record),
            None => *kept = Some(record.clone()),
        }
    }

    fn merge(&self, into: &mut Option<In>, from: Option<In>) {
        match (into.as_mut(), from) {
            (Some(merged), Some(record)) => (self.0)(merged, &record),
            (None, from) => *into = from,
            (Some(_), None) => {}
        }
    }

    fn result(&self, kept: &Option<In>) -> In {
        kept.clone().expect("a window holds at least one record")
    }

    fn last_result(&self, kept: Option<In>) -> In {
        kept.expect("a window holds at least one record")
    }
}

/// Keeps all records in order of arrival. Memory grows with them; prefer an aggregate.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllRecords;

impl<In: Record> WindowContents<In> for AllRecords {
    type Kept = RecordList<In>;
    type Result = Vec<In>;

    fn create(&self) -> RecordList<In> {
        RecordList {
            records: Vec::new(),
            heap_bytes: 0,
        }
    }

    fn add(&self, kept: &mut RecordList<In>, record: &In) {
        kept.heap_bytes += record.heap_bytes();
        kept.records.push(record.clone());
    }

    fn merge(&self, into: &mut RecordList<In>, from: RecordList<In>) {
        into.heap_bytes += from.heap_bytes;
        into.records.extend(from.records);
    }

    fn result(&self, kept: &RecordList<In>) -> Vec<In> {
        kept.records.clone()
    }

    fn last_result(&self, kept: RecordList<In>) -> Vec<In> {
        kept.records
    }
}

/// The records of a window. Knows the bytes of its records, so that adding one does not look at all.
#[derive(Clone, Debug)]
pub struct RecordList<T> {
    records: Vec<T>,
    heap_bytes: usize,
}

impl<T: Record> Record for RecordList<T> {
    fn data_type() -> DataType {
        Vec::<T>::data_type()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.records.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let records = Vec::<T>::decode(input)?;
        let heap_bytes = records.iter().map(Record::heap_bytes).sum();
        Ok(Self {
            records,
            heap_bytes,
        })
    }

    fn heap_bytes(&self) -> usize {
        self.records.capacity() * size_of::<T>() + self.heap_bytes
    }
}
