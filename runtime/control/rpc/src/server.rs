//! The coordinator's side: a connection for each worker, between the stream of gRPC and the fleet.
//!
//! Started by the role `coordinator`. The rule: whatever ends a connection, the fleet is told once that the worker has left, with the reason.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use highwater_coordinator::fleet::driver::{FleetHandle, Joined, WorkerLink};
use highwater_coordinator::fleet::{HeldPart, Member};
use highwater_protocol::placement::WorkerOffer;
use highwater_tls::Wire;
use highwater_types::{AttemptId, WorkerIndex};
use highwater_worker::{FigureBoard, WorkerCommand, WorkerEvent};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::identity::{Claim, Identity};
use crate::incoming::accept;
use crate::message::{MESSAGE_BYTES_MAX, decode, encode};
use crate::proto::control_server::{Control, ControlServer as Service};
use crate::proto::{
    Alive, FromCoordinator, FromWorker, Refused, Register, Standby, Welcome, from_coordinator,
    from_worker,
};

/// Commands that may wait for a worker. One that lets more wait is as good as gone.
const COMMANDS_MAX: usize = 4_096;
/// No worker has a larger number.
const NUMBER_MAX: u32 = u32::MAX / 2;
/// How long a connection may take to register.
const REGISTER_MAX: Duration = Duration::from_secs(10);

/// How connections notice that the other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// A side that has nothing to say for so long says that it lives.
    pub alive_every: Duration,
    /// A side that says nothing for so long is given up.
    pub silent_max: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            alive_every: Duration::from_millis(500),
            silent_max: Duration::from_secs(5),
        }
    }
}

/// Who has work for the workers that come.
#[derive(Clone)]
enum Admission {
    /// Another coordinator; where it takes workers, as far as is known.
    Standby(Option<String>),
    /// This one: its fleet, and where the figures of all workers come together.
    Leads(FleetHandle, FigureBoard),
}

/// The control endpoint of a coordinator.
pub struct ControlServer {
    address: SocketAddr,
    admission: watch::Sender<Admission>,
    /// Workers that are connected.
    connected: watch::Sender<usize>,
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
}

impl ControlServer {
    /// Listens at `address`. Workers are told that this coordinator stands by until [`ControlServer::lead`].
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub async fn bind(
        address: SocketAddr,
        identity: Identity,
        (settings, wire): (ConnectionSettings, Wire),
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (admission, admits) = watch::channel(Admission::Standby(None));
        let connected = watch::Sender::new(0);
        let connections = Connections {
            identity,
            admission: admits,
            connected: connected.clone(),
            settings,
        };
        let (accepted, incoming) = mpsc::channel(1);
        let service = Service::new(connections)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming));
        let mut tasks = JoinSet::new();
        tasks.spawn(serving);
        tasks.spawn(accept(listener, wire, accepted));
        Ok(Self {
            address,
            admission,
            connected,
            tasks,
        })
    }

    /// Workers that come are shown the way to the leader, if that is known.
    pub fn stand_by(&self, leader: Option<String>) {
        self.admission.send_replace(Admission::Standby(leader));
    }

    /// Takes workers into the fleet from now on; their figures come together on the board.
    pub fn lead(&self, fleet: FleetHandle, board: FigureBoard) {
        self.admission.send_replace(Admission::Leads(fleet, board));
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when the workers that were told to end have closed their connections, or after `max`: what is on its way to one would be cut
    /// off with its connection, and it would wait for another coordinator.
    pub async fn until_left(&self, max: Duration) {
        let mut connected = self.connected.subscribe();
        let left = timeout(max, connected.wait_for(|count| *count == 0)).await;
        if left.is_err() {
            let count = *self.connected.borrow();
            tracing::warn!(
                count,
                "workers that were told to end are still there; whoever started them ends them"
            );
        }
    }

    /// Closes all connections.
    pub async fn shut_down(mut self) {
        self.tasks.shutdown().await;
    }
}

/// What every connection shares.
#[derive(Clone)]
struct Connections {
    identity: Identity,
    admission: watch::Receiver<Admission>,
    connected: watch::Sender<usize>,
    settings: ConnectionSettings,
}

/// Counts one worker that is connected, for as long as it is.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn one(connected: &watch::Sender<usize>) -> Self {
        connected.send_modify(|count| *count += 1);
        Self(connected.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

type ToWorker = mpsc::Sender<Result<FromCoordinator, Status>>;

/// The way to a worker through its connection.
struct ConnectionLink(ToWorker);

impl WorkerLink for ConnectionLink {
    fn send(&self, command: WorkerCommand) -> Result<(), String> {
        let what = from_coordinator::What::Command(encode(&command));
        self.0
            .try_send(Ok(message(what)))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    format!("it has not taken {COMMANDS_MAX} commands")
                }
                mpsc::error::TrySendError::Closed(_) => "its connection has ended".to_owned(),
            })
    }
}

const fn message(what: from_coordinator::What) -> FromCoordinator {
    FromCoordinator { what: Some(what) }
}

#[tonic::async_trait]
impl Control for Connections {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<FromCoordinator, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let (to_worker, outgoing) = mpsc::channel(COMMANDS_MAX);
        let from = request.remote_addr();
        let connection = self.clone().hold(request.into_inner(), to_worker, from);
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        // The driver lives as long as the response that is being sent: a connection that breaks drops both.
        let outgoing = ReceiverStream::new(outgoing).map(move |message| {
            let _ = &driver;
            message
        });
        Ok(Response::new(Box::pin(outgoing)))
    }
}

impl Connections {
    /// Holds one connection from the registration to its end.
    async fn hold(
        self,
        mut incoming: Streaming<FromWorker>,
        to_worker: ToWorker,
        from: Option<SocketAddr>,
    ) {
        let first = timeout(REGISTER_MAX, incoming.message()).await;
        let Ok(Ok(Some(FromWorker {
            what: Some(from_worker::What::Register(registered)),
        }))) = first
        else {
            tracing::warn!(?from, "a connection did not register as a worker");
            return;
        };
        let admission = self.admission.borrow().clone();
        let (fleet, board) = match admission {
            Admission::Leads(fleet, board) => (fleet, board),
            Admission::Standby(leader) => {
                let leader = leader.unwrap_or_default();
                let standby = from_coordinator::What::Standby(Standby { leader });
                dismiss(&to_worker, standby).await;
                return;
            }
        };
        if let Err(reason) = self.admits(&registered) {
            tracing::warn!(
                ?from,
                name = registered.name,
                reason,
                "a worker was refused"
            );
            let refused = from_coordinator::What::Refused(Refused { reason });
            dismiss(&to_worker, refused).await;
            return;
        }
        let member = Member {
            offer: WorkerOffer {
                name: registered.name,
                slots: registered.slots,
            },
            address: registered.data_address,
            holds: registered.held.map(|held| HeldPart {
                attempt: AttemptId(held.attempt),
                worker: WorkerIndex(held.worker),
            }),
        };
        let _counted = Counted::one(&self.connected);
        let (joins, link) = (fleet.clone(), ConnectionLink(to_worker.clone()));
        // The welcome must be the first message, so it is sent before the fleet may send a command.
        let welcome = to_worker.clone();
        let told = fleet.clone();
        // Whoever waits for the number may be gone when it comes: what leaves the fleet again is made together with it.
        let joined = spawn_blocking(move || {
            let worker = joins.join(member, Box::new(link), move |worker| {
                let what = from_coordinator::What::Welcome(Welcome { worker: worker.0 });
                welcome.try_send(Ok(message(what))).is_ok()
            });
            worker.map(|joined| Left {
                fleet: told,
                joined,
                reason: Some("its connection was dropped".to_owned()),
            })
        });
        let Ok(Some(left)) = joined.await else {
            return;
        };
        let reason = tokio::select! {
            reason = self.listen(left.joined, (&fleet, &board), incoming) => reason,
            reason = self.beat(&to_worker) => reason,
        };
        left.because(reason);
    }

    fn admits(&self, register: &Register) -> Result<(), String> {
        let claim = Claim {
            protocol: register.protocol,
            engine: register.engine.clone(),
            job: register.job.clone(),
            graph: register.graph,
            revision: register.revision.clone(),
        };
        self.identity
            .accepts(&claim)
            .map_err(|mismatch| mismatch.to_string())?;
        if register.held.is_some_and(|held| held.worker > NUMBER_MAX) {
            return Err(format!(
                "it holds an attempt under a number above {NUMBER_MAX}"
            ));
        }
        if register.slots == 0 {
            return Err("it offers no slot; give it at least one".to_owned());
        }
        Ok(())
    }

    /// Hands what the worker says to the fleet, until the connection ends. Why it did.
    async fn listen(
        &self,
        joined: Joined,
        (fleet, board): (&FleetHandle, &FigureBoard),
        mut incoming: Streaming<FromWorker>,
    ) -> String {
        loop {
            let said = match timeout(self.settings.silent_max, incoming.message()).await {
                Err(_) => {
                    return format!("it was silent for {:?}", self.settings.silent_max);
                }
                Ok(Err(status)) => return format!("its connection broke: {}", status.message()),
                Ok(Ok(None)) => return "it ended its connection".to_owned(),
                Ok(Ok(Some(FromWorker { what }))) => what,
            };
            match said {
                Some(from_worker::What::Event(bytes)) => {
                    let event = match decode::<WorkerEvent>(&bytes) {
                        Ok(event) => event,
                        Err(error) => return format!("it said what cannot be read: {error}"),
                    };
                    if let Err(reason) = tell(fleet, move |fleet| fleet.said(joined, event)).await {
                        return reason;
                    }
                }
                Some(from_worker::What::Leaving(_)) => {
                    if let Err(reason) = tell(fleet, move |fleet| fleet.leaving(joined)).await {
                        return reason;
                    }
                }
                Some(from_worker::What::Alive(_)) => {}
                Some(from_worker::What::Figures(bytes)) => match decode(&bytes) {
                    Ok(figures) => board.take(figures),
                    Err(error) => return format!("its figures cannot be read: {error}"),
                },
                Some(from_worker::What::Register(_)) => return "it registered twice".to_owned(),
                None => return "it said what this version does not know".to_owned(),
            }
        }
    }

    /// Says that the coordinator lives. Ends when nothing can be said any more.
    async fn beat(&self, to_worker: &ToWorker) -> String {
        let mut ticks = interval(self.settings.alive_every);
        loop {
            ticks.tick().await;
            let what = from_coordinator::What::Alive(Alive {});
            match to_worker.try_send(Ok(message(what))) {
                // Commands wait to be taken: they say as much.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    return "its connection was closed".to_owned();
                }
            }
        }
    }
}

/// Tells the fleet something, whose queue may be full for a moment.
async fn tell(
    fleet: &FleetHandle,
    what: impl FnOnce(&FleetHandle) + Send + 'static,
) -> Result<(), String> {
    let fleet = fleet.clone();
    let told = spawn_blocking(move || what(&fleet)).await;
    told.map_err(|_| "what it said could not be passed on".to_owned())
}

/// Says why the worker is not taken, and waits until it can have read it: until it closes the connection.
async fn dismiss(to_worker: &ToWorker, why: from_coordinator::What) {
    if to_worker.send(Ok(message(why))).await.is_ok() {
        let closed = timeout(REGISTER_MAX, to_worker.closed()).await;
        drop(closed);
    }
}

/// Tells the fleet that a worker has left, however its connection ends.
struct Left {
    fleet: FleetHandle,
    joined: Joined,
    reason: Option<String>,
}

impl Left {
    fn because(mut self, reason: String) {
        self.reason = Some(reason);
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let (fleet, joined) = (self.fleet.clone(), self.joined);
        let reason = self.reason.take().unwrap_or_default();
        // Dropped on a thread of the rim, which must not wait.
        let told = tokio::runtime::Handle::try_current();
        match told {
            Ok(rim) => drop(rim.spawn_blocking(move || fleet.left(joined, reason))),
            Err(_) => fleet.left(joined, reason),
        }
    }
}
