//! Each way of showing who asks, on a route that reads and one that changes something.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower::ServiceExt as _;

use super::*;

const READS: &str = "read-read-read-read-read";
const WRITES: &str = "write-write-write-write";

fn with_tokens() -> (tempfile::TempDir, Access) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, format!("read {READS}\nwrite {WRITES} operator\n")).unwrap();
    let file = TokenFile::open(path).unwrap();
    (folder, Access::Tokens(Arc::new(file)))
}

fn routes(access: &Access) -> Router {
    let reads = Router::new().route("/seen", get(|| async { "seen" }));
    let writes = Router::new().route("/done", post(|| async { "done" }));
    let guard = |scope| from_fn_with_state((access.clone(), scope), authorize);
    reads
        .merge(writes.route_layer(guard(Scope::Write)))
        .layer(guard(Scope::Read))
}

/// The answer to a request with these headers: code, head and body.
async fn answer(
    access: &Access,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let answer = routes(access).oneshot(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (head.status, head.headers, text)
}

const fn shown(token: &str) -> [(&str, &str); 1] {
    [("authorization", token)]
}

/// The codes of a read, of a write and of what is not there.
async fn codes(access: &Access, headers: &[(&str, &str)]) -> [u16; 3] {
    let read = answer(access, (Method::GET, "/seen"), headers).await.0;
    let write = answer(access, (Method::POST, "/done"), headers).await.0;
    let nothing = answer(access, (Method::GET, "/nothing"), headers).await.0;
    [read, write, nothing].map(|code| code.as_u16())
}

#[tokio::test]
async fn a_token_opens_what_its_scope_covers() {
    let (_folder, access) = with_tokens();
    let of = |token: &str| format!("Bearer {token}");
    let (reads, writes) = (of(READS), of(WRITES));
    assert_eq!(codes(&access, &shown(&reads)).await, [200, 403, 404]);
    assert_eq!(codes(&access, &shown(&writes)).await, [200, 200, 404]);
    let lower = writes.replace("Bearer", "bearer");
    assert_eq!(codes(&access, &shown(&lower)).await, [200, 200, 404]);
}

#[tokio::test]
async fn who_shows_no_token_that_is_known_learns_nothing() {
    let (_folder, access) = with_tokens();
    let unknown = format!("Bearer {WRITES}x");
    let basic = format!("Basic {WRITES}");
    let writes = format!("Bearer {WRITES}");
    assert_eq!(codes(&access, &[]).await, [401; 3]);
    for value in [unknown.as_str(), &basic, WRITES, "Bearer", "Bearer "] {
        assert_eq!(codes(&access, &shown(value)).await, [401; 3], "{value}");
    }
    let twice = [shown(&writes), shown(&writes)].concat();
    assert_eq!(codes(&access, &twice).await, [401; 3]);
    let asked = (Method::POST, "/done");
    let (_, head, text) = answer(&access, asked, &shown(&unknown)).await;
    assert_eq!(head[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(head[header::CONNECTION], "close");
    assert!(text.contains("rest.tokens"), "{text}");
    assert!(text.contains("\"kind\":\"invalid\""), "{text}");
    assert!(!text.contains(WRITES), "{text}");
}

#[tokio::test]
async fn a_page_of_somebody_else_is_answered_by_no_access() {
    let (_folder, tokens) = with_tokens();
    let writes = format!("Bearer {WRITES}");
    for access in [Access::Open, tokens, Access::Certificates] {
        for origin in ["http://evil.example", "null", "https://127.0.0.1:8082"] {
            let headers = [
                ("host", "127.0.0.1:8081"),
                ("origin", origin),
                ("authorization", writes.as_str()),
            ];
            assert_eq!(codes(&access, &headers).await, [403; 3], "{access:?}");
            let preflight = (Method::OPTIONS, "/done");
            let (code, head, _) = answer(&access, preflight, &headers).await;
            assert_eq!(code, StatusCode::FORBIDDEN);
            let allows = |name: &str| name.starts_with("access-control-");
            assert!(!head.keys().any(|name| allows(name.as_str())), "{head:?}");
        }
    }
}

#[tokio::test]
async fn a_browser_is_answered_where_a_person_typed_and_no_page_asks() {
    for (site, expected) in [
        ("none", [200, 200, 404]),
        ("same-origin", [403; 3]),
        ("same-site", [403; 3]),
        ("cross-site", [403; 3]),
    ] {
        let headers = [("host", "127.0.0.1:8081"), ("sec-fetch-site", site)];
        for access in [Access::Open, Access::Certificates] {
            let found = codes(&access, &headers).await;
            assert_eq!(found, expected, "{site} {access:?}");
        }
    }
    assert_eq!(codes(&Access::Certificates, &[]).await, [200, 200, 404]);
}

#[tokio::test]
async fn without_authentication_only_this_machine_is_answered() {
    for host in ["127.0.0.1:8081", "localhost:8081", "[::1]:8081", "[::1]"] {
        let codes = codes(&Access::Open, &[("host", host)]).await;
        assert_eq!(codes, [200, 200, 404], "{host}");
    }
    for host in ["fleet.job:8081", "10.0.0.7:8081", "localhost.evil:80", ""] {
        let codes = codes(&Access::Open, &[("host", host)]).await;
        assert_eq!(codes, [403; 3], "{host}");
    }
}

#[test]
fn writing_includes_reading() {
    assert!(Scope::Write > Scope::Read);
}
