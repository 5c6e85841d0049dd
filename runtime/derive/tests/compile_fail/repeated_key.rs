use highwater_derive::Record;

#[derive(Clone, Record)]
struct Payment {
    #[record(rename = "a", rename = "b")]
    amount: f64,
}

fn main() {}
