//! One partition of a file log: its file, its lines, and from where up to where it is read.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use compact_str::CompactString;
use highwater_types::Record;

use super::lines::{LINE_BYTES_MAX, LineBuffer};
use super::topic::TopicDirectory;
use crate::error::ConnectorError;
use crate::intake::Refused;
use crate::source::Split;

/// From where and up to where a partition is read, in bytes. What a checkpoint keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    /// `u64::MAX` = as far as the file grows.
    pub(super) end: u64,
}

impl Extent {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        (self.offset, self.end).encode(&mut bytes);
        bytes
    }

    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let (offset, end) = Record::decode(&mut bytes).ok()?;
        (bytes.is_empty() && offset <= end).then_some(Self { offset, end })
    }
}

/// A partition that a reader reads.
pub(super) struct LogSplit {
    pub(super) id: CompactString,
    path: PathBuf,
    pub(super) file: File,
    pub(super) lines: LineBuffer,
    /// Where reading began.
    begin: u64,
    pub(super) end: u64,
    /// The size of the file when it was last read to its end; `None` while there may be more to read.
    pub(super) read_up_to: Option<u64>,
    pub(super) retry_at: Duration,
    pub(super) ended: bool,
}

impl LogSplit {
    pub(super) fn open(topic: &TopicDirectory, split: &Split) -> Result<Self, ConnectorError> {
        let refused = |reason: &str| ConnectorError::State {
            object: format!("split {} of file log topic {}", split.id, topic.name()),
            reason: reason.to_owned(),
        };
        let partition = split.id.rsplit_once('/').map(|(_, number)| number.parse());
        let Some(Ok(partition)) = partition else {
            return Err(refused("its name does not end in a partition"));
        };
        let Some(extent) = Extent::parse(&split.position) else {
            return Err(refused("its position is not an offset and an end"));
        };
        let path = topic.partition(partition);
        let file = File::open(&path).map_err(ConnectorError::io(path.display(), "opening"))?;
        let mut split = Self {
            id: split.id.clone(),
            path,
            file,
            lines: LineBuffer::new(extent.offset, LINE_BYTES_MAX),
            begin: extent.offset,
            end: extent.end,
            read_up_to: None,
            retry_at: Duration::ZERO,
            ended: false,
        };
        split.seek()?;
        Ok(split)
    }

    pub(super) fn io(
        &self,
        operation: &'static str,
    ) -> impl FnOnce(std::io::Error) -> ConnectorError {
        ConnectorError::io(self.path.display(), operation)
    }

    pub(super) fn lost(&self, reason: String) -> ConnectorError {
        ConnectorError::PositionLost {
            object: self.path.display().to_string(),
            position: self.lines.offset(),
            reason,
        }
    }

    pub(super) fn size(&self) -> Result<u64, ConnectorError> {
        let metadata = self.file.metadata().map_err(self.io("size"))?;
        Ok(metadata.len())
    }

    /// Bytes of lines that were read.
    pub(super) fn read_bytes(&self) -> u64 {
        self.lines.offset().saturating_sub(self.begin)
    }

    /// Bytes that are left to read now; `None` = the size of the file cannot be told.
    pub(super) fn pending_bytes(&self) -> Option<u64> {
        let end = if self.end == u64::MAX {
            self.size().ok()?
        } else {
            self.end
        };
        Some(end.saturating_sub(self.lines.offset()))
    }

    /// Puts the cursor at the start of the next line, after checking that a line starts there.
    fn seek(&mut self) -> Result<(), ConnectorError> {
        let (offset, size) = (self.lines.offset(), self.size()?);
        if size < offset {
            return Err(self.lost(format!("the file has {size} bytes only; it may only grow")));
        }
        // Behind a torn last line that was read as a bad record there is nothing to read, and no line starts.
        if offset > 0 && offset < self.end {
            let mut before = [0];
            let before_line = self.file.seek(SeekFrom::Start(offset - 1));
            let read = before_line.and_then(|_| self.file.read_exact(&mut before));
            read.map_err(self.io("reading"))?;
            if before != *b"\n" {
                return Err(self.lost("no line starts there; the file was changed".to_owned()));
            }
        }
        let sought = self.file.seek(SeekFrom::Start(offset));
        sought.map(|_| ()).map_err(self.io("seeking"))
    }

    /// Whether it is worth reading again after the end was reached once.
    pub(super) fn has_grown(&mut self) -> Result<bool, ConnectorError> {
        let Some(known) = self.read_up_to else {
            return Ok(true);
        };
        let size = self.size()?;
        if size == known {
            return Ok(false);
        }
        if self.lines.end() != self.lines.offset() {
            // The writer may have cut the torn line off and written another one.
            self.lines.forget_torn();
            self.seek()?;
        }
        if size < self.lines.offset() {
            return Err(self.lost(format!("the file has {size} bytes only; it may only grow")));
        }
        self.read_up_to = None;
        Ok(true)
    }

    /// The offset and the bytes of the last line, if the end of the split was read and is no newline.
    pub(super) fn take_last_line(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.lines.end() < self.end {
            return None;
        }
        self.take_torn()
    }

    /// The offset and the beginning of the last line, if it has no newline. The split then ends behind it.
    pub(super) fn take_torn(&mut self) -> Option<(u64, Vec<u8>)> {
        let torn = self.lines.torn();
        if torn.is_empty() {
            return None;
        }
        let torn = (self.lines.offset(), torn.to_vec());
        self.end = self.lines.end();
        self.lines = LineBuffer::new(self.end, LINE_BYTES_MAX);
        Some(torn)
    }

    /// A line of the split as what is refused.
    pub(super) const fn refused<'a>(
        &'a self,
        (position, payload): (u64, &'a [u8]),
        reason: String,
    ) -> Refused<'a> {
        Refused {
            split: &self.id,
            position,
            payload,
            reason,
        }
    }

    /// Reads the line at `offset` again, which was read before.
    pub(super) fn line_at(&self, offset: u64) -> Result<Vec<u8>, ConnectorError> {
        let read = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut line = Vec::new();
            BufReader::new(file.take(LINE_BYTES_MAX as u64)).read_until(b'\n', &mut line)?;
            if line.ends_with(b"\n") {
                line.pop();
            }
            Ok(line)
        };
        read().map_err(self.io("reading again"))
    }

    pub(super) fn to_split(&self) -> Split {
        let extent = Extent {
            offset: self.lines.offset(),
            end: self.end,
        };
        Split {
            id: self.id.clone(),
            position: extent.to_bytes(),
        }
    }
}
