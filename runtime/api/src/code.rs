//! The code of a job, type-erased: what the typed builders leave behind and slot threads instantiate.
//!
//! The graph describes; this holds the closures. Both are made by the same run of the job's function, in every process,
//! so no code travels. Types meet again by downcast, once per task and never on the record's path.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use highwater_connectors::{
    BadInput, ConnectorError, OutputTarget, SinkFacts, SourceFacts, SplitEnumerator, WakeHandle,
    WriterContext,
};
use highwater_exchange::remote::{ChannelIndex, Compression, InboundPort, LinkBell, OutboundPort};
use highwater_exchange::{
    ChannelReceiver, ChannelSender, ExchangeWriter, Gate, InputGate, Partitioner, channel, remote,
};
use highwater_operators::{
    OperatorContext, OperatorError, OutputQueue, Outputs, Port, Push, SidePort, SourceInput,
};
use highwater_types::{Chunk, MaxParallelism, Record, SubtaskIndex};

/// A piece of chain of some record type.
pub struct ErasedPush(Box<dyn Any>);

impl ErasedPush {
    /// Forgets the type.
    pub fn new<T: Record>(push: Box<dyn Push<T>>) -> Self {
        Self(Box::new(push))
    }

    /// Remembers the type.
    ///
    /// # Panics
    /// If it is another: the typed builder made both ends of the edge.
    pub fn typed<T: Record>(self) -> Box<dyn Push<T>> {
        *self
            .0
            .downcast()
            .expect("the builder joins ports of one type")
    }
}

/// The sending or receiving end of a channel of some record type, on its way to a slot thread.
pub type ErasedEnd = Box<dyn Any + Send>;

/// The outputs of a node, before its type is remembered.
#[derive(Default)]
pub struct ErasedOutputs {
    /// The receivers of the main output.
    pub main: Vec<ErasedPush>,
    /// Side outputs: tag, type and receivers.
    pub sides: Vec<(String, Arc<dyn StreamType>, Vec<ErasedPush>)>,
}

impl ErasedOutputs {
    /// The outputs of a node that emits `T`.
    pub fn typed<T: Record>(self) -> Outputs<T> {
        let main = self.main.into_iter().map(ErasedPush::typed).collect();
        let sides = self
            .sides
            .into_iter()
            .map(|(tag, of, targets)| (tag, of.port(targets)));
        Outputs::new(Port::new(main), sides.collect())
    }
}

/// What must be known of a record type to join tasks: made for every stream by the builder.
pub trait StreamType: Send + Sync {
    /// Makes a channel.
    fn channel(&self, wake_sender: WakeHandle, wake_receiver: WakeHandle)
    -> (ErasedEnd, ErasedEnd);

    /// Makes the sending end of a channel to another worker, and the port of its link.
    fn outbound(
        &self,
        channel: ChannelIndex,
        bell: Arc<dyn LinkBell>,
        wake: WakeHandle,
        compression: Compression,
    ) -> (ErasedEnd, OutboundPort);

    /// Makes the receiving end of a channel from another worker, and the port of its link.
    fn inbound(
        &self,
        channel: ChannelIndex,
        bell: Arc<dyn LinkBell>,
        wake: WakeHandle,
    ) -> (ErasedEnd, InboundPort);

    /// Joins receiving ends and the head of a chain.
    fn gate(&self, receivers: Vec<ErasedEnd>, head: ErasedPush) -> Box<dyn InputGate>;

    /// A port with these receivers.
    fn port(&self, targets: Vec<ErasedPush>) -> Box<dyn SidePort>;
}

/// The [`StreamType`] of `T`.
pub struct TypeOf<T>(PhantomData<fn() -> T>);

impl<T: Record> TypeOf<T> {
    /// Makes it.
    pub fn shared() -> Arc<dyn StreamType> {
        Arc::new(Self(PhantomData))
    }
}

fn ends<E: Any>(ends: Vec<ErasedEnd>) -> Vec<E> {
    let typed = |end: ErasedEnd| *end.downcast().expect("a channel has one type");
    ends.into_iter().map(typed).collect()
}

impl<T: Record> StreamType for TypeOf<T> {
    fn channel(
        &self,
        wake_sender: WakeHandle,
        wake_receiver: WakeHandle,
    ) -> (ErasedEnd, ErasedEnd) {
        let (sender, receiver) = channel::<T>(wake_sender, wake_receiver);
        (Box::new(sender), Box::new(receiver))
    }

    fn outbound(
        &self,
        channel: ChannelIndex,
        bell: Arc<dyn LinkBell>,
        wake: WakeHandle,
        compression: Compression,
    ) -> (ErasedEnd, OutboundPort) {
        let (sender, port) = remote::outbound::<T>(channel, bell, wake, compression);
        (Box::new(ChannelSender::from(sender)), port)
    }

    fn inbound(
        &self,
        channel: ChannelIndex,
        bell: Arc<dyn LinkBell>,
        wake: WakeHandle,
    ) -> (ErasedEnd, InboundPort) {
        let (receiver, port) = remote::inbound::<T>(channel, bell, wake);
        (Box::new(ChannelReceiver::from(receiver)), port)
    }

    fn gate(&self, receivers: Vec<ErasedEnd>, head: ErasedPush) -> Box<dyn InputGate> {
        Box::new(Gate::<T>::new(
            ends::<ChannelReceiver<T>>(receivers),
            head.typed(),
        ))
    }

    fn port(&self, targets: Vec<ErasedPush>) -> Box<dyn SidePort> {
        Box::new(Port::<T>::new(
            targets.into_iter().map(ErasedPush::typed).collect(),
        ))
    }
}

/// Computes the key hashes of a chunk.
pub type SharedRekey<T> = Arc<dyn Fn(&mut Chunk<T>) + Send + Sync>;

/// How an edge scatters, with the code of its key.
pub enum Scatter<T> {
    /// By key group; computes the key hashes of a chunk.
    Hash(SharedRekey<T>),
    /// To the subtask of the same index.
    Forward,
    /// In turn.
    Rebalance,
    /// To every subtask.
    Broadcast,
    /// To subtask 0.
    Global,
}

/// The code of one edge.
pub trait EdgeCode: Send + Sync {
    /// The writer of one sending subtask over `senders`, one for each receiving subtask (forward: one).
    fn writer(&self, receiver: &str, senders: Vec<ErasedEnd>, from: Sending) -> ErasedPush;
}

/// Who sends on an edge.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// The sending subtask.
    pub subtask: SubtaskIndex,
    /// The number of key groups of the receiving operator.
    pub max_parallelism: MaxParallelism,
}

/// An edge that carries `T`.
pub struct EdgeOf<T>(pub Scatter<T>);

impl<T: Record> EdgeCode for EdgeOf<T> {
    fn writer(&self, receiver: &str, senders: Vec<ErasedEnd>, from: Sending) -> ErasedPush {
        let partitioner = match &self.0 {
            Scatter::Hash(rekey) => {
                let rekey = Arc::clone(rekey);
                Partitioner::Hash {
                    rekey: Box::new(move |chunk| rekey(chunk)),
                    max_parallelism: from.max_parallelism,
                }
            }
            Scatter::Forward => Partitioner::Forward,
            Scatter::Rebalance => Partitioner::Rebalance,
            Scatter::Broadcast => Partitioner::Broadcast,
            Scatter::Global => Partitioner::Global,
        };
        let senders = ends::<ChannelSender<T>>(senders);
        let writer = ExchangeWriter::new(receiver, senders, partitioner);
        ErasedPush::new::<T>(Box::new(writer.starting_at(from.subtask.0 as usize)))
    }
}

/// Builds one subtask of an operator in front of its outputs, on the slot thread.
pub type OperatorCode =
    Arc<dyn Fn(&OperatorContext, ErasedOutputs) -> Result<ErasedPush, OperatorError> + Send + Sync>;

/// The code of a source.
pub trait SourceCode: Send + Sync {
    /// What a plan shows.
    fn facts(&self) -> SourceFacts;

    /// What the source refuses.
    fn bad_input(&self) -> BadInput;

    /// The split finder, for the coordinator.
    fn enumerator(&self) -> Result<Box<dyn SplitEnumerator>, ConnectorError>;

    /// The reader of one subtask in front of its outputs, on the slot thread.
    fn input(
        &self,
        context: &OperatorContext,
        outputs: ErasedOutputs,
    ) -> Result<Box<dyn SourceInput>, OperatorError>;
}

/// The code of a sink.
pub trait SinkCode: Send + Sync {
    /// What a plan shows.
    fn facts(&self) -> SinkFacts;

    /// The output target of one slot; `None` = the sink writes at once.
    fn target(
        &self,
        context: &WriterContext,
    ) -> Result<Option<Box<dyn OutputTarget>>, ConnectorError>;

    /// The sink operator of one subtask. `queue` leads to the output target, where there is one.
    fn operator(
        &self,
        context: &OperatorContext,
        writer: &WriterContext,
        queue: Option<Box<dyn OutputQueue>>,
    ) -> Result<ErasedPush, OperatorError>;
}

/// The code of one node.
#[derive(Clone)]
pub enum NodeCode {
    /// A source.
    Source(Arc<dyn SourceCode>),
    /// An operator between source and sink.
    Operator(OperatorCode),
    /// A sink.
    Sink(Arc<dyn SinkCode>),
}
