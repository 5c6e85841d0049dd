//! Connections between the processes of a job: in the clear, or with certificates on both sides.
//!
//! In reading order: the files of an identity and what is made of them ([`identity`]), a connection ([`stream`]), what makes one ([`Wire`]),
//! and one who has no certificate and believes others ([`trust`]). Control and data plane use one [`Wire`]. The rule: with certificates nobody
//! is spoken to who does not show one of the same authority, on either side, and nothing older than TLS 1.3 is spoken. The one exception is
//! [`Wire::accept_anyone`], for what asks for something else inside, such as a token.

pub mod identity;
pub mod stream;
#[cfg(feature = "test-util")]
pub mod testing;
pub mod trust;

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use identity::{Identity, IdentityFiles, TlsError};
pub use stream::WireStream;
pub use trust::Trust;

/// How the processes of a job are connected. Clones share one identity.
#[derive(Clone, Debug)]
pub enum Wire {
    /// In the clear.
    Clear,
    /// With certificates on both sides.
    Tls(Arc<Identity>),
}

impl Wire {
    /// With the certificate in these files, which are read again whenever they change.
    ///
    /// # Errors
    /// When a file is missing or damaged, or key and certificate are not of each other.
    pub fn tls(files: IdentityFiles) -> Result<Self, TlsError> {
        Ok(Self::Tls(Arc::new(Identity::load(files)?)))
    }

    /// Takes a connection that came in. Does not time out by itself.
    ///
    /// # Errors
    /// When the other side breaks off, or shows no certificate that is accepted.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<WireStream> {
        let identity = match self {
            Self::Clear => return Ok(WireStream::Clear(stream)),
            Self::Tls(identity) => identity,
        };
        let acceptor = TlsAcceptor::from(identity.server());
        let stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        identity.check_name(shown.unwrap_or_default())?;
        Ok(WireStream::Tls(Box::new(stream.into())))
    }

    /// Takes a connection of somebody who need not show a certificate, and shows the own. Does not time out by itself.
    ///
    /// Nothing is known of the other side: what comes over the connection has to say who it is.
    ///
    /// # Errors
    /// When the other side breaks off, or speaks no TLS 1.3.
    pub async fn accept_anyone(&self, stream: TcpStream) -> io::Result<WireStream> {
        let identity = match self {
            Self::Clear => return Ok(WireStream::Clear(stream)),
            Self::Tls(identity) => identity,
        };
        let acceptor = TlsAcceptor::from(identity.open_server());
        let stream = acceptor.accept(stream).await?;
        Ok(WireStream::Tls(Box::new(stream.into())))
    }

    /// Whether connections are in the clear.
    pub const fn is_clear(&self) -> bool {
        matches!(self, Self::Clear)
    }

    /// Goes over a connection that was made. Does not time out by itself.
    ///
    /// # Errors
    /// When the other side breaks off, shows no certificate that is accepted, or does not accept ours.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<WireStream> {
        let identity = match self {
            Self::Clear => return Ok(WireStream::Clear(stream)),
            Self::Tls(identity) => identity,
        };
        let connector = TlsConnector::from(identity.client());
        let stream = connector.connect(identity.peer_name(), stream).await?;
        Ok(WireStream::Tls(Box::new(stream.into())))
    }
}
