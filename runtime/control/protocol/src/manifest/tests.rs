//! Tests of manifests: codec, hostile input, bounds.

use highwater_types::{AttemptId, Epoch, Nonce, Parallelisms};

use super::*;
use crate::paths::{DataWriter, ManifestName, sink_log};
use crate::stop::SlotKey;

fn uid(name: &str) -> OperatorUid {
    OperatorUid::parse(name).unwrap()
}

fn sample() -> Manifest {
    let id = CheckpointId {
        number: 4,
        epoch: Epoch(2),
    };
    let parent = ManifestRef {
        name: ManifestName {
            epoch: Epoch(2),
            number: 3,
            nonce: Nonce(8),
        },
        hash: ContentHash(1),
    };
    let mut manifest = Manifest::new(ManifestTitle {
        identity: JobIdentity::parse("fleet").unwrap(),
        lineage: Lineage(5),
        id,
        kind: SnapshotKind::Checkpoint,
        parent: Some(parent),
        graph: ContentHash(7),
    });
    let writer = DataWriter {
        epoch: Epoch(2),
        attempt: AttemptId(1),
        uid: uid("count"),
        subtask: SubtaskIndex(0),
    };
    let path = writer.file(4, "state");
    manifest.files.insert(
        path.clone(),
        FileEntry {
            length: 100,
            checksum: ContentHash(u64::MAX),
        },
    );
    let keyed = KeyedFile {
        path,
        range: KeyGroupRange { start: 0, end: 8 },
        groups: vec![GroupSlice {
            group: KeyGroup(3),
            offset: 10,
            length: 90,
        }],
        store: Some(store(&writer, &mut manifest.files)),
    };
    manifest.operators.insert(uid("count"), operator(keyed));
    manifest.sinks.insert(uid("out"), sink(id));
    let splits = BTreeMap::from([("topic-0".to_owned(), HexBytes(vec![0, 255]))]);
    let source = SourceState {
        enumerator: HexBytes(vec![1]),
        splits,
    };
    manifest.sources.insert(uid("in"), source);
    manifest
}

fn store(writer: &DataWriter, files: &mut BTreeMap<RelativePath, FileEntry>) -> StoreParts {
    let path = writer.file(4, "state.0");
    let file = FileEntry {
        length: 70,
        checksum: ContentHash(9),
    };
    files.insert(path.clone(), file);
    let part = |name: &str, offset, length| FilePart {
        name: name.to_owned(),
        is_immutable: name.ends_with("sst"),
        path: path.clone(),
        offset,
        length,
        checksum: ContentHash(offset),
    };
    StoreParts {
        store: "rocksdb".to_owned(),
        parts: vec![part("000012.sst", 0, 54), part("CURRENT", 54, 16)],
    }
}

fn sink(id: CheckpointId) -> SinkState {
    let log = LogObject {
        path: sink_log(
            id,
            Nonce(3),
            &SlotKey {
                sink: uid("out"),
                slot: 0,
            },
            0,
        ),
        file: FileEntry {
            length: 5,
            checksum: ContentHash(2),
        },
        records: 1,
    };
    let slots = BTreeMap::from([(0, SlotOutput::Log(vec![log])), (1, SlotOutput::Empty)]);
    SinkState {
        external: ExternalSink::default(),
        from: 12,
        slots,
    }
}

fn operator(keyed: KeyedFile) -> OperatorState {
    let list = ListState {
        name: "rules".to_owned(),
        mode: ListMode::Union,
        subtask: SubtaskIndex(0),
        elements: vec![Blob::Inline(HexBytes(vec![7]))],
    };
    OperatorState {
        parallelism: Parallelism(2),
        max_parallelism: MaxParallelism::try_new(16).unwrap(),
        key: None,
        states: Vec::new(),
        form: "aggregate".to_owned(),
        keyed: vec![keyed],
        lists: vec![list],
    }
}

#[test]
fn a_manifest_round_trips_byte_for_byte() {
    let manifest = sample();
    let (bytes, hash) = manifest.encode();
    assert_eq!(Manifest::decode_named(&bytes, hash).unwrap(), manifest);
    assert_eq!(
        manifest.encode().0,
        bytes,
        "equal manifests have equal bytes"
    );
    assert!(manifest.has_output());
}

#[test]
fn x36_any_flip_or_cut_is_found() {
    let (bytes, hash) = sample().encode();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert!(Manifest::decode(&bad).is_err(), "flip at {at}");
        assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
        assert!(Manifest::decode_named(&bad, hash).is_err());
    }
    let error = Manifest::decode_named(&bytes, ContentHash(1)).unwrap_err();
    assert!(error.to_string().contains("head names"));
}

fn resealed(edit: impl Fn(String) -> String) -> Result<Manifest, ManifestError> {
    let text = String::from_utf8(seal(&sample())).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let serde_json::Value::Object(mut object) = value else {
        panic!()
    };
    object.remove("checksum");
    let edited = edit(serde_json::to_string(&object).unwrap());
    let value: serde_json::Value = serde_json::from_str(&edited).unwrap();
    Manifest::decode(&seal(&value))
}

#[test]
fn s20_hostile_manifests_with_a_right_checksum_are_refused() {
    assert!(resealed(|text| text).is_ok());
    let edits = [
        ("data/2-1/", "/data/2-1/"),
        ("data/2-1/", "../2-1/"),
        ("\"count\"", "\"../count\""),
        ("\"fleet\"", "\"savepoints\""),
        ("\"length\":100", "\"length\":99"),
        ("\"offset\":10", "\"offset\":18446744073709551615"),
        ("\"max_parallelism\":16", "\"max_parallelism\":0"),
        ("\"max_parallelism\":16", "\"max_parallelism\":40000"),
        ("\"parallelism\":2", "\"parallelism\":4000000000"),
        ("\"end\":8", "\"end\":17"),
        ("\"start\":0", "\"start\":9"),
        ("xxh3-64", "murmur"),
        ("sinklog/2-4-", "sinklog/2-5-"),
        ("\"number\":4", "\"number\":3"),
        ("\"from\":12", "\"from\":12,\"extra\":1"),
        ("\"length\":70", "\"length\":69"),
        ("\"offset\":54", "\"offset\":55"),
        (
            "\"offset\":54,\"path\":\"data/2-1/count.0/4-state.0",
            "\"offset\":54,\"path\":\"data/2-1/count.0/4-state.1",
        ),
        ("000012.sst", "../12.sst"),
        ("000012.sst", "a/12.sst"),
        ("000012.sst", ".."),
        ("000012.sst", ""),
        ("000012.sst", "CURRENT"),
        ("\"rocksdb\"", "\"../rocksdb\""),
    ];
    for (from, to) in edits {
        let result = resealed(|text| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let error = result.expect_err(to);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{to}");
    }
}

#[test]
fn lengths_that_overflow_are_refused() {
    let mut manifest = sample();
    let path = RelativePath::parse("data/2-1/count.1/4-state").unwrap();
    manifest.files.insert(
        path,
        FileEntry {
            length: u64::MAX,
            checksum: ContentHash(0),
        },
    );
    assert_eq!(manifest.check(), Err(ManifestFault::TotalLength));
}

#[test]
fn a_newer_manifest_names_the_needed_version() {
    let error = resealed(|text| text.replace("\"format\":6", "\"format\":7")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_manifest_of_format_2_names_no_savepoint() {
    let read = resealed(|text| {
        assert!(!text.contains("savepoint"), "{text}");
        text.replace("\"format\":6", "\"format\":2")
    });
    assert_eq!(read.unwrap().savepoint, None);
}

#[test]
fn a_manifest_of_format_4_has_no_files_of_a_local_store() {
    let read = resealed(|text| {
        let from = text.find(",\"store\":{\"parts").unwrap();
        let until = from + text[from..].find("\"rocksdb\"}").unwrap() + 10;
        let old = text.replace(&text[from..until], "");
        old.replace("\"format\":6", "\"format\":4")
    });
    let keyed = &read.unwrap().operators[&uid("count")].keyed[0];
    assert_eq!((&keyed.store, keyed.parts()), (&None, &[][..]));
}

#[test]
fn a_manifest_of_format_3_does_not_say_whom_its_starts_belong_to() {
    let read = resealed(|text| {
        assert!(!text.contains("starts"), "{text}");
        text.replace("\"format\":6", "\"format\":3")
            .replace("\"kind\":\"checkpoint\"", "\"kind\":\"rebased\"")
    });
    let read = read.unwrap();
    let parent = read.parent.unwrap().name;
    let name = ManifestName {
        number: 4,
        ..parent
    };
    assert_eq!(read.starts, None);
    assert_eq!(crate::source_start::base(&read, name), parent, "as it did");
    let mut next = read;
    next.set_starts(Some(parent));
    let text = String::from_utf8(next.encode().0).unwrap();
    assert!(text.starts_with("{\"format\":6,"), "{text}");
}

#[test]
fn a_manifest_of_format_5_was_not_rescaled() {
    let read = resealed(|text| {
        assert!(!text.contains("rescaled"), "{text}");
        text.replace("\"format\":6", "\"format\":5")
    });
    assert_eq!(read.unwrap().rescaled, None);
}

fn at(parallelisms: &[(&str, u32)]) -> Parallelisms {
    let named = parallelisms.iter();
    let named = named.map(|&(name, parallelism)| (uid(name), Parallelism(parallelism)));
    named.collect()
}

fn rescaled(to: &[(&str, u32)]) -> Manifest {
    let mut manifest = sample();
    manifest.rescaled = Some(Rescaled {
        configured: at(&[("in", 1), ("count", 2), ("out", 2)]),
        to: at(to),
    });
    manifest
}

#[test]
fn a_rescale_round_trips_and_is_one_that_the_job_could_run_at() {
    for to in [1, 16] {
        let manifest = rescaled(&[("in", 32_768), ("count", to), ("out", 1)]);
        let (bytes, hash) = manifest.encode();
        assert_eq!(Manifest::decode_named(&bytes, hash).unwrap(), manifest);
    }
    // The operator has 16 key groups; of a source there is no entry.
    for (name, parallelism, max) in [
        ("count", 0, 16),
        ("count", 17, 16),
        ("in", 0, 32_768),
        ("in", 32_769, 32_768),
        ("out", u32::MAX, 32_768),
    ] {
        let uid = uid(name);
        let refused = ManifestFault::Rescaled {
            uid,
            parallelism,
            max,
        };
        let manifest = rescaled(&[(name, parallelism)]);
        assert_eq!(manifest.check(), Err(refused));
        let error = Manifest::decode(&seal(&manifest)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn s20_hostile_words_about_a_rescale_are_refused() {
    let text = String::from_utf8(seal(&rescaled(&[("count", 4)]))).unwrap();
    let (body, _) = text.rsplit_once(",\"checksum\"").unwrap();
    let read = |from: &str, to: &str| {
        assert!(body.contains(from), "{from}");
        let edited = format!("{}}}", body.replace(from, to));
        let value: serde_json::Value = serde_json::from_str(&edited).unwrap();
        Manifest::decode(&seal(&value))
    };
    assert!(read("\"to\":{", "\"to\":{").is_ok());
    for (from, to) in [
        ("\"to\":{\"count\":4}", "\"to\":{\"../count\":4}"),
        ("\"configured\":{\"count\"", "\"configured\":{\"\""),
        ("\"to\":{\"count\":4}", "\"to\":{\"count\":-4}"),
        ("\"to\":{\"count\":4}", "\"to\":{\"count\":4},\"from\":{}"),
        (",\"to\":{\"count\":4}", ""),
    ] {
        let error = read(from, to).expect_err(to);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{to}");
    }
}

#[test]
fn starts_belong_to_an_older_checkpoint_and_only_after_going_back() {
    let mut manifest = sample();
    let parent = manifest.parent.unwrap().name;
    let number = |number| ManifestName { number, ..parent };
    let refused = Err(ManifestFault::Starts(manifest.id));
    manifest.starts = Some(number(2));
    assert_eq!(manifest.check(), refused, "a checkpoint has its own");
    manifest.kind = SnapshotKind::Rebased;
    let (bytes, hash) = manifest.encode();
    assert_eq!(Manifest::decode_named(&bytes, hash).unwrap(), manifest);
    assert_eq!(crate::source_start::base(&manifest, number(4)), number(2));
    manifest.starts = Some(number(4));
    assert_eq!(manifest.check(), refused, "not older");
}

#[test]
fn the_name_of_a_savepoint_round_trips_and_may_not_leave_its_folder() {
    let mut manifest = sample();
    manifest.savepoint = Some("before-upgrade".to_owned());
    let (bytes, hash) = manifest.encode();
    assert_eq!(Manifest::decode_named(&bytes, hash).unwrap(), manifest);
    for hostile in ["../one", "a/b", "", "One"] {
        manifest.savepoint = Some(hostile.to_owned());
        let refused = ManifestFault::Name(hostile.to_owned());
        assert_eq!(manifest.check(), Err(refused));
    }
}

#[test]
#[should_panic(expected = "is used but not listed")]
fn an_open_reference_is_never_written() {
    let mut manifest = sample();
    manifest.files.clear();
    manifest.encode();
}
