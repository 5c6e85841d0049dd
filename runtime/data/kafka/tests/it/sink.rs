//! The sink as a whole: encoder and target together, upserts, and the writer that writes at once.

use highwater_connectors::{
    DirectWriter, Encoder, Marker, MarkerKind, OutputBatch, OutputRecord, Sink, SinkWriter,
    TargetError, ValueFormat,
};
use highwater_kafka::KafkaSink;
use highwater_types::{Chunk, Classified, ErrorKind, EventTime};

use crate::broker::{Cluster, Seen, unique};
use crate::target::context;

/// `key=value`; an empty value deletes the key.
#[expect(clippy::ptr_arg, reason = "formats take the record type as it is")]
fn key(record: &String, out: &mut Vec<u8>) {
    let key = record.split('=').next().unwrap_or_default();
    out.extend_from_slice(key.as_bytes());
}

#[expect(clippy::ptr_arg, reason = "formats take the record type as it is")]
fn value(record: &String, out: &mut Vec<u8>) {
    let value = record.split('=').nth(1).unwrap_or_default();
    out.extend_from_slice(value.as_bytes());
}

type Write = fn(&String, &mut Vec<u8>);

fn upsert(cluster: &Cluster, topic: &str) -> KafkaSink<String, Write, Write> {
    let sink = KafkaSink::new(cluster.connection(), topic, value as Write);
    sink.keyed(key as Write)
        .deleting(|record| record.ends_with('='))
}

fn chunk(records: &[&str]) -> Chunk<String> {
    let mut chunk = Chunk::new();
    for (time, record) in (50..).zip(records) {
        chunk.push((*record).to_owned(), EventTime(time));
    }
    chunk
}

fn transactional<V: ValueFormat<String>, K: ValueFormat<String>>(
    sink: &KafkaSink<String, V, K>,
) -> Box<dyn Encoder<String>> {
    match sink.writer(&context(40, 0)).expect("a writer") {
        SinkWriter::Transactional(encoder) => encoder,
        SinkWriter::Direct(_) => panic!("the sink is exactly-once"),
    }
}

fn direct<V: ValueFormat<String>, K: ValueFormat<String>>(
    sink: &KafkaSink<String, V, K>,
) -> Box<dyn DirectWriter<String>> {
    match sink.writer(&context(41, 0)).expect("a writer") {
        SinkWriter::Direct(writer) => writer,
        SinkWriter::Transactional(_) => panic!("the sink is at-least-once"),
    }
}

fn pair(seen: &Seen) -> (String, String) {
    let key = seen.key.as_deref().unwrap_or(b"(none)");
    (String::from_utf8_lossy(key).into_owned(), seen.text())
}

#[test]
fn upserts_keep_keys_times_and_deletions() {
    let cluster = Cluster::shared();
    let topic = unique("upsert");
    cluster.topic(&topic, 4);
    let sink = upsert(&cluster, &topic);
    let mut encoder = transactional(&sink);
    let mut target = sink.target(&context(40, 0)).unwrap().expect("a target");
    let mut batch = OutputBatch::default();
    encoder
        .encode(&mut chunk(&["a=1", "b=1", "a="]), &mut batch)
        .unwrap();
    target.open_session().unwrap();
    target.begin().unwrap();
    target.send(&batch).unwrap();
    target.flush().unwrap();
    let marker = Marker {
        number: 1,
        kind: MarkerKind::Output,
        epoch: 1,
        attempt: 1,
    };
    target.commit(marker).unwrap();
    let seen = cluster.committed(&topic, 4);
    let of_a: Vec<_> = seen
        .iter()
        .map(pair)
        .filter(|(key, _)| key == "a")
        .collect();
    let expected = [("a", "1"), ("a", "(none)")];
    assert_eq!(
        of_a,
        expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
    let times: Vec<_> = seen.iter().filter_map(|one| one.time).collect();
    assert_eq!(seen.len(), 3);
    assert!(times.contains(&50) && times.contains(&52));
}

#[test]
fn a_direct_writer_has_everything_outside_after_a_flush() {
    let cluster = Cluster::shared();
    let topic = unique("direct");
    cluster.topic(&topic, 2);
    let sink = KafkaSink::new(cluster.connection(), &topic, value as Write).at_least_once();
    let mut writer = direct(&sink);
    for round in 0..3 {
        let records: Vec<_> = (0..1_000).map(|at| format!("k={round}-{at}")).collect();
        let records: Vec<_> = records.iter().map(String::as_str).collect();
        writer.write(&mut chunk(&records)).unwrap();
    }
    writer.flush().unwrap();
    let seen: Vec<_> = (0..2)
        .flat_map(|at| cluster.read(&topic, at, "read_committed"))
        .collect();
    assert_eq!(seen.len(), 3_000);
    let mut values: Vec<_> = seen.iter().map(Seen::text).collect();
    values.sort();
    values.dedup();
    assert_eq!(
        values.len(),
        3_000,
        "nothing is written twice while all is well"
    );
    assert!(sink.target(&context(41, 0)).unwrap().is_none());
}

#[test]
fn a_direct_writer_names_a_record_that_is_too_large() {
    let cluster = Cluster::shared();
    let topic = unique("direct");
    cluster.topic(&topic, 1);
    let sink = KafkaSink::new(cluster.connection(), &topic, value as Write).at_least_once();
    let mut writer = direct(&sink);
    let large = format!("k={}", "x".repeat(3 << 20));
    let failed = writer
        .write(&mut chunk(&[&large]))
        .and_then(|()| writer.flush());
    let message = failed.unwrap_err().to_string();
    assert!(
        message.contains(&topic) && message.contains("message.max.bytes"),
        "{message}"
    );
}

/// Sends what an encoder made, past the encoder of another client: what client and broker say themselves.
fn sent(sink: &KafkaSink<String, Write>, batch: &OutputBatch) -> Result<(), TargetError> {
    let target = sink.target(&context(43, 0)).expect("the sink is whole");
    let mut target = target.expect("a target");
    target.open_session()?;
    target.begin()?;
    target.send(batch)?;
    target.flush()
}

/// A slot without a session sends nothing before its checkpoint is acknowledged: the answer would come too late. What the
/// encoder takes is taken, and what it refuses is refused, to the byte.
#[test]
fn an_encoder_refuses_exactly_what_the_topic_or_the_client_never_takes() {
    let cluster = Cluster::shared();
    let topic = unique("limit");
    cluster.topic(&topic, 1);
    let (plain, raised) = (cluster.connection(), cluster.connection());
    let raised = raised.property("message.max.bytes", "5000000");
    // What the client adds; what a batch and the record in it add to a value of this size.
    let client_max = 1_000_000 - 36;
    let topic_max = 1_048_588 - 72;
    for (connection, max) in [(plain, client_max), (raised, topic_max)] {
        let sink = KafkaSink::new(connection, &topic, value as Write);
        let record = format!("k={}", "x".repeat(max));
        let mut batch = OutputBatch::default();
        let mut encoder = transactional(&sink);
        encoder.encode(&mut chunk(&[&record]), &mut batch).unwrap();
        sent(&sink, &batch).expect("client and broker take it");
        let record = record + "x";
        let refused = encoder.encode(&mut chunk(&[&record]), &mut batch);
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        let text = refused.to_string();
        assert!(text.contains(&topic) && text.contains("max"), "{text}");
        let mut above = OutputBatch::default();
        let bytes = vec![b'x'; max + 1];
        above.push(&OutputRecord::of_value(&bytes));
        let refused = sent(&sink, &above).unwrap_err();
        assert!(matches!(refused, TargetError::Refused(_)), "{refused}");
    }
    let packed = cluster.connection().property("compression.type", "zstd");
    let packed = packed.property("message.max.bytes", "5000000");
    let sink = KafkaSink::new(packed, &topic, value as Write);
    let record = format!("k={}", "x".repeat(1_100_000));
    let mut batch = OutputBatch::default();
    let encoded = transactional(&sink).encode(&mut chunk(&[&record]), &mut batch);
    encoded.expect("only the broker knows");
    sent(&sink, &batch).expect("it is small enough now");
}

#[test]
fn a_sink_that_cannot_work_is_refused_with_the_reason() {
    let cluster = Cluster::shared();
    let refused = |sink: &KafkaSink<String, Write>| match sink.writer(&context(42, 0)) {
        Err(error) => error,
        Ok(_) => panic!("the sink cannot work"),
    };
    let missing = refused(&KafkaSink::new(
        cluster.connection(),
        "no-such-topic",
        value as Write,
    ));
    assert_eq!(missing.kind(), ErrorKind::Invalid);
    assert!(missing.to_string().contains("no-such-topic"), "{missing}");
    let topic = unique("keyless");
    cluster.topic(&topic, 1);
    let keyless = KafkaSink::new(cluster.connection(), &topic, value as Write);
    let keyless = refused(&keyless.deleting(|_| true));
    assert!(
        keyless.to_string().contains("deletions need a key"),
        "{keyless}"
    );
}
