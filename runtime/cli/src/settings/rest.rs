//! Settings of the status server: where it listens, who may ask it, and what the other commands of the job show it.
//!
//! Read by [`Settings`](super::Settings). The rules: with authentication the server shows the certificate of the process where there is one, so
//! `rest.authentication` alone decides between `http` and `https`; what would let everybody in, or carry tokens in the clear over a network, is
//! refused by name before anything starts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use highwater_storage::Secret;
use highwater_tls::{IdentityFiles, Wire};
use highwater_web::access::{Access, TokenFile};
use highwater_web::listening::{ConnectionLimits, ListenSettings};

use super::source::{Resolved, SettingError};
use super::table::setting;
use crate::exit::{Code, Failure};

/// How somebody shows the status server that they may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all: by being on this machine.
    None,
    /// By a token of this file.
    Tokens(PathBuf),
    /// By a certificate.
    Certificates,
}

impl Authentication {
    fn of(resolved: &Resolved) -> Result<Self, SettingError> {
        let word = resolved.text("rest.authentication");
        match (word.as_deref(), resolved.text("rest.tokens")) {
            (Some("tokens"), Some(file)) => Ok(Self::Tokens(file.into())),
            (Some("tokens"), None) => Err(SettingError::Contradiction(
                "rest.authentication is `tokens`, which needs rest.tokens: the file of the tokens that may ask",
            )),
            (_, Some(_)) => Err(SettingError::Contradiction(
                "rest.tokens is given and nobody would be asked for one; give rest.authentication `tokens`, or leave rest.tokens out",
            )),
            (Some("certificates"), None) => Ok(Self::Certificates),
            (_, None) => Ok(Self::None),
        }
    }
}

/// Where the status server listens, and who may ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who may ask.
    pub authentication: Authentication,
    /// The certificate that it shows; `None` = it speaks in the clear.
    pub tls: Option<IdentityFiles>,
    /// Whether the user lets it listen off loopback in the clear.
    pub allows_clear_text: bool,
    /// Where others reach it, where that is not where it listens.
    pub advertised: Option<String>,
}

impl RestSettings {
    /// What was given, where it fits together. `tls` is the certificate of the process.
    pub(super) fn of(
        resolved: &Resolved,
        tls: Option<&IdentityFiles>,
    ) -> Result<Self, SettingError> {
        let address = resolved.address("rest.address");
        let mut settings = Self {
            address: address.expect("the table has a default"),
            authentication: Authentication::of(resolved)?,
            tls: tls.cloned(),
            allows_clear_text: resolved.switch("allow-clear-text") == Some(true),
            advertised: resolved.text("rest.advertised-address"),
        };
        settings.check()?;
        if settings.authentication == Authentication::None {
            settings.tls = None;
        }
        Ok(settings)
    }

    /// Refuses what would let everybody in, or show nothing where something must be shown.
    fn check(&self) -> Result<(), SettingError> {
        let is_exposed = !self.address.ip().is_loopback();
        let is_clear = self.tls.is_none();
        let reason = match self.authentication {
            Authentication::None if is_exposed => {
                "rest.address is not on loopback and rest.authentication is `none`: anybody who reaches it would read and change the job; \
                 give rest.authentication `tokens` (with rest.tokens) or `certificates`, or an address on 127.0.0.1 or [::1]"
            }
            Authentication::Tokens(_) if is_exposed && is_clear && !self.allows_clear_text => {
                "rest.address is not on loopback and there are no certificates, so tokens would cross the network in the clear; give \
                 tls.authority, tls.certificate, tls.key and tls.peer-name, or allow-clear-text in a network that nobody else reaches"
            }
            Authentication::Certificates if is_clear => {
                "rest.authentication is `certificates` and the process has none; give tls.authority, tls.certificate, tls.key and \
                 tls.peer-name"
            }
            _ => return Ok(()),
        };
        Err(SettingError::Contradiction(reason))
    }

    /// What the status server listens with: reads the tokens and the certificate.
    ///
    /// # Errors
    /// When a file is none of what it should be.
    pub fn listen(&self) -> Result<ListenSettings, Failure> {
        let refused = |reason: String| Failure::new(Code::Usage, reason);
        let access = match &self.authentication {
            Authentication::None => Access::Open,
            Authentication::Tokens(path) => {
                let file = TokenFile::open(path.clone());
                let file = file.map_err(|error| refused(error.to_string()))?;
                Access::Tokens(Arc::new(file))
            }
            Authentication::Certificates => Access::Certificates,
        };
        let wire = self.tls.clone().map_or(Ok(Wire::Clear), Wire::tls);
        Ok(ListenSettings {
            access,
            wire: wire.map_err(|error| refused(error.to_string()))?,
            allows_clear_text: self.allows_clear_text,
            limits: ConnectionLimits::default(),
        })
    }

    /// How other programs of this machine reach a server that listens at `address`. One that listens on all addresses is reached by loopback.
    pub fn base(&self, address: SocketAddr) -> String {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        format!(
            "{}://{}",
            self.scheme(),
            SocketAddr::new(ip, address.port())
        )
    }

    /// How programs of other machines reach it.
    pub fn advertised(&self, address: SocketAddr) -> String {
        match &self.advertised {
            Some(advertised) => format!("{}://{advertised}", self.scheme()),
            None => self.base(address),
        }
    }

    const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// What the other commands show to the status server, and whom they believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestCredentials {
    /// Where they ask; `None` = where the running job noted.
    pub url: Option<String>,
    /// The token that they show.
    pub token: Option<Secret>,
    /// The certificates of the authorities that sign that of the server.
    pub authority: Option<PathBuf>,
    /// The name that the certificate of the server has.
    pub peer_name: Option<String>,
    /// An own certificate and its key, shown where there is no token.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl RestCredentials {
    pub(super) fn of(resolved: &Resolved) -> Result<Self, SettingError> {
        let file = |name| resolved.text(name).map(PathBuf::from);
        let own = match (file("tls.certificate"), file("tls.key")) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                return Err(SettingError::Contradiction(
                    "tls.certificate and tls.key belong together; give both or none",
                ));
            }
        };
        let token = resolved.text("rest.token").map(|text| token(&text));
        Ok(Self {
            url: resolved.text("rest.url"),
            token: token.transpose()?,
            authority: file("tls.authority"),
            peer_name: resolved.text("tls.peer-name"),
            own,
        })
    }
}

/// A token as it can be shown. Secrets that are made from files end in a newline that nobody means.
fn token(text: &str) -> Result<Secret, SettingError> {
    let token = text.trim();
    if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Secret::new(token));
    }
    let setting = setting("rest.token").expect("the table has it");
    Err(SettingError::Value {
        place: setting.variable(),
        value: "***".to_owned(),
        reason: "is no token; give one word of visible ASCII characters".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::source::Given;
    use super::*;

    const TLS: [(&str, &str); 4] = [
        ("tls.authority", "a.pem"),
        ("tls.certificate", "c.pem"),
        ("tls.key", "k.pem"),
        ("tls.peer-name", "fleet.job"),
    ];
    const OUTSIDE: (&str, &str) = ("rest.address", "0.0.0.0:8081");
    const TOKENS: [(&str, &str); 2] = [
        ("rest.authentication", "tokens"),
        ("rest.tokens", "no/such/tokens"),
    ];
    const CERTIFICATES: (&str, &str) = ("rest.authentication", "certificates");

    fn resolved(given: &[(&str, &str)]) -> Resolved {
        let variable = |(name, text): &(&str, &str)| {
            let setting = setting(name).unwrap();
            (setting.variable(), (*text).to_owned())
        };
        let given = Given {
            environment: given.iter().map(variable).collect::<BTreeMap<_, _>>(),
            ..Given::default()
        };
        given.resolve().unwrap()
    }

    fn identity() -> IdentityFiles {
        IdentityFiles {
            authority: "a.pem".into(),
            certificate: "c.pem".into(),
            key: "k.pem".into(),
            peer_name: "fleet.job".to_owned(),
        }
    }

    /// What the settings say where the process has a certificate or none.
    fn rest(given: &[(&str, &str)], has_certificate: bool) -> Result<RestSettings, String> {
        let identity = identity();
        let tls = has_certificate.then_some(&identity);
        RestSettings::of(&resolved(given), tls).map_err(|error| error.to_string())
    }

    fn refusal(given: &[(&str, &str)], has_certificate: bool) -> String {
        rest(given, has_certificate).unwrap_err()
    }

    #[test]
    fn on_loopback_nothing_is_asked_for_and_nothing_is_shown() {
        for has_certificate in [false, true] {
            let rest = rest(&[], has_certificate).unwrap();
            assert_eq!(rest.authentication, Authentication::None);
            assert_eq!(rest.tls, None);
            assert_eq!(rest.base(rest.address), "http://127.0.0.1:0");
            assert!(matches!(rest.listen().unwrap().access, Access::Open));
        }
    }

    #[test]
    fn off_loopback_nobody_is_let_in_without_showing_something() {
        assert!(refusal(&[OUTSIDE], true).contains("rest.authentication"));
        let clear = ("allow-clear-text", "true");
        assert!(refusal(&[OUTSIDE, clear], false).contains("rest.authentication"));
        let [tokens, file] = TOKENS;
        let text = refusal(&[OUTSIDE, tokens, file], false);
        assert!(
            text.contains("tls.certificate") && text.contains("allow-clear-text"),
            "{text}"
        );
        assert!(rest(&[OUTSIDE, tokens, file, clear], false).is_ok());
        assert!(rest(&[OUTSIDE, tokens, file], true).is_ok());
        assert!(rest(&[OUTSIDE, CERTIFICATES], true).is_ok());
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        assert!(refusal(&TOKENS[..1], false).contains("rest.tokens"));
        assert!(refusal(&TOKENS[1..], false).contains("rest.authentication"));
        let both = [CERTIFICATES, TOKENS[1]];
        assert!(refusal(&both, true).contains("rest.authentication"));
        assert!(refusal(&[CERTIFICATES], false).contains("tls.certificate"));
    }

    #[test]
    fn authentication_alone_decides_between_http_and_https() {
        let base = |given: &[(&str, &str)], has_certificate| {
            let rest = rest(given, has_certificate).unwrap();
            rest.base("0.0.0.0:8081".parse().unwrap())
        };
        assert_eq!(base(&[], true), "http://127.0.0.1:8081");
        assert_eq!(base(&TOKENS, false), "http://127.0.0.1:8081");
        assert_eq!(base(&TOKENS, true), "https://127.0.0.1:8081");
        assert_eq!(base(&[CERTIFICATES], true), "https://127.0.0.1:8081");
        let elsewhere = ("rest.advertised-address", "job.example:8081");
        let shown = rest(&[TOKENS[0], TOKENS[1], elsewhere], true).unwrap();
        let address = "0.0.0.0:1".parse().unwrap();
        assert_eq!(shown.advertised(address), "https://job.example:8081");
        assert_eq!(shown.base(address), "https://127.0.0.1:1");
        let rest = rest(&TOKENS, true).unwrap();
        assert_eq!(rest.advertised(address), "https://127.0.0.1:1");
        let base = |text: &str| rest.base(text.parse().unwrap());
        assert_eq!(base("[::]:1"), "https://[::1]:1");
        assert_eq!(base("10.0.0.7:1"), "https://10.0.0.7:1");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let tokens = rest(&TOKENS, false).unwrap().listen().unwrap_err();
        assert!(
            tokens.message.contains("no/such/tokens"),
            "{}",
            tokens.message
        );
        assert_eq!(tokens.code, Code::Usage);
        let certificate = rest(&[CERTIFICATES], true).unwrap().listen().unwrap_err();
        assert!(
            certificate.message.contains("a.pem"),
            "{}",
            certificate.message
        );
    }

    #[test]
    fn commands_show_a_token_and_never_its_text() {
        let given = [("rest.token", "hush-hush-hush-hush\n"), TLS[0]];
        let shown = RestCredentials::of(&resolved(&given)).unwrap();
        assert_eq!(shown.token, Some(Secret::new("hush-hush-hush-hush")));
        assert_eq!(shown.authority.as_deref(), Some(Path::new("a.pem")));
        assert_eq!(shown.own, None);
        assert!(!format!("{shown:?}").contains("hush"), "{shown:?}");
        for wrong in ["hush hush", "hüsh", " \n"] {
            let refused = RestCredentials::of(&resolved(&[("rest.token", wrong)]));
            let text = refused.unwrap_err().to_string();
            assert!(text.starts_with("HIGHWATER_REST_TOKEN: `***`"), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_shown_with_its_key() {
        let shown = RestCredentials::of(&resolved(&TLS)).unwrap();
        assert_eq!(shown.own, Some(("c.pem".into(), "k.pem".into())));
        assert_eq!(shown.peer_name.as_deref(), Some("fleet.job"));
        let half = RestCredentials::of(&resolved(&TLS[..2])).unwrap_err();
        assert!(half.to_string().contains("tls.key"), "{half}");
    }
}
