//! Time to live: when a value counts as gone.
//!
//! A value is expired when `last access + ttl <= now`; `now` is processing time and always passed in. What removes
//! expired values from memory (reads, cleanup pieces, snapshots) is best effort; what is visible is decided at each read.
//! Element by element in lists, entry by entry in maps.
//!
//! Source: Flink `StateTtlConfig`.

use highwater_types::ProcessingTime;

/// What moves the last access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlUpdate {
    /// Creating and writing.
    OnCreateAndWrite,
    /// Creating, writing and reading.
    OnReadAndWrite,
}

/// Whether a value that expired and still is in memory can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlVisibility {
    /// It is absent from the moment it expires.
    NeverReturnExpired,
    /// It is returned until some cleanup removes it.
    ReturnIfNotCleaned,
}

/// What removes expired values besides reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlCleanup {
    /// Entries that are looked at for each access since the last chunk; 0 = no cleanup in pieces.
    pub entries_per_access: u32,
    /// Whether a full snapshot leaves expired values out.
    pub at_snapshot: bool,
}

impl TtlCleanup {
    /// Five entries for each access, and snapshots filter.
    pub const DEFAULT: Self = Self {
        entries_per_access: 5,
        at_snapshot: true,
    };
}

/// The time to live of one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlConfig {
    /// How long a value lives after its last access. Milliseconds, at least 1.
    pub duration_ms: i64,
    /// What counts as access.
    pub update: TtlUpdate,
    /// Whether expired values are visible until cleaned.
    pub visibility: TtlVisibility,
    /// What removes expired values.
    pub cleanup: TtlCleanup,
}

impl TtlConfig {
    /// Lives `duration_ms` after creation or the last write; never visible afterwards; default cleanup.
    ///
    /// # Panics
    /// If `duration_ms` is below 1: plan-time checks refuse that.
    pub const fn after_write(duration_ms: i64) -> Self {
        assert!(duration_ms > 0, "a time to live is at least 1 ms");
        Self {
            duration_ms,
            update: TtlUpdate::OnCreateAndWrite,
            visibility: TtlVisibility::NeverReturnExpired,
            cleanup: TtlCleanup::DEFAULT,
        }
    }

    /// The same with another update rule.
    pub const fn with_update(mut self, update: TtlUpdate) -> Self {
        self.update = update;
        self
    }

    /// The same with another visibility.
    pub const fn with_visibility(mut self, visibility: TtlVisibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// The same with another cleanup.
    pub const fn with_cleanup(mut self, cleanup: TtlCleanup) -> Self {
        self.cleanup = cleanup;
        self
    }

    /// Whether a value last accessed at `stamp` is expired at `now`.
    #[inline]
    pub const fn is_expired(&self, stamp: ProcessingTime, now: ProcessingTime) -> bool {
        stamp.0.saturating_add(self.duration_ms) <= now.0
    }

    /// Whether a value last accessed at `stamp` can be read at `now`.
    #[inline]
    pub(crate) fn is_visible(&self, stamp: ProcessingTime, now: ProcessingTime) -> bool {
        self.visibility == TtlVisibility::ReturnIfNotCleaned || !self.is_expired(stamp, now)
    }

    /// Whether reading moves the last access.
    #[inline]
    pub(crate) fn refreshes_on_read(&self) -> bool {
        self.update == TtlUpdate::OnReadAndWrite
    }
}

/// A point in time and the rule by which values are expired at it.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// The rule.
    pub ttl: TtlConfig,
    /// The point.
    pub now: ProcessingTime,
}

impl Expiry {
    /// Whether a value last accessed at `stamp` is expired.
    #[inline]
    pub const fn is_expired(&self, stamp: ProcessingTime) -> bool {
        self.ttl.is_expired(stamp, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t28_a_value_expires_exactly_at_last_access_plus_ttl() {
        let ttl = TtlConfig::after_write(10);
        assert!(!ttl.is_expired(ProcessingTime(100), ProcessingTime(109)));
        assert!(ttl.is_expired(ProcessingTime(100), ProcessingTime(110)));
        assert!(!ttl.is_expired(ProcessingTime(i64::MAX), ProcessingTime(0)));
    }
}
