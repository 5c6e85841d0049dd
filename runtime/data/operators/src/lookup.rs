//! Asynchronous lookup: asks something outside for each record, on the rim, with a bounded number of requests open.
//!
//! Stands at the head of its chain, so that a full operator holds its input back through [`Operator::room`]. The rule it
//! keeps: no record and no watermark passes a watermark, in either order mode. Inputs without an emitted answer are list
//! state: after a restore they are asked again, so the outside may see a request twice and the output shows it once.
//!
//! Source: Flink `AsyncWaitOperator`.

mod attempt;
mod budget;
mod options;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use highwater_connectors::WakeHandle;
use highwater_metrics::Spans;
use highwater_types::{
    CheckpointBarrier, Chunk, DecodeError, EventTime, KeyHash, Record, StreamStatus, Watermark,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

pub use self::attempt::LookupError;
use self::attempt::{Completion, Reply, Tally, resolve};
pub use self::budget::RetryBudget;
pub use self::options::{LookupOptions, LookupOrder};
use crate::chain::Downstream;
use crate::context::OperatorContext;
use crate::error::{OperatorError, UserError};
use crate::operator::{Operator, OperatorReport, Progress};
use crate::outputs::Outputs;
use crate::snapshot::{ListStateSnapshot, OperatorSnapshot, Redistribution, SnapshotStep};

/// The list state of inputs that have no emitted answer.
const OPEN_INPUTS: &str = "open-inputs";

/// Asks something outside. Runs on the rim: must not block its thread.
///
/// Source: Flink `RichAsyncFunction`.
pub trait AsyncLookup<In, Out>: Send + Sync + 'static {
    /// One attempt for `input`. Dropped when its time is over.
    ///
    /// # Cancel safety
    /// The future is dropped at any await point by a timeout, and when the attempt of the job ends.
    fn lookup(&self, input: In) -> impl Future<Output = Result<Out, UserError>> + Send;

    /// Whether another attempt may help after `error`. Timeouts of an attempt are always tried again.
    fn is_retryable(&self, _error: &UserError) -> bool {
        true
    }

    /// What to emit when no attempt succeeded. The default fails the job attempt.
    fn on_failure(&self, _input: In, error: UserError) -> Result<Out, UserError> {
        Err(error)
    }
}

/// What the requests of one subtask did since its attempt began, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReport {
    /// Requests that were sent, tries after the first included.
    pub requests: u64,
    /// Those that were tried again.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub retries_refused: u64,
    /// Records whose whole time was over.
    pub timeouts: u64,
    /// Records that got no answer, those of `timeouts` included.
    pub failures: u64,
    /// From the first request for a record to its end, whatever that was.
    pub durations: Spans,
}

impl LookupReport {
    fn add(&mut self, tally: &Tally) {
        self.requests += tally.attempts;
        self.retries += tally.attempts.saturating_sub(1);
        self.retries_refused += u64::from(tally.was_refused);
        self.timeouts += u64::from(tally.ran_out_of_time);
        self.failures += u64::from(tally.has_failed);
        self.durations.observe(tally.took);
    }
}

/// A record that was taken and whose answer was not emitted.
struct OpenInput<In, Out> {
    input: In,
    time: EventTime,
    answer: Option<Out>,
}

/// What waits for all records before it.
#[derive(Clone, Copy, Debug)]
enum Held {
    Watermark(Watermark),
    Status(StreamStatus),
}

/// The lookup operator. One record out for each record in, with its event time.
pub struct Lookup<L, In, Out> {
    service: Arc<L>,
    options: Arc<LookupOptions>,
    rim: tokio::runtime::Handle,
    wake: WakeHandle,
    /// Sets the jitter of this subtask apart from that of others.
    seed: u64,
    /// Aborts what still runs when the operator is dropped.
    requests: JoinSet<()>,
    reply_to: SyncSender<Completion<Out>>,
    replies: Receiver<Completion<Out>>,
    in_flight: usize,
    counted: LookupReport,
    /// Taken and not emitted, in the order of arrival.
    open: BTreeMap<u64, OpenInput<In, Out>>,
    /// The numbers of open inputs that have an answer.
    answered: BTreeSet<u64>,
    next_number: u64,
    /// Open inputs from this number on are not asked yet.
    next_unasked: u64,
    /// Elements, each behind all inputs with a smaller number.
    held: VecDeque<(u64, Held)>,
    snapshot: Option<Vec<Vec<u8>>>,
}

impl<L, In, Out> Lookup<L, In, Out>
where
    L: AsyncLookup<In, Out>,
    In: Record,
    Out: Record,
{
    /// Opens the operator and asks again for every restored input.
    ///
    /// # Errors
    /// `Corrupt` when a restored input cannot be decoded.
    pub fn open(
        context: &OperatorContext,
        lookup: L,
        options: LookupOptions,
    ) -> Result<Self, OperatorError> {
        let (reply_to, replies) = sync_channel(options.capacity);
        let mut operator = Self {
            service: Arc::new(lookup),
            options: Arc::new(options),
            rim: context.rim.clone(),
            wake: context.wake.clone(),
            seed: u64::from(context.subtask.0),
            requests: JoinSet::new(),
            reply_to,
            replies,
            in_flight: 0,
            counted: LookupReport::default(),
            open: BTreeMap::new(),
            answered: BTreeSet::new(),
            next_number: 0,
            next_unasked: 0,
            held: VecDeque::new(),
            snapshot: None,
        };
        let restored = context.restored.as_ref();
        for item in restored.map_or(&[][..], |state| state.list(OPEN_INPUTS)) {
            let (input, time) = decode_open(item).map_err(|e| OperatorError::Restore {
                name: OPEN_INPUTS.to_owned(),
                reason: e.to_string(),
            })?;
            operator.take(input, time);
        }
        operator.ask_more();
        Ok(operator)
    }

    fn take(&mut self, input: In, time: EventTime) {
        let answer = None;
        let open = OpenInput {
            input,
            time,
            answer,
        };
        self.open.insert(self.next_number, open);
        self.next_number += 1;
    }

    /// Starts requests while there is capacity and an input that was not asked.
    fn ask_more(&mut self) {
        while self.in_flight < self.options.capacity {
            let Some((&number, open)) = self.open.range(self.next_unasked..).next() else {
                return;
            };
            let reply = Reply::new(number, self.reply_to.clone(), self.wake.clone());
            let request = resolve(
                Arc::clone(&self.service),
                open.input.clone(),
                Arc::clone(&self.options),
                self.seed << 40 ^ number,
            );
            let answered = async move {
                let (outcome, tally) = request.await;
                reply.send(outcome, tally);
            };
            self.requests.spawn_on(answered, &self.rim);
            self.next_unasked = number + 1;
            self.in_flight += 1;
        }
    }

    /// Takes the answers that have come and asks on.
    fn take_replies(&mut self) -> Result<(), OperatorError> {
        while let Ok(completion) = self.replies.try_recv() {
            self.in_flight -= 1;
            if completion.outcome.is_some() {
                self.counted.add(&completion.tally);
            }
            let panicked = || Err(LookupError::Panicked.into());
            let outcome = completion.outcome.unwrap_or_else(panicked);
            let answer = outcome.map_err(|e| OperatorError::user("lookup", e))?;
            if let Some(open) = self.open.get_mut(&completion.number) {
                open.answer = Some(answer);
                self.answered.insert(completion.number);
            }
        }
        while self.requests.try_join_next().is_some() {}
        self.ask_more();
        Ok(())
    }

    /// The number of the next input whose answer may be emitted.
    fn next_ready(&self) -> Option<u64> {
        let answered = *self.answered.first()?;
        let barrier = self.held.front().map_or(u64::MAX, |&(number, _)| number);
        let may_leave = match self.options.order {
            LookupOrder::Ordered => {
                self.open.first_key_value().map(|(&first, _)| first) == Some(answered)
            }
            LookupOrder::Unordered => true,
        };
        (may_leave && answered < barrier).then_some(answered)
    }

    /// Emits answers and held elements as far as the order allows. `More` = what is behind must finish first.
    fn emit_ready(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        loop {
            while let Some(number) = self.next_ready() {
                self.answered.remove(&number);
                let open = self.open.remove(&number);
                let emitted = open.and_then(|open| Some((open.answer?, open.time)));
                if let Some((answer, time)) = emitted {
                    out.emit(answer, time)?;
                }
            }
            let first_open = self
                .open
                .first_key_value()
                .map_or(u64::MAX, |(&first, _)| first);
            match self.held.front() {
                Some(&(number, held)) if number <= first_open => {
                    self.held.pop_front();
                    if forward(held, out)? != Progress::Done {
                        return Ok(Progress::More);
                    }
                }
                _ => return Ok(Progress::Done),
            }
        }
    }

    /// Holds an element behind all open inputs, or forwards it when there is none.
    fn hold(&mut self, element: Held, out: &mut Outputs<Out>) -> Result<(), OperatorError> {
        if self.open.is_empty() && self.held.is_empty() {
            // The link reports what is behind, so its progress is not needed here.
            return forward(element, out).map(|_| ());
        }
        let number = self.next_number;
        match (self.held.back_mut(), element) {
            // Without a record between them the later of two watermarks says all.
            (Some((at, Held::Watermark(earlier))), Held::Watermark(later)) if *at == number => {
                *earlier = later;
            }
            _ => self.held.push_back((number, element)),
        }
        Ok(())
    }
}

fn forward<Out: Record>(element: Held, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
    match element {
        Held::Watermark(watermark) => out.watermark(watermark),
        Held::Status(status) => out.status(status).map(|()| Progress::Done),
    }
}

fn encode_open<In: Record>(input: &In, time: EventTime) -> Vec<u8> {
    let mut item = Vec::new();
    time.encode(&mut item);
    input.encode(&mut item);
    item
}

fn decode_open<In: Record>(mut item: &[u8]) -> Result<(In, EventTime), DecodeError> {
    let time = EventTime::decode(&mut item)?;
    Ok((In::decode(&mut item)?, time))
}

impl<L, In, Out> Operator<In, Out> for Lookup<L, In, Out>
where
    L: AsyncLookup<In, Out>,
    In: Record,
    Out: Record,
{
    const HOLDS_WATERMARKS: bool = true;

    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<In>,
        _out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        chunk
            .drain()
            .for_each(|(input, time, KeyHash(_))| self.take(input, time));
        self.ask_more();
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        out: &mut Outputs<Out>,
    ) -> Result<Progress, OperatorError> {
        self.hold(Held::Watermark(watermark), out)?;
        Ok(Progress::Done)
    }

    fn on_status(
        &mut self,
        status: StreamStatus,
        out: &mut Outputs<Out>,
    ) -> Result<(), OperatorError> {
        self.hold(Held::Status(status), out)
    }

    fn on_turn(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        self.take_replies()?;
        self.emit_ready(out)
    }

    fn room(&self) -> usize {
        self.options.capacity.saturating_sub(self.open.len())
    }

    fn on_end(&mut self, out: &mut Outputs<Out>) -> Result<Progress, OperatorError> {
        let progress = self.on_turn(out)?;
        let is_empty = self.open.is_empty() && self.held.is_empty();
        Ok(if is_empty {
            progress
        } else {
            progress.and(Progress::Waiting)
        })
    }

    fn snapshot_start(&mut self, _barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        let items = self
            .open
            .values()
            .map(|open| encode_open(&open.input, open.time));
        self.snapshot = Some(items.collect());
        Ok(())
    }

    fn snapshot_step(&mut self) -> Result<SnapshotStep, OperatorError> {
        let items = self.snapshot.take().unwrap_or_default();
        let lists = vec![ListStateSnapshot {
            name: OPEN_INPUTS.to_owned(),
            redistribution: Redistribution::Split,
            items,
        }];
        Ok(SnapshotStep::Whole(OperatorSnapshot {
            lists,
            ..OperatorSnapshot::default()
        }))
    }

    fn snapshot_abort(&mut self) {
        self.snapshot = None;
    }

    fn report(&self, report: &mut OperatorReport) {
        report.in_flight = self.open.len() as u64;
        report.lookup = Some(self.counted);
    }
}
