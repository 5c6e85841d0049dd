use highwater_derive::FromJson;

#[derive(FromJson)]
enum Status {
    Open,
    #[json(other)]
    Unknown,
    #[json(other)]
    Other(String),
}

fn main() {}
