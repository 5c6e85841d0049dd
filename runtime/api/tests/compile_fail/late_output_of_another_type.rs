//! Late records leave as they came: the tag has their type.

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;
use highwater_operators::OutputTag;
use highwater_window::Tumbling;

fn main() {
    let mut env = StreamEnvironment::new();
    let keyed = env.source("in", ElementsSource::new([1u64])).key_by(|number| *number);
    let late = OutputTag::<String>::new("late");
    let _late = keyed.window_of(Tumbling::try_new(1_000)).late_to(&late);
}
