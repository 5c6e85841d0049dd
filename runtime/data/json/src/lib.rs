//! JSON to typed records and back, directed by the schema.
//!
//! Layer 2. A source calls [`FromJson::from_json`] with the bytes of one record as they lie in the fetch buffer; a sink
//! calls [`ToJson::to_json`] with the buffer it sends. Both are derived (`highwater-derive`). Reading goes straight from
//! bytes to fields: the derive knows which keys to expect in which order, and no tree of values is ever built. A record
//! of short strings, numbers and times is read without an allocation.
//!
//! Strict by rule: a value of the wrong type, a number that does not fit, a missing field, text that is not UTF-8 or
//! anything behind the record is an error with the field, the byte and the beginning of the record. Unknown fields are
//! ignored and counted; of a repeated key the last value stays and the repetition is counted.
//!
//! ```
//! use compact_str::CompactString;
//! use highwater_derive::{FromJson, ToJson};
//! use highwater_json::{Cents, FromJson, Scratch, ToJson};
//! use highwater_types::EventTime;
//!
//! #[derive(Debug, PartialEq, FromJson, ToJson)]
//! struct Payment {
//!     event_time: EventTime,
//!     user_id: CompactString,
//!     amount: Cents,
//!     status: Status,
//!     card_id: Option<CompactString>,
//! }
//!
//! #[derive(Debug, PartialEq, FromJson, ToJson)]
//! #[json(rename_all = "UPPERCASE")]
//! enum Status {
//!     Approved,
//!     Declined,
//!     #[json(other)]
//!     Other,
//! }
//!
//! let text = br#"{"event_time":"2026-01-01T00:00:00.000Z","user_id":"u1","amount":12.3,"status":"DECLINED"}"#;
//! let mut scratch = Scratch::new();
//! let payment = Payment::from_json(text, &mut scratch)?;
//! assert_eq!(payment.amount, Cents(1_230));
//! assert_eq!(payment.status, Status::Declined);
//!
//! let error = Payment::from_json(br#"{"event_time":0,"user_id":7}"#, &mut scratch).unwrap_err();
//! assert_eq!((error.path(), error.offset()), ("user_id", 26));
//! # Ok::<(), highwater_json::JsonError>(())
//! ```

pub mod cents;
mod decode;
mod encode;
pub mod error;
mod number;
mod reader;
mod scratch;
mod skip;
mod text;
mod time;
pub mod with;

pub use cents::Cents;
pub use decode::FromJson;
pub use encode::{ToJson, write_text};
pub use error::{Fault, JsonError};
pub use reader::{DEPTH_MAX, Reader};
pub use scratch::{Counters, Scratch};
