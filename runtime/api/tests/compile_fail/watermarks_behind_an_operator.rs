//! Watermarks are made for each split, which only a source knows.

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;
use highwater_time::WatermarkStrategy;
use highwater_types::EventTime;

fn main() {
    let mut env = StreamEnvironment::new();
    let numbers = env.source("in", ElementsSource::new([1u64])).map(|number| number);
    numbers.watermarks(WatermarkStrategy::monotonous(), |_| EventTime(0));
}
