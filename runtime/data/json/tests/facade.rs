//! The JSON derives that the facade re-exports, used as its users do: `::highwater::json` is the only path they know.

extern crate self as highwater;

use highwater_derive::{FacadeFromJson as FromJson, FacadeToJson as ToJson};

/// The place at which the facade keeps JSON.
pub mod json {
    pub use highwater_json::*;
}

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
struct Alert {
    user_id: String,
    #[json(with = "event_time")]
    at_ms: i64,
    level: Level,
}

#[derive(Clone, Debug, PartialEq, FromJson, ToJson)]
#[json(crate = "highwater_json", rename_all = "lowercase")]
enum Level {
    High,
    #[json(other)]
    Unknown(String),
}

#[test]
fn facade_paths_give_the_same_traits() {
    let text = br#"{"user_id":"u","at_ms":"1970-01-01T00:00:00.005Z","level":"high"}"#;
    let alert = <Alert as json::FromJson>::from_json(text, &mut json::Scratch::new());
    let expected = Alert {
        user_id: "u".to_owned(),
        at_ms: 5,
        level: Level::High,
    };
    assert_eq!(alert.as_ref(), Ok(&expected));
    let mut out = Vec::new();
    json::ToJson::to_json(&expected, &mut out);
    assert_eq!(out, text);
}
