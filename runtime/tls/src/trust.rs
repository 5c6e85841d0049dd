//! Whom a process believes that has no certificate of its own: the authority, and the name that the other side must have.
//!
//! Made by commands that speak to a server over [`Wire::accept_anyone`](crate::Wire::accept_anyone). The rule is that of a wire, on one side: who
//! shows no certificate of the authority, or one of another name, is not spoken to. The file is read once: commands end soon.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::{TlsError, name, roots};
use crate::stream::WireStream;

/// Whom to believe.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl Trust {
    /// Believes servers of `server_name` whose certificates an authority of this file signed.
    ///
    /// # Errors
    /// When the file is missing or damaged, or the name is none.
    pub fn load(authority: &Path, server_name: &str) -> Result<Self, TlsError> {
        let server_name = name(server_name)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[&TLS13]);
        let config = config.map_err(|error| TlsError::File {
            what: "authority",
            path: authority.to_owned(),
            reason: error.to_string(),
        })?;
        let config = config.with_root_certificates(roots(authority)?);
        let mut config = config.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            server_name,
        })
    }

    /// Goes over a connection that was made. Does not time out by itself.
    ///
    /// # Errors
    /// When the other side breaks off, or shows no certificate that is believed.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<WireStream> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.server_name.clone(), stream).await?;
        Ok(WireStream::Tls(Box::new(stream.into())))
    }
}
