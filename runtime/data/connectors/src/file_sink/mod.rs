//! The file sink: exactly-once output as files of lines, one for each slot and checkpoint.
//!
//! Values are encoded on the slot thread and staged on the target's thread; a checkpoint becomes visible by one rename.
//! The name of the renamed file is the marker. Local file systems only: the fence rests on what `rename` promises.
//!
//! `<dir>/<lineage>/<sink uid>/<slot>/<number>-<epoch>-<attempt>.output`. A consumer may move a file away once a later
//! file of the same slot exists; the newest one must stay, because it is what a recovery looks for.

mod committed;
mod lines;
mod names;
mod session;
mod target;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_types::{Guarantee, Record};

pub use self::committed::{CommittedFile, committed_files};
use self::lines::LineEncoder;
pub use self::target::FileTarget;
use crate::error::ConnectorError;
use crate::format::ValueFormat;
use crate::sink::{Encoder, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext};

/// A sink that writes lines to files, exactly once.
pub struct FileSink<T> {
    directory: PathBuf,
    format: Arc<dyn ShareFormat<T>>,
}

/// Makes encoders: hides the type of the format, so that each encoder calls it directly.
trait ShareFormat<T>: Send + Sync {
    fn encoder(self: Arc<Self>, directory: &Path) -> Box<dyn Encoder<T>>;
}

impl<T: 'static, F: ValueFormat<T>> ShareFormat<T> for F {
    fn encoder(self: Arc<Self>, directory: &Path) -> Box<dyn Encoder<T>> {
        let format = move |record: &T, out: &mut Vec<u8>| self.write(record, out);
        Box::new(LineEncoder::new(directory, format))
    }
}

impl<T: Record> FileSink<T> {
    /// Writes to `directory`, which is created when the job starts, in `format`. A value may hold no newline: one that does
    /// fails the job as `Invalid` before anything of it is in a checkpoint.
    pub fn new(directory: impl AsRef<Path>, format: impl ValueFormat<T>) -> Self {
        Self {
            directory: directory.as_ref().to_owned(),
            format: Arc::new(format),
        }
    }
}

impl<T> fmt::Debug for FileSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSink({})", self.directory.display())
    }
}

impl<T: Record> Sink for FileSink<T> {
    type Record = T;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "files",
            object: self.directory.display().to_string(),
            guarantee: Guarantee::ExactlyOnce,
        }
    }

    fn writer(&self, _: &WriterContext) -> Result<SinkWriter<T>, ConnectorError> {
        let encoder = Arc::clone(&self.format).encoder(&self.directory);
        Ok(SinkWriter::Transactional(encoder))
    }

    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(Some(Box::new(FileTarget::new(&self.directory, context))))
    }
}
