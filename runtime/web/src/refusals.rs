//! Refusals of what lies around the routes, in the document.
//!
//! Added to the document of the routes: who may ask, for which job, how much at once, and how a body is read is judged before a handler is
//! called, and so is what is answered then. Each stands once in the document, and routes refer to it. The rule: a route that says a code
//! itself keeps what it says.

use utoipa::openapi::header::Header;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};

/// A code, and what it means.
type Refusal = (&'static str, &'static str);

/// The code that says how to show a token.
const NO_TOKEN: &str = "401";

/// Of every route.
const OF_ALL: [Refusal; 4] = [
    (
        NO_TOKEN,
        "The request shows no token, or one that nobody knows",
    ),
    (
        "403",
        "What the request shows is not enough for this route, or a browser asks for a page",
    ),
    (
        "421",
        "Another job answers here than the one that the header `highwater-job` names",
    ),
    (
        "503",
        "Ask again: too much is asked at once; or ask the coordinator that leads, where this one stands by",
    ),
];

/// Of a route that takes a body.
const OF_BODIES: [Refusal; 2] = [
    ("413", "The body is larger than 16 KiB"),
    ("422", "The body is JSON, and not what the route takes"),
];

/// Of a route that takes nothing without a body.
const OF_REQUIRED_BODIES: [Refusal; 1] = [(
    "415",
    "The body is not said to be JSON; send `Content-Type: application/json`",
)];

/// Adds them to each route.
pub(crate) fn add(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.patch];
        operations.into_iter().flatten().for_each(refer);
    }
    let components = document.components.get_or_insert_default();
    for (code, about) in OF_ALL.iter().chain(&OF_BODIES).chain(&OF_REQUIRED_BODIES) {
        let response = RefOr::T(response(code, about));
        components.responses.insert((*code).to_owned(), response);
    }
}

/// Refers to those of a route.
fn refer(operation: &mut Operation) {
    let (bodies, required): (&[Refusal], &[Refusal]) = match &operation.request_body {
        None => (&[], &[]),
        Some(RefOr::T(body)) if !matches!(body.required, Some(Required::True)) => (&OF_BODIES, &[]),
        Some(_) => (&OF_BODIES, &OF_REQUIRED_BODIES),
    };
    let said = &mut operation.responses.responses;
    for (code, _) in OF_ALL.iter().chain(bodies).chain(required) {
        let refers = || RefOr::Ref(Ref::from_response_name(*code));
        said.entry((*code).to_owned()).or_insert_with(refers);
    }
}

fn response(code: &str, about: &str) -> Response {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let response = ResponseBuilder::new()
        .description(about)
        .content("application/json", problem);
    let response = if code == NO_TOKEN {
        response.header("WWW-Authenticate", Header::default())
    } else {
        response
    };
    response.build()
}
