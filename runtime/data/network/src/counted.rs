//! How many bytes go over links, by the worker at the other end.
//!
//! A link wraps its connection into a [`Counted`] one, which adds to the counts of its peer with each read and write of the connection: for
//! many frames at once, never for a record. The metrics of the process read them from the [`LinkBoard`] of the data plane. The rule: a peer
//! is told of as long as a link with it lives.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use highwater_types::WorkerIndex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The counts of one peer.
#[derive(Debug, Default)]
pub(crate) struct LinkCounts {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Bytes that went over the links with one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkBytes {
    /// To it.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

/// The counts of all links of a data plane. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LinkBoard(Arc<Mutex<BTreeMap<WorkerIndex, Weak<LinkCounts>>>>);

impl LinkBoard {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerIndex, Weak<LinkCounts>>> {
        // A map of weak references is whole whatever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of a peer, for a link with it.
    pub(crate) fn counts(&self, peer: WorkerIndex) -> Arc<LinkCounts> {
        let mut peers = self.lock();
        if let Some(counts) = peers.get(&peer).and_then(Weak::upgrade) {
            return counts;
        }
        peers.retain(|_, counts| counts.strong_count() > 0);
        let counts = Arc::new(LinkCounts::default());
        peers.insert(peer, Arc::downgrade(&counts));
        counts
    }

    /// What went over the links that live, by the worker at the other end.
    pub fn read(&self) -> BTreeMap<WorkerIndex, LinkBytes> {
        let peers = self.lock();
        let living = peers.iter().filter_map(|(peer, counts)| {
            let counts = counts.upgrade()?;
            let bytes = LinkBytes {
                sent: counts.sent.load(Ordering::Relaxed),
                received: counts.received.load(Ordering::Relaxed),
            };
            Some((*peer, bytes))
        });
        living.collect()
    }
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    counts: Arc<LinkCounts>,
}

impl<S> Counted<S> {
    /// Counts what goes over `stream` from now on.
    pub(crate) const fn new(stream: S, counts: Arc<LinkCounts>) -> Self {
        Self { stream, counts }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.counts.sent.fetch_add(*count as u64, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buffer.filled().len());
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        this.counts
            .received
            .fetch_add(count as u64, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn both_links_with_a_peer_count_together_and_it_is_forgotten_with_the_last() {
        let board = LinkBoard::default();
        let (one, other) = (WorkerIndex(3), WorkerIndex(5));
        let (near, mut far) = duplex(64);
        let mut link = Counted::new(near, board.counts(one));
        link.write_all(b"seven b").await.unwrap();
        far.write_all(b"abc").await.unwrap();
        let mut heard = [0; 3];
        link.read_exact(&mut heard).await.unwrap();
        let back = Counted::new(tokio::io::empty(), board.counts(one));
        let _elsewhere = board.counts(other);
        let told = LinkBytes {
            sent: 7,
            received: 3,
        };
        let expected = [(one, told), (other, LinkBytes::default())];
        assert_eq!(board.read(), BTreeMap::from(expected));
        drop(link);
        assert_eq!(board.read()[&one], told, "the link back lives");
        drop(back);
        assert_eq!(board.read().len(), 1);
        assert_eq!(board.counts(one).sent.load(Ordering::Relaxed), 0);
    }
}
