//! What the outside asks for.

use highwater_protocol::checkpoint::{CheckpointEvent, SnapshotRequest};
use highwater_protocol::paths::SavepointPaths;
use highwater_types::BarrierKind;

use crate::attempt::After;
use crate::request::{JobRequest, RequestAnswer, RequestRefused, StopMode, reply};
use crate::setup::JobOutcome;
use crate::status::JobPhase;

use super::Coordinator;

impl Coordinator {
    pub(super) fn new_request(
        &mut self,
        savepoint: Option<String>,
        kind: BarrierKind,
    ) -> SnapshotRequest {
        self.next_request += 1;
        SnapshotRequest {
            request: self.next_request,
            savepoint,
            kind,
        }
    }

    pub(super) fn request(&mut self, request: JobRequest) {
        let (request, answer) = match request {
            JobRequest::Savepoint { name, answer } => {
                if let Err(refused) = self.check_name(&name) {
                    return reply(answer, Err(refused));
                }
                (self.new_request(Some(name), BarrierKind::Savepoint), answer)
            }
            JobRequest::Checkpoint { answer } => {
                (self.new_request(None, BarrierKind::Checkpoint), answer)
            }
            JobRequest::Stop {
                mode,
                savepoint,
                answer,
            } => {
                if let Some(Err(refused)) = savepoint.as_deref().map(|name| self.check_name(name)) {
                    return reply(answer, Err(refused));
                }
                let kind = match mode {
                    StopMode::Suspend => BarrierKind::StopSuspend,
                    StopMode::Drain => BarrierKind::StopDrain,
                };
                let request = self.new_request(savepoint, kind);
                // A second stop is refused by the machine: the first one goes on.
                self.stopping.get_or_insert(request.request);
                self.phase(JobPhase::Stopping);
                (request, answer)
            }
            JobRequest::Cancel => return self.cancel(After::End(JobOutcome::Cancelled)),
        };
        self.answers.insert(request.request, answer);
        self.step(self.now_ms(), CheckpointEvent::Request(request));
    }

    /// Before anything stops for it: a name that cannot be would leave a stopped job without its savepoint.
    fn check_name(&self, name: &str) -> Result<(), RequestRefused> {
        let parsed = SavepointPaths::parse(&self.setup.settings.savepoints, name);
        parsed.map_or_else(|error| Err(RequestRefused(error.to_string())), |_| Ok(()))
    }

    pub(super) fn answer(&mut self, request: u64, answer: RequestAnswer) {
        if let Some(waiting) = self.answers.remove(&request) {
            reply(waiting, answer);
        }
    }
}
