//! Partitioners, channels and credits between tasks.
//!
//! In reading order: what rides in a channel, the channel (a bounded single-producer single-consumer ring that moves
//! ownership of chunks between two slot threads, with credit in bytes), the channel between workers, the writer that scatters
//! chunks over channels, and the gate that takes them out again. Nothing here is called per record but the scatter loop
//! itself, and the codec of what goes to another worker.

pub mod channel;
pub mod gate;
pub mod remote;
pub mod writer;

pub use channel::{ChannelReceiver, ChannelSender, Element, channel};
pub use gate::{Gate, GateFigures, InputGate, Step};
pub use writer::{ExchangeWriter, Partitioner};
