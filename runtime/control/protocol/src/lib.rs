//! The pure machines of checkpoint, recovery and sink commit.
//!
//! Layer 1: no clock, no randomness, no IO, no async. Each machine is a state, an event enum and one `step` that
//! changes the state and returns a list of effects; drivers in coordinator and worker perform them, and the simulator
//! performs them against a simulated world. In reading order: the words (paths, hashes, steps, stops), the head object
//! and its writes, manifests, then a checkpoint's life (alignment, checkpoint, sink slot), then recovery, then garbage.

pub mod alignment;
pub mod checkpoint;
pub mod election;
pub mod export;
pub mod gate;
pub mod gc;
pub mod hash;
pub mod head;
pub mod head_write;
pub mod job;
pub mod manifest;
pub mod mutant;
pub mod nonce;
pub mod paths;
pub mod placement;
pub mod recovery;
pub mod rescale;
pub mod sealed;
pub mod shared_files;
pub mod sink_slot;
pub mod source_start;
pub mod steps;
pub mod stop;
