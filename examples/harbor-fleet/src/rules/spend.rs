//! R2a: what a card has spent since the last daily decay, in a value state that expires after a day without payments.
//!
//! The first payment of a UTC day that lifts the spend over the threshold raises an alert, once per card and day.

use compact_str::CompactString;
use highwater_derive::Record;
use highwater_json::Cents;
use highwater_operators::{
    FiredTimer, KeyedContext, KeyedProcessFunction, OpenContext, OutputTag, UserError,
};
use highwater_state::{StateHandle, TtlConfig, ValueState};
use highwater_types::{EventTime, ProcessingTime};

use crate::payments::{Blocklist, FraudAlert, Payment, Status, alert_id};
use crate::rules::{RULE_SPEND, ScoredPayment};

/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// What is remembered of a card.
#[derive(Clone, Debug, PartialEq, Record)]
pub struct CardSpend {
    /// What it has spent.
    pub amount: f64,
    /// The UTC day of its last alert, counted from the epoch; `-1` = none.
    pub alerted_day: i64,
}

type Spend = ValueState<CompactString, (), CardSpend>;

/// Rule R2a.
#[derive(Clone)]
pub struct SpendRule {
    alerts: OutputTag<FraudAlert>,
    /// Alerts above this.
    threshold: Cents,
    /// What is left of the spend at midnight UTC: 0 = nothing.
    decay: f64,
    spend: Option<StateHandle<Spend>>,
}

impl SpendRule {
    /// The rule with this threshold and daily decay.
    pub fn new(alerts: &OutputTag<FraudAlert>, threshold: Cents, decay: f64) -> Self {
        Self {
            alerts: alerts.clone(),
            threshold,
            decay,
            spend: None,
        }
    }

    fn spend(&self) -> StateHandle<Spend> {
        self.spend.expect("the function was opened")
    }

    fn alert(user: &CompactString, payment: &Payment, spend: Cents, day: i64) -> FraudAlert {
        let start = EventTime(day * DAY_MS);
        FraudAlert {
            alert_id: alert_id(RULE_SPEND, user, start),
            rule: RULE_SPEND.into(),
            user_id: user.clone(),
            window_start: start,
            window_end: start.saturating_add(DAY_MS),
            count_at_alert: 0,
            first_decline: payment.event_time,
            last_decline: payment.event_time,
            blocklist: Blocklist::Unknown,
            spend,
            late: false,
            job_version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

impl KeyedProcessFunction<CompactString, Payment, ScoredPayment> for SpendRule {
    fn open(&mut self, context: &mut OpenContext<'_, CompactString>) -> Result<(), UserError> {
        self.spend = Some(context.value("spend", Some(TtlConfig::after_write(DAY_MS)))?);
        Ok(())
    }

    fn on_record(
        &mut self,
        payment: Payment,
        context: &mut KeyedContext<'_, CompactString, ScoredPayment>,
    ) -> Result<(), UserError> {
        let now = context.now().millis();
        let day = now.div_euclid(DAY_MS);
        let held = context.state(self.spend()).get().cloned();
        let mut card = held.unwrap_or(CardSpend {
            amount: 0.0,
            alerted_day: -1,
        });
        if payment.status == Status::Approved {
            card.amount += payment.amount.0 as f64 / 100.0;
        }
        let spend = Cents((card.amount * 100.0).round() as i64);
        if spend > self.threshold && card.alerted_day != day {
            card.alerted_day = day;
            let alert = Self::alert(&payment.user_id, &payment, spend, day);
            context.emit_side(&self.alerts, alert);
        }
        if payment.status == Status::Approved {
            context.state(self.spend()).set(card);
            context.register_processing_timer(ProcessingTime((day + 1) * DAY_MS));
        }
        context.emit(ScoredPayment { payment, spend });
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: FiredTimer,
        context: &mut KeyedContext<'_, CompactString, ScoredPayment>,
    ) -> Result<(), UserError> {
        let mut state = context.state(self.spend());
        let Some(mut card) = state.get().cloned() else {
            return Ok(());
        };
        card.amount *= self.decay;
        if card.amount == 0.0 {
            state.clear();
        } else {
            state.set(card);
        }
        Ok(())
    }
}
