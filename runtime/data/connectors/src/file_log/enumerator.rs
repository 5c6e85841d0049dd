//! Finds the partitions of a file log.

use std::collections::BTreeSet;
use std::time::Duration;

use compact_str::format_compact;
use highwater_types::record::Record;

use super::LogEnd;
use super::split::Extent;
use super::topic::TopicDirectory;
use crate::error::ConnectorError;
use crate::source::{Discovery, Split, SplitEnumerator};

/// How often a followed topic is searched for new partitions.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct FileLogEnumerator {
    topic: TopicDirectory,
    end: LogEnd,
    /// The partitions that were reported; `None` before the first discovery.
    reported: Option<BTreeSet<u32>>,
}

impl FileLogEnumerator {
    pub(super) const fn new(topic: TopicDirectory, end: LogEnd) -> Self {
        Self {
            topic,
            end,
            reported: None,
        }
    }

    fn split(&self, partition: u32) -> Result<Split, ConnectorError> {
        let end = match self.end {
            LogEnd::Marker(_) | LogEnd::Never(_) => u64::MAX,
            LogEnd::Present => {
                let path = self.topic.partition(partition);
                let found = std::fs::metadata(&path);
                found
                    .map_err(ConnectorError::io(path.display(), "size"))?
                    .len()
            }
        };
        Ok(Split {
            id: format_compact!("{}/{partition}", self.topic.name()),
            position: Extent { offset: 0, end }.to_bytes(),
        })
    }
}

impl SplitEnumerator for FileLogEnumerator {
    fn restore(&mut self, state: &[u8]) -> Result<(), ConnectorError> {
        if state.is_empty() {
            self.reported = None;
            return Ok(());
        }
        let mut rest = state;
        let object = format!("file log topic {}", self.topic.name());
        let partitions = Vec::<u32>::decode(&mut rest).map_err(|error| ConnectorError::State {
            object: object.clone(),
            reason: error.to_string(),
        })?;
        // Older states do not say how the source ended.
        if let Some(&written) = rest.first()
            && written != self.end.code()
        {
            return Err(ConnectorError::Configuration {
                connector: object,
                reason: "the source ended in another way when its state was written, and partitions that it has ended \
                         would never be read again; set it back, or give the source a new uid"
                    .to_owned(),
            });
        }
        self.reported = Some(partitions.into_iter().collect());
        Ok(())
    }

    fn discover(&mut self) -> Result<Discovery, ConnectorError> {
        // Before the listing: a partition that is made before the marker is then in the list for certain.
        let complete = match &self.end {
            LogEnd::Present => true,
            LogEnd::Marker(_) => self.topic.has_ended()?,
            LogEnd::Never(_) => false,
        };
        if matches!(self.end, LogEnd::Present) && self.reported.is_some() {
            return Ok(Discovery {
                splits: Vec::new(),
                complete,
            });
        }
        let known = self.reported.clone().unwrap_or_default();
        let found = match self.end {
            LogEnd::Present => self.topic.whole_partitions()?,
            LogEnd::Marker(_) | LogEnd::Never(_) => self.topic.partitions()?,
        };
        let new = found
            .into_iter()
            .filter(|partition| !known.contains(partition));
        let new: BTreeSet<u32> = new.collect();
        let splits = new.iter().map(|&partition| self.split(partition));
        let splits = splits.collect::<Result<_, _>>()?;
        self.reported.get_or_insert_default().extend(new);
        Ok(Discovery { splits, complete })
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut state = Vec::new();
        if let Some(reported) = &self.reported {
            reported
                .iter()
                .copied()
                .collect::<Vec<_>>()
                .encode(&mut state);
            state.push(self.end.code());
        }
        state
    }

    fn interval(&self) -> Option<Duration> {
        self.end.clock().map(|_| DISCOVERY_INTERVAL)
    }
}
