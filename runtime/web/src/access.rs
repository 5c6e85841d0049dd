//! Who may ask the status server, and for what.
//!
//! Whoever builds the routes puts them behind [`authorize`]. On loopback and without authentication only programs of this machine are answered;
//! elsewhere a request shows a token ([`TokenFile`]), or its connection has shown a certificate. The rule: nobody is answered who has not shown
//! as much as the route needs, no page of somebody else is answered at all, and what was shown appears in no log, no answer and no error.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use highwater_types::ErrorKind;
use highwater_web_api::Problem;

use crate::problem::told;

mod tokens;

pub use tokens::{TokenFile, TokensError};

/// What somebody may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To see how the job does.
    Read,
    /// To change it, too.
    Write,
}

/// How somebody shows that they may ask.
#[derive(Clone, Debug)]
pub enum Access {
    /// By being a program of this machine: for loopback only.
    Open,
    /// By a token of this file.
    Tokens(Arc<TokenFile>),
    /// By the certificate that their connection has shown: it may do everything.
    Certificates,
}

/// Who is at the other end of a connection: put into each request by what serves it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Why somebody is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    NotOfThisMachine,
    PageOfSomebodyElse,
    NoToken,
    UnknownToken,
    MayOnlyRead,
}

/// Refuses a request that shows less than `needed`, and notes one that may change the job.
pub async fn authorize(
    State((access, needed)): State<(Access, Scope)>,
    request: Request,
    next: Next,
) -> Response {
    let caller = match access.judge(request.headers(), needed) {
        Ok(caller) => caller,
        Err(denied) => {
            let path = request.uri().path();
            tracing::debug!(method = %request.method(), ?path, ?denied, "a request was refused");
            return denied.answer();
        }
    };
    if needed == Scope::Write {
        let peer = request.extensions().get::<Peer>();
        let from = peer.map(|Peer(address)| address.to_string());
        tracing::info!(
            method = %request.method(),
            path = ?request.uri().path(),
            by = %caller,
            from = from.as_deref(),
            "a request that may change the job"
        );
    }
    next.run(request).await
}

impl Access {
    /// Who asks, if they may.
    fn judge(&self, headers: &HeaderMap, needed: Scope) -> Result<Arc<str>, Denied> {
        let host = headers.get(header::HOST);
        match self {
            Self::Open => {
                // A browser asks for a page of somebody else too: by a foreign name that leads to loopback, or from a foreign origin.
                let named = host.is_none_or(|host| is_loopback(host.as_bytes()));
                if named && !is_for_a_page(headers) {
                    return Ok("this machine".into());
                }
                Err(Denied::NotOfThisMachine)
            }
            _ if is_for_a_page(headers) => Err(Denied::PageOfSomebodyElse),
            Self::Tokens(file) => {
                let shown = bearer(headers).ok_or(Denied::NoToken)?;
                let (scope, name) = file.find(shown).ok_or(Denied::UnknownToken)?;
                if scope < needed {
                    return Err(Denied::MayOnlyRead);
                }
                Ok(name)
            }
            Self::Certificates => Ok("certificate".into()),
        }
    }
}

impl Denied {
    fn answer(self) -> Response {
        let (code, reason) = match self {
            Self::NotOfThisMachine => (
                StatusCode::FORBIDDEN,
                "only programs on this machine are answered, by 127.0.0.1, [::1] or localhost",
            ),
            Self::PageOfSomebodyElse => (
                StatusCode::FORBIDDEN,
                "pages of other servers are not answered; ask without an Origin header",
            ),
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "the request shows no token; send `Authorization: Bearer TOKEN`, or give the commands of the job HIGHWATER_REST_TOKEN",
            ),
            Self::UnknownToken => (
                StatusCode::UNAUTHORIZED,
                "the token that the request shows is none of those that may ask; add it to the file that rest.tokens names, or show another",
            ),
            Self::MayOnlyRead => (
                StatusCode::FORBIDDEN,
                "the token that the request shows may only read; show one that may write",
            ),
        };
        let mut problem = Problem::new(reason);
        problem.kind = Some(ErrorKind::Invalid.to_string());
        let mut answer = told(code, problem);
        if code == StatusCode::UNAUTHORIZED {
            let headers = answer.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            // Whoever shows nothing keeps no place either.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// The token that a request shows. One that shows two shows none.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else {
        return None;
    };
    let (scheme, token) = shown.as_bytes().split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| token.trim_ascii())
}

/// Whether a browser asks for a page. The server has none of its own, so it is one of somebody else; only what a person types into a browser
/// comes from no page.
fn is_for_a_page(headers: &HeaderMap) -> bool {
    let sites = headers.get_all("sec-fetch-site").iter();
    let mut from_pages = sites.filter(|site| *site != "none");
    headers.contains_key(header::ORIGIN) || from_pages.next().is_some()
}

fn is_loopback(host: &[u8]) -> bool {
    let Some(host) = std::str::from_utf8(host).ok() else {
        return false;
    };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.parse::<Ipv4Addr>();
    name == "localhost" || host == "[::1]" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
