//! Where the time of a task goes: busy, idle or backpressured, with shares that add up to one.
//!
//! A slot thread owns one [`TimeShares`] for each task and tells it when the activity changes. Every instant belongs to
//! exactly one activity. Time comes in as an argument: what the thread's clock shows since any fixed point.

use std::time::Duration;

use crate::cells::Cells;
use crate::table::task::{
    BACKPRESSURED, BACKPRESSURED_RATIO, BUSY, BUSY_RATIO, IDLE, IDLE_RATIO, TaskScope,
};

/// How long a window of shares is at least.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// What a task does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Works on records, timers or barriers.
    Busy,
    /// Has nothing to do.
    Idle,
    /// Waits for credit of an output.
    Backpressured,
}

/// The account of one task's time.
#[derive(Clone, Debug)]
pub struct TimeShares {
    activity: Activity,
    since: Duration,
    window: Duration,
    spent: [Duration; 3],
}

impl TimeShares {
    /// Opens the account at `now`; the task is idle.
    pub fn new(now: Duration) -> Self {
        Self {
            activity: Activity::Idle,
            since: now,
            window: now,
            spent: [Duration::ZERO; 3],
        }
    }

    /// Books the time since the last call to the activity that was, and goes on with `activity`.
    ///
    /// Call it at each change and at least once a second, also while the thread is parked: shares are as fresh as the
    /// last call. A `now` before the last one books nothing.
    pub fn switch(&mut self, cells: &Cells<TaskScope>, activity: Activity, now: Duration) {
        let passed = now.saturating_sub(self.since);
        let counter = match self.activity {
            Activity::Busy => BUSY,
            Activity::Idle => IDLE,
            Activity::Backpressured => BACKPRESSURED,
        };
        cells.add(counter, passed);
        self.spent[self.activity as usize] += passed;
        self.since = self.since.max(now);
        self.activity = activity;
        if self.since.saturating_sub(self.window) >= WINDOW_MIN {
            self.close_window(cells);
        }
    }

    /// Books the time since the last call; the activity stays.
    pub fn tick(&mut self, cells: &Cells<TaskScope>, now: Duration) {
        self.switch(cells, self.activity, now);
    }

    fn close_window(&mut self, cells: &Cells<TaskScope>) {
        let length = (self.since.saturating_sub(self.window)).as_secs_f64();
        let [busy, _, backpressured] = self.spent.map(|part| part.as_secs_f64() / length);
        cells.set(BUSY_RATIO, busy);
        cells.set(BACKPRESSURED_RATIO, backpressured);
        cells.set(IDLE_RATIO, (1.0 - busy - backpressured).max(0.0));
        self.window = self.since;
        self.spent = [Duration::ZERO; 3];
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{OperatorUid, SubtaskIndex};
    use proptest::prelude::*;

    use super::*;
    use crate::labels::SubtaskLabels;

    fn cells() -> Cells<TaskScope> {
        let operator = OperatorUid::parse("r1").unwrap();
        Cells::detached(&SubtaskLabels {
            operator,
            subtask: SubtaskIndex(0),
        })
    }

    fn activity(number: u8) -> Activity {
        [Activity::Busy, Activity::Idle, Activity::Backpressured][usize::from(number % 3)]
    }

    #[test]
    fn time_goes_to_the_activity_that_was() {
        let (cells, mut shares) = (cells(), TimeShares::new(Duration::from_secs(10)));
        shares.switch(&cells, Activity::Busy, Duration::from_secs(11));
        shares.switch(
            &cells,
            Activity::Backpressured,
            Duration::from_millis(11_250),
        );
        shares.tick(&cells, Duration::from_secs(12));
        assert!((cells.counted(IDLE) - 1.0).abs() < 1e-9);
        assert!((cells.counted(BUSY) - 0.25).abs() < 1e-9);
        assert!((cells.counted(BACKPRESSURED) - 0.75).abs() < 1e-9);
        assert!((cells.shown(BACKPRESSURED_RATIO).unwrap() - 0.75).abs() < 1e-9);
        assert!(cells.shown(IDLE_RATIO).unwrap().abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn shares_add_up_to_one_whatever_happens(steps in prop::collection::vec((any::<u8>(), 0u64..900), 1..200)) {
            let (cells, mut shares) = (cells(), TimeShares::new(Duration::ZERO));
            let mut now = Duration::ZERO;
            for (kind, millis) in steps {
                now += Duration::from_millis(millis);
                shares.switch(&cells, activity(kind), now);
                let parts = [BUSY_RATIO, IDLE_RATIO, BACKPRESSURED_RATIO].map(|gauge| cells.shown(gauge));
                if let [Some(busy), Some(idle), Some(backpressured)] = parts {
                    prop_assert!((busy + idle + backpressured - 1.0).abs() < 1e-9);
                    prop_assert!([busy, idle, backpressured].iter().all(|part| (0.0..=1.0 + 1e-9).contains(part)));
                }
                let booked = cells.counted(BUSY) + cells.counted(IDLE) + cells.counted(BACKPRESSURED);
                prop_assert!((booked - now.as_secs_f64()).abs() < 1e-6);
            }
        }
    }
}
