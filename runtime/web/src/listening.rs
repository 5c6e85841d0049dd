//! Where the status server listens, and the connections that come there.
//!
//! Bound by `run` and `coordinator` before anything of the job begins; serves one view of the job after another. In reading order: what may
//! listen where ([`ListenSettings`]), connections ([`Listening`]), how long each step of one may take (`pace`), bodies (`body`). The rules: off
//! loopback nobody is answered who has shown nothing, and nothing is in the clear without the user's word; connections, heads, bodies and
//! rests are bounded, so that who is slow or says nothing costs a place for seconds. HTTP/1.1 only.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Response};
use highwater_tls::{Wire, WireStream};
use highwater_types::{Classified, ErrorKind};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use crate::access::{Access, Peer};

mod body;
mod pace;

use body::{Answer, taken};
use pace::{Pace, Paced};

/// Headers of a request, at most.
const HEADERS_MAX: usize = 64;
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// What a connection holds of what was read, and of what is to be written.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;
/// How long nothing is accepted when nothing can be.
const AGAIN_EVERY: Duration = Duration::from_millis(100);

/// Bounds of what comes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at once; more wait until one ends.
    pub connections_max: usize,
    /// How long one may take to show certificates.
    pub show_max: Duration,
    /// How long the head of a request may take.
    pub head_max: Duration,
    /// How long its body may take.
    pub body_max: Duration,
    /// How long a connection may rest after an answer, and how long the answer may take to be read.
    pub idle_max: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            show_max: Duration::from_secs(3),
            head_max: Duration::from_secs(5),
            body_max: Duration::from_secs(10),
            idle_max: Duration::from_mins(1),
        }
    }
}

/// Who may come, and how.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Who may ask.
    pub access: Access,
    /// What the server shows. With [`Access::Certificates`] both sides show one.
    pub wire: Wire,
    /// Whether the user lets it listen off loopback in the clear.
    pub allows_clear_text: bool,
    /// Bounds.
    pub limits: ConnectionLimits,
}

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anybody could ask from anywhere.
    #[error(
        "{0} is not on loopback and rest.authentication is none: anybody who reaches it would read and change the job; give \
         rest.authentication tokens (with rest.tokens) or certificates, or an address on 127.0.0.1 or [::1]"
    )]
    Anonymous(SocketAddr),
    /// Tokens would cross a network in the clear.
    #[error(
        "{0} is not on loopback and there are no certificates: tokens would cross the network in the clear; give tls.authority, \
         tls.certificate, tls.key and tls.peer-name, or allow-clear-text in a network that nobody else reaches"
    )]
    ClearText(SocketAddr),
    /// Certificates are asked for and there is none to show.
    #[error(
        "rest.authentication is certificates and the process has none; give tls.authority, tls.certificate, tls.key and tls.peer-name"
    )]
    NoCertificate,
    /// The address cannot be used.
    #[error(
        "the status server cannot listen on {address}; choose another port or 0 for any free one"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The listener that was handed in is none.
    #[error("the status server cannot use the listener; bind another one")]
    Listener(#[source] io::Error),
}

impl Classified for ServeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl ListenSettings {
    /// Whether the server may listen there.
    fn check(&self, address: SocketAddr) -> Result<(), ServeError> {
        let is_clear = self.wire.is_clear();
        match self.access {
            Access::Certificates if is_clear => Err(ServeError::NoCertificate),
            _ if address.ip().is_loopback() => Ok(()),
            Access::Open => Err(ServeError::Anonymous(address)),
            Access::Tokens(_) if is_clear && !self.allows_clear_text => {
                Err(ServeError::ClearText(address))
            }
            Access::Tokens(_) | Access::Certificates => Ok(()),
        }
    }
}

/// A server that listens. Clones share the listener and the bound of connections.
#[derive(Clone, Debug)]
pub struct Listening {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    settings: ListenSettings,
    places: Arc<Semaphore>,
}

impl Listening {
    /// Listens at `address`; port 0 is any free one.
    ///
    /// # Errors
    /// When the settings do not let it listen there, or the address cannot be used.
    pub async fn bind(address: SocketAddr, settings: ListenSettings) -> Result<Self, ServeError> {
        settings.check(address)?;
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| ServeError::Bind { address, source })?;
        Self::over(listener, settings)
    }

    /// Listens over a listener that somebody else bound.
    ///
    /// # Errors
    /// When the settings do not let it listen there.
    pub fn over(listener: TcpListener, settings: ListenSettings) -> Result<Self, ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listener)?;
        settings.check(address)?;
        let places = Semaphore::new(settings.limits.connections_max);
        Ok(Self {
            listener: Arc::new(listener),
            address,
            settings,
            places: Arc::new(places),
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may ask: what the routes are guarded with.
    pub const fn access(&self) -> &Access {
        &self.settings.access
    }

    /// Serves until the future is dropped.
    pub async fn serve(&self, routes: Router) {
        self.serve_until(routes, pending()).await;
    }

    /// Serves until `over`, and the requests that are being answered then to their end.
    pub async fn serve_until(&self, routes: Router, over: impl Future<Output = ()> + Send) {
        let (ends, ending) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut over = pin!(over);
        loop {
            // Every arm is cancel-safe: what is cut off is a wait for a place, for a connection or for an end.
            tokio::select! {
                () = &mut over => break,
                (stream, from, place) = self.next() => {
                    let connection = Connection {
                        routes: routes.clone(),
                        settings: self.settings.clone(),
                        ending: ending.clone(),
                        from,
                    };
                    connections.spawn(connection.hold(stream, place));
                }
                Some(ended) = connections.join_next() => told(ended),
            }
        }
        ends.send_replace(true);
        while let Some(ended) = connections.join_next().await {
            told(ended);
        }
    }

    /// The next connection, once there is a place for it.
    async fn next(&self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        let mut was_told = false;
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => return (stream, from, place),
                Err(error) => {
                    // Such as too many open files: what passes is waited for.
                    if !was_told {
                        tracing::warn!(%error, "the status server accepts no connection");
                    }
                    was_told = true;
                    sleep(AGAIN_EVERY).await;
                }
            }
        }
    }
}

fn told(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request to the status server");
    }
}

/// A connection that came.
struct Connection {
    routes: Router,
    settings: ListenSettings,
    ending: watch::Receiver<bool>,
    from: SocketAddr,
}

impl Connection {
    /// Holds it from its first byte to its last, with the place that it has.
    async fn hold(self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let from = self.from;
        let shown = timeout(self.settings.limits.show_max, self.show(stream)).await;
        match shown {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "a connection to the status server was refused");
            }
            Err(_) => {
                tracing::debug!(%from, "a connection to the status server did not show who it is");
            }
        }
        drop(place);
    }

    async fn show(&self, stream: TcpStream) -> io::Result<WireStream> {
        let wire = &self.settings.wire;
        match self.settings.access {
            Access::Certificates => wire.accept(stream).await,
            Access::Open | Access::Tokens(_) => wire.accept_anyone(stream).await,
        }
    }

    /// Answers one request after another.
    async fn serve(self, stream: WireStream) {
        let Self {
            routes,
            settings: ListenSettings { limits, .. },
            mut ending,
            from,
        } = self;
        let pace = Pace::new(limits.head_max, limits.idle_max);
        let mut overdue = pin!(pace.clone().overdue());
        let stream = TokioIo::new(Paced::new(stream, pace.clone()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            pace.answers();
            request.extensions_mut().insert(Peer(from));
            answer(routes.clone(), request, pace.clone(), limits.body_max)
        });
        let mut serving = pin!(http().serve_connection(stream, service));
        let mut is_ending = false;
        loop {
            // Every arm is cancel-safe: all three go on where they were.
            tokio::select! {
                served = serving.as_mut() => {
                    if let Err(error) = served {
                        tracing::debug!(%from, %error, "a connection to the status server broke");
                    }
                    return;
                }
                step = overdue.as_mut() => {
                    tracing::debug!(%from, step, "a connection to the status server was too slow");
                    return;
                }
                () = told_to_end(&mut ending), if !is_ending => {
                    is_ending = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

async fn answer(
    routes: Router,
    request: Request<Incoming>,
    pace: Pace,
    body_max: Duration,
) -> Result<Response<Answer>, Infallible> {
    let request = request.map(|body| taken(body, body_max));
    let answer = routes.oneshot(request).await?;
    Ok(answer.map(|body| Answer::new(body, pace)))
}

/// HTTP/1.1 with bounds. How long a head may take is seen to by [`Pace`]: the timeout of the library would end connections that rest, too.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None::<Duration>)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    http
}

/// Waits until the server ends, or is gone.
async fn told_to_end(ending: &mut watch::Receiver<bool>) {
    drop(ending.wait_for(|is_over| *is_over).await);
}

#[cfg(test)]
mod tests;
