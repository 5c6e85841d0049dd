//! Checkpoints, savepoints, rescales and stops that are asked for: what reaches the coordinator, and what is told of it.

use std::time::Duration;

use highwater_coordinator::{
    OperationId, OperationOrder, RequestAnswer, RequestRefused, RescaleWish, SnapshotWish,
};
use highwater_protocol::checkpoint::CheckpointFailure;
use highwater_types::{ErrorKind, Lineage, StopMode};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::*;

#[tokio::test]
async fn a_savepoint_is_asked_of_the_coordinator() {
    let Fixture {
        view, mut requests, ..
    } = fixture();
    let asked = request(Method::POST, "/v1/savepoints", "{\"name\":\"before\"}");
    let coordinator = async {
        match requests.recv().await.unwrap() {
            JobRequest::Snapshot { wish, answer, .. } => {
                assert_eq!(wish.savepoint(), Some("before"));
                answer.send(Ok(THE_CHECKPOINT)).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let ((code, text), ()) = tokio::join!(answer(open(view), asked), coordinator);
    assert_eq!(code, StatusCode::OK);
    let done: api::Operation = serde_json::from_str(&text).unwrap();
    assert_eq!((done.checkpoint, done.epoch), (Some(7), Some(2)));
    assert_eq!(done.state, api::OperationState::Done);
    assert_eq!(done.savepoint.as_deref(), Some("before"));
    assert!(done.operation.starts_with("op-"), "{text}");
}

#[tokio::test]
async fn stop_passes_mode_and_savepoint_on() {
    for (body, wanted) in [
        ("{}", (StopMode::Suspend, None)),
        ("{\"mode\":\"drain\"}", (StopMode::Drain, None)),
        (
            "{\"savepoint\":\"last\"}",
            (StopMode::Suspend, Some("last".to_owned())),
        ),
    ] {
        let Fixture {
            view, mut requests, ..
        } = fixture();
        let asked = request(Method::POST, "/v1/stop", body);
        let coordinator = async {
            match requests.recv().await.unwrap() {
                JobRequest::Snapshot { wish, answer, .. } => {
                    let (mode, savepoint) = wanted;
                    assert_eq!(wish, SnapshotWish::Stop { mode, savepoint });
                    answer.send(Ok(THE_CHECKPOINT)).unwrap();
                }
                other => panic!("{other:?}"),
            }
        };
        let ((code, _), ()) = tokio::join!(answer(open(view), asked), coordinator);
        assert_eq!(code, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_rescale_is_asked_of_the_coordinator_and_kept_as_one() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let body = json!({
        "parallelism": 4, "operators": { "count": 8 }, "slots_within_ms": 250, "operation": "one",
    });
    let asked = request(Method::POST, "/v1/rescale", &body.to_string());
    let coordinator = async {
        let Some(JobRequest::Snapshot { wish, answer, .. }) = requests.recv().await else {
            panic!("a rescale is asked for");
        };
        let expected = RescaleWish {
            parallelism: Some(Parallelism(4)),
            operators: [(OperatorUid::parse("count").unwrap(), Parallelism(8))].into(),
            slots_within: Duration::from_millis(250),
        };
        assert_eq!(wish, SnapshotWish::Rescale(expected));
        let one = OperationId::parse("one").unwrap();
        status.send_modify(|status| {
            status.operations.begin(&one, &wish, 0);
            status.operations.end(&one, Ok(THE_CHECKPOINT), 5);
        });
        answer.send(Ok(THE_CHECKPOINT)).unwrap();
    };
    let ((code, text), ()) = tokio::join!(answer(open(view.clone()), asked), coordinator);
    assert_eq!(code, StatusCode::OK, "{text}");
    let told = read(&view, "/v1/operations/one").await;
    assert_eq!(
        (&told["kind"], &told["state"], &told["checkpoint"]),
        (&json!("rescale"), &json!("done"), &json!(7))
    );
    assert_eq!(told["savepoint"], Value::Null);
}

#[tokio::test]
async fn a_refusal_keeps_its_reason() {
    let failed = |kind| RequestRefused::Store {
        kind,
        message: "why".to_owned(),
    };
    let folder = || "savepoints/one".to_owned();
    let cases = [
        (RequestRefused::Name("why".to_owned()), 400, "invalid"),
        (RequestRefused::Rescale("why".to_owned()), 400, "invalid"),
        (
            RequestRefused::SlotsMissing("why".to_owned()),
            409,
            "transient",
        ),
        (
            RequestRefused::Taken {
                folder: folder(),
                holds: Some((Lineage(10), THE_CHECKPOINT)),
            },
            409,
            "invalid",
        ),
        (RequestRefused::TooMany, 503, "transient"),
        (
            RequestRefused::Busy(CheckpointFailure::Stopping),
            409,
            "transient",
        ),
        (
            RequestRefused::NotRunning("why".to_owned()),
            503,
            "transient",
        ),
        (failed(ErrorKind::Transient), 503, "transient"),
        (failed(ErrorKind::Corrupt), 500, "corrupt"),
        (RequestRefused::Ended("why"), 410, "transient"),
    ];
    for (refused, code, kind) in cases {
        let Fixture {
            view, mut requests, ..
        } = fixture();
        let asked = request(Method::POST, "/v1/checkpoints", "");
        let reason = refused.to_string();
        let coordinator = async {
            match requests.recv().await.unwrap() {
                JobRequest::Snapshot { answer, .. } => answer.send(Err(refused)).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let ((answered, text), ()) = tokio::join!(answer(open(view), asked), coordinator);
        assert_eq!(answered.as_u16(), code, "{text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&body["error"], &body["kind"]),
            (&json!(reason), &json!(kind))
        );
    }
}

#[tokio::test]
async fn a_job_that_has_ended_is_gone() {
    let Fixture { view, requests, .. } = fixture();
    drop(requests);
    let asked = request(Method::POST, "/v1/checkpoints", "");
    let (code, _) = answer(open(view), asked).await;
    assert_eq!(code, StatusCode::GONE);
}

/// Plays a coordinator that begins what it is asked for, and gives what it was asked.
async fn begins(
    status: &watch::Sender<JobStatus>,
    requests: &mut mpsc::Receiver<JobRequest>,
) -> (OperationId, oneshot::Sender<RequestAnswer>) {
    let Some(JobRequest::Snapshot {
        wish,
        operation: Some(OperationOrder { id, begun }),
        answer,
    }) = requests.recv().await
    else {
        panic!("a snapshot is asked for");
    };
    status.send_modify(|status| {
        status.operations.begin(&id, &wish, 0);
    });
    if let Some(begun) = begun {
        let held = status.borrow().operations.get(&id).cloned();
        begun.send(held.unwrap()).unwrap();
    }
    (id, answer)
}

#[tokio::test]
async fn who_does_not_wait_is_told_that_the_operation_is_under_way() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let body = "{\"name\":\"before\",\"operation\":\"one\",\"wait\":false}";
    let asked = request(Method::POST, "/v1/savepoints", body);
    let coordinator = begins(&status, &mut requests);
    let ((code, text), (id, answering)) =
        tokio::join!(answer(open(view.clone()), asked), coordinator);
    assert_eq!(code, StatusCode::ACCEPTED);
    let begun: api::Operation = serde_json::from_str(&text).unwrap();
    assert_eq!(begun.operation, "one");
    assert_eq!(begun.state, api::OperationState::Running);
    assert_eq!(read(&view, "/v1/operations/one").await["state"], "running");
    // Nobody waits for the answer any more: the status has it.
    answering.send(Ok(THE_CHECKPOINT)).unwrap_err().unwrap();
    status.send_modify(|status| status.operations.end(&id, Ok(THE_CHECKPOINT), 5));
    let done = read(&view, "/v1/operations/one").await;
    assert_eq!(
        (&done["state"], &done["checkpoint"], &done["duration_ms"]),
        (&json!("done"), &json!(7), &json!(5))
    );
    let all = read(&view, "/v1/operations").await;
    assert_eq!(all, json!([done]));
}

#[tokio::test]
async fn who_does_not_wait_hears_a_refusal_and_not_that_something_older_began() {
    let Fixture {
        view,
        status,
        mut requests,
    } = fixture();
    let (one, was) = (OperationId::parse("one").unwrap(), SnapshotWish::Checkpoint);
    status.send_modify(|status| {
        status.operations.begin(&one, &was, 0);
    });
    let asked = request(
        Method::POST,
        "/v1/stop",
        "{\"operation\":\"one\",\"wait\":false}",
    );
    let coordinator = async {
        let request = requests.recv().await.unwrap();
        request.refuse(RequestRefused::OtherOperation { id: one, was });
    };
    let ((code, text), ()) = tokio::join!(answer(open(view), asked), coordinator);
    assert_eq!(code, StatusCode::CONFLICT, "{text}");
}

#[tokio::test]
async fn more_than_may_wait_are_told_that_it_is_under_way() {
    let Fixture {
        mut view,
        status,
        mut requests,
    } = fixture();
    view.waiting = Arc::new(Semaphore::new(0));
    let asked = request(Method::POST, "/v1/checkpoints", "");
    let coordinator = begins(&status, &mut requests);
    let ((code, text), _) = tokio::join!(answer(open(view), asked), coordinator);
    assert_eq!(code, StatusCode::ACCEPTED, "{text}");
}

#[tokio::test]
async fn a_refused_operation_keeps_its_problem() {
    let fixture = fixture();
    let id = OperationId::parse("one").unwrap();
    let wish = SnapshotWish::Savepoint {
        name: "before".to_owned(),
    };
    let refused = RequestRefused::Taken {
        folder: "savepoints/before".to_owned(),
        holds: Some((Lineage(10), THE_CHECKPOINT)),
    };
    fixture.status.send_modify(|status| {
        status.operations.begin(&id, &wish, 0);
        status.operations.end(&id, Err(refused), 1);
    });
    let told = read(&fixture.view, "/v1/operations/one").await;
    assert_eq!(told["state"], "refused");
    assert_eq!(told["problem"]["checkpoint"], 7);
    assert_eq!(told["problem"]["lineage"], Lineage(10).to_string());
    assert_eq!(told["checkpoint"], Value::Null);
}
