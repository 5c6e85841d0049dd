//! The rules: what is remembered of a card, and when it raises an alert.
//!
//! R2a keeps the spend of a card and marks each payment with it; R1 counts declines per user and window, once written as
//! a process function with timers and once with the window operator. Both forms of R1 give the same counts, the same
//! late payments and the same alerts.

pub mod declines;
pub mod spend;
pub mod window;

use highwater_types::EventTime;

use crate::payments::{Blocklist, DECLINES_ALERT, FraudAlert, Payment, WINDOW_MS, alert_id};
use compact_str::CompactString;
use highwater_derive::Record;
use highwater_json::Cents;

/// For how long after its end a window counts late declines, in milliseconds.
pub const ALLOWED_LATENESS_MS: i64 = 300_000;
/// The rule of declines.
pub const RULE_DECLINES: &str = "R1";
/// The rule of spend.
pub const RULE_SPEND: &str = "R2";

/// A payment with what its card has spent, this payment included.
#[derive(Clone, Debug, PartialEq, Eq, Record)]
pub struct ScoredPayment {
    /// The payment.
    pub payment: Payment,
    /// The spend of the last day.
    pub spend: Cents,
}

/// The declines of one user in one window.
#[derive(Clone, Debug, PartialEq, Eq, Record)]
pub struct WindowDeclines {
    /// How many.
    pub count: u64,
    /// The earliest.
    pub first: EventTime,
    /// The latest.
    pub last: EventTime,
    /// The spend when the latest was counted.
    pub spend: Cents,
}

impl WindowDeclines {
    /// Counts one decline more.
    pub fn add(&mut self, scored: &ScoredPayment) {
        let time = scored.payment.event_time;
        self.count += 1;
        self.first = self.first.min(time);
        self.last = self.last.max(time);
        self.spend = scored.spend;
    }

    /// The declines of a window that has none yet.
    pub const fn none() -> Self {
        Self {
            count: 0,
            first: EventTime::MAX,
            last: EventTime(i64::MIN),
            spend: Cents(0),
        }
    }

    /// The alert of this window, if this count raises it.
    pub fn alert(
        &self,
        user_id: &CompactString,
        window_start: EventTime,
        late: bool,
    ) -> FraudAlert {
        FraudAlert {
            alert_id: alert_id(RULE_DECLINES, user_id, window_start),
            rule: RULE_DECLINES.into(),
            user_id: user_id.clone(),
            window_start,
            window_end: window_start.saturating_add(WINDOW_MS),
            count_at_alert: DECLINES_ALERT,
            first_decline: self.first,
            last_decline: self.last,
            blocklist: Blocklist::Unknown,
            spend: self.spend,
            late,
            job_version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}
