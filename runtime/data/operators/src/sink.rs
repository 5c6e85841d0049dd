//! The sink of direct writers: writes each chunk at once and flushes at every barrier and at the end, so the output of a
//! checkpoint is outside when the checkpoint completes. After a failure output is repeated (at-least-once).

use highwater_connectors::DirectWriter;
use highwater_types::{CheckpointBarrier, Chunk};

use crate::error::OperatorError;
use crate::operator::{Operator, Progress};
use crate::outputs::Outputs;

/// Writes through a [`DirectWriter`]. Emits nothing.
///
/// Source: Flink `SinkWriterOperator`.
pub struct DirectSink<T> {
    writer: Box<dyn DirectWriter<T>>,
}

impl<T> DirectSink<T> {
    /// A sink that owns the writer of its subtask.
    pub const fn new(writer: Box<dyn DirectWriter<T>>) -> Self {
        Self { writer }
    }
}

impl<T> Operator<T, ()> for DirectSink<T> {
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<T>,
        _out: &mut Outputs<()>,
    ) -> Result<(), OperatorError> {
        Ok(self.writer.write(chunk)?)
    }

    fn on_end(&mut self, _out: &mut Outputs<()>) -> Result<Progress, OperatorError> {
        self.writer.flush()?;
        Ok(Progress::Done)
    }

    fn snapshot_start(&mut self, _barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        Ok(self.writer.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use highwater_connectors::ConnectorError;
    use highwater_types::EventTime;

    use super::*;
    use crate::testing::Harness;

    #[derive(Clone, Default)]
    struct Recorder(Rc<RefCell<Vec<String>>>);

    impl DirectWriter<i64> for Recorder {
        fn write(&mut self, chunk: &mut Chunk<i64>) -> Result<(), ConnectorError> {
            let values: Vec<_> = chunk.drain().map(|(value, _, _)| value).collect();
            self.0.borrow_mut().push(format!("write {values:?}"));
            Ok(())
        }

        fn flush(&mut self) -> Result<(), ConnectorError> {
            self.0.borrow_mut().push("flush".to_owned());
            Ok(())
        }
    }

    #[test]
    fn flushes_at_the_barrier_and_at_the_end() {
        let recorder = Recorder::default();
        let writer: Box<dyn DirectWriter<i64>> = Box::new(recorder.clone());
        let mut harness = Harness::stateless(DirectSink::new(writer));
        harness.push_all([(1, EventTime(0)), (2, EventTime(0))]);
        assert!(harness.snapshot().is_empty());
        harness.push(3, EventTime(0));
        harness.end();
        let calls = recorder.0.borrow().clone();
        assert_eq!(calls, ["write [1, 2]", "flush", "write [3]", "flush"]);
    }

    #[test]
    fn an_error_of_the_writer_fails_the_sink() {
        struct Down;
        impl DirectWriter<i64> for Down {
            fn write(&mut self, _chunk: &mut Chunk<i64>) -> Result<(), ConnectorError> {
                Err(ConnectorError::Unavailable {
                    object: "socket".to_owned(),
                    reason: "closed".to_owned(),
                })
            }

            fn flush(&mut self) -> Result<(), ConnectorError> {
                Ok(())
            }
        }
        let writer: Box<dyn DirectWriter<i64>> = Box::new(Down);
        let mut harness = Harness::stateless(DirectSink::new(writer));
        let error = harness.try_push_all([(1, EventTime(0))]).unwrap_err();
        assert!(matches!(error, OperatorError::Connector(_)));
    }
}
