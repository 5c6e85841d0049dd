use highwater_derive::Record;

#[derive(Clone)]
struct Plain;

#[derive(Clone, Record)]
struct Payment {
    plain: Plain,
}

fn main() {}
