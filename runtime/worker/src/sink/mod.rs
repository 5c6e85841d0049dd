//! The driver of an exactly-once sink slot: a thread that owns the output target, the spool and the slot machine.
//!
//! What happens when is decided by `SinkSlot` of `highwater-protocol`; this performs its effects and reports back. In
//! reading order: the mailbox between slot thread, worker and driver; the spool; the log store seam; the driver.

pub mod driver;
pub mod log;
pub mod mailbox;
pub mod spool;

pub use driver::{DriverParts, SlotStart, spawn};
pub use log::{LogStore, LogStoreError};
pub use mailbox::{SinkControl, SinkMailbox};
