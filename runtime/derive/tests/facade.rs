//! The derives that the facade re-exports, used as its users do: `::highwater::types` is the only path they know.

extern crate self as highwater;

use highwater_derive::{FacadeKey as Key, FacadeRecord as Record};

/// The place at which the facade keeps the words of the engine.
pub mod types {
    pub use highwater_types::*;
}

/// A third place, for whoever renames the dependency.
mod renamed {
    pub(crate) use highwater_types as words;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
struct Order {
    #[record(default)]
    id: u64,
    lines: Wrapping,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
#[record(crate = "crate::renamed::words")]
enum Wrapping {
    Plain,
    Gift(String),
}

#[test]
fn facade_and_renamed_paths_give_the_same_traits() {
    let order = Order {
        id: 1,
        lines: Wrapping::Gift("x".to_owned()),
    };
    let mut bytes = Vec::new();
    types::Record::encode(&order, &mut bytes);
    let read = <Order as types::Record>::decode(&mut bytes.as_slice());
    assert_eq!(read, Ok(order.clone()));
    assert_ne!(
        types::Key::key_hash(&order.lines),
        types::Key::key_hash(&Wrapping::Plain)
    );
}
