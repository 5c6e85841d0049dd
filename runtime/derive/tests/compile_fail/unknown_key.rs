use highwater_derive::Record;

#[derive(Clone, Record)]
struct Payment {
    #[record(defualt)]
    amount: f64,
}

#[derive(Clone, Record)]
#[record(default)]
struct Whole {
    amount: f64,
}

fn main() {}
