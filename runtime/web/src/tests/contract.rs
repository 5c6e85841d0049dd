//! The document against the routes: what a fuzz that the document drives looks at.

use highwater_coordinator::OperationId;
use highwater_types::SavepointName;
use serde_json::json;

use super::*;
use crate::routes::document;

fn said() -> Value {
    serde_json::to_value(document()).unwrap()
}

/// The operations of the document: method, path and what is said of it.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{number}", "1").replace("{operation}", "one");
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    all
}

#[test]
fn every_route_says_what_lies_around_it() {
    let document = said();
    for (method, path, operation) in operations(&document) {
        let mut codes = vec!["401", "403", "421", "503"];
        if operation["requestBody"].is_object() {
            codes.extend(["400", "413", "422"]);
        }
        if operation["requestBody"]["required"] == true {
            codes.push("415");
        }
        for code in codes {
            let own = &operation["responses"][code];
            let at = own["$ref"].as_str().map(|at| at.trim_start_matches('#'));
            let shared = at.and_then(|at| document.pointer(at));
            let content = &shared.unwrap_or(own)["content"]["application/json"];
            assert_eq!(
                content["schema"]["$ref"], "#/components/schemas/Problem",
                "{method} {path} {code}"
            );
        }
    }
    let problem = document.pointer("/components/schemas/Problem");
    assert!(problem.is_some(), "{document}");
    let headers = &document["components"]["responses"]["401"]["headers"];
    assert!(headers["WWW-Authenticate"].is_object(), "{headers}");
}

#[test]
fn only_the_body_of_a_checkpoint_may_be_left_out() {
    for (method, path, operation) in operations(&said()) {
        let body = &operation["requestBody"];
        let may = body.is_object() && body["required"] != true;
        assert_eq!(
            may,
            method == "POST" && path == "/v1/checkpoints",
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_checkpoint_is_asked_for_with_nothing_with_null_and_with_an_object() {
    for body in ["", "null", "{}"] {
        let Fixture { view, requests, .. } = fixture();
        // Whatever comes through to the coordinator is told that it is gone.
        drop(requests);
        let asked = request(Method::POST, "/v1/checkpoints", body);
        let (code, text) = answer(open(view), asked).await;
        assert_eq!(code, StatusCode::GONE, "{body} {text}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_asks_for_nothing() {
    for (method, path, body) in [
        (Method::POST, "/v1/checkpoints", "[]"),
        (Method::POST, "/v1/savepoints", "[\"before\"]"),
        (Method::POST, "/v1/rescale", "[4]"),
        (Method::POST, "/v1/stop", "[]"),
        (Method::POST, "/v1/stop", "[\"drain\"]"),
        (Method::POST, "/v1/stop", "null"),
        (Method::PATCH, "/v1/config", "[{\"slots\":\"9\"}]"),
    ] {
        let Fixture { view, requests, .. } = fixture();
        drop(requests);
        let (code, text) = answer(open(view), request(method, path, body)).await;
        assert_eq!(
            code,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{path} {body} {text}"
        );
    }
}

#[test]
fn requests_have_no_fields_but_those_that_are_said() {
    let document = said();
    for name in [
        "SnapshotRequest",
        "SavepointRequest",
        "RescaleRequest",
        "StopRequest",
        "ConfigRequest",
    ] {
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false, "{name} {schema}");
    }
}

/// Pattern, least and greatest length.
fn limits(schema: &Value) -> Value {
    json!([schema["pattern"], schema["minLength"], schema["maxLength"]])
}

#[test]
fn ids_and_names_are_taken_as_the_document_says() {
    let document = said();
    let field =
        |of: &str, name: &str| limits(&document["components"]["schemas"][of]["properties"][name]);
    let path = &document["paths"]["/v1/operations/{operation}"]["get"];
    for said in [
        limits(&path["parameters"][0]["schema"]),
        field("SnapshotRequest", "operation"),
        field("SavepointRequest", "operation"),
        field("RescaleRequest", "operation"),
        field("StopRequest", "operation"),
    ] {
        assert_eq!(said, json!(["^[A-Za-z0-9._-]+$", 1, 64]));
    }
    for said in [
        field("SavepointRequest", "name"),
        field("StopRequest", "savepoint"),
    ] {
        assert_eq!(said, json!(["^[a-z0-9][a-z0-9_-]*$", 1, 63]));
    }
    let is_id = |text: &str| OperationId::parse(text).is_ok();
    let is_name = |text: &str| SavepointName::parse(text).is_ok();
    for (length, expected) in [
        (0, (false, false)),
        (1, (true, true)),
        (63, (true, true)),
        (64, (true, false)),
        (65, (false, false)),
    ] {
        let text = "x".repeat(length);
        assert_eq!((is_id(&text), is_name(&text)), expected, "{length}");
    }
    for byte in 0..=127_u8 {
        let letter = char::from(byte);
        let belongs = letter.is_ascii_alphanumeric() || "._-".contains(letter);
        assert_eq!(is_id(&letter.to_string()), belongs, "{letter:?}");
        let begins = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        assert_eq!(is_name(&letter.to_string()), begins, "{letter:?}");
        let follows = begins || "_-".contains(letter);
        assert_eq!(is_name(&format!("x{letter}")), follows, "{letter:?}");
    }
}

#[test]
fn a_parallelism_is_taken_as_the_document_says() {
    let document = said();
    let fields = &document["components"]["schemas"]["RescaleRequest"]["properties"];
    let field = &fields["parallelism"];
    let bounds = (field["minimum"].as_f64(), field["maximum"].as_f64());
    assert_eq!(bounds, (Some(1.0), Some(f64::from(MaxParallelism::LIMIT))));
    let most = fields["slots_within_ms"]["maximum"].as_f64();
    assert_eq!(most, Some(86_400_000.0));
    let each = &fields["operators"]["additionalProperties"];
    assert_eq!(each["type"], "integer", "{fields}");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let document = said();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys();
        let mut said: Vec<_> = methods.map(|method| method.to_uppercase()).collect();
        said.sort_unstable();
        let path = path.replace("{number}", "1").replace("{operation}", "one");
        for method in [
            "GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "QUERY",
        ] {
            if said.iter().any(|said| said == method) {
                continue;
            }
            let asked = request(method.parse().unwrap(), &path, "{}");
            let response = open(fixture().view).oneshot(asked).await.unwrap();
            let code = response.status();
            assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let allowed = response.headers()[header::ALLOW].to_str().unwrap();
            let allowed = allowed.split(',').filter(|one| *one != "HEAD");
            let mut allowed: Vec<_> = allowed.collect();
            allowed.sort_unstable();
            assert_eq!(allowed, said, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_is_read_has_the_code_and_the_type_that_are_said() {
    let document = said();
    for (method, path, operation) in operations(&document) {
        if method != "GET" {
            continue;
        }
        let asked = request(Method::GET, &path, "");
        let response = open(fixture().view).oneshot(asked).await.unwrap();
        let code = response.status().as_u16().to_string();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        let kind = kind.split(';').next().unwrap();
        let content = &operation["responses"][code.as_str()]["content"];
        assert!(
            content[kind].is_object(),
            "{path} answers {code} with {kind}"
        );
    }
    let own = &document["paths"]["/v1/openapi.json"]["get"]["responses"]["200"];
    let schema = &own["content"]["application/json"]["schema"];
    assert_eq!(schema["type"], "object", "{own}");
}

#[tokio::test]
async fn what_can_never_be_granted_is_refused_before_anything_is_under_way() {
    for (path, body) in [
        ("/v1/savepoints", "{\"name\":\"gdx*\",\"wait\":false}"),
        ("/v1/stop", "{\"savepoint\":\"gdx*\",\"wait\":false}"),
        ("/v1/stop", "{\"savepoint\":\"\",\"mode\":\"drain\"}"),
        ("/v1/rescale", "{}"),
        ("/v1/rescale", "{\"parallelism\":0,\"wait\":false}"),
        ("/v1/rescale", "{\"operators\":{\"Count\":2}}"),
    ] {
        let mut fixture = fixture();
        let asked = request(Method::POST, path, body);
        let (code, text) = answer(open(fixture.view), asked).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{path} {body}: {text}");
        assert!(fixture.requests.try_recv().is_err(), "{path} {body}");
    }
}
