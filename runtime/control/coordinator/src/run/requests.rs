//! What the outside asks for.

use highwater_protocol::checkpoint::{CheckpointEvent, SnapshotRequest};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::SavepointPaths;
use highwater_storage::ObjectPath;
use highwater_types::{BarrierKind, Classified};
use highwater_worker::slot::error_chain;

use tokio::sync::oneshot;

use crate::attempt::{Attempt, AttemptStage};
use crate::operation::{Known, OperationId};
use crate::request::OperationOrder;
use crate::request::{
    JobRequest, LiveSettings, RequestAnswer, RequestRefused, SnapshotWish, reply,
};
use crate::restart::RestartDelay;
use crate::setup::JobOutcome;
use crate::status::JobPhase;
use crate::store::JobStore;

use super::{Coordinator, Done};

/// Those who wait for what comes of one operation.
const WAITING_MAX: usize = 16;

/// Who waits for what comes of a request.
pub(super) struct Asked {
    /// The id of its operation.
    operation: Option<OperationId>,
    /// All who asked for it.
    waiting: Vec<oneshot::Sender<RequestAnswer>>,
}

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
            redeploy: None,
        }
    }

    pub(super) fn request(&mut self, request: JobRequest) {
        match request {
            JobRequest::Cancel => self.leave(Ok(JobOutcome::Cancelled)),
            JobRequest::Configure { settings, answer } => {
                self.configure(*settings);
                if answer.send(Ok(())).is_err() {
                    tracing::debug!("nobody waits for the answer any more");
                }
            }
            JobRequest::Snapshot {
                wish,
                operation: None,
                answer,
            } => self.wished(&wish, None, answer),
            JobRequest::Snapshot {
                wish,
                operation: Some(order),
                answer,
            } => self.operation(order, &wish, answer),
        }
    }

    /// Goes on with other settings. A checkpoint on its way is held to the new limits as well.
    fn configure(&mut self, settings: LiveSettings) {
        let LiveSettings {
            checkpoint,
            restart,
            changes,
        } = settings;
        tracing::info!(?changes, "settings changed");
        self.machine.configure(checkpoint);
        if restart != self.setup.settings.restart {
            self.restart = RestartDelay::new(restart);
        }
        // A machine that is made later, after *Going back*, begins with these.
        self.setup.settings.checkpoint = checkpoint;
        self.setup.settings.restart = restart;
        self.status.send_modify(|status| {
            status.changes = changes;
            status.checkpoints.interval_ms = checkpoint.interval_ms;
        });
    }

    /// A request under an id: one that was made before is not done again.
    fn operation(
        &mut self,
        OperationOrder { id, begun }: OperationOrder,
        wish: &SnapshotWish,
        answer: oneshot::Sender<RequestAnswer>,
    ) {
        let now = self.now_ms();
        let mut known = Known::Full;
        self.status.send_if_modified(|status| {
            known = status.operations.begin(&id, wish, now);
            known == Known::New
        });
        if matches!(known, Known::New | Known::Runs)
            && let Some(begun) = begun
        {
            if let Some(held) = self.status.borrow().operations.get(&id)
                && begun.send(held.clone()).is_err()
            {
                tracing::debug!("nobody waits for the beginning any more");
            }
            if known == Known::Runs {
                return;
            }
        }
        match known {
            Known::New => self.wished(wish, Some(id), answer),
            Known::Ended(ended) => reply(answer, ended),
            Known::Other(was) => reply(answer, Err(RequestRefused::OtherOperation { id, was })),
            Known::Full => reply(answer, Err(RequestRefused::TooMany)),
            Known::Runs => self.join(&id, answer),
        }
    }

    /// Waits with those who asked before for what comes of an operation.
    fn join(&mut self, id: &OperationId, answer: oneshot::Sender<RequestAnswer>) {
        let mut asked = self.answers.values_mut();
        let held = asked.find(|asked| asked.operation.as_ref() == Some(id));
        if let Some(asked) = held {
            asked.waiting.retain(|waiting| !waiting.is_closed());
            if asked.waiting.len() < WAITING_MAX {
                return asked.waiting.push(answer);
            }
        }
        reply(answer, Err(RequestRefused::TooManyWaiting(id.clone())));
    }

    fn wished(
        &mut self,
        wish: &SnapshotWish,
        operation: Option<OperationId>,
        answer: oneshot::Sender<RequestAnswer>,
    ) {
        if let SnapshotWish::Rescale(wish) = wish {
            self.next_request += 1;
            let request = self.next_request;
            let waiting = vec![answer];
            self.answers.insert(request, Asked { operation, waiting });
            return self.rescale(request, wish.clone());
        }
        let savepoint = wish.savepoint().map(str::to_owned);
        let place = savepoint.as_deref().map(|name| self.check_name(name));
        let request = self.new_request(savepoint, wish.barrier());
        let asked = Asked {
            operation,
            waiting: vec![answer],
        };
        self.answers.insert(request.request, asked);
        match place {
            Some(Err(refused)) => self.answer(request.request, &Err(refused)),
            None => self.asked(request, Ok(())),
            Some(Ok(place)) => {
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
            return self.answer(request.request, &Err(refused));
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

    /// Notes the end of the job where those look who are to lead. Until then nobody is answered: whoever hears that it has ended, and starts
    /// a coordinator then, wants it to go on.
    pub(super) fn note_end(&mut self, outcome: JobOutcome) {
        if let Some(board) = self.setup.end_board.clone() {
            self.noting = Some(Vec::new());
            self.at_rim(async move {
                board.ended(outcome).await;
                Done::EndNoted
            });
        }
    }

    /// The end of the job is noted, or cannot be: those who wait are answered.
    pub(super) fn end_noted(&mut self) {
        for (request, answer) in self.noting.take().unwrap_or_default() {
            self.answer(request, &answer);
        }
    }

    /// Answers all who wait for what comes of a request.
    pub(super) fn answer(&mut self, request: u64, answer: &RequestAnswer) {
        if let Some(held) = &mut self.noting {
            held.push((request, answer.clone()));
            return;
        }
        let Some(asked) = self.answers.remove(&request) else {
            return;
        };
        if let Some(id) = asked.operation {
            let now = self.now_ms();
            self.status
                .send_modify(|status| status.operations.end(&id, answer.clone(), now));
        }
        for waiting in asked.waiting {
            reply(waiting, answer.clone());
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
        Ok(Some(found)) => Err(RequestRefused::Taken {
            folder: place.folder().to_owned(),
            holds: Manifest::decode(&found.bytes)
                .ok()
                .map(|held| (held.lineage, held.id)),
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
