//! Assigners: which windows a time falls into. Floor-modulo arithmetic, so times before 1970 work (T-05).

use highwater_types::{Classified, ErrorKind, EventTime};

use crate::time_window::TimeWindow;

/// The most windows that a record may be in. Each of them keeps its own contents.
pub const OVERLAP_MAX: i64 = 1_000;

/// Window settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// A size or slide that is not positive.
    #[error("window {what} is {ms} ms; use 1 ms or more")]
    NotPositive {
        /// Which setting.
        what: &'static str,
        /// Its value.
        ms: i64,
    },
    /// An offset that moves windows by a whole step or more.
    #[error("window offset {offset_ms} ms is out of range; use less than {step_ms} ms either way")]
    Offset {
        /// The offset.
        offset_ms: i64,
        /// The distance between two windows.
        step_ms: i64,
    },
    /// Windows that leave gaps.
    #[error(
        "window slide {slide_ms} ms is larger than the size {size_ms} ms; records in between would be in no window"
    )]
    Gaps {
        /// The slide.
        slide_ms: i64,
        /// The size.
        size_ms: i64,
    },
    /// Windows that overlap so often that each record is kept too many times.
    #[error(
        "window size {size_ms} ms is {overlap} times the slide {slide_ms} ms, so each record would be kept in {overlap} windows; \
         use a slide of at least {slide_min_ms} ms, which makes {OVERLAP_MAX}"
    )]
    Overlap {
        /// The size.
        size_ms: i64,
        /// The slide.
        slide_ms: i64,
        /// Windows that a record is in.
        overlap: i64,
        /// The least slide for the size.
        slide_min_ms: i64,
    },
    /// A negative allowed lateness.
    #[error("allowed lateness of {0} ms is negative; use 0 or more")]
    Lateness(i64),
}

impl Classified for WindowError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// Assigns times to windows.
pub trait WindowAssigner: Clone + Send + Sync + 'static {
    /// Calls `each` for every window that holds `time`, the earliest first.
    fn assign(&self, time: EventTime, each: impl FnMut(TimeWindow));

    /// Shown in plans.
    fn describe(&self) -> String;
}

fn positive(what: &'static str, ms: i64) -> Result<i64, WindowError> {
    if ms > 0 {
        Ok(ms)
    } else {
        Err(WindowError::NotPositive { what, ms })
    }
}

fn offset_within(offset_ms: i64, step_ms: i64) -> Result<i64, WindowError> {
    if offset_ms.unsigned_abs() < step_ms.unsigned_abs() {
        Ok(offset_ms)
    } else {
        Err(WindowError::Offset { offset_ms, step_ms })
    }
}

/// The start of the last step that is at or before `time`.
const fn floor_start(time: i64, step_ms: i64, offset_ms: i64) -> i64 {
    time.saturating_sub(time.saturating_sub(offset_ms).rem_euclid(step_ms))
}

/// Windows of one size, one after the other, aligned to the epoch plus an offset.
///
/// Source: Flink `TumblingEventTimeWindows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    size_ms: i64,
    offset_ms: i64,
}

impl Tumbling {
    /// Windows of `size_ms`.
    pub fn try_new(size_ms: i64) -> Result<Self, WindowError> {
        Self::with_offset(size_ms, 0)
    }

    /// Windows of `size_ms` that begin `offset_ms` after a multiple of it.
    pub fn with_offset(size_ms: i64, offset_ms: i64) -> Result<Self, WindowError> {
        let size_ms = positive("size", size_ms)?;
        Ok(Self {
            size_ms,
            offset_ms: offset_within(offset_ms, size_ms)?,
        })
    }

    /// The window that holds `time`.
    #[inline]
    pub const fn window(&self, time: EventTime) -> TimeWindow {
        let start = floor_start(time.0, self.size_ms, self.offset_ms);
        TimeWindow {
            start,
            end: start.saturating_add(self.size_ms),
        }
    }
}

impl WindowAssigner for Tumbling {
    #[inline]
    fn assign(&self, time: EventTime, mut each: impl FnMut(TimeWindow)) {
        each(self.window(time));
    }

    fn describe(&self) -> String {
        match self.offset_ms {
            0 => format!("tumbling {} ms", self.size_ms),
            offset => format!("tumbling {} ms, offset {offset} ms", self.size_ms),
        }
    }
}

/// Windows of one size that begin every `slide` milliseconds: a time is in `size / slide` of them.
///
/// Source: Flink `SlidingEventTimeWindows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    size: i64,
    slide: i64,
    offset: i64,
}

impl Sliding {
    /// Windows of `size_ms` that begin every `slide_ms`.
    pub fn try_new(size_ms: i64, slide_ms: i64) -> Result<Self, WindowError> {
        Self::with_offset(size_ms, slide_ms, 0)
    }

    /// The same, beginning `offset_ms` after a multiple of the slide.
    pub fn with_offset(size_ms: i64, slide_ms: i64, offset_ms: i64) -> Result<Self, WindowError> {
        let size_ms = positive("size", size_ms)?;
        let slide_ms = positive("slide", slide_ms)?;
        if slide_ms > size_ms {
            return Err(WindowError::Gaps { slide_ms, size_ms });
        }
        let overlap = (size_ms - 1) / slide_ms + 1;
        if overlap > OVERLAP_MAX {
            return Err(WindowError::Overlap {
                size_ms,
                slide_ms,
                overlap,
                slide_min_ms: (size_ms - 1) / OVERLAP_MAX + 1,
            });
        }
        Ok(Self {
            size: size_ms,
            slide: slide_ms,
            offset: offset_within(offset_ms, slide_ms)?,
        })
    }
}

impl WindowAssigner for Sliding {
    fn assign(&self, time: EventTime, mut each: impl FnMut(TimeWindow)) {
        let last = floor_start(time.0, self.slide, self.offset);
        let before = (self.size - 1) / self.slide;
        for step in (0..=before).rev() {
            let start = last.saturating_sub(step * self.slide);
            let window = TimeWindow {
                start,
                end: start.saturating_add(self.size),
            };
            if window.end > time.0 {
                each(window);
            }
        }
    }

    fn describe(&self) -> String {
        format!("sliding {} ms every {} ms", self.size, self.slide)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(assigner: &impl WindowAssigner, time: i64) -> Vec<TimeWindow> {
        let mut windows = Vec::new();
        assigner.assign(EventTime(time), |window| windows.push(window));
        windows
    }

    #[test]
    fn windows_that_overlap_too_often_are_refused_with_the_slide_that_would_do() {
        let refused = Sliding::try_new(86_400_000, 1_000).unwrap_err().to_string();
        assert!(
            refused.contains("86400 times the slide 1000 ms"),
            "{refused}"
        );
        assert!(refused.contains("at least 86400 ms"), "{refused}");
        let most = Sliding::try_new(86_400_000, 86_400).unwrap();
        assert_eq!(windows(&most, 0).len() as i64, OVERLAP_MAX);
    }

    #[test]
    fn t05_negative_times_use_mathematical_modulo() {
        let tumbling = Tumbling::try_new(600_000).unwrap();
        assert_eq!(
            tumbling.window(EventTime(-1)),
            TimeWindow {
                start: -600_000,
                end: 0
            }
        );
        assert_eq!(tumbling.window(EventTime(-600_000)).start, -600_000);
        let shifted = Tumbling::with_offset(10, -3).unwrap();
        assert_eq!(
            shifted.window(EventTime(0)),
            TimeWindow { start: -3, end: 7 }
        );
    }

    proptest! {
        #[test]
        fn t05_windows_are_those_that_a_scan_of_all_starts_finds(
            time in -10_000i64..10_000, size in 1i64..500, slide in 0i64..500, offset in -499i64..500,
        ) {
            let slide = 1 + slide % size;
            let offset = offset % slide;
            let sliding = Sliding::with_offset(size, slide, offset).unwrap();
            let naive: Vec<_> = (time - size + 1..=time)
                .filter(|start| (start - offset).rem_euclid(slide) == 0)
                .map(|start| TimeWindow { start, end: start + size })
                .collect();
            prop_assert_eq!(windows(&sliding, time), naive);
            if slide == size {
                let tumbling = Tumbling::with_offset(size, offset).unwrap();
                prop_assert_eq!(windows(&tumbling, time), windows(&sliding, time));
            }
        }
    }

    #[test]
    fn impossible_settings_are_refused_with_their_values() {
        assert!(
            Tumbling::try_new(0)
                .unwrap_err()
                .to_string()
                .contains("size is 0 ms")
        );
        assert!(Tumbling::with_offset(10, 10).is_err());
        assert!(Sliding::try_new(10, -1).is_err());
        assert!(
            Sliding::try_new(10, 11)
                .unwrap_err()
                .to_string()
                .contains("larger than the size")
        );
    }
}
