//! How a plan is shown: as text for people, as Graphviz DOT for pictures. For programs it is the graph of the REST API, which the server makes.

use std::fmt::{self, Write as _};

use crate::job::{JobVertex, Plan};
use crate::stream::{Edge, Node, NodeKind, OutputName};

/// How to show a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanFormat {
    /// For people.
    Text,
    /// For Graphviz.
    Dot,
}

/// Shows a plan.
pub fn explain(plan: &Plan, format: PlanFormat) -> String {
    match format {
        PlanFormat::Text => text(plan),
        PlanFormat::Dot => dot(plan),
    }
}

struct Page(String);

impl Page {
    fn line(&mut self, arguments: fmt::Arguments<'_>) {
        self.0
            .write_fmt(arguments)
            .expect("a String takes everything");
        self.0.push('\n');
    }
}

fn text(plan: &Plan) -> String {
    let mut page = Page(String::new());
    let vertices = plan.job.vertices();
    let subtasks: u32 = vertices.iter().map(|vertex| vertex.parallelism.0).sum();
    page.line(format_args!(
        "{} tasks, {subtasks} subtasks, graph {}",
        vertices.len(),
        plan.fingerprint
    ));
    for vertex in vertices {
        page.line(format_args!(""));
        page.line(format_args!(
            "task {}: {}  (parallelism {} of {})",
            vertex.id.0,
            plan.task_name(vertex.id),
            vertex.parallelism,
            vertex.max_parallelism
        ));
        for node in &vertex.nodes {
            node_lines(plan, plan.graph.node(*node), &mut page);
        }
        for edge in &vertex.outputs {
            page.line(format_args!(
                "  => {}",
                exchange(plan, vertex, plan.graph.edge(*edge))
            ));
        }
    }
    if !plan.warnings.is_empty() {
        page.line(format_args!(""));
        for warning in &plan.warnings {
            page.line(format_args!("warning: {warning}"));
        }
    }
    page.0
}

fn node_lines(plan: &Plan, node: &Node, page: &mut Page) {
    let mut about = node.operator.clone();
    match &node.kind {
        NodeKind::Source(facts) => {
            about = format!("source: {}, {}", facts.reads, facts.boundedness);
            let watermarks = facts.watermarks.as_deref().unwrap_or("no watermarks");
            about = format!("{about}; {watermarks}; {}", facts.refused);
        }
        NodeKind::Sink(facts) => about = format!("sink: {}, {}", facts.writes, facts.guarantee),
        NodeKind::Operator => {}
    }
    if !node.detail.is_empty() {
        about = format!("{about}: {}", node.detail);
    }
    page.line(format_args!("  {:<24} {about}", plan.uid(node.id).as_str()));
    if let Some(key) = &node.key {
        page.line(format_args!("  {:<24}   key {key}", ""));
    }
    for state in &node.states {
        page.line(format_args!(
            "  {:<24}   state {}: {}",
            "", state.name, state.shape
        ));
    }
}

/// What an exchange does and costs.
fn exchange(plan: &Plan, from: &JobVertex, edge: &Edge) -> String {
    let to = plan.job.vertex(plan.job.vertex_of(edge.to));
    let channels = match edge.partitioning {
        crate::stream::Partitioning::Forward => from.parallelism.0,
        _ => from.parallelism.0 * to.parallelism.0,
    };
    let output = match &edge.output {
        OutputName::Main => String::new(),
        OutputName::Side(tag) => format!("side output `{tag}` "),
    };
    format!(
        "{output}{} to task {} ({channels} channels)",
        edge.partitioning, to.id.0
    )
}

fn dot(plan: &Plan) -> String {
    let mut page = Page(String::new());
    page.line(format_args!("digraph job {{"));
    page.line(format_args!("  rankdir=LR; node [shape=box];"));
    for vertex in plan.job.vertices() {
        page.line(format_args!("  subgraph cluster_{} {{", vertex.id.0));
        page.line(format_args!(
            "    label=\"task {} x {}\";",
            vertex.id.0, vertex.parallelism
        ));
        for id in &vertex.nodes {
            let operator = &plan.graph.node(*id).operator;
            page.line(format_args!(
                "    n{} [label=\"{}\\n{operator}\"];",
                id.0,
                plan.uid(*id)
            ));
        }
        page.line(format_args!("  }}"));
    }
    for edge in plan.graph.edges() {
        let style = if plan.job.is_chained(edge.id) {
            " style=bold"
        } else {
            ""
        };
        page.line(format_args!(
            "  n{} -> n{} [label={:?}{style}];",
            edge.from.0,
            edge.to.0,
            edge.partitioning.to_string()
        ));
    }
    page.line(format_args!("}}"));
    page.0
}
