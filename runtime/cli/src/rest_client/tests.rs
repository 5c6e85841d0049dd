//! What goes over the connection, against a server that the test plays.

use highwater_storage::{Location, S3Options};
use highwater_tls::testing::Authority;
use highwater_types::JobIdentity;
use highwater_web_api::RescaleRequest;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "fleet.job";
const SECRET: &str = "hush-hush-hush-hush";
const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"phase\":\"done\"}";

fn job(rest: RestCredentials) -> JobSettings {
    JobSettings {
        identity: JobIdentity::parse("fleet").unwrap(),
        state_dir: Location::Local("state".into()),
        s3: S3Options::default(),
        run_dir: "run".into(),
        rest,
    }
}

fn with_token() -> RestCredentials {
    RestCredentials {
        token: Some(Secret::new(SECRET)),
        ..RestCredentials::default()
    }
}

/// How the server of a test takes its one connection.
enum Takes {
    Anyone(Wire),
    OnlyKnown(Wire),
}

impl Takes {
    async fn take(&self, stream: TcpStream) -> io::Result<WireStream> {
        match self {
            Self::Anyone(wire) => wire.accept_anyone(stream).await,
            Self::OnlyKnown(wire) => wire.accept(stream).await,
        }
    }
}

/// A server for one request; what it was asked is what its task ends with.
async fn server(takes: Takes, answer: &'static str) -> (SocketAddr, JoinSet<io::Result<String>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let stream = listener.accept().await?.0;
        let mut stream = takes.take(stream).await?;
        let (mut asked, mut part) = (String::new(), [0; 1_024]);
        while !asked.ends_with("\r\n\r\n") && !asked.ends_with('}') {
            let count = stream.read(&mut part).await?;
            if count == 0 {
                break;
            }
            asked.push_str(&String::from_utf8_lossy(&part[..count]));
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(asked)
    });
    (address, serving)
}

fn base(scheme: &str, address: SocketAddr) -> RestBase {
    parse_base(&format!("{scheme}://{address}")).unwrap()
}

#[test]
fn in_the_clear_only_this_machine_is_called() {
    let shown = |text: &str| parse_base(text).map(|base| base.to_string());
    for (text, read) in [
        ("127.0.0.1:8081\n", "http://127.0.0.1:8081"),
        ("[::1]:8081", "http://[::1]:8081"),
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("https://10.0.0.7:8081", "https://10.0.0.7:8081"),
        ("https://[2001:db8::1]:8081", "https://[2001:db8::1]:8081"),
        ("https://fleet.job:8081", "https://fleet.job:8081"),
    ] {
        assert_eq!(shown(text).as_deref(), Some(read));
    }
    for text in [
        "",
        "10.0.0.7:8081",
        "http://10.0.0.7:8081",
        "http://fleet.job:8081",
        "fleet.job:8081",
        "https://fleet.job",
        "https://:8081",
        "https://user@fleet.job:8081",
        "https://fleet.job:8081/v1",
        "ftp://127.0.0.1:8081",
    ] {
        assert_eq!(shown(text), None, "{text}");
    }
}

#[tokio::test]
async fn a_request_shows_the_token_and_asks_by_the_address() {
    let (address, mut serving) = server(Takes::Anyone(Wire::Clear), DONE).await;
    let client = RestClient::new(&job(with_token()), base("http", address)).unwrap();
    let answer = client.get("/v1/status").await.unwrap();
    assert_eq!(answer.code, StatusCode::OK);
    assert_eq!(answer.body, json!({ "phase": "done" }));
    let asked = serving.join_next().await.unwrap().unwrap().unwrap();
    let asked = asked.to_ascii_lowercase();
    assert!(asked.starts_with("get /v1/status http/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {address}\r\n")), "{asked}");
    assert!(
        asked.contains(&format!("authorization: bearer {SECRET}\r\n")),
        "{asked}"
    );
}

#[tokio::test]
async fn a_change_is_asked_for_in_json_and_a_refusal_is_an_answer() {
    let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 14\r\n\r\n{\"error\":\"no\"}";
    let (address, mut serving) = server(Takes::Anyone(Wire::Clear), refusal).await;
    let client = RestClient::new(&job(RestCredentials::default()), base("http", address));
    let body = json!({ "name": "before" });
    let answer = client.unwrap().post("/v1/savepoints", &body).await.unwrap();
    assert_eq!(answer.code, StatusCode::FORBIDDEN);
    assert_eq!(answer.body["error"], "no");
    let asked = serving.join_next().await.unwrap().unwrap().unwrap();
    assert!(asked.starts_with("POST /v1/savepoints "), "{asked}");
    assert!(asked.ends_with(r#"{"name":"before"}"#), "{asked}");
    assert!(asked.contains("content-type: application/json"), "{asked}");
    assert!(!asked.contains("authorization"), "{asked}");
}

#[tokio::test]
async fn a_rescale_sends_what_is_said_and_nothing_else() {
    let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 19\r\n\r\n{\"state\":\"running\"}";
    for (request, sent) in [
        (
            RescaleRequest {
                parallelism: Some(4),
                ..RescaleRequest::default()
            },
            r#"{"parallelism":4}"#,
        ),
        (
            RescaleRequest {
                operators: [("count".to_owned(), 8)].into(),
                slots_within_ms: Some(300_000),
                ..RescaleRequest::default()
            },
            r#"{"operators":{"count":8},"slots_within_ms":300000}"#,
        ),
    ] {
        let (address, mut serving) = server(Takes::Anyone(Wire::Clear), accepted).await;
        let client = RestClient::new(&job(RestCredentials::default()), base("http", address));
        let body = serde_json::to_value(&request).unwrap();
        let answer = client.unwrap().post("/v1/rescale", &body).await.unwrap();
        assert_eq!(answer.code, StatusCode::ACCEPTED);
        assert_eq!(answer.body["state"], "running");
        let asked = serving.join_next().await.unwrap().unwrap().unwrap();
        assert!(asked.starts_with("POST /v1/rescale "), "{asked}");
        assert!(asked.ends_with(sent), "{asked}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_apart_from_none() {
    let page = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<hi>";
    let (address, _serving) = server(Takes::Anyone(Wire::Clear), page).await;
    let job = job(with_token());
    let client = RestClient::new(&job, base("http", address)).unwrap();
    let strange = client.get("/").await.unwrap_err();
    assert!(matches!(strange, RestError::Answer { .. }), "{strange}");
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<";
    let (address, _serving) = server(Takes::Anyone(Wire::Clear), broken).await;
    let client = RestClient::new(&job, base("http", address)).unwrap();
    let broken = client.get("/").await.unwrap_err();
    assert!(matches!(broken, RestError::Broken { .. }), "{broken}");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let client = RestClient::new(&job, base("http", gone)).unwrap();
    let none = client.get("/").await.unwrap_err();
    let failure = Failure::from(none);
    assert_eq!(failure.code, Code::NotRunning);
    assert!(
        failure.message.contains(&gone.to_string()),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_its_name() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = ours.sign("server", NAME);
    let shown = |authority: &IdentityFiles, name: &str| RestCredentials {
        authority: Some(authority.authority.clone()),
        peer_name: Some(name.to_owned()),
        ..with_token()
    };
    let strangers = theirs.sign("any", NAME);
    for (rest, is_believed) in [
        (shown(&files, NAME), true),
        (shown(&files, "harbor.job"), false),
        (shown(&strangers, NAME), false),
    ] {
        let wire = Wire::tls(files.clone()).unwrap();
        let (address, mut serving) = server(Takes::Anyone(wire), DONE).await;
        let client = RestClient::new(&job(rest), base("https", address)).unwrap();
        let answer = client.get("/v1/status").await;
        let asked = serving.join_next().await.unwrap().unwrap();
        if is_believed {
            assert_eq!(answer.unwrap().code, StatusCode::OK);
            assert!(asked.unwrap().contains(SECRET));
        } else {
            let refused = answer.unwrap_err();
            assert!(matches!(refused, RestError::Unbelieved { .. }), "{refused}");
            assert!(asked.is_err(), "it hears nothing");
        }
    }
}

#[tokio::test]
async fn a_certificate_is_shown_where_there_is_no_token() {
    let ours = Authority::new();
    let (server_files, own) = (ours.sign("server", NAME), ours.sign("own", NAME));
    let shown = |token: Option<Secret>| RestCredentials {
        url: None,
        token,
        authority: Some(own.authority.clone()),
        peer_name: Some(NAME.to_owned()),
        own: Some((own.certificate.clone(), own.key.clone())),
    };
    for (token, is_taken) in [(None, true), (Some(Secret::new(SECRET)), false)] {
        let wire = Wire::tls(server_files.clone()).unwrap();
        let (address, _serving) = server(Takes::OnlyKnown(wire), DONE).await;
        let client = RestClient::new(&job(shown(token)), base("https", address)).unwrap();
        let answer = client.get("/v1/status").await;
        assert_eq!(answer.is_ok(), is_taken);
    }
}

#[test]
fn without_an_authority_nobody_is_believed() {
    let base = parse_base("https://10.0.0.7:8081").unwrap();
    let refused = RestClient::new(&job(with_token()), base).err().unwrap();
    assert_eq!(refused.code, Code::Usage);
    assert!(
        refused.message.contains("tls.authority"),
        "{}",
        refused.message
    );
    assert!(!refused.message.contains(SECRET), "{}", refused.message);
}
