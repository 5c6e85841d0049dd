//! Where the time of a task went: busy, idle and backpressured shares that add up to one (T-48).
//!
//! The slot thread accounts once per turn. Time in which the task ran is busy; time between two turns belongs to the
//! state in which the last turn ended.

use std::time::Duration;

/// The state in which a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For its turn, with work at hand.
    Turn,
    /// For input.
    Input,
    /// For room in an output.
    Output,
}

/// Time accounted since the attempt began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    busy: Duration,
    idle: Duration,
    backpressured: Duration,
    last: Duration,
    waiting: Waiting,
}

impl Shares {
    /// Starts to account at `now`.
    pub const fn new(now: Duration) -> Self {
        Self {
            busy: Duration::ZERO,
            idle: Duration::ZERO,
            backpressured: Duration::ZERO,
            last: now,
            waiting: Waiting::Input,
        }
    }

    /// A turn from `start` to `end` that ended in `waiting`.
    pub fn turn(&mut self, start: Duration, end: Duration, waiting: Waiting) {
        let gap = start.saturating_sub(self.last);
        match self.waiting {
            Waiting::Turn => self.busy += gap,
            Waiting::Input => self.idle += gap,
            Waiting::Output => self.backpressured += gap,
        }
        self.busy += end.saturating_sub(start);
        self.last = end.max(self.last);
        self.waiting = waiting;
    }

    /// Busy, idle and backpressured milliseconds.
    pub const fn millis(&self) -> (u64, u64, u64) {
        (
            self.busy.as_millis() as u64,
            self.idle.as_millis() as u64,
            self.backpressured.as_millis() as u64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t48_shares_add_up_to_the_time_that_passed() {
        let at = Duration::from_millis;
        let mut shares = Shares::new(at(0));
        shares.turn(at(10), at(15), Waiting::Output);
        shares.turn(at(40), at(41), Waiting::Turn);
        shares.turn(at(45), at(50), Waiting::Input);
        assert_eq!(shares.millis(), (5 + 1 + 4 + 5, 10, 25));
    }
}
