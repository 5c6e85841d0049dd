use highwater_derive::Record;

#[derive(Clone, Record)]
struct Payment {
    amount: f64,
    #[record(rename = "amount")]
    total: f64,
}

#[derive(Clone, Record)]
enum Status {
    Open,
    #[record(rename = "Open")]
    Closed,
}

fn main() {}
