//! The laws of bad input, for every source: what is refused, what becomes of it, and that a restore refuses the same.

use std::fmt;

use highwater_types::EventTime;

use super::reader_context;
use super::source::discover;
use crate::error::ConnectorError;
use crate::intake::BadRecords;
use crate::source::{ReaderPoll, Source, SourceOutput, SourceReader, Split, SplitIndex};

/// One input of the source under test, in the order in which it holds them.
#[derive(Clone, Debug)]
pub enum Planted<T> {
    /// A record that is good.
    Good(T),
    /// One that cannot be decoded, is too large or is none; its dead letter holds these bytes, and its reason this text.
    Bad(Vec<u8>, &'static str),
    /// A good record whose event time is too far in the future; its dead letter holds these bytes.
    Future(Vec<u8>),
}

/// What a source brought: records, dead letters (bytes and reason) and the count of the dropped.
#[derive(Debug)]
struct Brought<T> {
    records: Vec<T>,
    letters: Vec<(u64, Vec<u8>, String)>,
    dropped: u64,
}

/// A reader under the head's rule for the future, as the head of a source task applies it.
struct Under<'a, S: Source> {
    source: &'a S,
    time_of: fn(&S::Record) -> EventTime,
    latest: EventTime,
    reader: Box<dyn SourceReader<S::Record>>,
    splits: Vec<Split>,
    brought: Brought<S::Record>,
}

impl<'a, S: Source> Under<'a, S> {
    fn new(
        source: &'a S,
        (time_of, latest): (fn(&S::Record) -> EventTime, EventTime),
        splits: &[Split],
    ) -> Self {
        let mut reader = source.reader(&reader_context()).expect("a reader is made");
        reader
            .add_splits(splits.to_vec())
            .expect("splits are taken");
        reader.no_more_splits();
        Self {
            source,
            time_of,
            latest,
            reader,
            splits: splits.to_vec(),
            brought: Brought {
                records: Vec::new(),
                letters: Vec::new(),
                dropped: 0,
            },
        }
    }

    /// Polls once; false at the end.
    fn step(&mut self) -> Result<bool, ConnectorError> {
        let mut out = SourceOutput::default();
        match self.reader.poll(&mut out)? {
            ReaderPoll::Records(SplitIndex(at)) => {
                let time_of = self.time_of;
                out.records.assign_times(|records, times| {
                    for (record, time) in records.iter().zip(times) {
                        *time = time_of(record);
                    }
                });
                let (rules, id) = (self.source.bad_input(), &self.splits[at as usize].id);
                let origin = |at| self.reader.origin(at);
                out.refuse_beyond(self.latest, &rules, id, origin)?;
                let brought = &mut self.brought;
                brought
                    .records
                    .extend(out.records.drain().map(|(record, ..)| record));
                let letters = out.dead_letters.drain();
                let letters =
                    letters.map(|(letter, ..)| (letter.position, letter.payload, letter.reason));
                brought.letters.extend(letters);
                brought.dropped += out.dropped;
                Ok(true)
            }
            ReaderPoll::EndOfInput => Ok(false),
            ReaderPoll::SplitEnded(_) | ReaderPoll::Nothing => Ok(true),
        }
    }
}

/// Checks a bounded source with one split that holds exactly `planted`, under each policy that `make` is asked for.
///
/// `time_of` gives the event times, `latest` is the last that is not refused.
///
/// # Panics
/// When a law does not hold.
pub fn bad_input_suite<S: Source>(
    mut make: impl FnMut(BadRecords) -> S,
    planted: &[Planted<S::Record>],
    times: (fn(&S::Record) -> EventTime, EventTime),
) where
    S::Record: PartialEq + fmt::Debug,
{
    let good: Vec<_> = planted
        .iter()
        .filter_map(|input| match input {
            Planted::Good(record) => Some(record.clone()),
            Planted::Bad(..) | Planted::Future(_) => None,
        })
        .collect();
    let refused = planted.len() - good.len();
    assert!(refused > 0 && !good.is_empty(), "good and bad are planted");

    let source = make(BadRecords::Fail);
    let splits = discover(&source);
    let mut under = Under::new(&source, times, &splits);
    let error = loop {
        match under.step() {
            Ok(more) => assert!(more, "the source ends without a failure"),
            Err(error) => break error,
        }
    };
    let text = error.to_string();
    assert!(matches!(error, ConnectorError::BadRecord { .. }), "{text}");
    assert!(
        text.contains(splits[0].id.as_str()),
        "the split is named: {text}"
    );

    let source = make(BadRecords::Drop);
    let mut under = Under::new(&source, times, &splits);
    while under.step().expect("bad records are dropped") {}
    assert_eq!(under.brought.records, good);
    assert_eq!(
        under.brought.dropped, refused as u64,
        "each is counted once"
    );
    assert_eq!(under.brought.letters, []);

    let source = make(BadRecords::DeadLetter);
    let mut whole = Under::new(&source, times, &splits);
    while whole.step().expect("bad records leave as dead letters") {}
    check_letters(planted, &whole.brought, &good);
    a_restore_refuses_the_rest(&source, times, (&splits, &whole.brought));
}

/// Each refused input is one dead letter, with its bytes, its reason and a position of its own.
fn check_letters<T: PartialEq + fmt::Debug>(
    planted: &[Planted<T>],
    brought: &Brought<T>,
    good: &[T],
) {
    assert_eq!(brought.records, good);
    assert_eq!(brought.dropped, 0);
    let mut found = brought.letters.clone();
    found.sort_unstable();
    found.dedup_by_key(|(position, ..)| *position);
    let expected = planted.iter().filter_map(|input| match input {
        Planted::Good(_) => None,
        Planted::Bad(bytes, reason) => Some((bytes, *reason)),
        Planted::Future(bytes) => Some((bytes, "ahead of the clock")),
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(found.len(), expected.len(), "positions differ: {found:?}");
    for ((_, bytes, reason), (planted, part)) in found.iter().zip(expected) {
        assert_eq!(bytes, planted, "{reason}");
        assert!(reason.contains(part), "`{part}` is not in `{reason}`");
    }
}

/// A reader that is restored after any number of polls brings exactly what the whole run brought behind that.
fn a_restore_refuses_the_rest<S: Source>(
    source: &S,
    times: (fn(&S::Record) -> EventTime, EventTime),
    (splits, whole): (&[Split], &Brought<S::Record>),
) where
    S::Record: PartialEq + fmt::Debug,
{
    let mut all_letters = whole.letters.clone();
    all_letters.sort_unstable();
    for steps in 0.. {
        let mut first = Under::new(source, times, splits);
        let mut more = true;
        for _ in 0..steps {
            more = more && first.step().expect("a poll succeeds");
        }
        let taken = first.reader.snapshot().expect("a snapshot is taken");
        let mut rest = Under::new(source, times, &taken);
        while rest.step().expect("a poll succeeds") {}
        let (mut records, mut letters) = (first.brought.records, first.brought.letters);
        records.append(&mut rest.brought.records);
        letters.append(&mut rest.brought.letters);
        letters.sort_unstable();
        assert_eq!(records, whole.records, "restored after {steps} polls");
        assert_eq!(letters, all_letters, "restored after {steps} polls");
        if !more {
            return;
        }
    }
}
