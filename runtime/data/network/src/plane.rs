//! The data plane of a worker: one listener, and the links of the attempt that it holds.
//!
//! Made once for a worker process; links are made by the worker when it opens an attempt, and dropped when the attempt ends. The receiving
//! worker says which links it expects, the sending one connects; either may come first.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_exchange::remote::{Compression, InboundPort, OutboundPort};
use highwater_tls::{Wire, WireStream};
use highwater_types::{AttemptId, WorkerIndex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::bell::Bell;
use crate::counted::{Counted, LinkBoard};
use crate::hello::{Hello, Refusal, answer, hear, say};
use crate::link::{LinkSettings, receive_side, send_side};

/// Connections that have not said whose they are, at once.
const STRANGERS_MAX: usize = 256;
/// How long a connection may take to say it, and to be expected.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// Between two tries to connect.
const AGAIN_EVERY: Duration = Duration::from_millis(100);

/// One link of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkKey {
    /// The attempt.
    pub attempt: AttemptId,
    /// Who sends.
    pub from: WorkerIndex,
    /// Who receives.
    pub to: WorkerIndex,
}

impl LinkKey {
    const fn of(hello: &Hello) -> Self {
        Self {
            attempt: hello.attempt,
            from: hello.from,
            to: hello.to,
        }
    }
}

/// What a link tells its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// Frames may flow.
    Up(LinkKey),
    /// It did not come about. Of one that was up, its channels tell.
    Failed(LinkKey, String),
}

/// A link. Dropping it closes the connection, or gives up the wait for one.
#[derive(Debug)]
pub struct Link {
    _driver: JoinSet<()>,
}

/// A link that is expected.
struct Expected {
    /// Tells it from another that takes its place.
    number: u64,
    hello: Hello,
    arrived: oneshot::Sender<WireStream>,
}

/// What listener and worker share.
#[derive(Default)]
struct Expectations {
    links: Mutex<BTreeMap<LinkKey, Expected>>,
    numbers: AtomicU64,
    changed: Notify,
}

/// The data plane of a worker process.
pub struct DataPlane {
    address: SocketAddr,
    expectations: Arc<Expectations>,
    settings: LinkSettings,
    wire: Wire,
    rim: Handle,
    board: LinkBoard,
    _listener: JoinSet<()>,
}

impl DataPlane {
    /// Listens at `address`.
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub async fn bind(address: SocketAddr, settings: LinkSettings, wire: Wire) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let expectations = Arc::new(Expectations::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, wire.clone(), Arc::clone(&expectations)));
        Ok(Self {
            address,
            expectations,
            settings,
            wire,
            rim: Handle::current(),
            board: LinkBoard::default(),
            _listener: tasks,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is done to rows that are sent.
    pub const fn compression(&self) -> Compression {
        self.settings.compression
    }

    /// What went over its links.
    pub const fn board(&self) -> &LinkBoard {
        &self.board
    }

    /// Expects the link that says `hello`, with `ports` for its channels in order.
    pub fn expect(
        &self,
        hello: Hello,
        (bell, mut ports): (Arc<Bell>, Vec<InboundPort>),
        news: impl Fn(LinkNews) + Send + 'static,
    ) -> Link {
        let key = LinkKey::of(&hello);
        let (from, board) = (hello.from, self.board.clone());
        let peer = name(from);
        let (arrived, stream) = oneshot::channel();
        let number = self.expectations.put(key, hello, arrived);
        let (settings, expectations) = (self.settings, Arc::clone(&self.expectations));
        let drive = async move {
            let withdrawn = Withdrawn {
                expectations,
                key,
                number,
            };
            let Ok(stream) = stream.await else {
                return news(LinkNews::Failed(
                    key,
                    "another link has taken its place".to_owned(),
                ));
            };
            drop(withdrawn);
            let stream = Counted::new(stream, board.counts(from));
            news(LinkNews::Up(key));
            let end = receive_side(stream, &bell, &mut ports, &peer, settings).await;
            tracing::debug!(peer, %end, "link from");
        };
        self.link(drive)
    }

    /// Connects to the worker at `address` and says `hello`, with `ports` for the channels of the link in order.
    pub fn connect(
        &self,
        address: String,
        hello: Hello,
        (bell, mut ports): (Arc<Bell>, Vec<OutboundPort>),
        news: impl Fn(LinkNews) + Send + 'static,
    ) -> Link {
        let key = LinkKey::of(&hello);
        let (peer, settings, wire) = (name(hello.to), self.settings, self.wire.clone());
        let board = self.board.clone();
        let drive = async move {
            let stream = match connected(&wire, &address, &hello).await {
                Ok(stream) => stream,
                Err(error) => {
                    let reason = format!("no link to {peer} at {address}: {error}");
                    return news(LinkNews::Failed(key, reason));
                }
            };
            let stream = Counted::new(stream, board.counts(hello.to));
            news(LinkNews::Up(key));
            let end = send_side(stream, &bell, &mut ports, &peer, settings).await;
            tracing::debug!(peer, %end, "link to");
        };
        self.link(drive)
    }

    fn link(&self, drive: impl Future<Output = ()> + Send + 'static) -> Link {
        let mut driver = JoinSet::new();
        driver.spawn_on(drive, &self.rim);
        Link { _driver: driver }
    }
}

fn name(worker: WorkerIndex) -> String {
    format!("worker {worker}")
}

/// Takes an expectation back when its link is dropped before it came.
struct Withdrawn {
    expectations: Arc<Expectations>,
    key: LinkKey,
    number: u64,
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        self.expectations.withdraw(self.key, self.number);
    }
}

impl Expectations {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<LinkKey, Expected>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: LinkKey, hello: Hello, arrived: oneshot::Sender<WireStream>) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let expected = Expected {
            number,
            hello,
            arrived,
        };
        self.locked().insert(key, expected);
        self.changed.notify_waiters();
        number
    }

    /// Takes one back, unless another has its place already.
    fn withdraw(&self, key: LinkKey, number: u64) {
        let mut links = self.locked();
        if links
            .get(&key)
            .is_some_and(|expected| expected.number == number)
        {
            links.remove(&key);
        }
    }

    /// The expectation that a hello meets.
    fn take(&self, hello: &Hello) -> Result<Expected, Refusal> {
        let mut links = self.locked();
        let key = LinkKey::of(hello);
        let expected = links.get(&key).ok_or(Refusal::Unknown)?;
        expected.hello.accepts(hello)?;
        links.remove(&key).ok_or(Refusal::Unknown)
    }

    /// The same, waiting for it as long as nobody expects the link.
    async fn met_by(&self, hello: &Hello) -> Result<Expected, Refusal> {
        let until = Instant::now() + HELLO_MAX;
        loop {
            // Begins to listen before the look, so that a change in between is heard.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.take(hello) {
                Err(Refusal::Unknown) => {}
                met => return met,
            }
            if timeout(until - Instant::now(), changed).await.is_err() {
                return Err(Refusal::Unknown);
            }
        }
    }
}

async fn listen(listener: TcpListener, wire: Wire, expectations: Arc<Expectations>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut met = JoinSet::new();
    loop {
        while met.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (wire, expectations) = (wire.clone(), Arc::clone(&expectations));
                met.spawn(async move {
                    let _place = place;
                    if let Err(error) = meet(stream, &wire, &expectations).await {
                        tracing::warn!(%from, %error, "a connection to the data plane was refused");
                    }
                });
            }
            Err(error) => {
                // Such as too many open files: what passes is waited for.
                tracing::warn!(%error, "the data plane accepts no connection");
                sleep(AGAIN_EVERY).await;
            }
        }
    }
}

/// Hears whose a connection is, and hands it to the link that expects it.
async fn meet(stream: TcpStream, wire: &Wire, expectations: &Expectations) -> io::Result<()> {
    let slow = || io::Error::new(io::ErrorKind::TimedOut, "it did not say whose it is");
    stream.set_nodelay(true)?;
    let heard = async {
        let mut stream = wire.accept(stream).await?;
        let hello = hear(&mut stream).await?;
        io::Result::Ok((stream, hello))
    };
    let (mut stream, hello) = timeout(HELLO_MAX, heard).await.map_err(|_| slow())??;
    match expectations.met_by(&hello).await {
        Ok(expected) => {
            answer(&mut stream, None).await?;
            // Whoever expected it may have gone in this moment; the connection is closed then.
            drop(expected.arrived.send(stream));
            Ok(())
        }
        Err(refusal) => {
            answer(&mut stream, Some(refusal)).await?;
            Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal))
        }
    }
}

/// A connection that was welcomed. A worker that does not listen yet is asked again for a while.
async fn connected(wire: &Wire, address: &str, hello: &Hello) -> io::Result<WireStream> {
    let until = Instant::now() + HELLO_MAX;
    loop {
        let reached = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // Certificates may be renewed in this moment, so that one that is refused is shown again as well.
            wire.connect(stream).await
        };
        let error = match timeout(HELLO_MAX, reached).await {
            Ok(Ok(mut stream)) => {
                let late =
                    || io::Error::new(io::ErrorKind::TimedOut, "it does not answer the hello");
                timeout(2 * HELLO_MAX, say(&mut stream, hello))
                    .await
                    .map_err(|_| late())??;
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "it does not answer"),
        };
        if Instant::now() + AGAIN_EVERY >= until {
            return Err(error);
        }
        sleep(AGAIN_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
