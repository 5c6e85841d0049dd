//! The writer: the last piece of a chain, scatters its chunks over the channels of one edge.
//!
//! Chunks for a channel are collected until they are full or the task has its turn; a watermark waits with them and
//! goes out behind them, which only makes it later and is always safe. Barriers, idleness and the end go out at once,
//! behind everything collected.

use highwater_operators::chain::Collected;
use highwater_operators::{Downstream, OperatorError, OperatorReport, Progress, Push};
use highwater_types::{
    CheckpointBarrier, CheckpointId, Chunk, EventTime, Grouping, KeyHash, MaxParallelism,
    Parallelism, ProcessingTime, Record, StreamStatus, Watermark,
};

use crate::channel::{ChannelSender, Element};

/// Chunks of at least this many records are handed over whole where the edge does not scatter.
const WHOLE_CHUNK_RECORDS: usize = 256;

/// Computes the key hashes of a chunk.
pub type Rekey<T> = Box<dyn Fn(&mut Chunk<T>)>;

/// How records pick a channel.
pub enum Partitioner<T> {
    /// By key group. `rekey` computes the key hashes of a chunk.
    Hash {
        /// Computes the key hashes.
        rekey: Rekey<T>,
        /// The number of key groups.
        max_parallelism: MaxParallelism,
    },
    /// The one channel of a forward edge.
    Forward,
    /// Chunk by chunk in turn.
    Rebalance,
    /// Every channel gets every record.
    Broadcast,
    /// The first channel.
    Global,
}

enum Route<T> {
    Hash {
        rekey: Rekey<T>,
        grouping: Grouping,
        /// The channel of each key group.
        owners: Vec<u16>,
    },
    One,
    Turn(usize),
    All,
}

/// Scatters chunks over channels.
pub struct ExchangeWriter<T> {
    name: String,
    channels: Vec<Outlet<T>>,
    route: Route<T>,
    watermark: Option<Watermark>,
}

struct Outlet<T> {
    sender: ChannelSender<T>,
    staged: Chunk<T>,
}

impl<T: Record> Outlet<T> {
    #[inline]
    fn add(&mut self, record: T, time: EventTime, hash: KeyHash) -> Result<(), OperatorError> {
        self.staged.push_keyed(record, time, hash);
        if self.staged.is_full() {
            return self.flush();
        }
        Ok(())
    }

    #[cold]
    fn flush(&mut self) -> Result<(), OperatorError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let next = self.sender.buffer();
        self.sender
            .send_chunk(std::mem::replace(&mut self.staged, next))
    }

    /// Takes a whole chunk: hands it over as it is when it is large, else collects its records.
    fn take(&mut self, chunk: &mut Chunk<T>) -> Result<(), OperatorError> {
        if chunk.len() >= WHOLE_CHUNK_RECORDS {
            self.flush()?;
            let next = self.sender.buffer();
            return self.sender.send_chunk(std::mem::replace(chunk, next));
        }
        for (record, time, hash) in chunk.drain_keyed() {
            self.add(record, time, hash)?;
        }
        Ok(())
    }
}

impl<T: Record> ExchangeWriter<T> {
    /// A writer to `channels`, one for each subtask of the receiving vertex (of a forward edge: one). `name` is the
    /// receiving operator, for the screen that names who holds the stream back.
    pub fn new(name: &str, channels: Vec<ChannelSender<T>>, partitioner: Partitioner<T>) -> Self {
        let count = channels.len();
        assert!(count > 0, "an edge to {name} has at least one channel");
        let route = match partitioner {
            Partitioner::Hash {
                rekey,
                max_parallelism,
            } => {
                let parallelism = Parallelism(count as u32);
                let groups = 0..max_parallelism.get() as u16;
                let owner =
                    |group| max_parallelism.owner(highwater_types::KeyGroup(group), parallelism);
                Route::Hash {
                    rekey,
                    grouping: Grouping::of(max_parallelism),
                    owners: groups.map(|group| owner(group).0 as u16).collect(),
                }
            }
            Partitioner::Forward | Partitioner::Global => Route::One,
            Partitioner::Rebalance => Route::Turn(0),
            Partitioner::Broadcast => Route::All,
        };
        let channels = channels
            .into_iter()
            .map(|sender| Outlet {
                sender,
                staged: Chunk::new(),
            })
            .collect();
        Self {
            name: name.to_owned(),
            channels,
            route,
            watermark: None,
        }
    }

    /// Starts the turn of a rebalancing writer at a channel of its own, so that equal writers do not march in step.
    pub fn starting_at(mut self, turn: usize) -> Self {
        if let Route::Turn(at) = &mut self.route {
            *at = turn % self.channels.len();
        }
        self
    }

    fn flush(&mut self) -> Result<(), OperatorError> {
        self.channels.iter_mut().try_for_each(Outlet::flush)?;
        if let Some(watermark) = self.watermark.take() {
            self.send_all(|| Element::Watermark(watermark))?;
        }
        Ok(())
    }

    fn send_all(&mut self, element: impl Fn() -> Element<T>) -> Result<(), OperatorError> {
        self.channels
            .iter_mut()
            .try_for_each(|outlet| outlet.sender.send(element()))
    }
}

impl<T: Record> Push<T> for ExchangeWriter<T> {
    fn push(&mut self, chunk: &mut Chunk<T>) -> Result<(), OperatorError> {
        match &mut self.route {
            Route::Hash {
                rekey,
                grouping,
                owners,
            } => {
                rekey(chunk);
                if let [only] = self.channels.as_mut_slice() {
                    return only.take(chunk);
                }
                for (record, time, hash) in chunk.drain_keyed() {
                    let owner = owners[usize::from(grouping.group(hash).0)];
                    self.channels[usize::from(owner)].add(record, time, hash)?;
                }
                Ok(())
            }
            Route::One => {
                chunk.unkey();
                take_unkeyed(&mut self.channels[0], chunk)
            }
            Route::Turn(at) => {
                chunk.unkey();
                let turn = *at;
                *at = (turn + 1) % self.channels.len();
                take_unkeyed(&mut self.channels[turn], chunk)
            }
            Route::All => {
                chunk.unkey();
                for outlet in &mut self.channels {
                    let mut copy = outlet.sender.buffer();
                    copy.copy_from(chunk);
                    take_unkeyed(outlet, &mut copy)?;
                }
                chunk.clear();
                Ok(())
            }
        }
    }
}

fn take_unkeyed<T: Record>(
    outlet: &mut Outlet<T>,
    chunk: &mut Chunk<T>,
) -> Result<(), OperatorError> {
    if chunk.len() >= WHOLE_CHUNK_RECORDS {
        return outlet.take(chunk);
    }
    for (record, time) in chunk.drain_unkeyed() {
        outlet.staged.push(record, time);
        if outlet.staged.is_full() {
            outlet.flush()?;
        }
    }
    Ok(())
}

impl<T: Record> Downstream for ExchangeWriter<T> {
    fn watermark(&mut self, watermark: Watermark) -> Result<Progress, OperatorError> {
        self.watermark = self.watermark.max(Some(watermark));
        Ok(Progress::Done)
    }

    fn status(&mut self, status: StreamStatus) -> Result<(), OperatorError> {
        self.flush()?;
        self.send_all(|| Element::Status(status))
    }

    fn end(&mut self) -> Result<Progress, OperatorError> {
        self.flush()?;
        self.send_all(|| Element::End)?;
        Ok(Progress::Done)
    }

    fn barrier(&mut self, barrier: &CheckpointBarrier) -> Result<(), OperatorError> {
        self.flush()?;
        self.send_all(|| Element::Barrier(*barrier))
    }

    fn turn(&mut self) -> Result<Progress, OperatorError> {
        self.channels
            .iter_mut()
            .try_for_each(|outlet| outlet.sender.drain())?;
        self.flush()?;
        Ok(Progress::Done)
    }

    fn collect(&mut self, _: &mut Collected) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn abort(&mut self) {}

    fn completed(&mut self, _: CheckpointId) -> Result<(), OperatorError> {
        Ok(())
    }

    fn next_deadline(&self) -> Option<ProcessingTime> {
        None
    }

    fn blocked(&self) -> Option<&str> {
        let blocked = self
            .channels
            .iter()
            .any(|outlet| outlet.sender.is_blocked());
        blocked.then_some(self.name.as_str())
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn report(&self, _: &mut Vec<OperatorReport>) {}

    fn sent_bytes(&self) -> u64 {
        let channels = self.channels.iter();
        channels.map(|outlet| outlet.sender.sent_bytes()).sum()
    }
}

#[cfg(test)]
mod tests;
