//! Positions: what a user may choose as start and end, and what a checkpoint keeps of a partition.

use std::collections::BTreeMap;

use highwater_connectors::{ConnectorError, Split};
use highwater_types::EventTime;
use highwater_types::key::hash_bytes;
use highwater_types::record::Record;

/// Where a source starts, when no checkpoint says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartPosition {
    /// At the first record that is still there.
    Earliest,
    /// Behind the last committed record.
    Latest,
    /// At the first record that is not older, in milliseconds since the Unix epoch.
    Timestamp(i64),
    /// At these offsets, one for each partition.
    Offsets(BTreeMap<i32, i64>),
}

/// Where a bounded source ends. Records at and behind the end are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndPosition {
    /// At the last stable offset: behind the last record that no open transaction holds back.
    Latest,
    /// At the first record that is not older, in milliseconds since the Unix epoch; at the last stable offset at most.
    Timestamp(i64),
    /// At these offsets, one for each partition; at the last stable offset at most.
    Offsets(BTreeMap<i32, i64>),
}

/// The record before a position, as it was read: tells a topic that was deleted and made anew from the old one.
///
/// The client library does not tell the id of a topic, so this stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastRead {
    /// Its timestamp, in milliseconds.
    time: i64,
    /// The hash of its value.
    hash: u64,
}

impl LastRead {
    /// What is kept of a record.
    pub(super) fn of(time: EventTime, value: Option<&[u8]>) -> Self {
        let hash = value.map_or(0, |value| hash_bytes(value).0);
        Self { time: time.0, hash }
    }
}

/// From where and up to where a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionPosition {
    /// The next offset to read.
    pub(super) offset: i64,
    /// One past the last offset to read.
    pub(super) end: Option<i64>,
    /// The record at `offset - 1`; `None` before the first was read.
    pub(super) last: Option<LastRead>,
}

/// Format 1 has no `last`.
const FORMAT: u8 = 2;

impl PartitionPosition {
    /// A position from which nothing was read yet.
    pub(super) const fn fresh(offset: i64, end: Option<i64>) -> Self {
        Self {
            offset,
            end,
            last: None,
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let last = self.last.map(|last| (last.time, last.hash));
        (FORMAT, self.offset, self.end, last).encode(&mut bytes);
        bytes
    }

    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let (format, offset, end): (u8, i64, Option<i64>) = Record::decode(&mut bytes).ok()?;
        let last: Option<(i64, u64)> = match format {
            1 => None,
            FORMAT => Record::decode(&mut bytes).ok()?,
            _ => return None,
        };
        let whole = bytes.is_empty() && offset >= 0;
        let last = last.map(|(time, hash)| LastRead { time, hash });
        whole.then_some(Self { offset, end, last })
    }
}

/// The name of a partition as a split.
pub(super) fn split_of(topic: &str, partition: i32, position: PartitionPosition) -> Split {
    Split {
        id: compact_str::format_compact!("{topic}/{partition}"),
        position: position.to_bytes(),
    }
}

/// The partition that a split of `topic` stands for, and its position.
pub(super) fn parse_split(
    topic: &str,
    split: &Split,
) -> Result<(i32, PartitionPosition), ConnectorError> {
    let refused = |reason: &str| ConnectorError::State {
        object: format!("split {} of kafka topic {topic}", split.id),
        reason: reason.to_owned(),
    };
    let partition = split.id.rsplit_once('/');
    let partition = partition.filter(|(name, _)| *name == topic);
    let partition = partition.and_then(|(_, number)| number.parse().ok());
    let partition = partition.ok_or_else(|| refused("its name is not of this topic"))?;
    let position = PartitionPosition::parse(&split.position);
    Ok((
        partition,
        position.ok_or_else(|| refused("its position cannot be read"))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_survives_and_one_of_another_topic_is_refused() {
        let position = PartitionPosition {
            offset: 17,
            end: Some(40),
            last: Some(LastRead::of(EventTime(5), Some(b"x"))),
        };
        let split = split_of("pay/ments", 3, position);
        assert_eq!(split.id, "pay/ments/3");
        assert_eq!(parse_split("pay/ments", &split).unwrap(), (3, position));
        assert!(parse_split("pay", &split).is_err());
        let cut = Split {
            position: split.position[1..].to_vec(),
            ..split
        };
        assert!(parse_split("pay/ments", &cut).is_err());
    }

    /// What checkpoints and savepoints hold: offset 17, end 40.
    const FORMAT_1: &[u8] = &[1, 17, 0, 0, 0, 0, 0, 0, 0, 1, 40, 0, 0, 0, 0, 0, 0, 0];
    /// The same with the record before it.
    const FORMAT_2: &[u8] = &[
        2, 17, 0, 0, 0, 0, 0, 0, 0, 1, 40, 0, 0, 0, 0, 0, 0, 0, // as above
        1, 5, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1,
    ];

    #[test]
    fn golden_positions_of_both_formats_are_read() {
        let fresh = PartitionPosition::fresh(17, Some(40));
        let read = PartitionPosition {
            last: Some(LastRead {
                time: 5,
                hash: 0x0102_0304_0506_0708,
            }),
            ..fresh
        };
        assert_eq!(PartitionPosition::parse(FORMAT_1), Some(fresh));
        assert_eq!(PartitionPosition::parse(FORMAT_2), Some(read));
        assert_eq!(read.to_bytes(), FORMAT_2);
        let unknown = [&[3], &FORMAT_2[1..]].concat();
        assert_eq!(PartitionPosition::parse(&unknown), None);
        let both = [FORMAT_1, &FORMAT_2[FORMAT_1.len()..]].concat();
        assert_eq!(PartitionPosition::parse(&both), None);
    }
}
