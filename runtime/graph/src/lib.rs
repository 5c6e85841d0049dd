//! From what a job's function built to what runs: stream graph, plan checks, chains, and how a plan is explained.
//!
//! Pure data: nodes hold facts, never code. In reading order: the stream graph that the API fills, the checks that refuse
//! it in the user's words, the job graph with its chains, the fingerprint that must agree between processes, and the
//! plan as text and Graphviz DOT.

pub mod check;
pub mod explain;
pub mod fingerprint;
pub mod job;
pub mod stream;

pub use check::{PlanDefaults, PlanError, PlanErrors, PlanWarning};
pub use explain::{PlanFormat, explain};
pub use fingerprint::GraphFingerprint;
pub use job::{JobGraph, JobVertex, Plan, VertexId};
pub use stream::{
    Edge, EdgeId, Node, NodeId, NodeKind, OutputName, Partitioning, SinkNote, SourceNote,
    StateNote, StreamGraph,
};
