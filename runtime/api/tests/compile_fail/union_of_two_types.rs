//! A union has one type.

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;

fn main() {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("numbers", ElementsSource::new([1u64])).stream();
    let texts = env.source("texts", ElementsSource::new(["a".to_owned()])).stream();
    let _all = numbers.union(&texts);
}
