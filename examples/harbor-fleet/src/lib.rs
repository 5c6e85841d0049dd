//! The payment fraud scorer: its records, the generator of its input and the oracle that judges its output.
//!
//! In reading order: the records, the generator, the oracle. The oracle shares no code with the rest: it must not make
//! the mistake that it is there to find.

pub mod generator;
pub mod oracle;
pub mod payments;
