use highwater_derive::Record;
use highwater_types::Record;

#[derive(Clone, Record)]
struct Wrapper<T>(T);

#[derive(Clone)]
struct Plain;

fn schema_of<T: Record>() {
    T::schema();
}

fn use_it() {
    schema_of::<Wrapper<Plain>>();
}

fn main() {}
