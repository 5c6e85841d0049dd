//! Whole lines out of a growing file, through one reused buffer.
//!
//! The offset handed out is always the start of a line. Bytes behind the last newline are never a line: their writer may
//! still be at work, or may have died and cut them off. A line longer than the limit is not kept but measured, so one
//! wild record costs a bounded amount of memory.

use std::io::{self, Read};
use std::ops::Range;

/// The longest line that is handed out.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much is read at once.
const READ_BYTES: usize = 128 * 1024;
/// How much of a line that is too long is kept for its dead letter.
const HEAD_BYTES: usize = 1_024;

/// What the buffer holds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextLine {
    /// A line without its newline: a range for [`LineBuffer::bytes`].
    Whole {
        /// Its offset in the file.
        offset: u64,
        /// Where it lies in the buffer.
        range: Range<usize>,
    },
    /// A line beyond the limit.
    TooLong {
        /// Its offset in the file.
        offset: u64,
        /// Its first bytes.
        head: Vec<u8>,
    },
    /// No whole line is there.
    NotYet,
}

struct Oversized {
    offset: u64,
    head: Vec<u8>,
}

/// A window on a file.
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// The bytes from here on are not handed out yet.
    taken: usize,
    /// The bytes before here hold no newline behind `taken`.
    searched: usize,
    filled: usize,
    /// The offset in the file of the byte at `taken`.
    offset: u64,
    oversized: Option<Oversized>,
    line_bytes_max: usize,
}

impl LineBuffer {
    /// A buffer for a file whose cursor stands at `offset`, the start of a line.
    pub(super) fn new(offset: u64, line_bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            searched: 0,
            filled: 0,
            offset,
            oversized: None,
            line_bytes_max,
        }
    }

    /// The start of the next line in the file.
    pub(super) fn offset(&self) -> u64 {
        self.oversized
            .as_ref()
            .map_or(self.offset, |line| line.offset)
    }

    /// Up to where the file has been read.
    pub(super) const fn end(&self) -> u64 {
        self.offset + (self.filled - self.taken) as u64
    }

    /// The bytes of a line that was just handed out.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// The beginning of the unfinished line.
    pub(super) fn torn(&self) -> &[u8] {
        match &self.oversized {
            Some(line) => &line.head,
            None => &self.bytes[self.taken..self.filled],
        }
    }

    /// Takes the next line.
    pub(super) fn next_line(&mut self) -> NextLine {
        let unsearched = &self.bytes[self.searched..self.filled];
        let Some(length) = memchr::memchr(b'\n', unsearched) else {
            self.searched = self.filled;
            if self.oversized.is_some() || self.filled - self.taken > self.line_bytes_max {
                self.measure();
            }
            return NextLine::NotYet;
        };
        let range = self.taken..self.searched + length;
        let offset = self.offset;
        self.offset += range.len() as u64 + 1;
        self.taken = range.end + 1;
        self.searched = self.taken;
        match self.oversized.take() {
            Some(Oversized { offset, head }) => NextLine::TooLong { offset, head },
            None if range.len() > self.line_bytes_max => NextLine::TooLong {
                offset,
                head: self.bytes[range.start..range.start + HEAD_BYTES.min(range.len())].to_vec(),
            },
            None => NextLine::Whole { offset, range },
        }
    }

    /// Reads on, at most up to offset `until`. Returns how many bytes came.
    pub(super) fn fill(&mut self, file: &mut impl Read, until: u64) -> io::Result<usize> {
        if self.taken > 0 {
            self.bytes.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.searched -= self.taken;
            self.taken = 0;
        }
        if self.bytes.len() < self.filled + READ_BYTES {
            // Doubling, so that a long line is copied a bounded number of times.
            let grown = (self.filled + READ_BYTES).max(self.filled * 2);
            self.bytes.resize(grown, 0);
        }
        let left = usize::try_from(until - self.end()).unwrap_or(usize::MAX);
        let room = &mut self.bytes[self.filled..];
        let most = room.len().min(left);
        let count = file.read(&mut room[..most])?;
        self.filled += count;
        Ok(count)
    }

    /// Forgets what was read behind the last whole line. The caller moves the file's cursor to [`LineBuffer::offset`].
    pub(super) fn forget_torn(&mut self) {
        if let Some(line) = self.oversized.take() {
            self.offset = line.offset;
        }
        self.filled = self.taken;
        self.searched = self.taken;
    }

    /// Drops the bytes of an unfinished line that is already too long, keeping its head.
    fn measure(&mut self) {
        let (offset, bytes) = (self.offset, &self.bytes[self.taken..self.filled]);
        self.oversized.get_or_insert_with(|| Oversized {
            offset,
            head: bytes[..HEAD_BYTES.min(bytes.len())].to_vec(),
        });
        self.offset = self.end();
        self.bytes.truncate(READ_BYTES);
        self.bytes.shrink_to(READ_BYTES);
        self.taken = 0;
        self.searched = 0;
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn all_lines(content: &[u8], line_bytes_max: usize) -> Vec<String> {
        let mut file = Cursor::new(content);
        let mut lines = LineBuffer::new(0, line_bytes_max);
        let mut found = Vec::new();
        loop {
            match lines.next_line() {
                NextLine::Whole { offset, range } => {
                    let text = String::from_utf8_lossy(lines.bytes(range)).into_owned();
                    found.push(format!("{offset}:{text}"));
                }
                NextLine::TooLong { offset, head } => {
                    found.push(format!("{offset}:too long, {} bytes kept", head.len()));
                }
                NextLine::NotYet => {
                    if lines.fill(&mut file, content.len() as u64).unwrap() == 0 {
                        return found;
                    }
                }
            }
        }
    }

    #[test]
    fn lines_come_with_their_offsets_and_the_torn_one_does_not() {
        assert_eq!(all_lines(b"ab\n\ncde\nfg", 100), ["0:ab", "3:", "4:cde"]);
    }

    #[test]
    fn lines_longer_than_one_read_are_whole() {
        let long = "x".repeat(3 * READ_BYTES + 7);
        let content = format!("a\n{long}\nb\n");
        let found = all_lines(content.as_bytes(), LINE_BYTES_MAX);
        assert_eq!(found[1], format!("2:{long}"));
        assert_eq!(found[2], format!("{}:b", 2 + long.len() + 1));
    }

    #[test]
    fn a_line_beyond_the_limit_is_measured_in_bounded_memory() {
        let content = format!("a\n{}\nb\n", "x".repeat(9 * READ_BYTES));
        let limit = 2 * READ_BYTES;
        let found = all_lines(content.as_bytes(), limit);
        let last = 2 + 9 * READ_BYTES + 1;
        assert_eq!(
            found,
            ["0:a", "2:too long, 1024 bytes kept", &format!("{last}:b")]
        );

        let mut file = Cursor::new(content.as_bytes());
        let mut lines = LineBuffer::new(0, limit);
        while lines.next_line() != NextLine::NotYet
            || lines.fill(&mut file, content.len() as u64).unwrap() > 0
        {
            assert!(lines.bytes.capacity() <= 4 * limit);
        }
    }

    #[test]
    fn offset_stays_at_the_start_of_an_unfinished_line() {
        let content = "y".repeat(5 * READ_BYTES);
        let mut file = Cursor::new(content.as_bytes());
        let mut lines = LineBuffer::new(0, READ_BYTES);
        while lines.fill(&mut file, content.len() as u64).unwrap() > 0 {
            assert_eq!(lines.next_line(), NextLine::NotYet);
            assert_eq!(lines.offset(), 0);
        }
        assert_eq!(lines.end(), content.len() as u64);
        lines.forget_torn();
        assert_eq!((lines.offset(), lines.end()), (0, 0));
    }
}
