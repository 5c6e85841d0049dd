//! What a broker says for a moment only: brokers of the client library that answer as they are told to.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use highwater_connectors::contract::reader_context;
use highwater_connectors::{
    ConnectorError, DirectWriter, ReaderPoll, Sink, SinkWriter, Source, SourceOutput,
};
use highwater_kafka::{EndPosition, KafkaSink, KafkaSource};
use highwater_types::{Chunk, Classified, ErrorKind, EventTime};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::broker::{Cluster, PATIENCE, unique};
use crate::target::context;

type Mock = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

fn cluster_of(mock: &Mock) -> Cluster {
    Cluster {
        bootstrap: mock.bootstrap_servers(),
    }
}

/// A leader that has just been elected does not know its end yet.
#[test]
fn an_end_that_is_not_available_yet_is_waited_for() {
    let mock = Mock::new(2).expect("a mock cluster");
    let cluster = cluster_of(&mock);
    let topic = unique("elected");
    mock.create_topic(&topic, 1, 2).expect("a topic");
    cluster.write(&topic, 0, &["a", "b"]);
    let unit = |_: &[u8]| Ok(());
    let source = KafkaSource::new(cluster.connection(), &topic, unit).until(EndPosition::Latest);
    mock.request_errors(
        RDKafkaApiKey::ListOffsets,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE; 8],
    );
    let mut enumerator = source.enumerator().expect("an enumerator");
    let error = enumerator.discover().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    mock.clear_request_errors(RDKafkaApiKey::ListOffsets);
    let found = enumerator.discover().expect("the end is known");
    assert_eq!(found.splits.len(), 1);
    assert!(found.splits[0].position.contains(&2), "{:?}", found.splits);
}

/// What a bounded read of `topic` brings whose end was told by `of` and whose records come from `from`.
fn read_up_to(of: &Cluster, from: &Cluster, topic: &str) -> Result<usize, ConnectorError> {
    let unit: fn(&[u8]) -> Result<(), highwater_connectors::DecodeFailure> = |_| Ok(());
    let bounded = |cluster: &Cluster| {
        KafkaSource::new(cluster.connection(), topic, unit).until(EndPosition::Latest)
    };
    let found = bounded(of).enumerator()?.discover()?;
    let mut reader = bounded(from).reader(&reader_context())?;
    reader.add_splits(found.splits)?;
    reader.no_more_splits();
    let mut out = SourceOutput::default();
    let mut read = 0;
    loop {
        let polled = reader.poll(&mut out)?;
        read += out.records.drain().count();
        match polled {
            ReaderPoll::SplitEnded(_) => return Ok(read),
            _ => std::thread::yield_now(),
        }
    }
}

/// The end was told when more was there than the leader knows by now, and it catches up.
#[test]
fn a_leader_that_lags_behind_the_end_is_waited_for() {
    let (all, lagging) = (
        Mock::new(1).expect("a cluster"),
        Mock::new(1).expect("a cluster"),
    );
    let topic = unique("lagging");
    let clusters = [&all, &lagging].map(|mock| {
        mock.create_topic(&topic, 1, 1).expect("a topic");
        cluster_of(mock)
    });
    let [of, from] = clusters;
    of.write(&topic, 0, &["a", "b"]);
    from.write(&topic, 0, &["a"]);
    let (answers, answered) = sync_channel(1);
    let reading = {
        let (from, topic) = (from.clone(), topic.clone());
        std::thread::spawn(move || answers.send(read_up_to(&of, &from, &topic)))
    };
    let early = answered.recv_timeout(Duration::from_millis(1_500));
    assert!(early.is_err(), "it ended before its end: {early:?}");
    from.write(&topic, 0, &["b"]);
    let read = answered.recv_timeout(PATIENCE).expect("it ends");
    assert_eq!(read.expect("it is read"), 2);
    reading.join().expect("no panic").expect("the test waits");
}

type Write = fn(&String, &mut Vec<u8>);

fn bytes(record: &String, out: &mut Vec<u8>) {
    out.extend_from_slice(record.as_bytes());
}

fn writer(sink: &KafkaSink<String, Write>) -> Box<dyn DirectWriter<String>> {
    match sink.writer(&context(50, 0)).expect("a writer") {
        SinkWriter::Direct(writer) => writer,
        SinkWriter::Transactional(_) => panic!("the sink is at-least-once"),
    }
}

/// Runs `act` while the brokers do not know the topic, for its first moments only.
fn unknown_for_a_moment<R: Send + 'static>(
    mock: &Mock,
    topic: &str,
    act: impl FnOnce() -> R + Send + 'static,
) -> R {
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    mock.topic_error(topic, unknown).expect("an error");
    let (answers, answered) = sync_channel(1);
    let acting = std::thread::spawn(move || answers.send(act()));
    let early = answered.recv_timeout(Duration::from_millis(700));
    mock.topic_error(topic, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
        .expect("no error");
    assert!(early.is_err(), "one answer has decided");
    let answer = answered.recv_timeout(PATIENCE).expect("an answer");
    let sent = acting.join().expect("it does not panic");
    sent.expect("the test waits");
    answer
}

#[test]
fn an_output_topic_that_is_unknown_for_a_moment_is_looked_for_again() {
    let mock = Mock::new(1).expect("a mock cluster");
    let cluster = cluster_of(&mock);
    let topic = unique("moment");
    mock.create_topic(&topic, 1, 1).expect("a topic");
    let sink = KafkaSink::new(cluster.connection(), &topic, bytes as Write).at_least_once();
    unknown_for_a_moment(&mock, &topic, move || {
        let mut writer = writer(&sink);
        let mut chunk = Chunk::new();
        chunk.push("a".to_owned(), EventTime(1));
        writer.write(&mut chunk).expect("a record is sent");
        writer.flush().expect("it arrives");
    });
    assert_eq!(cluster.read(&topic, 0, "read_committed").len(), 1);
}
