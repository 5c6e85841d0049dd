use highwater_derive::FromJson;

#[derive(FromJson)]
struct Borrowed<'a> {
    text: &'a str,
}

fn main() {}
