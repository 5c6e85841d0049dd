//! The worker's side: one connection with its coordinator.
//!
//! Opened by the role `worker`, again and again: the next connection may lead to another coordinator. Events of the worker go up in order, commands come down in order.

use std::time::Duration;

use highwater_coordinator::fleet::HeldPart;
use highwater_tls::Wire;
use highwater_types::WorkerIndex;
use highwater_worker::{FigureBoard, WorkerCommand, WorkerEvent};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::identity::Identity;
use crate::message::{MESSAGE_BYTES_MAX, decode, encode};
use crate::proto::control_client::ControlClient;
use crate::proto::{
    Alive, FromCoordinator, FromWorker, Held, Leaving, Register, from_coordinator, from_worker,
};
use crate::server::ConnectionSettings;

/// Messages that may wait to be sent.
const OUTGOING: usize = 1_024;
/// How long a coordinator may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a worker registers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What it runs.
    pub identity: Identity,
    /// Stays the same when it is started again in the same place.
    pub name: String,
    /// Its slots.
    pub slots: u32,
    /// Where its data plane listens: host and port.
    pub data_address: String,
    /// The attempt that it holds for a coordinator that is gone.
    pub held: Option<HeldPart>,
}

/// Why a connection ended or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionEnd {
    /// No coordinator answers there.
    #[error("no coordinator answers at {address}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The coordinator does not take this worker, and never will.
    #[error("the coordinator at {address} refuses this worker: {reason}")]
    Refused {
        /// The coordinator.
        address: String,
        /// Why, and what helps.
        reason: String,
    },
    /// Another coordinator leads the job, or none does yet.
    #[error("the coordinator at {address} stands by")]
    Standby {
        /// The coordinator.
        address: String,
        /// Where the leader takes workers, if that is known.
        leader: Option<String>,
    },
    /// The coordinator is gone.
    #[error("the connection with the coordinator at {address} has ended: {reason}")]
    Lost {
        /// The coordinator.
        address: String,
        /// What happened.
        reason: String,
    },
}

/// What passes through a connection.
#[derive(Clone, Debug)]
pub enum Passing<'a> {
    /// A command of the coordinator, for the worker.
    Command(WorkerCommand),
    /// What the worker tells, on its way.
    Event(&'a WorkerEvent),
}

/// A connection that was welcomed.
pub struct WorkerConnection {
    address: String,
    worker: WorkerIndex,
    outgoing: mpsc::Sender<FromWorker>,
    incoming: Streaming<FromCoordinator>,
    settings: ConnectionSettings,
}

impl WorkerConnection {
    /// Opens a connection with the coordinator at `address` (`host:port`).
    ///
    /// # Errors
    /// When nobody answers there, or the worker is refused.
    pub async fn open(
        address: &str,
        registration: Registration,
        (settings, wire): (ConnectionSettings, &Wire),
    ) -> Result<Self, ConnectionEnd> {
        let unreachable = |reason: String| ConnectionEnd::Unreachable {
            address: address.to_owned(),
            reason,
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| unreachable(error.to_string()))?;
        let (to, wire) = (address.to_owned(), wire.clone());
        let connector = tower::service_fn(move |_| {
            let (to, wire) = (to.clone(), wire.clone());
            async move {
                let stream = TcpStream::connect(&to).await?;
                stream.set_nodelay(true)?;
                std::io::Result::Ok(TokioIo::new(wire.connect(stream).await?))
            }
        });
        let channel = timeout(ANSWER_MAX, endpoint.connect_with_connector(connector)).await;
        let channel =
            channel.map_err(|_| unreachable(format!("no connection within {ANSWER_MAX:?}")))?;
        let channel = channel.map_err(|error| unreachable(whole(&error)))?;
        let mut client = ControlClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (outgoing, stream) = mpsc::channel(OUTGOING);
        let register = from_worker::What::Register(register(registration));
        if outgoing.try_send(message(register)).is_err() {
            unreachable!("the queue is new");
        }
        let opened = timeout(ANSWER_MAX, client.attend(ReceiverStream::new(stream))).await;
        let late = || unreachable(format!("it does not answer within {ANSWER_MAX:?}"));
        let opened = opened.map_err(|_| late())?;
        let mut incoming = opened
            .map_err(|status| unreachable(status.message().to_owned()))?
            .into_inner();
        let first = timeout(ANSWER_MAX, incoming.message()).await;
        let first = first.map_err(|_| late())?;
        let first = first.map_err(|status| unreachable(status.message().to_owned()))?;
        let refused = |reason: String| ConnectionEnd::Refused {
            address: address.to_owned(),
            reason,
        };
        let worker = match first.and_then(|message| message.what) {
            Some(from_coordinator::What::Welcome(welcome)) => WorkerIndex(welcome.worker),
            Some(from_coordinator::What::Refused(why)) => return Err(refused(why.reason)),
            Some(from_coordinator::What::Standby(standby)) => {
                return Err(ConnectionEnd::Standby {
                    address: address.to_owned(),
                    leader: Some(standby.leader).filter(|leader| !leader.is_empty()),
                });
            }
            _ => return Err(unreachable("it does not say welcome".to_owned())),
        };
        Ok(Self {
            address: address.to_owned(),
            worker,
            outgoing,
            incoming,
            settings,
        })
    }

    /// The number that the coordinator gave.
    pub const fn worker(&self) -> WorkerIndex {
        self.worker
    }

    /// Passes events up and commands down until the connection ends, or the worker is told to. `take` takes a command and sees each event; it
    /// must not wait. Once `leaves` returns the coordinator is told that the worker wants to go.
    ///
    /// Events that could not be sent any more are lost with the connection: the next coordinator asks for what of them still matters.
    pub async fn run(
        mut self,
        (events, figures): (&mut mpsc::Receiver<WorkerEvent>, &FigureBoard),
        leaves: impl Future<Output = ()>,
        mut take: impl FnMut(Passing<'_>),
    ) -> ConnectionEnd {
        let mut leaves = std::pin::pin!(leaves);
        let mut goes_on = true;
        let mut ticks = interval(self.settings.alive_every);
        let mut heard = Instant::now();
        let reason = loop {
            // Every arm is cancel-safe: a message, an event, a tick and the wish to go that are not taken now are taken in the next turn.
            tokio::select! {
                said = timeout_at(heard + self.settings.silent_max, self.incoming.message()) => {
                    heard = Instant::now();
                    match self.said(said) {
                        Ok(Some(command)) => {
                            let ends = matches!(command, WorkerCommand::Shutdown);
                            take(Passing::Command(command));
                            if ends {
                                break "it has told the worker to end".to_owned();
                            }
                        }
                        Ok(None) => {}
                        Err(reason) => break reason,
                    }
                }
                Some(event) = events.recv() => {
                    take(Passing::Event(&event));
                    let event = from_worker::What::Event(encode(&event));
                    if self.send(event).await.is_err() {
                        break "nothing can be sent any more".to_owned();
                    }
                }
                _ = ticks.tick() => {
                    // What waits to be sent says as much.
                    let figures = figures.told();
                    let what = if figures.tasks.is_empty() {
                        from_worker::What::Alive(Alive {})
                    } else {
                        from_worker::What::Figures(encode(&figures))
                    };
                    drop(self.outgoing.try_send(message(what)));
                }
                () = &mut leaves, if goes_on => {
                    goes_on = false;
                    if self.send(from_worker::What::Leaving(Leaving {})).await.is_err() {
                        break "nothing can be sent any more".to_owned();
                    }
                }
            }
        };
        ConnectionEnd::Lost {
            address: self.address,
            reason,
        }
    }

    /// Sends a message; a connection that takes nothing for too long is given up.
    async fn send(&self, what: from_worker::What) -> Result<(), ()> {
        match timeout(self.settings.silent_max, self.outgoing.send(message(what))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }

    fn said(
        &self,
        said: Result<Result<Option<FromCoordinator>, tonic::Status>, tokio::time::error::Elapsed>,
    ) -> Result<Option<WorkerCommand>, String> {
        let silent = || format!("it was silent for {:?}", self.settings.silent_max);
        let message = said.map_err(|_| silent())?;
        let message = message.map_err(|status| status.message().to_owned())?;
        let message = message.ok_or_else(|| "it ended the connection".to_owned())?;
        match message.what {
            Some(from_coordinator::What::Command(bytes)) => {
                decode(&bytes).map(Some).map_err(|error| error.to_string())
            }
            Some(from_coordinator::What::Alive(_)) => Ok(None),
            _ => Err("it said what does not belong here".to_owned()),
        }
    }
}

const fn message(what: from_worker::What) -> FromWorker {
    FromWorker { what: Some(what) }
}

fn register(registration: Registration) -> Register {
    let claim = registration.identity.claim();
    Register {
        protocol: claim.protocol,
        engine: claim.engine,
        job: claim.job,
        graph: claim.graph,
        revision: claim.revision,
        name: registration.name,
        slots: registration.slots,
        data_address: registration.data_address,
        held: registration.held.map(|part| Held {
            attempt: part.attempt.0,
            worker: part.worker.0,
        }),
    }
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
