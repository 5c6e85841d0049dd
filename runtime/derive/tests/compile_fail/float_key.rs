use highwater_derive::{Key, Record};

#[derive(Clone, Record, Key)]
struct Amount(f64);

fn main() {}
