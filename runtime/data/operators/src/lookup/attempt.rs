//! One request on the rim: attempts with timeouts and delays, and the reply to the slot thread.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use highwater_connectors::WakeHandle;
use highwater_types::{Classified, ErrorKind, Record};
use tokio::time::{Instant, sleep, timeout};

use super::AsyncLookup;
use super::options::LookupOptions;
use crate::error::UserError;

/// Why a lookup got no answer, apart from errors of the lookup itself.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// An attempt took too long.
    #[error(
        "an attempt took longer than {limit:?}; raise the attempt timeout or look at the service"
    )]
    AttemptTimeout {
        /// The limit.
        limit: Duration,
    },
    /// All attempts together took too long.
    #[error(
        "no answer within {limit:?} after {attempts} attempts; raise the total timeout or look at the service"
    )]
    TotalTimeout {
        /// The limit.
        limit: Duration,
        /// How many attempts were begun.
        attempts: usize,
        /// The error of the attempt before the last.
        #[source]
        last: Option<UserError>,
    },
    /// The lookup panicked.
    #[error("the lookup panicked; its message is in the log of the worker")]
    Panicked,
}

impl Classified for LookupError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::AttemptTimeout { .. } | Self::TotalTimeout { .. } => ErrorKind::Transient,
            Self::Panicked => ErrorKind::Bug,
        }
    }
}

/// The outcome of one request; `None` = it was dropped before it had one.
pub(super) struct Completion<Out> {
    pub(super) number: u64,
    pub(super) outcome: Option<Result<Out, UserError>>,
    pub(super) tally: Tally,
}

/// What one request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Attempts that were begun.
    pub(super) attempts: u64,
    /// The budget allowed no further attempt.
    pub(super) was_refused: bool,
    /// The time for all attempts was over.
    pub(super) ran_out_of_time: bool,
    /// There was no answer.
    pub(super) has_failed: bool,
    /// From the first attempt to the end.
    pub(super) took: Duration,
}

/// Sends exactly one completion, also when the request panics, and wakes the slot thread behind it.
pub(super) struct Reply<Out> {
    completion: Option<Completion<Out>>,
    to: SyncSender<Completion<Out>>,
    wake: WakeHandle,
}

impl<Out> Reply<Out> {
    pub(super) const fn new(
        number: u64,
        to: SyncSender<Completion<Out>>,
        wake: WakeHandle,
    ) -> Self {
        let tally = Tally {
            attempts: 0,
            was_refused: false,
            ran_out_of_time: false,
            has_failed: false,
            took: Duration::ZERO,
        };
        Self {
            completion: Some(Completion {
                number,
                outcome: None,
                tally,
            }),
            to,
            wake,
        }
    }

    pub(super) fn send(mut self, outcome: Result<Out, UserError>, tally: Tally) {
        if let Some(completion) = self.completion.as_mut() {
            completion.outcome = Some(outcome);
            completion.tally = tally;
        }
    }
}

impl<Out> Drop for Reply<Out> {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            // Never full: the channel holds as many as may be in flight. Closed when the operator is gone: nobody waits.
            if self.to.try_send(completion).is_ok() {
                self.wake.wake();
            }
        }
    }
}

/// What the attempts so far have come to.
#[derive(Default)]
struct Tried {
    attempts: usize,
    last: Option<UserError>,
    /// The budget allowed no further attempt.
    was_refused: bool,
}

/// Tries until there is an answer, the retries are used up or the time is over.
pub(super) async fn resolve<L, In, Out>(
    lookup: Arc<L>,
    input: In,
    options: Arc<LookupOptions>,
    seed: u64,
) -> (Result<Out, UserError>, Tally)
where
    L: AsyncLookup<In, Out>,
    In: Record,
    Out: Record,
{
    let (mut tried, began) = (Tried::default(), Instant::now());
    if let Some(budget) = &options.budget {
        budget.note_request(began);
    }
    let limit = options.total_timeout;
    let attempts = attempts(lookup.as_ref(), &input, &options, seed, &mut tried);
    let ended = timeout(limit, attempts).await;
    let mut tally = Tally {
        attempts: tried.attempts as u64,
        was_refused: tried.was_refused,
        ran_out_of_time: ended.is_err(),
        has_failed: true,
        took: began.elapsed(),
    };
    let error = match ended {
        Ok(Ok(answer)) => {
            tally.has_failed = false;
            return (Ok(answer), tally);
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => {
            let Tried { attempts, last, .. } = tried;
            LookupError::TotalTimeout {
                limit,
                attempts,
                last,
            }
            .into()
        }
    };
    (lookup.on_failure(input, error), tally)
}

async fn attempts<L, In, Out>(
    lookup: &L,
    input: &In,
    options: &LookupOptions,
    seed: u64,
    tried: &mut Tried,
) -> Result<Out, UserError>
where
    L: AsyncLookup<In, Out>,
    In: Record,
{
    loop {
        tried.attempts += 1;
        let limit = options.attempt_timeout;
        let attempt = timeout(limit, lookup.lookup(input.clone())).await;
        let (error, retryable) = match attempt {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                let retryable = lookup.is_retryable(&error);
                (error, retryable)
            }
            Err(_elapsed) => (LookupError::AttemptTimeout { limit }.into(), true),
        };
        let delay = options
            .delay(tried.attempts - 1, seed)
            .filter(|_| retryable);
        let Some(delay) = delay else {
            return Err(error);
        };
        let budget = options.budget.as_ref();
        if !budget.is_none_or(|budget| budget.try_retry(Instant::now())) {
            tried.was_refused = true;
            return Err(error);
        }
        tried.last = Some(error);
        sleep(delay).await;
    }
}
