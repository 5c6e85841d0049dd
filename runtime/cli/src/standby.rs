//! `coordinator`: stands by until it may lead, and holds the lease while it does.
//!
//! Called by `run` before anything of the job begins. Meanwhile workers that come are shown the way to the leader, and so is whoever asks
//! the status server. The rule: a coordinator that was told how to begin the job waits for nobody, and one that waited begins nothing.

use std::sync::Arc;
use std::time::Duration;

use highwater_api::JobProgram;
use highwater_coordinator::store::JobStore;
use highwater_coordinator::{
    Campaign, JobOutcome, JobPhase, JobRequest, JobStatus, LeaseStore as _, RequestRefused,
    Standing,
};
use highwater_protocol::election::{AboutOthers, Candidate, LeaseRead, LeaseRecord, LeaseState};
use highwater_protocol::paths::JobPaths;
use highwater_rpc::ControlServer;
use highwater_state::Store;
use highwater_storage::ObjectStorage;
use highwater_web::listening::Listening;
use highwater_web::{Config, JobView, OperationIds, RateBoard, TasksRun, room_to_wait};
use highwater_worker::{Clock, FigureBoard, SystemClock};
use tokio::sync::{mpsc, oneshot, watch};
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
    /// Another was told what to begin the job with.
    pub(crate) only_goes_on: bool,
}

/// How long the last write of a lease may take.
const LEAVE_MAX: Duration = Duration::from_secs(20);

/// The lease of a job that this process leads, renewed by a task of its own.
pub(crate) struct Lease {
    left: oneshot::Sender<LeaseState>,
    holding: JoinSet<()>,
}

impl Lease {
    fn hold(campaign: Campaign) -> Self {
        let (left, told) = oneshot::channel();
        let mut holding = JoinSet::new();
        holding.spawn(campaign.hold(told));
        Self { left, holding }
    }

    /// Leaves the lease as the job is left: ended, so that whoever stands by ends too, or to whoever goes on with it.
    pub(crate) async fn leave(mut self, end: &Result<JobOutcome, Failure>) {
        let state = match end {
            Ok(JobOutcome::Finished) => LeaseState::Ended("all input was processed".to_owned()),
            Ok(JobOutcome::Stopped) => LeaseState::Ended("it was stopped".to_owned()),
            // It belongs to another, or soon will.
            Err(failure) if failure.code == Code::Fenced => return,
            Ok(JobOutcome::Cancelled) | Err(_) => LeaseState::Released,
        };
        if self.left.send(state).is_err() {
            return;
        }
        let written = async { while self.holding.join_next().await.is_some() {} };
        if timeout(LEAVE_MAX, written).await.is_err() {
            tracing::warn!(
                "the lease could not be written for {LEAVE_MAX:?}: a coordinator that stands by may go on with the job"
            );
        }
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
        let mut campaign = self.campaign(storage, (name, address), listening);
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
            Standing::Leads { only_goes_on } => Ok(Some(Won {
                lease: Lease::hold(campaign),
                only_goes_on,
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
                let name = format!("{} (run)", host());
                let mut campaign = self.campaign(storage, (name, String::new()), listening);
                match campaign.win(|_| {}).await {
                    Standing::Leads { .. } => Ok(Some(Lease::hold(campaign))),
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
    ) -> Campaign {
        let me = Candidate {
            name,
            address,
            status: self.settings.rest.advertised(listening.address()),
            process: random(),
            about_others: self.about_others,
            begins: self.begins,
        };
        let duration = self.settings.cluster.lease_duration;
        let clock = Arc::new(SystemClock::new());
        Campaign::new(Box::new(self.store(storage)), me, duration, clock)
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
            plan: Arc::new(self.program.plan().clone()),
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
