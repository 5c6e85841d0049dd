//! How long ago the entries of a cache were used, in ticks of the shared budget.
//!
//! Called when a table is asked to give back. The marks of the entries say it already: each tick begins a generation, and
//! what was last used in an earlier one is older. Nothing is kept for an entry.

use std::collections::VecDeque;

use super::directory::Position;
use super::marks::{Mark, Marks};

/// Ticks that are told apart; what is older counts as the oldest of them.
const TICKS_MAX: usize = 64;

/// When generations began, and how far the table has looked for what may go.
#[derive(Debug)]
pub(super) struct Recency {
    /// The first mark of each tick, in order of both.
    begun: VecDeque<(u64, Mark)>,
    /// The pass over the table that looks for victims.
    pub(super) pass: Pass,
}

/// A pass over all entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// It looks for what was last used before this tick.
    pub(super) stale: u64,
    /// Where it goes on: sub-tables upwards, slots downwards; `at` is the slot behind the next one.
    pub(super) hand: Position,
    pub(super) is_done: bool,
}

impl Pass {
    pub(super) const fn new(stale: u64) -> Self {
        Self {
            stale,
            hand: Position {
                table: 0,
                at: u32::MAX,
            },
            is_done: false,
        }
    }
}

impl Recency {
    pub(super) const fn new() -> Self {
        Self {
            begun: VecDeque::new(),
            pass: Pass::new(0),
        }
    }

    /// Begins the generation of `tick`, unless it has begun.
    pub(super) fn note(&mut self, tick: u64, marks: &mut Marks) {
        if self.begun.back().is_some_and(|&(last, _)| last >= tick) {
            return;
        }
        if !self.begun.is_empty() {
            marks.rotate();
        }
        if self.begun.len() == TICKS_MAX {
            self.begun.pop_front();
        }
        self.begun.push_back((tick, marks.saved()));
    }

    /// Entries with a smaller mark were last used before `tick`. `None` = all were.
    pub(super) fn begin_of(&self, tick: u64) -> Option<Mark> {
        let at = self.begun.partition_point(|&(begun, _)| begun < tick);
        self.begun.get(at).map(|&(_, mark)| mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_ticks_apart_and_barriers_between_them_do_not_matter() {
        let (mut recency, mut marks) = (Recency::new(), Marks::new());
        recency.note(3, &mut marks);
        let old = marks.written();
        recency.note(3, &mut marks);
        assert_eq!(old, marks.written(), "a tick begins once");
        recency.note(5, &mut marks);
        let middle = marks.saved();
        marks.rotate();
        let after_barrier = marks.written();
        recency.note(6, &mut marks);
        let older = |mark: Mark, tick| recency.begin_of(tick).is_none_or(|begin| mark < begin);
        assert!(older(old, 4) && older(old, 5) && !older(old, 3));
        assert!(!older(middle, 5) && older(middle, 6));
        assert!(!older(after_barrier, 5) && older(after_barrier, 6));
        assert!(
            older(marks.written(), 7),
            "everything is older than what comes"
        );
    }

    #[test]
    fn ticks_long_past_count_as_the_oldest() {
        let (mut recency, mut marks) = (Recency::new(), Marks::new());
        for tick in 0..1_000 {
            recency.note(tick, &mut marks);
        }
        assert!(recency.begun.len() <= TICKS_MAX);
        assert!(recency.begin_of(1).unwrap() < recency.begin_of(990).unwrap());
    }
}
