//! The timers of a subtask of the suite: kept as operators keep them, which depends on where state rests.

use std::collections::BTreeSet;

use highwater_types::Key;

use super::Subtask;
use crate::backend::{KeyedStateBackend, StateHandle};
use crate::context::KeyContext;
use crate::contract::model::Model;
use crate::contract::steps::Access;
use crate::keyed::{DueTimer, OpenState, TimerState};
use crate::table::StateTable;

/// All timers are set to times below it.
const TIMES: u8 = 64;

/// How the timers are kept.
#[derive(Clone, Copy)]
pub(super) enum Timers {
    /// Over a local store.
    Stored(StateHandle<TimerState<i64>>),
    /// On the heap: the table that lies beside the index.
    Table(StateHandle<StateTable<i64, i64, ()>>),
}

impl Timers {
    pub(super) fn open(backend: &mut KeyedStateBackend) -> Self {
        let opened = "the timers of the suite open";
        if backend.is_local() {
            let described = TimerState::<i64>::describe("timers");
            return Self::Stored(backend.open(described).expect(opened));
        }
        let described = StateTable::<i64, i64, ()>::describe("timers");
        Self::Table(backend.open(described).expect(opened))
    }
}

impl Subtask {
    /// The timers of the own key groups as the model has them, in the order in which they fire.
    fn owned_timers(&self, model: &Model) -> BTreeSet<DueTimer<i64>> {
        let (range, groups) = (self.backend.range(), self.backend.max_parallelism());
        let timers = model.live.timers.iter();
        let placed = timers.map(|&(key, time)| (time, key.key_hash(), key));
        placed
            .filter(|(_, hash, _)| range.contains(hash.group(groups)))
            .collect()
    }

    pub(super) fn access_timers(
        &mut self,
        model: &mut Model,
        at: KeyContext<'_, i64>,
        access: Access,
    ) {
        let time = i64::from(access.value % TIMES);
        if let Timers::Stored(handle) = self.handles.timers {
            let first = self.owned_timers(model).first().map(|timer| timer.0);
            assert_eq!(self.backend.get(handle).peek_time(), first, "first timer");
        }
        match access.action % 6 {
            1..=3 => {
                self.register((time, at.hash, *at.key));
                model.live.timers.insert((*at.key, time));
            }
            4 if model.live.timers.remove(&(*at.key, time)) => {
                self.delete((time, at.hash, *at.key));
            }
            5 => self.fire(model, time / 4),
            _ => {}
        }
    }

    fn register(&mut self, (time, hash, key): DueTimer<i64>) {
        match self.handles.timers {
            Timers::Stored(handle) => self.backend.get(handle).register(hash, &key, time),
            Timers::Table(handle) => {
                self.backend.get(handle).insert(hash, &key, &time, ());
            }
        }
    }

    /// Takes back a timer that is set.
    fn delete(&mut self, (time, hash, key): DueTimer<i64>) {
        match self.handles.timers {
            Timers::Stored(handle) => self.backend.get(handle).delete(hash, &key, time),
            Timers::Table(handle) => {
                let removed = self.backend.get(handle).take(hash, &key, &time);
                assert!(removed.is_some(), "timer of {key} at {time}");
            }
        }
    }

    /// Takes all timers up to a time, in order.
    pub(super) fn fire(&mut self, model: &mut Model, upto: i64) {
        let owned = self.owned_timers(model);
        for timer in owned.into_iter().take_while(|timer| timer.0 <= upto) {
            model.live.timers.remove(&(timer.2, timer.0));
            match self.handles.timers {
                Timers::Stored(handle) => {
                    assert_eq!(self.backend.get(handle).pop_due(upto), Some(timer));
                }
                Timers::Table(_) => self.delete(timer),
            }
        }
        if let Timers::Stored(handle) = self.handles.timers {
            assert_eq!(self.backend.get(handle).pop_due(upto), None);
        }
    }
}
