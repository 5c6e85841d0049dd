//! Whether a function is likely to ask a state for the keys of a chunk.
//!
//! Kept by a table over a store whose operator does not say which keys it will ask for. Reading what nobody asks for is a
//! waste, and asking for one key at a time is slow; so it is learned from what happened: a state that is asked for less
//! than an eighth of the prepared keys in [`WASTED_MAX`] chunks one after another is not prepared any more, until it is asked
//! for more than that again. The first chunk is prepared.

/// The part of the keys of a chunk that counts as likely: one of this many.
const PART: usize = 8;

/// Chunks that may be prepared in vain one after another.
const WASTED_MAX: u8 = 4;

/// What was asked for and prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Likely {
    is_on: bool,
    /// Keys of the running chunk, when it was announced.
    keys: usize,
    accesses: usize,
    unprepared: usize,
    /// Chunks prepared in vain, one after another.
    wasted: u8,
}

impl Likely {
    pub(super) const fn new() -> Self {
        Self {
            is_on: true,
            keys: 0,
            accesses: 0,
            unprepared: 0,
            wasted: 0,
        }
    }

    /// Announces a chunk. Returns whether its keys are likely to be asked for.
    pub(super) const fn begin_chunk(&mut self, keys: usize) -> bool {
        self.keys = keys;
        self.is_on
    }

    #[inline]
    pub(super) const fn note_access(&mut self) {
        self.accesses += 1;
    }

    pub(super) const fn note_unprepared(&mut self) {
        self.unprepared += 1;
    }

    pub(super) const fn end_chunk(&mut self) {
        if self.keys > 0 && self.is_on {
            let is_wasted = self.accesses * PART < self.keys;
            self.wasted = if is_wasted { self.wasted + 1 } else { 0 };
            self.is_on = self.wasted < WASTED_MAX;
        } else if self.keys > 0 && self.unprepared * PART > self.keys {
            self.is_on = true;
            self.wasted = 0;
        }
        (self.keys, self.accesses, self.unprepared) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(likely: &mut Likely, asked: usize) -> bool {
        let is_prepared = likely.begin_chunk(80);
        for _ in 0..asked {
            likely.note_access();
            if !is_prepared {
                likely.note_unprepared();
            }
        }
        likely.end_chunk();
        is_prepared
    }

    #[test]
    fn a_state_that_is_not_asked_is_not_prepared_until_it_is_asked_again() {
        let mut likely = Likely::new();
        let asked = [0, 0, 0, 20, 0, 0, 0, 0, 0, 5, 20, 80, 80];
        let prepared: Vec<_> = asked.iter().map(|&n| chunk(&mut likely, n)).collect();
        let expected = [vec![true; 8], vec![false; 3], vec![true; 2]].concat();
        assert_eq!(prepared, expected);
    }

    #[test]
    fn turns_without_a_chunk_teach_nothing() {
        let mut likely = Likely::new();
        for _ in 0..100 {
            likely.end_chunk();
        }
        assert!(likely.begin_chunk(1));
    }
}
