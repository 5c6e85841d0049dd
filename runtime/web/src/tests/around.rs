//! What lies around the routes: who may ask, for which job, in which form, and whom a coordinator that stands by names.

use highwater_coordinator::{JobPhase, RequestRefused};
use serde_json::json;

use super::*;
use crate::access::TokenFile;
use crate::routes::{BODY_BYTES_MAX, JOB_HEADER, document, routes_with};

/// Every route of the document, with what it needs.
fn all_routes() -> Vec<(Method, String, bool)> {
    let document = serde_json::to_value(document()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            let writes = operation["security"][0]["token"] == json!(["write"]);
            let path = path.replace("{number}", "1").replace("{operation}", "one");
            all.push((method, path, writes));
        }
    }
    all
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_a_reason() {
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX));
    for (method, path, body, code) in [
        (
            Method::POST,
            "/v1/savepoints",
            "{}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            Method::POST,
            "/v1/savepoints",
            "{\"name\":1}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (Method::POST, "/v1/savepoints", "{", StatusCode::BAD_REQUEST),
        (
            Method::POST,
            "/v1/savepoints",
            &large,
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (
            Method::POST,
            "/v1/rescale",
            "{\"parallelism\":\"4\"}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            Method::POST,
            "/v1/stop",
            "{\"mode\":\"now\"}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            Method::POST,
            "/v1/stop",
            "{\"modus\":\"drain\"}",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (Method::GET, "/v1/stop", "", StatusCode::METHOD_NOT_ALLOWED),
        (
            Method::GET,
            "/v1/state/../../etc/passwd",
            "",
            StatusCode::NOT_FOUND,
        ),
    ] {
        let asked = request(method, path, body);
        let (found, text) = answer(open(fixture().view), asked).await;
        assert_eq!(found, code, "{path} {text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["error"].is_string(), "{text}");
    }
}

#[tokio::test]
async fn more_requests_than_fit_are_refused() {
    let routes = routes_with(fixture().view, &Access::Open, 0);
    let (code, _) = answer(routes, request(Method::GET, "/v1/status", "")).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_coordinator_that_stands_by_points_to_the_leader() {
    let Fixture {
        mut view,
        mut requests,
        status,
    } = fixture();
    let leader = "http://127.0.0.1:8081".to_owned();
    view.leader = watch::channel(Some(leader.clone())).1;
    assert_eq!(read(&view, "/v1/status").await["leader"], leader);
    let asked = request(Method::POST, "/v1/stop", "{}");
    let coordinator = async {
        if let Some(JobRequest::Snapshot { answer, .. }) = requests.recv().await {
            let refused = RequestRefused::NotRunning("it stands by".to_owned());
            answer.send(Err(refused)).unwrap();
        }
    };
    let routes = open(view.clone());
    let ((code, text), ()) = tokio::join!(answer(routes, asked), coordinator);
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    let problem: api::Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(problem.leader.as_ref(), Some(&leader));
    // What only the leader knows is not told as if nothing were there.
    status.send_modify(|status| status.phase = JobPhase::Standby);
    for (method, path, writes) in all_routes() {
        let asked = request(method.clone(), &path, "{}");
        if writes {
            continue;
        }
        let (code, text) = answer(open(view.clone()), asked).await;
        let own = ["/v1/status", "/v1/config", "/v1/openapi.json", "/metrics"];
        if own.contains(&path.as_str()) {
            assert_eq!(code, StatusCode::OK, "{path} {text}");
        } else {
            assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{path} {text}");
            let problem: api::Problem = serde_json::from_str(&text).unwrap();
            assert_eq!(problem.leader.as_ref(), Some(&leader), "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_meant_for_another_job_is_refused() {
    let Fixture { view, requests, .. } = fixture();
    drop(requests);
    for (job, code) in [
        ("fleet", StatusCode::GONE),
        ("other", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let mut asked = request(Method::POST, "/v1/stop", "{}");
        asked.headers_mut().insert(JOB_HEADER, job.parse().unwrap());
        let (found, text) = answer(open(view.clone()), asked).await;
        assert_eq!(found, code, "{text}");
    }
}

#[tokio::test]
async fn answers_are_for_programs() {
    let asked = request(Method::GET, "/v1/nothing", "");
    let response = open(fixture().view).oneshot(asked).await.unwrap();
    let of = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(of("x-content-type-options"), "nosniff");
    assert_eq!(of("x-frame-options"), "DENY");
    assert_eq!(of("cache-control"), "no-store");
    assert_eq!(of("cross-origin-resource-policy"), "same-origin");
}

#[tokio::test]
async fn the_document_lists_every_route() {
    let view = fixture().view;
    let told = read(&view, "/v1/openapi.json").await;
    assert_eq!(told, serde_json::to_value(document()).unwrap());
    let paths = told["paths"].as_object().unwrap();
    for path in ["/v1/operations/{operation}", "/v1/rescale"] {
        assert!(paths.contains_key(path), "{told}");
    }
}

#[tokio::test]
async fn no_path_of_a_request_names_anything_but_a_route() {
    for path in [
        "/v1/operations/..%2f..%2fetc%2fpasswd",
        "/v1/operations/%2e%2e",
        "/v1/operations/..%252f",
        "/v1/operations/a%00b",
        "/v1/operations/%ff",
        "/v1/checkpoints/%ff",
        "/v1/checkpoints/..%2f1",
        "/v1/checkpoints/-1",
        "/v1/checkpoints/18446744073709551616",
        "/../v1/status",
        "/v1/%73tatus",
        "//v1/status",
    ] {
        let asked = request(Method::GET, path, "");
        let (code, text) = answer(open(fixture().view), asked).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{path} {text}");
    }
    for id in ["../x", "a b", ""] {
        let body = json!({ "operation": id }).to_string();
        let asked = request(Method::POST, "/v1/checkpoints", &body);
        let (code, text) = answer(open(fixture().view), asked).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{id} {text}");
    }
}

#[tokio::test]
async fn no_route_is_open_to_who_shows_too_little() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (reader, writer) = ("read-read-read-read", "write-write-write-write");
    std::fs::write(&file, format!("read {reader}\nwrite {writer}\n")).unwrap();
    let access = Access::Tokens(Arc::new(TokenFile::open(file).unwrap()));
    let Fixture { view, requests, .. } = fixture();
    // Whoever is let through to the coordinator is answered at once.
    drop(requests);
    let all = all_routes();
    assert!(
        all.iter().any(|(method, ..)| *method == Method::PATCH),
        "{all:?}"
    );
    assert_eq!(
        all.iter().filter(|(.., writes)| *writes).count(),
        5,
        "{all:?}"
    );
    for (method, path, writes) in all {
        assert_eq!(writes, method != Method::GET, "{method} {path}");
        for (shown, expected) in [
            (None, Some(401)),
            (Some("unknown-unknown-unknown"), Some(401)),
            (Some(reader), writes.then_some(403)),
            (Some(writer), None),
        ] {
            let mut asked = request(method.clone(), &path, "{}");
            asked
                .headers_mut()
                .insert(header::HOST, "job.example".parse().unwrap());
            if let Some(token) = shown {
                let value = format!("Bearer {token}").parse().unwrap();
                asked.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let routes = routes(view.clone(), &access);
            let (code, text) = answer(routes, asked).await;
            let code = code.as_u16();
            match expected {
                Some(expected) => assert_eq!(code, expected, "{method} {path} {text}"),
                None => assert!(![401, 403].contains(&code), "{method} {path} {code} {text}"),
            }
            for token in [reader, writer] {
                assert!(!text.contains(token), "{method} {path}");
            }
        }
    }
}
