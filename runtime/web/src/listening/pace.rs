//! How long each step of a connection may take: the head of a request, the answer, the rest after it.
//!
//! The stream tells when bytes come ([`Paced`]), the service when a head is whole and when its answer has gone; [`Pace::overdue`] ends when a
//! step has taken too long. The rule: more bytes extend nothing, so that a head of one byte a second is as late as one that never comes. An
//! answer may take as long as the job does, since whoever asks for a savepoint waits for it; what was written of it must be taken in time.

use std::future::pending;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Where a connection is, and until when what is written must be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    step: Step,
    /// `None` = nothing that was written waits to be taken.
    taken_by: Option<Instant>,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The head of a request is on its way, or should be, until then.
    Head(Instant),
    /// A request is being answered.
    Answer,
    /// Nothing is asked for, until then at most.
    Rest(Instant),
}

/// The pace of one connection. Clones are of the same.
#[derive(Clone)]
pub(super) struct Pace {
    at: Arc<watch::Sender<At>>,
    head_max: Duration,
    rest_max: Duration,
}

impl Pace {
    /// Of a connection that was just made, and should ask for something.
    pub(super) fn new(head_max: Duration, rest_max: Duration) -> Self {
        let at = At {
            step: Step::Head(Instant::now() + head_max),
            taken_by: None,
        };
        Self {
            at: Arc::new(watch::Sender::new(at)),
            head_max,
            rest_max,
        }
    }

    /// The head of a request is whole.
    pub(super) fn answers(&self) {
        self.at.send_modify(|at| at.step = Step::Answer);
    }

    /// Its answer has been handed over.
    pub(super) fn rests(&self) {
        let until = Instant::now() + self.rest_max;
        self.at.send_modify(|at| at.step = Step::Rest(until));
    }

    /// Bytes have come: after a rest the next head begins.
    fn reads(&self) {
        self.at.send_if_modified(|at| {
            let begins = matches!(at.step, Step::Rest(_));
            if begins {
                at.step = Step::Head(Instant::now() + self.head_max);
            }
            begins
        });
    }

    /// What is written is taken, or waits for the other side.
    fn writes(&self, waits: bool) {
        self.at.send_if_modified(|at| {
            let changes = at.taken_by.is_some() != waits;
            if changes {
                at.taken_by = waits.then(|| Instant::now() + self.rest_max);
            }
            changes
        });
    }

    /// Waits until a step has taken too long, and tells which.
    pub(super) async fn overdue(self) -> &'static str {
        let mut told = self.at.subscribe();
        loop {
            let at = *told.borrow_and_update();
            let untaken = async {
                match at.taken_by {
                    Some(until) => sleep_until(until).await,
                    None => pending().await,
                }
            };
            let late = async {
                match at.step {
                    Step::Head(until) => {
                        sleep_until(until).await;
                        "head"
                    }
                    Step::Answer => pending().await,
                    Step::Rest(until) => {
                        sleep_until(until).await;
                        "rest"
                    }
                }
            };
            // Cancel-safe: what changes is read in the next turn. The sender lives as long as this.
            tokio::select! {
                step = late => return step,
                () = untaken => return "answer that nobody takes",
                _ = told.changed() => {}
            }
        }
    }
}

/// A stream that tells the pace of its connection when bytes come.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
}

impl<S> Paced<S> {
    pub(super) const fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let paced = self.get_mut();
        let read = Pin::new(&mut paced.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            paced.pace.reads();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.stream).poll_write(context, bytes);
        paced.pace.writes(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.stream).poll_write_vectored(context, slices);
        paced.pace.writes(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let flushed = Pin::new(&mut paced.stream).poll_flush(context);
        paced.pace.writes(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
