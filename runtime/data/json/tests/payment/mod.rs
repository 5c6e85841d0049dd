//! The payment record of the acceptance job, shared by the tests of this crate.

use compact_str::CompactString;
use highwater_derive::{FromJson, ToJson};
use highwater_json::{Counters, FromJson as _, JsonError, Scratch};
use highwater_types::EventTime;

/// One payment authorization.
#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
pub(crate) struct Payment {
    pub(crate) event_time: EventTime,
    pub(crate) user_id: CompactString,
    pub(crate) amount: f64,
    pub(crate) status: Status,
    pub(crate) card_id: Option<CompactString>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson, ToJson)]
#[json(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Status {
    Approved,
    Declined,
    #[json(other)]
    Other,
}

/// The common text of a payment.
#[allow(dead_code, reason = "not every test binary uses it")]
pub(crate) const PAYMENT: &str = r#"{"event_time":"2026-01-01T00:00:00.000Z","user_id":"u123456","amount":12.34,"status":"APPROVED"}"#;

/// Reads a payment and returns it with what was counted.
#[allow(dead_code, reason = "not every test binary uses it")]
pub(crate) fn read(text: &[u8]) -> Result<(Payment, Counters), JsonError> {
    let mut scratch = Scratch::new();
    Payment::from_json(text, &mut scratch).map(|payment| (payment, scratch.counters()))
}
