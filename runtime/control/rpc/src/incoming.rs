//! Connections that come to a coordinator, from the listener to the service.
//!
//! Each shows who it is on a task of its own, so that one that is slow holds up no other; what fails here never reaches the service.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use highwater_tls::{Wire, WireStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections that have not shown who they are, at once.
const STRANGERS_MAX: usize = 256;
/// How long a connection may take to show it.
const SHOW_MAX: Duration = Duration::from_secs(3);
/// How long nothing is accepted when nothing can be.
const AGAIN_EVERY: Duration = Duration::from_millis(100);

/// Accepts connections until nobody takes them any more.
pub(crate) async fn accept(
    listener: TcpListener,
    wire: Wire,
    accepted: mpsc::Sender<io::Result<Incoming>>,
) -> Result<(), tonic::transport::Error> {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut showing = JoinSet::new();
    while let Ok(place) = Arc::clone(&strangers).acquire_owned().await {
        while showing.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(found) => found,
            Err(error) => {
                // Such as too many open files: what passes is waited for.
                tracing::warn!(%error, "the coordinator accepts no connection");
                sleep(AGAIN_EVERY).await;
                continue;
            }
        };
        let (wire, accepted) = (wire.clone(), accepted.clone());
        showing.spawn(async move {
            let _place = place;
            let shown = timeout(SHOW_MAX, show(stream, &wire)).await;
            let late = || io::Error::new(io::ErrorKind::TimedOut, "it did not show who it is");
            match shown.unwrap_or_else(|_| Err(late())) {
                Ok(stream) => drop(accepted.send(Ok(Incoming(stream))).await),
                Err(error) => tracing::warn!(%from, %error, "a connection was refused"),
            }
        });
    }
    Ok(())
}

async fn show(stream: TcpStream, wire: &Wire) -> io::Result<WireStream> {
    stream.set_nodelay(true)?;
    wire.accept(stream).await
}

/// A connection that has shown who it is.
pub(crate) struct Incoming(WireStream);

impl Connected for Incoming {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo {
            local_addr: None,
            remote_addr: self.0.peer_address().ok(),
        }
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}
