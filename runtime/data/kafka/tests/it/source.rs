//! The source: what is read, from where, up to where, and what stops it.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};

use highwater_connectors::contract::{
    Planted, bad_input_suite, read_all, reader_context, source_suite,
};
use highwater_connectors::{
    BadInput, BadRecords, ConnectorError, DecodeFailure, Origin, ReaderContext, ReaderPoll, Source,
    SourceFacts, SourceOutput, SourceReader, Split, SplitEnumerator, SplitIndex, WakeHandle,
};
use highwater_kafka::{EndPosition, KafkaSource, StartPosition};
use highwater_testkit::KafkaOptions;
use highwater_testkit::process::wait_until;
use highwater_types::{CheckpointId, Classified, Epoch, ErrorKind, EventTime};
use rdkafka::producer::Producer;

use crate::broker::{self, Cluster, PATIENCE, put, unique};

/// Values are text; those that begin with `!` are no records.
fn text(payload: &[u8]) -> Result<String, DecodeFailure> {
    match payload {
        [b'!', ..] => Err(DecodeFailure::new("it begins with `!`")),
        _ => Ok(String::from_utf8_lossy(payload).into_owned()),
    }
}

type Text = fn(&[u8]) -> Result<String, DecodeFailure>;

fn source(cluster: &Cluster, topic: &str) -> KafkaSource<String, Text> {
    KafkaSource::new(cluster.connection(), topic, text as Text)
}

/// A source whose readers wait where others would return `Nothing`.
struct Waiting<S>(S);

struct WaitingReader<T> {
    inner: Box<dyn SourceReader<T>>,
    woken: Receiver<()>,
    /// Splits that have not ended: without one there is nothing to wait for.
    open: usize,
}

impl<S: Source> Source for Waiting<S> {
    type Record = S::Record;

    fn bad_input(&self) -> BadInput {
        self.0.bad_input()
    }

    fn facts(&self) -> SourceFacts {
        self.0.facts()
    }

    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError> {
        self.0.enumerator()
    }

    fn reader(
        &self,
        context: &ReaderContext,
    ) -> Result<Box<dyn SourceReader<S::Record>>, ConnectorError> {
        let (wakes, woken) = sync_channel(1);
        // A wake that finds an older one pending has done its work.
        let wake = WakeHandle::new(move || {
            wakes.try_send(()).ok();
        });
        let context = ReaderContext {
            wake,
            ..context.clone()
        };
        let inner = self.0.reader(&context)?;
        Ok(Box::new(WaitingReader {
            inner,
            woken,
            open: 0,
        }))
    }
}

impl<T> SourceReader<T> for WaitingReader<T> {
    fn is_behind(&self, split: SplitIndex) -> bool {
        self.inner.is_behind(split)
    }

    fn add_splits(&mut self, splits: Vec<Split>) -> Result<(), ConnectorError> {
        self.open += splits.len();
        self.inner.add_splits(splits)
    }

    fn no_more_splits(&mut self) {
        self.inner.no_more_splits();
    }

    fn poll(&mut self, out: &mut SourceOutput<T>) -> Result<ReaderPoll, ConnectorError> {
        loop {
            let polled = self.inner.poll(out)?;
            match polled {
                ReaderPoll::Nothing if self.open > 0 => {
                    let woken = self.woken.recv_timeout(PATIENCE);
                    woken.expect("a reader that has data wakes its thread");
                }
                ReaderPoll::SplitEnded(_) => {
                    self.open -= 1;
                    return Ok(polled);
                }
                _ => return Ok(polled),
            }
        }
    }

    fn held(&self) -> usize {
        self.inner.held()
    }

    fn origin(&self, at: usize) -> Result<Origin, ConnectorError> {
        self.inner.origin(at)
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        self.inner.snapshot()
    }

    fn checkpoint_completed(&mut self, id: CheckpointId) -> Result<(), ConnectorError> {
        self.inner.checkpoint_completed(id)
    }
}

fn values(source: KafkaSource<String, Text>) -> Vec<String> {
    let read = read_all(&Waiting(source));
    read.into_iter().map(|(value, _)| value).collect()
}

/// A reader on all splits that the enumerator finds.
fn reading(source: KafkaSource<String, Text>) -> Box<dyn SourceReader<String>> {
    let splits = source
        .enumerator()
        .expect("an enumerator")
        .discover()
        .expect("splits")
        .splits;
    let mut reader = Waiting(source).reader(&reader_context()).expect("a reader");
    reader.add_splits(splits).expect("splits are taken");
    reader
}

/// Polls until `count` records have come.
fn take(reader: &mut dyn SourceReader<String>, count: usize) -> Vec<(String, EventTime)> {
    let mut out = SourceOutput::default();
    let mut taken = Vec::new();
    while taken.len() < count {
        reader.poll(&mut out).expect("a poll succeeds");
        taken.extend(out.records.drain().map(|(value, time, _)| (value, time)));
    }
    taken
}

#[test]
fn a_bounded_topic_keeps_the_source_contract() {
    let cluster = Cluster::shared();
    let topic = unique("contract");
    cluster.topic(&topic, 3);
    let producer = cluster.producer();
    for partition in 0..2 {
        let texts: Vec<_> = (0..3_000).map(|at| format!("{partition}-{at}")).collect();
        let mut texts: Vec<_> = texts.iter().map(String::as_str).collect();
        texts[1_500] = "!bad";
        put(&producer, &topic, partition, &texts);
    }
    source_suite(|| {
        let source = source(&cluster, &topic).until(EndPosition::Latest);
        Waiting(source.bad_records(BadRecords::DeadLetter))
    });
}

#[test]
fn records_carry_their_kafka_timestamp() {
    let cluster = Cluster::shared();
    let topic = unique("times");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["a", "b"]);
    let read = read_all(&Waiting(
        source(&cluster, &topic).until(EndPosition::Latest),
    ));
    let expected = [
        ("a".to_owned(), EventTime(1_000)),
        ("b".to_owned(), EventTime(1_001)),
    ];
    assert_eq!(read, expected);
}

#[test]
fn aborted_records_are_skipped_and_an_open_transaction_ends_a_bounded_read() {
    let cluster = Cluster::shared();
    let topic = unique("committed");
    cluster.topic(&topic, 1);
    let producer = cluster.transactional(&unique("writer"));
    for (value, commit) in [("kept 1", true), ("aborted", false), ("kept 2", true)] {
        producer.begin_transaction().expect("a transaction");
        put(&producer, &topic, 0, &[value]);
        let ended = if commit {
            producer.commit_transaction(PATIENCE)
        } else {
            producer.abort_transaction(PATIENCE)
        };
        ended.expect("the transaction ends");
    }
    producer.begin_transaction().expect("a transaction");
    put(&producer, &topic, 0, &["open"]);
    cluster.write(&topic, 0, &["behind the open one"]);
    let read = values(source(&cluster, &topic).until(EndPosition::Latest));
    assert_eq!(read, ["kept 1", "kept 2"]);
    producer
        .abort_transaction(PATIENCE)
        .expect("the transaction ends");
}

/// The end is fixed with the start, once in a lineage: what is written later is not read, however often the job restarts.
#[test]
fn the_end_of_a_bounded_source_does_not_move_with_a_restart() {
    let cluster = Cluster::shared();
    let topic = unique("fixed-end");
    cluster.topic(&topic, 1);
    let records: Vec<_> = (0..3_000).map(|at| format!("{at}")).collect();
    let records: Vec<_> = records.iter().map(String::as_str).collect();
    cluster.write(&topic, 0, &records);
    let source = source(&cluster, &topic).until(EndPosition::Latest);
    let mut enumerator = source.enumerator().unwrap();
    let splits = enumerator.discover().unwrap().splits;
    let state = enumerator.snapshot();
    cluster.write(&topic, 0, &["later"]);
    let source = Waiting(source);
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let mut read = take(&mut *reader, 1).len();
    let splits = reader.snapshot().unwrap();
    cluster.write(&topic, 0, &["later still"]);
    let mut restored = source.enumerator().unwrap();
    restored.restore(&state).unwrap();
    let found = restored.discover().unwrap();
    assert_eq!((found.splits, found.complete), (Vec::new(), true));
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let mut out = SourceOutput::default();
    while !matches!(reader.poll(&mut out).unwrap(), ReaderPoll::SplitEnded(_)) {
        read += out.records.drain().count();
    }
    assert_eq!(read, 3_000);
}

/// Schedule 34 of the sink protocol: the last offsets hold control records, which no reader ever sees.
#[test]
fn a_partition_that_ends_in_control_records_is_read_to_its_end() {
    let cluster = Cluster::shared();
    let topic = unique("control");
    cluster.topic(&topic, 1);
    let producer = cluster.transactional(&unique("writer"));
    producer.begin_transaction().expect("a transaction");
    put(&producer, &topic, 0, &["only"]);
    producer
        .commit_transaction(PATIENCE)
        .expect("the transaction ends");
    producer.begin_transaction().expect("a transaction");
    put(&producer, &topic, 0, &["aborted"]);
    producer
        .abort_transaction(PATIENCE)
        .expect("the transaction ends");
    assert_eq!(cluster.committed(&topic, 1).len(), 1);
    assert_eq!(
        values(source(&cluster, &topic).until(EndPosition::Latest)),
        ["only"]
    );
}

#[test]
fn start_and_end_are_found_by_offset_and_by_time() {
    let cluster = Cluster::shared();
    let topic = unique("positions");
    cluster.topic(&topic, 2);
    cluster.write(&topic, 0, &["a0", "a1", "a2", "a3"]);
    cluster.write(&topic, 1, &["b0"]);
    let between = |start, end| values(source(&cluster, &topic).start(start).until(end));
    let offsets = |first, second| BTreeMap::from([(0, first), (1, second)]);
    assert_eq!(
        between(
            StartPosition::Offsets(offsets(1, 1)),
            EndPosition::Offsets(offsets(3, 1))
        ),
        ["a1", "a2"]
    );
    assert_eq!(
        between(
            StartPosition::Timestamp(1_001),
            EndPosition::Timestamp(1_003)
        ),
        ["a1", "a2"]
    );
    assert_eq!(between(StartPosition::Latest, EndPosition::Latest), [""; 0]);
    assert_eq!(
        between(StartPosition::Earliest, EndPosition::Latest).len(),
        5
    );
}

/// A split whose records still lie in the topic must never be taken for idle: event time would pass them.
#[test]
fn t08_a_split_is_behind_until_everything_that_is_committed_has_been_read() {
    let cluster = Cluster::shared();
    let topic = unique("behind");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["a", "b"]);
    let source = source(&cluster, &topic);
    let found = source.enumerator().unwrap().discover().unwrap();
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(found.splits).unwrap();
    let split = SplitIndex(0);
    assert!(reader.is_behind(split), "nobody has looked yet");
    take(reader.as_mut(), 2);
    wait_until(PATIENCE, || {
        let polled = reader.poll(&mut SourceOutput::default());
        assert_eq!(polled.unwrap(), ReaderPoll::Nothing);
        !reader.is_behind(split)
    });
    assert!(!reader.is_behind(split), "the end was reached");
    cluster.write(&topic, 0, &["c"]);
    take(reader.as_mut(), 1);
    assert!(
        reader.is_behind(split),
        "whether more waits is not known yet"
    );
}

#[test]
fn positions_that_are_not_there_are_refused_by_number() {
    let cluster = Cluster::shared();
    let topic = unique("refused");
    cluster.topic(&topic, 2);
    cluster.write(&topic, 0, &["a0", "a1"]);
    let offsets = |pairs: &[(i32, i64)]| StartPosition::Offsets(pairs.iter().copied().collect());
    for (start, part) in [
        (offsets(&[(0, 3), (1, 0)]), "start offset 3 of partition 0"),
        (offsets(&[(0, 0)]), "leave partition 1 out"),
        (offsets(&[(0, 0), (1, 0), (2, 0)]), "name partition 2"),
    ] {
        let source = source(&cluster, &topic).start(start);
        let error = source.enumerator().unwrap().discover().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn t24_new_partitions_are_read_from_their_first_record_and_reported_once() {
    let cluster = Cluster::shared();
    let topic = unique("grown");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["old"]);
    let source = source(&cluster, &topic).start(StartPosition::Latest);
    let mut first = source.enumerator().unwrap();
    let found = first.discover().unwrap();
    assert_eq!((found.splits.len(), found.complete), (1, false));
    let state = first.snapshot();
    cluster.grow(&topic, 2);
    cluster.write(&topic, 1, &["new"]);
    let mut restored = source.enumerator().unwrap();
    restored.restore(&state).unwrap();
    let grown = (0..50)
        .map(|_| restored.discover().unwrap().splits)
        .find(|splits| !splits.is_empty());
    let grown = grown.expect("the new partition is found");
    assert_eq!(grown[0].id, format!("{topic}/1"));
    assert_eq!(restored.discover().unwrap().splits, []);
    let mut reader = Waiting(source).reader(&reader_context()).unwrap();
    reader.add_splits(grown).unwrap();
    assert_eq!(take(&mut *reader, 1)[0].0, "new");
}

#[test]
fn a_source_that_gets_or_loses_its_end_is_refused_by_name_when_it_is_restored() {
    let cluster = Cluster::shared();
    let topic = unique("ended");
    cluster.topic(&topic, 1);
    let endless = || source(&cluster, &topic);
    let bounded = || endless().until(EndPosition::Latest);
    for (wrote, same, other) in [
        (endless(), endless(), bounded()),
        (bounded(), bounded(), endless()),
    ] {
        let mut first = wrote.enumerator().unwrap();
        first.discover().unwrap();
        let state = first.snapshot();
        same.enumerator().unwrap().restore(&state).unwrap();
        let error = other.enumerator().unwrap().restore(&state).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("new uid"), "{error}");
    }
}

#[test]
fn a_topic_that_shrank_is_a_lost_position() {
    let cluster = Cluster::shared();
    let topic = unique("shrunk");
    cluster.topic(&topic, 2);
    let mut enumerator = source(&cluster, &topic).enumerator().unwrap();
    enumerator.discover().unwrap();
    let state = enumerator.snapshot();
    cluster.delete_topic(&topic);
    let other = unique("shrunk");
    cluster.topic(&other, 1);
    let mut enumerator = source(&cluster, &other).enumerator().unwrap();
    enumerator.restore(&state).unwrap();
    let error = enumerator.discover().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn t25_the_group_learns_of_positions_only_after_a_completed_checkpoint() {
    let cluster = Cluster::shared();
    let (topic, group) = (unique("group"), unique("watchers"));
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["a", "b", "c"]);
    let mut reader = reading(source(&cluster, &topic).group(&group));
    take(&mut *reader, 3);
    reader.snapshot().unwrap();
    assert_eq!(cluster.group(&group, &topic, 1), BTreeMap::new());
    let id = CheckpointId {
        number: 1,
        epoch: Epoch(1),
    };
    reader.checkpoint_completed(id).unwrap();
    let told = || cluster.group(&group, &topic, 1) == BTreeMap::from([(0, 3)]);
    assert!(wait_until(PATIENCE, told));
}

/// HB-73: a job that ends right behind its last checkpoint has told the group, also while more was being fetched.
#[test]
fn t25_the_last_completed_checkpoint_reaches_the_group_though_the_reader_ends_at_once() {
    let cluster = Cluster::shared();
    let (topic, group) = (unique("last"), unique("watchers"));
    cluster.topic(&topic, 1);
    let many: Vec<_> = (0..50_000).map(|at| at.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    cluster.write(&topic, 0, &many);
    let source = source(&cluster, &topic).group(&group);
    let mut reader = reading(source);
    let taken = take(reader.as_mut(), 1).len() as i64;
    reader.snapshot().unwrap();
    let id = CheckpointId {
        number: 1,
        epoch: Epoch(1),
    };
    reader.checkpoint_completed(id).unwrap();
    drop(reader);
    assert_eq!(
        cluster.group(&group, &topic, 1),
        BTreeMap::from([(0, taken)])
    );
}

#[test]
fn x28_a_position_that_retention_has_passed_stops_by_name() {
    let cluster = Cluster::shared();
    let topic = unique("cut");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["a", "b", "c", "d"]);
    let source = source(&cluster, &topic);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    let mut enumerator = source.enumerator().unwrap();
    enumerator.check(&splits).unwrap();
    cluster.cut(&topic, 3);
    let checked = enumerator.check(&splits).unwrap_err();
    let mut reader = Waiting(source).reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let read = reader.poll(&mut SourceOutput::default()).unwrap_err();
    for error in [checked, read] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let message = error.to_string();
        for part in [&*topic, "partition 0", "position 0", "3..4"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn bad_records_and_records_without_value_follow_the_policy() {
    let cluster = Cluster::shared();
    let topic = unique("bad");
    cluster.topic(&topic, 1);
    let producer = cluster.producer();
    put(&producer, &topic, 0, &["good", "!bad"]);
    let empty: rdkafka::producer::BaseRecord<'_, str, str> =
        rdkafka::producer::BaseRecord::to(&topic)
            .partition(0)
            .key("k");
    producer.send(empty).map_err(|(error, _)| error).unwrap();
    put(&producer, &topic, 0, &["last"]);
    let bounded = |policy| {
        let source = source(&cluster, &topic)
            .until(EndPosition::Latest)
            .bad_records(policy);
        reading(source)
    };
    let error = {
        let mut reader = bounded(BadRecords::Fail);
        reader.poll(&mut SourceOutput::default()).unwrap_err()
    };
    let message = error.to_string();
    assert!(
        message.contains(&format!("{topic}/0")) && message.contains("at 1"),
        "{message}"
    );
    assert!(message.contains("`!bad`"), "{message}");

    let mut out = SourceOutput::default();
    let mut reader = bounded(BadRecords::DeadLetter);
    while !matches!(
        reader.poll(&mut out).unwrap(),
        ReaderPoll::SplitEnded(SplitIndex(0))
    ) {}
    assert_eq!(out.records.records(), ["good", "last"]);
    let letters: Vec<_> = out
        .dead_letters
        .records()
        .iter()
        .map(|letter| letter.position)
        .collect();
    assert_eq!(letters, [1, 2]);

    let mut out = SourceOutput::default();
    let mut reader = bounded(BadRecords::Drop);
    while !matches!(
        reader.poll(&mut out).unwrap(),
        ReaderPoll::SplitEnded(SplitIndex(0))
    ) {}
    assert_eq!((out.records.len(), out.dropped), (2, 2));
}

#[test]
fn a_source_that_cannot_work_is_refused_with_the_reason() {
    let cluster = Cluster::shared();
    let discover = |source: KafkaSource<String, Text>| -> ConnectorError {
        let found = source
            .enumerator()
            .and_then(|mut enumerator| enumerator.discover());
        found.expect_err("the source cannot work")
    };
    let missing = discover(source(&cluster, "no-such-topic"));
    assert_eq!(missing.kind(), ErrorKind::Invalid);
    assert!(
        missing
            .to_string()
            .contains("kafka topic no-such-topic: it does not exist"),
        "{missing}"
    );

    let with = |name: &str, value: &str| {
        let connection = cluster.connection().property(name, value);
        discover(KafkaSource::new(connection, "t", text as Text))
    };
    let unknown = with("fetch.max.bites", "1");
    assert_eq!(unknown.kind(), ErrorKind::Invalid);
    assert!(
        unknown.to_string().contains("`fetch.max.bites`"),
        "{unknown}"
    );
    let bad_value = with("fetch.max.bytes", "s3cr3t");
    assert_eq!(bad_value.kind(), ErrorKind::Invalid);
    assert!(!bad_value.to_string().contains("s3cr3t"), "{bad_value}");
    let reserved = with("isolation.level", "read_uncommitted");
    assert!(
        reserved.to_string().contains("committed records only"),
        "{reserved}"
    );
}

#[test]
fn an_address_where_nobody_listens_is_named_with_the_reason() {
    let port = highwater_testkit::port::free().unwrap();
    let nobody = Cluster {
        bootstrap: format!("127.0.0.1:{port}"),
    };
    let mut enumerator = source(&nobody, "t").enumerator().unwrap();
    let error = enumerator.discover().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[test]
fn reading_goes_on_after_the_broker_was_killed_and_came_back() {
    let mut kafka = broker::start(&KafkaOptions::default());
    let cluster = Cluster::of(&kafka);
    let topic = unique("killed");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["before"]);
    let mut reader = reading(source(&cluster, &topic));
    assert_eq!(take(&mut *reader, 1)[0].0, "before");
    kafka.kill().unwrap();
    kafka.restart().unwrap();
    cluster.write(&topic, 0, &["after"]);
    assert_eq!(take(&mut *reader, 1)[0].0, "after");
}

#[test]
fn a_reader_that_is_dropped_ends_its_thread_also_under_backpressure() {
    let cluster = Cluster::shared();
    let topic = unique("dropped");
    cluster.topic(&topic, 1);
    let texts: Vec<_> = (0..60_000).map(|at| format!("{at}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    put(&cluster.producer(), &topic, 0, &texts);
    let (done, ended) = sync_channel(1);
    let dropping = std::thread::spawn(move || {
        // The reader is made here: it belongs to one thread.
        let mut reader = reading(source(&cluster, &topic));
        take(&mut *reader, 1);
        drop(reader);
        done.send(()).expect("the test waits");
    });
    ended.recv_timeout(PATIENCE).expect("the drop returns");
    dropping.join().expect("the drop does not panic");
}

#[test]
fn a_topic_that_is_deleted_while_it_is_read_stops_the_reader() {
    let cluster = Cluster::shared();
    let topic = unique("deleted");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["a"]);
    let mut reader = reading(source(&cluster, &topic));
    take(&mut *reader, 1);
    cluster.delete_topic(&topic);
    let error = reader.poll(&mut SourceOutput::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&topic), "{error}");
}

/// The old topic's splits behind three records, and a topic of the same name that holds `values`.
fn made_again(values: &[&str]) -> (Cluster, String, Vec<Split>) {
    let cluster = Cluster::shared();
    let topic = unique("again");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["a", "b", "c"]);
    let mut reader = reading(source(&cluster, &topic));
    take(&mut *reader, 3);
    let splits = reader.snapshot().expect("a snapshot");
    drop(reader);
    cluster.delete_topic(&topic);
    let gone = || cluster.try_topic(&topic, 1);
    assert!(wait_until(PATIENCE, gone));
    cluster.write(&topic, 0, values);
    (cluster, topic, splits)
}

fn restored(cluster: &Cluster, topic: &str, splits: Vec<Split>) -> Box<dyn SourceReader<String>> {
    let source = Waiting(source(cluster, topic));
    let mut reader = source.reader(&reader_context()).expect("a reader");
    reader.add_splits(splits).expect("splits are taken");
    reader
}

#[test]
fn x29_a_topic_that_was_made_again_and_is_shorter_has_lost_the_position() {
    let (cluster, topic, splits) = made_again(&["x"]);
    let mut reader = restored(&cluster, &topic, splits);
    let error = reader.poll(&mut SourceOutput::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let message = error.to_string();
    assert!(
        message.contains("position 3") && message.contains("0..1"),
        "{message}"
    );
}

#[test]
fn x29_a_topic_that_was_made_again_and_is_longer_is_noticed_by_its_records() {
    let (cluster, topic, splits) = made_again(&["v", "w", "x", "y", "z"]);
    let mut reader = restored(&cluster, &topic, splits);
    let mut out = SourceOutput::default();
    let error = loop {
        if let Err(error) = reader.poll(&mut out) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let message = error.to_string();
    assert!(
        message.contains(&topic) && message.contains("deleted and made anew"),
        "{message}"
    );
}

/// What was read last may be gone by retention or compaction; then the rest is read on.
#[test]
fn x28_a_position_whose_last_record_is_gone_by_retention_is_still_good() {
    let cluster = Cluster::shared();
    let topic = unique("cut-behind");
    cluster.topic(&topic, 1);
    cluster.allow_deletion(&topic);
    cluster.write(&topic, 0, &["a", "b", "c"]);
    let mut reader = reading(source(&cluster, &topic));
    take(&mut *reader, 3);
    let splits = reader.snapshot().unwrap();
    drop(reader);
    cluster.write(&topic, 0, &["d"]);
    cluster.cut(&topic, 3);
    let mut reader = restored(&cluster, &topic, splits);
    assert_eq!(take(&mut *reader, 1)[0].0, "d");
}

#[test]
fn bad_values_keep_the_law_of_bad_input() {
    let cluster = Cluster::shared();
    let topic = unique("law");
    cluster.topic(&topic, 1);
    let producer = cluster.producer();
    put(&producer, &topic, 0, &["good", "!bad", "future"]);
    let empty: rdkafka::producer::BaseRecord<'_, str, str> =
        rdkafka::producer::BaseRecord::to(&topic)
            .partition(0)
            .key("k");
    producer.send(empty).map_err(|(error, _)| error).unwrap();
    put(&producer, &topic, 0, &["longer than twenty bytes", "last"]);
    let source = |policy| {
        let source = source(&cluster, &topic).until(EndPosition::Latest);
        Waiting(source.bad_records(policy).record_bytes_max(20))
    };
    let planted = [
        Planted::Good("good".to_owned()),
        Planted::Bad(b"!bad".to_vec(), "it begins with `!`"),
        Planted::Future(b"future".to_vec()),
        Planted::Bad(Vec::new(), "the record has no value"),
        Planted::Bad(
            b"longer than twenty bytes".to_vec(),
            "24 bytes, more than the 20",
        ),
        Planted::Good("last".to_owned()),
    ];
    let time_of = |text: &String| EventTime(if text == "future" { 1_001 } else { 1_000 });
    bad_input_suite(source, &planted, (time_of, EventTime(1_000)));
}

/// Schedule 22 of the sink protocol: a watermark that passes such a partition makes all its records late.
#[test]
fn t08_a_partition_behind_an_open_transaction_is_held_and_not_idle() {
    let cluster = Cluster::shared();
    let topic = unique("held");
    cluster.topic(&topic, 1);
    cluster.write(&topic, 0, &["before"]);
    let source = source(&cluster, &topic);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let mut polled_until = |held: usize| {
        let mut out = SourceOutput::<String>::default();
        let reached = || {
            reader.poll(&mut out).expect("a poll succeeds");
            let is_behind = reader.is_behind(SplitIndex(0));
            reader.held() == held && is_behind == (held > 0)
        };
        wait_until(PATIENCE, reached)
    };
    let producer = cluster.transactional(&unique("writer"));
    producer.begin_transaction().expect("a transaction");
    put(&producer, &topic, 0, &["open"]);
    assert!(polled_until(1), "the partition is held");
    producer
        .commit_transaction(PATIENCE)
        .expect("the transaction ends");
    assert!(polled_until(0), "it is not held any more");
}
