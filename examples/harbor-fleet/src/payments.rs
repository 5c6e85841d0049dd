//! The records of the payment fraud scorer: what flows in, and what flows out to each topic.

use compact_str::{CompactString, format_compact};
use highwater_derive::{FromJson, Record, ToJson};
use highwater_json::Cents;
use highwater_types::EventTime;
use highwater_types::key::{KeyHash, hash_bytes};

/// The topic of payments.
pub const PAYMENTS_TOPIC: &str = "payments.auth";
/// The topic of alerts.
pub const ALERTS_TOPIC: &str = "fraud_alerts";
/// The topic of decline counts: the last value of a (user, window) is the valid one.
pub const COUNTS_TOPIC: &str = "decline_counts";
/// The topic of payments that came too late to be counted.
pub const LATE_TOPIC: &str = "payments.late";
/// The topic of lines that are no payments.
pub const DEAD_LETTER_TOPIC: &str = "payments.dlq";

/// The length of the windows in which declines are counted, in milliseconds.
pub const WINDOW_MS: i64 = 600_000;
/// The number of declines of one user in one window that raises an alert.
pub const DECLINES_ALERT: u64 = 6;

/// One authorisation of a card payment.
#[derive(Clone, Debug, PartialEq, Eq, Record, FromJson, ToJson)]
pub struct Payment {
    /// When the card was used. ISO-8601 text or milliseconds since the epoch.
    pub event_time: EventTime,
    /// Whose card it was.
    pub user_id: CompactString,
    /// The amount, two decimal places.
    pub amount: Cents,
    /// What the issuer answered.
    pub status: Status,
}

/// What the issuer answered.
#[derive(Clone, Debug, PartialEq, Eq, Record, FromJson, ToJson)]
#[json(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// The payment goes through.
    Approved,
    /// The payment is refused.
    Declined,
    /// Any other answer: ignored by the rules, but counted.
    #[json(other)]
    Other(CompactString),
}

/// How many declines a user has in a window. Emitted when the window ends, and again for each late correction.
#[derive(Clone, Debug, PartialEq, Eq, Record, FromJson, ToJson)]
pub struct DeclineCount {
    /// The user.
    pub user_id: CompactString,
    /// The start of the window.
    pub window_start: EventTime,
    /// One past the end of the window.
    pub window_end: EventTime,
    /// The declines so far.
    pub count: u64,
}

/// What the blocklist knows of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Record, FromJson, ToJson)]
#[json(rename_all = "snake_case")]
pub enum Blocklist {
    /// The user is on it.
    Listed,
    /// The user is not on it.
    Clear,
    /// It could not be asked.
    Unknown,
}

/// Six declines of one user in one window.
#[derive(Clone, Debug, PartialEq, Eq, Record, FromJson, ToJson)]
pub struct FraudAlert {
    /// The same for the same rule, user and window, whichever attempt or version raises it.
    pub alert_id: CompactString,
    /// The rule.
    pub rule: CompactString,
    /// The user.
    pub user_id: CompactString,
    /// The start of the window.
    pub window_start: EventTime,
    /// One past the end of the window.
    pub window_end: EventTime,
    /// The declines when it was raised: always [`DECLINES_ALERT`].
    pub count_at_alert: u64,
    /// The earliest of these declines.
    pub first_decline: EventTime,
    /// The latest of these declines.
    pub last_decline: EventTime,
    /// What the blocklist knows of the user.
    pub blocklist: Blocklist,
    /// What the user spent in the last 24 hours, as known when it was raised.
    pub spend: Cents,
    /// Whether a late payment raised it.
    pub late: bool,
    /// The version of the job.
    pub job_version: CompactString,
}

/// The id of the alert of `rule` for `user_id` in the window that starts at `window_start`.
pub fn alert_id(rule: &str, user_id: &str, window_start: EventTime) -> CompactString {
    let subject = format!("{rule}/{user_id}/{window_start}");
    let KeyHash(hash) = hash_bytes(subject.as_bytes());
    format_compact!("{hash:016x}")
}

/// The start of the window that holds `time`; also right before 1970.
pub const fn window_start(time: EventTime) -> EventTime {
    EventTime(time.millis().div_euclid(WINDOW_MS) * WINDOW_MS)
}

#[cfg(test)]
mod tests {
    use highwater_json::{FromJson, Scratch, ToJson};

    use super::*;

    fn payment(text: &str) -> Result<Payment, highwater_json::JsonError> {
        Payment::from_json(text.as_bytes(), &mut Scratch::new())
    }

    #[test]
    fn a_payment_is_read_in_both_forms_of_time_and_written_as_it_was_read() {
        let text = r#"{"event_time":"2026-03-02T10:09:59.999Z","user_id":"u1","amount":12.50,"status":"DECLINED"}"#;
        let read = payment(text).unwrap();
        assert_eq!(read.event_time, EventTime(1_772_446_199_999));
        assert_eq!(
            (read.amount, &read.status),
            (Cents(1_250), &Status::Declined)
        );
        let mut written = Vec::new();
        read.to_json(&mut written);
        assert_eq!(written, text.as_bytes());
        let millis = text.replace("\"2026-03-02T10:09:59.999Z\"", "1772446199999");
        assert_eq!(payment(&millis).unwrap(), read);
    }

    #[test]
    fn v8_lower_case_status_is_another_status() {
        let text = r#"{"event_time":0,"user_id":"u1","amount":1,"status":"declined"}"#;
        assert_eq!(
            payment(text).unwrap().status,
            Status::Other("declined".into())
        );
    }

    #[test]
    fn v6_windows_before_1970_start_at_multiples_of_their_length() {
        assert_eq!(window_start(EventTime(-1)), EventTime(-600_000));
        assert_eq!(window_start(EventTime(-600_000)), EventTime(-600_000));
        assert_eq!(window_start(EventTime(599_999)), EventTime(0));
    }

    #[test]
    fn the_id_of_an_alert_is_the_same_for_ever() {
        let id = alert_id("R1", "u00017", EventTime(1_772_445_600_000));
        assert_eq!(id, alert_id("R1", "u00017", EventTime(1_772_445_600_000)));
        assert_eq!(id.len(), 16);
        assert_ne!(id, alert_id("R1", "u00017", EventTime(1_772_446_200_000)));
        assert_ne!(id, alert_id("R1s", "u00017", EventTime(1_772_445_600_000)));
    }
}
