//! Nanoseconds per record to read and write different payments, here and with `serde_json`.
//!
//! Run with `cargo run --release -p highwater-json --example decode_bench`. Every record differs in all fields, so that
//! the branch predictor cannot learn one text by heart. Each number is the best of several passes.

use std::hint::black_box;
use std::io::Write;

use compact_str::CompactString;
use highwater_derive::{FromJson, ToJson};
use highwater_json::{Cents, FromJson as _, Scratch, ToJson as _};
use highwater_types::EventTime;

const RECORDS: usize = 200_000;
const PASSES: usize = 9;

#[derive(Debug, FromJson, ToJson)]
struct Payment {
    event_time: EventTime,
    user_id: CompactString,
    amount: f64,
    status: Status,
}

#[allow(dead_code, reason = "only the time to read it matters")]
#[derive(FromJson)]
struct PaymentInCents {
    event_time: EventTime,
    user_id: CompactString,
    amount: Cents,
    status: Status,
}

#[allow(dead_code, reason = "only the time to read it matters")]
#[derive(FromJson)]
struct WidePayment {
    event_time: EventTime,
    user_id: CompactString,
    amount: f64,
    status: Status,
    card_id: Option<CompactString>,
    category: u16,
}

#[allow(dead_code, reason = "only the time to read it matters")]
#[derive(FromJson)]
struct UserOnly {
    user_id: CompactString,
}

#[derive(Clone, Copy, Debug, FromJson, ToJson, serde::Deserialize, serde::Serialize)]
#[json(rename_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Approved,
    Declined,
    #[json(other)]
    #[serde(other)]
    Other,
}

/// The reference reads into borrowed text and leaves the time unparsed: less work than the record above asks for.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
struct Reference<'a> {
    event_time: &'a str,
    user_id: &'a str,
    amount: f64,
    status: Status,
}

/// A small deterministic generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn texts(write: fn(&str, u64, &str, &str) -> String) -> Vec<String> {
    let mut numbers = Numbers(42);
    let mut ms = 1_767_225_600_000;
    (0..RECORDS)
        .map(|_| {
            ms += numbers.below(800) as i64;
            let mut time = Vec::new();
            EventTime(ms).to_json(&mut time);
            let amount = format!("{}.{:02}", numbers.below(2_000), numbers.below(100));
            let status = match numbers.below(100) {
                0..8 => "DECLINED",
                8 => "PENDING",
                _ => "APPROVED",
            };
            write(
                &String::from_utf8_lossy(&time),
                numbers.below(60_000),
                &amount,
                status,
            )
        })
        .collect()
}

/// The best time of a pass over all texts, in nanoseconds per record.
fn measure(texts: &[String], mut pass: impl FnMut(&[u8])) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        #[allow(clippy::disallowed_methods, reason = "a bench owns a clock")]
        let begin = std::time::Instant::now();
        for text in texts {
            pass(black_box(text.as_bytes()));
        }
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best * 1e9 / texts.len() as f64
}

fn read<T: highwater_json::FromJson>(texts: &[String]) -> f64 {
    let mut scratch = Scratch::new();
    measure(texts, |text| {
        black_box(T::from_json(text, &mut scratch).expect("a valid payment"));
    })
}

fn write_all(texts: &[String]) -> f64 {
    let mut scratch = Scratch::new();
    let payments: Vec<Payment> = texts
        .iter()
        .map(|text| Payment::from_json(text.as_bytes(), &mut scratch).expect("a valid payment"))
        .collect();
    let (mut out, mut at) = (Vec::new(), 0);
    measure(texts, |_| {
        out.clear();
        payments[at % payments.len()].to_json(&mut out);
        at += 1;
        black_box(&out);
    })
}

fn main() -> std::io::Result<()> {
    let compact = texts(|time, user, amount, status| {
        format!(
            r#"{{"event_time":{time},"user_id":"u{user}","amount":{amount},"status":"{status}"}}"#
        )
    });
    let spaced = texts(|time, user, amount, status| {
        format!(
            r#"{{"event_time": {time}, "user_id": "u{user}", "amount": {amount}, "status": "{status}"}}"#
        )
    });
    let reordered = texts(|time, user, amount, status| {
        format!(
            r#"{{"status":"{status}","amount":{amount},"user_id":"u{user}","event_time":{time}}}"#
        )
    });
    let extra = texts(|time, user, amount, status| {
        format!(
            r#"{{"event_time":{time},"user_id":"u{user}","country":"SE","amount":{amount},"status":"{status}"}}"#
        )
    });
    let wide = texts(|time, user, amount, status| {
        let category = 1_000 + user % 9_000;
        format!(
            r#"{{"event_time":{time},"user_id":"u{user}","amount":{amount},"status":"{status}","card_id":"c-{user:08}","category":{category}}}"#
        )
    });
    let rows = [
        ("read, expected order", read::<Payment>(&compact)),
        ("read, six fields in 134 bytes", read::<WidePayment>(&wide)),
        ("read, amount in cents", read::<PaymentInCents>(&compact)),
        ("read, one field of four", read::<UserOnly>(&compact)),
        ("read, spaces behind , and :", read::<Payment>(&spaced)),
        ("read, reversed order", read::<Payment>(&reordered)),
        ("read, one unknown field", read::<Payment>(&extra)),
        ("serde_json, borrowed, time unparsed", serde(&compact)),
        ("check of UTF-8 alone", utf8(&compact)),
        ("write", write_all(&compact)),
    ];
    let bytes: usize = compact.iter().map(String::len).sum();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{RECORDS} payments of {} bytes on average",
        bytes / RECORDS
    )?;
    for (what, ns) in rows {
        writeln!(out, "{what:36} {ns:8.1} ns per record")?;
    }
    Ok(())
}

fn serde(texts: &[String]) -> f64 {
    measure(texts, |text| {
        black_box(serde_json::from_slice::<Reference<'_>>(text).expect("a valid payment"));
    })
}

fn utf8(texts: &[String]) -> f64 {
    measure(texts, |text| {
        black_box(std::str::from_utf8(text).expect("UTF-8"));
    })
}
