use highwater_derive::FromJson;

#[derive(FromJson)]
enum Shape {
    Circle(f64),
    Square { side: u32 },
}

fn main() {}
