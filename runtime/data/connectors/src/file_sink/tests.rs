//! Tests of the file sink on real files: the contract, what readers see, and what is refused.

use std::collections::BTreeMap;
use std::fs;

use highwater_types::{Chunk, EventTime};

use super::*;
use crate::contract::{Effort, output_target_suite, writer_context};
use crate::output::{OutputBatch, OutputRecord};
use crate::sink::{KnownMarkers, Marker, MarkerKind, MarkerPosition, TargetError};

const fn marker(number: u64, epoch: u64) -> Marker {
    Marker {
        number,
        kind: MarkerKind::Output,
        epoch,
        attempt: 1,
    }
}

fn batch(values: &[&str]) -> OutputBatch {
    let mut batch = OutputBatch::default();
    for value in values {
        batch.push(&OutputRecord::of_value(value.as_bytes()));
    }
    batch
}

fn publish(target: &mut FileTarget, marker: Marker, values: &[&str]) {
    target.open_session().unwrap();
    target.begin().unwrap();
    target.send(&batch(values)).unwrap();
    target.commit(marker).unwrap();
}

fn all_lines(directory: &Path) -> Vec<Vec<u8>> {
    let files = committed_files(directory).unwrap();
    files
        .iter()
        .flat_map(|file| file.lines().unwrap())
        .collect()
}

#[test]
fn file_target_keeps_the_target_contract() {
    let directory = tempfile::tempdir().unwrap();
    output_target_suite(
        Effort::FULL,
        &mut |slot| Box::new(FileTarget::new(directory.path(), &writer_context(slot.0))),
        &mut || all_lines(directory.path()),
    );
}

#[test]
fn committed_files_come_by_checkpoint_and_slot_without_staged_and_void_ones() {
    let directory = tempfile::tempdir().unwrap();
    let target = |slot| FileTarget::new(directory.path(), &writer_context(slot));
    assert_eq!(committed_files(directory.path()).unwrap(), []);
    assert_eq!(committed_files(&directory.path().join("none")).unwrap(), []);
    for (slot, number) in [(1, 1), (0, 10), (0, 2), (1, 2)] {
        publish(
            &mut target(slot),
            marker(number, 1),
            &[&format!("{slot}.{number}")],
        );
    }
    let mut void = target(0);
    void.open_session().unwrap();
    void.begin().unwrap();
    let kind = MarkerKind::Void;
    void.commit(Marker {
        kind,
        ..marker(11, 1)
    })
    .unwrap();
    let mut staged = target(2);
    staged.open_session().unwrap();
    staged.begin().unwrap();
    staged.send(&batch(&["staged"])).unwrap();
    staged.flush().unwrap();
    let lines = all_lines(directory.path());
    let lines: Vec<_> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    assert_eq!(lines, ["1.1", "0.2", "1.2", "0.10"]);
}

#[test]
fn empty_and_blank_values_are_lines_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = FileTarget::new(directory.path(), &writer_context(0));
    publish(&mut target, marker(1, 1), &["", " ", ""]);
    publish(&mut target, marker(2, 1), &[]);
    let files = committed_files(directory.path()).unwrap();
    assert_eq!(files[0].lines().unwrap(), [&b""[..], b" ", b""]);
    assert!(files[1].lines().unwrap().is_empty());
}

#[test]
fn t46_a_new_session_removes_what_a_dead_writer_staged() {
    let directory = tempfile::tempdir().unwrap();
    let mut dead = FileTarget::new(directory.path(), &writer_context(0));
    dead.open_session().unwrap();
    for _ in 0..3 {
        dead.begin().unwrap();
        dead.send(&batch(&["x"])).unwrap();
        dead.flush().unwrap();
    }
    drop(dead);
    let mut target = FileTarget::new(directory.path(), &writer_context(0));
    publish(&mut target, marker(1, 2), &["y"]);
    let mut files = BTreeMap::new();
    count_files(directory.path(), &mut files);
    assert_eq!(files.get("output"), Some(&1));
    assert_eq!(files.len(), 1, "only committed output is left: {files:?}");
}

fn count_files(directory: &Path, files: &mut BTreeMap<String, u32>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count_files(&path, files);
        } else {
            let kind = path.extension().unwrap_or(path.as_os_str());
            *files
                .entry(kind.to_string_lossy().into_owned())
                .or_default() += 1;
        }
    }
}

#[test]
fn a_value_with_a_newline_is_refused_by_the_encoder_before_anything_holds_it() {
    use highwater_types::{Classified, ErrorKind};
    let plain = |record: &String, out: &mut Vec<u8>| out.extend_from_slice(record.as_bytes());
    let sink = FileSink::new("alerts", plain);
    let Ok(SinkWriter::Transactional(mut encoder)) = sink.writer(&writer_context(0)) else {
        panic!("a file sink is transactional")
    };
    let mut chunk = Chunk::new();
    chunk.push("whole".to_owned(), EventTime(1));
    chunk.push("a\nb".to_owned(), EventTime(2));
    let mut out = OutputBatch::default();
    let refused = encoder.encode(&mut chunk, &mut out).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let text = refused.to_string();
    assert!(
        text.contains("file sink alerts") && text.contains(r"`a\nb`"),
        "{text}"
    );
}

#[test]
fn a_directory_that_is_none_is_refused_at_once_and_not_waited_for() {
    use highwater_types::{Classified, ErrorKind};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let mut target = FileTarget::new(&file.join("out"), &writer_context(0));
    let TargetError::Refused(cause) = target.identity().unwrap_err() else {
        panic!("nothing that passes")
    };
    assert_eq!(cause.kind(), ErrorKind::Invalid, "{cause}");
    let opened = target.open_session().unwrap_err();
    assert!(matches!(opened, TargetError::Refused(_)), "{opened}");
}

#[test]
fn newline_and_deletion_are_refused_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = FileTarget::new(directory.path(), &writer_context(0));
    target.open_session().unwrap();
    target.begin().unwrap();
    let newline = target.send(&batch(&["a\nb"])).unwrap_err();
    assert!(matches!(newline, TargetError::Refused(_)));
    let mut deletion = OutputBatch::default();
    deletion.push(&OutputRecord {
        key: Some(b"u1"),
        value: None,
        ..OutputRecord::of_value(b"")
    });
    let TargetError::Refused(deletion) = target.send(&deletion).unwrap_err() else {
        panic!("a deletion is refused");
    };
    assert!(
        deletion.to_string().contains("deletion of key `u1`"),
        "{deletion}"
    );
}

#[test]
fn a_removed_newest_file_shows_in_the_reading() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = FileTarget::new(directory.path(), &writer_context(0));
    publish(&mut target, marker(1, 1), &["a"]);
    publish(&mut target, marker(2, 1), &["b"]);
    let from = target.marker_position().unwrap();
    let files = committed_files(directory.path()).unwrap();
    fs::remove_file(&files[0].path).unwrap();
    target.open_session().unwrap();
    let reading = target.read_markers(MarkerPosition(0)).unwrap();
    assert!(
        reading.start <= from && from <= reading.end,
        "older files may be taken away"
    );
    fs::remove_file(&files[1].path).unwrap();
    let reading = target.read_markers(MarkerPosition(0)).unwrap();
    assert!(reading.end < from, "the newest may not");
}

#[test]
fn a_directory_put_in_place_of_another_has_another_identity() {
    let root = tempfile::tempdir().unwrap();
    let (one, other) = (root.path().join("one"), root.path().join("other"));
    let identity = |path: &Path| {
        FileTarget::new(path, &writer_context(0))
            .identity()
            .unwrap()
    };
    let first = identity(&one);
    assert_ne!(identity(&other), first);
    fs::rename(&one, root.path().join("moved")).unwrap();
    assert_ne!(identity(&one), first);
    assert_eq!(identity(&root.path().join("moved")), first);
}

#[test]
fn a_directory_that_is_required_and_gone_is_not_made_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("out");
    let known = FileTarget::new(&directory, &writer_context(0)).identity();
    let place = known.unwrap().markers;
    fs::remove_dir_all(&directory).unwrap();
    for known in [Some(place), None].map(KnownMarkers::Made) {
        let mut target = FileTarget::new(&directory, &writer_context(0));
        target.expect_markers(known);
        let lost = target.open_session().unwrap_err();
        assert!(matches!(lost, TargetError::MarkerLost(_)), "{lost:?}");
        assert!(!directory.exists());
    }
}

#[test]
fn two_outputs_of_one_checkpoint_are_reported_as_damage() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = FileTarget::new(directory.path(), &writer_context(0));
    publish(&mut target, marker(1, 1), &["a"]);
    let file = committed_files(directory.path()).unwrap().remove(0);
    let twin = file.path.with_file_name(names::file_name(marker(1, 2)));
    fs::copy(&file.path, twin).unwrap();
    let error = committed_files(directory.path()).unwrap_err();
    assert!(
        error.to_string().contains("checkpoint 1 is there twice"),
        "{error}"
    );
}

#[test]
fn t20_a_lost_session_says_that_a_newer_writer_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut old = FileTarget::new(directory.path(), &writer_context(0));
    old.open_session().unwrap();
    FileTarget::new(directory.path(), &writer_context(0))
        .open_session()
        .unwrap();
    let TargetError::SessionLost(reason) = old.begin().unwrap_err() else {
        panic!("the session is lost");
    };
    assert!(matches!(reason, ConnectorError::Fenced { .. }));
    FileTarget::new(directory.path(), &writer_context(1))
        .open_session()
        .unwrap();
    old.open_session().unwrap();
    old.begin().unwrap();
}

#[test]
fn the_sink_encodes_in_its_format_and_commits_lines() {
    let directory = tempfile::tempdir().unwrap();
    let sink = FileSink::new(directory.path(), |record: &u32, out: &mut Vec<u8>| {
        out.extend_from_slice(record.to_string().as_bytes());
    });
    let SinkWriter::Transactional(mut encoder) = sink.writer(&writer_context(0)).unwrap() else {
        panic!("the file sink is transactional");
    };
    let mut chunk = Chunk::new();
    chunk.push(17, EventTime(1));
    chunk.push(4, EventTime(2));
    let mut output = OutputBatch::default();
    encoder.encode(&mut chunk, &mut output).unwrap();
    let mut target = sink.target(&writer_context(0)).unwrap().unwrap();
    target.open_session().unwrap();
    target.begin().unwrap();
    target.send(&output).unwrap();
    target.commit(marker(1, 1)).unwrap();
    assert_eq!(all_lines(directory.path()), [&b"17"[..], b"4"]);
}
