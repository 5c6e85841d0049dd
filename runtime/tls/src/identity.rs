//! The identity of a process: its certificate, its key, and the authority that signs those of its peers.
//!
//! Read at the start, and again before a connection is made once a file has changed: certificates are renewed under a running process,
//! and connections that are there stay. The rule: what cannot be read at the start is an error that names the file; what cannot be read
//! later leaves in use what was read before, and says so.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_types::{Classified, ErrorKind};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Where an identity lies: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Certificates of the authorities that sign those of peers.
    pub authority: PathBuf,
    /// The own certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The name that the certificates of all processes of the job have. An authority may sign for several jobs.
    pub peer_name: String,
}

/// Why files are no identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it should be.
    #[error("{what} {}: {reason}; give a file in PEM", path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The files do not belong together.
    #[error("certificate {} and key {}: {reason}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Peers would not accept the certificate.
    #[error(
        "certificate {} is not one that peers accept: {reason}; it must be signed by the authority, be valid now and have the name of peers",
        certificate.display()
    )]
    Unaccepted {
        /// The certificate.
        certificate: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The name of peers is none.
    #[error("`{name}` is no name that a certificate could have; write a host name")]
    PeerName {
        /// The name.
        name: String,
    },
}

impl Classified for TlsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// What the files were when they were read: inode, length and time of the last change of each, which no copy keeps.
type Stamp = [Option<(u64, u64, i64, i64)>; 3];

/// The identity of a process.
#[derive(Debug)]
pub struct Identity {
    files: IdentityFiles,
    peer_name: ServerName<'static>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    stamp: Stamp,
    configs: Configs,
}

#[derive(Clone, Debug)]
struct Configs {
    server: Arc<ServerConfig>,
    /// The same certificate, shown to whoever comes.
    open: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// When one is missing or damaged, or key and certificate are not of each other.
    pub fn load(files: IdentityFiles) -> Result<Self, TlsError> {
        let peer_name = name(&files.peer_name)?;
        let stamp = stamp_of(&files);
        let configs = Configs::of(&files, &peer_name)?;
        Ok(Self {
            files,
            peer_name,
            loaded: Mutex::new(Loaded { stamp, configs }),
        })
    }

    /// The name that peers must have.
    pub(crate) fn peer_name(&self) -> ServerName<'static> {
        self.peer_name.clone()
    }

    /// For the next connection that comes in.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current().server
    }

    /// For the next connection that comes in from somebody who need not show a certificate.
    pub(crate) fn open_server(&self) -> Arc<ServerConfig> {
        self.current().open
    }

    /// For the next connection that goes out.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.current().client
    }

    /// Checks the name of a peer that showed these certificates. Who they are signed by was seen to.
    pub(crate) fn check_name(&self, shown: &[CertificateDer<'_>]) -> io::Result<()> {
        let refuse = |reason: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        let Some(own) = shown.first() else {
            return refuse("it shows no certificate".to_owned());
        };
        match has_name(own, &self.peer_name) {
            Ok(()) => Ok(()),
            Err(error) => refuse(format!(
                "its certificate is not of {}: {error}",
                self.peer_name.to_str()
            )),
        }
    }

    /// What the files hold now. Looks at them, and reads them if they have changed: a few calls of the system for each connection that
    /// is made.
    fn current(&self) -> Configs {
        let stamp = stamp_of(&self.files);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != loaded.stamp {
            // Whatever comes of it: the next change is looked at again, this one is not.
            loaded.stamp = stamp;
            match Configs::of(&self.files, &self.peer_name) {
                Ok(configs) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificates were renewed");
                    loaded.configs = configs;
                }
                Err(error) => {
                    tracing::error!(%error, "certificates have changed and cannot be used; the old ones stay in use");
                }
            }
        }
        loaded.configs.clone()
    }
}

/// A name that a certificate could have.
pub(crate) fn name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::PeerName {
        name: text.to_owned(),
    })
}

fn stamp_of(files: &IdentityFiles) -> Stamp {
    let of = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
    };
    [&files.authority, &files.certificate, &files.key].map(of)
}

/// Whether a certificate has a name.
fn has_name(own: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), rustls::Error> {
    verify_server_name(&ParsedCertificate::try_from(own)?, name)
}

impl Configs {
    fn of(files: &IdentityFiles, peer_name: &ServerName<'_>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(&files.authority)?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| TlsError::File {
            what: "authority",
            path: files.authority.clone(),
            reason: error.to_string(),
        })?;
        let chain = certificates("certificate", &files.certificate)?;
        let key = key(&files.key)?;
        if let [own, others @ ..] = &chain[..] {
            let accepted = verifier.verify_client_cert(own, others, UnixTime::now());
            accepted
                .and_then(|_| has_name(own, peer_name))
                .map_err(|error| TlsError::Unaccepted {
                    certificate: files.certificate.clone(),
                    reason: error.to_string(),
                })?;
        }
        let pair = || (chain.clone(), key.clone_key());
        let nobody = WebPkiClientVerifier::no_client_auth();
        Ok(Self {
            server: Arc::new(server(files, &provider, verifier, pair())?),
            open: Arc::new(server(files, &provider, nobody, pair())?),
            client: Arc::new(client(files, &provider, roots, pair())?),
        })
    }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn server(
    files: &IdentityFiles,
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    (chain, key): Pair,
) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(Arc::clone(provider));
    let config = config.with_protocol_versions(&[&TLS13]);
    let config = config.map_err(|error| mismatch(files, &error))?;
    let config = config.with_client_cert_verifier(verifier);
    let mut config = config
        .with_single_cert(chain, key)
        .map_err(|error| mismatch(files, &error))?;
    // A session that is resumed is not verified again: one whose certificate has expired would go on.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    files: &IdentityFiles,
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    (chain, key): Pair,
) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider));
    let config = config.with_protocol_versions(&[&TLS13]);
    let config = config.map_err(|error| mismatch(files, &error))?;
    let config = config.with_root_certificates(roots);
    let mut config = config
        .with_client_auth_cert(chain, key)
        .map_err(|error| mismatch(files, &error))?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn mismatch(files: &IdentityFiles, error: &rustls::Error) -> TlsError {
    TlsError::Mismatch {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    }
}

/// The authorities of a file.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", path)? {
        roots.add(certificate).map_err(|error| TlsError::File {
            what: "authority",
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// All certificates of a file, at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        what,
        path: path.to_owned(),
        reason,
    };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(words(&error)))?;
    let read: Result<Vec<_>, _> = read.collect();
    let found = read.map_err(|error| wrong(words(&error)))?;
    if found.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::File {
        what: "key",
        path: path.to_owned(),
        reason: words(&error),
    })
}

/// What is wrong with a file in PEM, without any of it: the library shows the line that it cannot read, which may be a key.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it holds none".to_owned(),
        pem::Error::MissingSectionEnd { .. } => "a part of it has no end".to_owned(),
        pem::Error::Base64Decode(_) => "a part of it is no base64".to_owned(),
        _ => "it is not PEM".to_owned(),
    }
}
