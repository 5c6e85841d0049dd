//! A window of time and the rules of its life: it fires at `end - 1`, and its state goes at `end - 1 + lateness`.

use std::fmt;

use highwater_types::record::DecodeError;
use highwater_types::schema::{DataType, Field};
use highwater_types::{EventTime, Record, Watermark};

/// Times `start..end`, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeWindow {
    /// The first time inside.
    pub start: i64,
    /// The first time behind.
    pub end: i64,
}

/// For how long after its end a window takes late records. Milliseconds, not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct AllowedLateness(pub i64);

impl TimeWindow {
    /// The last time inside: results carry it, and the watermark that reaches it fires the window.
    pub const fn max_timestamp(self) -> EventTime {
        EventTime(self.end.saturating_sub(1))
    }

    /// The watermark that makes the window's state go.
    pub const fn cleanup_time(self, lateness: AllowedLateness) -> Watermark {
        Watermark(self.end.saturating_sub(1).saturating_add(lateness.0))
    }

    /// Whether the window is complete at `watermark` (T-01).
    pub const fn is_complete(self, watermark: Watermark) -> bool {
        watermark.0 >= self.end.saturating_sub(1)
    }

    /// Whether a record of this window comes too late at `watermark` (T-02).
    pub const fn is_expired(self, lateness: AllowedLateness, watermark: Watermark) -> bool {
        self.cleanup_time(lateness).0 <= watermark.0
    }
}

impl fmt::Display for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl Record for TimeWindow {
    fn data_type() -> DataType {
        let field = |name: &str| Field {
            name: name.to_owned(),
            data_type: DataType::I64,
            default: None,
        };
        DataType::Struct {
            name: "TimeWindow".to_owned(),
            fields: vec![field("start"), field("end")],
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.start.encode(out);
        self.end.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            start: i64::decode(input)?,
            end: i64::decode(input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: TimeWindow = TimeWindow {
        start: 0,
        end: 600_000,
    };
    const LATENESS: AllowedLateness = AllowedLateness(300_000);

    #[test]
    fn t01_a_window_is_complete_when_the_watermark_reaches_its_last_millisecond() {
        assert!(!WINDOW.is_complete(Watermark(599_998)));
        assert!(WINDOW.is_complete(Watermark(599_999)));
    }

    #[test]
    fn t02_a_record_is_too_late_from_the_cleanup_time_on() {
        assert!(!WINDOW.is_expired(LATENESS, Watermark(899_998)));
        assert!(WINDOW.is_expired(LATENESS, Watermark(899_999)));
    }

    #[test]
    fn cleanup_of_the_last_window_saturates() {
        let last = TimeWindow {
            start: i64::MAX - 10,
            end: i64::MAX,
        };
        assert_eq!(last.cleanup_time(LATENESS), Watermark::MAX);
    }
}
