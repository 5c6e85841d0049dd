//! The elements source: a list that the job holds, as one split.

use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;
use highwater_types::chunk::CHUNK_RECORDS_MAX;
use highwater_types::{Boundedness, CheckpointId, EventTime, Record};

use crate::error::ConnectorError;
use crate::source::{
    Discovery, ReaderContext, ReaderPoll, Source, SourceFacts, SourceOutput, SourceReader, Split,
    SplitEnumerator, SplitIndex,
};

const SPLIT: CompactString = CompactString::const_new("elements");

/// A bounded source of given records, in order.
#[derive(Clone, Debug)]
pub struct ElementsSource<T> {
    elements: Arc<[(T, EventTime)]>,
}

impl<T: Record> ElementsSource<T> {
    /// Records without event time.
    pub fn new(records: impl IntoIterator<Item = T>) -> Self {
        Self::timed(records.into_iter().map(|record| (record, EventTime::NONE)))
    }

    /// Records with their event times.
    pub fn timed(elements: impl IntoIterator<Item = (T, EventTime)>) -> Self {
        Self {
            elements: elements.into_iter().collect(),
        }
    }
}

impl<T: Record> Source for ElementsSource<T> {
    type Record = T;

    fn facts(&self) -> SourceFacts {
        SourceFacts {
            connector: "elements",
            object: format!("{} records", self.elements.len()),
            boundedness: Boundedness::Bounded,
        }
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        Ok(Box::new(ElementsEnumerator { reported: false }))
    }

    fn reader(&self, _: &ReaderContext) -> Result<Box<dyn SourceReader<T>>, ConnectorError> {
        Ok(Box::new(ElementsReader {
            elements: Arc::clone(&self.elements),
            split: None,
            no_more_splits: false,
        }))
    }
}

struct ElementsEnumerator {
    reported: bool,
}

impl SplitEnumerator for ElementsEnumerator {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        self.reported = !state.is_empty();
        Ok(())
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        let split = Split {
            id: SPLIT,
            position: 0u64.to_le_bytes().to_vec(),
        };
        let first = !std::mem::replace(&mut self.reported, true);
        Ok(Discovery {
            splits: first.then_some(split).into_iter().collect(),
            complete: true,
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        if self.reported { vec![1] } else { Vec::new() }
    }

    fn interval(&self) -> Option<Duration> {
        None
    }
}

#[derive(Clone, Copy)]
enum Progress {
    At(usize),
    Ended,
}

struct ElementsReader<T> {
    elements: Arc<[(T, EventTime)]>,
    split: Option<Progress>,
    no_more_splits: bool,
}

impl<T: Record> SourceReader<T> for ElementsReader<T> {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        for split in splits {
            let position = <[u8; 8]>::try_from(split.position.as_slice());
            let position = position.map(u64::from_le_bytes).ok();
            let position = position.filter(|&at| at <= self.elements.len() as u64);
            let Some(position) = position.filter(|_| split.id == SPLIT) else {
                return Err(ConnectorError::State {
                    object: format!("source of {} elements", self.elements.len()),
                    reason: format!(
                        "split `{}` does not belong to it; the list was changed",
                        split.id
                    ),
                });
            };
            self.split = Some(Progress::At(position as usize));
        }
        Ok(())
    }

    fn no_more_splits(&mut self) {
        self.no_more_splits = true;
    }

    fn poll(&mut self, out: &mut SourceOutput<T>) -> Result<ReaderPoll, ConnectorError> {
        let Some(Progress::At(at)) = self.split else {
            return Ok(if self.no_more_splits {
                ReaderPoll::EndOfInput
            } else {
                ReaderPoll::Nothing
            });
        };
        let rest = &self.elements[at..];
        if rest.is_empty() {
            self.split = Some(Progress::Ended);
            return Ok(ReaderPoll::SplitEnded(SplitIndex(0)));
        }
        let room = CHUNK_RECORDS_MAX.saturating_sub(out.records.len());
        let taken = &rest[..room.min(rest.len())];
        for (record, time) in taken {
            out.records.push(record.clone(), *time);
        }
        self.split = Some(Progress::At(at + taken.len()));
        Ok(ReaderPoll::Records(SplitIndex(0)))
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        let Some(Progress::At(at)) = self.split else {
            return Ok(Vec::new());
        };
        Ok(vec![Split {
            id: SPLIT,
            position: (at as u64).to_le_bytes().to_vec(),
        }])
    }

    fn checkpoint_completed(&mut self, _: CheckpointId) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{reader_context, source_suite};

    #[test]
    fn elements_keep_the_source_contract() {
        source_suite(|| ElementsSource::timed((0..5_000u32).map(|i| (i, EventTime(-1)))));
        source_suite(|| ElementsSource::new(Vec::<u32>::new()));
    }

    #[test]
    fn a_position_behind_the_list_is_refused() {
        let source = ElementsSource::new([1u32, 2]);
        let mut reader = source.reader(&reader_context()).unwrap();
        let split = Split {
            id: SPLIT,
            position: 3u64.to_le_bytes().to_vec(),
        };
        let error = reader.add_splits(vec![split]).unwrap_err();
        assert!(error.to_string().contains("the list was changed"));
    }
}
