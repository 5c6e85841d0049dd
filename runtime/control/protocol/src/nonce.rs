//! Nonces from one seed: the driver draws 128 random bits once, machines derive what they need.
//!
//! Called by the leader's machines and by workers that name sink logs. Keeps this crate free of randomness while
//! nonces stay distinct: within a stream by the counter, between processes by the seed.

use highwater_types::{Lineage, Nonce};
use twox_hash::XxHash3_64;

use crate::mutant::{Mutant, planted};

/// A stream of nonces derived from one random seed.
#[derive(Clone, Debug)]
pub struct NonceStream {
    seed: Nonce,
    drawn: u64,
}

impl NonceStream {
    /// A stream from a seed that no other process has.
    pub const fn new(seed: Nonce) -> Self {
        Self { seed, drawn: 0 }
    }

    /// The next nonce.
    pub fn draw(&mut self) -> Nonce {
        self.drawn += 1;
        let half = |side: u64| {
            let mut bytes = [0u8; 32];
            bytes[..16].copy_from_slice(&self.seed.0.to_le_bytes());
            bytes[16..24].copy_from_slice(&self.drawn.to_le_bytes());
            bytes[24..].copy_from_slice(&side.to_le_bytes());
            u128::from(XxHash3_64::oneshot(&bytes))
        };
        Nonce((half(1) << 64) | half(2))
    }

    /// A new lineage.
    pub fn draw_lineage(&mut self) -> Lineage {
        Lineage(self.draw().0)
    }
}

/// What keeps the tries of one leadership apart: its nonces and the next number.
///
/// (number, epoch) names one try, so a leadership hands this from machine to machine and never makes a second one. A task
/// of a replaced attempt may have acknowledged a number that was given up; were the number used again, the task would
/// pass for one that took part in the completed checkpoint.
#[derive(Clone, Debug)]
pub struct TrySource {
    nonces: NonceStream,
    next: u64,
}

impl TrySource {
    /// The source of a new leadership.
    pub const fn new(nonces: NonceStream) -> Self {
        Self { nonces, next: 0 }
    }

    /// What the next machine of the same leadership goes on with.
    #[must_use]
    pub fn handed_over(mut self) -> Self {
        if planted(Mutant::StaleAckAccepted) {
            self.next = 0;
        }
        self
    }

    /// The next nonce.
    pub fn draw(&mut self) -> Nonce {
        self.nonces.draw()
    }

    /// The number of the next try, above the completed number `head`.
    pub fn number(&mut self, head: u64) -> u64 {
        let number = self.peek(head);
        self.next = number + 1;
        number
    }

    /// The number that the next try would have.
    pub fn peek(&self, head: u64) -> u64 {
        self.next.max(head + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nonces_differ_within_and_between_streams() {
        let mut seen = BTreeSet::new();
        for seed in 0..10 {
            let mut stream = NonceStream::new(Nonce(seed));
            for _ in 0..100 {
                assert!(seen.insert(stream.draw()));
            }
        }
    }

    #[test]
    fn a_number_is_tried_once_in_a_leadership() {
        let mut tries = TrySource::new(NonceStream::new(Nonce(1)));
        assert_eq!(
            (
                tries.number(0),
                tries.number(0),
                tries.number(7),
                tries.peek(7)
            ),
            (1, 2, 8, 9)
        );
    }
}
