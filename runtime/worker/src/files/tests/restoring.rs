//! What a restore fetches, finds on local disk, and refuses.

use std::os::unix::fs::MetadataExt;

use super::*;

const HEAD: u64 = 8;

fn filled() -> (Bench, TaskSnapshot) {
    let mut bench = Bench::new();
    bench.write("big.sst", &bytes(1, 1_200_000));
    bench.write("1.sst", &bytes(2, 3_000));
    bench.write("2.sst", &bytes(3, 5_000));
    bench.write("MANIFEST", &bytes(4, 4_000));
    let snapshot = bench.complete(1);
    (bench, snapshot)
}

fn kept(bench: &Bench) -> LocalIndex {
    let mut index = LocalIndex::default();
    bench.kept.offer(&mut index);
    index
}

#[test]
fn a_restore_without_local_files_fetches_every_object_once() {
    let (bench, snapshot) = filled();
    let restored = bench
        .restore(handed_out(&snapshot, 1), LocalIndex::default())
        .unwrap();
    let files = in_store(&restored.operators[&subtask(0)]);
    assert_eq!(contents(files.dir.path()), contents(bench.store.path()));
    assert_eq!(files.store, "plain");
    let of: Vec<_> = files
        .files
        .iter()
        .map(|file| (file.name.as_str(), file.is_immutable))
        .collect();
    assert_eq!(
        of,
        [
            ("1.sst", true),
            ("2.sst", true),
            ("MANIFEST", false),
            ("big.sst", true)
        ]
    );
    let all = RestoredBytes {
        fetched: snapshot.files.values().map(|entry| entry.length).sum(),
        local: 0,
    };
    assert_eq!(restored.bytes, all);
}

#[test]
fn local_files_are_reused_linked_or_copied_and_only_the_head_is_fetched() {
    let (bench, snapshot) = filled();
    let restored = bench
        .restore(handed_out(&snapshot, 1), kept(&bench))
        .unwrap();
    let files = in_store(&restored.operators[&subtask(0)]);
    assert_eq!(contents(files.dir.path()), contents(bench.store.path()));
    let bytes = RestoredBytes {
        fetched: HEAD,
        local: 1_200_000 + 3_000 + 5_000 + 4_000,
    };
    assert_eq!(restored.bytes, bytes);
    let inode = |dir: &Path, name: &str| std::fs::metadata(dir.join(name)).unwrap().ino();
    let same = |name| inode(files.dir.path(), name) == inode(bench.store.path(), name);
    assert!(same("big.sst") && same("1.sst"));
    assert!(!same("MANIFEST"), "the store may write to it");
}

#[test]
fn a_local_file_that_does_not_match_is_no_damage_and_is_fetched() {
    let (bench, snapshot) = filled();
    // The store's own file is the same one by hard link: it is written anew, under its name.
    let flipped = bytes(99, 3_000);
    std::fs::remove_file(bench.store.path().join("1.sst")).unwrap();
    bench.write("1.sst", &flipped);
    let mut index = LocalIndex::default();
    let frozen = bench.freeze();
    index.add(&frozen);
    let restored = bench.restore(handed_out(&snapshot, 1), index).unwrap();
    let files = in_store(&restored.operators[&subtask(0)]);
    assert_eq!(contents(files.dir.path())["1.sst"], bytes(2, 3_000));
    let pack = snapshot.keyed[&uid()][0].parts()[0].path.clone();
    assert_eq!(restored.bytes.fetched, HEAD + snapshot.files[&pack].length);
}

#[test]
fn local_files_of_a_dead_process_are_reused() {
    let (bench, snapshot) = filled();
    let Bench { dirs, root, .. } = &bench;
    let left = root.path().join("fleet").join(Nonce(77).to_string());
    std::fs::create_dir_all(left.join("db")).unwrap();
    std::fs::write(left.join("db/big.sst"), bytes(1, 1_200_000)).unwrap();
    let later = LocalDirs::open(root.path(), &JobIdentity::parse("fleet").unwrap(), Nonce(2));
    assert_ne!(dirs.path(), later.as_ref().unwrap().path());
    let place = LocalPlace::new(later.unwrap(), LocalIndex::default());
    let states = handed_out(&snapshot, 1);
    let restored = bench
        .rim
        .block_on(restore(&bench.files, Some(&place), states));
    assert_eq!(restored.unwrap().bytes.local, 1_200_000);
}

#[test]
fn x36_a_flipped_cut_missing_or_swapped_object_is_found_before_anything_is_used() {
    let (bench, snapshot) = filled();
    let paths: Vec<_> = snapshot.files.keys().cloned().collect();
    assert_eq!(paths.len(), 4, "head, large file, pack, changeable file");
    for (at, path) in paths.iter().enumerate() {
        let object = bench.files.object(path).unwrap();
        let read = bench.rim.block_on(bench.storage.get(&object)).unwrap();
        let good = read.unwrap().bytes;
        let other = bench.files.object(&paths[(at + 1) % paths.len()]).unwrap();
        let other = bench
            .rim
            .block_on(bench.storage.get(&other))
            .unwrap()
            .unwrap();
        let mut flipped = good.to_vec();
        flipped[good.len() / 2] ^= 1;
        let cut = good[..good.len() - 1].to_vec();
        let swapped = other.bytes.to_vec();
        for (how, bad) in [
            ("flipped", Some(flipped)),
            ("cut", Some(cut)),
            ("empty", Some(Vec::new())),
            ("swapped", Some(swapped)),
            ("missing", None),
        ] {
            bench.tamper(path, |_| bad.clone());
            let refused = bench.restore(handed_out(&snapshot, 1), LocalIndex::default());
            let refused = refused.map(|_| ()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{how} {path}");
            let text = crate::slot::error_chain(&refused);
            assert!(text.contains(path.as_str()), "{how} {path}: {text}");
            bench
                .rim
                .block_on(bench.storage.put(&object, good.clone()))
                .unwrap();
        }
    }
    assert!(
        bench
            .restore(handed_out(&snapshot, 1), LocalIndex::default())
            .is_ok()
    );
}

#[test]
fn a_file_inside_a_sound_object_is_compared_too() {
    let (bench, mut snapshot) = filled();
    let keyed = &mut snapshot.keyed.get_mut(&uid()).unwrap()[0];
    let parts = &mut keyed.store.as_mut().unwrap().parts;
    parts[0].checksum = ContentHash(1);
    let refused = bench.restore(handed_out(&snapshot, 1), LocalIndex::default());
    let refused = refused.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.to_string().contains("1.sst"), "{refused}");
}

#[test]
fn a_missing_object_whose_files_are_here_is_stored_again_by_the_next_checkpoint() {
    let (mut bench, snapshot) = filled();
    let large = snapshot.keyed[&uid()][0]
        .parts()
        .iter()
        .find(|part| part.name == "big.sst");
    let large = large.unwrap().path.clone();
    bench.tamper(&large, |_| None);
    let restored = bench
        .restore(handed_out(&snapshot, 1), kept(&bench))
        .unwrap();
    bench.attempt = AttemptFiles::start(id(1), restored.held);
    let second = bench.complete(2);
    assert!(!second.files.contains_key(&large));
    let whole = bench
        .restore(handed_out(&second, 1), LocalIndex::default())
        .unwrap();
    let files = in_store(&whole.operators[&subtask(0)]);
    assert_eq!(contents(files.dir.path()), contents(bench.store.path()));
}

#[test]
fn at_another_parallelism_each_subtask_gets_every_file_in_a_directory_of_its_own() {
    let (bench, snapshot) = filled();
    let restored = bench
        .restore(handed_out(&snapshot, 3), LocalIndex::default())
        .unwrap();
    let mut dirs = BTreeSet::new();
    for index in 0..3 {
        let files = in_store(&restored.operators[&subtask(index)]);
        assert_eq!(contents(files.dir.path()), contents(bench.store.path()));
        dirs.insert(files.dir.path().to_owned());
    }
    assert_eq!(dirs.len(), 3);
    let once: u64 = snapshot.files.values().map(|entry| entry.length).sum();
    assert_eq!(restored.bytes.fetched, once, "each object is fetched once");
    let manifest = |index: u32| {
        in_store(&restored.operators[&subtask(index)])
            .dir
            .path()
            .join("MANIFEST")
    };
    std::fs::write(manifest(0), b"changed").unwrap();
    assert_eq!(
        std::fs::read(manifest(1)).unwrap(),
        bytes(4, 4_000),
        "nobody shares what changes"
    );
}

#[test]
fn the_files_of_a_store_need_a_local_directory() {
    let (bench, snapshot) = filled();
    let states = handed_out(&snapshot, 1);
    let refused = bench.rim.block_on(restore(&bench.files, None, states));
    let (of, refused) = refused.map(|_| ()).unwrap_err();
    assert_eq!((of, refused.kind()), (subtask(0), ErrorKind::Invalid));
    assert!(refused.to_string().contains("state.local-dir"), "{refused}");
}

#[test]
fn a_large_snapshot_file_goes_to_local_disk_if_there_is_one() {
    let mut bench = Bench::new();
    let (small, large) = (bytes(1, 1_000), bytes(2, 9 << 20));
    let keyed = vec![
        KeyedPart::Bytes(small.clone()),
        KeyedPart::Bytes(large.clone()),
    ];
    let part = bench.part(1, keyed);
    let snapshot = bench.store_part(part).unwrap().snapshot;
    let restored = bench
        .restore(handed_out(&snapshot, 1), LocalIndex::default())
        .unwrap();
    let [RestoredPart::Bytes(first), RestoredPart::File { name, dir }] =
        &restored.operators[&subtask(0)].keyed[..]
    else {
        panic!("{restored:?}")
    };
    assert_eq!(**first, small);
    assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), large);
    let states = handed_out(&snapshot, 1);
    let without = bench
        .rim
        .block_on(restore(&bench.files, None, states))
        .unwrap();
    let [RestoredPart::Bytes(_), RestoredPart::Bytes(second)] =
        &without.operators[&subtask(0)].keyed[..]
    else {
        panic!("{without:?}")
    };
    assert_eq!(**second, large);
}

#[test]
fn a_restored_directory_goes_with_its_last_owner() {
    let (bench, snapshot) = filled();
    let restored = bench
        .restore(handed_out(&snapshot, 1), LocalIndex::default())
        .unwrap();
    let path = in_store(&restored.operators[&subtask(0)])
        .dir
        .path()
        .to_owned();
    assert!(path.exists());
    drop(restored);
    assert!(!path.exists());
}
