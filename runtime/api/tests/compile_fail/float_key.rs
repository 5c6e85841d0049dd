//! A float is no key: it has no equality that a hash could keep.

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;

fn main() {
    let mut env = StreamEnvironment::new();
    env.source("in", ElementsSource::new([1.5f64])).key_by(|number| *number);
}
