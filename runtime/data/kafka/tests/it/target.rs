//! The transactional target: the laws of output targets, and what only Kafka can do wrong.

use std::cell::Cell;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use highwater_connectors::contract::{Effort, output_target_suite};
use highwater_connectors::{
    KnownMarkers, Marker, MarkerKind, MarkerPosition, OutputBatch, OutputRecord, OutputTarget,
    Sink, TargetError, WriterContext,
};
use highwater_kafka::KafkaSink;
use highwater_testkit::KafkaOptions;
use highwater_types::{
    Classified, ErrorKind, JobIdentity, Lineage, OperatorUid, Parallelism, SubtaskIndex,
};
use rdkafka::producer::Producer;

use crate::broker::{self, Cluster, PATIENCE, put, unique};

fn bytes(record: &String, out: &mut Vec<u8>) {
    out.extend_from_slice(record.as_bytes());
}

fn sink(cluster: &Cluster, topic: &str) -> KafkaSink<String, fn(&String, &mut Vec<u8>)> {
    KafkaSink::new(
        cluster.connection(),
        topic,
        bytes as fn(&String, &mut Vec<u8>),
    )
}

pub(crate) fn context(lineage: u128, subtask: u32) -> WriterContext {
    WriterContext {
        job: JobIdentity::parse("it").expect("the name is valid"),
        lineage: Lineage(lineage),
        uid: OperatorUid::parse("out").expect("the name is valid"),
        subtask: SubtaskIndex(subtask),
        parallelism: Parallelism(subtask + 1),
    }
}

/// A slot of a lineage of its own.
struct Bench {
    cluster: Cluster,
    topic: String,
    lineage: u128,
    timeout: Duration,
}

impl Bench {
    fn new(cluster: Cluster, what: &str) -> Self {
        let topic = unique(what);
        cluster.topic(&topic, 1);
        let lineage = u128::from(highwater_types::key::hash_bytes(topic.as_bytes()).0);
        Self {
            cluster,
            topic,
            lineage,
            timeout: Duration::from_mins(1),
        }
    }

    fn target(&self, subtask: u32) -> Box<dyn OutputTarget> {
        let sink = sink(&self.cluster, &self.topic).transaction_timeout(self.timeout);
        let target = sink
            .target(&context(self.lineage, subtask))
            .expect("a target");
        target.expect("the sink is transactional")
    }

    fn session(&self, subtask: u32) -> Box<dyn OutputTarget> {
        let mut target = self.target(subtask);
        target.open_session().expect("a session opens");
        target
    }

    fn committed(&self) -> Vec<String> {
        let seen = self.cluster.committed(&self.topic, 1);
        seen.iter().map(broker::Seen::text).collect()
    }

    fn marker_topic(&self) -> String {
        format!("hw.{:032x}.markers", self.lineage)
    }
}

fn batch(values: &[&str]) -> OutputBatch {
    let mut batch = OutputBatch::default();
    for value in values {
        batch.push(&OutputRecord::of_value(value.as_bytes()));
    }
    batch
}

const fn output(number: u64) -> Marker {
    Marker {
        number,
        kind: MarkerKind::Output,
        epoch: 1,
        attempt: 1,
    }
}

fn stage(target: &mut dyn OutputTarget, values: &[&str]) {
    target.begin().expect("a transaction begins");
    target.send(&batch(values)).expect("records are sent");
    target.flush().expect("records arrive");
}

fn markers(target: &mut dyn OutputTarget) -> Vec<(u64, MarkerKind)> {
    target.write_sync().expect("a sync record is written");
    let reading = target.read_markers(MarkerPosition::default());
    reading.expect("markers are read").markers
}

#[test]
fn a_kafka_target_keeps_the_target_contract() {
    // A topic for each slot: a lost writer of one slot holds back what readers see of its partition, until its next
    // session.
    let cluster = Cluster::shared();
    let benches: Vec<_> = (0..16)
        .map(|_| Bench::new(cluster.clone(), "laws"))
        .collect();
    let current = Cell::new(0);
    output_target_suite(
        Effort::SHORT,
        &mut |slot| {
            current.set(slot.0 as usize);
            benches[current.get()].target(slot.0)
        },
        &mut || {
            let seen = cluster.committed(&benches[current.get()].topic, 1);
            seen.into_iter().filter_map(|record| record.value).collect()
        },
    );
}

#[test]
fn slots_of_a_lineage_share_a_marker_topic_and_read_only_their_own() {
    let bench = Bench::new(Cluster::shared(), "slots");
    for subtask in 0..2 {
        let mut target = bench.session(subtask);
        stage(&mut *target, &[&format!("of {subtask}")]);
        target
            .commit(output(u64::from(subtask) + 1))
            .expect("a commit");
    }
    let mut target = bench.session(1);
    assert_eq!(markers(&mut *target), [(2, MarkerKind::Output)]);
    let mut fork = Bench {
        lineage: bench.lineage + 1,
        topic: bench.topic.clone(),
        cluster: bench.cluster.clone(),
        timeout: bench.timeout,
    }
    .session(1);
    assert_eq!(markers(&mut *fork), []);
    assert_ne!(
        target.identity().unwrap().markers,
        fork.identity().unwrap().markers
    );
    let system = target.identity().unwrap().system;
    assert_eq!(system, fork.identity().unwrap().system);
    // Pending output is compared by it: a log does not say where its records go.
    assert_eq!(target.identity().unwrap().output, bench.topic);
}

/// Schedule 3 of the sink protocol.
#[test]
fn a_marker_behind_a_foreign_open_transaction_is_found() {
    let bench = Bench::new(Cluster::shared(), "hidden");
    let mut first = bench.session(0);
    let foreign = bench.cluster.transactional(&unique("foreign"));
    foreign.begin_transaction().unwrap();
    put(&foreign, &bench.marker_topic(), 0, &["open"]);
    stage(&mut *first, &["a"]);
    first.commit(output(1)).expect("a commit");
    let mut second = bench.session(0);
    second.write_sync().expect("a sync record is written");
    let (begun, begins) = sync_channel(1);
    let reading = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            begun.send(()).expect("the test waits");
            second.read_markers(MarkerPosition::default())
        });
        begins.recv().expect("the reader starts");
        // Time for a reader that takes the last stable offset for the end to answer wrongly.
        foreign.poll(Duration::from_millis(1_500));
        foreign
            .abort_transaction(PATIENCE)
            .expect("the foreign transaction ends");
        reader.join().expect("the reader answers")
    });
    assert_eq!(
        reading.expect("markers are read").markers,
        [(1, MarkerKind::Output)]
    );
}

/// Schedule 13 of the sink protocol.
#[test]
fn a_marker_topic_that_was_replaced_or_cut_is_noticed() {
    let bench = Bench::new(Cluster::shared(), "replaced");
    let mut target = bench.session(0);
    stage(&mut *target, &["a"]);
    let behind = target.commit(output(1)).expect("a commit");
    let before = target.identity().unwrap();
    // Only somebody who changes its policy can cut a compacted topic.
    bench.cluster.allow_deletion(&bench.marker_topic());
    bench.cluster.cut(&bench.marker_topic(), 1);
    let mut cut = bench.target(0);
    let error = cut.open_session().unwrap_err();
    assert!(matches!(error, TargetError::MarkerLost(_)), "{error:?}");
    bench.cluster.delete_topic(&bench.marker_topic());
    let mut next = bench.session(0);
    assert_ne!(next.identity().unwrap().markers, before.markers);
    next.write_sync().unwrap();
    let reading = next.read_markers(behind).expect("markers are read");
    assert_eq!(reading.markers, []);
    assert_ne!(reading.place, before.markers);
}

fn lost(error: &TargetError) -> String {
    let TargetError::MarkerLost(cause) = error else {
        panic!("{error:?}")
    };
    cause.to_string()
}

/// What a checkpoint names is gone: a topic that is made anew would say that nothing is committed.
#[test]
fn a_marker_topic_that_a_checkpoint_names_is_never_made_anew() {
    let bench = Bench::new(Cluster::shared(), "named");
    let mut target = bench.session(0);
    stage(&mut *target, &["a"]);
    target.commit(output(1)).expect("a commit");
    let known = target.identity().unwrap();
    let named = |system: &str| KnownMarkers::In {
        system: system.to_owned(),
        place: known.markers.clone(),
    };
    let open = |known| {
        let mut target = bench.target(0);
        target.expect_markers(known);
        target.open_session()
    };
    open(named(&known.system)).expect("it is there");
    open(KnownMarkers::Made(Some(known.markers.clone()))).expect("it is there");
    open(KnownMarkers::Made(None)).expect("one is there");
    bench.cluster.delete_topic(&bench.marker_topic());
    for known in [named(&known.system), KnownMarkers::Made(None)] {
        let reason = lost(&open(known).unwrap_err());
        assert!(
            reason.contains(&bench.marker_topic()) && reason.contains("does not exist any more"),
            "{reason}"
        );
    }
    // That it could be made here shows that no look has made it; and an empty one is no better.
    assert!(bench.cluster.try_topic(&bench.marker_topic(), 1));
    let reason = lost(&open(named(&known.system)).unwrap_err());
    assert!(reason.contains("it is empty"), "{reason}");
    open(named("another cluster")).expect("the sink has moved: it may be made");
    let reason = lost(&open(named(&known.system)).unwrap_err());
    assert!(
        reason.contains("deleted and made anew") && reason.contains(&known.markers),
        "{reason}"
    );
}

#[test]
fn a_marker_topic_that_is_replaced_while_a_slot_runs_stops_it() {
    let bench = Bench::new(Cluster::shared(), "running");
    let place = bench.target(0).identity().unwrap().markers;
    let mut target = bench.target(0);
    target.expect_markers(KnownMarkers::Made(Some(place)));
    target.open_session().expect("a session opens");
    stage(&mut *target, &["a"]);
    target.commit(output(1)).expect("a commit");
    target.open_session().expect("a session opens");
    stage(&mut *target, &["b"]);
    bench.cluster.delete_topic(&bench.marker_topic());
    let made = || bench.cluster.try_topic(&bench.marker_topic(), 1);
    assert!(highwater_testkit::process::wait_until(PATIENCE, made));
    let error = target.commit(output(2)).unwrap_err();
    assert!(!matches!(error, TargetError::Refused(_)), "{error:?}");
    let reason = lost(&target.open_session().unwrap_err());
    assert!(reason.contains("it is empty"), "{reason}");
    let seen = bench.cluster.read(&bench.topic, 0, "read_committed");
    assert_eq!(seen.len(), 1, "nothing was committed without its marker");
}

#[test]
fn a_broker_that_does_not_answer_is_no_missing_marker_topic() {
    let port = highwater_testkit::port::free().unwrap();
    let nobody = Bench {
        cluster: Cluster {
            bootstrap: format!("127.0.0.1:{port}"),
        },
        topic: "t".to_owned(),
        lineage: 7,
        timeout: Duration::from_mins(1),
    };
    let mut target = nobody.target(0);
    target.expect_markers(KnownMarkers::Made(None));
    let error = target.open_session().unwrap_err();
    assert!(matches!(error, TargetError::Unclear(_)), "{error:?}");
}

#[test]
fn t20_a_transaction_that_timed_out_is_a_lost_session_and_can_be_published_again() {
    let mut bench = Bench::new(Cluster::shared(), "timeout");
    bench.timeout = Duration::from_secs(1);
    let mut target = bench.session(0);
    stage(&mut *target, &["a"]);
    let gone = || {
        let seen = bench.cluster.read(&bench.topic, 0, "read_uncommitted");
        // The broker's abort is a control record: the next record stands behind it.
        bench.cluster.write(&bench.topic, 0, &["probe"]);
        let after = bench.cluster.read(&bench.topic, 0, "read_uncommitted");
        after[after.len() - 1].offset > seen[seen.len() - 1].offset + 1
    };
    assert!(highwater_testkit::process::wait_until(PATIENCE, gone));
    let late = target.commit(output(1));
    assert!(matches!(late, Err(TargetError::SessionLost(_))), "{late:?}");
    target.open_session().expect("a session opens");
    assert_eq!(markers(&mut *target), []);
    stage(&mut *target, &["a"]);
    target.commit(output(1)).expect("a commit");
    let committed = bench.committed();
    assert_eq!(committed.iter().filter(|value| *value == "a").count(), 1);
}

#[test]
fn output_survives_a_killed_broker_exactly_once() {
    let mut kafka = broker::start(&KafkaOptions::default());
    let bench = Bench::new(Cluster::of(&kafka), "killed");
    let mut target = bench.session(0);
    stage(&mut *target, &["a", "b"]);
    kafka.kill().unwrap();
    kafka.restart().unwrap();
    if let Err(error) = target.commit(output(1)) {
        assert!(!matches!(error, TargetError::Refused(_)), "{error:?}");
        target.open_session().expect("a session opens");
        if markers(&mut *target).is_empty() {
            stage(&mut *target, &["a", "b"]);
            target.commit(output(1)).expect("a commit");
        }
    }
    assert_eq!(bench.committed(), ["a", "b"]);
    let mut next = bench.session(0);
    assert_eq!(markers(&mut *next), [(1, MarkerKind::Output)]);
}

#[test]
fn a_record_that_is_too_large_is_refused_with_the_limit() {
    let bench = Bench::new(Cluster::shared(), "large");
    let mut target = bench.session(0);
    target.begin().unwrap();
    let large = "x".repeat(3 << 20);
    let sent = target.send(&batch(&[&large]));
    let refused = sent.and_then(|()| target.flush()).unwrap_err();
    assert!(matches!(refused, TargetError::Refused(_)), "{refused:?}");
    let cause = std::error::Error::source(&refused)
        .expect("a cause")
        .to_string();
    assert!(
        cause.contains("message.max.bytes") && cause.contains(&bench.topic),
        "{cause}"
    );
}

#[test]
fn an_output_topic_that_is_gone_is_refused_by_name() {
    let bench = Bench::new(Cluster::shared(), "gone");
    let mut target = bench.session(0);
    stage(&mut *target, &["a"]);
    target.commit(output(1)).expect("a commit");
    bench.cluster.delete_topic(&bench.topic);
    let mut rounds = 0;
    let cause = loop {
        rounds += 1;
        assert!(rounds < 5, "a lost session is no end");
        target.open_session().expect("a session opens");
        target.begin().unwrap();
        let sent = target.send(&batch(&["b"]));
        match sent.and_then(|()| target.flush()).unwrap_err() {
            TargetError::Refused(cause) => break cause,
            other => assert!(!matches!(other, TargetError::MarkerLost(_)), "{other:?}"),
        }
    };
    assert_eq!(cause.kind(), ErrorKind::Invalid);
    let message = cause.to_string();
    assert!(
        message.contains(&bench.topic) && message.contains("does not exist any more"),
        "{message}"
    );
}

#[test]
fn an_output_topic_that_was_made_anew_with_fewer_partitions_is_refused_by_name() {
    let bench = Bench::new(Cluster::shared(), "fewer");
    bench.cluster.grow(&bench.topic, 2);
    let mut target = bench.session(0);
    let mut of_the_second = OutputBatch::default();
    let mut record = OutputRecord::of_value(b"a");
    record.partition = Some(1);
    of_the_second.push(&record);
    let mut publish = |number| {
        target.open_session()?;
        target.begin()?;
        target.send(&of_the_second)?;
        target.flush()?;
        target.commit(output(number)).map(drop)
    };
    publish(1).expect("it has two partitions");
    bench.cluster.delete_topic(&bench.topic);
    let made = || bench.cluster.try_topic(&bench.topic, 1);
    assert!(highwater_testkit::process::wait_until(PATIENCE, made));
    let mut rounds = 0;
    let cause = loop {
        rounds += 1;
        assert!(rounds < 5, "a lost session is no end");
        match publish(2).unwrap_err() {
            TargetError::Refused(cause) => break cause,
            other => assert!(!matches!(other, TargetError::MarkerLost(_)), "{other:?}"),
        }
    };
    let message = cause.to_string();
    assert!(
        message.contains(&bench.topic) && message.contains("partition 1 is written to"),
        "{message}"
    );
}

#[test]
fn t22_a_timeout_above_the_brokers_is_refused_with_both_numbers() {
    let cluster = Cluster::shared();
    let topic = unique("limits");
    cluster.topic(&topic, 1);
    let too_long = sink(&cluster, &topic).transaction_timeout(Duration::from_hours(24 * 8));
    let Err(error) = too_long.writer(&context(1, 0)) else {
        panic!("eight days are too long");
    };
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let message = error.to_string();
    assert!(
        message.contains("691200000 ms") && message.contains("604800000 ms"),
        "{message}"
    );
    let target = too_long.target(&context(2, 0)).unwrap();
    let error = target.expect("a target").open_session().unwrap_err();
    assert!(matches!(error, TargetError::Refused(_)), "{error:?}");
}
