//! Bodies of requests and answers, as connections of the status server see them.
//!
//! A body that comes too slowly is given up: whoever reads it gets an error that says so. The end of an answer tells the pace of its connection
//! that it rests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::pace::Pace;

/// The body of a request, which must have come within `most`.
pub(super) fn taken(body: Incoming, most: Duration) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    let late = Box::pin(sleep(most));
    Body::new(Taken { body, most, late })
}

struct Taken {
    body: Incoming,
    most: Duration,
    late: Pin<Box<Sleep>>,
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut body.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        if body.late.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let reason = format!("it did not come within {:?}; send it faster", body.most);
        let late = io::Error::new(io::ErrorKind::TimedOut, reason);
        Poll::Ready(Some(Err(late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. Once it is gone the connection rests.
pub(super) struct Answer {
    body: Body,
    pace: Pace,
}

impl Answer {
    pub(super) const fn new(body: Body, pace: Pace) -> Self {
        Self { body, pace }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pace.rests();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
