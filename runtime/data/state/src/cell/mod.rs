//! Cells: what a table keeps for one key and namespace, and its form in a snapshot.
//!
//! Every [`Record`] is a cell (value, reducing and aggregating state); lists and maps are cells of their own because
//! their parts expire one by one. The stored form is the same for every backend:
//!
//! - record: `[last access] value`
//! - list: `count, count × ([last access] element)`
//! - map: `count, count × ([last access] key value)`, in order of the encoded keys
//!
//! where the last access (8 bytes) is there when the state is timed.

mod list;
mod map;

use highwater_types::{DecodeError, ProcessingTime, Record};

pub use self::list::ListCell;
pub use self::map::MapCell;
use crate::ttl::Expiry;

/// How cells of one state are written.
#[derive(Clone, Copy, Debug)]
pub struct CellForm {
    /// Whether parts carry their last access.
    pub timed: bool,
    /// Leaves out what is expired; `None` = writes all.
    pub expiry: Option<Expiry>,
}

/// How stored cells of one state are read.
#[derive(Clone, Copy, Debug)]
pub struct StoredForm {
    /// Whether stored parts carry their last access.
    pub timed: bool,
    /// Whether the state that reads keeps a last access.
    pub keeps_time: bool,
    /// The last access of parts that carry none.
    pub now: ProcessingTime,
}

impl StoredForm {
    pub(crate) fn read_stamp(&self, input: &mut &[u8]) -> Result<ProcessingTime, DecodeError> {
        if self.timed {
            ProcessingTime::decode(input)
        } else {
            Ok(self.now)
        }
    }
}

/// What cleaning one cell left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    /// Nothing was expired.
    Whole,
    /// Some parts are expired, some live.
    Parts,
    /// All of it is expired.
    Gone,
}

/// What a table keeps for one key and namespace.
///
/// Law: `read` consumes exactly what `write` appended and gives an equal cell, less what `form.expiry` leaves out.
pub trait Cell: Send + Sized + 'static {
    /// Bytes held outside the cell's own size.
    fn heap_bytes(&self) -> usize;

    /// Appends the stored form. Returns false, with `out` unspecified behind its old length, when nothing of the cell
    /// lives under `form.expiry`. `stamp` is the last access that the table keeps for the whole cell.
    fn write(&self, stamp: ProcessingTime, form: &CellForm, out: &mut Vec<u8>) -> bool;

    /// Reads a stored form, with the last access that the table is to keep.
    fn read(input: &mut &[u8], form: &StoredForm) -> Result<(Self, ProcessingTime), DecodeError>;

    /// Whether parts of the cell are expired.
    fn inspect(&self, stamp: ProcessingTime, expiry: &Expiry) -> Swept;

    /// Removes the expired parts.
    fn sweep(&mut self, expiry: &Expiry);
}

impl<V: Record> Cell for V {
    #[inline]
    fn heap_bytes(&self) -> usize {
        Record::heap_bytes(self)
    }

    fn write(&self, stamp: ProcessingTime, form: &CellForm, out: &mut Vec<u8>) -> bool {
        if form.expiry.is_some_and(|expiry| expiry.is_expired(stamp)) {
            return false;
        }
        if form.timed {
            stamp.encode(out);
        }
        self.encode(out);
        true
    }

    fn read(input: &mut &[u8], form: &StoredForm) -> Result<(Self, ProcessingTime), DecodeError> {
        let stamp = form.read_stamp(input)?;
        Ok((V::decode(input)?, stamp))
    }

    fn inspect(&self, stamp: ProcessingTime, expiry: &Expiry) -> Swept {
        if expiry.is_expired(stamp) {
            Swept::Gone
        } else {
            Swept::Whole
        }
    }

    fn sweep(&mut self, _: &Expiry) {}
}

/// Reads a stored cell of type `C` and writes it again, less what is expired: what a paged backend does to its bytes
/// when they become a canonical snapshot. Returns false when nothing of the cell lives.
pub(crate) fn recode<C: Cell>(
    mut bytes: &[u8],
    form: &CellForm,
    out: &mut Vec<u8>,
) -> Result<bool, DecodeError> {
    let stored = StoredForm {
        timed: form.timed,
        keeps_time: form.timed,
        now: ProcessingTime(0),
    };
    let (cell, stamp) = C::read(&mut bytes, &stored)?;
    Ok(cell.write(stamp, form, out))
}
