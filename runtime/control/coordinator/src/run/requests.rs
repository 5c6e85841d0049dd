//! What the outside asks for.

use highwater_protocol::checkpoint::{CheckpointEvent, SnapshotRequest};
use highwater_protocol::paths::SavepointPaths;
use highwater_storage::ObjectPath;
use highwater_types::{BarrierKind, Classified};
use highwater_worker::slot::error_chain;

use crate::attempt::{Attempt, AttemptStage};
use crate::request::{JobRequest, RequestAnswer, RequestRefused, StopMode, reply};
use crate::setup::JobOutcome;
use crate::status::JobPhase;
use crate::store::JobStore;

use super::{Coordinator, Done};

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
        let (savepoint, kind, answer) = match request {
            JobRequest::Savepoint { name, answer } => (Some(name), BarrierKind::Savepoint, answer),
            JobRequest::Checkpoint { answer } => (None, BarrierKind::Checkpoint, answer),
            JobRequest::Stop {
                mode,
                savepoint,
                answer,
            } => {
                let kind = match mode {
                    StopMode::Suspend => BarrierKind::StopSuspend,
                    StopMode::Drain => BarrierKind::StopDrain,
                };
                (savepoint, kind, answer)
            }
            JobRequest::Cancel => return self.leave(Ok(JobOutcome::Cancelled)),
        };
        let place = match savepoint.as_deref().map(|name| self.check_name(name)) {
            Some(Err(refused)) => return reply(answer, Err(refused)),
            Some(Ok(place)) => Some(place),
            None => None,
        };
        let request = self.new_request(savepoint, kind);
        self.answers.insert(request.request, answer);
        match place {
            None => self.asked(request, Ok(())),
            Some(place) => {
                let store = self.store.clone();
                self.at_rim(async move {
                    let free = is_free(&store, &place).await;
                    Done::NameChecked(request, free)
                });
            }
        }
    }

    /// The name of a request was looked at: it is passed on, or refused before anything stops for it.
    pub(super) fn asked(&mut self, request: SnapshotRequest, name: Result<(), RequestRefused>) {
        if !self.answers.contains_key(&request.request) {
            // It was answered meanwhile: the job went back.
            return;
        }
        if let Err(refused) = name {
            return self.answer(request.request, Err(refused));
        }
        if request.stops() {
            // A second stop is refused by the machine: the first one goes on.
            self.stopping.get_or_insert(request.request);
            // While no attempt runs the phase says what the stop waits for.
            let running = |held: &Attempt| held.stage == AttemptStage::Running;
            if self.attempt.as_ref().is_some_and(running) {
                self.phase(JobPhase::Stopping);
            }
        }
        self.step(self.now_ms(), CheckpointEvent::Request(request));
    }

    /// Before anything stops for it: a name that cannot be would leave a stopped job without its savepoint.
    fn check_name(&self, name: &str) -> Result<SavepointPaths, RequestRefused> {
        let parsed = SavepointPaths::parse(&self.setup.settings.savepoints, name);
        parsed.map_err(|error| RequestRefused::Name(error.to_string()))
    }

    pub(super) fn answer(&mut self, request: u64, answer: RequestAnswer) {
        if let Some(waiting) = self.answers.remove(&request) {
            reply(waiting, answer);
        }
    }
}

/// Whether no savepoint lies at `place`. One that appears later is found when the copy is written.
async fn is_free(store: &JobStore, place: &SavepointPaths) -> Result<(), RequestRefused> {
    let asked = async {
        let path = ObjectPath::parse(&place.manifest())?;
        store.storage().get(&path).await
    };
    match asked.await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(RequestRefused::Taken {
            folder: place.folder().to_owned(),
        }),
        Err(error) => Err(RequestRefused::Store {
            kind: error.kind(),
            message: format!(
                "whether {} is free cannot be seen now: {}; ask again",
                place.folder(),
                error_chain(&error)
            ),
        }),
    }
}
