//! How the commands of a job speak to its status server: one request a connection, over the wire that the other processes of the job use.
//!
//! Called by the commands that speak to a running job. The rules: in the clear only this machine is called; over TLS only a server that shows a
//! certificate of the authority and of the name. A token is shown before a certificate, and to nobody else. No proxy is asked and no
//! redirection followed.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use highwater_storage::Secret;
use highwater_tls::{IdentityFiles, TlsError, Trust, Wire, WireStream};
use highwater_web::routes::JOB_HEADER;
use highwater_worker::slot::error_chain;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::exit::{Code, Failure};
use crate::settings::{JobSettings, RestCredentials};

/// How long a server may take to take a connection and to show its certificate.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The largest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where a status server is asked: `http://127.0.0.1:8081` or `https://10.0.0.7:8081`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestBase {
    is_tls: bool,
    host: String,
    port: u16,
}

/// Reads where a status server is asked. `None` = it is none that may be called: in the clear only this machine is. A bare address of
/// loopback is what older versions noted.
pub(crate) fn parse_base(text: &str) -> Option<RestBase> {
    let text = text.trim();
    let (is_tls, address) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(address), _) => (true, address),
        (None, Some(address)) => (false, address),
        (None, None) => (false, text),
    };
    if let Ok(address) = address.parse::<SocketAddr>() {
        let host = match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        let may_be_called = is_tls || address.ip().is_loopback();
        return may_be_called.then_some(RestBase {
            is_tls,
            host,
            port: address.port(),
        });
    }
    let (host, port) = address.rsplit_once(':')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if !is_tls || host.is_empty() || !host.bytes().all(is_name) {
        return None;
    }
    Some(RestBase {
        is_tls,
        host: host.to_owned(),
        port: port.parse().ok()?,
    })
}

impl RestBase {
    /// Whether it is asked over TLS.
    pub(crate) const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Host and port.
    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for RestBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestError {
    /// Nothing takes the connection.
    #[error("nothing answers at {base}")]
    Unanswered {
        base: RestBase,
        #[source]
        source: io::Error,
    },
    /// The other side is not believed, or does not believe this one.
    #[error(
        "{base} and this command do not accept each other; tls.authority and tls.peer-name say whom this one believes, tls.certificate and \
         tls.key are what it shows without HIGHWATER_REST_TOKEN"
    )]
    Unbelieved {
        base: RestBase,
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("{base} broke off")]
    Broken {
        base: RestBase,
        #[source]
        source: hyper::Error,
    },
    /// What came is no answer.
    #[error("{base} answers what no status server does: {reason}; see what listens there")]
    Answer { base: RestBase, reason: String },
    /// What is asked for cannot be written.
    #[error("`{path}` cannot be asked for: {reason}")]
    Path { path: String, reason: String },
}

impl From<RestError> for Failure {
    fn from(error: RestError) -> Self {
        let code = match &error {
            RestError::Unanswered { .. } | RestError::Broken { .. } => Code::NotRunning,
            RestError::Unbelieved { .. } | RestError::Path { .. } => Code::Usage,
            RestError::Answer { .. } => Code::Other,
        };
        Self::new(code, error_chain(&error))
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct RestAnswer {
    /// The code.
    pub(crate) code: StatusCode,
    /// The body; null where it was empty.
    pub(crate) body: Value,
}

/// How a connection is made.
enum Way {
    /// In the clear, to this machine.
    Clear,
    /// Believing a server, without a certificate of its own.
    Trust(Trust),
    /// With certificates on both sides.
    Wire(Wire),
}

impl Way {
    /// How a server that speaks TLS is spoken to: with a certificate only where there is no token to show.
    fn of(shown: &RestCredentials, base: &RestBase) -> Result<Self, Failure> {
        let refused = |error: TlsError| Failure::new(Code::Usage, error.to_string());
        let Some(authority) = &shown.authority else {
            let message = format!(
                "{base} shows a certificate and nobody said whom to believe; give tls.authority, and tls.peer-name where the certificate is \
                 not of {}",
                base.host
            );
            return Err(Failure::new(Code::Usage, message));
        };
        let host = base.host.trim_matches(['[', ']']);
        let peer_name = shown.peer_name.as_deref().unwrap_or(host);
        if let (Some((certificate, key)), None) = (&shown.own, &shown.token) {
            let wire = Wire::tls(IdentityFiles {
                authority: authority.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
                peer_name: peer_name.to_owned(),
            });
            return wire.map(Self::Wire).map_err(refused);
        }
        let trust = Trust::load(authority, peer_name);
        trust.map(Self::Trust).map_err(refused)
    }
}

/// Speaks to one status server.
pub(crate) struct RestClient {
    base: RestBase,
    way: Way,
    token: Option<Secret>,
    /// The job that is meant: another may answer there by now.
    job: String,
}

impl RestClient {
    /// Speaks to the server at `base` with what the settings of the job say is shown there.
    ///
    /// # Errors
    /// When it speaks TLS and the settings do not say whom to believe, or name files that are none.
    pub(crate) fn new(job: &JobSettings, base: RestBase) -> Result<Self, Failure> {
        let way = if base.is_tls {
            Way::of(&job.rest, &base)?
        } else {
            Way::Clear
        };
        Ok(Self {
            base,
            way,
            token: job.rest.token.clone(),
            job: job.identity.to_string(),
        })
    }

    /// Asks to see something.
    ///
    /// # Errors
    /// When nothing answers, or nothing that a status server would.
    pub(crate) async fn get(&self, path: &str) -> Result<RestAnswer, RestError> {
        self.ask((Method::GET, path), String::new()).await
    }

    /// Asks for a change. Waits as long as the job takes for it.
    ///
    /// # Errors
    /// As [`RestClient::get`].
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<RestAnswer, RestError> {
        self.ask((Method::POST, path), body.to_string()).await
    }

    /// Asks for other settings.
    ///
    /// # Errors
    /// As [`RestClient::get`].
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<RestAnswer, RestError> {
        self.ask((Method::PATCH, path), body.to_string()).await
    }

    async fn ask(
        &self,
        (method, path): (Method, &str),
        body: String,
    ) -> Result<RestAnswer, RestError> {
        let request = self.request((method, path), body)?;
        let broken = |source| self.broken(source);
        let stream = self.connect().await?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(broken)?;
        // Ends with this call. What breaks it is seen by the request, too.
        let mut driving = JoinSet::new();
        driving.spawn(async move { drop(connection.await) });
        let answer = sender.send_request(request).await.map_err(broken)?;
        let code = answer.status();
        let bytes = self.read(answer.into_body()).await?;
        if bytes.is_empty() {
            let body = Value::Null;
            return Ok(RestAnswer { code, body });
        }
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok(RestAnswer { code, body }),
            Err(error) => Err(self.no_answer(format!("its answer {code} is no JSON ({error})"))),
        }
    }

    fn request(
        &self,
        (method, path): (Method, &str),
        body: String,
    ) -> Result<Request<String>, RestError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.base.authority())
            .header(JOB_HEADER, &self.job)
            .header(CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            let shown = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            // The settings took visible characters only.
            let mut shown = shown.expect("a token is a header");
            shown.set_sensitive(true);
            request = request.header(AUTHORIZATION, shown);
        }
        request.body(body).map_err(|error| RestError::Path {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    async fn connect(&self) -> Result<WireStream, RestError> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "it takes too long");
        let connecting = timeout(CONNECT_MAX, TcpStream::connect(self.base.authority()));
        let connected = connecting.await.unwrap_or_else(|_| Err(late()));
        let stream = connected.map_err(|source| RestError::Unanswered {
            base: self.base.clone(),
            source,
        })?;
        let showing = async {
            match &self.way {
                Way::Clear => Ok(WireStream::Clear(stream)),
                Way::Trust(trust) => trust.connect(stream).await,
                Way::Wire(wire) => wire.connect(stream).await,
            }
        };
        let shown = timeout(CONNECT_MAX, showing).await;
        shown
            .unwrap_or_else(|_| Err(late()))
            .map_err(|source| RestError::Unbelieved {
                base: self.base.clone(),
                source,
            })
    }

    /// The whole body of an answer.
    async fn read(&self, mut body: Incoming) -> Result<Vec<u8>, RestError> {
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|source| self.broken(source))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(self.no_answer("more than 64 MiB".to_owned()));
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes)
    }

    /// With TLS 1.3 a server refuses the certificate of this side, or that there is none, only now.
    fn broken(&self, source: hyper::Error) -> RestError {
        let base = self.base.clone();
        let of_tls = refused_by_tls(&source);
        match of_tls {
            Some(source) => RestError::Unbelieved { base, source },
            None => RestError::Broken { base, source },
        }
    }

    fn no_answer(&self, reason: String) -> RestError {
        RestError::Answer {
            base: self.base.clone(),
            reason,
        }
    }
}

/// What TLS says of a connection that broke, if it says anything.
fn refused_by_tls(error: &hyper::Error) -> Option<io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if let Some(io) = io.filter(|io| io.kind() == io::ErrorKind::InvalidData) {
            return Some(io::Error::new(io.kind(), io.to_string()));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
