//! What only compaction shows: expired rows, dropped files, rows of other key groups, errors in the background. Compactions are
//! asked for by hand.

use highwater_state::contract::copied;
use highwater_state::{
    RowKey, RowWrite, StateError, StateKind, StateSchemas, StoreFactory as _, StoreFiles, TtlConfig,
};
use highwater_types::{
    Classified, ErrorKind, KeyGroup, KeyGroupRange, OperatorUid, Record, SubtaskIndex,
};

use super::*;
use crate::factory::RocksFactory;
use crate::tuning::{FILES_AT_TOP, RocksOptions};

const RANGE: KeyGroupRange = KeyGroupRange { start: 0, end: 16 };

fn factory(dir: &tempfile::TempDir) -> RocksFactory {
    factory_of(dir, 8 << 20)
}

fn factory_of(dir: &tempfile::TempDir, memory_bytes: u64) -> RocksFactory {
    let options = RocksOptions {
        local_dir: dir.path().to_owned(),
        memory_bytes,
        background_threads: 1,
    };
    RocksFactory::new(options).unwrap()
}

/// A state whose rows do not expire.
fn plain() -> StateDescriptor {
    StateDescriptor::new("all", StateKind::Value, timed().schemas)
}

fn place() -> StorePlace {
    StorePlace {
        uid: OperatorUid::parse("count").unwrap(),
        subtask: SubtaskIndex(0),
        range: RANGE,
        held: RANGE,
    }
}

fn timed() -> StateDescriptor {
    let schemas = StateSchemas::of::<i64, (), String>();
    StateDescriptor::new("last", StateKind::Value, schemas).with_ttl(TtlConfig::after_write(10))
}

fn key(number: u16) -> RowKey {
    RowKey {
        group: KeyGroup(number % RANGE.end),
        bytes: number.to_be_bytes().to_vec(),
    }
}

fn write(rows: &mut dyn Backing, numbers: std::ops::Range<u16>, value: &[u8]) {
    let rows_of = |number| RowWrite {
        key: key(number),
        value: Some(value.to_vec()),
    };
    let mut batch = numbers.map(rows_of).collect::<Vec<_>>();
    batch.sort_by(|a, b| a.key.cmp(&b.key));
    rows.write(&batch).unwrap();
}

/// A stored value that was last accessed at `stamp`.
fn stamped(stamp: i64) -> Vec<u8> {
    let mut value = Vec::new();
    ProcessingTime(stamp).encode(&mut value);
    "value".to_owned().encode(&mut value);
    value
}

/// Rows of one byte, in order of keys.
fn small_rows(numbers: std::ops::Range<u16>) -> Vec<RowWrite> {
    let row = |number| RowWrite {
        key: key(number),
        value: Some(vec![1]),
    };
    let mut rows: Vec<_> = numbers.map(row).collect();
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

/// Whether files have their indexes in parts.
fn is_split(store: &RocksStore) -> bool {
    let db = store.shared.db();
    store.families.keys().any(|name| {
        let family = db.cf_handle(name).unwrap();
        let property = "rocksdb.aggregated-table-properties";
        let properties = db.property_value_cf(&family, property).unwrap();
        properties.unwrap().contains("# index partitions=")
    })
}

/// Sets an option of every state.
fn set(store: &RocksStore, option: (&str, &str)) {
    let db = store.shared.db();
    for name in store.families.keys() {
        let family = db.cf_handle(name).unwrap();
        db.set_options_cf(&family, &[option]).unwrap();
    }
}

fn flush(store: &RocksStore) {
    let db = store.shared.db();
    for name in store.families.keys() {
        db.flush_cf(&db.cf_handle(name).unwrap()).unwrap();
    }
}

fn compact(store: &RocksStore) {
    let db = store.shared.db();
    for name in store.families.keys() {
        let family = db.cf_handle(name).unwrap();
        db.flush_cf(&family).unwrap();
        let mut options = rocksdb::CompactOptions::default();
        // Also files that lie at the bottom already.
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        db.compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
    }
}

fn count(rows: &mut dyn Backing) -> usize {
    let (from, until) = (
        key(0),
        RowKey {
            group: KeyGroup(RANGE.end),
            bytes: Vec::new(),
        },
    );
    let mut count = 0;
    rows.scan((&from, &until), usize::MAX, &mut |_, _| count += 1)
        .unwrap();
    count
}

fn create(factory: &RocksFactory) -> RocksStore {
    factory.create_store(&place()).unwrap()
}

#[test]
fn st_11_compaction_removes_what_is_expired_at_the_time_that_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = create(&factory);
    let mut rows = store.open(&timed()).unwrap();
    write(&mut *rows, 0..100, &stamped(100));
    write(&mut *rows, 100..150, &stamped(105));
    compact(&store);
    assert_eq!(count(&mut *rows), 150, "no time was told");
    store.set_time(ProcessingTime(109));
    compact(&store);
    assert_eq!(count(&mut *rows), 150);
    store.set_time(ProcessingTime(112));
    write(&mut *rows, 0..10, &stamped(112));
    compact(&store);
    assert_eq!(count(&mut *rows), 60);
    let files = store.freeze().freeze().unwrap().files().unwrap();
    drop((rows, store));

    // After a restore the rule comes with the state, and the time with the first chunk.
    let mut store = factory.reopen_store(&place(), files).unwrap();
    let mut rows = store.open(&timed()).unwrap();
    compact(&store);
    assert_eq!(count(&mut *rows), 60);
    store.set_time(ProcessingTime(115));
    compact(&store);
    assert_eq!(count(&mut *rows), 10);
}

#[test]
fn rows_of_another_form_are_not_judged_while_a_restore_rewrites_them() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = create(&factory);
    let untimed = StateDescriptor {
        ttl: None,
        ..timed()
    };
    let mut rows = store.open(&untimed).unwrap();
    // As times, these are long ago.
    write(&mut *rows, 0..100, &[0; 20]);
    let files: StoreFiles = store.freeze().freeze().unwrap().files().unwrap();
    drop((rows, store));
    let mut store = factory.reopen_store(&place(), files).unwrap();
    let mut rows = store.open(&timed()).unwrap();
    compact(&store);
    assert_eq!(count(&mut *rows), 100);
    write(&mut *rows, 0..100, &stamped(1_000));
    store.set_time(ProcessingTime(1_000));
    compact(&store);
    assert_eq!(count(&mut *rows), 100);
}

#[test]
fn files_that_hold_dropped_key_groups_only_go_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(&factory(&dir));
    let untimed = StateDescriptor {
        ttl: None,
        ..timed()
    };
    let mut rows = store.open(&untimed).unwrap();
    write(&mut *rows, 0..1_600, &[7; 1_000]);
    compact(&store);
    let before = store.report().disk_bytes;
    assert!(before > 0);
    let end = RowKey {
        group: KeyGroup(RANGE.end),
        bytes: Vec::new(),
    };
    let first = RowKey {
        group: KeyGroup(0),
        bytes: Vec::new(),
    };
    rows.drop_range(&first, &end).unwrap();
    let after = store.report().disk_bytes;
    assert!(after < before / 4, "{before} bytes before, {after} after");
    assert_eq!(count(&mut *rows), 0);
}

#[test]
fn a_report_says_what_the_store_takes() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = create(&factory);
    let mut rows = store.open(&timed()).unwrap();
    let empty = store.report();
    assert_eq!(empty.disk_bytes, 0);
    write(&mut *rows, 0..1_600, &[7; 100]);
    let written = store.report();
    assert!(
        written.memory_bytes > empty.memory_bytes + 100_000,
        "{written:?}"
    );
    assert!(factory.used_bytes() > 100_000);
    drop(store.freeze().freeze().unwrap());
    let frozen = store.report();
    assert!(frozen.disk_bytes > 1_000, "{frozen:?}");
    assert!(frozen.memory_bytes < written.memory_bytes, "{frozen:?}");
}

#[test]
fn x38_a_full_disk_at_a_compaction_is_seen_by_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(&factory(&dir));
    let mut rows = store.open(&timed()).unwrap();
    for _ in 0..2 {
        write(&mut *rows, 0..1_600, &stamped(1));
        drop(store.freeze().freeze().unwrap());
    }
    // RocksDB follows the links when it makes its next tables.
    for number in 0..100 {
        let link = store.shared.at("").dir.join(format!("{number:06}.sst"));
        if !link.exists() {
            std::os::unix::fs::symlink("/dev/full", link).unwrap();
        }
    }
    compact(&store);
    let row = RowWrite {
        key: key(0),
        value: None,
    };
    let error = rows.write(&[row]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let message = error.to_string();
    assert!(message.contains("No space left on device"), "{message}");
    let refused = store.freeze().freeze().err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::Exhausted));
}

#[test]
fn a_writer_waits_for_compaction_and_the_waits_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = create(&factory);
    let mut rows = store.open(&plain()).unwrap();
    set(&store, ("disable_auto_compactions", "true"));
    let files = u16::try_from(FILES_AT_TOP * 4).unwrap();
    for number in 0..files {
        rows.write(&small_rows(number..number + 1)).unwrap();
        flush(&store);
    }
    assert_eq!(store.report().write_waits, 0);
    let shared = Arc::clone(&store.shared);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| rows.write(&small_rows(files..files + 1)));
        while shared.waits() == 0 {
            assert!(!writer.is_finished());
            std::thread::yield_now();
        }
        set(&store, ("disable_auto_compactions", "false"));
        writer.join().unwrap().unwrap();
    });
    assert!(store.report().write_waits > 0);
    assert_eq!(count(rows.as_mut()), usize::from(files) + 1);
}

/// The niceness of the threads of this process with this name.
fn niceness_of(name: &str) -> Vec<i32> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    // One that ends meanwhile has no line any more.
    let lines = threads
        .filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).ok());
    let of_name = lines.filter(|line| line.contains(&format!("({name})")));
    let nice = of_name.map(|line| {
        let behind = line.rsplit_once(") ").unwrap().1;
        behind.split(' ').nth(16).unwrap().parse().unwrap()
    });
    nice.collect()
}

#[test]
fn every_thread_that_compacts_stands_behind_those_of_records() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let _store = create(&factory);
    let own = rustix::process::nice(0).unwrap();
    // They take their names once they run.
    for (name, least) in [("rocksdb:low", 2), ("rocksdb:bottom", 1)] {
        let found = loop {
            let found = niceness_of(name);
            if found.len() >= least {
                break found;
            }
            std::thread::yield_now();
        };
        assert!(
            found.iter().all(|&nice| nice > own),
            "{name}: {found:?}, {own}"
        );
    }
}

#[test]
fn reads_leave_the_memory_of_the_store_to_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = create(&factory);
    let mut rows = store.open(&plain()).unwrap();
    let all = small_rows(0..20_000);
    rows.write(&all).unwrap();
    compact(&store);
    let keys: Vec<_> = all.into_iter().map(|row| row.key).collect();
    let mut found = Vec::new();
    rows.fetch(&keys[..1], &mut found).unwrap();
    let indexes = factory.used_bytes();
    rows.fetch(&keys, &mut found).unwrap();
    assert_eq!(found.iter().flatten().count(), 20_001);
    assert_eq!(count(rows.as_mut()), 20_000);
    assert_eq!(factory.used_bytes(), indexes);
}

#[test]
fn a_store_that_is_reopened_knows_how_many_rows_its_indexes_are_for() {
    let dir = tempfile::tempdir().unwrap();
    // Of 20,000 small rows the filters take some 25 KB, and the index some 3.
    let factory = factory_of(&dir, 32 << 10);
    let mut store = create(&factory);
    let mut rows = store.open(&plain()).unwrap();
    rows.write(&small_rows(0..20_000)).unwrap();
    let frozen = store.freeze().freeze().unwrap();
    drop(rows);
    drop(store);
    let files = frozen.files().unwrap();
    let again = factory.reopen_store(&place(), files).unwrap();
    assert!(again.shared.is_in_parts(), "{} bytes", again.index_bytes);
}

#[test]
fn a_store_that_outgrows_its_memory_splits_its_indexes_and_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory_of(&dir, 16 << 10);
    let mut store = create(&factory);
    let mut rows = store.open(&plain()).unwrap();
    let mut noise = 7u64;
    // Bytes that do not compress.
    let mut value = || {
        let next = || {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (noise >> 33) as u8
        };
        std::iter::repeat_with(next).take(200).collect::<Vec<_>>()
    };
    let mut batch = |numbers: std::ops::Range<u16>| {
        let mut batch: Vec<_> = numbers
            .map(|number| RowWrite {
                key: key(number),
                value: Some(value()),
            })
            .collect();
        batch.sort_by(|a, b| a.key.cmp(&b.key));
        batch
    };
    assert!(!is_split(&store));
    for turn in 0..3u16 {
        rows.write(&batch(turn * 1_000..(turn + 1) * 1_000))
            .unwrap();
        store.freeze().freeze().unwrap();
    }
    assert!(store.shared.is_in_parts(), "{} bytes", store.index_bytes);
    rows.write(&batch(3_000..4_000)).unwrap();
    compact(&store);
    assert!(is_split(&store));
    assert_eq!(count(rows.as_mut()), 4_000);
    let frozen = store.freeze().freeze().unwrap();
    drop(rows);
    drop(store);
    let files = frozen.files().unwrap();
    let mut again = factory.reopen_store(&place(), files).unwrap();
    assert!(again.shared.is_in_parts());
    let mut rows = again.open(&plain()).unwrap();
    assert_eq!(count(rows.as_mut()), 4_000);
}

/// The number behind a name in what RocksDB tells of all tables of a state.
fn of_tables(told: &str, name: &str) -> u64 {
    let mut parts = told.split(';').map(str::trim);
    let part = parts.find(|part| part.starts_with(name)).unwrap();
    part.rsplit_once('=').unwrap().1.parse().unwrap()
}

#[test]
fn what_indexes_and_filters_take_is_estimated_from_nine_tenths_to_twice() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mixed = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for words in [1, 3, 8] {
        let mut store = factory.create_store(&place()).unwrap();
        let mut rows = store.open(&plain()).unwrap();
        let row = |number: u64| RowWrite {
            key: RowKey {
                group: KeyGroup((mixed(number) % 16) as u16),
                bytes: mixed(number).to_be_bytes().to_vec(),
            },
            // Half of a value compresses.
            value: Some(
                (0..words)
                    .flat_map(|at| (mixed(number ^ at) >> 32).to_le_bytes())
                    .collect(),
            ),
        };
        let mut batch: Vec<_> = (0..40_000).map(row).collect();
        batch.sort_by(|a, b| a.key.cmp(&b.key));
        rows.write(&batch).unwrap();
        store.freeze().freeze().unwrap();
        let told = {
            let db = store.shared.db();
            let family = family_of(db, "all").unwrap();
            let property = "rocksdb.aggregated-table-properties";
            db.property_value_cf(&family, property).unwrap().unwrap()
        };
        let found = of_tables(&told, "index block size") + of_tables(&told, "filter block size");
        store.outgrown();
        let estimated = store.index_bytes;
        assert!(
            (found * 9 / 10..2 * found).contains(&estimated),
            "{estimated} are estimated of {found}: {told}"
        );
    }
}

#[test]
fn files_of_another_form_of_rows_are_refused_and_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = factory.create_store(&place()).unwrap();
    let rows = store.open(&plain()).unwrap();
    drop(rows);
    store
        .shared
        .write("the test", |db| {
            db.create_cf("state:before", &rocksdb::Options::default())
        })
        .unwrap();
    let files = store.freeze().freeze().unwrap().files().unwrap();
    for refused in [
        factory.reopen(&place(), files.clone()).err().unwrap(),
        factory.read(files).err().unwrap(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        let text = refused.to_string();
        assert!(text.contains("found `state:before`"), "{text}");
        // No other attempt can read them, so that none is made.
        let refused = StateError::Store {
            uid: place().uid,
            operation: "open",
            kind: refused.kind(),
            source: refused,
        };
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
}

/// The place of a subtask with the key groups `start..end`, of files with all of them.
fn place_of((start, end): (u16, u16)) -> StorePlace {
    StorePlace {
        range: KeyGroupRange { start, end },
        ..place()
    }
}

/// 1,600 rows in files of a key group or two, and the first 400 of them once more above; the bytes of all.
fn in_many_files(factory: &RocksFactory) -> (StoreFiles, u64) {
    let mut store = create(factory);
    let mut rows = store.open(&plain()).unwrap();
    write(&mut *rows, 0..1_600, &[7; 1_000]);
    set(&store, ("target_file_size_base", "2048"));
    compact(&store);
    write(&mut *rows, 0..400, &[8; 1_000]);
    let files = store.freeze().freeze().unwrap().files().unwrap();
    let tables = files.files.iter().filter(|file| file.is_immutable);
    assert!(tables.count() > 8);
    (files, store.report().disk_bytes)
}

/// Only the rows of these key groups are there, and all of them.
fn assert_holds(rows: &mut dyn Backing, own: KeyGroupRange) {
    let mut keys: Vec<_> = (0..1_600).map(key).collect();
    keys.sort();
    let mut found = Vec::new();
    rows.fetch(&keys, &mut found).unwrap();
    for (key, value) in keys.iter().zip(&found) {
        assert_eq!(value.is_some(), own.contains(key.group), "{key:?}");
    }
    assert_eq!(count(rows), found.iter().flatten().count());
}

#[test]
fn rows_of_other_key_groups_are_gone_for_every_reader_and_most_of_their_files_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let (files, before) = in_many_files(&factory);
    for bounds in [(0, 1), (15, 16), (5, 9), (0, 15), (1, 16)] {
        let place = place_of(bounds);
        let own = place.range;
        let mut store = factory.reopen_store(&place, copied(&files)).unwrap();
        let after = store.report().disk_bytes;
        let is_part = own.len() < 8;
        let is_small = after < before * 2 / 3;
        assert!(!is_part || is_small, "{after} of {before} bytes: {own}");
        let mut rows = store.open(&plain()).unwrap();
        assert_holds(&mut *rows, own);
        let mut frozen = store.freeze().freeze().unwrap();
        let mut seen = Vec::new();
        let visited = frozen.visit("all", RANGE, &mut |key, _| seen.push(key.group));
        visited.unwrap();
        assert_eq!(seen.len(), 100 * own.len(), "{own}");
        assert!(seen.iter().all(|&group| own.contains(group)), "{own}");
        compact(&store);
        assert_holds(&mut *rows, own);
        let files = frozen.files().unwrap();
        drop((rows, store, frozen));
        let again = StorePlace { held: own, ..place };
        let mut store = factory.reopen_store(&again, files).unwrap();
        assert_holds(&mut *store.open(&plain()).unwrap(), own);
    }
}

#[test]
fn rows_that_were_cut_off_do_not_come_back_with_their_key_groups() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let (files, _) = in_many_files(&factory);
    let left = place_of((0, 8));
    let mut store = factory.reopen_store(&left, files).unwrap();
    let files = store.freeze().freeze().unwrap().files().unwrap();
    drop(store);
    let merged = StorePlace {
        held: left.range,
        ..place()
    };
    let mut store = factory.reopen_store(&merged, files).unwrap();
    let mut rows = store.open(&plain()).unwrap();
    assert_holds(&mut *rows, left.range);
    // 8 of these 16 are of the key groups that came back.
    write(&mut *rows, 160..176, b"back");
    assert_eq!(count(&mut *rows), 800 + 8);
    compact(&store);
    assert_eq!(count(&mut *rows), 800 + 8);
    let frozen = store.freeze().freeze().unwrap();
    drop((rows, store));
    let mut store = factory
        .reopen_store(&place_of((8, 16)), frozen.files().unwrap())
        .unwrap();
    assert_eq!(count(&mut *store.open(&plain()).unwrap()), 8);
}

#[test]
fn a_restore_with_the_same_key_groups_or_more_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let (files, _) = in_many_files(&factory);
    let tables = |files: &StoreFiles| {
        let tables = files.files.iter().filter(|file| file.is_immutable);
        tables.map(|file| file.name.clone()).collect::<Vec<_>>()
    };
    let fewer = StorePlace {
        held: place_of((4, 8)).range,
        ..place()
    };
    for place in [place(), fewer] {
        let mut store = factory.reopen_store(&place, copied(&files)).unwrap();
        drop(store.open(&plain()).unwrap());
        let again = store.freeze().freeze().unwrap().files().unwrap();
        assert_eq!(tables(&again), tables(&files));
    }
}

#[test]
fn files_are_merged_again_once_the_rows_of_others_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let factory = factory(&dir);
    let mut store = create(&factory);
    let mut rows = store.open(&plain()).unwrap();
    set(&store, ("disable_auto_compactions", "true"));
    for _ in 0..2 * FILES_AT_TOP {
        write(&mut *rows, 0..160, b"value");
        flush(&store);
    }
    let files = store.freeze().freeze().unwrap().files().unwrap();
    drop((rows, store));
    let place = place_of((0, 4));
    let mut store = factory.reopen_store(&place, files).unwrap();
    let mut rows = store.open(&plain()).unwrap();
    let options = rocksdb::WaitForCompactOptions::default();
    store.shared.db().wait_for_compact(&options).unwrap();
    let family = family_of(store.shared.db(), "all").unwrap();
    let property = "rocksdb.num-files-at-level0";
    let at_top = store.shared.db().property_int_value_cf(&family, property);
    let at_top = at_top.unwrap().unwrap();
    assert!(at_top < u64::from(FILES_AT_TOP), "{at_top} files");
    assert_eq!(count(&mut *rows), 40);
}

#[test]
fn indexes_are_whole_again_where_those_of_the_own_key_groups_fit() {
    let dir = tempfile::tempdir().unwrap();
    // Of 20,000 small rows the filters take some 25 KB, and the index some 3.
    let factory = factory_of(&dir, 32 << 10);
    let mut store = create(&factory);
    let mut rows = store.open(&plain()).unwrap();
    rows.write(&small_rows(0..20_000)).unwrap();
    set(&store, ("target_file_size_base", "2048"));
    compact(&store);
    let files = store.freeze().freeze().unwrap().files().unwrap();
    assert!(store.shared.is_in_parts());
    drop((rows, store));
    let place = place_of((3, 4));
    let mut part = factory.reopen_store(&place, files).unwrap();
    assert!(!part.shared.is_in_parts(), "{} bytes", part.index_bytes);
    assert_eq!(count(&mut *part.open(&plain()).unwrap()), 1_250);
}
