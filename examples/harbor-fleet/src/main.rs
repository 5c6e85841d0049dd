//! The payment fraud scorer.

fn main() {}
