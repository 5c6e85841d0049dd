//! When the next attempt starts: a pure function of the strategy and the failures so far.

use std::time::Duration;

use crate::settings::RestartStrategy;

/// The state of a restart strategy.
#[derive(Clone, Debug)]
pub struct RestartDelay {
    strategy: RestartStrategy,
    in_a_row: u32,
    running_since_ms: Option<u64>,
}

impl RestartDelay {
    /// No failure yet.
    pub const fn new(strategy: RestartStrategy) -> Self {
        Self {
            strategy,
            in_a_row: 0,
            running_since_ms: None,
        }
    }

    /// Records flow since `now_ms`.
    pub fn running(&mut self, now_ms: u64) {
        self.running_since_ms = Some(now_ms);
    }

    /// An attempt has failed: how long to wait before the next one; `None` = there is none.
    pub fn next(&mut self, now_ms: u64) -> Option<Duration> {
        let ran_ms = self
            .running_since_ms
            .take()
            .map_or(0, |since| now_ms.saturating_sub(since));
        match self.strategy {
            RestartStrategy::Never => None,
            RestartStrategy::Exponential {
                first,
                most,
                reset_after,
                restarts_max,
            } => {
                if u128::from(ran_ms) >= reset_after.as_millis() {
                    self.in_a_row = 0;
                }
                if restarts_max.is_some_and(|limit| self.in_a_row >= limit) {
                    return None;
                }
                let delay = first
                    .saturating_mul(2u32.saturating_pow(self.in_a_row))
                    .min(most);
                self.in_a_row += 1;
                Some(delay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_limit_and_reset_after_a_quiet_time() {
        let mut delay = RestartDelay::new(RestartStrategy::Exponential {
            first: SECOND,
            most: 4 * SECOND,
            reset_after: 60 * SECOND,
            restarts_max: None,
        });
        let waits: Vec<_> = (0..4).map(|_| delay.next(0).unwrap().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 4]);
        delay.running(0);
        assert_eq!(delay.next(59_999), Some(4 * SECOND));
        delay.running(0);
        assert_eq!(delay.next(60_000), Some(SECOND));
    }

    #[test]
    fn a_spent_strategy_gives_no_further_attempt() {
        assert_eq!(RestartDelay::new(RestartStrategy::Never).next(0), None);
        let mut delay = RestartDelay::new(RestartStrategy::Exponential {
            first: SECOND,
            most: SECOND,
            reset_after: SECOND,
            restarts_max: Some(1),
        });
        assert_eq!(delay.next(0), Some(SECOND));
        assert_eq!(delay.next(0), None);
    }
}
