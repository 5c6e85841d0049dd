use highwater_derive::ToJson;

#[derive(ToJson)]
struct Pair(u8, u8);

#[derive(ToJson)]
struct Unit;

fn main() {}
