//! Connections over real sockets: who is let in, and what becomes of those that are slow or many.

use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use highwater_tls::Trust;
use highwater_tls::testing::Authority;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;
use crate::access::{Scope, TokenFile, authorize};

const NAME: &str = "fleet.job";
const WRITES: &str = "write-write-write-write";
/// No test waits longer for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Soon, for what a test provokes.
const SOON: Duration = Duration::from_millis(200);

const HELLO: &str = "GET /seen HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
const HELLO_AND_GO: &str = "GET /seen HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn settings(access: Access, wire: Wire) -> ListenSettings {
    ListenSettings {
        access,
        wire,
        allows_clear_text: false,
        limits: ConnectionLimits::default(),
    }
}

fn tokens() -> (TempDir, Access) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, format!("write {WRITES} operator\n")).unwrap();
    let file = TokenFile::open(path).unwrap();
    (folder, Access::Tokens(Arc::new(file)))
}

fn routes(access: &Access) -> Router {
    let routes = Router::new()
        .route("/seen", get(|| async { "seen" }))
        .route("/large", get(|| async { "x".repeat(16 << 20) }))
        .route("/said", post(|said: String| async move { said }));
    routes.layer(from_fn_with_state((access.clone(), Scope::Read), authorize))
}

/// A server that is gone with what this gives.
async fn serving(settings: ListenSettings) -> (SocketAddr, JoinSet<()>) {
    let listening = Listening::bind(loopback(), settings).await.unwrap();
    let address = listening.address();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let routes = routes(listening.access());
        listening.serve(routes).await;
    });
    (address, server)
}

/// All that comes over a connection until it ends, whichever way.
async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A connection that is cut may end in an error: what came before it counts.
    drop(read.expect("the connection ends"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is answered to the only request of a connection.
async fn asked<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> String {
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    match sent.await {
        Ok(()) => rest(&mut stream).await,
        Err(error) => format!("not sent: {error}"),
    }
}

async fn connected(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

fn is_ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn off_loopback_nobody_is_let_in_who_shows_nothing_and_nothing_is_in_the_clear() {
    let ours = Authority::new();
    let wire = Wire::tls(ours.sign("server", NAME)).unwrap();
    let (_folder, tokens) = tokens();
    let outside = SocketAddr::from(([192, 0, 2, 1], 8_081));
    let refusal = |access: &Access, wire: &Wire, allows_clear_text| {
        let settings = ListenSettings {
            allows_clear_text,
            ..settings(access.clone(), wire.clone())
        };
        let refused = settings.check(outside).err();
        refused.map_or_else(String::new, |error| error.to_string())
    };
    for wire in [&Wire::Clear, &wire] {
        assert!(refusal(&Access::Open, wire, true).contains("rest.authentication"));
    }
    assert!(refusal(&tokens, &Wire::Clear, false).contains("allow-clear-text"));
    assert_eq!(refusal(&tokens, &Wire::Clear, true), "");
    assert_eq!(refusal(&tokens, &wire, false), "");
    assert!(refusal(&Access::Certificates, &Wire::Clear, true).contains("tls.certificate"));
    assert_eq!(refusal(&Access::Certificates, &wire, false), "");
    let refused = Listening::bind(outside, settings(Access::Open, Wire::Clear)).await;
    assert!(matches!(refused, Err(ServeError::Anonymous(_))));
    let on_loopback = settings(Access::Open, Wire::Clear).check(loopback());
    assert!(on_loopback.is_ok());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let open = || settings(Access::Open, Wire::Clear);
    let first = Listening::bind(loopback(), open()).await.unwrap();
    let second = Listening::bind(first.address(), open()).await.unwrap_err();
    let text = second.to_string();
    assert!(text.contains(&first.address().to_string()), "{text}");
}

#[tokio::test]
async fn a_connection_answers_one_request_after_another_and_rests_for_a_while() {
    let mut settings = settings(Access::Open, Wire::Clear);
    settings.limits.idle_max = SOON;
    let (address, _server) = serving(settings).await;
    let mut stream = connected(address).await;
    for _ in 0..3 {
        stream.write_all(HELLO.as_bytes()).await.unwrap();
        let (mut answer, mut part) = (String::new(), [0; 512]);
        while !answer.ends_with("seen") {
            let count = stream.read(&mut part).await.unwrap();
            assert_ne!(count, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&part[..count]).unwrap());
        }
        assert!(is_ok(&answer), "{answer}");
    }
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_cut_off() {
    let mut settings = settings(Access::Open, Wire::Clear);
    settings.limits.head_max = SOON;
    let (address, _server) = serving(settings).await;
    let mut silent = connected(address).await;
    assert_eq!(rest(&mut silent).await, "");
    let mut slow = connected(address).await;
    slow.write_all(&HELLO.as_bytes()[..9]).await.unwrap();
    assert_eq!(rest(&mut slow).await, "");
    assert!(is_ok(&asked(connected(address).await, HELLO_AND_GO).await));
}

#[tokio::test]
async fn more_bytes_extend_no_head() {
    let pace = Pace::new(SOON, PATIENCE);
    let stream = Paced::new(tokio::io::repeat(b'x'), pace.clone());
    let mut stream = pin!(stream);
    let mut overdue = pin!(pace.overdue());
    let mut byte = [0];
    let step = loop {
        tokio::select! {
            biased;
            step = overdue.as_mut() => break step,
            read = stream.read(&mut byte) => assert_eq!(read.unwrap(), 1),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(step, "head");
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_refused_with_the_reason() {
    let mut settings = settings(Access::Open, Wire::Clear);
    settings.limits.body_max = SOON;
    let (address, _server) = serving(settings).await;
    let head = "POST /said HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\nhalf";
    let answer = asked(connected(address).await, head).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("did not come within"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (address, _server) = serving(settings(Access::Open, Wire::Clear)).await;
    let with = |headers: &str| {
        format!("GET /seen HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}connection: close\r\n\r\n")
    };
    let some = "x: y\r\n".repeat(50);
    assert!(is_ok(&asked(connected(address).await, &with(&some)).await));
    let many = "x: y\r\n".repeat(70);
    let long = format!("x: {}\r\n", "y".repeat(17_000));
    for headers in [many, long] {
        let answer = asked(connected(address).await, &with(&headers)).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test]
async fn three_hundred_connections_that_say_nothing_keep_nobody_waiting_for_long() {
    let mut settings = settings(Access::Open, Wire::Clear);
    settings.limits.head_max = SOON;
    let (address, _server) = serving(settings).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(connected(address).await);
    }
    let answer = asked(connected(address).await, HELLO_AND_GO).await;
    assert!(is_ok(&answer), "{answer}");
    drop(silent);
}

#[tokio::test]
async fn more_connections_than_places_wait_their_turn() {
    let mut settings = settings(Access::Open, Wire::Clear);
    settings.limits.connections_max = 1;
    let (address, _server) = serving(settings).await;
    let first = connected(address).await;
    let mut second = JoinSet::new();
    let waiting = connected(address).await;
    second.spawn(async move { asked(waiting, HELLO_AND_GO).await });
    let not_yet = timeout(SOON, second.join_next()).await;
    assert!(not_yet.is_err(), "{not_yet:?}");
    drop(first);
    let answer = timeout(PATIENCE, second.join_next()).await.unwrap();
    assert!(is_ok(&answer.unwrap().unwrap()));
}

#[tokio::test]
async fn who_takes_no_answer_loses_the_place() {
    // With a body that nobody reads the next request is taken while the answer to the one before it still waits.
    let unread_body =
        "GET /large HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1\r\n\r\nX".repeat(4);
    let plain = "GET /large HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_owned();
    for asking in [unread_body, plain] {
        let mut settings = settings(Access::Open, Wire::Clear);
        settings.limits.connections_max = 1;
        settings.limits.idle_max = SOON;
        let (address, _server) = serving(settings).await;
        let mut first = connected(address).await;
        first.write_all(asking.as_bytes()).await.unwrap();
        let second = asked(connected(address).await, HELLO_AND_GO);
        let answer = timeout(PATIENCE, second).await.unwrap();
        assert!(is_ok(&answer), "{answer}");
        drop(first);
    }
}

#[tokio::test]
async fn what_is_being_answered_at_the_end_is_answered() {
    let open = settings(Access::Open, Wire::Clear);
    let listening = Listening::bind(loopback(), open).await.unwrap();
    let (asks, answers) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waits) = (Arc::clone(&asks), Arc::clone(&answers));
    let slow = get(|| async move {
        told.notify_one();
        waits.notified().await;
        "seen"
    });
    let routes = Router::new().route("/seen", slow);
    let over = Arc::new(Notify::new());
    let is_over = Arc::clone(&over);
    let server = listening.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let until = async move { is_over.notified().await };
        server.serve_until(routes, until).await;
        String::new()
    });
    let mut idle = connected(listening.address()).await;
    let stream = connected(listening.address()).await;
    tasks.spawn(async move { asked(stream, HELLO).await });
    asks.notified().await;
    over.notify_one();
    // A connection that has asked for nothing is closed meanwhile.
    assert_eq!(rest(&mut idle).await, "");
    answers.notify_one();
    let mut told = Vec::new();
    while let Some(ended) = timeout(PATIENCE, tasks.join_next()).await.unwrap() {
        told.push(ended.unwrap());
    }
    assert!(told.iter().any(|answer| is_ok(answer)), "{told:?}");
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn one_listener_serves_one_view_after_another() {
    let open = settings(Access::Open, Wire::Clear);
    let listening = Listening::bind(loopback(), open).await.unwrap();
    for view in ["first", "second"] {
        let routes = Router::new().route("/seen", get(move || async move { view }));
        let server = listening.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.serve(routes).await });
        let answer = asked(connected(listening.address()).await, HELLO_AND_GO).await;
        assert!(answer.ends_with(view), "{answer}");
        tasks.shutdown().await;
    }
}

#[tokio::test]
async fn a_token_is_taken_over_a_certificate_of_the_server_alone() {
    let ours = Authority::new();
    let files = ours.sign("server", NAME);
    let trust = Trust::load(&files.authority, NAME).unwrap();
    let (_folder, access) = tokens();
    let (address, _server) = serving(settings(access, Wire::tls(files).unwrap())).await;
    let with = |token: &str| HELLO_AND_GO.replace("host", &format!("{token}host"));
    let shown = with(&format!("authorization: Bearer {WRITES}\r\n"));
    for (request, code) in [(shown, "200"), (with(""), "401")] {
        let stream = trust.connect(connected(address).await).await.unwrap();
        let answer = asked(stream, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    }
    let plain = asked(connected(address).await, HELLO_AND_GO).await;
    assert!(!plain.contains("HTTP"), "{plain}");
    // Another authority, and another name.
    let theirs = Authority::new();
    let strange = Trust::load(&theirs.sign("any", NAME).authority, NAME).unwrap();
    assert!(strange.connect(connected(address).await).await.is_err());
}

#[tokio::test]
async fn with_certificates_nobody_is_answered_who_shows_none() {
    let ours = Authority::new();
    let files = ours.sign("server", NAME);
    let trust = Trust::load(&files.authority, NAME).unwrap();
    let wire = Wire::tls(files).unwrap();
    let (address, _server) = serving(settings(Access::Certificates, wire)).await;
    let shows = Wire::tls(ours.sign("client", NAME)).unwrap();
    let stream = shows.connect(connected(address).await).await.unwrap();
    assert!(is_ok(&asked(stream, HELLO_AND_GO).await));
    // With TLS 1.3 the refusal comes after the handshake as this side sees it.
    if let Ok(stream) = trust.connect(connected(address).await).await {
        let answer = asked(stream, HELLO_AND_GO).await;
        assert!(!answer.contains("HTTP"), "{answer}");
    }
    let plain = asked(connected(address).await, HELLO_AND_GO).await;
    assert!(!plain.contains("HTTP"), "{plain}");
}

#[tokio::test]
async fn who_does_not_show_a_certificate_in_time_loses_the_place() {
    let ours = Authority::new();
    let wire = Wire::tls(ours.sign("server", NAME)).unwrap();
    let mut settings = settings(Access::Certificates, wire);
    settings.limits.show_max = SOON;
    let (address, _server) = serving(settings).await;
    let mut silent = connected(address).await;
    assert_eq!(rest(&mut silent).await, "");
}
