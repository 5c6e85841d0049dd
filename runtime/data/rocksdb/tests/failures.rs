//! What goes wrong on local disk: full, broken, damaged. Every case names its kind, takes the store out of use, and leaves
//! nothing that a new store from the last files would not get over.

#![allow(clippy::unwrap_used, reason = "helpers of a test unwrap as tests do")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use highwater_rocksdb::{RocksFactory, RocksOptions};
use highwater_state::contract::copied;
use highwater_state::{
    Backing, BackingError, RowKey, RowWrite, StateDescriptor, StateKind, StateSchemas, StateStore,
    StoreFactory, StoreFiles, StorePlace,
};
use highwater_types::{ErrorKind, KeyGroup, KeyGroupRange, OperatorUid, SubtaskIndex};

const RANGE: KeyGroupRange = KeyGroupRange { start: 0, end: 8 };

fn factory(dir: &Path) -> RocksFactory {
    RocksFactory::new(RocksOptions {
        local_dir: dir.to_owned(),
        memory_bytes: 8 << 20,
        background_threads: 1,
    })
    .unwrap()
}

fn place() -> StorePlace {
    StorePlace {
        uid: OperatorUid::parse("count").unwrap(),
        subtask: SubtaskIndex(0),
        range: RANGE,
        held: RANGE,
    }
}

fn state() -> StateDescriptor {
    let schemas = StateSchemas::of::<i64, (), String>();
    StateDescriptor::new("rows", StateKind::Value, schemas)
}

fn good<T>(result: Result<T, BackingError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn failure<T>(result: Result<T, BackingError>) -> (ErrorKind, String) {
    match result {
        Ok(_) => panic!("nothing failed"),
        Err(error) => (error.kind(), error.to_string()),
    }
}

fn row(number: u32) -> RowKey {
    RowKey {
        group: KeyGroup((number / 1_000) as u16 % RANGE.end),
        bytes: number.to_be_bytes().to_vec(),
    }
}

/// Rows `first..first + 1000` with a value of `bytes` bytes that does not compress.
fn batch(first: u32, bytes: usize) -> Vec<RowWrite> {
    let rows = first..first + 1_000;
    rows.map(|number| {
        let mut value = Vec::with_capacity(bytes);
        let mut mixed = u64::from(number) + 1;
        while value.len() < bytes {
            mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (mixed >> 29);
            value.extend_from_slice(&mixed.to_le_bytes());
        }
        RowWrite {
            key: row(number),
            value: Some(value),
        }
    })
    .collect()
}

/// A store with 1000 rows, and its files in a directory of their own.
struct Running {
    store: Box<dyn StateStore>,
    rows: Box<dyn Backing>,
    dir: PathBuf,
    kept: StoreFiles,
}

fn start(factory: &RocksFactory) -> Running {
    let mut store = good(factory.create(&place()));
    let mut rows = good(store.open(&state()));
    good(rows.write(&batch(0, 100)));
    let frozen = good(store.freeze().freeze());
    let kept = copied(&good(frozen.files()));
    // The first directory that a factory names.
    let mut dirs = std::fs::read_dir(kept_above(factory)).unwrap();
    let dir = dirs.find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_string_lossy().contains("-count-").then_some(path)
    });
    Running {
        store,
        rows,
        dir: dir.unwrap(),
        kept,
    }
}

fn kept_above(factory: &RocksFactory) -> PathBuf {
    let text = format!("{factory:?}");
    let (_, rest) = text.split_once("local_dir: \"").unwrap();
    rest.split_once('"').unwrap().0.into()
}

/// From now on the next files of the database are `target`: RocksDB follows the link.
fn next_files_are(dir: &Path, target: &Path) {
    let names = std::fs::read_dir(dir).unwrap();
    let last = names.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let digits = name
            .trim_start_matches("MANIFEST-")
            .trim_start_matches("OPTIONS-");
        let digits = digits.split('.').next().unwrap_or_default();
        digits.parse::<u64>().ok()
    });
    let last = last.max().unwrap();
    for number in last + 1..last + 20 {
        symlink(target, dir.join(format!("{number:06}.sst"))).unwrap();
    }
}

/// A new store from the last files has the rows of the freeze, and takes more.
fn assert_recovers(factory: &RocksFactory, kept: &StoreFiles) {
    let mut store = good(factory.reopen(&place(), copied(kept)));
    let mut rows = good(store.open(&state()));
    let mut found = Vec::new();
    let keys = (0..1_000).map(row).collect::<Vec<_>>();
    good(rows.fetch(&keys, &mut found));
    assert!(found.iter().all(Option::is_some));
    good(rows.write(&batch(1_000, 100)));
    let mut frozen = good(store.freeze().freeze());
    let mut count = 0;
    good(frozen.visit("rows", RANGE, &mut |_, _| count += 1));
    assert_eq!(count, 2_000);
}

/// Every call is refused with the kind of the first failure, though the disk is well again.
fn assert_refuses(running: &mut Running, kind: ErrorKind) {
    let calls = [
        failure(running.rows.write(&batch(0, 1))),
        failure(running.rows.fetch(&[row(0)], &mut Vec::new())),
        failure(running.rows.scan((&row(0), &row(9)), 9, &mut |_, _| {})),
        failure(running.rows.drop_range(&row(0), &row(9))),
        failure(running.store.open(&state())),
        failure(running.store.drop_state("rows")),
        failure(running.store.freeze().freeze()),
    ];
    for (found, message) in calls {
        assert_eq!(found, kind, "{message}");
        assert!(message.contains("is refused"), "{message}");
        assert!(
            message.contains("restore from the last checkpoint"),
            "{message}"
        );
    }
}

#[test]
fn x38_a_full_disk_at_a_freeze_is_exhausted_and_state_comes_back_once_there_is_room() {
    let above = tempfile::tempdir().unwrap();
    let factory = factory(above.path());
    let mut running = start(&factory);
    next_files_are(&running.dir, Path::new("/dev/full"));
    good(running.rows.write(&batch(1_000, 100)));
    let (kind, message) = failure(running.store.freeze().freeze());
    assert_eq!(kind, ErrorKind::Exhausted, "{message}");
    assert!(message.contains("No space left on device"), "{message}");
    assert!(
        message.contains(&*running.dir.to_string_lossy()),
        "{message}"
    );
    assert!(message.contains("free space there"), "{message}");
    assert_refuses(&mut running, ErrorKind::Exhausted);
    let kept = running.kept.clone();
    drop(running);
    assert_recovers(&factory, &kept);
}

#[test]
fn x38_a_full_disk_in_the_background_is_seen_by_a_later_write() {
    let above = tempfile::tempdir().unwrap();
    let factory = factory(above.path());
    let mut running = start(&factory);
    next_files_are(&running.dir, Path::new("/dev/full"));
    // Four write buffers of 1 MiB are more than a store may fill without one that is written out.
    let writes = (1..).map(|at| running.rows.write(&batch(at * 1_000, 1_000)));
    let failed = writes.take(40).find_map(Result::err);
    let error = failed.expect("a store that cannot write out its buffers must say so");
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert!(
        error.to_string().contains("No space left on device"),
        "{error}"
    );
    assert_refuses(&mut running, ErrorKind::Exhausted);
    let kept = running.kept.clone();
    drop(running);
    assert_recovers(&factory, &kept);
}

/// Set in the process that runs under a limit.
const LIMITED: &str = "HIGHWATER_TEST_UNDER_A_FILE_SIZE_LIMIT";

#[test]
fn a_file_size_limit_is_exhausted() {
    if std::env::var_os(LIMITED).is_none() {
        // The limit is of a process, and its signal must be ignored before the process begins.
        let test = std::env::current_exe().unwrap();
        let mut shell = std::process::Command::new("sh");
        let script =
            "trap '' XFSZ; ulimit -f 256; exec \"$0\" --exact a_file_size_limit_is_exhausted";
        let status = shell
            .args(["-c", script])
            .arg(test)
            .env(LIMITED, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let above = tempfile::tempdir().unwrap();
    let factory = factory(above.path());
    let mut running = start(&factory);
    good(running.rows.write(&batch(1_000, 700)));
    let (kind, message) = failure(running.store.freeze().freeze());
    assert_eq!(kind, ErrorKind::Exhausted, "{message}");
    assert!(message.contains("File too large"), "{message}");
    assert_refuses(&mut running, ErrorKind::Exhausted);
    let kept = running.kept.clone();
    drop(running);
    assert_recovers(&factory, &kept);
}

#[test]
fn x39_a_disk_that_fails_is_transient_and_its_store_is_not_used_again() {
    let above = tempfile::tempdir().unwrap();
    let factory = factory(above.path());
    let mut running = start(&factory);
    next_files_are(&running.dir, &above.path().join("no such directory/file"));
    good(running.rows.write(&batch(1_000, 100)));
    let (kind, message) = failure(running.store.freeze().freeze());
    assert_eq!(kind, ErrorKind::Transient, "{message}");
    assert_refuses(&mut running, ErrorKind::Transient);
    let kept = running.kept.clone();
    drop(running);
    assert_recovers(&factory, &kept);
}

#[test]
fn a_flipped_bit_of_a_table_is_found_by_whoever_reads_it() {
    let above = tempfile::tempdir().unwrap();
    let factory = factory(above.path());
    let running = start(&factory);
    let mut has_table = false;
    for file in running.kept.files.iter().filter(|file| file.is_immutable) {
        has_table = true;
        // In the blocks of rows, which open does not look at.
        for at in [10, file.length / 3, file.length / 2] {
            let files = copied(&running.kept);
            let path = files.dir.path().join(&file.name);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at as usize] ^= 4;
            std::fs::write(&path, bytes).unwrap();

            // Blocks that the cache has of the same file are good, so that it must be another cache.
            let factory = self::factory(above.path());
            let mut read = good(factory.read(copied(&files)));
            let (kind, message) = failure(read.visit("rows", RANGE, &mut |_, _| {}));
            assert_eq!(kind, ErrorKind::Corrupt, "byte {at}: {message}");

            let mut store = good(factory.reopen(&place(), files));
            let mut rows = good(store.open(&state()));
            let keys = (0..1_000).map(row).collect::<Vec<_>>();
            let (kind, message) = failure(rows.fetch(&keys, &mut Vec::new()));
            assert_eq!(kind, ErrorKind::Corrupt, "byte {at}: {message}");
            let (kind, message) = failure(rows.write(&batch(0, 1)));
            assert_eq!(kind, ErrorKind::Corrupt, "byte {at}: {message}");
        }
    }
    assert!(has_table);
}

#[test]
fn a_directory_that_cannot_be_written_says_which() {
    let above = tempfile::tempdir().unwrap();
    let file = above.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let (kind, message) = failure(factory(&file).create(&place()));
    assert_eq!(kind, ErrorKind::Transient, "{message}");
    assert!(message.contains(&*file.to_string_lossy()), "{message}");
}
