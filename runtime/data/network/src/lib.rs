//! Links between workers: one connection for each ordered pair, with all channels of an attempt on it.
//!
//! In reading order: who rings when there is something to send ([`bell`]), the drivers of the two sides of a connection
//! ([`link`]), how many bytes went over it ([`counted`]), how a connection says whose it is ([`hello`]), and the listener that brings
//! both together ([`plane`]).
//! Everything here runs at the rim and moves bytes; rows are encoded and decoded on slot threads, by `highwater-exchange`.
//!
//! The rule: a link works until its attempt ends, or it tells every channel why not. It is never mended: what was on its way
//! when a connection broke cannot be known, and the next attempt sends it again.

pub mod bell;
pub mod counted;
pub mod hello;
pub mod link;
pub mod plane;

pub use bell::Bell;
pub use counted::{LinkBoard, LinkBytes};
pub use hello::{Hello, Refusal};
pub use highwater_exchange::remote::Compression;
pub use link::{LinkEnd, LinkSettings, receive_side, send_side};
pub use plane::{DataPlane, Link, LinkKey, LinkNews};
