//! The laws of [`SourceReader`] and [`SplitEnumerator`], on bounded sources.

use std::fmt;

use highwater_types::chunk::CHUNK_RECORDS_MAX;
use highwater_types::{Boundedness, EventTime};

use super::reader_context;
use crate::source::{ReaderPoll, Source, SourceOutput, SourceReader, Split, SplitIndex};

/// Polls that bring nothing before a suite gives up: a bounded source that does not wait always brings something.
const EMPTY_POLLS_MAX: usize = 10;

/// What one split delivers: records with times, and the positions of dead letters.
#[derive(Clone, Debug, PartialEq)]
struct Delivered<T> {
    records: Vec<(T, EventTime)>,
    letters: Vec<u64>,
}

impl<T> Default for Delivered<T> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            letters: Vec::new(),
        }
    }
}

impl<T> Delivered<T> {
    fn take(&mut self, out: &mut SourceOutput<T>) {
        self.records
            .extend(out.records.drain().map(|(record, time, _)| (record, time)));
        self.letters
            .extend(out.dead_letters.drain().map(|(letter, ..)| letter.position));
    }
}

/// A reader with what each of its splits has delivered.
struct Run<T> {
    reader: Box<dyn SourceReader<T>>,
    splits: Vec<Split>,
    delivered: Vec<Delivered<T>>,
    ended: Vec<bool>,
}

impl<T: Clone + PartialEq + fmt::Debug> Run<T> {
    fn new(source: &impl Source<Record = T>, splits: &[Split]) -> Self {
        let mut reader = source.reader(&reader_context()).expect("a reader is made");
        reader
            .add_splits(splits.to_vec())
            .expect("splits are taken");
        Self {
            reader,
            splits: splits.to_vec(),
            delivered: vec![Delivered::default(); splits.len()],
            ended: vec![false; splits.len()],
        }
    }

    /// Polls once; false at the end of the input.
    fn step(&mut self) -> bool {
        let mut out = SourceOutput::default();
        for _ in 0..EMPTY_POLLS_MAX {
            match self.reader.poll(&mut out).expect("a poll succeeds") {
                ReaderPoll::Records(SplitIndex(at)) => {
                    let at = at as usize;
                    let filled = out.records.len().max(out.dead_letters.len());
                    assert!(filled <= CHUNK_RECORDS_MAX, "a poll brings at most a chunk");
                    assert!(!self.ended[at], "a split delivers nothing after its end");
                    self.delivered[at].take(&mut out);
                    return true;
                }
                ReaderPoll::SplitEnded(SplitIndex(at)) => {
                    assert!(
                        out.records.is_empty(),
                        "the end of a split brings no records"
                    );
                    assert!(!self.ended[at as usize], "a split ends once");
                    self.ended[at as usize] = true;
                    return true;
                }
                ReaderPoll::EndOfInput => {
                    assert!(self.has_ended(), "the input ends before a split has ended");
                    return false;
                }
                ReaderPoll::Nothing => assert!(out.records.is_empty()),
            }
        }
        panic!("a bounded source brings nothing and does not end");
    }

    fn has_ended(&self) -> bool {
        self.ended.iter().all(|&ended| ended)
    }

    fn finish(mut self) -> Vec<Delivered<T>> {
        self.reader.no_more_splits();
        while self.step() {}
        assert_eq!(self.reader.snapshot().expect("a snapshot is taken"), []);
        let mut out = SourceOutput::default();
        let again = self.reader.poll(&mut out).expect("a poll succeeds");
        assert_eq!(again, ReaderPoll::EndOfInput, "the end of the input stays");
        self.delivered
    }

    /// The unfinished splits, checked against what has ended.
    fn snapshot(&mut self) -> Vec<Split> {
        let snapshot = self.reader.snapshot().expect("a snapshot is taken");
        let open = self
            .splits
            .iter()
            .zip(&self.ended)
            .filter(|(_, ended)| !**ended);
        let mut open: Vec<_> = open.map(|(split, _)| &split.id).collect();
        let mut kept: Vec<_> = snapshot.iter().map(|split| &split.id).collect();
        open.sort_unstable();
        kept.sort_unstable();
        assert_eq!(kept, open, "a snapshot holds exactly the unfinished splits");
        snapshot
    }
}

/// All records of a bounded source, split by split in the order of their names.
///
/// # Panics
/// When the source fails.
pub fn read_all<S: Source>(source: &S) -> Vec<(S::Record, EventTime)>
where
    S::Record: PartialEq + fmt::Debug,
{
    let splits = discover(source);
    let delivered = Run::new(source, &splits).finish();
    delivered
        .into_iter()
        .flat_map(|split| split.records)
        .collect()
}

pub(super) fn discover<S: Source>(source: &S) -> Vec<Split> {
    let mut enumerator = source.enumerator().expect("an enumerator is made");
    let mut splits = enumerator.discover().expect("splits are found").splits;
    splits.sort();
    splits
}

/// Checks the laws on a bounded source that `make` describes again and again in the same way.
///
/// # Panics
/// When a law does not hold.
pub fn source_suite<S: Source>(mut make: impl FnMut() -> S)
where
    S::Record: PartialEq + fmt::Debug,
{
    let source = make();
    assert_eq!(source.facts().boundedness, Boundedness::Bounded);
    no_split_is_reported_twice(&source);
    reader_without_splits_ends_when_no_more_come(&source);
    let splits = discover(&source);
    let whole = Run::new(&source, &splits).finish();
    splits_deliver_the_same_alone(&source, &splits, &whole);
    restored_reader_delivers_exactly_the_rest(&mut make, &splits, &whole);
}

fn no_split_is_reported_twice<S: Source>(source: &S) {
    let mut first = source.enumerator().expect("an enumerator is made");
    let fresh = first.snapshot();
    let found = first.discover().expect("splits are found");
    assert!(
        found.complete,
        "a bounded source that is whole knows all its splits"
    );
    let mut ids: Vec<_> = found.splits.iter().map(|split| &split.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), found.splits.len(), "names of splits are unique");
    let again = first.discover().expect("splits are looked for again");
    assert!(again.complete && again.splits.is_empty());

    let restored = |state: &[u8]| {
        let mut restored = source.enumerator().expect("an enumerator is made");
        restored.restore(state).expect("its state is read");
        restored.discover().expect("splits are looked for again")
    };
    let later = restored(&first.snapshot());
    assert!(
        later.complete && later.splits.is_empty(),
        "a restored enumerator reports it again"
    );
    assert_eq!(
        restored(&fresh),
        found,
        "one that had reported nothing reports everything"
    );
}

fn reader_without_splits_ends_when_no_more_come<S: Source>(source: &S) {
    let mut reader = source.reader(&reader_context()).expect("a reader is made");
    let mut out = SourceOutput::default();
    let mut poll =
        |reader: &mut dyn SourceReader<S::Record>| reader.poll(&mut out).expect("a poll succeeds");
    assert_eq!(poll(&mut *reader), ReaderPoll::Nothing);
    reader.no_more_splits();
    assert_eq!(poll(&mut *reader), ReaderPoll::EndOfInput);
}

fn splits_deliver_the_same_alone<S: Source>(
    source: &S,
    splits: &[Split],
    whole: &[Delivered<S::Record>],
) where
    S::Record: PartialEq + fmt::Debug,
{
    for (split, expected) in splits.iter().zip(whole) {
        let alone = Run::new(source, std::slice::from_ref(split)).finish();
        assert!(
            alone[0] == *expected,
            "split {} mixes with others",
            split.id
        );
    }
}

fn restored_reader_delivers_exactly_the_rest<S: Source>(
    make: &mut impl FnMut() -> S,
    splits: &[Split],
    whole: &[Delivered<S::Record>],
) where
    S::Record: PartialEq + fmt::Debug,
{
    let mut steps = 0;
    loop {
        let source = make();
        let mut run = Run::new(&source, splits);
        for _ in 0..steps {
            // The end of the input is not announced in this run.
            if run.has_ended() || !run.step() {
                break;
            }
        }
        let last = run.has_ended();
        let snapshot = run.snapshot();
        let mut joined = run.delivered;
        let rest = Run::new(&make(), &snapshot).finish();
        for (split, rest) in snapshot.iter().zip(rest) {
            let at = splits.iter().position(|known| known.id == split.id);
            let joined = &mut joined[at.expect("a snapshot holds known splits")];
            joined.records.extend(rest.records);
            joined.letters.extend(rest.letters);
        }
        assert!(
            joined == whole,
            "a restore after {steps} polls loses or repeats records"
        );
        if last {
            return;
        }
        steps += 1 + steps / 4;
    }
}
