//! Reads payments and times out of JSON values, slowly and strictly.

use serde_json::Value;

/// One payment, as far as the oracle needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) event_time_ms: i64,
    pub(super) user_id: String,
    pub(super) status: String,
}

/// A payment, if the line is one.
pub(super) fn payment(line: &[u8]) -> Option<Seen> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let text = |field: &str| value.get(field)?.as_str().map(str::to_owned);
    value.get("amount")?.as_f64()?;
    Some(Seen {
        event_time_ms: time_ms(value.get("event_time")?)?,
        user_id: text("user_id")?,
        status: text("status")?,
    })
}

/// Milliseconds since the epoch: a number, or a text like `2026-03-02T10:00:00.000Z`.
pub fn time_ms(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text_ms(text),
        _ => None,
    }
}

fn text_ms(text: &str) -> Option<i64> {
    let rest = text.strip_suffix('Z')?;
    let (date, clock) = rest.split_once('T')?;
    let date = numbers(date, '-')?;
    let (clock, millis) = clock.split_once('.')?;
    let clock = numbers(clock, ':')?;
    let ([year, month, day], [hour, minute, second]) = (date, clock);
    let seconds = (days(year, month, day) * 24 + hour) * 3_600 + minute * 60 + second;
    Some(seconds * 1_000 + millis.parse::<i64>().ok().filter(|_| millis.len() == 3)?)
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let parts = text.split(separator).map(|part| part.parse().ok());
    parts.collect::<Option<Vec<i64>>>()?.try_into().ok()
}

/// Days from 1970-01-01, counted year by year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let of_year = |year: i64| if leap(year) { 366 } else { 365 };
    let years: i64 =
        (1970..year).map(of_year).sum::<i64>() - (year..1970).map(of_year).sum::<i64>();
    let lengths = [
        31,
        if leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let months: i64 = lengths.iter().take((month - 1).max(0) as usize).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_and_numbers_are_the_same_instants() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-03-01T00:00:00.000Z", 951_868_800_000),
            ("2026-03-02T10:09:59.999Z", 1_772_446_199_999),
        ] {
            assert_eq!(time_ms(&json!(text)), Some(ms), "{text}");
            assert_eq!(time_ms(&json!(ms)), Some(ms));
        }
        for wrong in [
            json!("yesterday"),
            json!("2026-03-02"),
            json!(null),
            json!(1.5),
        ] {
            assert_eq!(time_ms(&wrong), None);
        }
    }

    #[test]
    fn only_whole_payments_are_payments() {
        let line = br#"{"event_time":5,"user_id":"u","amount":1.5,"status":"DECLINED"}"#;
        assert_eq!(payment(line).unwrap().event_time_ms, 5);
        for wrong in [
            "",
            "{}",
            "[1]",
            r#"{"event_time":5,"user_id":7,"amount":1,"status":"X"}"#,
        ] {
            assert_eq!(payment(wrong.as_bytes()), None);
        }
    }
}
