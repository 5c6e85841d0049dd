//! An output target whose calls fail when a test says so, before or after they took effect.
//!
//! For tests of whatever drives a target: the answers that hurt are those that come after the call has done its work.

use crate::error::ConnectorError;
use crate::output::OutputBatch;
use crate::sink::{
    ExternalIdentity, KnownMarkers, Marker, MarkerPosition, MarkerReading, OutputTarget,
    TargetError,
};

/// A call of [`OutputTarget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetCall {
    /// `identity`
    Identity,
    /// `marker_position`
    MarkerPosition,
    /// `open_session`
    OpenSession,
    /// `write_sync`
    WriteSync,
    /// `read_markers`
    ReadMarkers,
    /// `begin`
    Begin,
    /// `send`
    Send,
    /// `flush`
    Flush,
    /// `commit`
    Commit,
    /// `abort`
    Abort,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetFault {
    /// It does nothing, and the session is lost.
    LostBefore,
    /// It does nothing, and the answer is unclear.
    UnclearBefore,
    /// It takes effect, and the answer is unclear.
    UnclearAfter,
}

/// A target with faults.
pub struct FaultyTarget<F> {
    target: Box<dyn OutputTarget>,
    fault: F,
}

impl<F: FnMut(TargetCall) -> Option<TargetFault> + Send> FaultyTarget<F> {
    /// Asks `fault` before each call of `target`.
    pub const fn new(target: Box<dyn OutputTarget>, fault: F) -> Self {
        Self { target, fault }
    }

    fn call<R>(
        &mut self,
        call: TargetCall,
        act: impl FnOnce(&mut dyn OutputTarget) -> Result<R, TargetError>,
    ) -> Result<R, TargetError> {
        let reason = |when: &str| ConnectorError::Unavailable {
            object: "faulty target".to_owned(),
            reason: format!("a test lets {call:?} fail {when}"),
        };
        match (self.fault)(call) {
            None => act(&mut *self.target),
            Some(TargetFault::LostBefore) => Err(TargetError::SessionLost(reason("before"))),
            Some(TargetFault::UnclearBefore) => Err(TargetError::Unclear(reason("before"))),
            Some(TargetFault::UnclearAfter) => {
                act(&mut *self.target)?;
                Err(TargetError::Unclear(reason("after")))
            }
        }
    }
}

impl<F: FnMut(TargetCall) -> Option<TargetFault> + Send> OutputTarget for FaultyTarget<F> {
    fn expect_markers(&mut self, known: KnownMarkers) {
        self.target.expect_markers(known);
    }

    fn identity(&mut self) -> Result<ExternalIdentity, TargetError> {
        self.call(TargetCall::Identity, |target| target.identity())
    }

    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError> {
        self.call(TargetCall::MarkerPosition, |target| {
            target.marker_position()
        })
    }

    fn open_session(&mut self) -> Result<(), TargetError> {
        self.call(TargetCall::OpenSession, |target| target.open_session())
    }

    fn write_sync(&mut self) -> Result<(), TargetError> {
        self.call(TargetCall::WriteSync, |target| target.write_sync())
    }

    fn read_markers(&mut self, from: MarkerPosition) -> Result<MarkerReading, TargetError> {
        self.call(TargetCall::ReadMarkers, |target| target.read_markers(from))
    }

    fn begin(&mut self) -> Result<(), TargetError> {
        self.call(TargetCall::Begin, |target| target.begin())
    }

    fn send(&mut self, batch: &OutputBatch) -> Result<(), TargetError> {
        self.call(TargetCall::Send, |target| target.send(batch))
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        self.call(TargetCall::Flush, |target| target.flush())
    }

    fn commit(&mut self, marker: Marker) -> Result<MarkerPosition, TargetError> {
        self.call(TargetCall::Commit, |target| target.commit(marker))
    }

    fn abort(&mut self) -> Result<(), TargetError> {
        self.call(TargetCall::Abort, |target| target.abort())
    }
}
