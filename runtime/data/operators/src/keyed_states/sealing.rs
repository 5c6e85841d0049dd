//! Sealing: a saved snapshot becomes the files of a checkpoint. A small one on the slot thread, any other on a thread of its
//! own, which gives way to those of records once the local store is frozen.
//!
//! Called by the keyed state of an operator. The rule: a thread tells when the store may be written again, tells nothing more
//! when its snapshot is given up, and wakes the task when it ends, whatever it came to. It cannot be stopped, so that the next
//! snapshot waits for it as [`Leaving`]: one thread at a time, however many snapshots are given up. A task that ends does not
//! wait for its thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use highwater_connectors::WakeHandle;
use highwater_state::{SealedPieces, StateError, UnsealedSnapshot};
use highwater_types::KeyGroupRange;

use crate::error::OperatorError;
use crate::snapshot::{KeyedPart, SnapshotPieces};

/// Up to this many bytes of state a snapshot is sealed on the slot thread: it takes a few milliseconds at most.
pub(super) const SEAL_INLINE_BYTES: u64 = 1 << 20;

/// About how many bytes a file of a canonical snapshot has that is made piece by piece.
const PIECE_BYTES: u64 = 32 << 20;

/// By how much a thread that seals stands behind those that process records, in the steps of `nice`.
const SEAL_NICENESS: i32 = 10;

/// How much a thread tells at most: it never waits for the task.
const NEWS_MAX: usize = 2;

/// Which form a snapshot takes where a local store holds the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SnapshotForm {
    /// The files of the store: a checkpoint keeps those that it has already.
    InStore,
    /// The same bytes with every backend: what a savepoint is.
    Canonical,
}

/// What the thread that seals a snapshot tells.
pub(super) enum SealNews {
    /// The local store is frozen, and may be written again.
    Frozen,
    /// The end.
    Sealed(Result<KeyedPart, StateError>),
}

/// A snapshot that is being sealed on a thread of its own.
pub(super) struct Sealing {
    news: Receiver<SealNews>,
    is_wanted: Arc<AtomicBool>,
    is_frozen: bool,
}

impl Sealing {
    /// Begins on a thread that is busy for long, and for which nobody waits but the next checkpoint.
    pub(super) fn begin(
        unsealed: UnsealedSnapshot,
        form: SnapshotForm,
        wake: WakeHandle,
    ) -> Result<Self, OperatorError> {
        let (send, news) = sync_channel(NEWS_MAX);
        let is_wanted = Arc::new(AtomicBool::new(true));
        let teller = Teller {
            send,
            wake: WakeAtEnd(wake),
            is_wanted: Arc::clone(&is_wanted),
        };
        let thread = std::thread::Builder::new().name("seal".to_owned());
        // Whatever the thread holds of the snapshot is gone before the teller is.
        let work = move || seal_and_tell(unsealed, form, &teller);
        thread.spawn(work).map_err(OperatorError::NoThread)?;
        Ok(Self {
            news,
            is_wanted,
            is_frozen: false,
        })
    }

    /// Whether the store may be written again.
    pub(super) const fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// The next news, if there are any.
    ///
    /// # Panics
    /// If the thread did.
    pub(super) fn listen(&mut self) -> Option<SealNews> {
        match self.news.try_recv() {
            Ok(news) => Some(self.heard(news)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("sealing a snapshot panicked"),
        }
    }

    /// Waits for the next news.
    ///
    /// # Panics
    /// If the thread did.
    pub(super) fn wait(&mut self) -> SealNews {
        let Ok(news) = self.news.recv() else {
            panic!("sealing a snapshot panicked");
        };
        self.heard(news)
    }

    fn heard(&mut self, news: SealNews) -> SealNews {
        self.is_frozen |= matches!(news, SealNews::Frozen);
        news
    }

    /// Gives the snapshot up.
    pub(super) fn give_up(self) -> Leaving {
        self.is_wanted.store(false, Ordering::Release);
        Leaving(self.news)
    }
}

/// The thread of a snapshot that was given up, on its way to its end.
pub(super) struct Leaving(Receiver<SealNews>);

impl Leaving {
    /// Whether it has come to its end. Lets go of what it has told.
    pub(super) fn is_gone(&self) -> bool {
        loop {
            match self.0.try_recv() {
                Ok(_) => {}
                Err(error) => return error == TryRecvError::Disconnected,
            }
        }
    }

    /// Waits for its end.
    pub(super) fn wait(self) {
        self.0.iter().for_each(drop);
    }
}

/// What a thread that seals has of its task.
struct Teller {
    /// Goes before the task is woken, which then finds that the thread has come to its end.
    send: SyncSender<SealNews>,
    wake: WakeAtEnd,
    is_wanted: Arc<AtomicBool>,
}

impl Teller {
    /// Tells the task. `false` = nobody wants to know: the snapshot was given up, or the task has ended.
    fn tell(&self, news: SealNews) -> bool {
        let is_heard = self.is_wanted.load(Ordering::Acquire) && self.send.send(news).is_ok();
        if is_heard {
            self.wake.0.wake();
        }
        is_heard
    }
}

/// Wakes the task when it goes.
struct WakeAtEnd(WakeHandle);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.wake();
    }
}

fn seal_and_tell(mut unsealed: UnsealedSnapshot, form: SnapshotForm, teller: &Teller) {
    if let Err(error) = unsealed.freeze() {
        teller.tell(SealNews::Sealed(Err(error)));
        return;
    }
    if unsealed.is_in_store() && !teller.tell(SealNews::Frozen) {
        return;
    }
    // Of this thread alone, as Linux has it; where that is refused the snapshot is sealed all the same. Not sooner,
    // because the table may have to hold more than its cache until the store is frozen.
    let _niceness = rustix::process::nice(SEAL_NICENESS);
    teller.tell(SealNews::Sealed(seal(unsealed, form)));
}

/// Seals a snapshot whose store, if it has one, is frozen.
pub(super) fn seal(
    mut unsealed: UnsealedSnapshot,
    form: SnapshotForm,
) -> Result<KeyedPart, StateError> {
    if !unsealed.is_in_store() {
        return Ok(KeyedPart::Bytes(unsealed.seal()?.to_bytes()));
    }
    match form {
        SnapshotForm::InStore => {
            let sealed = unsealed.seal_in_store()?;
            Ok(KeyedPart::InStore {
                head: sealed.head.to_bytes(),
                files: sealed.files,
            })
        }
        SnapshotForm::Canonical => {
            let pieces = unsealed.into_pieces(PIECE_BYTES)?;
            Ok(KeyedPart::Pieces(Box::new(StatePieces(pieces))))
        }
    }
}

/// The canonical files of a subtask, one after another.
struct StatePieces(SealedPieces);

impl SnapshotPieces for StatePieces {
    fn next_piece(&mut self) -> Result<Option<(KeyGroupRange, Vec<u8>)>, OperatorError> {
        let piece = self.0.next_piece()?;
        Ok(piece.map(|piece| (piece.range, piece.to_bytes())))
    }
}
