//! What a task's part stores, and when it is refused.

use highwater_protocol::shared_files::HeldFiles;

use super::*;

const MIB: usize = 1 << 20;

/// Two large files, thirty small ones, one that changes.
fn filled() -> Bench {
    let bench = Bench::new();
    for at in 0..2u8 {
        bench.write(&format!("big{at}.sst"), &bytes(at, 2 * MIB));
    }
    for at in 0..30u8 {
        bench.write(&format!("{at}.sst"), &bytes(at, 100_000));
    }
    bench.write("CURRENT", b"big1.sst");
    bench
}

#[test]
fn unchanged_state_stores_almost_nothing_and_few_objects() {
    let mut bench = filled();
    let first = bench.complete(1);
    assert!(new_bytes(1, &first) > 7_000_000);
    assert_eq!(
        first.files.len(),
        2 + 1 + 1,
        "the head, two large files, one pack"
    );
    bench.write("CURRENT", b"big0.sst");
    let second = bench.complete(2);
    assert_eq!(new_bytes(2, &second), 16, "head and CURRENT");
    assert_eq!(second.files.len(), first.files.len() + 1);
    bench.write("30.sst", &bytes(30, 5_000));
    let third = bench.complete(3);
    assert_eq!(new_bytes(3, &third), 16 + 5_000);
    let parts = third.keyed[&uid()][0].parts();
    let names: BTreeSet<_> = parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names.len(), 34, "each file once");
    assert_eq!(parts.len(), 34);
}

#[test]
fn a_declined_checkpoint_is_stored_again_and_a_late_answer_to_it_is_not_acknowledged() {
    let mut bench = filled();
    let all = new_bytes(1, &bench.store(1).unwrap().snapshot);
    bench.attempt.declined(id(1));
    let stored = bench.store(2).unwrap();
    assert_eq!(new_bytes(2, &stored.snapshot), all);
    bench.attempt.declined(id(2));
    assert!(!bench.attempt.stored(id(2), SubtaskIndex(0), stored.stores));
}

#[test]
fn only_the_last_completed_checkpoint_keeps_its_local_files() {
    let mut bench = filled();
    let frozen = |bench: &Bench| {
        let names = contents_of_dirs(bench.dirs.path());
        names
            .iter()
            .filter(|name| name.starts_with("frozen"))
            .count()
    };
    bench.complete(1);
    bench.complete(2);
    assert_eq!(frozen(&bench), 1);
    let stored = bench.store(3).unwrap();
    assert!(bench.attempt.stored(id(3), SubtaskIndex(0), stored.stores));
    assert_eq!(frozen(&bench), 2, "3 may complete, 2 is complete");
    bench.attempt.declined(id(3));
    assert_eq!(frozen(&bench), 1);
}

fn contents_of_dirs(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_that_is_gone_shorter_or_longer_than_said_refuses_the_checkpoint_by_name() {
    for (at, change) in [None, Some(99_999), Some(100_001)].into_iter().enumerate() {
        let mut bench = filled();
        let keyed = bench.in_store();
        let KeyedPart::InStore { files, .. } = &keyed else {
            panic!()
        };
        let path = files.dir.path().join("7.sst");
        std::fs::remove_file(&path).unwrap();
        if let Some(length) = change {
            std::fs::write(&path, bytes(7, length)).unwrap();
        }
        let part = bench.part(1, vec![keyed]);
        let refused = bench.store_part(part).unwrap_err();
        assert!(refused.to_string().contains("7.sst"), "{at}: {refused}");
        assert_eq!(refused.kind(), ErrorKind::Transient);
        // The store links the same file for the next one too.
        assert!(refused.ends_attempt());
    }
}

#[test]
fn a_restored_file_that_has_changed_on_local_disk_is_not_taken_into_a_checkpoint() {
    let mut bench = filled();
    let snapshot = bench.complete(1);
    let restored = bench
        .restore(handed_out(&snapshot, 1), LocalIndex::default())
        .unwrap();
    bench.attempt = AttemptFiles::start(id(1), restored.held);
    bench.is_reopened = true;
    let path = bench.store.path().join("7.sst");
    let mut rotten = std::fs::read(&path).unwrap();
    rotten[5_000] ^= 1;
    // The frozen directories of before share the old file.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, rotten).unwrap();
    let refused = bench.store(2).unwrap_err();
    assert!(refused.to_string().contains("7.sst"), "{refused}");
    assert!(
        refused.ends_attempt(),
        "it is built again from checkpoint 1"
    );
    assert_eq!(refused.kind(), ErrorKind::Transient);
}

#[test]
fn a_store_that_was_made_anew_under_the_same_names_is_not_taken_for_the_restored_one() {
    let mut bench = filled();
    let snapshot = bench.complete(1);
    let restored = bench
        .restore(handed_out(&snapshot, 1), LocalIndex::default())
        .unwrap();
    bench.attempt = AttemptFiles::start(id(1), restored.held);
    // The same name and length; half of the files have other bytes.
    for at in 0..15u8 {
        std::fs::remove_file(bench.store.path().join(format!("{at}.sst"))).unwrap();
        bench.write(&format!("{at}.sst"), &bytes(at + 100, 100_000));
    }
    let second = bench.complete(2);
    let parts = second.keyed[&uid()][0].parts();
    for part in parts.iter().filter(|part| part.is_immutable) {
        let local = std::fs::read(bench.store.path().join(&part.name)).unwrap();
        assert_eq!(part.checksum, ContentHash::of(&local), "{}", part.name);
    }
    let large = parts.iter().filter(|part| part.name.starts_with("big"));
    assert!(
        large.clone().all(|part| part.path.as_str().contains("/1-")),
        "compared and equal"
    );
    let again = bench
        .restore(handed_out(&second, 1), LocalIndex::default())
        .unwrap();
    let files = in_store(&again.operators[&subtask(0)]);
    assert_eq!(contents(files.dir.path()), contents(bench.store.path()));
}

/// Gives all files that never change other bytes, by `seed`.
fn refill(bench: &Bench, seed: u8) {
    let write = |name: String, bytes: Vec<u8>| {
        // Frozen directories share the old file.
        std::fs::remove_file(bench.store.path().join(&name)).unwrap();
        bench.write(&name, &bytes);
    };
    for at in 0..2u8 {
        write(format!("big{at}.sst"), bytes(at ^ seed, 2 * MIB));
    }
    for at in 0..30u8 {
        write(format!("{at}.sst"), bytes(at ^ seed, 100_000));
    }
}

/// What a subtask that takes over from both holds of their stores.
fn taken_over(
    bench: &Bench,
    both: [&TaskSnapshot; 2],
) -> BTreeMap<OperatorSubtask, Vec<HeldFiles>> {
    let keyed = both.map(|of| restored(of, of.keyed[&uid()][0].clone()));
    let state = RestoredState {
        keyed: keyed.to_vec(),
        lists: Vec::new(),
    };
    let states = BTreeMap::from([(subtask(0), state)]);
    let held = bench.restore(states, LocalIndex::default()).unwrap().held;
    assert_eq!(held[&subtask(0)].len(), 2);
    held
}

/// Checkpoints 1 and 2 hold two stores whose files have the same names and lengths, as those of two subtasks may. What one that
/// takes over from both holds of them.
fn two_alike(bench: &mut Bench) -> BTreeMap<OperatorSubtask, Vec<HeldFiles>> {
    let first = bench.complete(1);
    refill(bench, 128);
    bench.attempt = AttemptFiles::start(id(1), BTreeMap::new());
    let second = bench.complete(2);
    taken_over(bench, [&first, &second])
}

#[test]
fn a_store_that_went_on_from_one_of_several_refers_to_the_files_of_that_one() {
    let mut bench = filled();
    let held = two_alike(&mut bench);
    bench.is_reopened = true;
    for (number, seed, from) in [(3, 0, "/1-"), (5, 128, "/2-")] {
        refill(&bench, seed);
        bench.attempt = AttemptFiles::start(id(2), held.clone());
        let next = bench.complete(number);
        assert_eq!(new_bytes(number, &next), 16, "head and CURRENT");
        let parts = next.keyed[&uid()][0].parts().iter();
        let mut kept = parts.filter(|part| part.is_immutable);
        assert!(kept.all(|part| part.path.as_str().contains(from)));
        let again = bench.complete(number + 1);
        assert_eq!(new_bytes(number + 1, &again), 16);
    }
}

#[test]
fn a_second_try_before_the_first_is_decided_refers_to_the_same_files() {
    let mut bench = filled();
    let held = two_alike(&mut bench);
    bench.is_reopened = true;
    bench.attempt = AttemptFiles::start(id(2), held);
    for number in [3, 4] {
        let stored = bench.store(number).unwrap();
        assert_eq!(new_bytes(number, &stored.snapshot), 16);
        assert!(
            bench
                .attempt
                .stored(id(number), SubtaskIndex(0), stored.stores)
        );
    }
}

#[test]
fn a_changed_file_is_found_also_where_the_store_went_on_from_one_of_several() {
    for changed in [vec!["7.sst"], vec!["7.sst", "big0.sst"]] {
        let mut bench = filled();
        let held = two_alike(&mut bench);
        bench.is_reopened = true;
        bench.attempt = AttemptFiles::start(id(2), held);
        for name in &changed {
            let path = bench.store.path().join(name);
            let mut rotten = std::fs::read(&path).unwrap();
            rotten[5_000] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, rotten).unwrap();
        }
        let refused = bench.store(3).unwrap_err();
        let names = |name: &&str| refused.to_string().contains(*name);
        assert!(changed.iter().any(names), "{refused}");
        assert!(refused.ends_attempt());
    }
}

/// Leaves of the tables of the store only these.
fn keep_only(bench: &Bench, names: &[&str]) {
    for entry in std::fs::read_dir(bench.store.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_table = path.extension().is_some_and(|of| of == "sst");
        if is_table && !names.contains(&name) {
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_changed_file_is_found_also_where_another_store_has_all_that_is_sound() {
    let mut bench = filled();
    let first = bench.complete(1);
    keep_only(&bench, &["1.sst"]);
    bench.attempt = AttemptFiles::start(id(1), BTreeMap::new());
    let second = bench.complete(2);
    let held = taken_over(&bench, [&first, &second]);
    // It went on from the first one, whose other files it has let go: too little of their object is left to refer to it.
    let mut rotten = bytes(2, 100_000);
    rotten[5_000] ^= 1;
    bench.write("2.sst", &rotten);
    bench.is_reopened = true;
    bench.attempt = AttemptFiles::start(id(2), held);
    let refused = bench.store(3).unwrap_err();
    assert!(refused.to_string().contains("2.sst"), "{refused}");
    assert!(refused.ends_attempt());
}

#[test]
fn two_subtasks_that_go_on_from_one_store_refer_to_the_same_objects() {
    let mut bench = filled();
    let snapshot = bench.complete(1);
    let restored = bench
        .restore(handed_out(&snapshot, 2), LocalIndex::default())
        .unwrap();
    bench.is_reopened = true;
    let mut named = BTreeMap::new();
    for index in 0..2 {
        // One after the other, in the place of the first.
        let held = restored.held[&subtask(index)].clone();
        bench.attempt = AttemptFiles::start(id(1), BTreeMap::from([(subtask(0), held)]));
        let keyed = vec![bench.in_store()];
        let mut part = bench.part(2, keyed);
        part.task.subtask = SubtaskIndex(index);
        let stored = bench.store_part(part).unwrap().snapshot;
        assert_eq!(new_bytes(2, &stored), 16, "head and CURRENT");
        for (path, entry) in stored.files {
            let before = named.insert(path, entry);
            assert!(before.is_none_or(|before| before == entry));
        }
    }
    assert_eq!(named.len(), 3 + 2 + 2, "two large files and a pack");
}

/// Pieces as they are told.
struct Told(Vec<Result<(KeyGroupRange, Vec<u8>), OperatorError>>);

impl SnapshotPieces for Told {
    fn next_piece(&mut self) -> Result<Option<(KeyGroupRange, Vec<u8>)>, OperatorError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.0.remove(0).map(Some)
    }
}

fn piece(start: u16, end: u16) -> (KeyGroupRange, Vec<u8>) {
    (KeyGroupRange { start, end }, bytes(start as u8, 10))
}

/// Stores pieces, behind which the state fails or ends.
fn store_pieces(
    pieces: Vec<(KeyGroupRange, Vec<u8>)>,
    failure: Option<OperatorError>,
) -> Result<StoredPart, PartError> {
    let mut bench = Bench::new();
    let told = pieces.into_iter().map(Ok).chain(failure.map(Err));
    let told = Told(told.collect());
    let part = bench.part(1, vec![KeyedPart::Pieces(Box::new(told))]);
    bench.store_part(part)
}

#[test]
fn each_piece_is_a_keyed_file_with_its_own_key_groups() {
    let stored = store_pieces(vec![piece(0, 3), piece(3, 4), piece(4, 8)], None).unwrap();
    let files = &stored.snapshot.keyed[&uid()];
    let ranges: Vec<_> = files
        .iter()
        .map(|file| (file.range.start, file.range.end))
        .collect();
    assert_eq!(ranges, [(0, 3), (3, 4), (4, 8)]);
    for file in files {
        let entry = stored.snapshot.files[&file.path];
        assert_eq!(
            entry.checksum,
            ContentHash::of(&bytes(file.range.start as u8, 10))
        );
    }
}

#[test]
fn pieces_that_leave_out_repeat_or_leave_the_key_groups_are_a_defect() {
    for wrong in [
        vec![],
        vec![piece(0, 3)],
        vec![piece(1, 8)],
        vec![piece(0, 3), piece(2, 8)],
        vec![piece(0, 3), piece(4, 8)],
        vec![piece(0, 9)],
        vec![piece(0, 0), piece(0, 8)],
    ] {
        let text = format!("{wrong:?}");
        let refused = store_pieces(wrong, None).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Bug, "{text}: {refused}");
        assert!(refused.ends_attempt());
    }
}

#[test]
fn an_error_of_the_state_refuses_the_checkpoint_by_its_kind_and_a_broken_state_ends_the_attempt() {
    let failed = |reason: &str| OperatorError::Restore {
        name: "rows".to_owned(),
        reason: reason.to_owned(),
    };
    let broken = store_pieces(vec![piece(0, 3)], Some(failed("a block is damaged"))).unwrap_err();
    assert!(broken.ends_attempt());
    assert_eq!(
        broken.kind(),
        ErrorKind::Transient,
        "built again from the last checkpoint"
    );
    let source = std::io::Error::from(std::io::ErrorKind::WouldBlock);
    let passing = store_pieces(Vec::new(), Some(OperatorError::NoThread(source))).unwrap_err();
    assert!(!passing.ends_attempt());
    assert_eq!(passing.kind(), ErrorKind::Transient);
}
