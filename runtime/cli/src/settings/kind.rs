//! What values of a setting look like: unit, range and reader of each kind.
//!
//! Every value, wherever it was given, is text first and is read here once. A refusal says what to write instead.

use std::net::SocketAddr;
use std::time::Duration;

use highwater_storage::Location;
use highwater_types::JobIdentity;

/// Bytes of a mebibyte.
pub(super) const MIB: u64 = 1 << 20;
/// Bytes of a gibibyte.
pub(super) const GIB: u64 = 1 << 30;
/// Bytes of a tebibyte.
pub(super) const TIB: u64 = 1 << 40;
/// Milliseconds of a day.
pub(super) const DAY: u64 = 86_400_000;

/// Names of times, in milliseconds, from small to large.
const TIMES: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", DAY),
];
/// What is written for a time.
const TIME_EXAMPLES: &str = "500ms, 10s, 5m, 2h or 1d";
/// Names of sizes, in bytes, from small to large.
const SIZES: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", TIB),
];

/// What values of a setting are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A job identity.
    Name,
    /// Any text.
    Text,
    /// Text that only the environment may give and that no message shows.
    Secret,
    /// A location of an object store.
    Location,
    /// A local directory.
    Folder,
    /// A local file.
    File,
    /// An address of this machine with a port.
    Listen,
    /// A filter of log lines.
    Levels,
    /// Yes or no.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A number.
    Count(Range),
    /// A span of time, in milliseconds.
    Span(Range),
    /// A number of bytes.
    Size(Range),
}

/// The least and the greatest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    least: u64,
    most: u64,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text of any kind.
    Text(String),
    /// An address.
    Address(SocketAddr),
    /// Yes or no.
    Switch(bool),
    /// A number.
    Count(u64),
    /// A span of time.
    Span(Duration),
    /// Bytes.
    Size(u64),
}

impl Kind {
    pub(super) const fn count(least: u64, most: u64) -> Self {
        Self::Count(Range { least, most })
    }

    pub(super) const fn span(least: u64, most: u64) -> Self {
        Self::Span(Range { least, most })
    }

    pub(super) const fn size(least: u64, most: u64) -> Self {
        Self::Size(Range { least, most })
    }

    /// What a value stands for in `--help`.
    pub(super) const fn placeholder(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Text | Self::Secret => "TEXT",
            Self::Location => "LOCATION",
            Self::Folder => "DIR",
            Self::File => "FILE",
            Self::Listen => "ADDRESS",
            Self::Levels => "LEVEL",
            Self::Switch => "BOOL",
            Self::Choice(_) => "WORD",
            Self::Count(_) => "N",
            Self::Span(_) => "TIME",
            Self::Size(_) => "BYTES",
        }
    }

    /// The unit, for pages; empty where there is none.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Span(_) => "time: ms, s, m, h, d",
            Self::Size(_) => "bytes: B, KiB, MiB, GiB, TiB",
            Self::Count(_) => "count",
            _ => "",
        }
    }

    /// What is accepted, in words.
    pub(super) fn range(self) -> String {
        match self {
            Self::Name => "1 to 63 lower-case letters, digits, `-`, `_`".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Secret => "text, by environment only".to_owned(),
            Self::Location => "`./dir`, `/dir`, `file:///dir`, `s3://bucket/prefix`".to_owned(),
            Self::Folder => "a local directory".to_owned(),
            Self::File => "a local file".to_owned(),
            Self::Listen => "an address of this machine with port".to_owned(),
            Self::Levels => "error, warn, info, debug, trace, off".to_owned(),
            Self::Switch => "true, false".to_owned(),
            Self::Choice(words) => words.join(", "),
            Self::Count(range) => format!("{} to {}", range.least, range.most),
            Self::Span(range) => {
                format!(
                    "{} to {}",
                    shown(range.least, &TIMES),
                    shown(range.most, &TIMES)
                )
            }
            Self::Size(range) => {
                format!(
                    "{} to {}",
                    shown(range.least, &SIZES),
                    shown(range.most, &SIZES)
                )
            }
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    pub(super) fn read(self, text: &str) -> Result<Value, String> {
        let taken = || Value::Text(text.to_owned());
        match self {
            Self::Text | Self::Secret | Self::Folder | Self::File | Self::Levels
                if text.is_empty() =>
            {
                Err("is empty; leave it out or give a value".to_owned())
            }
            Self::Text | Self::Secret | Self::Folder | Self::File => Ok(taken()),
            Self::Name => match JobIdentity::parse(text) {
                Ok(_) => Ok(taken()),
                Err(error) => Err(format!("is refused: {error}")),
            },
            Self::Location => match Location::parse(text) {
                Ok(_) => Ok(taken()),
                Err(error) => Err(format!("is refused: {error}")),
            },
            Self::Levels => levels(text).map(|()| taken()),
            Self::Listen => address(text).map(Value::Address),
            Self::Switch => match text {
                "true" => Ok(Value::Switch(true)),
                "false" => Ok(Value::Switch(false)),
                _ => Err("is neither true nor false".to_owned()),
            },
            Self::Choice(words) if words.contains(&text) => Ok(taken()),
            Self::Choice(words) => Err(format!("is none of {}", words.join(", "))),
            Self::Count(range) => {
                let number = text.parse().map_err(|_| "is no whole number".to_owned());
                self.within(range, number?).map(Value::Count)
            }
            Self::Span(range) => {
                let millis = with_unit(text, &TIMES, TIME_EXAMPLES)?;
                let span = Duration::from_millis(self.within(range, millis)?);
                Ok(Value::Span(span))
            }
            Self::Size(range) => {
                let bytes = with_unit(text, &SIZES, "512KiB, 64MiB or 2GiB")?;
                self.within(range, bytes).map(Value::Size)
            }
        }
    }

    fn within(self, range: Range, value: u64) -> Result<u64, String> {
        if (range.least..=range.most).contains(&value) {
            return Ok(value);
        }
        Err(format!("is out of range; it may be {}", self.range()))
    }
}

/// Reads how long somebody waits: up to a day.
///
/// # Errors
/// What is wrong and what to write instead.
pub(crate) fn patience(text: &str) -> Result<Duration, String> {
    const RANGE: Range = Range {
        least: 0,
        most: DAY,
    };
    let millis = with_unit(text, &TIMES, TIME_EXAMPLES)?;
    let kept = Kind::Span(RANGE).within(RANGE, millis);
    kept.map(Duration::from_millis)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "is no address; write 127.0.0.1:8081, or port 0 for any free one".to_owned())
}

/// A number with one of these units, as a number of the smallest.
fn with_unit(text: &str, units: &[(&str, u64)], examples: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let known = if unit.is_empty() {
            "has no unit".to_owned()
        } else {
            format!("has the unknown unit `{unit}`")
        };
        return Err(format!("{known}; write {examples}"));
    };
    let number: u64 = match number {
        "" => return Err(format!("does not begin with a number; write {examples}")),
        digits => digits.parse().map_err(|_| "is too large".to_owned())?,
    };
    number
        .checked_mul(*factor)
        .ok_or_else(|| "is too large".to_owned())
}

/// A number in the largest unit that divides it.
fn shown(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |factor: u64| value != 0 && value.is_multiple_of(factor);
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| fits(*factor))
        .unwrap_or(&units[0]);
    format!("{}{name}", value / factor)
}

/// Checks a filter of log lines. A word alone would be taken for the name of a module, and its misspelt level for silence.
fn levels(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    if let Some(word) = text
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains('=') && !is_level(part))
    {
        return Err(format!(
            "holds `{word}`, which is no level; write one of {}, or module=level",
            LEVELS.join(", ")
        ));
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("is no filter: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: Kind, text: &str) -> String {
        kind.read(text).unwrap_err()
    }

    #[test]
    fn times_need_a_unit_and_say_which() {
        let kind = Kind::span(10, DAY);
        let millis = |text| kind.read(text);
        assert_eq!(millis("500ms"), Ok(Value::Span(Duration::from_millis(500))));
        assert_eq!(millis("5m"), Ok(Value::Span(Duration::from_mins(5))));
        assert!(refusal(kind, "10").contains("no unit"));
        assert!(refusal(kind, "10 secs").contains("unit ` secs`"));
        assert!(refusal(kind, "s").contains("number"));
        assert!(refusal(kind, "2d").contains("10ms to 1d"));
        assert!(refusal(kind, "99999999999999999999s").contains("too large"));
        assert!(refusal(kind, "9999999999999999999d").contains("too large"));
    }

    #[test]
    fn patience_is_a_time_of_up_to_a_day() {
        assert_eq!(patience("0s"), Ok(Duration::ZERO));
        assert_eq!(patience("1d"), Ok(Duration::from_hours(24)));
        assert!(patience("25h").unwrap_err().contains("0ms to 1d"));
        assert!(patience("5").unwrap_err().contains("no unit"));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        let kind = Kind::size(MIB, 64 * TIB);
        assert_eq!(kind.read("2GiB"), Ok(Value::Size(2 << 30)));
        assert!(refusal(kind, "2GB").contains("unknown unit `GB`"));
        assert!(refusal(kind, "1KiB").contains("1MiB to 64TiB"));
    }

    #[test]
    fn an_address_has_a_port_and_no_name() {
        for address in ["127.0.0.1:0", "[::1]:8081", "0.0.0.0:80"] {
            assert!(Kind::Listen.read(address).is_ok(), "{address}");
        }
        for text in ["8081", "localhost:8081", "127.0.0.1"] {
            assert!(refusal(Kind::Listen, text).contains("127.0.0.1:8081"));
        }
    }

    #[test]
    fn refusals_say_what_is_accepted() {
        assert!(refusal(Kind::Choice(&["text", "json"]), "xml").contains("text, json"));
        assert!(refusal(Kind::Switch, "yes").contains("true"));
        assert!(refusal(Kind::Name, "Fleet").contains("lower-case"));
        assert!(refusal(Kind::Location, "checkpoints").contains("./dir"));
        assert!(refusal(Kind::count(1, 9), "0").contains("1 to 9"));
        assert!(refusal(Kind::Text, "").contains("empty"));
    }
}
