//! The watermark of a source reader: one generator per split, the minimum over the splits that are not idle.
//!
//! Called by the head of a source task. Idleness runs on processing time that is passed in, and stands still while the
//! source is held back by its outputs (T-08). A reader without splits is idle by itself: it never holds the job back.

use highwater_types::{EventTime, ProcessingTime, StreamStatus, Watermark};

use crate::strategy::WatermarkStrategy;

/// What the event time of a source became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSignal {
    /// It rose.
    Watermark(Watermark),
    /// The source became idle or active.
    Status(StreamStatus),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Active,
    Idle,
    Finished,
}

#[derive(Clone, Debug)]
struct SplitTime {
    highest: Option<EventTime>,
    phase: Phase,
    quiet_since: ProcessingTime,
}

/// The watermarks of all splits of one reader.
#[derive(Clone, Debug)]
pub struct SplitWatermarks {
    strategy: WatermarkStrategy,
    splits: Vec<SplitTime>,
    emitted: Watermark,
    status: StreamStatus,
    looked_at: Option<ProcessingTime>,
    future_records: u64,
}

impl SplitWatermarks {
    /// No splits yet.
    pub const fn new(strategy: WatermarkStrategy) -> Self {
        Self {
            strategy,
            splits: Vec::new(),
            emitted: Watermark::MIN,
            status: StreamStatus::Active,
            looked_at: None,
            future_records: 0,
        }
    }

    /// A new split, numbered on from the last one. It starts without a watermark and holds the source back until it
    /// delivers or is idle.
    ///
    /// # Panics
    /// If `split` is not the next number.
    pub fn add_split(&mut self, split: u32, now: ProcessingTime) {
        assert_eq!(
            split as usize,
            self.splits.len(),
            "splits are numbered in order"
        );
        self.splits.push(SplitTime {
            highest: None,
            phase: Phase::Active,
            quiet_since: now,
        });
    }

    /// Records of a split. `NONE` times and times beyond the future limit do not count.
    pub fn on_chunk(&mut self, split: u32, times: &[EventTime], now: ProcessingTime) {
        let limit = self
            .strategy
            .future_limit_ms()
            .map(|ms| now.0.saturating_add(ms));
        let split = &mut self.splits[split as usize];
        if split.phase == Phase::Idle {
            split.phase = Phase::Active;
        }
        split.quiet_since = now;
        let highest = match limit {
            None => times.iter().max().copied(),
            Some(limit) => {
                let counted = times.iter().filter(|time| time.0 <= limit);
                let highest = counted.clone().max().copied();
                self.future_records += (times.len() - counted.count()) as u64;
                highest
            }
        };
        split.highest = split.highest.max(highest.filter(|time| time.is_some()));
    }

    /// A split that brings nothing has records all the same, which cannot be read yet: it is not idle, and holds the
    /// source back until they come.
    pub fn keep_awake(&mut self, split: u32, now: ProcessingTime) {
        let split = &mut self.splits[split as usize];
        if split.phase == Phase::Idle {
            split.phase = Phase::Active;
        }
        split.quiet_since = now;
    }

    /// A split is read to its end: it leaves the minimum.
    pub fn finish_split(&mut self, split: u32) {
        self.splits[split as usize].phase = Phase::Finished;
    }

    /// How many splits are not read to their end, and how many of those are idle.
    pub fn open_and_idle(&self) -> (u64, u64) {
        let of = |phase| {
            let splits = self.splits.iter();
            splits.filter(|split| split.phase == phase).count() as u64
        };
        let idle = of(Phase::Idle);
        (of(Phase::Active) + idle, idle)
    }

    /// How many records were too far in the future to count.
    pub const fn future_records(&self) -> u64 {
        self.future_records
    }

    /// What the event time of the source became since the last call, in the order to forward.
    ///
    /// `paused` = the source was held back since the last call: that time does not count as quiet.
    pub fn signals(&mut self, now: ProcessingTime, paused: bool) -> Vec<SourceSignal> {
        let elapsed = self.looked_at.map_or(0, |before| (now.0 - before.0).max(0));
        if self.looked_at.is_none() {
            // Nothing was read while the job was set up, however long that took.
            for split in &mut self.splits {
                split.quiet_since = now;
            }
        }
        self.looked_at = Some(now);
        if paused {
            for split in &mut self.splits {
                let quiet_since = split.quiet_since.saturating_add(elapsed);
                split.quiet_since = quiet_since.min(now);
            }
        } else {
            self.mark_idle(now);
        }
        let mut signals = Vec::new();
        let status = if self.splits.iter().any(|split| split.phase == Phase::Active) {
            StreamStatus::Active
        } else {
            StreamStatus::Idle
        };
        if status == StreamStatus::Active && self.status == StreamStatus::Idle {
            signals.push(SourceSignal::Status(status));
        }
        let watermark = self.watermark(status);
        if watermark > self.emitted {
            self.emitted = watermark;
            signals.push(SourceSignal::Watermark(watermark));
        }
        if status == StreamStatus::Idle && self.status == StreamStatus::Active {
            signals.push(SourceSignal::Status(status));
        }
        self.status = status;
        signals
    }

    fn mark_idle(&mut self, now: ProcessingTime) {
        let Some(timeout) = self.strategy.idle_after_ms() else {
            return;
        };
        for split in &mut self.splits {
            let quiet = now.0.saturating_sub(split.quiet_since.0);
            if split.phase == Phase::Active && quiet >= timeout {
                split.phase = Phase::Idle;
            }
        }
    }

    /// The minimum over active splits; with none active, the highest of all that are not finished (the flush of T-08).
    fn watermark(&self, status: StreamStatus) -> Watermark {
        let Some(bound) = self.strategy.bound_ms() else {
            return Watermark::MIN;
        };
        let of = |split: &SplitTime| {
            let time = split
                .highest
                .map(|time| time.0.saturating_sub(bound).saturating_sub(1));
            Watermark(time.unwrap_or(i64::MIN))
        };
        let watermark = match status {
            StreamStatus::Active => self
                .splits
                .iter()
                .filter(|split| split.phase == Phase::Active)
                .map(of)
                .min(),
            StreamStatus::Idle => self
                .splits
                .iter()
                .filter(|split| split.phase == Phase::Idle)
                .map(of)
                .max(),
        };
        watermark.unwrap_or(Watermark::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> ProcessingTime {
        ProcessingTime(ms)
    }

    fn two_splits() -> SplitWatermarks {
        let strategy = WatermarkStrategy::bounded_out_of_orderness(100).idle_after(1_000);
        let mut splits = SplitWatermarks::new(strategy);
        splits.add_split(0, at(0));
        splits.add_split(1, at(0));
        splits
    }

    #[test]
    fn t01_the_watermark_is_the_highest_time_less_bound_less_one() {
        let mut splits = SplitWatermarks::new(WatermarkStrategy::bounded_out_of_orderness(45_000));
        splits.add_split(0, at(0));
        splits.on_chunk(0, &[EventTime(644_999), EventTime(3)], at(0));
        assert_eq!(
            splits.signals(at(0), false),
            [SourceSignal::Watermark(Watermark(599_998))]
        );
        splits.on_chunk(0, &[EventTime(i64::MIN + 1)], at(0));
        assert_eq!(splits.signals(at(0), false), []);
    }

    #[test]
    fn the_slowest_split_decides_and_a_new_one_holds_back() {
        let mut splits = two_splits();
        splits.on_chunk(0, &[EventTime(5_000)], at(0));
        assert_eq!(splits.signals(at(0), false), []);
        splits.on_chunk(1, &[EventTime(2_000)], at(0));
        assert_eq!(
            splits.signals(at(0), false),
            [SourceSignal::Watermark(Watermark(1_899))]
        );
    }

    #[test]
    fn t08_an_idle_split_is_left_out_and_counts_again_when_it_wakes() {
        let mut splits = two_splits();
        assert_eq!(splits.signals(at(0), false), []);
        splits.on_chunk(0, &[EventTime(5_000)], at(900));
        assert_eq!(
            splits.signals(at(1_000), false),
            [SourceSignal::Watermark(Watermark(4_899))]
        );
        splits.on_chunk(1, &[EventTime(100)], at(1_100));
        assert_eq!(splits.signals(at(1_100), false), [], "never goes back");
        splits.on_chunk(0, &[EventTime(9_000)], at(1_200));
        assert_eq!(
            splits.signals(at(1_200), false),
            [],
            "the woken split holds back"
        );
        splits.on_chunk(1, &[EventTime(9_000)], at(1_200));
        assert_eq!(
            splits.signals(at(1_200), false),
            [SourceSignal::Watermark(Watermark(8_899))]
        );
    }

    #[test]
    fn t08_when_all_are_idle_the_highest_time_is_flushed_before_the_idle_status() {
        let mut splits = two_splits();
        splits.on_chunk(0, &[EventTime(5_000)], at(0));
        splits.on_chunk(1, &[EventTime(3_000)], at(0));
        splits.signals(at(0), false);
        let idle = splits.signals(at(1_000), false);
        let expected = [
            SourceSignal::Watermark(Watermark(4_899)),
            SourceSignal::Status(StreamStatus::Idle),
        ];
        assert_eq!(idle, expected);
        splits.on_chunk(1, &[EventTime(6_000)], at(1_500));
        let expected = [
            SourceSignal::Status(StreamStatus::Active),
            SourceSignal::Watermark(Watermark(5_899)),
        ];
        assert_eq!(splits.signals(at(1_500), false), expected);
    }

    #[test]
    fn t08_a_split_with_records_that_cannot_be_read_yet_is_not_idle() {
        let mut splits = two_splits();
        assert_eq!(splits.signals(at(0), false), [], "the first look");
        splits.on_chunk(0, &[EventTime(5_000)], at(900));
        splits.keep_awake(1, at(900));
        assert_eq!(splits.signals(at(1_500), false), [], "split 1 holds back");
        assert_eq!(splits.open_and_idle(), (2, 0));
        assert!(
            !splits.signals(at(1_900), false).is_empty(),
            "it is idle now"
        );
        assert_eq!(splits.open_and_idle(), (2, 2));
        splits.keep_awake(1, at(2_000));
        splits.on_chunk(0, &[EventTime(9_000)], at(2_000));
        let active = [SourceSignal::Status(StreamStatus::Active)];
        assert_eq!(splits.signals(at(2_000), false), active, "it holds back");
    }

    #[test]
    fn t08_the_idle_clock_stands_still_while_the_source_is_held_back() {
        let mut splits = two_splits();
        splits.on_chunk(0, &[EventTime(5_000)], at(0));
        splits.on_chunk(1, &[EventTime(3_000)], at(0));
        splits.signals(at(0), false);
        assert_eq!(splits.signals(at(5_000), true), []);
        assert_eq!(splits.signals(at(5_500), false), []);
        assert!(!splits.signals(at(6_000), false).is_empty());
    }

    #[test]
    fn t08_a_split_that_is_behind_is_not_idle_however_long_it_is_quiet() {
        let mut splits = two_splits();
        splits.on_chunk(0, &[EventTime(5_000)], at(0));
        splits.signals(at(0), false);
        splits.keep_awake(1, at(3_000));
        assert_eq!(splits.signals(at(3_000), false), []);
        splits.on_chunk(0, &[EventTime(6_000)], at(3_900));
        assert_eq!(splits.signals(at(3_999), false), []);
        assert_eq!(
            splits.signals(at(4_000), false),
            [SourceSignal::Watermark(Watermark(5_899))],
            "a second after it was read to its end it is idle"
        );
    }

    #[test]
    fn t08_the_time_before_the_first_turn_is_not_quiet() {
        let mut splits = two_splits();
        splits.on_chunk(0, &[EventTime(5_000)], at(10_000));
        assert_eq!(splits.signals(at(10_000), false), []);
        assert_eq!(splits.signals(at(10_999), false), []);
        assert!(!splits.signals(at(11_000), false).is_empty());
    }

    #[test]
    fn t09_a_reader_without_splits_is_idle_by_itself() {
        let mut splits = SplitWatermarks::new(WatermarkStrategy::monotonous());
        let idle = [SourceSignal::Status(StreamStatus::Idle)];
        assert_eq!(splits.signals(at(0), false), idle);
        splits.add_split(0, at(1));
        assert_eq!(
            splits.signals(at(1), false),
            [SourceSignal::Status(StreamStatus::Active)]
        );
    }

    #[test]
    fn t08_the_flush_of_idle_splits_does_not_jump_to_a_finished_one() {
        let mut time =
            SplitWatermarks::new(WatermarkStrategy::bounded_out_of_orderness(50).idle_after(100));
        time.add_split(0, ProcessingTime(0));
        time.add_split(1, ProcessingTime(0));
        time.on_chunk(0, &[EventTime(10_000)], ProcessingTime(0));
        time.on_chunk(1, &[EventTime(1_000)], ProcessingTime(0));
        time.finish_split(0);
        let before = time.signals(ProcessingTime(0), false);
        // What the stalled split still holds is not late because another one was read to its end.
        let stalled = time.signals(ProcessingTime(200), false);
        assert_eq!(stalled, [SourceSignal::Status(StreamStatus::Idle)]);
        time.on_chunk(1, &[EventTime(1_001)], ProcessingTime(300));
        let after = time.signals(ProcessingTime(300), false);
        let [SourceSignal::Watermark(early)] = before[..] else {
            panic!("{before:?}");
        };
        let expected = Watermark(early.0 + 1);
        assert_eq!(
            after,
            [
                SourceSignal::Status(StreamStatus::Active),
                SourceSignal::Watermark(expected)
            ]
        );
    }

    #[test]
    fn a_finished_split_leaves_the_minimum() {
        let mut splits = two_splits();
        splits.on_chunk(0, &[EventTime(5_000)], at(0));
        splits.finish_split(1);
        assert_eq!(splits.open_and_idle(), (1, 0));
        assert_eq!(
            splits.signals(at(0), false),
            [SourceSignal::Watermark(Watermark(4_899))]
        );
    }

    #[test]
    fn records_too_far_in_the_future_do_not_advance_the_watermark() {
        let strategy = WatermarkStrategy::monotonous().ignore_future_beyond(1_000);
        let mut splits = SplitWatermarks::new(strategy);
        splits.add_split(0, at(0));
        splits.on_chunk(0, &[EventTime(500), EventTime(99_999)], at(0));
        assert_eq!(
            splits.signals(at(0), false),
            [SourceSignal::Watermark(Watermark(499))]
        );
        assert_eq!(splits.future_records(), 1);
    }
}
