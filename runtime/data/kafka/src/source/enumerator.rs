//! Finds the partitions of a topic and resolves their start and end, on the coordinator.
//!
//! Start and end are resolved once in a lineage, for all partitions together, and kept in checkpoint 0. A partition that
//! is found later is read from its first record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_connectors::{ConnectorError, Discovery, Split, SplitEnumerator};
use highwater_types::record::Record;

use super::SourceSettings;
use super::ends::{EndLook, SteadyEnds};
use super::position::{EndPosition, PartitionPosition, StartPosition, parse_split, split_of};
use crate::topic::{OffsetRange, TopicInspector};

/// Format 1 does not say whether the source was bounded.
const FORMAT: u8 = 2;

/// Looks at the ends of the partitions before their leaders count as unsteady: five seconds at least.
const END_LOOKS_MAX: u32 = 50;

/// The split finder of one source.
pub(super) struct KafkaEnumerator {
    settings: Arc<SourceSettings>,
    inspector: TopicInspector,
    /// How many partitions were reported; `None` = start positions are not resolved yet.
    known: Option<i32>,
}

impl KafkaEnumerator {
    pub(super) fn open(settings: Arc<SourceSettings>) -> Result<Self, ConnectorError> {
        let inspector = TopicInspector::open(&settings.connection, &settings.topic)?;
        Ok(Self {
            settings,
            inspector,
            known: None,
        })
    }

    fn refused(&self, reason: String) -> ConnectorError {
        ConnectorError::Configuration {
            connector: self.settings.object(),
            reason,
        }
    }

    /// Start and end of every partition of a source that starts.
    fn resolve(&self, count: i32) -> Result<Vec<PartitionPosition>, ConnectorError> {
        let ends = self.steady_ends(count)?;
        let range = |(partition, stable)| {
            let OffsetRange { low, .. } = self.inspector.range(partition)?;
            Ok(OffsetRange { low, stable })
        };
        let ranges: Result<Vec<_>, ConnectorError> = (0..).zip(ends).map(range).collect();
        let ranges = ranges?;
        let starts = self.starts(&ranges)?;
        let ends = self.ends(&ranges)?;
        let both = starts.into_iter().zip(ends);
        Ok(both
            .map(|(offset, end)| PartitionPosition::fresh(offset, end))
            .collect())
    }

    /// The ends of all partitions, believed only when two looks in a row agree, a moment apart: a leader that lags tells the
    /// same end twice within some milliseconds. They are asked for once in a lineage, and an end that is too low would leave
    /// records unread for good.
    fn steady_ends(&self, count: i32) -> Result<Vec<i64>, ConnectorError> {
        let mut ends = SteadyEnds::default();
        for look in 0..END_LOOKS_MAX {
            if look > 0 {
                self.inspector.wait_a_moment();
            }
            let leaders = self.inspector.leaders(count)?;
            let told = self.inspector.ends(count)?;
            let looks = leaders.into_iter().zip(told);
            let looks = looks.map(|(leader, end)| EndLook { leader, end });
            if let Some(ends) = ends.take(looks.collect()) {
                return Ok(ends);
            }
        }
        Err(self.inspector.unsteady())
    }

    fn starts(&self, ranges: &[OffsetRange]) -> Result<Vec<i64>, ConnectorError> {
        match &self.settings.start {
            StartPosition::Earliest => Ok(ranges.iter().map(|range| range.low).collect()),
            StartPosition::Latest => Ok(ranges.iter().map(|range| range.stable).collect()),
            StartPosition::Timestamp(time) => self.at_time(ranges, *time),
            StartPosition::Offsets(offsets) => self.given(ranges, offsets, "start"),
        }
    }

    fn ends(&self, ranges: &[OffsetRange]) -> Result<Vec<Option<i64>>, ConnectorError> {
        let Some(end) = &self.settings.end else {
            return Ok(vec![None; ranges.len()]);
        };
        let ends = match end {
            EndPosition::Latest => ranges.iter().map(|range| range.stable).collect(),
            EndPosition::Timestamp(time) => self.at_time(ranges, *time)?,
            EndPosition::Offsets(offsets) => self.given(ranges, offsets, "end")?,
        };
        Ok(ends.into_iter().map(Some).collect())
    }

    fn at_time(&self, ranges: &[OffsetRange], time_ms: i64) -> Result<Vec<i64>, ConnectorError> {
        let partitions: Vec<_> = (0..ranges.len() as i32).collect();
        let found = self.inspector.offsets_at(&partitions, time_ms)?;
        let offset = |(partition, range): (i32, &OffsetRange)| {
            // A record behind the last stable offset may still be aborted.
            let found = found.get(&partition).copied().flatten();
            found.unwrap_or(range.stable).min(range.stable)
        };
        Ok((0..).zip(ranges).map(offset).collect())
    }

    fn given(
        &self,
        ranges: &[OffsetRange],
        offsets: &BTreeMap<i32, i64>,
        what: &str,
    ) -> Result<Vec<i64>, ConnectorError> {
        let count = ranges.len();
        if let Some(unknown) = offsets.keys().find(|at| !(0..count as i32).contains(at)) {
            return Err(self.refused(format!(
                "the {what} offsets name partition {unknown}, but there are {count} partitions"
            )));
        }
        let checked = |(partition, range): (i32, &OffsetRange)| {
            let Some(&offset) = offsets.get(&partition) else {
                return Err(self.refused(format!(
                    "the {what} offsets leave partition {partition} out; name all {count} partitions"
                )));
            };
            let OffsetRange { low, stable } = *range;
            if (low..=stable).contains(&offset) {
                return Ok(offset);
            }
            Err(self.refused(format!(
                "{what} offset {offset} of partition {partition} is out of range; committed records lie in {low}..{stable}"
            )))
        };
        (0..).zip(ranges).map(checked).collect()
    }

    /// Partitions that were added since the last look are read from their first record.
    fn added(&self, known: i32, count: i32) -> Result<Vec<PartitionPosition>, ConnectorError> {
        let first = |partition| {
            let range = self.inspector.range(partition)?;
            Ok(PartitionPosition::fresh(range.low, None))
        };
        (known..count).map(first).collect()
    }
}

impl SplitEnumerator for KafkaEnumerator {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        let Some((known, bounded)) = parse(state) else {
            return Err(ConnectorError::State {
                object: self.settings.object(),
                reason: "it is no state of this enumerator".to_owned(),
            });
        };
        let is_bounded = self.settings.end.is_some();
        if bounded.is_some_and(|bounded| bounded != is_bounded) {
            let (was, is) = if is_bounded {
                ("had no end", "has one")
            } else {
                ("had an end", "has none")
            };
            return Err(self.refused(format!(
                "the source {was} when its state was written and {is} now, and partitions that it has ended would never be \
                 read again; set it back, or give the source a new uid"
            )));
        }
        self.known = known;
        Ok(())
    }

    fn check(&mut self, splits: &[Split]) -> Result<(), ConnectorError> {
        if splits.is_empty() {
            return Ok(());
        }
        let count = self.inspector.find()?.map_or(0, |facts| facts.partitions);
        for split in splits {
            let (partition, position) = parse_split(&self.settings.topic, split)?;
            if position.end.is_some_and(|end| position.offset >= end) {
                continue;
            }
            let lost = |reason: String| ConnectorError::PositionLost {
                object: format!("{}, partition {partition}", self.settings.object()),
                position: u64::try_from(position.offset).unwrap_or(0),
                reason,
            };
            if partition >= count {
                let reason =
                    format!("the topic has {count} partitions; it was deleted or replaced");
                return Err(lost(reason));
            }
            // The last stable offset may lie before the position for a moment, when the leader has just changed.
            let OffsetRange { low, stable } = self.inspector.range(partition)?;
            if position.offset < low {
                return Err(lost(format!(
                    "the partition holds offsets {low}..{stable}; retention has passed it, or the topic was replaced. \
                     Restore an older topic, or start without state"
                )));
            }
        }
        Ok(())
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        let bounded = self.settings.end.is_some();
        if bounded && self.known.is_some() {
            return Ok(Discovery {
                splits: Vec::new(),
                complete: true,
            });
        }
        let count = self.inspector.facts()?.partitions;
        let known = self.known.unwrap_or(0);
        if count < known {
            return Err(ConnectorError::PositionLost {
                object: self.settings.object(),
                position: u64::try_from(known).unwrap_or(0),
                reason: format!(
                    "there were {known} partitions and now there are {count}: the topic was replaced"
                ),
            });
        }
        let positions = match self.known {
            None => self.resolve(count)?,
            Some(known) => self.added(known, count)?,
        };
        self.known = Some(count);
        let topic = &self.settings.topic;
        let splits = (known..).zip(positions);
        Ok(Discovery {
            splits: splits
                .map(|(at, position)| split_of(topic, at, position))
                .collect(),
            complete: bounded,
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut state = Vec::new();
        (FORMAT, self.known, self.settings.end.is_some()).encode(&mut state);
        state
    }

    fn interval(&self) -> Option<Duration> {
        match self.settings.end {
            Some(_) => None,
            None => Some(self.settings.discovery_interval),
        }
    }
}

/// How many partitions were reported, and whether the source was bounded, if the state says so.
fn parse(mut state: &[u8]) -> Option<(Option<i32>, Option<bool>)> {
    let (format, known): (u8, Option<i32>) = Record::decode(&mut state).ok()?;
    let bounded = match format {
        1 => None,
        FORMAT => Some(bool::decode(&mut state).ok()?),
        _ => return None,
    };
    state.is_empty().then_some((known, bounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_states_of_both_formats_are_read() {
        assert_eq!(parse(&[1, 1, 3, 0, 0, 0]), Some((Some(3), None)));
        assert_eq!(parse(&[2, 1, 3, 0, 0, 0, 1]), Some((Some(3), Some(true))));
        let mut state = Vec::new();
        (FORMAT, Some(3), true).encode(&mut state);
        assert_eq!(state, [2, 1, 3, 0, 0, 0, 1]);
        assert_eq!(parse(&[3, 1, 3, 0, 0, 0, 1]), None);
        assert_eq!(parse(&[1, 1, 3, 0, 0, 0, 1]), None);
    }
}
