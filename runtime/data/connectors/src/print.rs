//! The print sink: one line for each record, for people who look at a job.
//!
//! The writer is handed in (standard output in a job, a buffer in a test). With more than one subtask each line starts
//! with the number of its subtask, counted from 1. The lines of a chunk are written together, so lines of two subtasks
//! never mix.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_types::{Chunk, Guarantee, Record};

use crate::error::ConnectorError;
use crate::format::ValueFormat;
use crate::sink::{DirectWriter, OutputTarget, Sink, SinkFacts, SinkWriter, WriterContext};

/// Where all subtasks print. Cheap to clone.
#[derive(Clone)]
pub struct SharedWriter(Arc<Mutex<dyn Write + Send>>);

impl SharedWriter {
    /// Shares a writer.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(writer)))
    }

    fn with(
        &self,
        act: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), ConnectorError> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut *writer).map_err(ConnectorError::io("print sink", "writing"))
    }
}

impl fmt::Debug for SharedWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedWriter")
    }
}

/// Prints records as `format` writes them.
pub struct PrintSink<T> {
    writer: SharedWriter,
    format: Arc<dyn ValueFormat<T>>,
}

impl<T: Record> PrintSink<T> {
    /// Prints to `writer` in `format`.
    pub fn new(writer: SharedWriter, format: impl ValueFormat<T>) -> Self {
        Self {
            writer,
            format: Arc::new(format),
        }
    }

    /// Prints the debug form of records to standard output, where nothing else of a job is written.
    pub fn stdout() -> Self
    where
        T: fmt::Debug,
    {
        Self::debug(SharedWriter::new(std::io::stdout()))
    }

    /// Prints the debug form of records.
    pub fn debug(writer: SharedWriter) -> Self
    where
        T: fmt::Debug,
    {
        Self::new(writer, |record: &T, out: &mut Vec<u8>| {
            write!(out, "{record:?}").expect("a vector takes every byte");
        })
    }
}

impl<T> fmt::Debug for PrintSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrintSink")
    }
}

impl<T: Record> Sink for PrintSink<T> {
    type Record = T;

    fn facts(&self) -> SinkFacts {
        SinkFacts {
            connector: "print",
            object: "lines".to_owned(),
            guarantee: Guarantee::AtLeastOnce,
        }
    }

    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<T>, ConnectorError> {
        let prefix = match context.parallelism.0 {
            0 | 1 => String::new(),
            _ => format!("{}> ", context.subtask.0 + 1),
        };
        Ok(SinkWriter::Direct(Box::new(PrintWriter {
            writer: self.writer.clone(),
            format: Arc::clone(&self.format),
            prefix,
            lines: Vec::new(),
        })))
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(None)
    }
}

struct PrintWriter<T> {
    writer: SharedWriter,
    format: Arc<dyn ValueFormat<T>>,
    prefix: String,
    lines: Vec<u8>,
}

impl<T: 'static> DirectWriter<T> for PrintWriter<T> {
    fn write(&mut self, chunk: &mut Chunk<T>) -> Result<(), ConnectorError> {
        self.lines.clear();
        for (record, ..) in chunk.drain() {
            self.lines.extend_from_slice(self.prefix.as_bytes());
            self.format.write(&record, &mut self.lines);
            self.lines.push(b'\n');
        }
        let lines = &self.lines;
        self.writer.with(|writer| writer.write_all(lines))
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.writer.with(|writer| writer.flush())
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{EventTime, Parallelism};

    use super::*;
    use crate::contract::writer_context;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn printed(parallelism: u32) -> String {
        let screen = Screen::default();
        let sink = PrintSink::debug(SharedWriter::new(screen.clone()));
        for subtask in 0..parallelism {
            let mut context = writer_context(subtask);
            context.parallelism = Parallelism(parallelism);
            let SinkWriter::Direct(mut writer) = sink.writer(&context).unwrap() else {
                panic!("a print sink writes at once");
            };
            let mut chunk = Chunk::new();
            chunk.push("a".to_owned(), EventTime::NONE);
            chunk.push("b".to_owned(), EventTime::NONE);
            writer.write(&mut chunk).unwrap();
            writer.flush().unwrap();
        }
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_name_their_subtask_when_there_is_more_than_one() {
        assert_eq!(printed(1), "\"a\"\n\"b\"\n");
        assert_eq!(printed(2), "1> \"a\"\n1> \"b\"\n2> \"a\"\n2> \"b\"\n");
    }
}
