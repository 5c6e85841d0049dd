//! The fingerprint of a graph: equal in every process that runs the same program, so that a stranger is refused.

use std::fmt;
use std::fmt::Write as _;

use highwater_types::key::hash_bytes;

use crate::stream::{NodeKind, OutputName, StreamGraph};

/// XXH3-64 over a canonical text of operators, uids, schemas and edges. Parallelism is left out: it may change. How an
/// edge scatters is in it, also where that follows from parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphFingerprint(pub u64);

impl GraphFingerprint {
    /// The fingerprint of a graph.
    pub fn of(graph: &StreamGraph) -> Self {
        let mut text = String::new();
        for node in graph.nodes() {
            let name = graph.name(node.id);
            let key = node.key.as_deref().unwrap_or("-");
            let kind = match &node.kind {
                NodeKind::Source(facts) => format!("source {} {}", facts.reads, facts.boundedness),
                NodeKind::Sink(facts) => format!("sink {} {}", facts.writes, facts.guarantee),
                NodeKind::Operator => node.operator.clone(),
            };
            push(
                &mut text,
                format_args!("{name}|{kind}|{}|{}|{key}", node.detail, node.emits),
            );
            for state in &node.states {
                push(&mut text, format_args!("|{}:{}", state.name, state.shape));
            }
            for (tag, of) in &node.side_outputs {
                push(&mut text, format_args!("|{tag}>{of}"));
            }
            text.push('\n');
        }
        for edge in graph.edges() {
            let (from, to, how) = (edge.from.0, edge.to.0, &edge.partitioning);
            let output = match &edge.output {
                OutputName::Main => "",
                OutputName::Side(tag) => tag,
            };
            push(&mut text, format_args!("{from}>{to}|{output}|{how}\n"));
        }
        Self(hash_bytes(text.as_bytes()).0)
    }
}

fn push(text: &mut String, arguments: fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("a String takes everything");
}

impl fmt::Display for GraphFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
