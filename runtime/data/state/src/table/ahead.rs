//! Looking ahead: brings the entries of the rows of a chunk near before they are used.
//!
//! A lookup in a large table waits for memory twice, once for the bytes beside the slots and once for the entry, and each
//! wait is longer than everything else that is done for a row. Rows therefore pass in steps through four stages, each
//! step one stage behind the next: its bytes are asked for; its bytes are read and its entries asked for; its entries are
//! compared and, where another was meant, the next one asked for; it is used. Asking does not wait, so the memory works
//! on three steps while the processor works on the fourth.
//!
//! Called by the chunk-wise accesses. The rule: a guess decides nothing. Whoever uses it compares the key, and an
//! insertion between guess and use makes it wrong at worst.
//!
//! Source: group prefetching and software pipelining of hash joins (Chen and others, 2004).

use std::hash::Hash;

use highwater_types::{Key, KeyHash};

use super::directory::{Directory, Position};

/// Rows of a step: enough that an answer of memory arrives within the work on one.
pub(super) const STEP: usize = 32;

/// Stages before use; a ring of steps holds one more.
const STAGES: usize = 3;

/// The rows of one step.
#[derive(Clone, Copy)]
struct Step {
    placed: [u64; STEP],
    guesses: [Position; STEP],
}

/// Where the rows of a chunk probably are.
pub(super) struct Ahead<'a> {
    hashes: &'a [KeyHash],
    ring: [Step; STAGES + 1],
}

impl<'a> Ahead<'a> {
    /// For rows with these key hashes.
    pub(super) fn new(hashes: &'a [KeyHash]) -> Self {
        let step = Step {
            placed: [0; STEP],
            guesses: [Position { table: 0, at: 0 }; STEP],
        };
        Self {
            hashes,
            ring: [step; STAGES + 1],
        }
    }

    /// How often to advance.
    pub(super) fn ticks(&self) -> usize {
        match self.hashes.len() {
            0 => 0,
            rows => rows.div_ceil(STEP) + STAGES,
        }
    }

    /// The hashes of a step; none behind the last.
    #[inline]
    fn rows(&self, step: usize) -> &'a [KeyHash] {
        let from = self.hashes.len().min(step * STEP);
        let to = self.hashes.len().min(from + STEP);
        &self.hashes[from..to]
    }

    /// Moves each step on its way one stage further. `place` gives the table hash of a row.
    ///
    /// Returns the first row of the step that is due at this tick with the hashes and guesses of its rows: none at the
    /// first ticks.
    #[inline]
    pub(super) fn advance<K: Key, N: Eq + Hash, V>(
        &mut self,
        tick: usize,
        directory: &Directory<K, N, V>,
        place: impl Fn(usize, KeyHash) -> u64,
    ) -> (usize, &'a [KeyHash], &[Position; STEP]) {
        let rows = self.rows(tick);
        self.ask_bytes(tick, rows, directory, place);
        if tick >= 1 {
            self.ask_entries(tick - 1, self.rows(tick - 1), directory);
        }
        if tick >= 2 {
            self.ask_again(tick - 2, self.rows(tick - 2), directory);
        }
        let Some(due) = tick.checked_sub(STAGES) else {
            return (0, &[], &self.ring[0].guesses);
        };
        let guesses = &self.ring[due % (STAGES + 1)].guesses;
        (due * STEP, self.rows(due), guesses)
    }

    #[inline]
    fn step(&mut self, step: usize) -> &mut Step {
        &mut self.ring[step % (STAGES + 1)]
    }

    #[inline]
    fn ask_bytes<K: Key, N: Eq + Hash, V>(
        &mut self,
        number: usize,
        rows: &[KeyHash],
        directory: &Directory<K, N, V>,
        place: impl Fn(usize, KeyHash) -> u64,
    ) {
        let step = self.step(number);
        let places = step.placed.iter_mut().zip(&mut step.guesses);
        for ((at, &hash), (placed, guess)) in rows.iter().enumerate().zip(places) {
            *placed = place(number * STEP + at, hash);
            guess.table = directory.table_of(*placed);
            let table = &directory.tables[guess.table as usize];
            guess.at = table.home_of(*placed);
            table.ask_tags(guess.at);
        }
    }

    #[inline]
    fn ask_entries<K: Key, N: Eq + Hash, V>(
        &mut self,
        number: usize,
        rows: &[KeyHash],
        directory: &Directory<K, N, V>,
    ) {
        let step = self.step(number);
        let guesses = step.guesses.iter_mut().zip(&step.placed);
        for ((guess, &placed), _) in guesses.zip(rows) {
            let table = &directory.tables[guess.table as usize];
            guess.at = table.guess(guess.at, placed);
            table.ask_slot(guess.at);
        }
    }

    #[inline]
    fn ask_again<K: Key, N: Eq + Hash, V>(
        &mut self,
        number: usize,
        rows: &[KeyHash],
        directory: &Directory<K, N, V>,
    ) {
        let step = self.step(number);
        let guesses = step.guesses.iter_mut().zip(&step.placed);
        for ((guess, &placed), &hash) in guesses.zip(rows) {
            let table = &directory.tables[guess.table as usize];
            if !table.may_hold(guess.at, hash) {
                guess.at = table.guess_behind(guess.at, placed);
                table.ask_slot(guess.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::marks::Marks;
    use crate::table::sub_table::Entry;

    fn filled(keys: &[u64]) -> Directory<u64, (), (u64, u64)> {
        let mut directory = Directory::new();
        for &key in keys {
            let mark = Marks::new().written();
            let entry = Entry::new(key.key_hash(), mark, (key, ()), (key, key));
            directory.insert(entry, None);
        }
        directory
    }

    /// A wrong guess costs a wait for memory that no other row shares. Keys of half the key groups, as a subtask has.
    #[test]
    fn a_guess_is_right_in_99_of_100_cases() {
        let keys = (0..u64::MAX).filter(|key| key.key_hash().0 % 720 < 360);
        let keys: Vec<_> = keys.take(500_000).collect();
        let directory = filled(&keys);
        let hashes: Vec<_> = keys.iter().map(Key::key_hash).collect();
        let mut ahead = Ahead::new(&hashes);
        let (mut seen, mut right) = (0, 0);
        for tick in 0..ahead.ticks() {
            let (first, rows, guesses) = ahead.advance(tick, &directory, |_, hash| hash.0);
            for (&key, guess) in keys[first..][..rows.len()].iter().zip(guesses) {
                let entry = directory.tables[guess.table as usize].get(guess.at as usize);
                seen += 1;
                right += usize::from(entry.is_some_and(|entry| entry.key == key));
            }
        }
        assert_eq!(seen, keys.len(), "each row is due once");
        assert!(right > 495_000, "{right} of 500,000");
    }

    #[test]
    fn a_table_that_shrank_since_suggests_nothing() {
        let directory = filled(&[1, 2, 3]);
        let table = &directory.tables[0];
        for (home, at) in [(u32::MAX, u32::MAX), (1 << 20, 1 << 20)] {
            assert_eq!(table.guess(home, 7), u32::MAX);
            assert!(!table.may_hold(at, KeyHash(7)));
            assert_eq!(table.guess_behind(at, 7), u32::MAX);
            table.ask_tags(home);
            table.ask_slot(at);
        }
    }

    #[test]
    fn each_row_is_due_once_and_in_order() {
        let directory = filled(&[1, 2, 3]);
        for count in [0, 1, STEP - 1, STEP, STEP + 1, 4 * STEP, 9 * STEP + 5] {
            let hashes: Vec<_> = (0..count).map(|key| (key as u64).key_hash()).collect();
            let mut ahead = Ahead::new(&hashes);
            let mut due = Vec::new();
            for tick in 0..ahead.ticks() {
                let (first, rows, _) = ahead.advance(tick, &directory, |_, hash| hash.0);
                assert_eq!(first, if rows.is_empty() { first } else { due.len() });
                due.extend_from_slice(rows);
            }
            assert_eq!(due, hashes);
        }
    }
}
