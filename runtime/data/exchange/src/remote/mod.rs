//! Channels between workers. In reading order: how elements lie on a connection ([`frame`], [`codec`]), how much may be on its way
//! ([`credit`]), and the two ends with the ports that a link moves bytes between ([`ends`]).

pub mod codec;
pub mod credit;
pub mod ends;
pub mod frame;

pub use credit::Credit;
pub use ends::{
    InboundHandle, InboundPort, LinkBell, LinkLoss, OutboundHandle, OutboundPort, Overrun,
    RemoteReceiver, RemoteSender, inbound, outbound,
};
pub use frame::{ChannelIndex, Compression, Frame, FrameError, FrameKind, WireFrame};
