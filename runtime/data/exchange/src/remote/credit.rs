//! Credit of a remote channel: how much may be on its way to a receiver, and how the receiver says that it took it in.
//!
//! The receiver tells running totals, not differences: of two messages the later one alone is enough. The rule for the sender:
//! one frame may always be on its way; more only inside the window, and never more than [`FRAMES_MAX`]. So what a channel holds is
//! bounded by its window and one frame, a record of any size passes, and a ring with room for [`FRAMES_MAX`] never overflows.
//!
//! The window follows the rate at which the receiver takes in: about [`AIM`] of it, so that a barrier is not long behind
//! what lies before it. Source: Flink `BufferDebloater`, credit-based flow control of Flink (FLIP-2, network stack 1.5).

use std::time::Duration;

use bytes::Bytes;

/// Frames of a channel that are on their way at most.
pub const FRAMES_MAX: u64 = 64;
/// The window of a channel whose rate is not known yet, in bytes.
pub const WINDOW_FIRST: u64 = 256 << 10;
/// No window is smaller, in bytes: below it the round trips of credit would be what limits a channel.
pub const WINDOW_MIN: u64 = 64 << 10;
/// No window is larger, in bytes.
pub const WINDOW_MAX: u64 = 8 << 20;
/// How much of what the receiver takes in may be on its way.
pub const AIM: Duration = Duration::from_millis(50);

/// What a receiver tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Bytes of frames taken in since the channel began.
    pub bytes: u64,
    /// Frames taken in since then.
    pub frames: u64,
    /// Bytes that may be on their way.
    pub window: u64,
}

impl Credit {
    /// Nothing was taken in yet.
    pub const FIRST: Self = Self {
        bytes: 0,
        frames: 0,
        window: WINDOW_FIRST,
    };

    /// Whether a sender that has sent so much may send a frame of `bytes` more.
    pub const fn admits(&self, sent_bytes: u64, sent_frames: u64, bytes: u64) -> bool {
        let on_the_way = sent_bytes.saturating_sub(self.bytes);
        let frames = sent_frames.saturating_sub(self.frames);
        frames < FRAMES_MAX && (on_the_way == 0 || on_the_way + bytes <= self.window)
    }

    /// As the payload of a frame.
    pub fn encode(&self) -> Bytes {
        let fields = [self.bytes, self.frames, self.window];
        Bytes::from(fields.map(u64::to_le_bytes).concat())
    }

    /// From the payload of a frame; `None` = it is none.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let fields: &[u8; 24] = payload.try_into().ok()?;
        let field = |at: usize| {
            let bytes = fields[at..at + 8].try_into().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        Some(Self {
            bytes: field(0),
            frames: field(8),
            window: field(16),
        })
    }
}

/// Whether a receiver should tell what it took in since it told last: a quarter of the window or of the frames, or whenever
/// nothing waits for it, because then the sender may be waiting.
pub const fn is_due(bytes: u64, frames: u64, window: u64, is_idle: bool) -> bool {
    frames > 0 && (is_idle || bytes >= window / 4 || frames >= FRAMES_MAX / 4)
}

/// The next window of a channel that took in `bytes` in `elapsed` under the window `now`.
///
/// It grows at once and shrinks by at most a half at a time, so that a short silence does not choke what follows. A round
/// trip shorter than [`AIM`] lets a window grow until it does not hold its channel back: with a round trip of 5 ms ten times as
/// much is taken in within [`AIM`] as one window.
pub fn next_window(now: u64, bytes: u64, elapsed: Duration) -> u64 {
    let aimed = u128::from(bytes) * AIM.as_nanos() / elapsed.as_nanos().max(1);
    let aimed = u64::try_from(aimed).unwrap_or(u64::MAX);
    aimed.max(now / 2).clamp(WINDOW_MIN, WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_of_any_size_passes_and_more_only_inside_the_window() {
        let credit = Credit {
            bytes: 100,
            frames: 3,
            window: 50,
        };
        assert!(credit.admits(100, 3, u64::MAX), "nothing is on the way");
        assert!(credit.admits(120, 4, 30));
        assert!(!credit.admits(120, 4, 31));
        assert!(
            !credit.admits(100 + 64, 3 + FRAMES_MAX, 0),
            "too many frames"
        );
        assert!(credit.admits(100 + 40, 3 + FRAMES_MAX - 1, 1));
    }

    #[test]
    fn credit_comes_back_from_its_payload_and_from_nothing_else() {
        let credit = Credit {
            bytes: 1,
            frames: u64::MAX,
            window: 3,
        };
        let payload = credit.encode();
        assert_eq!(Credit::decode(&payload), Some(credit));
        assert_eq!(Credit::decode(&payload[1..]), None);
    }

    #[test]
    fn it_is_told_at_a_quarter_and_when_nothing_waits() {
        assert!(!is_due(0, 0, 400, true), "there is nothing to tell");
        assert!(is_due(1, 1, 400, true));
        assert!(!is_due(99, 1, 400, false));
        assert!(is_due(100, 1, 400, false));
        assert!(is_due(1, FRAMES_MAX / 4, 400, false));
    }

    #[test]
    fn a_window_follows_the_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(next_window(WINDOW_FIRST, 0, second), WINDOW_FIRST / 2);
        assert_eq!(next_window(WINDOW_MIN, 0, second), WINDOW_MIN);
        let steady = (0..20).fold(WINDOW_FIRST, |now, _| next_window(now, 20 << 20, second));
        assert_eq!(steady, 1 << 20, "50 ms of 20 MiB a second");
        assert_eq!(next_window(WINDOW_FIRST, u64::MAX, second), WINDOW_MAX);
    }

    #[test]
    fn a_window_that_holds_its_channel_back_grows() {
        // Each 5 ms a round trip, and with each one window is taken in.
        let elapsed = Duration::from_millis(100);
        let grown = (0..10).fold(WINDOW_MIN, |now, _| next_window(now, 20 * now, elapsed));
        assert_eq!(grown, WINDOW_MAX);
    }
}
