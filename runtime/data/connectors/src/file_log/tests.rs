//! Tests of the file log on real files: the contract, growth, torn lines, end marker, bad records, lost positions.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use highwater_types::{Classified, ErrorKind, EventTime};
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::contract::{Planted, bad_input_suite, read_all, reader_context, source_suite};
use crate::format::DecodeFailure;
use crate::source::{ReaderPoll, SourceOutput, Split, SplitIndex, WakeHandle};

const TOPIC: &str = "payments";

fn text(payload: &[u8]) -> Result<String, DecodeFailure> {
    if payload.starts_with(b"bad") {
        return Err(DecodeFailure::new("it starts with bad"));
    }
    String::from_utf8(payload.to_vec()).map_err(|_| DecodeFailure::new("not UTF-8"))
}

type Text = FileLogSource<String, fn(&[u8]) -> Result<String, DecodeFailure>>;

fn bounded(root: &TempDir) -> Text {
    FileLogSource::bounded(root.path(), TOPIC, text)
}

fn written(partitions: u32, lines: u32) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut writer = FileLogWriter::open(root.path(), TOPIC, partitions).unwrap();
    for line in 0..lines {
        let payload = format!("line {line} {}", "x".repeat((line % 300) as usize));
        writer
            .append(line % partitions, payload.as_bytes())
            .unwrap();
    }
    writer.sync().unwrap();
    root
}

fn append(root: &TempDir, partition: u32, bytes: &[u8]) {
    let path = root.path().join(TOPIC).join(format!("{partition}.jsonl"));
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
}

fn texts(source: &Text) -> Vec<String> {
    read_all(source).into_iter().map(|(text, _)| text).collect()
}

#[test]
fn bounded_logs_keep_the_source_contract() {
    for (partitions, lines) in [(1, 0), (1, 3), (3, 9_000), (4, 2)] {
        let root = written(partitions, lines);
        source_suite(|| bounded(&root));
    }
}

#[test]
fn logs_with_an_end_marker_keep_the_source_contract_with_bad_and_torn_lines() {
    let root = written(2, 3_000);
    append(&root, 0, b"bad one\ngood\n\xff\n");
    append(&root, 1, b"torn at the end");
    fs::write(root.path().join(TOPIC).join("_end"), "").unwrap();
    source_suite(|| {
        let clock = Arc::new(ManualClock::new());
        let source: Text = FileLogSource::until_end_marker(root.path(), TOPIC, text, clock);
        source.bad_records(BadRecords::DeadLetter)
    });
}

#[test]
fn bad_lines_keep_the_law_of_bad_input() {
    let root = written(0, 0);
    append(
        &root,
        0,
        b"good\n\xff\xfe\nfuture\n\nlonger than twenty bytes\nlast\n",
    );
    let source = |policy| {
        bounded(&root)
            .bad_records(policy)
            .record_bytes_max(20)
            .future_limit(Duration::from_secs(1))
    };
    let planted = [
        Planted::Good("good".to_owned()),
        Planted::Bad(b"\xff\xfe".to_vec(), "not UTF-8"),
        Planted::Future(b"future".to_vec()),
        Planted::Good(String::new()),
        Planted::Bad(
            b"longer than twenty bytes".to_vec(),
            "24 bytes, more than the 20",
        ),
        Planted::Good("last".to_owned()),
    ];
    let time_of = |text: &String| EventTime(if text == "future" { 1_001 } else { 1_000 });
    bad_input_suite(source, &planted, (time_of, EventTime(1_000)));
}

#[test]
fn what_was_read_and_what_is_left_is_told_in_bytes() {
    let root = written(0, 0);
    append(&root, 0, b"one\nthree\n");
    let source = bounded(&root);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let figures = reader.figures();
    assert_eq!((figures.read_bytes, figures.pending_bytes), (0, Some(10)));
    assert_eq!(
        figures.pending_records, None,
        "nobody has counted the lines"
    );
    // Behind the end that the source is read to.
    append(&root, 0, b"later\n");
    reader.poll(&mut SourceOutput::default()).unwrap();
    let figures = reader.figures();
    assert_eq!((figures.read_bytes, figures.pending_bytes), (10, Some(0)));
}

fn read_whole(source: &Text, splits: Vec<Split>) -> (Vec<String>, Vec<String>) {
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    reader.no_more_splits();
    let mut out = SourceOutput::default();
    while reader.poll(&mut out).unwrap() != ReaderPoll::EndOfInput {}
    let refused = out.dead_letters.drain().map(|(letter, ..)| letter.reason);
    let refused = refused.collect();
    (
        out.records.drain().map(|(text, ..)| text).collect(),
        refused,
    )
}

#[test]
fn the_last_line_of_a_whole_log_needs_no_newline() {
    let root = written(1, 0);
    append(&root, 0, b"first\nlast");
    let source = bounded(&root);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    let (records, refused) = read_whole(&source, splits);
    assert_eq!(records, ["first", "last"]);
    assert_eq!(refused, [""; 0]);
}

#[test]
fn a_last_line_that_was_still_being_written_is_no_record() {
    let root = written(1, 0);
    append(&root, 0, b"first\nto");
    let source = bounded(&root).bad_records(BadRecords::DeadLetter);
    let splits = source.enumerator().unwrap().discover().unwrap().splits;
    append(&root, 0, b"rn\n");
    let (records, refused) = read_whole(&source, splits);
    assert_eq!(records, ["first"]);
    assert!(refused[0].contains("still being written"), "{refused:?}");
}

#[test]
fn a_whole_log_has_partitions_and_no_strangers() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(TOPIC)).unwrap();
    let refused = |root: &TempDir| {
        let source = bounded(root);
        let found = source.enumerator().unwrap().discover();
        let error = found.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    let message = refused(&root);
    assert!(
        message.contains("is empty; its partitions are files `0.jsonl`"),
        "{message}"
    );
    fs::write(root.path().join(TOPIC).join("0.jsonl"), "a\n").unwrap();
    fs::write(root.path().join(TOPIC).join("part-1.jsonl"), "b\n").unwrap();
    let message = refused(&root);
    assert!(
        message.contains("holds `part-1.jsonl`, which is no partition"),
        "{message}"
    );
}

#[test]
fn a_bounded_log_ends_where_it_ended_when_the_job_first_started() {
    let root = written(1, 2);
    let source = bounded(&root);
    let mut enumerator = source.enumerator().unwrap();
    let splits = enumerator.discover().unwrap().splits;
    append(&root, 0, b"later\n");
    append(&root, 1, b"another partition\n");
    let mut reader = source.reader(&reader_context()).unwrap();
    reader.add_splits(splits).unwrap();
    let mut out = SourceOutput::default();
    assert_eq!(
        reader.poll(&mut out).unwrap(),
        ReaderPoll::Records(SplitIndex(0))
    );
    assert_eq!(
        reader.poll(&mut out).unwrap(),
        ReaderPoll::SplitEnded(SplitIndex(0))
    );
    assert_eq!(out.records.len(), 2);
    let mut restored = source.enumerator().unwrap();
    restored.restore(&enumerator.snapshot()).unwrap();
    assert!(restored.discover().unwrap().splits.is_empty());
}

#[test]
fn a_log_that_ends_in_another_way_is_refused_by_name_when_it_is_restored() {
    let root = written(1, 1);
    let clock = Arc::new(ManualClock::default());
    let sources = || {
        [
            bounded(&root),
            until_marker(root.path(), Arc::clone(&clock) as Arc<dyn Clock>),
            continuous(root.path(), Arc::clone(&clock) as Arc<dyn Clock>),
        ]
    };
    for (wrote, written_by) in sources().iter().enumerate() {
        let mut enumerator = written_by.enumerator().unwrap();
        enumerator.discover().unwrap();
        let state = enumerator.snapshot();
        for (reads, source) in sources().iter().enumerate() {
            let mut restored = source.enumerator().unwrap();
            let old = state[..state.len() - 1].to_vec();
            assert!(restored.restore(&old).is_ok(), "older states do not say it");
            let mut restored = source.enumerator().unwrap();
            match restored.restore(&state) {
                Ok(()) => assert_eq!(reads, wrote),
                Err(error) => {
                    assert_ne!(reads, wrote, "{error}");
                    assert_eq!(error.kind(), ErrorKind::Invalid);
                    assert!(error.to_string().contains("new uid"), "{error}");
                }
            }
        }
    }
}

#[test]
fn policies_fail_keep_or_drop_bad_records() {
    let root = written(1, 1);
    append(&root, 0, b"bad apple\ngood\n");
    let at = fs::read(root.path().join(TOPIC).join("0.jsonl")).unwrap();
    let at = at.windows(3).position(|window| window == b"bad").unwrap() as u64;
    let splits = bounded(&root)
        .enumerator()
        .unwrap()
        .discover()
        .unwrap()
        .splits;
    let poll = |policy| {
        let source = bounded(&root).bad_records(policy);
        let mut reader = source.reader(&reader_context()).unwrap();
        reader.add_splits(splits.clone()).unwrap();
        let mut out = SourceOutput::default();
        reader.poll(&mut out).map(|_| out)
    };
    let failed = poll(BadRecords::Fail).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Invalid);
    let expected = format!(
        "payments/0: record at {at} is refused: it starts with bad; the record starts with `bad apple`; mend it"
    );
    let message = failed.to_string();
    assert!(message.starts_with(&expected), "{message}");

    let letters = poll(BadRecords::DeadLetter).unwrap();
    assert_eq!(letters.records.len(), 2);
    let letter = &letters.dead_letters.records()[0];
    assert_eq!((letter.position, &*letter.payload), (at, &b"bad apple"[..]));
    assert_eq!(
        (&*letter.split, &*letter.reason),
        ("payments/0", "it starts with bad")
    );

    let dropped = poll(BadRecords::Drop).unwrap();
    assert_eq!((dropped.records.len(), dropped.dropped), (2, 1));
    assert!(dropped.dead_letters.is_empty());
}

/// A reader of a followed log with the clock that it waits on.
struct Following {
    source: Text,
    clock: Arc<ManualClock>,
    wakes: Arc<AtomicU32>,
    reader: Box<dyn SourceReader<String>>,
    out: SourceOutput<String>,
}

impl Following {
    fn new(root: &TempDir, describe: fn(&Path, Arc<dyn Clock>) -> Text) -> Self {
        let clock = Arc::new(ManualClock::new());
        let seam: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let source = describe(root.path(), seam);
        let wakes = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&wakes);
        let mut context = reader_context();
        context.wake = WakeHandle::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        Self {
            reader: source.reader(&context).unwrap(),
            source,
            clock,
            wakes,
            out: SourceOutput::default(),
        }
    }

    fn add(&mut self, splits: Vec<Split>) {
        self.reader.add_splits(splits).unwrap();
    }

    fn poll(&mut self) -> ReaderPoll {
        self.reader.poll(&mut self.out).unwrap()
    }

    fn texts(&mut self) -> Vec<String> {
        self.out.records.drain().map(|(text, ..)| text).collect()
    }

    /// Waits as a slot thread does: until the wake handle is called.
    fn wait(&mut self) {
        let before = self.wakes.load(Ordering::Relaxed);
        self.clock.advance(Duration::from_millis(10));
        assert!(
            self.wakes.load(Ordering::Relaxed) > before,
            "nobody woke the reader"
        );
    }
}

fn continuous(root: &Path, clock: Arc<dyn Clock>) -> Text {
    FileLogSource::continuous(root, TOPIC, text, clock)
}

fn until_marker(root: &Path, clock: Arc<dyn Clock>) -> Text {
    FileLogSource::until_end_marker(root, TOPIC, text, clock)
}

#[test]
fn a_followed_log_wakes_its_reader_and_a_torn_line_waits_for_its_newline() {
    let root = written(1, 1);
    let mut following = Following::new(&root, continuous);
    let mut enumerator = following.source.enumerator().unwrap();
    following.add(enumerator.discover().unwrap().splits);
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(0)));
    assert_eq!(following.texts(), ["line 0 "]);
    assert_eq!(following.poll(), ReaderPoll::Nothing);

    append(&root, 0, b"first\nsec");
    following.wait();
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(0)));
    assert_eq!(following.texts(), ["first"]);
    assert_eq!(following.poll(), ReaderPoll::Nothing);
    let saved = following.reader.snapshot().unwrap();

    append(&root, 0, b"ond\n");
    following.wait();
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(0)));
    assert_eq!(following.texts(), ["second"]);

    let mut restored = Following::new(&root, continuous);
    restored.add(saved);
    assert_eq!(restored.poll(), ReaderPoll::Records(SplitIndex(0)));
    assert_eq!(restored.texts(), ["second"]);
}

#[test]
fn t24_a_partition_found_later_is_read_from_its_start_and_is_reported_once() {
    let root = written(1, 1);
    let mut following = Following::new(&root, continuous);
    let mut enumerator = following.source.enumerator().unwrap();
    following.add(enumerator.discover().unwrap().splits);
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(0)));
    following.texts();
    append(&root, 7, b"new\n");
    let found = enumerator.discover().unwrap();
    assert!(!found.complete);
    assert_eq!(found.splits.len(), 1);
    assert_eq!(found.splits[0].id, "payments/7");
    following.add(found.splits);
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(1)));
    assert_eq!(following.texts(), ["new"]);
    let mut restored = following.source.enumerator().unwrap();
    restored.restore(&enumerator.snapshot()).unwrap();
    assert!(restored.discover().unwrap().splits.is_empty());
    assert!(enumerator.interval().is_some());
}

#[test]
fn a_torn_line_that_a_new_writer_cut_off_is_never_read() {
    let root = written(1, 0);
    append(&root, 0, b"to");
    let mut following = Following::new(&root, continuous);
    let splits = following
        .source
        .enumerator()
        .unwrap()
        .discover()
        .unwrap()
        .splits;
    following.add(splits);
    assert_eq!(following.poll(), ReaderPoll::Nothing);
    let mut writer = FileLogWriter::open(root.path(), TOPIC, 1).unwrap();
    writer.append(0, b"whole").unwrap();
    writer.flush().unwrap();
    following.wait();
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(0)));
    assert_eq!(following.texts(), ["whole"]);
}

#[test]
fn a_log_with_end_marker_ends_after_its_last_line() {
    let root = written(2, 2);
    let mut following = Following::new(&root, until_marker);
    let mut enumerator = following.source.enumerator().unwrap();
    let found = enumerator.discover().unwrap();
    assert!(!found.complete);
    following.add(found.splits);
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(0)));
    assert_eq!(following.poll(), ReaderPoll::Records(SplitIndex(1)));
    assert_eq!(following.poll(), ReaderPoll::Nothing);

    let mut writer = FileLogWriter::open(root.path(), TOPIC, 2).unwrap();
    writer.append(1, b"last").unwrap();
    writer.finish().unwrap();
    assert!(enumerator.discover().unwrap().complete);
    following.reader.no_more_splits();
    following.texts();
    // The marker is seen by a poll that waits for nothing; what came before it is read first.
    let mut polls = Vec::new();
    while polls.last() != Some(&ReaderPoll::EndOfInput) {
        polls.push(following.poll());
        assert!(polls.len() < 10, "{polls:?}");
    }
    assert_eq!(following.texts(), ["last"]);
    let ended = |split| ReaderPoll::SplitEnded(SplitIndex(split));
    assert!(polls.contains(&ended(0)) && polls.contains(&ended(1)));
}

#[test]
fn a_file_that_shrank_or_changed_is_a_lost_position() {
    let root = written(1, 2);
    let path = root.path().join(TOPIC).join("0.jsonl");
    let mut following = Following::new(&root, continuous);
    let splits = following
        .source
        .enumerator()
        .unwrap()
        .discover()
        .unwrap()
        .splits;
    following.add(splits);
    following.poll();
    let saved = following.reader.snapshot().unwrap();
    assert_eq!(following.poll(), ReaderPoll::Nothing);

    fs::write(&path, "x\n").unwrap();
    following.wait();
    let shrunk = following.reader.poll(&mut following.out).unwrap_err();
    assert!(
        matches!(shrunk, ConnectorError::PositionLost { .. }),
        "{shrunk}"
    );

    let restore = |content: &str| {
        fs::write(&path, content).unwrap();
        let mut reader = bounded(&root).reader(&reader_context()).unwrap();
        reader.add_splits(saved.clone())
    };
    assert!(matches!(
        restore("x\n"),
        Err(ConnectorError::PositionLost { .. })
    ));
    let other = "y".repeat(100);
    assert!(matches!(
        restore(&other),
        Err(ConnectorError::PositionLost { .. })
    ));
}

#[test]
fn a_missing_topic_is_refused_with_its_name() {
    let root = tempfile::tempdir().unwrap();
    let error = bounded(&root).enumerator().unwrap().discover().unwrap_err();
    assert!(
        error.to_string().contains("file log topic payments"),
        "{error}"
    );
}

#[test]
fn the_writer_refuses_newlines_and_strange_partitions_and_cuts_torn_lines() {
    let root = written(1, 1);
    append(&root, 0, b"torn");
    let mut writer = FileLogWriter::open(root.path(), TOPIC, 1).unwrap();
    assert!(writer.append(0, b"a\nb").is_err());
    assert!(writer.append(1, b"a").is_err());
    writer.append(0, b"next").unwrap();
    writer.finish().unwrap();
    assert_eq!(texts(&bounded(&root)), ["line 0 ", "next"]);
}
