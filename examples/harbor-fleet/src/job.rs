//! The job: payments in, alerts, counts, late payments and dead letters out, each exactly once.
//!
//! ```text
//! source-auth ─ hash by user ─► r2-spend ─ declined only ─ hash by user ─► r1-count ─► counts
//!      └ dead letters                └ alerts of R2 ─┐                       ├ late ─► late payments
//!                                                    └───── union ◄──────────┘ alerts of R1
//!                                                              └─► blocklist ─► alerts
//! ```

use std::net::SocketAddr;

use highwater::prelude::{
    DataStream, OutputTag, StreamEnvironment, Tumbling, UserError, WatermarkStrategy,
};
use highwater_json::Cents;

use crate::blocklist::{BlocklistLookup, options};
use crate::outside::{Outside, required};
use crate::payments::{DeclineCount, FraudAlert, Payment, Status, WINDOW_MS};
use crate::rules::declines::DeclineRule;
use crate::rules::spend::SpendRule;
use crate::rules::window::{CountAndAlert, Declines};
use crate::rules::{ALLOWED_LATENESS_MS, ScoredPayment};
use crate::trap::Trap;

/// How far behind the newest payment of a partition a payment may be and still count as in time, in milliseconds.
pub const OUT_OF_ORDERNESS_MS: i64 = 45_000;
/// Without payments for this long a partition does not hold the others back, in milliseconds.
pub const IDLE_AFTER_MS: i64 = 1_000;
/// Alerts above this spend.
const SPEND_ALERT: Cents = Cents(500_000);

/// Builds the job. Parameters: `kafka` and `topics`, or `input` and `output` (see [`Outside::of`]), `blocklist` (address),
/// `rule` (`process` or `window`), `idle-ms` (without payments for this long a partition does not hold the others back),
/// `trap` (see [`Trap`]).
///
/// # Errors
/// When a parameter is missing or cannot be read.
pub fn fraud_scorer(env: &mut StreamEnvironment) -> Result<(), UserError> {
    let outside = Outside::of(env)?;
    let blocklist: SocketAddr = required(env, "blocklist")?.parse()?;
    let idle_ms = env.parameter_or("idle-ms", IDLE_AFTER_MS)?;
    let by_window = env.parameter("rule") == Some("window");
    let trap = Trap::of(env);
    let strategy =
        WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDERNESS_MS).idle_after(idle_ms);
    let payments = outside
        .payments(env)?
        .watermarks(strategy, |payment: &Payment| payment.event_time);
    outside.put_dead_letters(&payments.dead_letters());

    let alerts = OutputTag::<FraudAlert>::new("alerts");
    let scored: DataStream<ScoredPayment> = payments
        .key_by(|payment| payment.user_id.clone())
        .process("r2-spend", SpendRule::new(&alerts, SPEND_ALERT, 0.0));
    let in_operator = trap.clone();
    let declines = scored.filter(move |scored| {
        in_operator.spring("operator");
        scored.payment.status == Status::Declined
    });
    let (counts, late) = if by_window {
        window_rule(&declines, &alerts)
    } else {
        process_rule(&declines, &alerts)
    };
    outside.put_counts(&counts);
    outside.put_late(&late);
    let lookup = BlocklistLookup::new(blocklist).with_trap(&trap);
    let alerts = counts
        .side_output(&alerts)
        .union(&scored.side_output(&alerts))
        .lookup::<FraudAlert, _>("blocklist", lookup, options());
    outside.put_alerts(&alerts);
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
