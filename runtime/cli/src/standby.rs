//! `coordinator`: stands by until it may lead, and holds the lease while it does.
//!
//! Called by `run` before anything of the job begins. Meanwhile workers that come are shown the way to the leader, and so is whoever asks
//! the status server. The rules: a coordinator that was told how to begin the job waits for nobody, and one that waited begins nothing; the
//! end of a job is in the lease where there is one, whoever has ended it, so that who starts a coordinator later is known to want the job.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use highwater_api::JobProgram;
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{
    Campaign, EndBoard, HolderWord, JobOutcome, JobPhase, JobRequest, JobStatus, LeaseStore as _,
    RequestRefused, Standing,
};
use highwater_protocol::election::{
    AboutOthers, Candidate, LeaseRead, LeaseRecord, LeaseState, Mandate,
};
use highwater_protocol::head_write::PutOutcome;
use highwater_protocol::paths::JobPaths;
use highwater_rpc::ControlServer;
use highwater_state::Store;
use highwater_storage::ObjectStorage;
use highwater_types::{Epoch, JobIdentity};
use highwater_web::listening::Listening;
use highwater_web::{Config, JobView, OperationIds, RateBoard, TasksRun, room_to_wait};
use highwater_worker::{Clock, FigureBoard, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::exit::{Code, Failure};
use crate::run::random;
use crate::server::Server;
use crate::settings::{JobSettings, RunSettings};
use crate::signals::Interrupts;

/// What a coordinator stands by with.
pub(crate) struct Standby<'a> {
    pub(crate) job: &'a JobSettings,
    pub(crate) settings: &'a RunSettings,
    pub(crate) program: &'a JobProgram,
    pub(crate) config: &'a Arc<dyn Config>,
    /// What it does about a lease that another holds.
    pub(crate) about_others: AboutOthers,
    /// Whether it was told what to begin the job with.
    pub(crate) begins: bool,
}

/// A candidacy that was won.
pub(crate) struct Won {
    pub(crate) lease: Lease,
    pub(crate) mandate: Mandate,
}

/// How long the last write of a lease may take.
const LEAVE_MAX: Duration = Duration::from_secs(20);

/// The lease of a job that this process leads, renewed by a task of its own.
pub(crate) struct Lease {
    words: mpsc::Sender<HolderWord>,
    holding: JoinSet<()>,
}

/// A holder says at most three times something: that it leads, that the job has ended, and that it leads no more.
const WORDS: usize = 3;

impl Lease {
    fn hold(campaign: Campaign) -> Self {
        let (words, told) = mpsc::channel(WORDS);
        let mut holding = JoinSet::new();
        holding.spawn(campaign.hold(told));
        Self { words, holding }
    }

    /// Tells the lease once the job of this status has a leader in this process: what somebody wanted of its start is done then.
    pub(crate) fn once_led(
        &self,
        mut status: watch::Receiver<JobStatus>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let words = self.words.clone();
        async move {
            let leads = |status: &JobStatus| status.epoch > Epoch::default();
            let leads = status.wait_for(leads).await.is_ok();
            if leads && words.send(HolderWord::Leads).await.is_err() {
                tracing::debug!("the lease is not held any more");
            }
        }
    }

    /// Where the end of the job is noted: in the lease, which is left then.
    pub(crate) fn end_board(&self) -> Arc<dyn EndBoard> {
        Arc::new(LeaseBoard(self.words.clone()))
    }

    /// Leaves the lease as the job is left: ended, so that whoever stands by ends too, or to whoever goes on with it.
    pub(crate) async fn leave(mut self, end: &Result<JobOutcome, Failure>) {
        let state = match (end_words(end), end) {
            (Some(how), _) => LeaseState::Ended(how.to_owned()),
            // It belongs to another, or soon will.
            (None, Err(failure)) if failure.code == Code::Fenced => return,
            (None, _) => LeaseState::Released,
        };
        if self.words.send(HolderWord::Leaves(state)).await.is_err() {
            return;
        }
        let written = async { while self.holding.join_next().await.is_some() {} };
        if timeout(LEAVE_MAX, written).await.is_err() {
            tracing::warn!(
                "the lease could not be written for {LEAVE_MAX:?}: a coordinator that stands by takes it, and asks `head` whether the job has ended"
            );
        }
    }
}

/// The lease, for the end of the job that this process leads.
struct LeaseBoard(mpsc::Sender<HolderWord>);

#[async_trait]
impl EndBoard for LeaseBoard {
    async fn ended(&self, outcome: JobOutcome) {
        let Some(how) = end_words(&Ok(outcome)) else {
            return;
        };
        let word = HolderWord::Leaves(LeaseState::Ended(how.to_owned()));
        let noted = async {
            if self.0.send(word).await.is_ok() {
                // Whoever holds it hears no more once the word is written.
                self.0.closed().await;
            }
        };
        if timeout(LEAVE_MAX, noted).await.is_err() {
            tracing::warn!(
                "the lease does not say for {LEAVE_MAX:?} that the job has ended; whoever asked for that is told all the same"
            );
        }
    }
}

/// The lease that others have released, for the end of a job under a process that holds none.
pub(crate) struct ReleasedLease {
    pub(crate) storage: Arc<dyn ObjectStorage>,
    pub(crate) job: JobIdentity,
}

#[async_trait]
impl EndBoard for ReleasedLease {
    async fn ended(&self, outcome: JobOutcome) {
        note_end(&self.storage, &self.job, &Ok(outcome)).await;
    }
}

/// How a job has ended, in the words of a lease; `None` = it goes on under whoever takes it next.
const fn end_words(end: &Result<JobOutcome, Failure>) -> Option<&'static str> {
    match end {
        Ok(JobOutcome::Finished) => Some("all input was processed"),
        Ok(JobOutcome::Stopped) => Some("it was stopped"),
        Ok(JobOutcome::Cancelled) | Err(_) => None,
    }
}

/// Says in a lease that was released that the job has ended since, under a process that holds none: a coordinator that is started later
/// would take it for a job that somebody has handed over, and leave it ended. One try: where another has it now, `head` decides.
pub(crate) async fn note_end(
    storage: &Arc<dyn ObjectStorage>,
    job: &JobIdentity,
    end: &Result<JobOutcome, Failure>,
) {
    let Some(how) = end_words(end) else { return };
    let store = JobStore::new(Arc::clone(storage), JobPaths::new(job.clone()));
    let noted = async {
        let LeaseRead::Found(record, tag) = store.read().await else {
            return;
        };
        if record.state != LeaseState::Released {
            return;
        }
        let record = LeaseRecord {
            holder: name_of_run(),
            process: random(),
            turn: record.turn.wrapping_add(1),
            begins: false,
            goes_past: None,
            state: LeaseState::Ended(how.to_owned()),
            ..record
        };
        let written = store.write(&record, Some(&tag)).await;
        if !matches!(written, PutOutcome::Applied(_)) {
            tracing::warn!(
                ?written,
                "the lease does not say that the job has ended: a coordinator that is started next ends once"
            );
        }
    };
    if timeout(LEAVE_MAX, noted).await.is_err() {
        tracing::warn!("the lease could not be read and written for {LEAVE_MAX:?}");
    }
}

impl Standby<'_> {
    /// Waits for the turn of this coordinator. `listening` is where its status server does. `None` = somebody stopped it, or nothing
    /// is left to lead.
    pub(crate) async fn wait(
        self,
        storage: &Arc<dyn ObjectStorage>,
        control: &ControlServer,
        listening: &Listening,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Won>, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let status = JobStatus {
            phase: JobPhase::Standby,
            ..JobStatus::starting()
        };
        let (status, shown) = watch::channel(status);
        let (name, address) = (self.name(control), self.address(control));
        // Before its first look at the lease: an end that comes later is none that somebody wants to go past by starting this process.
        let found_ended = tokio::select! {
            found = self.found_ended(storage) => found?,
            _ = interrupts.next() => return Ok(None),
        };
        let mut campaign = self.campaign(storage, (name, address), listening, found_ended);
        let mut tasks = JoinSet::new();
        let (requests, asked) = mpsc::channel(1);
        tasks.spawn(refuse_all(asked, shown.clone()));
        let (leads, leader) = watch::channel(None);
        let view = self.view(requests, (shown, leader), &clock);
        let server = Server::start(listening.clone(), view);
        let follows = |leader: Option<&LeaseRecord>| {
            let text = words(leader);
            tracing::info!("stands by: {text}");
            control.stand_by(leader.map(|leader| leader.address.clone()));
            status.send_modify(|status| status.waits_for = Some(text));
            leads.send_replace(leader.map(|leader| leader.status.clone()));
        };
        // What is cut off is a look at the lease or a write of it, which the next one finds.
        let standing = tokio::select! {
            standing = campaign.win(follows) => standing,
            _ = interrupts.next() => return Ok(None),
        };
        server.end().await;
        tasks.shutdown().await;
        match standing {
            Standing::Leads(mandate) => Ok(Some(Won {
                lease: Lease::hold(campaign),
                mandate,
            })),
            Standing::NothingToLead(how) => {
                tracing::info!("the job has ended under the coordinator that led it: {how}");
                Ok(None)
            }
            Standing::Occupied(record) => Err(occupied(&record)),
        }
    }

    /// What a process does about the lease that does not stand by: nothing where there is none. One that is held is respected, or taken
    /// over where that is wanted.
    pub(crate) async fn of_others(
        &self,
        storage: &Arc<dyn ObjectStorage>,
        listening: &Listening,
    ) -> Result<Option<Lease>, Failure> {
        match (self.store(storage).read().await, self.about_others) {
            (LeaseRead::Found(record, _), AboutOthers::Wait | AboutOthers::Refuse)
                if record.state == LeaseState::Held =>
            {
                Err(occupied(&record))
            }
            (LeaseRead::Found(record, _), AboutOthers::TakeOver)
                if record.state == LeaseState::Held =>
            {
                let found_ended = self.found_ended(storage).await?;
                let me = (name_of_run(), String::new());
                let mut campaign = self.campaign(storage, me, listening, found_ended);
                match campaign.win(|_| {}).await {
                    Standing::Leads(_) => Ok(Some(Lease::hold(campaign))),
                    Standing::Occupied(record) => Err(occupied(&record)),
                    Standing::NothingToLead(_) => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn campaign(
        &self,
        storage: &Arc<dyn ObjectStorage>,
        (name, address): (String, String),
        listening: &Listening,
        found_ended: Option<Epoch>,
    ) -> Campaign {
        let me = Candidate {
            name,
            address,
            status: self.settings.rest.advertised(listening.address()),
            process: random(),
            about_others: self.about_others,
            begins: self.begins,
            found_ended,
        };
        let duration = self.settings.cluster.lease_duration;
        let clock = Arc::new(SystemClock::new());
        Campaign::new(Box::new(self.store(storage)), me, duration, clock)
    }

    /// The epoch in which `head` says that the job has ended.
    async fn found_ended(
        &self,
        storage: &Arc<dyn ObjectStorage>,
    ) -> Result<Option<Epoch>, Failure> {
        let found = self.store(storage).found_ended().await;
        found.map_err(|error| Failure::of(&error))
    }

    fn store(&self, storage: &Arc<dyn ObjectStorage>) -> JobStore {
        let paths = JobPaths::new(self.job.identity.clone());
        JobStore::new(Arc::clone(storage), paths)
    }

    /// Where workers reach it.
    fn address(&self, control: &ControlServer) -> String {
        let advertised = self.settings.cluster.control_advertised.clone();
        advertised.unwrap_or_else(|| control.address().to_string())
    }

    /// The name of this coordinator. An address belongs to one process at a time, so the process before is gone.
    fn name(&self, control: &ControlServer) -> String {
        let name = self.settings.cluster.coordinator_name.clone();
        name.unwrap_or_else(|| format!("{}@{}", host(), control.address()))
    }

    fn view(
        &self,
        requests: mpsc::Sender<JobRequest>,
        (status, leader): (watch::Receiver<JobStatus>, watch::Receiver<Option<String>>),
        clock: &Arc<dyn Clock>,
    ) -> JobView {
        JobView {
            job: self.job.identity.clone(),
            role: "coordinator",
            plan: watch::channel(Arc::new(self.program.plan().clone())).1,
            tasks: TasksRun::OnWorkers,
            worker: self.settings.worker,
            config: Arc::clone(self.config),
            changing: Arc::default(),
            store: Store::heap(),
            requests,
            ids: OperationIds::new(random()),
            waiting: room_to_wait(),
            status,
            leader,
            workers: watch::channel(Vec::new()).1,
            figures: FigureBoard::default(),
            rates: RateBoard::default(),
            clock: Arc::clone(clock),
        }
    }
}

fn host() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// The name under which a process is in a lease that takes no turn in leading.
fn name_of_run() -> String {
    format!("{} (run)", host())
}

/// Another leads, and this process was not started to wait for it.
fn occupied(record: &LeaseRecord) -> Failure {
    let message = format!(
        "coordinator {} holds the lease of the job (status server {}): stop it first, or have this process own the job with --take-over; a \
         coordinator that is to stand by is started without --fresh and --from-savepoint",
        record.holder, record.status
    );
    Failure::new(Code::Usage, message)
}

fn words(leader: Option<&LeaseRecord>) -> String {
    match leader {
        Some(leader) => format!(
            "coordinator {} leads; its status server is {}",
            leader.holder, leader.status
        ),
        None => "another coordinator leads, perhaps; the lease cannot be read".to_owned(),
    }
}

/// Answers that another is to be asked.
async fn refuse_all(mut asked: mpsc::Receiver<JobRequest>, status: watch::Receiver<JobStatus>) {
    while let Some(request) = asked.recv().await {
        let waits = status.borrow().waits_for.clone();
        let waits = waits.unwrap_or_else(|| "nobody leads the job yet".to_owned());
        let reason = format!("this coordinator stands by: {waits}");
        request.refuse(RequestRefused::NotRunning(reason));
    }
}

#[cfg(test)]
mod tests {
    use highwater_storage::MemoryStorage;
    use highwater_types::Nonce;

    use super::*;

    fn record(state: LeaseState) -> LeaseRecord {
        LeaseRecord {
            holder: "c1".to_owned(),
            address: "10.0.0.7:6123".to_owned(),
            status: "http://10.0.0.7:8081".to_owned(),
            process: Nonce(7),
            turn: 4,
            duration_ms: 10_000,
            begins: true,
            goes_past: Some(Epoch(3)),
            state,
        }
    }

    /// The record after a job has ended beside a lease like this.
    async fn noted(state: LeaseState, end: Result<JobOutcome, Failure>) -> LeaseRecord {
        let job = JobIdentity::parse("job").unwrap();
        let storage: Arc<dyn ObjectStorage> = Arc::new(MemoryStorage::default());
        let store = JobStore::new(Arc::clone(&storage), JobPaths::new(job.clone()));
        store.write(&record(state), None).await;
        note_end(&storage, &job, &end).await;
        let LeaseRead::Found(found, _) = store.read().await else {
            panic!("there was a lease")
        };
        found
    }

    #[tokio::test]
    async fn a_job_that_ends_beside_a_released_lease_leaves_its_end_there() {
        let stopped = noted(LeaseState::Released, Ok(JobOutcome::Stopped)).await;
        assert_eq!(
            stopped.state,
            LeaseState::Ended("it was stopped".to_owned())
        );
        assert!(!stopped.begins && stopped.goes_past.is_none() && stopped.turn == 5);
        let failed = || Err(Failure::new(Code::JobFailed, "it failed"));
        for end in [Ok(JobOutcome::Cancelled), failed()] {
            let found = noted(LeaseState::Released, end).await;
            assert_eq!(found, record(LeaseState::Released));
        }
        for state in [LeaseState::Held, LeaseState::Ended("before".to_owned())] {
            let found = noted(state.clone(), Ok(JobOutcome::Finished)).await;
            assert_eq!(found, record(state), "it is not this job's to write");
        }
    }

    #[tokio::test]
    async fn a_job_without_a_lease_gets_none() {
        let job = JobIdentity::parse("job").unwrap();
        let storage: Arc<dyn ObjectStorage> = Arc::new(MemoryStorage::default());
        note_end(&storage, &job, &Ok(JobOutcome::Stopped)).await;
        let store = JobStore::new(storage, JobPaths::new(job));
        assert!(matches!(store.read().await, LeaseRead::Absent));
    }
}
