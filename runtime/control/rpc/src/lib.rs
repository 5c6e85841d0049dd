//! The control protocol between coordinator and workers, over gRPC.
//!
//! In reading order: the messages ([`message`]), who may join ([`identity`]), the coordinator's side ([`server`]) and the worker's side
//! ([`client`]). The rule: a connection is the only way to a worker. When it ends, the worker is lost to the coordinator, and the coordinator
//! to the worker; whichever side notices first says so.

pub mod client;
pub mod identity;
mod incoming;
pub mod message;
pub mod server;

mod proto {
    #![allow(
        missing_docs,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        unreachable_pub,
        unused_qualifications,
        reason = "generated from proto/control.proto, which says what it means"
    )]
    tonic::include_proto!("highwater.control.v1");
}

pub use client::{ConnectionEnd, Passing, Registration, WorkerConnection};
pub use identity::{Identity, Mismatch};
pub use server::{ConnectionSettings, ControlServer};
