//! Removes expired rows when they are compacted: the cleanup of a state with a time to live that nobody reads.
//!
//! RocksDB asks for each row of a compaction, on a background thread. Rule: a row goes only when every part of it is
//! expired by the time that the store was told, and only for states whose expired values can be seen in no way (never
//! returned, left out of snapshots). What cannot be read stays: the read that meets it reports it.

use std::ffi::CStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use highwater_state::{StateDescriptor, StateKind, TtlConfig, TtlVisibility};
use highwater_types::migrate::skip;
use highwater_types::record::decode_length;
use highwater_types::{DecodeError, ProcessingTime, Record, Schema};
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::pack::unpack;

/// The processing time of a store, told by its subtask and read by compactions. Nothing is expired before the first,
/// which comes when all states are open: a restore may rewrite rows of another form in place, and compaction must not
/// judge those.
#[derive(Clone, Debug)]
pub(crate) struct StoreClock(Arc<AtomicI64>);

impl StoreClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MIN)))
    }

    /// A clock that goes back does not bring back what was expired.
    pub(crate) fn set(&self, now: ProcessingTime) {
        self.0.fetch_max(now.0, Ordering::Relaxed);
    }

    fn now(&self) -> ProcessingTime {
        ProcessingTime(self.0.load(Ordering::Relaxed))
    }
}

/// Where the last accesses of a stored row lie.
#[derive(Clone, Debug)]
enum Shape {
    /// At its front.
    Record,
    /// After a count, before each part, which is a value of each schema in turn.
    Parts(Vec<Schema>),
}

/// By which rule the rows of one state expire.
#[derive(Clone, Debug)]
struct Rule {
    ttl: TtlConfig,
    shape: Shape,
}

impl Rule {
    fn of(state: &StateDescriptor) -> Option<Self> {
        let ttl = state.ttl.filter(|ttl| {
            ttl.visibility == TtlVisibility::NeverReturnExpired && ttl.cleanup.at_snapshot
        })?;
        let shape = match state.kind {
            StateKind::Value | StateKind::Reducing | StateKind::Aggregating => Shape::Record,
            StateKind::List | StateKind::Map => Shape::Parts(state.schemas.values.clone()),
            StateKind::Raw => return None,
        };
        Some(Self { ttl, shape })
    }

    /// Whether every part of a row is expired at `now`.
    fn is_expired(&self, mut row: &[u8], now: ProcessingTime) -> Result<bool, DecodeError> {
        let row = &mut row;
        let Shape::Parts(values) = &self.shape else {
            return Ok(self.ttl.is_expired(ProcessingTime::decode(row)?, now));
        };
        for _ in 0..decode_length(row)? {
            if !self.ttl.is_expired(ProcessingTime::decode(row)?, now) {
                return Ok(false);
            }
            values.iter().try_for_each(|value| skip(&value.root, row))?;
        }
        Ok(row.is_empty())
    }
}

/// What a column family knows of the expiry of its rows. It is opened before its state is, which brings the rule.
#[derive(Clone, Debug)]
pub(crate) struct RowExpiry {
    clock: StoreClock,
    rule: Arc<OnceLock<Rule>>,
}

impl RowExpiry {
    pub(crate) fn new(clock: &StoreClock) -> Self {
        Self {
            clock: clock.clone(),
            rule: Arc::default(),
        }
    }

    /// The state is opened. Its rows are in the form of `state` before the clock is told the time.
    pub(crate) fn set(&self, state: &StateDescriptor) {
        if let Some(rule) = Rule::of(state) {
            self.rule.get_or_init(|| rule);
        }
    }
}

const NAME: &CStr = c"highwater.expiry";

impl CompactionFilterFactory for RowExpiry {
    type Filter = RowFilter;

    /// One filter for each compaction, with the time at its start: no row is judged by two times.
    fn create(&mut self, _: CompactionFilterContext) -> RowFilter {
        RowFilter {
            rule: self.rule.get().cloned(),
            now: self.clock.now(),
            value: Vec::new(),
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// Judges the rows of one compaction.
pub(crate) struct RowFilter {
    rule: Option<Rule>,
    now: ProcessingTime,
    /// The value of the row that is judged.
    value: Vec<u8>,
}

impl RowFilter {
    fn removes(&mut self, row: &[u8]) -> bool {
        let Some(rule) = &self.rule else {
            return false;
        };
        self.value.clear();
        unpack(row, &mut self.value) && rule.is_expired(&self.value, self.now).unwrap_or(false)
    }
}

impl CompactionFilter for RowFilter {
    fn filter(&mut self, _: u32, _: &[u8], row: &[u8]) -> CompactionDecision {
        if self.removes(row) {
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

#[cfg(test)]
mod tests {
    use highwater_state::{StateSchemas, TtlCleanup};
    use highwater_types::record::encode_length;

    use super::*;
    use crate::pack::pack;

    fn filter(state: &StateDescriptor, now: i64) -> RowFilter {
        let clock = StoreClock::new();
        let expiry = RowExpiry::new(&clock);
        expiry.set(state);
        clock.set(ProcessingTime(now));
        clock.set(ProcessingTime(now - 5));
        let rule = expiry.rule.get().cloned();
        assert_eq!(expiry.name(), NAME);
        RowFilter {
            rule,
            now: clock.now(),
            value: Vec::new(),
        }
    }

    fn state(kind: StateKind, ttl: TtlConfig) -> StateDescriptor {
        let mut schemas = StateSchemas::of::<i64, (), String>();
        if kind == StateKind::Map {
            schemas.values.push(i64::schema());
        }
        StateDescriptor::new("s", kind, schemas).with_ttl(ttl)
    }

    fn packed(row: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        pack(row, &mut packed);
        packed
    }

    fn parts(stamps: &[i64], kind: StateKind) -> Vec<u8> {
        let mut row = Vec::new();
        encode_length(stamps.len() as u64, &mut row);
        for stamp in stamps {
            ProcessingTime(*stamp).encode(&mut row);
            "of any length".to_owned().encode(&mut row);
            if kind == StateKind::Map {
                7i64.encode(&mut row);
            }
        }
        row
    }

    #[test]
    fn a_record_goes_at_its_last_access_plus_ttl() {
        let state = state(StateKind::Value, TtlConfig::after_write(10));
        let mut row = Vec::new();
        ProcessingTime(100).encode(&mut row);
        "value".to_owned().encode(&mut row);
        assert!(!filter(&state, 109).removes(&packed(&row)));
        assert!(filter(&state, 110).removes(&packed(&row)));
    }

    #[test]
    fn a_list_or_map_goes_with_its_last_part_only() {
        for kind in [StateKind::List, StateKind::Map] {
            let state = state(kind, TtlConfig::after_write(10));
            let mut filter = filter(&state, 110);
            assert!(
                filter.removes(&packed(&parts(&[100, 90, 100], kind))),
                "{kind}"
            );
            assert!(
                !filter.removes(&packed(&parts(&[100, 90, 101], kind))),
                "{kind}"
            );
            assert!(!filter.removes(&packed(&parts(&[101, 90], kind))), "{kind}");
        }
    }

    #[test]
    fn what_may_still_be_seen_stays() {
        let visible = TtlConfig::after_write(10).with_visibility(TtlVisibility::ReturnIfNotCleaned);
        let in_snapshots = TtlConfig::after_write(10).with_cleanup(TtlCleanup {
            at_snapshot: false,
            ..TtlCleanup::DEFAULT
        });
        let mut row = Vec::new();
        ProcessingTime(0).encode(&mut row);
        for ttl in [visible, in_snapshots] {
            assert!(!filter(&state(StateKind::Value, ttl), 1_000).removes(&packed(&row)));
        }
        let untimed =
            StateDescriptor::new("s", StateKind::Value, StateSchemas::of::<i64, (), ()>());
        assert!(!filter(&untimed, 1_000).removes(&packed(&row)));
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let ttl = TtlConfig::after_write(10);
        assert!(!filter(&state(StateKind::Value, ttl), 1_000).removes(&packed(&[1, 2, 3])));
        let mut longer = parts(&[0], StateKind::List);
        longer.push(0);
        let mut filter = filter(&state(StateKind::List, ttl), 1_000);
        assert!(!filter.removes(&packed(&longer)));
        assert!(!filter.removes(&packed(&longer[..12])));
        assert!(!filter.removes(&[255, 255]), "nothing that was packed");
    }

    #[test]
    fn nothing_is_expired_before_the_first_time() {
        let state = state(StateKind::Value, TtlConfig::after_write(10));
        let clock = StoreClock::new();
        let expiry = RowExpiry::new(&clock);
        expiry.set(&state);
        let mut filter = RowFilter {
            rule: expiry.rule.get().cloned(),
            now: clock.now(),
            value: Vec::new(),
        };
        let mut row = Vec::new();
        ProcessingTime(-1_000_000).encode(&mut row);
        assert!(!filter.removes(&packed(&row)));
    }
}
