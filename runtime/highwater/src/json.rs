//! JSON for sources and sinks: the adapters between the codec and the connectors.

use std::marker::PhantomData;
use std::sync::Arc;

use highwater_connectors::clock::{Clock, SystemClock};
use highwater_connectors::format::{DecodeFailure, DecodeRecord, ValueFormat};
use highwater_connectors::{ConnectorError, FileLogSource};

pub use highwater_json::*;

/// Reads and writes records of one type as JSON.
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T: FromJson> Json<T> {
    /// For a source: a JSON object a record. Unknown fields are ignored and counted.
    pub const fn decoder() -> Self {
        Self(PhantomData)
    }
}

impl<T: ToJson> Json<T> {
    /// For a sink: a JSON object a record.
    pub const fn format() -> Self {
        Self(PhantomData)
    }
}

impl<T: FromJson + 'static> DecodeRecord<T> for Json<T> {
    type Scratch = Scratch;

    fn decode(&self, payload: &[u8], scratch: &mut Scratch) -> Result<T, DecodeFailure> {
        T::from_json(payload, scratch).map_err(|error| DecodeFailure::new(error.to_string()))
    }
}

impl<T: ToJson + 'static> ValueFormat<T> for Json<T> {
    fn write(&self, record: &T, out: &mut Vec<u8>) {
        record.to_json(out);
    }
}

/// The clock of the machine, for sources that follow or pace.
///
/// # Errors
/// When the operating system gives no thread.
pub fn clock() -> Result<Arc<dyn Clock>, ConnectorError> {
    Ok(Arc::new(SystemClock::start()?))
}

/// Only names the type in examples.
pub type FollowedLog<T> = FileLogSource<T, Json<T>>;

#[cfg(test)]
mod tests {
    use highwater_api::StreamEnvironment;
    use highwater_connectors::{DeadLetter, ElementsSource, FileSink, PrintSink};

    use super::*;

    #[test]
    fn dead_letters_go_into_a_file_sink_as_json() {
        let mut env = StreamEnvironment::new();
        let numbers = ElementsSource::new(vec![1_u64]);
        let source = env.source("numbers", numbers);
        source
            .dead_letters()
            .sink("bad", FileSink::new("out/bad", Json::format()));
        source.sink("shown", PrintSink::stdout());

        let letter = DeadLetter {
            split: "orders/0".into(),
            position: 3,
            reason: "an object is expected".to_owned(),
            payload: b"no order".to_vec(),
        };
        let mut line = Vec::new();
        Json::<DeadLetter>::format().write(&letter, &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"split":"orders/0","position":3,"reason":"an object is expected","payload":"no order"}"#
        );
    }
}
