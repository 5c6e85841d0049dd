use highwater_derive::FromJson;

#[derive(FromJson)]
#[json(rename_all = "Title Case")]
struct A {
    a: u8,
}

#[derive(FromJson)]
struct B {
    #[json(other)]
    b: u8,
}

#[derive(FromJson)]
struct C {
    #[json(skip, rename = "d")]
    c: u8,
}

#[derive(FromJson)]
struct D(#[json(default)] u8);

#[derive(FromJson)]
struct E {
    a: u8,
    #[json(rename = "a")]
    b: u8,
}

fn main() {}
