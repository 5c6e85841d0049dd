//! For how long every task of a job ran, and for how long it was between a failure and the next attempt.
//!
//! Kept by the coordinator in its status. Pure. The rule: a stretch that is open counts up to the moment at which somebody asks; what an
//! older leader did is not in it.
//!
//! Source: Flink's `runningTime` and `restartingTime`.

use std::time::Duration;

use crate::status::JobPhase;

/// One account of time, in milliseconds of the coordinator's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    closed_ms: u64,
    since_ms: Option<u64>,
}

impl Account {
    const fn open(&mut self, now_ms: u64) {
        if self.since_ms.is_none() {
            self.since_ms = Some(now_ms);
        }
    }

    const fn close(&mut self, now_ms: u64) {
        if let Some(since) = self.since_ms.take() {
            self.closed_ms += now_ms.saturating_sub(since);
        }
    }

    fn read(&self, now_ms: u64) -> Duration {
        let open = self
            .since_ms
            .map_or(0, |since| now_ms.saturating_sub(since));
        Duration::from_millis(self.closed_ms + open)
    }
}

/// Where the time of a job went since its coordinator leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    running: Account,
    restarting: Account,
}

impl PhaseTimes {
    /// The job enters this phase.
    pub const fn enter(&mut self, phase: &JobPhase, now_ms: u64) {
        match phase {
            JobPhase::Running | JobPhase::Stopping => {
                self.running.open(now_ms);
                self.restarting.close(now_ms);
            }
            JobPhase::Restarting { .. } => self.lost(now_ms),
            // On the way back it still restarts; at the first start it does not.
            JobPhase::Recovering => self.running.close(now_ms),
            JobPhase::Standby
            | JobPhase::Starting
            | JobPhase::Finished
            | JobPhase::Stopped
            | JobPhase::Failed { .. } => {
                self.running.close(now_ms);
                self.restarting.close(now_ms);
            }
        }
    }

    /// The attempt has failed, and another one will follow: told before its tasks have ended.
    pub const fn lost(&mut self, now_ms: u64) {
        self.running.close(now_ms);
        self.restarting.open(now_ms);
    }

    /// How long every task ran.
    pub fn running(&self, now_ms: u64) -> Duration {
        self.running.read(now_ms)
    }

    /// How long it was between failures and the moments at which every task ran again.
    pub fn restarting(&self, now_ms: u64) -> Duration {
        self.restarting.read(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(times: &PhaseTimes, now_ms: u64) -> (u128, u128) {
        let (running, restarting) = (times.running(now_ms), times.restarting(now_ms));
        (running.as_millis(), restarting.as_millis())
    }

    #[test]
    fn the_first_recovery_is_no_restart() {
        let mut times = PhaseTimes::default();
        times.enter(&JobPhase::Starting, 0);
        times.enter(&JobPhase::Recovering, 10);
        assert_eq!(read(&times, 40), (0, 0));
        times.enter(&JobPhase::Running, 50);
        assert_eq!(read(&times, 80), (30, 0), "an open stretch counts");
    }

    #[test]
    fn a_restart_lasts_from_the_failure_until_the_tasks_run_again() {
        let mut times = PhaseTimes::default();
        times.enter(&JobPhase::Running, 0);
        times.lost(100);
        times.enter(&JobPhase::Restarting { at_ms: 300 }, 150);
        times.enter(&JobPhase::Recovering, 300);
        assert_eq!(read(&times, 310), (100, 210));
        times.enter(&JobPhase::Running, 400);
        // Asked to stop and refused: it ran throughout.
        times.enter(&JobPhase::Stopping, 450);
        times.enter(&JobPhase::Running, 460);
        assert_eq!(read(&times, 500), (200, 300));
    }

    #[test]
    fn a_job_that_has_ended_counts_nothing_any_more() {
        let mut times = PhaseTimes::default();
        times.enter(&JobPhase::Running, 0);
        times.lost(5);
        times.enter(&JobPhase::Stopped, 9);
        assert_eq!(read(&times, 1_000), (5, 4));
    }
}
