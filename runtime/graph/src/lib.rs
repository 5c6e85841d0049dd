//! Stream graph, job graph with chains, execution graph, and how they are explained.
