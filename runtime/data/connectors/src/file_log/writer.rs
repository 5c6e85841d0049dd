//! Writes a file log: whole lines only, made durable on demand.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::topic::{TopicDirectory, end_of_whole_lines};
use crate::error::{ConnectorError, excerpt};

const BUFFER_BYTES: usize = 64 * 1024;

/// The writer of all partitions of one topic. One writer at a time.
#[derive(Debug)]
pub struct FileLogWriter {
    topic: TopicDirectory,
    partitions: Vec<BufWriter<File>>,
}

impl FileLogWriter {
    /// Opens `<root>/<topic>` with partitions `0..partitions`, creating what is missing. Lines are appended to those
    /// that are there; a torn last line, left by a writer that died, is cut off.
    ///
    /// # Errors
    /// `Transient` when the operating system refuses.
    pub fn open(root: &Path, topic: &str, partitions: u32) -> Result<Self, ConnectorError> {
        let topic = TopicDirectory::new(root, topic);
        fs::create_dir_all(topic.path())
            .map_err(ConnectorError::io(topic.path().display(), "creation"))?;
        let open = |partition| {
            let path = topic.partition(partition);
            open_partition(&path).map_err(ConnectorError::io(path.display(), "opening"))
        };
        Ok(Self {
            partitions: (0..partitions).map(open).collect::<Result<_, _>>()?,
            topic,
        })
    }

    /// Appends one line. It may stay in the buffer until the next flush.
    ///
    /// # Errors
    /// `Invalid` when the payload holds a newline or there is no such partition; `Transient` when writing fails.
    pub fn append(&mut self, partition: u32, payload: &[u8]) -> Result<(), ConnectorError> {
        let refused = |reason| ConnectorError::Configuration {
            connector: format!("file log topic {}", self.topic.name()),
            reason,
        };
        if memchr::memchr(b'\n', payload).is_some() {
            let start = excerpt(payload);
            return Err(refused(format!("a line cannot hold a newline: `{start}`")));
        }
        let count = self.partitions.len();
        let Some(file) = self.partitions.get_mut(partition as usize) else {
            return Err(refused(format!(
                "there is no partition {partition}; the writer was opened with {count}"
            )));
        };
        let written = file.write_all(payload).and_then(|()| file.write_all(b"\n"));
        written.map_err(self.io("append"))
    }

    /// Hands everything appended to the operating system, where readers see it.
    ///
    /// # Errors
    /// `Transient` when writing fails.
    pub fn flush(&mut self) -> Result<(), ConnectorError> {
        let flushed = self.partitions.iter_mut().try_for_each(BufWriter::flush);
        flushed.map_err(self.io("flush"))
    }

    /// Makes everything appended survive a loss of power.
    ///
    /// # Errors
    /// `Transient` when writing fails.
    pub fn sync(&mut self) -> Result<(), ConnectorError> {
        self.flush()?;
        let mut files = self.partitions.iter();
        let synced = files.try_for_each(|file| file.get_ref().sync_data());
        synced.map_err(self.io("sync"))
    }

    /// Says that no partition will grow any more.
    ///
    /// # Errors
    /// `Transient` when writing fails.
    pub fn finish(mut self) -> Result<(), ConnectorError> {
        self.sync()?;
        let marker = self.topic.end_marker();
        let made = File::create(&marker).and_then(|file| file.sync_all());
        made.map_err(ConnectorError::io(marker.display(), "creation"))
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(std::io::Error) -> ConnectorError {
        ConnectorError::io(self.topic.path().display(), operation)
    }
}

fn open_partition(path: &Path) -> std::io::Result<BufWriter<File>> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).open(path)?;
    let end = end_of_whole_lines(&mut file)?;
    file.set_len(end)?;
    Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
}
