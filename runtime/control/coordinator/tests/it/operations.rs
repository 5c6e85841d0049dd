//! Operations: one id is one request, over failures, repeats and the next leader.

use highwater_coordinator::{
    CheckpointOutcome, CoordinatorHandle, JobOutcome, JobRequest, JobStatus, OperationId,
    OperationOrder, RequestAnswer, RequestRefused, SnapshotWish,
};
use highwater_types::StopMode;
use tokio::sync::oneshot;

use crate::damage::{World, on};
use crate::job::{RESUME, end_of};

async fn running(world: &World) -> CoordinatorHandle {
    let handle = world.slowly(|| world.start(on(), RESUME));
    let mut status = handle.status.clone();
    let two = |status: &JobStatus| status.checkpoints.completed_count >= 2;
    status.wait_for(two).await.unwrap();
    handle
}

fn id(text: &str) -> OperationId {
    OperationId::parse(text).unwrap()
}

fn savepoint(name: &str) -> SnapshotWish {
    SnapshotWish::Savepoint {
        name: name.to_owned(),
    }
}

async fn ask(
    handle: &CoordinatorHandle,
    operation: &str,
    wish: SnapshotWish,
) -> oneshot::Receiver<RequestAnswer> {
    let (answer, answered) = oneshot::channel();
    let request = JobRequest::Snapshot {
        wish,
        operation: Some(OperationOrder {
            id: id(operation),
            begun: None,
        }),
        answer,
    };
    handle.requests.send(request).await.unwrap();
    answered
}

#[tokio::test]
async fn a_request_that_is_repeated_is_answered_and_not_done_again() {
    let world = World::in_memory();
    let handle = running(&world).await;
    // Both are on their way at once: the second joins the first.
    let first = ask(&handle, "one", savepoint("before")).await;
    let second = ask(&handle, "one", savepoint("before")).await;
    let done = first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap(), Ok(done));
    let third = ask(&handle, "one", savepoint("before")).await;
    assert_eq!(third.await.unwrap(), Ok(done));
    let other = ask(&handle, "one", savepoint("after")).await;
    let refused = other.await.unwrap().unwrap_err();
    assert!(
        matches!(refused, RequestRefused::OtherOperation { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("savepoint before"),
        "{refused}"
    );
    let status = handle.status.borrow().clone();
    assert_eq!(status.operations.all().count(), 1);
    let stop = SnapshotWish::Stop {
        mode: StopMode::Suspend,
        savepoint: None,
    };
    let stopped = ask(&handle, "two", stop).await;
    stopped.await.unwrap().unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Stopped));

    // The next leader does not know the id. It finds what has the name, and says what it is.
    let handle = running(&world).await;
    assert_eq!(handle.status.borrow().operations.all().count(), 0);
    let again = ask(&handle, "one", savepoint("before")).await;
    match again.await.unwrap() {
        Err(RequestRefused::Taken { holds, .. }) => {
            let lineage = status.lineage.unwrap();
            assert_eq!(holds, Some((lineage, done)));
        }
        other => panic!("{other:?}"),
    }
    crate::job::suspend(handle).await;
}

#[tokio::test]
async fn the_history_tells_each_checkpoint_with_its_tasks() {
    let world = World::in_memory();
    let handle = running(&world).await;
    let taken = ask(&handle, "now", savepoint("one")).await;
    let id = taken.await.unwrap().unwrap();
    let status = handle.status.borrow().clone();
    let held = status.history.all().find(|held| held.id == id).unwrap();
    let CheckpointOutcome::Completed { confirmed_ms, .. } = &held.outcome else {
        panic!("{held:?}");
    };
    assert!(confirmed_ms.is_some(), "a savepoint is confirmed: {held:?}");
    assert_eq!(
        held.kind,
        Some(highwater_types::BarrierKind::Savepoint),
        "{held:?}"
    );
    for (task, part) in &held.tasks {
        assert_eq!(part.answered, part.subtasks, "{task}");
        assert!(part.last.is_some(), "{task}");
    }
    assert!(held.tasks.values().any(|part| part.bytes.new > 0));
    crate::job::suspend(handle).await;
}
