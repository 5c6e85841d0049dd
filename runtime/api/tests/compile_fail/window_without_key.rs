//! Windows are kept by key: a stream that is not keyed has none.

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;
use highwater_window::Tumbling;

fn main() {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("in", ElementsSource::new([1u64])).stream();
    numbers.window_of(Tumbling::try_new(1_000));
}
