//! What a reader keeps between records: a buffer for strings with escapes, the last date, and what it has counted.
//!
//! One per subtask of a source. Its content never changes a result: the buffer and the date only save work.

/// What was tolerated in the records read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Fields that the record type does not know.
    pub unknown_fields: u64,
    /// Keys that stood more than once in one object; the last value stayed.
    pub repeated_keys: u64,
}

/// Memory that a reader reuses from record to record.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) buffer: String,
    pub(crate) date: CachedDate,
    pub(crate) counters: Counters,
}

/// The last date that was read and the milliseconds at which it begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CachedDate {
    pub(crate) text: [u8; 10],
    pub(crate) begins_ms: i64,
}

/// A buffer that a huge string has blown up beyond this many bytes is given back.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

impl Scratch {
    /// An empty scratch.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted since the last [`Scratch::take_counters`].
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// What was counted since the last call, and starts again from zero.
    pub const fn take_counters(&mut self) -> Counters {
        std::mem::replace(
            &mut self.counters,
            Counters {
                unknown_fields: 0,
                repeated_keys: 0,
            },
        )
    }

    /// The buffer, empty and of bounded size.
    pub(crate) fn empty_buffer(&mut self) -> &mut String {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_MAX);
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_counters_start_again() {
        let mut scratch = Scratch::new();
        scratch.counters.unknown_fields = 3;
        assert_eq!(scratch.take_counters().unknown_fields, 3);
        assert_eq!(scratch.counters(), Counters::default());
    }

    #[test]
    fn huge_buffer_is_given_back() {
        let mut scratch = Scratch::new();
        scratch.buffer = "x".repeat(10 * BUFFER_BYTES_MAX);
        assert!(scratch.empty_buffer().capacity() < 2 * BUFFER_BYTES_MAX);
    }
}
