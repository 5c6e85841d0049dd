//! What flows is a record: a type without a schema cannot leave a map.

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;

struct Plain;

fn main() {
    let mut env = StreamEnvironment::new();
    env.source("in", ElementsSource::new([1u64])).map(|_| Plain);
}
