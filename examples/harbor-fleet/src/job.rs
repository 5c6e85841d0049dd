//! The job: payments in, alerts, counts, late payments and dead letters out, each exactly once.
//!
//! ```text
//! source-auth ─ hash by user ─► r2-spend ─ declined only ─ hash by user ─► r1-count ─► counts
//!      └ dead letters                └ alerts of R2 ─┐                       ├ late ─► late payments
//!                                                    └───── union ◄──────────┘ alerts of R1
//!                                                              └─► blocklist ─► alerts
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use highwater::json::{Json, clock};
use highwater::prelude::{
    BadRecords, DataStream, FileLogSource, FileSink, OutputTag, StreamEnvironment, Tumbling,
    UserError, WatermarkStrategy,
};
use highwater_connectors::DeadLetter;
use highwater_json::{Cents, ToJson};

use crate::blocklist::{BlocklistLookup, options};
use crate::payments::{
    ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, DeclineCount, FraudAlert, LATE_TOPIC,
    PAYMENTS_TOPIC, Payment, Status, WINDOW_MS,
};
use crate::rules::declines::DeclineRule;
use crate::rules::spend::SpendRule;
use crate::rules::window::{CountAndAlert, Declines};
use crate::rules::{ALLOWED_LATENESS_MS, ScoredPayment};

/// How far behind the newest payment of a partition a payment may be and still count as in time, in milliseconds.
pub const OUT_OF_ORDERNESS_MS: i64 = 45_000;
/// Without payments for this long a partition does not hold the others back, in milliseconds.
const IDLE_AFTER_MS: i64 = 1_000;
/// Alerts above this spend.
const SPEND_ALERT: Cents = Cents(500_000);

fn required<'a>(env: &'a StreamEnvironment, name: &str) -> Result<&'a str, UserError> {
    let missing = || format!("the job needs --param {name}=...").into();
    env.parameter(name).ok_or_else(missing)
}

/// Builds the job. Parameters: `input`, `output` (directories), `blocklist` (address), `rule` (`process` or `window`).
///
/// # Errors
/// When a parameter is missing or cannot be read.
pub fn fraud_scorer(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let (input, output) = (
        PathBuf::from(required(env, "input")?),
        PathBuf::from(required(env, "output")?),
    );
    let blocklist: SocketAddr = required(env, "blocklist")?.parse()?;
    let by_window = env.parameter("rule") == Some("window");
    let log = FileLogSource::until_end_marker(
        input,
        PAYMENTS_TOPIC,
        Json::<Payment>::decoder(),
        clock()?,
    );
    let strategy =
        WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDERNESS_MS).idle_after(IDLE_AFTER_MS);
    let payments = env
        .source("source-auth", log.bad_records(BadRecords::DeadLetter))
        .watermarks(strategy, |payment: &Payment| payment.event_time);
    payments.dead_letters().sink(
        "dlq-sink",
        FileSink::new(output.join(DEAD_LETTER_TOPIC), write_dead_letter),
    );

    let alerts = OutputTag::<FraudAlert>::new("alerts");
    let scored: DataStream<ScoredPayment> = payments
        .key_by(|payment| payment.user_id.clone())
        .process("r2-spend", SpendRule::new(&alerts, SPEND_ALERT, 0.0));
    let declines = scored.filter(|scored| scored.payment.status == Status::Declined);
    let (counts, late) = if by_window {
        window_rule(&declines, &alerts)
    } else {
        process_rule(&declines, &alerts)
    };
    counts.sink("count-sink", json_sink(&output, COUNTS_TOPIC));
    late.sink("late-sink", json_sink(&output, LATE_TOPIC));
    counts
        .side_output(&alerts)
        .union(&scored.side_output(&alerts))
        .lookup::<FraudAlert, _>("blocklist", BlocklistLookup::new(blocklist), options())
        .sink("alert-sink", json_sink(&output, ALERTS_TOPIC));
    Ok(())
}

type Counts = (DataStream<DeclineCount>, DataStream<Payment>);

/// R1 as a process function.
fn process_rule(declines: &DataStream<ScoredPayment>, alerts: &OutputTag<FraudAlert>) -> Counts {
    let late = OutputTag::<Payment>::new("late");
    let counts = declines
        .key_by(|scored| scored.payment.user_id.clone())
        .process("r1-count", DeclineRule::new(alerts, &late));
    let late = counts.side_output(&late);
    (counts, late)
}

/// R1 with the window operator.
fn window_rule(declines: &DataStream<ScoredPayment>, alerts: &OutputTag<FraudAlert>) -> Counts {
    let late = OutputTag::<ScoredPayment>::new("late");
    let counts = declines
        .key_by(|scored| scored.payment.user_id.clone())
        .window_of(Tumbling::try_new(WINDOW_MS))
        .allowed_lateness(ALLOWED_LATENESS_MS)
        .late_to(&late)
        .aggregate(
            "r1-count",
            Declines,
            CountAndAlert {
                alerts: alerts.clone(),
            },
        );
    let late = counts.side_output(&late).map(|scored| scored.payment);
    (counts, late)
}

fn json_sink<T: ToJson + highwater_types::Record>(output: &Path, topic: &str) -> FileSink<T> {
    FileSink::new(output.join(topic), Json::format())
}

/// A dead letter as JSON: where it was read, why it is none, and the line as escaped text.
fn write_dead_letter(letter: &DeadLetter, out: &mut Vec<u8>) {
    let value = serde_json::json!({
        "split": letter.split.as_str(),
        "position": letter.position,
        "reason": letter.reason,
        "payload": letter.payload.escape_ascii().to_string(),
    });
    out.extend_from_slice(value.to_string().as_bytes());
}
