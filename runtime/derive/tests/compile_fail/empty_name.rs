use highwater_derive::Record;

#[derive(Clone, Record)]
struct Payment {
    #[record(rename = "")]
    amount: f64,
}

fn main() {}
