use highwater_derive::Record;

#[derive(Clone, Record)]
struct Payment {
    #[record(default = "none")]
    amount: f64,
}

fn main() {}
