use highwater_derive::Record;

#[derive(Clone, Record)]
enum Never {}

fn main() {}
