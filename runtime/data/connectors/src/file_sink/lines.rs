//! What a file of lines can hold: checked when a record is encoded, and again when a line is written.
//!
//! The encoder runs on the slot thread, so a value that can be no line fails its task before it is in any spool, log or
//! checkpoint. The target checks what comes out of a log too: a format may have been changed in between.

use std::fmt;
use std::path::{Path, PathBuf};

use highwater_types::{Chunk, EventTime};

use crate::error::{ConnectorError, excerpt};
use crate::format::ValueFormat;
use crate::output::{OutputBatch, OutputRecord};
use crate::sink::Encoder;

/// The encoder of a file sink: one line for each record.
pub(super) struct LineEncoder<F> {
    directory: PathBuf,
    format: F,
    line: Vec<u8>,
}

impl<F> LineEncoder<F> {
    /// An encoder that writes in `format`, for the files in `directory`.
    pub(super) fn new(directory: &Path, format: F) -> Self {
        Self {
            directory: directory.to_owned(),
            format,
            line: Vec::new(),
        }
    }
}

impl<T, F: ValueFormat<T>> Encoder<T> for LineEncoder<F> {
    fn encode(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut OutputBatch,
    ) -> Result<(), ConnectorError> {
        for (record, time, _) in chunk.drain() {
            self.line.clear();
            self.format.write(&record, &mut self.line);
            let mut output = OutputRecord::of_value(&self.line);
            output.time = time;
            line_of(&self.directory.display(), &output)?;
            out.push(&output);
        }
        Ok(())
    }
}

/// The line that a record is in the files of `sink`.
///
/// # Errors
/// `Invalid` when it can be none: a deletion, or a value with a newline.
pub(super) fn line_of<'a>(
    sink: &dyn fmt::Display,
    record: &OutputRecord<'a>,
) -> Result<&'a [u8], ConnectorError> {
    let refuse = |reason: String| ConnectorError::Configuration {
        connector: format!("file sink {sink}"),
        reason,
    };
    let Some(value) = record.value else {
        let deleted = described(record.key, record.time);
        let reason = format!("it cannot write the deletion of {deleted}; write to a keyed target");
        return Err(refuse(reason));
    };
    if memchr::memchr(b'\n', value).is_some() {
        let value = excerpt(value);
        let reason = format!("a line cannot hold a newline: `{value}`; choose a format without");
        return Err(refuse(reason));
    }
    Ok(value)
}

fn described(key: Option<&[u8]>, time: EventTime) -> String {
    match key {
        Some(key) => format!("key `{}`", excerpt(key)),
        None => format!("a record without key, time {time}"),
    }
}
