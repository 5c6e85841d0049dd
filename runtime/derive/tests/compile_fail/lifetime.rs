use highwater_derive::Record;

#[derive(Clone, Record)]
struct Borrowed<'a> {
    text: &'a str,
}

fn main() {}
