//! A store that is only good at bulk: proves that the tables fit a log-structured merge tree.
//!
//! Rows lie in memory in key order. It refuses what a real store would be slow at or wrong with: unsorted or repeated
//! keys, and it counts its calls so that a test can see that misses came in bulk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use highwater_types::record::{decode_length, encode_length};
use highwater_types::{
    Classified, DecodeError, ErrorKind, KeyGroup, KeyGroupRange, ProcessingTime, Record,
};

use crate::backing::{Backing, RowKey, RowWrite, VisitRow};
use crate::descriptor::StateDescriptor;
use crate::error::BackingError;
use crate::snapshot::rows::{next_row, push_row};
use crate::snapshot::schema_bytes::{read_text, write_text};
use crate::store::{
    Freezing, FrozenStore, LocalDir, StateStore, StoreFactory, StoreFile, StoreFiles, StorePlace,
    StoreReport,
};

/// How often the stores of a factory were called.
#[derive(Debug, Default)]
pub struct StoreCalls {
    fetches: AtomicU64,
    fetched: AtomicU64,
    writes: AtomicU64,
    written: AtomicU64,
    largest: AtomicU64,
}

impl StoreCalls {
    /// Bulk reads.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Keys that were asked for.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Bulk writes.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Rows that were written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes of the keys and values of the largest bulk write.
    pub fn largest_write(&self) -> u64 {
        self.largest.load(Ordering::Relaxed)
    }
}

/// Makes stores that are only good at bulk.
#[derive(Clone, Debug, Default)]
pub struct SlowMissFactory {
    calls: Arc<StoreCalls>,
}

impl SlowMissFactory {
    /// The calls of all stores that this factory and its clones made.
    pub fn calls(&self) -> &StoreCalls {
        &self.calls
    }
}

const NAME: &str = "slow-miss";

/// The one file of a frozen store.
const FILE: &str = "rows";

type Rows = BTreeMap<RowKey, Vec<u8>>;

/// The rows of each state; handles of one state share them.
type States = BTreeMap<String, Arc<Mutex<Arc<Rows>>>>;

impl StoreFactory for SlowMissFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn create(&self, place: &StorePlace) -> Result<Box<dyn StateStore>, BackingError> {
        Ok(Box::new(SlowMissStore {
            states: States::new(),
            range: place.range,
            calls: Arc::clone(&self.calls),
        }))
    }

    fn reopen(
        &self,
        place: &StorePlace,
        files: StoreFiles,
    ) -> Result<Box<dyn StateStore>, BackingError> {
        let mut states = read_states(&files)?;
        for rows in states.values_mut() {
            let is_foreign = |group| place.foreign().any(|side| side.contains(group));
            rows.retain(|key, _| !is_foreign(key.group));
        }
        let states = states
            .into_iter()
            .map(|(name, rows)| (name, Arc::new(Mutex::new(Arc::new(rows)))));
        Ok(Box::new(SlowMissStore {
            states: states.collect(),
            range: place.range,
            calls: Arc::clone(&self.calls),
        }))
    }

    fn used_bytes(&self) -> u64 {
        0
    }

    fn read(&self, files: StoreFiles) -> Result<Box<dyn FrozenStore>, BackingError> {
        let states = read_states(&files)?;
        let states = states
            .into_iter()
            .map(|(name, rows)| (name, Arc::new(rows)));
        Ok(Box::new(Frozen(states.collect())))
    }
}

struct SlowMissStore {
    states: States,
    range: KeyGroupRange,
    calls: Arc<StoreCalls>,
}

impl StateStore for SlowMissStore {
    fn open(&mut self, state: &StateDescriptor) -> Result<Box<dyn Backing>, BackingError> {
        let rows = self.states.entry(state.name.clone()).or_default();
        Ok(Box::new(SlowMissBacking {
            rows: Arc::clone(rows),
            range: self.range,
            calls: Arc::clone(&self.calls),
        }))
    }

    fn drop_state(&mut self, name: &str) -> Result<(), BackingError> {
        self.states.remove(name);
        Ok(())
    }

    fn set_time(&mut self, _: ProcessingTime) {}

    fn freeze(&mut self) -> Box<dyn Freezing> {
        let states = self.states.iter();
        Box::new(ToFreeze(
            states
                .map(|(name, rows)| (name.clone(), Arc::clone(rows)))
                .collect(),
        ))
    }

    fn report(&self) -> StoreReport {
        StoreReport::default()
    }
}

struct SlowMissBacking {
    rows: Arc<Mutex<Arc<Rows>>>,
    range: KeyGroupRange,
    calls: Arc<StoreCalls>,
}

impl SlowMissBacking {
    fn rows(&self) -> MutexGuard<'_, Arc<Rows>> {
        self.rows.lock().expect("no test panics with the rows")
    }
}

impl Backing for SlowMissBacking {
    fn fetch(
        &mut self,
        keys: &[RowKey],
        found: &mut Vec<Option<Vec<u8>>>,
    ) -> Result<(), BackingError> {
        assert!(!keys.is_empty(), "an empty read");
        assert!(
            keys.is_sorted_by(|a, b| a < b),
            "keys are not sorted and distinct"
        );
        self.calls.fetches.fetch_add(1, Ordering::Relaxed);
        self.calls
            .fetched
            .fetch_add(keys.len() as u64, Ordering::Relaxed);
        let rows = self.rows();
        found.extend(keys.iter().map(|key| rows.get(key).cloned()));
        Ok(())
    }

    fn write(&mut self, rows: &[RowWrite]) -> Result<(), BackingError> {
        assert!(!rows.is_empty(), "an empty batch");
        assert!(
            rows.is_sorted_by(|a, b| a.key < b.key),
            "rows are not sorted and distinct"
        );
        self.calls.writes.fetch_add(1, Ordering::Relaxed);
        self.calls
            .written
            .fetch_add(rows.len() as u64, Ordering::Relaxed);
        let bytes = |row: &RowWrite| row.key.bytes.len() + row.value.as_ref().map_or(0, Vec::len);
        let bytes = rows.iter().map(bytes).sum::<usize>() as u64;
        self.calls.largest.fetch_max(bytes, Ordering::Relaxed);
        let mut shared = self.rows();
        let held = Arc::make_mut(&mut shared);
        for row in rows {
            assert!(
                self.range.contains(row.key.group),
                "a row of a foreign key group"
            );
            match &row.value {
                Some(value) => held.insert(row.key.clone(), value.clone()),
                None => held.remove(&row.key),
            };
        }
        Ok(())
    }

    fn scan(
        &mut self,
        (from, until): (&RowKey, &RowKey),
        limit: usize,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError> {
        if from < until {
            let rows = self.rows();
            let rows = rows.range(from..until).take(limit);
            rows.for_each(|(key, value)| visit(key, value));
        }
        Ok(())
    }

    fn drop_range(&mut self, from: &RowKey, until: &RowKey) -> Result<(), BackingError> {
        Arc::make_mut(&mut self.rows()).retain(|key, _| key < from || key >= until);
        Ok(())
    }
}

struct ToFreeze(States);

impl Freezing for ToFreeze {
    fn freeze(self: Box<Self>) -> Result<Box<dyn FrozenStore>, BackingError> {
        let rows = |rows: Arc<Mutex<Arc<Rows>>>| {
            Arc::clone(&rows.lock().expect("no test panics with the rows"))
        };
        let states = self.0.into_iter();
        Ok(Box::new(Frozen(
            states.map(|(name, shared)| (name, rows(shared))).collect(),
        )))
    }
}

struct Frozen(BTreeMap<String, Arc<Rows>>);

impl FrozenStore for Frozen {
    fn visit(
        &mut self,
        state: &str,
        groups: KeyGroupRange,
        visit: VisitRow<'_>,
    ) -> Result<(), BackingError> {
        let rows = self.0.get(state).into_iter().flat_map(|rows| rows.iter());
        rows.filter(|(key, _)| groups.contains(key.group))
            .for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn files(&self) -> Result<StoreFiles, BackingError> {
        let dir = new_dir()?;
        let bytes = write_states(&self.0);
        std::fs::write(dir.path().join(FILE), &bytes).map_err(|error| fault(&error))?;
        Ok(StoreFiles {
            store: NAME.to_owned(),
            dir,
            files: vec![StoreFile {
                name: FILE.to_owned(),
                length: bytes.len() as u64,
                is_immutable: false,
                is_restored: false,
            }],
        })
    }
}

/// A copy of the files in a directory of its own, as a restore brings them.
///
/// # Panics
/// If local disk cannot be written.
pub fn copied(files: &StoreFiles) -> StoreFiles {
    let dir = new_dir().expect("a directory of the test is made");
    for file in &files.files {
        let (from, to) = (
            files.dir.path().join(&file.name),
            dir.path().join(&file.name),
        );
        std::fs::copy(from, to).expect("a file of a frozen store is there");
    }
    StoreFiles {
        dir,
        ..files.clone()
    }
}

fn new_dir() -> Result<LocalDir, BackingError> {
    Ok(LocalDir::own(
        tempfile::tempdir().map_err(|error| fault(&error))?.keep(),
    ))
}

fn write_states(states: &BTreeMap<String, Arc<Rows>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, rows) in states {
        write_text(name, &mut out);
        encode_length(rows.len() as u64, &mut out);
        for (key, value) in rows.iter() {
            key.group.0.encode(&mut out);
            push_row(&key.bytes, value, &mut out);
        }
    }
    out
}

fn read_states(files: &StoreFiles) -> Result<BTreeMap<String, Rows>, BackingError> {
    if files.store != NAME {
        let text = format!("files of `{}`", files.store);
        return Err(Box::new(SlowMissFault(text, ErrorKind::Corrupt)));
    }
    let read = std::fs::read(files.dir.path().join(FILE));
    let bytes = read.map_err(|error| fault(&error))?;
    let mut input = bytes.as_slice();
    let mut states = BTreeMap::new();
    while !input.is_empty() {
        let (name, rows) = read_state(&mut input).map_err(|error| -> BackingError {
            Box::new(SlowMissFault(error.to_string(), ErrorKind::Corrupt))
        })?;
        states.insert(name, rows);
    }
    Ok(states)
}

fn read_state(input: &mut &[u8]) -> Result<(String, Rows), DecodeError> {
    let name = read_text(input)?;
    let mut rows = Rows::new();
    for _ in 0..decode_length(input)? {
        let group = KeyGroup(u16::decode(input)?);
        let (key, value) = next_row(input)?;
        let bytes = key.to_vec();
        rows.insert(RowKey { group, bytes }, value.to_vec());
    }
    Ok((name, rows))
}

/// What a fake store has to say.
#[derive(Debug, thiserror::Error)]
#[error("the fake store failed: {0}")]
struct SlowMissFault(String, ErrorKind);

impl Classified for SlowMissFault {
    fn kind(&self) -> ErrorKind {
        self.1
    }
}

fn fault(error: &std::io::Error) -> BackingError {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::Corrupt,
        _ => ErrorKind::Transient,
    };
    Box::new(SlowMissFault(error.to_string(), kind))
}
