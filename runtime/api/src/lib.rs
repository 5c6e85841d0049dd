//! The DataStream API: a job's function builds streams, and what it built compiles to a program.
//!
//! In reading order: the environment, streams of a source, streams, keyed streams with windows, the type-erased code that
//! the builders leave behind, and the compiled program. Nothing here runs a record.

mod aggregate;
pub mod code;
mod draft;
pub mod environment;
pub mod keyed;
mod misuse;
pub mod parameter;
pub mod program;
pub mod source;
pub mod stream;

pub use environment::StreamEnvironment;
pub use keyed::{KeyedStream, WindowedStream};
pub use parameter::ParameterError;
pub use program::JobProgram;
pub use source::SourceStream;
pub use stream::{DataStream, SinkHandle};
