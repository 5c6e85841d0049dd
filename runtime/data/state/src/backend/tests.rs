//! Opening, restoring and refusing: what the messages name, what a TTL does, what the budget does.

use std::sync::Arc;

use highwater_types::{
    CheckpointId, Classified, DataType, DecodeError, Epoch, ErrorKind, Field, Key, Parallelism,
    Record, SubtaskIndex,
};

use super::*;
use crate::context::KeyContext;
use crate::contract::SlowMissFactory;
use crate::keyed::{ListState, MapState, SlicedState, ValueState};
use crate::snapshot::{KeyedSnapshot, UnsealedSnapshot, canonical_digest};
use crate::table::StateTable;
use crate::ttl::{TtlCleanup, TtlConfig, TtlUpdate, TtlVisibility};

type Names = ValueState<i64, (), String>;

fn setup(index: u32, parallelism: u32) -> BackendSetup {
    let max_parallelism = MaxParallelism::try_new(16).unwrap();
    BackendSetup {
        uid: OperatorUid::parse("r1-count").unwrap(),
        subtask: SubtaskIndex(index),
        range: max_parallelism.range(SubtaskIndex(index), Parallelism(parallelism)),
        max_parallelism,
        budget: MemoryBudget::unlimited(),
        store: Store::heap(),
    }
}

fn whole() -> BackendSetup {
    setup(0, 1)
}

fn checkpoint() -> CheckpointId {
    CheckpointId {
        number: 7,
        epoch: Epoch(1),
    }
}

fn at(key: &i64, now: i64) -> KeyContext<'_, i64> {
    KeyContext::new(key.key_hash(), key, ProcessingTime(now))
}

/// A backend with names of the keys 0 to 99, and its snapshot.
fn names_saved() -> KeyedSnapshot {
    let mut backend = KeyedStateBackend::new(whole());
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    for key in 0..100 {
        backend.get(names).set(at(&key, 0), format!("name {key}"));
    }
    backend
        .snapshot_now(checkpoint(), ProcessingTime(0), Vec::new())
        .unwrap()
}

fn restores(snapshots: Vec<KeyedSnapshot>) -> Vec<RestoredSnapshot> {
    snapshots.into_iter().map(RestoredSnapshot::from).collect()
}

fn restored(snapshots: Vec<KeyedSnapshot>) -> KeyedStateBackend {
    KeyedStateBackend::restore(whole(), restores(snapshots), ProcessingTime(0)).unwrap()
}

fn refusal<T>(result: Result<T, StateError>, kind: ErrorKind) -> String {
    let error = result.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

#[test]
fn a_backend_may_move_to_its_slot_thread() {
    fn moves<T: Send>() {}
    moves::<KeyedStateBackend>();
    moves::<UnsealedSnapshot>();
    moves::<KeyedSnapshot>();
}

#[test]
fn t44_a_changed_key_type_is_refused_with_operator_and_both_schemas() {
    let mut backend = restored(vec![names_saved()]);
    let changed = ValueState::<String, (), String>::describe("names");
    let message = refusal(
        backend.open::<ValueState<String, (), String>>(changed),
        ErrorKind::Invalid,
    );
    assert!(
        message.contains("state `names` of operator `r1-count`"),
        "{message}"
    );
    assert!(
        message.contains("keyed by key `text` but stored with key `i64`"),
        "{message}"
    );
    let mut backend = restored(vec![names_saved()]);
    let windowed = ValueState::<i64, i64, String>::describe("names");
    let message = refusal(
        backend.open::<ValueState<i64, i64, String>>(windowed),
        ErrorKind::Invalid,
    );
    assert!(
        message.contains("namespace `i64` but stored with namespace `unit`"),
        "{message}"
    );
}

#[test]
fn t44_a_changed_kind_or_value_type_is_refused() {
    let mut backend = restored(vec![names_saved()]);
    let list = ListState::<i64, (), String>::describe("names");
    let message = refusal(
        backend.open::<ListState<i64, (), String>>(list),
        ErrorKind::Invalid,
    );
    assert!(
        message.contains("stored as value state and declared as list"),
        "{message}"
    );
    let number = ValueState::<i64, (), i64>::describe("names");
    let message = refusal(
        backend.open::<ValueState<i64, (), i64>>(number),
        ErrorKind::Invalid,
    );
    assert!(
        message.contains("value `i64` but stored with `text`"),
        "{message}"
    );
    let message = refusal(backend.take_raw("names"), ErrorKind::Invalid);
    assert!(message.contains("declared as raw"), "{message}");
}

#[test]
fn t44_states_left_over_are_named_with_the_likely_new_name() {
    let mut backend = restored(vec![names_saved()]);
    backend.open::<Names>(Names::describe("labels")).unwrap();
    let message = refusal(
        backend.finish_restore(&Unmatched::refuse()),
        ErrorKind::Invalid,
    );
    assert!(
        message.contains("operator `r1-count`") && message.contains("`names`"),
        "{message}"
    );
    assert!(
        message.contains("`labels` is new and has the shape of `names`"),
        "{message}"
    );
    let allowed = Unmatched::RefuseExcept(BTreeSet::from(["names".to_owned()]));
    backend.finish_restore(&allowed).unwrap();
}

#[test]
fn t44_states_left_over_are_kept_or_dropped_by_rule() {
    let saved = names_saved();
    for (rule, is_there) in [(Unmatched::Keep, true), (Unmatched::Drop, false)] {
        let mut backend = restored(vec![saved.clone()]);
        let left: Vec<_> = backend.unmatched().collect();
        assert_eq!(left, [("names", Some(100))], "by name, with its rows");
        backend.finish_restore(&rule).unwrap();
        let next = backend
            .snapshot_now(checkpoint(), ProcessingTime(0), Vec::new())
            .unwrap();
        assert_eq!(
            next.states.iter().any(|state| state.header.name == "names"),
            is_there
        );
        let mut backend = restored(vec![next]);
        let names = backend.open::<Names>(Names::describe("names")).unwrap();
        assert_eq!(backend.get(names).get(at(&5, 0)).is_some(), is_there);
    }
}

#[test]
fn t12_a_changed_max_parallelism_is_refused() {
    let mut changed = whole();
    changed.max_parallelism = MaxParallelism::try_new(32).unwrap();
    let result =
        KeyedStateBackend::restore(changed, restores(vec![names_saved()]), ProcessingTime(0));
    let message = refusal(result, ErrorKind::Invalid);
    assert!(
        message.contains("stored with max parallelism 16 and started with 32"),
        "{message}"
    );
}

#[test]
fn files_must_cover_every_own_key_group_once() {
    let saved = names_saved();
    let restore =
        |snapshots| KeyedStateBackend::restore(whole(), restores(snapshots), ProcessingTime(0));
    let mut half = saved.clone();
    half.range.end = 8;
    let message = refusal(restore(vec![half.clone()]), ErrorKind::Corrupt);
    assert!(message.contains("covers key group 8 of 0..16"), "{message}");
    let message = refusal(restore(vec![saved.clone(), half]), ErrorKind::Corrupt);
    assert!(message.contains("hold key group 0"), "{message}");
    let mut foreign = saved;
    foreign.uid = OperatorUid::parse("other").unwrap();
    refusal(restore(vec![foreign]), ErrorKind::Bug);
}

#[test]
fn any_damaged_byte_is_found_before_a_value_is_used() {
    let bytes = names_saved().to_bytes();
    let open = |bytes: Vec<u8>| {
        let snapshot = KeyedSnapshot::from_bytes(bytes)?;
        let mut backend =
            KeyedStateBackend::restore(whole(), restores(vec![snapshot]), ProcessingTime(0))?;
        backend.open::<Names>(Names::describe("names")).map(|_| ())
    };
    open(bytes.clone()).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        refusal(open(damaged), ErrorKind::Corrupt);
    }
    for at in (0..bytes.len()).step_by(7) {
        refusal(open(bytes[..at].to_vec()), ErrorKind::Corrupt);
    }
}

#[test]
fn a_snapshot_of_a_newer_version_is_refused_by_version() {
    let mut bytes = names_saved().to_bytes();
    bytes[4] = 9;
    let message = refusal(KeyedSnapshot::from_bytes(bytes), ErrorKind::Corrupt);
    assert!(message.contains("version 9"), "{message}");
}

#[test]
fn equal_content_has_an_equal_digest_at_any_parallelism_and_backend() {
    let digest_at = |parallelism: u32, is_paged: bool, order: &mut dyn Iterator<Item = i64>| {
        let keys: Vec<i64> = order.collect();
        let snapshots = (0..parallelism).map(|index| {
            let mut setup = setup(index, parallelism);
            let (range, max) = (setup.range, setup.max_parallelism);
            if is_paged {
                setup.store = Store::Local {
                    factory: Arc::new(SlowMissFactory::default()),
                };
                setup.budget = MemoryBudget::with_cache(u64::MAX, 512);
            }
            let mut backend = KeyedStateBackend::new(setup);
            let map = MapState::<i64, (), i64, i64>::describe("map");
            let map = backend.open::<MapState<i64, (), i64, i64>>(map).unwrap();
            for key in keys
                .iter()
                .filter(|key| range.contains(key.key_hash().group(max)))
            {
                backend.get(map).put(at(key, 0), key % 5, 1);
                backend.get(map).put(at(key, 0), key % 7, 2);
                backend.after_chunk(ProcessingTime(0)).unwrap();
            }
            backend
                .snapshot_now(checkpoint(), ProcessingTime(0), Vec::new())
                .unwrap()
        });
        canonical_digest(&snapshots.collect::<Vec<_>>())
    };
    let one = digest_at(1, false, &mut (0..300));
    assert_eq!(digest_at(3, false, &mut (0..300).rev()), one);
    assert_eq!(digest_at(4, true, &mut (0..300)), one);
    assert_ne!(digest_at(1, false, &mut (0..299)), one);
}

#[test]
fn the_budget_is_refused_clearly_and_given_back() {
    let budget = MemoryBudget::new(40_000);
    let mut setup = whole();
    setup.budget = budget.clone();
    let mut backend = KeyedStateBackend::new(setup);
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    let mut refused = None;
    for key in 0..1_000 {
        backend.get(names).set(at(&key, 0), "x".repeat(100));
        if let Err(error) = backend.after_chunk(ProcessingTime(0)) {
            refused = Some((key, error));
            break;
        }
    }
    let (key, error) = refused.unwrap();
    assert!((150..400).contains(&key), "refused at {key}");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let message = error.to_string();
    assert!(
        message.contains("state `names` of operator `r1-count`"),
        "{message}"
    );
    assert!(
        message.contains("all states of this process") && message.contains("of 40000 allowed"),
        "{message}"
    );
    assert!(message.contains("raise `state.memory`"), "{message}");
    for key in 0..100 {
        backend.get(names).clear(at(&key, 0));
    }
    backend.after_chunk(ProcessingTime(0)).unwrap();
    assert!(budget.used() < 40_000);
    drop(backend);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_key_of_a_foreign_group_ends_the_chunk_with_an_error() {
    let mut backend = KeyedStateBackend::new(setup(0, 2));
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    let range = backend.range();
    let is_foreign = |key: &i64| !range.contains(key.key_hash().group(whole().max_parallelism));
    let key = (0..1_000).find(is_foreign).unwrap();
    backend.get(names).set(at(&key, 0), String::new());
    let message = refusal(backend.after_chunk(ProcessingTime(0)), ErrorKind::Bug);
    assert!(message.contains("owns 0..8"), "{message}");
}

#[test]
fn a_state_opens_once_and_as_described() {
    let mut backend = KeyedStateBackend::new(whole());
    backend.open::<Names>(Names::describe("names")).unwrap();
    refusal(
        backend.open::<Names>(Names::describe("names")),
        ErrorKind::Bug,
    );
    let list = ListState::<i64, (), String>::describe("other");
    let message = refusal(backend.open::<Names>(list), ErrorKind::Bug);
    assert!(message.contains("list (i64, unit) -> text"), "{message}");
    let timed = StateTable::<i64, (), u64>::describe("counts").with_ttl(TtlConfig::after_write(1));
    refusal(
        backend.open::<StateTable<i64, (), u64>>(timed),
        ErrorKind::Bug,
    );
}

#[test]
fn one_snapshot_runs_at_a_time() {
    let mut backend = KeyedStateBackend::new(whole());
    refusal(backend.advance_snapshot(1), ErrorKind::Bug);
    refusal(backend.take_snapshot(), ErrorKind::Bug);
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
    let message = refusal(
        backend.begin_snapshot(checkpoint(), ProcessingTime(0)),
        ErrorKind::Bug,
    );
    assert!(message.contains("checkpoint 7@1"), "{message}");
    backend.abort_snapshot();
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(0))
        .unwrap();
}

#[test]
fn t28_reads_do_not_extend_a_life_unless_set() {
    let mut backend = KeyedStateBackend::new(whole());
    let ttl = TtlConfig::after_write(10);
    let plain = backend
        .open::<Names>(Names::describe("plain").with_ttl(ttl))
        .unwrap();
    let extended = ttl.with_update(TtlUpdate::OnReadAndWrite);
    let read = backend
        .open::<Names>(Names::describe("read").with_ttl(extended))
        .unwrap();
    backend.get(plain).set(at(&1, 100), "a".to_owned());
    backend.get(read).set(at(&1, 100), "a".to_owned());
    assert!(backend.get(plain).get(at(&1, 109)).is_some());
    assert!(backend.get(read).get(at(&1, 109)).is_some());
    assert!(backend.get(plain).get(at(&1, 110)).is_none());
    assert!(backend.get(read).get(at(&1, 118)).is_some());
    assert!(backend.get(read).get(at(&1, 128)).is_none());
    backend
        .get(plain)
        .update(at(&1, 200), || "b".to_owned(), |name| name.push('c'));
    assert_eq!(
        backend.get(plain).get(at(&1, 209)).map(String::as_str),
        Some("bc")
    );
}

type List = ListState<i64, (), i64>;
type Map = MapState<i64, (), i64, i64>;

#[test]
fn t28_elements_and_entries_expire_one_by_one() {
    let mut backend = KeyedStateBackend::new(whole());
    let ttl = TtlConfig::after_write(10);
    let list = backend
        .open::<List>(List::describe("list").with_ttl(ttl))
        .unwrap();
    let map = backend
        .open::<Map>(Map::describe("map").with_ttl(ttl))
        .unwrap();
    for now in [0, 5, 9] {
        backend.get(list).add(at(&1, now), now);
        backend.get(map).put(at(&1, now), now, now);
    }
    assert_eq!(backend.get(list).get(at(&1, 9)), [0, 5, 9]);
    assert_eq!(backend.get(list).get(at(&1, 10)), [5, 9]);
    assert_eq!(backend.get(list).get(at(&1, 15)), [9]);
    assert!(backend.get(list).get(at(&1, 19)).is_empty());
    let map = backend.get(map);
    assert_eq!(
        map.iter(at(&1, 10))
            .map(|(key, _)| *key)
            .collect::<Vec<_>>(),
        [5, 9]
    );
    assert!(!map.contains(at(&1, 10), &0) && map.contains(at(&1, 14), &5));
    assert!(!map.is_empty(at(&1, 18)) && map.is_empty(at(&1, 19)));
}

#[test]
fn t28_expired_values_can_be_seen_until_cleaned_if_allowed() {
    let mut backend = KeyedStateBackend::new(whole());
    let ttl = TtlConfig::after_write(10).with_visibility(TtlVisibility::ReturnIfNotCleaned);
    let names = backend
        .open::<Names>(Names::describe("names").with_ttl(ttl))
        .unwrap();
    backend.get(names).set(at(&1, 0), "a".to_owned());
    assert!(backend.get(names).get(at(&1, 50)).is_some());
    backend.after_chunk(ProcessingTime(50)).unwrap();
    assert!(
        backend.get(names).get(at(&1, 50)).is_none(),
        "cleanup looked at it"
    );
}

#[test]
fn st11_cleanup_in_pieces_removes_what_nobody_reads() {
    let mut backend = KeyedStateBackend::new(whole());
    let cleanup = TtlCleanup {
        entries_per_access: 3,
        at_snapshot: false,
    };
    let ttl = TtlConfig::after_write(10).with_cleanup(cleanup);
    let names = backend
        .open::<Names>(Names::describe("names").with_ttl(ttl))
        .unwrap();
    for key in 0..1_000 {
        backend.get(names).set(at(&key, 0), "a".to_owned());
    }
    backend.after_chunk(ProcessingTime(0)).unwrap();
    let full = backend.used_bytes();
    for round in 0..400 {
        backend.get(names).set(at(&-1, 100 + round), "b".to_owned());
        backend.after_chunk(ProcessingTime(100 + round)).unwrap();
    }
    assert!(
        backend.used_bytes() * 100 < full,
        "{} of {full}",
        backend.used_bytes()
    );
    let report = backend.reports().remove(0);
    assert_eq!(
        (report.entries, report.expired, report.misses),
        (1, 1_000, 0)
    );
    assert_eq!(
        (report.name.as_str(), report.bytes),
        ("names", backend.used_bytes())
    );
    assert!(backend.get(names).get(at(&-1, 500)).is_some());
}

#[test]
fn st11_a_full_snapshot_leaves_expired_values_out() {
    let mut backend = KeyedStateBackend::new(whole());
    let ttl = TtlConfig::after_write(10);
    let names = backend
        .open::<Names>(Names::describe("names").with_ttl(ttl))
        .unwrap();
    backend.get(names).set(at(&1, 0), "old".to_owned());
    backend.get(names).set(at(&2, 1), "new".to_owned());
    backend
        .begin_snapshot(checkpoint(), ProcessingTime(10))
        .unwrap();
    // Written after the barrier: the snapshot has the value before, with its own time.
    backend.get(names).set(at(&2, 90), "newer".to_owned());
    let saved = backend.take_snapshot().unwrap().seal().unwrap();
    assert_eq!(
        saved.states[0]
            .groups
            .iter()
            .map(|group| group.count)
            .sum::<u64>(),
        1
    );
    let mut backend = restored(vec![saved]);
    let names = backend
        .open::<Names>(Names::describe("names").with_ttl(ttl))
        .unwrap();
    assert_eq!(
        backend.get(names).get(at(&2, 10)).map(String::as_str),
        Some("new")
    );
    assert!(backend.get(names).get(at(&2, 11)).is_none());
}

#[test]
fn st10_a_ttl_can_be_switched_on_and_off_between_runs() {
    let ttl = TtlConfig::after_write(10);
    let restore =
        |saved| KeyedStateBackend::restore(whole(), restores(vec![saved]), ProcessingTime(500));
    let mut timed = restore(names_saved()).unwrap();
    let names = timed
        .open::<Names>(Names::describe("names").with_ttl(ttl))
        .unwrap();
    assert!(
        timed.get(names).get(at(&5, 509)).is_some(),
        "lives from the restore on"
    );
    assert!(timed.get(names).get(at(&5, 510)).is_none());
    let saved = timed
        .snapshot_now(checkpoint(), ProcessingTime(509), Vec::new())
        .unwrap();
    assert!(saved.states[0].header.timed);
    let mut plain = restore(saved).unwrap();
    let names = plain.open::<Names>(Names::describe("names")).unwrap();
    assert_eq!(
        plain.get(names).get(at(&6, 99_999)).map(String::as_str),
        Some("name 6")
    );
}

/// An order as version 1 of a job had it.
#[derive(Clone, Debug, PartialEq)]
struct OrderV1 {
    id: i64,
    note: String,
}

/// The same order a version later: `note` is gone, `currency` is new.
#[derive(Clone, Debug, PartialEq)]
struct OrderV2 {
    id: i64,
    currency: String,
}

fn order(fields: Vec<(&str, DataType, Option<&str>)>) -> DataType {
    let fields = fields.into_iter().map(|(name, data_type, default)| Field {
        name: name.to_owned(),
        data_type,
        default: default.map(|text| {
            let mut bytes = Vec::new();
            text.to_owned().encode(&mut bytes);
            bytes
        }),
    });
    DataType::Struct {
        name: "Order".to_owned(),
        fields: fields.collect(),
    }
}

impl Record for OrderV1 {
    fn data_type() -> DataType {
        order(vec![
            ("id", DataType::I64, None),
            ("note", DataType::Utf8, None),
        ])
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.note.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let (id, note) = (i64::decode(input)?, String::decode(input)?);
        Ok(Self { id, note })
    }
}

impl Record for OrderV2 {
    fn data_type() -> DataType {
        order(vec![
            ("id", DataType::I64, None),
            ("currency", DataType::Utf8, Some("EUR")),
        ])
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.id.encode(out);
        self.currency.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let (id, currency) = (i64::decode(input)?, String::decode(input)?);
        Ok(Self { id, currency })
    }
}

#[test]
fn st16_added_and_removed_fields_are_migrated_in_every_kind_of_state() {
    let ttl = TtlConfig::after_write(1_000);
    let old = |id| OrderV1 {
        id,
        note: "n".repeat(id as usize),
    };
    let new = |id| OrderV2 {
        id,
        currency: "EUR".to_owned(),
    };
    let mut backend = KeyedStateBackend::new(whole());
    let value = ValueState::<i64, (), OrderV1>::describe("value").with_ttl(ttl);
    let value = backend.open::<ValueState<i64, (), OrderV1>>(value).unwrap();
    let list = ListState::<i64, (), OrderV1>::describe("list");
    let list = backend.open::<ListState<i64, (), OrderV1>>(list).unwrap();
    let map = MapState::<i64, (), String, OrderV1>::describe("map").with_ttl(ttl);
    let map = backend
        .open::<MapState<i64, (), String, OrderV1>>(map)
        .unwrap();
    for key in 0..20 {
        backend.get(value).set(at(&key, 3), old(key));
        backend
            .get(list)
            .add_all(at(&key, 3), [old(key), old(key + 1)]);
        backend.get(map).put(at(&key, 3), "a".to_owned(), old(key));
        backend
            .get(map)
            .put(at(&key, 3), "b".to_owned(), old(key + 1));
    }
    let saved = backend
        .snapshot_now(checkpoint(), ProcessingTime(3), Vec::new())
        .unwrap();

    let mut backend = restored(vec![saved]);
    let value = ValueState::<i64, (), OrderV2>::describe("value").with_ttl(ttl);
    let value = backend.open::<ValueState<i64, (), OrderV2>>(value).unwrap();
    let list = ListState::<i64, (), OrderV2>::describe("list");
    let list = backend.open::<ListState<i64, (), OrderV2>>(list).unwrap();
    let map = MapState::<i64, (), String, OrderV2>::describe("map").with_ttl(ttl);
    let map = backend
        .open::<MapState<i64, (), String, OrderV2>>(map)
        .unwrap();
    backend.finish_restore(&Unmatched::refuse()).unwrap();
    for key in 0..20 {
        assert_eq!(backend.get(value).get(at(&key, 1_002)), Some(&new(key)));
        assert_eq!(backend.get(value).get(at(&key, 1_003)), None);
        assert_eq!(backend.get(list).get(at(&key, 5)), [new(key), new(key + 1)]);
        assert_eq!(
            backend.get(map).get(at(&key, 5), &"b".to_owned()),
            Some(&new(key + 1))
        );
    }
}

#[test]
fn sliced_state_restores_as_value_state_and_back() {
    type Sliced = SlicedState<i64, i64, u64>;
    type Flat = ValueState<i64, i64, u64>;
    let mut backend = KeyedStateBackend::new(whole());
    let sliced = backend.open::<Sliced>(Sliced::describe("counts")).unwrap();
    for key in 0..50i64 {
        let place = (key.key_hash(), &key, &());
        backend
            .get(sliced)
            .slice(&(key % 3))
            .upsert(place, || 0, |count| *count = key as u64);
    }
    let saved = backend
        .snapshot_now(checkpoint(), ProcessingTime(0), Vec::new())
        .unwrap();
    let digest = canonical_digest(std::slice::from_ref(&saved));
    let mut backend = restored(vec![saved]);
    let flat = backend.open::<Flat>(Flat::describe("counts")).unwrap();
    for key in 0..50 {
        let namespace = key % 3;
        let found = backend.get(flat).get(at(&key, 0).in_namespace(&namespace));
        assert_eq!(found, Some(&(key as u64)));
    }
    let saved = backend
        .snapshot_now(checkpoint(), ProcessingTime(0), Vec::new())
        .unwrap();
    assert_eq!(canonical_digest(std::slice::from_ref(&saved)), digest);
    let mut backend = restored(vec![saved]);
    let sliced = backend.open::<Sliced>(Sliced::describe("counts")).unwrap();
    assert_eq!(
        backend
            .get(sliced)
            .namespaces()
            .copied()
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let mut sum = 0;
    let drained = backend
        .get(sliced)
        .drain(&2, usize::MAX, |_, _, count| sum += count);
    assert_eq!(drained.unwrap(), crate::keyed::Drained::All);
    assert_eq!(sum, (0..50).filter(|key| key % 3 == 2).sum::<u64>());
}

#[test]
fn several_states_can_be_borrowed_at_once() {
    let mut backend = KeyedStateBackend::new(whole());
    let names = backend.open::<Names>(Names::describe("names")).unwrap();
    let counts = StateTable::<i64, (), u64>::describe("counts");
    let counts = backend.open::<StateTable<i64, (), u64>>(counts).unwrap();
    let add: fn(&mut i64, i64) = |into, value| *into += value;
    let sums = ReducingState::<i64, (), i64, fn(&mut i64, i64)>::describe("sums");
    let sums = backend.open_reducing::<i64, (), i64, _>(sums, add).unwrap();
    let (name, count) = backend.get_two((names, counts));
    name.set(at(&1, 0), "one".to_owned());
    count.insert(1i64.key_hash(), &1, &(), 5);
    let (count, sum) = backend.get_two((counts, sums));
    assert_eq!(count.get(1i64.key_hash(), &1, &()), Some(&5));
    assert_eq!(*sum.add(at(&1, 0), 7), 7);
    assert_eq!(*sum.add(at(&1, 0), 7), 14);
    let (sum, name) = backend.get_two((sums, names));
    assert_eq!(sum.get(at(&1, 0)), Some(&14));
    assert_eq!(name.take(at(&1, 0)).as_deref(), Some("one"));
}
