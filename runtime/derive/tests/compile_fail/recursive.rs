use highwater_derive::Record;

#[derive(Clone, Record)]
struct Tree {
    children: Vec<Tree>,
}

#[derive(Clone, Record)]
enum List {
    End,
    More(u8, Option<Self>),
}

fn main() {}
