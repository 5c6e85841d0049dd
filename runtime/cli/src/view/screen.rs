//! The lower edge of a terminal: lines that are replaced in place, with log lines scrolling above them.
//!
//! One lock is held while bytes go out, so that a log line never lands inside the view. Lines longer than the terminal
//! are cut by the terminal itself (wrapping is off while the view is drawn), so the number of lines is known.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stderr, with or without a view at its lower edge. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Screen(Arc<Inner>);

struct Inner {
    is_on: bool,
    drawn: Mutex<String>,
}

impl Screen {
    /// The screen of this process; off when stderr is no terminal or the user wants quiet.
    pub(crate) fn of_stderr(quiet: bool) -> Self {
        Self::new(!quiet && io::stderr().is_terminal())
    }

    fn new(is_on: bool) -> Self {
        let drawn = Mutex::new(String::new());
        Self(Arc::new(Inner { is_on, drawn }))
    }

    /// Whether there is a view.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_on
    }

    /// The lock; a writer that panicked has left whole text behind.
    fn drawn(&self) -> MutexGuard<'_, String> {
        self.0.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a log line, above the view.
    pub(crate) fn above(&self, line: &[u8]) -> io::Result<()> {
        let drawn = self.drawn();
        let mut bytes = erased(&drawn);
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(&shown(&drawn));
        io::stderr().lock().write_all(&bytes)
    }

    /// Replaces the view.
    pub(crate) fn draw(&self, text: &str) {
        if !self.0.is_on {
            return;
        }
        let mut drawn = self.drawn();
        let mut bytes = erased(&drawn);
        bytes.extend_from_slice(&shown(text));
        text.clone_into(&mut drawn);
        if io::stderr().lock().write_all(&bytes).is_err() {
            // The terminal is gone: the view is for people and has none left.
        }
    }

    /// Leaves the last view where it is: what follows goes below it.
    pub(crate) fn leave(&self) {
        self.drawn().clear();
    }
}

/// Moves to the first line of the view and clears from there.
fn erased(drawn: &str) -> Vec<u8> {
    match drawn.lines().count() {
        0 => Vec::new(),
        lines => format!("\r\x1b[{lines}A\x1b[J").into_bytes(),
    }
}

/// The view, without wrapping.
fn shown(text: &str) -> Vec<u8> {
    if text.is_empty() {
        return Vec::new();
    }
    format!("\x1b[?7l{text}\x1b[?7h").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_view_covers_the_old_one() {
        assert_eq!(erased(""), b"");
        assert_eq!(erased("a\nb\n"), b"\r\x1b[2A\x1b[J");
        assert_eq!(shown(""), b"");
        assert_eq!(shown("a\n"), b"\x1b[?7la\n\x1b[?7h");
    }

    #[test]
    fn nothing_is_remembered_where_there_is_no_view() {
        let screen = Screen::new(false);
        screen.draw("a\n");
        assert_eq!(*screen.drawn(), "");
    }
}
