use highwater_derive::{FromJson, ToJson};

struct Plain;

#[derive(FromJson, ToJson)]
struct Payment {
    plain: Plain,
}

fn main() {}
