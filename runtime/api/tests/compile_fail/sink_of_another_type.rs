//! A sink takes records of its own type.

use highwater_api::StreamEnvironment;
use highwater_connectors::{CollectSink, ElementsSource};

fn main() {
    let mut env = StreamEnvironment::new();
    let (sink, _) = CollectSink::<String>::at_least_once();
    env.source("in", ElementsSource::new([1u64])).sink("out", sink);
}
