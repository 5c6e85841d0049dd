//! What is refused, waited for and given up: by name, in the status, and never without an end.

use std::sync::Arc;
use std::time::Duration;

use highwater_connectors::{
    CollectSink, ConnectorError, ElementsSource, FileSink, MemoryOutput, OutputTarget, Sink,
    SinkFacts, SinkWriter, WriterContext,
};
use highwater_coordinator::{
    CoordinatorHandle, JobOutcome, JobRequest, RequestRefused, SnapshotWish, Wish,
};
use highwater_protocol::recovery::StartWish;
use highwater_protocol::steps::Step;
use highwater_storage::{MemoryStorage, ObjectStorage};
use highwater_types::{Classified, ErrorKind, StopMode};
use tokio::sync::oneshot;

use crate::job::{
    RESUME, end_of, program_of, settings, start, start_as, start_wishing, start_with,
};

fn storage() -> Arc<dyn ObjectStorage> {
    Arc::new(MemoryStorage::default())
}

/// A sink whose system is away.
struct Away(CollectSink<u64>);

impl Sink for Away {
    type Record = u64;

    fn facts(&self) -> SinkFacts {
        self.0.facts()
    }

    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<u64>, ConnectorError> {
        self.0.writer(context)
    }

    fn target(&self, _: &WriterContext) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Err(ConnectorError::Unavailable {
            object: "broker one".to_owned(),
            reason: "no answer".to_owned(),
        })
    }
}

/// A sink whose markers can be lost.
struct Lossy(CollectSink<u64>, MemoryOutput);

impl Sink for Lossy {
    type Record = u64;

    fn facts(&self) -> SinkFacts {
        self.0.facts()
    }

    fn writer(&self, context: &WriterContext) -> Result<SinkWriter<u64>, ConnectorError> {
        self.0.writer(context)
    }

    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError> {
        Ok(Some(Box::new(self.1.target(context))))
    }
}

/// Nothing is pending: whoever made them anew would only find out at the next crash that nothing can be decided any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_that_a_checkpoint_names_are_missed_at_the_next_start() {
    let output = MemoryOutput::new();
    let program = || {
        program_of(1, |env| {
            let (sink, _) = CollectSink::exactly_once();
            env.source("numbers", ElementsSource::new([1_u64]))
                .sink("counts", Lossy(sink, output.clone()));
        })
    };
    let store = storage();
    let dies = |step| {
        assert!(
            step != Step::P1,
            "the process is killed before checkpoint 1"
        );
    };
    let killed = start_with(program(), &store, 1, Arc::new(dies));
    assert!(killed.ended.await.unwrap_err().is_panic());
    output.lose_markers();
    let failure = end_of(start(program(), &store, 2)).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Corrupt, "{failure}");
    for part in [
        "sink counts",
        "MarkerLost",
        "memory-1",
        "memory-0",
        "--fork",
        "--fresh",
    ] {
        assert!(failure.message.contains(part), "{failure}");
    }
    let fresh = Wish::Own(StartWish::Fresh);
    let again = start_wishing(program(), &store, (3, Arc::new(|_| {})), fresh);
    assert_eq!(end_of(again).await, Ok(JobOutcome::Finished));
    assert_eq!(output.committed().len(), 1);
}

async fn waiting(handle: &mut CoordinatorHandle) -> String {
    let waits = |status: &highwater_coordinator::JobStatus| status.waits_for.is_some();
    let waited = tokio::time::timeout(Duration::from_mins(1), handle.status.wait_for(waits));
    let status = waited.await.expect("it says what it waits for").unwrap();
    status.waits_for.clone().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_a_sink_says_for_which_and_honours_a_stop() {
    let program = program_of(1, |env| {
        let (sink, _) = CollectSink::exactly_once();
        env.source("numbers", ElementsSource::new([1_u64]))
            .sink("counts", Away(sink));
    });
    let mut handle = start(program, &storage(), 1);
    let waits = waiting(&mut handle).await;
    assert!(
        waits.contains("sink counts") && waits.contains("broker one"),
        "{waits}"
    );
    let (answer, refused) = oneshot::channel();
    let asked = SnapshotWish::Savepoint {
        name: "one".to_owned(),
    }
    .asked(answer);
    handle.requests.send(asked).await.unwrap();
    let refused = refused.await.unwrap().unwrap_err();
    assert!(
        matches!(refused, RequestRefused::NotRunning(_)),
        "{refused}"
    );
    assert!(refused.to_string().contains("broker one"), "{refused}");
    // A stop that wants a savepoint is not granted without one.
    let (answer, refused) = oneshot::channel();
    let asked = SnapshotWish::Stop {
        mode: StopMode::Suspend,
        savepoint: Some("one".to_owned()),
    }
    .asked(answer);
    handle.requests.send(asked).await.unwrap();
    let refused = refused.await.unwrap().unwrap_err();
    assert!(
        matches!(refused, RequestRefused::NotRunning(_)),
        "{refused}"
    );
    let (answer, _stopped) = oneshot::channel();
    let stop = SnapshotWish::Stop {
        mode: StopMode::Suspend,
        savepoint: None,
    }
    .asked(answer);
    handle.requests.send(stop).await.unwrap();
    assert_eq!(end_of(handle).await, Ok(JobOutcome::Cancelled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_can_never_be_written_fails_the_start_at_once_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let program = program_of(1, |env| {
        let line = |number: &u64, line: &mut Vec<u8>| line.extend(number.to_string().bytes());
        env.source("numbers", ElementsSource::new([1_u64]))
            .sink("counts", FileSink::new(file.join("out"), line));
    });
    let failure = end_of(start(program, &storage(), 1)).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Invalid, "{failure}");
    assert!(failure.message.contains("sink counts"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_with_a_newline_fails_the_job_with_the_state_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let program = program_of(1, |env| {
        let line = |number: &u64, line: &mut Vec<u8>| line.extend(format!("{number}\n").bytes());
        env.source("numbers", ElementsSource::new([1_u64]))
            .sink("counts", FileSink::new(&out, line));
    });
    let store = storage();
    let failure = end_of(start(program, &store, 1)).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Invalid, "{failure}");
    assert!(failure.message.contains("newline"), "{failure}");
    let corrected = program_of(1, |env| {
        let line = |number: &u64, line: &mut Vec<u8>| line.extend(number.to_string().bytes());
        env.source("numbers", ElementsSource::new([1_u64]))
            .sink("counts", FileSink::new(&out, line));
    });
    assert_eq!(
        end_of(start(corrected, &store, 2)).await,
        Ok(JobOutcome::Finished)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_panics_each_time_ends_the_job_and_not_in_a_loop() {
    let program = program_of(1, |env| {
        env.source("numbers", ElementsSource::new([1_u64]))
            .map(|number: u64| {
                assert!(number > 1, "no number like that");
                number
            })
            .sink("counts", CollectSink::exactly_once().0);
    });
    let failure = end_of(start(program, &storage(), 1)).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Bug, "{failure}");
    assert!(failure.message.contains("no number like that"), "{failure}");
    assert!(failure.message.contains("3 times"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_never_returns_does_not_hold_the_end_of_the_job_up_for_ever() {
    let (entered, inside) = std::sync::mpsc::sync_channel(1);
    let program = program_of(1, |env| {
        env.source("numbers", ElementsSource::new([1_u64]))
            .map(move |number: u64| {
                entered.send(()).unwrap();
                loop {
                    std::thread::park();
                    std::hint::black_box(number);
                }
            })
            .sink("counts", CollectSink::<u64>::exactly_once().0);
    });
    let mut settings = settings();
    settings.cancellation_timeout = Duration::from_millis(100);
    let handle = start_as(program, &storage(), (1, Arc::new(|_| {})), RESUME, settings);
    let inside = tokio::task::spawn_blocking(move || inside.recv().map(|()| inside));
    inside.await.unwrap().unwrap();
    handle.requests.send(JobRequest::Cancel).await.unwrap();
    let failure = end_of(handle).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Bug, "{failure}");
    assert!(failure.message.contains("does not return"), "{failure}");
}
