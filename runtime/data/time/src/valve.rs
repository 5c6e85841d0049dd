//! The watermark of a task over its input channels: the minimum over those that are active and have caught up.
//!
//! Called by the mailbox loop of a task. Regressions of a channel are ignored and counted. A channel that wakes up with
//! an older watermark than the task's is not counted until it has caught up (T-08), so the output never goes back.
//!
//! Source: Flink `StatusWatermarkValve`.

use highwater_types::{StreamStatus, Watermark};

/// What the event time of a task became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValveOutput {
    /// It rose.
    Watermark(Watermark),
    /// The task became idle or active.
    Status(StreamStatus),
}

#[derive(Clone, Copy, Debug)]
struct ChannelTime {
    watermark: Watermark,
    status: StreamStatus,
    caught_up: bool,
    ended: bool,
}

/// The valve.
#[derive(Clone, Debug)]
pub struct StatusValve {
    channels: Vec<ChannelTime>,
    output: Watermark,
    status: StreamStatus,
    regressions: u64,
}

impl StatusValve {
    /// A valve over `channels` active channels.
    pub fn new(channels: usize) -> Self {
        let channel = ChannelTime {
            watermark: Watermark::MIN,
            status: StreamStatus::Active,
            caught_up: true,
            ended: false,
        };
        Self {
            channels: vec![channel; channels],
            output: Watermark::MIN,
            status: StreamStatus::Active,
            regressions: 0,
        }
    }

    /// How many channels are idle and do not hold the watermark back.
    pub fn idle_channels(&self) -> u64 {
        self.open()
            .filter(|channel| channel.status == StreamStatus::Idle)
            .count() as u64
    }

    /// How many watermarks went back and were ignored.
    pub const fn regressions(&self) -> u64 {
        self.regressions
    }

    /// A channel's watermark.
    ///
    /// # Panics
    /// If `channel` is not an input: the graph fixes the channel count at deployment.
    pub fn watermark(&mut self, channel: usize, watermark: Watermark) -> Vec<ValveOutput> {
        let state = &mut self.channels[channel];
        if watermark < state.watermark {
            self.regressions += 1;
            return Vec::new();
        }
        state.watermark = watermark;
        state.caught_up |= watermark >= self.output;
        self.advance().into_iter().collect()
    }

    /// A channel's status.
    pub fn status(&mut self, channel: usize, status: StreamStatus) -> Vec<ValveOutput> {
        let output = self.output;
        let state = &mut self.channels[channel];
        if state.status == status || state.ended {
            return Vec::new();
        }
        state.status = status;
        match status {
            StreamStatus::Active => {
                state.caught_up = state.watermark >= output;
                let was_idle = self.status == StreamStatus::Idle;
                self.status = StreamStatus::Active;
                was_idle
                    .then_some(ValveOutput::Status(StreamStatus::Active))
                    .into_iter()
                    .collect()
            }
            StreamStatus::Idle => self.went_idle(),
        }
    }

    /// A channel has ended; also says whether all have. Its largest watermark came before.
    pub fn end(&mut self, channel: usize) -> (Vec<ValveOutput>, bool) {
        let state = &mut self.channels[channel];
        state.ended = true;
        state.watermark = Watermark::MAX;
        state.caught_up = true;
        let all = self.channels.iter().all(|channel| channel.ended);
        if all {
            return (Vec::new(), true);
        }
        let open_are_idle = self
            .open()
            .all(|channel| channel.status == StreamStatus::Idle);
        let news = if open_are_idle && self.status == StreamStatus::Active {
            self.went_idle()
        } else {
            self.advance().into_iter().collect()
        };
        (news, false)
    }

    fn open(&self) -> impl Iterator<Item = &ChannelTime> {
        self.channels.iter().filter(|channel| !channel.ended)
    }

    /// One more channel is idle: the others decide, and with none left the highest watermark is flushed first.
    fn went_idle(&mut self) -> Vec<ValveOutput> {
        if self
            .open()
            .any(|channel| channel.status == StreamStatus::Active)
        {
            return self.advance().into_iter().collect();
        }
        let highest = self.open().map(|channel| channel.watermark).max();
        let mut news = Vec::new();
        if let Some(highest) = highest.filter(|highest| *highest > self.output) {
            self.output = highest;
            news.push(ValveOutput::Watermark(highest));
        }
        if self.status == StreamStatus::Active {
            self.status = StreamStatus::Idle;
            news.push(ValveOutput::Status(StreamStatus::Idle));
        }
        news
    }

    fn advance(&mut self) -> Option<ValveOutput> {
        let counted = self.channels.iter().filter(|channel| {
            channel.ended || (channel.status == StreamStatus::Active && channel.caught_up)
        });
        let lowest = counted.map(|channel| channel.watermark).min()?;
        if lowest <= self.output || lowest == Watermark::MAX {
            return None;
        }
        self.output = lowest;
        Some(ValveOutput::Watermark(lowest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: StreamStatus = StreamStatus::Idle;
    const ACTIVE: StreamStatus = StreamStatus::Active;

    fn watermark(ms: i64) -> [ValveOutput; 1] {
        [ValveOutput::Watermark(Watermark(ms))]
    }

    #[test]
    fn t09_the_minimum_over_channels_decides_and_regressions_are_ignored() {
        let mut valve = StatusValve::new(2);
        assert_eq!(valve.watermark(0, Watermark(10)), []);
        assert_eq!(valve.watermark(1, Watermark(5)), watermark(5));
        assert_eq!(valve.watermark(1, Watermark(4)), []);
        assert_eq!(valve.regressions(), 1);
        assert_eq!(valve.watermark(1, Watermark(12)), watermark(10));
    }

    #[test]
    fn t08_idle_channels_are_excluded() {
        let mut valve = StatusValve::new(2);
        valve.watermark(0, Watermark(10));
        assert_eq!(valve.idle_channels(), 0);
        assert_eq!(valve.status(1, IDLE), watermark(10));
        assert_eq!(valve.idle_channels(), 1);
        assert_eq!(valve.watermark(0, Watermark(11)), watermark(11));
        valve.end(1);
        assert_eq!(valve.idle_channels(), 0, "one that has ended is not idle");
    }

    #[test]
    fn t08_all_idle_flushes_the_maximum_before_the_idle_status() {
        let mut valve = StatusValve::new(2);
        valve.watermark(0, Watermark(10));
        valve.watermark(1, Watermark(7));
        assert_eq!(valve.status(1, IDLE), watermark(10));
        assert_eq!(valve.status(0, IDLE), [ValveOutput::Status(IDLE)]);
        let mut valve = StatusValve::new(2);
        valve.watermark(0, Watermark(10));
        valve.watermark(1, Watermark(7));
        assert_eq!(valve.status(0, IDLE), []);
        let flushed = [
            ValveOutput::Watermark(Watermark(10)),
            ValveOutput::Status(IDLE),
        ];
        assert_eq!(valve.status(1, IDLE), flushed);
        assert_eq!(valve.status(0, ACTIVE), [ValveOutput::Status(ACTIVE)]);
    }

    #[test]
    fn t08_a_woken_channel_is_ignored_until_it_has_caught_up() {
        let mut valve = StatusValve::new(2);
        valve.status(1, IDLE);
        valve.watermark(0, Watermark(100));
        valve.status(1, ACTIVE);
        assert_eq!(valve.watermark(1, Watermark(50)), []);
        assert_eq!(valve.watermark(0, Watermark(110)), watermark(110));
        assert_eq!(valve.watermark(1, Watermark(120)), []);
        assert_eq!(valve.watermark(0, Watermark(130)), watermark(120));
    }

    #[test]
    fn t10_the_largest_watermark_is_not_forwarded_before_every_channel_has_ended() {
        let mut valve = StatusValve::new(2);
        valve.watermark(0, Watermark::MAX);
        assert_eq!(valve.end(0), (vec![], false));
        assert_eq!(valve.watermark(1, Watermark(5)), watermark(5));
        assert_eq!(valve.end(1), (vec![], true));
    }
}
