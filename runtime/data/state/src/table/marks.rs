//! Marks: when an entry was last written or saved, in one word.
//!
//! A barrier raises the generation and nothing else; in a table that is a cache over a store each tick of the shared budget
//! raises it too, so that marks also say how long ago an entry was used. The mark of an entry says which generation touched it last and
//! how: `2·g` = saved (or loaded) in generation g and not written since, `2·g + 1` = written in g. So one comparison
//! tells the first write of a generation from all later ones, and the running snapshot which entries it still owes.

use std::num::NonZeroU32;

/// When an entry was last written or saved. Never zero, so an empty slot of a table takes no further space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(NonZeroU32);

impl Mark {
    /// Whether the entry was written and not saved since.
    #[inline]
    pub(crate) const fn is_dirty(self) -> bool {
        self.0.get() & 1 == 1
    }

    /// The mark of the same entry once the store has it: as recent as it was, but clean.
    pub(crate) fn cleaned(self) -> Self {
        // Marks begin at 2, so nothing becomes zero here.
        NonZeroU32::new(self.0.get() & !1).map_or(self, Self)
    }
}

/// The marks of the current generation of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    saved: NonZeroU32,
    written: NonZeroU32,
}

impl Marks {
    pub(crate) const fn new() -> Self {
        Self {
            saved: NonZeroU32::MIN.saturating_add(1),
            written: NonZeroU32::MIN.saturating_add(2),
        }
    }

    /// Moves to the next generation: what a barrier costs, and each tick of the budget. There are two thousand million of them.
    ///
    /// # Panics
    /// Behind the last one, where an entry would pass for saved that is not. The next attempt begins anew.
    pub(crate) const fn rotate(&mut self) {
        const LAST: &str = "an attempt ends before its generations do";
        self.saved = self.saved.checked_add(2).expect(LAST);
        self.written = self.written.checked_add(2).expect(LAST);
    }

    /// The mark of an entry written now.
    #[inline]
    pub(crate) const fn written(self) -> Mark {
        Mark(self.written)
    }

    /// The mark of an entry saved or loaded now.
    #[inline]
    pub(crate) const fn saved(self) -> Mark {
        Mark(self.saved)
    }

    /// Whether neither a write nor the running snapshot has touched the entry in this generation.
    #[inline]
    pub(crate) fn is_old(self, mark: Mark) -> bool {
        mark.0 < self.saved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_makes_every_mark_old() {
        let mut marks = Marks::new();
        let (written, saved) = (marks.written(), marks.saved());
        assert!(written.is_dirty() && !saved.is_dirty());
        assert!(!marks.is_old(written) && !marks.is_old(saved));
        marks.rotate();
        assert!(marks.is_old(written) && marks.is_old(saved));
        assert!(!marks.is_old(marks.saved()));
    }

    #[test]
    #[should_panic(expected = "an attempt ends before its generations do")]
    fn behind_the_last_generation_nothing_passes_for_saved() {
        let mut marks = Marks {
            saved: NonZeroU32::new(u32::MAX - 1).unwrap(),
            written: NonZeroU32::MAX,
        };
        marks.rotate();
    }
}
