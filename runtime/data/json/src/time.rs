//! Times as text: ISO-8601 with a date, a time to the second or finer, and a zone given as `Z` or an offset.
//!
//! The common form, `2026-01-01T00:00:00.000Z`, is read at fixed positions, and the date is looked up once per day of
//! data. Everything else goes through the general parser, which has the last word on what is valid. Digits finer than a
//! millisecond are cut off, towards the past. The leap second 23:59:60 UTC is the first second of the next day, as in
//! POSIX time. Years are 0000 to 9999 of the proleptic Gregorian calendar.

use highwater_types::{EventTime, ProcessingTime};

use crate::decode::FromJson;
use crate::encode::{ToJson, write_integer};
use crate::error::{Fault, JsonError, cut};
use crate::reader::Reader;
use crate::scratch::CachedDate;

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// The largest offset from UTC that is believed, in hours.
const OFFSET_HOURS_MAX: u32 = 18;
/// `2026-01-01T00:00:00.000Z` and its quotes.
const COMMON_FORM_BYTES: usize = 26;

/// The number of two digits, or a value that no clock shows.
#[inline]
const fn two(tens: u8, ones: u8) -> u32 {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return u32::MAX;
    }
    tens as u32 * 10 + ones as u32
}

/// Days from 1970-01-01 to a date; years begin in March so that the leap day is the last of its year.
const fn days_of_date(year: i64, month: u32, day: u32) -> i64 {
    let months_since_march = ((month + 9) % 12) as i64;
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * months_since_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date of a day: the inverse of [`days_of_date`].
const fn date_of_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = if months_since_march < 10 {
        months_since_march + 3
    } else {
        months_since_march - 9
    };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month as u32, day as u32)
}

const fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// The millisecond at which the date of `text` begins in UTC.
fn parse_date(text: &[u8; 10]) -> Result<i64, &'static str> {
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *text else {
        return Err("it begins with YYYY-MM-DD");
    };
    let (century, year) = (two(y0, y1), two(y2, y3));
    if century == u32::MAX || year == u32::MAX {
        return Err("the year has four digits");
    }
    let year = i64::from(century * 100 + year);
    let (month, day) = (two(m0, m1), two(d0, d1));
    if !(1..=12).contains(&month) {
        return Err("the month is 01 to 12");
    }
    if day == 0 || day > days_in_month(year, month) {
        return Err("the month has no such day");
    }
    Ok(days_of_date(year, month, day) * DAY_MS)
}

/// The milliseconds of hours, minutes and seconds; seconds may be 60 here.
fn parse_clock(text: &[u8]) -> Result<i64, &'static str> {
    let [h0, h1, b':', m0, m1, b':', s0, s1] = *text else {
        return Err("the time is hh:mm:ss");
    };
    let (hour, minute, second) = (two(h0, h1), two(m0, m1), two(s0, s1));
    if hour > 23 {
        return Err("the hour is 00 to 23");
    }
    if minute > 59 {
        return Err("the minute is 00 to 59");
    }
    if second > 60 {
        return Err("the second is 00 to 59");
    }
    Ok(clock_ms(hour, minute, second))
}

#[inline]
fn clock_ms(hour: u32, minute: u32, second: u32) -> i64 {
    i64::from(hour * 3_600 + minute * 60 + second) * 1_000
}

/// Takes a dot and one to nine digits from the front of `text`, if a dot is there, as whole milliseconds.
fn parse_fraction(text: &mut &[u8]) -> Result<i64, &'static str> {
    let Some(rest) = text.strip_prefix(b".") else {
        return Ok(0);
    };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return Err("one to nine digits follow the dot");
    }
    *text = &rest[count..];
    let place = |at: usize| {
        rest[..count]
            .get(at)
            .map_or(0, |digit| i64::from(digit - b'0'))
    };
    Ok(place(0) * 100 + place(1) * 10 + place(2))
}

/// The milliseconds by which a zone is ahead of UTC.
fn parse_zone(text: &[u8]) -> Result<i64, &'static str> {
    let (sign, digits) = match *text {
        [b'Z'] => return Ok(0),
        [] => return Err("the zone is missing: end with Z"),
        [b'+', h0, h1, b':', m0, m1] => (1, [h0, h1, m0, m1]),
        [b'-', h0, h1, b':', m0, m1] => (-1, [h0, h1, m0, m1]),
        _ => return Err("the zone is Z or an offset such as +02:00"),
    };
    let (hours, minutes) = (two(digits[0], digits[1]), two(digits[2], digits[3]));
    if hours > OFFSET_HOURS_MAX || minutes > 59 {
        return Err("the offset is at most 18 hours");
    }
    Ok(sign * (i64::from(hours) * HOUR_MS + i64::from(minutes) * MINUTE_MS))
}

/// Milliseconds since the epoch of an ISO-8601 time.
fn parse_iso(text: &[u8]) -> Result<i64, &'static str> {
    let (date, rest) = text.split_first_chunk::<10>().ok_or("it is too short")?;
    let date_ms = parse_date(date)?;
    let rest = rest
        .strip_prefix(b"T")
        .ok_or("a T stands between date and time")?;
    let (clock, mut rest) = rest.split_at_checked(8).ok_or("the time is hh:mm:ss")?;
    let clock_ms = parse_clock(clock)?;
    let fraction_ms = parse_fraction(&mut rest)?;
    let ahead_ms = parse_zone(rest)?;
    let ms = date_ms + clock_ms - ahead_ms;
    if clock.ends_with(b"60") && ms.rem_euclid(DAY_MS) != 0 {
        return Err("a leap second is 23:59:60 in UTC");
    }
    Ok(ms + fraction_ms)
}

/// Reads the common form at fixed positions. `None`: it is another form, or wrong.
#[inline]
fn parse_common(text: &[u8; COMMON_FORM_BYTES], cache: &mut CachedDate) -> Option<i64> {
    let [
        b'"',
        date @ ..,
        b'T',
        h0,
        h1,
        b':',
        m0,
        m1,
        b':',
        s0,
        s1,
        b'.',
        f0,
        f1,
        f2,
        b'Z',
        b'"',
    ] = text
    else {
        return None;
    };
    let (hour, minute, second) = (two(*h0, *h1), two(*m0, *m1), two(*s0, *s1));
    let (tens, ones) = (two(*f0, *f1), two(b'0', *f2));
    if hour > 23 || minute > 59 || second > 59 || tens > 99 || ones > 9 {
        return None;
    }
    if cache.text != *date {
        *cache = CachedDate {
            text: *date,
            begins_ms: parse_date(date).ok()?,
        };
    }
    Some(cache.begins_ms + clock_ms(hour, minute, second) + i64::from(tens * 10 + ones))
}

impl Reader<'_> {
    /// Reads an ISO-8601 text or a number of milliseconds since the epoch.
    #[inline]
    pub(crate) fn read_time(&mut self) -> Result<i64, JsonError> {
        if self.peek() == Some(b'"') {
            let at = self.offset();
            if let Some(text) = self.bytes()[at..].first_chunk::<COMMON_FORM_BYTES>()
                && let Some(ms) = parse_common(text, &mut self.scratch().date)
            {
                self.advance(COMMON_FORM_BYTES);
                return Ok(ms);
            }
            return self.read_any_time();
        }
        self.read_epoch_ms("a time as text or as milliseconds")
    }

    #[cold]
    #[inline(never)]
    fn read_any_time(&mut self) -> Result<i64, JsonError> {
        let at = self.offset();
        let text = self.read_text()?;
        parse_iso(text.as_bytes()).map_err(|reason| {
            let text = cut(text);
            JsonError::new(at, Fault::Time { text, reason })
        })
    }

    /// Reads a number of milliseconds since the epoch. The one value that means "no time" is out of range.
    #[inline(never)]
    pub(crate) fn read_epoch_ms(&mut self, expected: &'static str) -> Result<i64, JsonError> {
        let number = self.read_number(expected)?;
        let begin = self.offset() - number.text.len();
        let ms = number
            .to_integer()
            .map_err(|fault| JsonError::new(begin, fault))?;
        ms.and_then(|ms| i64::try_from(ms).ok())
            .filter(|&ms| EventTime(ms).is_some())
            .ok_or_else(|| JsonError::new(begin, number.out_of_range("a time in milliseconds")))
    }
}

/// Appends the common form in quotes; a number of milliseconds when the year has not four digits.
pub(crate) fn write_time(ms: i64, out: &mut Vec<u8>) {
    let (days, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = date_of_days(days);
    if !(0..=9_999).contains(&year) {
        write_integer(ms < 0, ms.unsigned_abs(), out);
        return;
    }
    let digit = |value: i64| b'0' + (value % 10) as u8;
    let mut text = *b"\"0000-00-00T00:00:00.000Z\"";
    let mut put = |at: usize, value: i64| {
        text[at] = digit(value / 10);
        text[at + 1] = digit(value);
    };
    put(1, year / 100);
    put(3, year);
    put(6, i64::from(month));
    put(9, i64::from(day));
    put(12, of_day / HOUR_MS);
    put(15, of_day / MINUTE_MS % 60);
    put(18, of_day / 1_000 % 60);
    put(21, of_day % 1_000 / 10);
    text[23] = digit(of_day);
    out.extend_from_slice(&text);
}

macro_rules! time_json {
    ($($ty:ident),*) => {$(
        /// Reads ISO-8601 text or milliseconds since the epoch; writes ISO-8601 text in UTC with milliseconds.
        impl FromJson for $ty {
            #[inline]
            fn read_json(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
                reader.read_time().map(Self)
            }
        }

        impl ToJson for $ty {
            fn to_json(&self, out: &mut Vec<u8>) {
                write_time(self.0, out);
            }
        }
    )*};
}
time_json!(EventTime, ProcessingTime);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scratch::Scratch;

    fn read(text: &str) -> Result<i64, JsonError> {
        EventTime::from_json(text.as_bytes(), &mut Scratch::new()).map(EventTime::millis)
    }

    fn reason(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    proptest! {
        #[test]
        fn every_time_reads_back(ms in -62_167_219_200_000i64..253_402_300_800_000) {
            let mut out = Vec::new();
            EventTime(ms).to_json(&mut out);
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(text.len(), COMMON_FORM_BYTES);
            prop_assert_eq!(read(&text), Ok(ms));
            prop_assert_eq!(parse_iso(text.trim_matches('"').as_bytes()), Ok(ms));
        }

        #[test]
        fn any_millisecond_reads_back(ms: i64) {
            prop_assume!(EventTime(ms).is_some());
            let mut out = Vec::new();
            EventTime(ms).to_json(&mut out);
            prop_assert_eq!(read(std::str::from_utf8(&out).unwrap()), Ok(ms));
        }

        #[test]
        fn common_form_and_general_parser_agree(text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9/:]{3}Z") {
            let quoted = format!("\"{text}\"");
            let common = quoted.as_bytes().first_chunk().unwrap();
            let fast = parse_common(common, &mut CachedDate::default());
            match fast {
                Some(ms) => prop_assert_eq!(parse_iso(text.as_bytes()), Ok(ms)),
                None => prop_assert!(
                    parse_iso(text.as_bytes()).is_err() || text.contains(":60.")
                ),
            }
        }
    }

    #[test]
    fn known_instants_are_read() {
        for (text, ms) in [
            ("\"1970-01-01T00:00:00.000Z\"", 0),
            ("\"2026-01-01T00:00:00.000Z\"", 1_767_225_600_000),
            ("\"1969-12-31T23:59:59.999Z\"", -1),
            ("\"2024-02-29T12:00:00Z\"", 1_709_208_000_000),
            ("\"2026-01-01T00:00:00.123456789Z\"", 1_767_225_600_123),
            ("\"2026-01-01T00:00:00.5Z\"", 1_767_225_600_500),
            ("\"1969-12-31T23:59:59.9999Z\"", -1),
            ("\"2026-01-01T14:00:00+14:00\"", 1_767_225_600_000),
            ("\"2025-12-31T19:00:00.000-05:00\"", 1_767_225_600_000),
            ("\"2016-12-31T23:59:60Z\"", 1_483_228_800_000),
            ("\"0000-01-01T00:00:00Z\"", -62_167_219_200_000),
            ("1767225600000", 1_767_225_600_000),
            ("-5", -5),
            ("0", 0),
        ] {
            assert_eq!(read(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn wrong_times_say_what_is_wrong() {
        for (text, part) in [
            ("\"2026-01-01\"", "a T stands"),
            ("\"2026-01-01T00:00:00.000\"", "the zone is missing"),
            ("\"2026-13-01T00:00:00.000Z\"", "the month is"),
            ("\"2026-02-29T00:00:00.000Z\"", "no such day"),
            ("\"2026-01-01T24:00:00.000Z\"", "the hour is"),
            ("\"2026-01-01T00:60:00.000Z\"", "the minute is"),
            ("\"2026-01-01T00:00:61.000Z\"", "the second is"),
            ("\"2026-01-01T12:00:60.000Z\"", "a leap second"),
            ("\"2026-01-01 00:00:00.000Z\"", "a T stands"),
            ("\"2026-01-01T00:00:00.Z\"", "one to nine digits"),
            ("\"2026-01-01T00:00:00+19:00\"", "at most 18 hours"),
            ("\"2026-01-01T00:00:00 CET\"", "the zone is Z"),
            ("\"20260101\"", "too short"),
            ("1767225600000.5", "an integer is expected"),
            ("9223372036854775808", "does not fit a time"),
            ("-9223372036854775808", "does not fit a time"),
            ("true", "a time as text or as milliseconds"),
            ("null", "found null"),
        ] {
            assert!(reason(text).contains(part), "{text}: {}", reason(text));
        }
    }
}
