//! Hot keys: what the samples of all subtasks say together, and that no key is told.

use highwater_operators::{HotKey, OperatorReport};
use serde_json::json;

use super::*;
use crate::routes::document;

/// A subtask of `count` with these keys: the hash of each, and how many of a hundred records it has.
fn counting(subtask: u32, keys: &[(u64, u64)]) -> (TaskId, TaskFigures) {
    let (id, idle) = idle_subtask("count", subtask);
    let mut report = OperatorReport::new(OperatorUid::parse("count").unwrap());
    let hot = keys.iter().map(|(hash, records)| HotKey {
        hash: *hash,
        records: *records,
        of: 100,
    });
    report.hot_keys = hot.collect();
    let figures = TaskFigures {
        operators: vec![report],
        ..idle
    };
    (id, figures)
}

#[tokio::test]
async fn hot_keys_are_told_by_subtask_rank_hash_and_group() {
    let mut view = fixture().view;
    view.plan = runs(late_plan(false));
    let figures = vec![
        counting(1, &[(u64::MAX, 50)]),
        counting(0, &[(721, 30), (7, 25)]),
    ];
    view.figures.write(figures);
    let told = read(&view, "/v1/hot-keys").await;
    // Of 720 groups.
    let expected = json!([
        {
            "subtask": 0, "rank": 1, "hash": "00000000000002d1", "group": 1,
            "share": 0.3, "sampled_records": 100,
        },
        {
            "subtask": 0, "rank": 2, "hash": "0000000000000007", "group": 7,
            "share": 0.25, "sampled_records": 100,
        },
        {
            "subtask": 1, "rank": 1, "hash": "ffffffffffffffff", "group": u64::MAX % 720,
            "share": 0.5, "sampled_records": 100,
        },
    ]);
    assert_eq!(told[0]["operator"], "count");
    assert_eq!(told[0]["name"], "window");
    assert_eq!(told[0]["keys"], expected);
    let operators: Vec<api::HotKeys> = serde_json::from_value(told).unwrap();
    assert_eq!(operators.len(), 1, "only one operator is keyed");
    assert!(operators[0].key.is_some(), "{operators:?}");
}

#[tokio::test]
async fn a_keyed_operator_without_hot_keys_is_told_and_one_that_has_no_key_is_not() {
    let mut view = fixture().view;
    assert_eq!(read(&view, "/v1/hot-keys").await, json!([]));
    view.plan = runs(late_plan(true));
    // Before any figures, then with those of a subtask whose sample says nothing yet.
    for _ in 0..2 {
        let told = read(&view, "/v1/hot-keys").await;
        assert_eq!(told[0]["operator"], "count");
        assert_eq!(told[0]["keys"], json!([]));
        assert_eq!(told[1], Value::Null);
        view.figures.write(vec![counting(0, &[])]);
    }
}

#[test]
fn the_document_has_no_field_for_what_a_key_says() {
    let document = serde_json::to_value(document()).unwrap();
    let schema = &document["components"]["schemas"]["HotKey"];
    let fields: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    let expected = [
        "group",
        "hash",
        "rank",
        "sampled_records",
        "share",
        "subtask",
    ];
    assert_eq!(fields, expected, "{schema}");
    let route = &document["paths"]["/v1/hot-keys"]["get"];
    assert_eq!(route["security"], json!([{ "token": ["read"] }]));
    let answer = &route["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(answer["items"]["$ref"], "#/components/schemas/HotKeys");
}
