//! A function goes to the threads of all subtasks: it may hold nothing of one thread.

use std::rc::Rc;

use highwater_api::StreamEnvironment;
use highwater_connectors::ElementsSource;

fn main() {
    let mut env = StreamEnvironment::new();
    let held = Rc::new(1u64);
    env.source("in", ElementsSource::new([1u64])).map(move |number| number + *held);
}
