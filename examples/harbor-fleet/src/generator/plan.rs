//! Draws all payments of a profile and puts them in order of arrival.

use std::collections::BTreeSet;

use compact_str::{CompactString, format_compact};
use highwater_connectors::Random;
use highwater_json::{Cents, ToJson};
use highwater_types::EventTime;
use highwater_types::key::hash_bytes;

use super::draw::{Popularity, amount, between};
use super::{Profile, Silence, Wide};
use crate::payments::{Payment, Status, WINDOW_MS};

/// The share of declined payments, bursts included.
const DECLINED: f64 = 0.08;
/// The share of payments with a status that the rules ignore.
const IGNORED: f64 = 0.005;
/// The share of (user, window) pairs with a burst of declines.
const BURSTS: f64 = 0.005;
/// The declines of a burst lie within this time.
const BURST_MS: i64 = 120_000;
/// The share of payments whose event time is a number instead of a text.
const TIME_AS_NUMBER: f64 = 0.02;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Approved,
    Declined,
    Ignored,
}

#[derive(Clone, Copy, Debug)]
struct Drawn {
    arrival: i64,
    event_time: i64,
    cents: i64,
    user: u32,
    answer: Answer,
    time_as_number: bool,
}

/// All lines of a log, in order of arrival.
pub struct PaymentPlan {
    partitions: u32,
    wide: Option<Wide>,
    /// Sorted by arrival; payments that arrive together keep the order in which they were drawn.
    drawn: Vec<Drawn>,
    /// Before which payment a malformed line stands, in order, and in which partition.
    malformed: Vec<(u64, u32)>,
}

impl PaymentPlan {
    /// Draws everything.
    pub fn new(profile: &Profile) -> Self {
        let mut drawing = Drawing {
            profile,
            random: Random::new(profile.seed),
            drawn: Vec::with_capacity(profile.payments as usize),
        };
        drawing.bursts();
        drawing.ordinary();
        let malformed = drawing.malformed();
        let mut drawn = drawing.drawn;
        drawn.sort_by_key(|payment| payment.arrival);
        Self {
            partitions: profile.partitions,
            wide: profile.wide,
            drawn,
            malformed,
        }
    }

    /// Hands every line to `write`, with its number and its partition, in order of arrival.
    ///
    /// # Errors
    /// The first error of `write`.
    pub fn lines<E>(
        &self,
        mut write: impl FnMut(u64, u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut malformed = self.malformed.iter().peekable();
        let (mut number, mut line) = (0, Vec::new());
        for (at, drawn) in (0_u64..).zip(&self.drawn) {
            while let Some((_, partition)) = malformed.next_if(|(before, _)| *before <= at) {
                write(number, *partition, malformed_line(number))?;
                number += 1;
            }
            line.clear();
            let wide = self.wide.filter(|wide| (at + 1).is_multiple_of(wide.every));
            let partition = drawn.write(self.partitions, wide, &mut line);
            write(number, partition, &line)?;
            number += 1;
        }
        Ok(())
    }
}

fn user_id(user: u32) -> CompactString {
    format_compact!("u{user:05}")
}

/// The partition of a user.
fn partition_of(user_id: &str, partitions: u32) -> u32 {
    (hash_bytes(user_id.as_bytes()).0 % u64::from(partitions)) as u32
}

impl Drawn {
    fn write(self, partitions: u32, wide: Option<Wide>, line: &mut Vec<u8>) -> u32 {
        let payment = Payment {
            event_time: EventTime(self.event_time),
            user_id: user_id(self.user),
            amount: Cents(self.cents),
            status: match (wide, self.answer) {
                (Some(wide), _) => Status::Other("W".repeat(wide.bytes).into()),
                (None, Answer::Approved) => Status::Approved,
                (None, Answer::Declined) => Status::Declined,
                (None, Answer::Ignored) if self.cents % 2 == 0 => Status::Other("PENDING".into()),
                (None, Answer::Ignored) => Status::Other("declined".into()),
            },
        };
        if self.time_as_number {
            let mut whole = Vec::new();
            payment.to_json(&mut whole);
            let behind_time = end_of_first_field(&whole);
            line.extend_from_slice(format!("{{\"event_time\":{}", self.event_time).as_bytes());
            line.extend_from_slice(&whole[behind_time..]);
        } else {
            payment.to_json(line);
        }
        partition_of(&payment.user_id, partitions)
    }
}

/// Where the first field of an object ends. The time that stands there holds no comma.
fn end_of_first_field(object: &[u8]) -> usize {
    let comma = object.iter().position(|&byte| byte == b',');
    comma.unwrap_or(object.len())
}

/// Lines that no decoder may take for a payment. Every kind of damage takes its turn.
pub(super) fn malformed_line(number: u64) -> &'static [u8] {
    const LINES: &[&[u8]] = &[
        br#"{"event_time":"2026-03-02T10:00:00.000Z","user_id":"u00001","amount":1.00,"stat"#,
        b"",
        b"   ",
        b"not json",
        br#"["2026-03-02T10:00:00.000Z","u00001",1.00,"DECLINED"]"#,
        br#"{"event_time":"2026-03-02T10:00:00.000Z","amount":1.00,"status":"DECLINED"}"#,
        br#"{"event_time":"2026-03-02T10:00:00.000Z","user_id":17,"amount":1.00,"status":"DECLINED"}"#,
        br#"{"event_time":"2026-03-02T10:00:00.000Z","user_id":"u00001","amount":"a lot","status":"DECLINED"}"#,
        br#"{"event_time":"yesterday","user_id":"u00001","amount":1.00,"status":"DECLINED"}"#,
        br#"{"event_time":null,"user_id":"u00001","amount":1.00,"status":"DECLINED"}"#,
        b"{\"event_time\":\"2026-03-02T10:00:00.000Z\",\"user_id\":\"\xff\xfe\",\"amount\":1.00,\"status\":\"DECLINED\"}",
        br#"{"event_time":"2026-03-02T10:00:00.000Z","user_id":"u00001","amount":1.00,"status":"DECLINED"} x"#,
    ];
    LINES[(number % LINES.len() as u64) as usize]
}

struct Drawing<'a> {
    profile: &'a Profile,
    random: Random,
    drawn: Vec<Drawn>,
}

impl Drawing<'_> {
    /// Whether a payment would break the silence of its partition: it happens or arrives in it, or spans it.
    fn breaks_silence(&self, user: u32, event_time: i64, arrival: i64) -> bool {
        let Some(Silence {
            partition,
            after_ms,
            length_ms,
        }) = self.profile.silence
        else {
            return false;
        };
        let start = self.profile.start_ms + after_ms;
        let apart = arrival < start || start + length_ms <= event_time;
        !apart && partition_of(&user_id(user), self.profile.partitions) == partition
    }

    /// Draws times within `from..until` until they keep the silence; false = they cannot.
    fn payment(&mut self, user: u32, answer: Answer, (from, until): (i64, i64)) -> bool {
        const TRIES: usize = 1_000;
        for _ in 0..TRIES {
            let event_time = between(from, until, &mut self.random);
            let arrival = event_time + self.profile.delays.draw(&mut self.random);
            if !self.breaks_silence(user, event_time, arrival) {
                let cents = amount(&mut self.random);
                let time_as_number = self.random.chance(TIME_AS_NUMBER);
                self.drawn.push(Drawn {
                    arrival,
                    event_time,
                    cents,
                    user,
                    answer,
                    time_as_number,
                });
                return true;
            }
        }
        false
    }

    /// Bursts of 6 to 12 declines, each in a (user, window) of its own.
    fn bursts(&mut self) {
        let windows = self.profile.span_ms / WINDOW_MS;
        let pairs = i64::from(self.profile.users) * windows;
        let wanted = (pairs as f64 * BURSTS).round() as usize;
        let mut chosen = BTreeSet::new();
        while chosen.len() < wanted {
            let pair = between(0, pairs, &mut self.random);
            if !chosen.insert(pair) {
                continue;
            }
            let (user, window) = ((pair / windows) as u32, pair % windows);
            let start = self.profile.start_ms + window * WINDOW_MS;
            let from = start + between(0, WINDOW_MS - BURST_MS, &mut self.random);
            for _ in 0..between(6, 13, &mut self.random) {
                let full = self.drawn.len() as u64 == self.profile.payments;
                if full || !self.payment(user, Answer::Declined, (from, from + BURST_MS)) {
                    break;
                }
            }
        }
    }

    /// Everything else, up to the number of payments and the share of declines of the profile.
    fn ordinary(&mut self) {
        let burst = self.drawn.len() as f64;
        let rest = self.profile.payments as f64 - burst;
        let declined = ((self.profile.payments as f64 * DECLINED - burst) / rest).max(0.0);
        let popularity = Popularity::new(self.profile.users);
        let span = (
            self.profile.start_ms,
            self.profile.start_ms + self.profile.span_ms,
        );
        while (self.drawn.len() as u64) < self.profile.payments {
            let hot = self.profile.hot_percent;
            // Without hot payments nothing is drawn for them: other profiles keep their bytes.
            let is_hot = hot > 0 && self.random.below(100) < hot;
            let user = if is_hot {
                0
            } else {
                popularity.draw(&mut self.random)
            };
            let kind = self.random.unit();
            let answer = if kind < declined {
                Answer::Declined
            } else if kind < declined + IGNORED {
                Answer::Ignored
            } else {
                Answer::Approved
            };
            self.payment(user, answer, span);
        }
    }

    /// Where malformed lines stand: anywhere but in the partition that falls silent.
    fn malformed(&mut self) -> Vec<(u64, u32)> {
        let silent = self.profile.silence.map(|silence| silence.partition);
        let mut lines = Vec::new();
        while (lines.len() as u64) < self.profile.malformed {
            let before = self.random.below(self.profile.payments);
            let partition = self.random.below(u64::from(self.profile.partitions)) as u32;
            if Some(partition) != silent {
                lines.push((before, partition));
            }
        }
        lines.sort_unstable();
        lines
    }
}
